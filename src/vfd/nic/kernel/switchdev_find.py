"""The control surfaces of a PF whose embedded switch is in switchdev mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vfd.nic.kernel import representors
from vfd.nic.kernel.devlink import Devlink
from vfd.nic.kernel.devlink_rate import DevlinkRate
from vfd.nic.kernel.drivers import Driver
from vfd.nic.kernel.flower_netlink import Tc
from vfd.nic.kernel.rtnl import Rtnetlink
from vfd.nic.kernel.sriov import PciPf
from vfd.nic.kernel.surface import PfSurface, Surface
from vfd.nic.kernel.switchdev import SwitchdevSurface
from vfd.nic.kernel.switchdev_netdevs import Netdevs
from vfd.nic.kernel.switchdev_record import recorded
from vfd.nic.kernel.vfinfo import NO_MAC
from vfd.nic.netlink import Netlink, NetlinkError
from vfd.nic.protocol import PF_PORT, NicError
from vfd.policy.values import PfPolicy

_LINK_IS_REPRESENTORS = ("mlx5_core", "ice")
"""Drivers that set a VF's link with its representor (kernel 6.12: mlx5 en_rep.c, mlx5e_rep_open
and _close; ice_repr.c, ice_repr_open and _stop). mlx5 refuses rtnetlink's link state in this mode
(eswitch.c, mlx5_eswitch_set_vport_state), and with ice the last writer would win."""


def find_eswitch(
    pf: PfPolicy, device: PciPf, netlink: Netlink, index: int, driver: Driver
) -> tuple[list[Surface], list[PfSurface]] | None:
    """The surfaces, strongest first; None where the PF is not in switchdev mode.

    vfd does not change the mode: it is the administrator's (``devlink dev eswitch set``), and a
    change takes all VFs' netdevs away. Raises NicError.
    """
    devlink = _opened(device)
    if devlink is None:
        return None
    if not devlink.in_switchdev_mode():
        devlink.close()
        _clear(netlink, index)
        return None
    has_rates = bool(devlink.rates())
    link_limit = None if driver.link_state else "off: nothing passes, but the link shows up"
    if device.driver() in _LINK_IS_REPRESENTORS:
        link_limit = "auto is as on: the link of an open VF is up, whatever the wire does"
    # What VFs may send is the rules' affair here: the drivers refuse the legacy switch's settings
    # (mlx5 esw/legacy.c, ice_sriov.c).
    left = replace(
        driver,
        vlan_tpids=(),
        spoofchk=False,
        trust=False,
        link_state=driver.link_state and link_limit is None,
        max_tx_rate=driver.max_tx_rate and not has_rates,
        min_tx_rate=driver.min_tx_rate and not has_rates,
    )
    rtnetlink = Rtnetlink(netlink, index, left)

    def own_macs() -> Mapping[int, str]:
        macs = {vfid: settings.mac for vfid, settings in rtnetlink.settings().items()}
        return {vfid: mac for vfid, mac in macs.items() if mac not in (None, NO_MAC)}

    switchdev = SwitchdevSurface(
        Tc(netlink),
        Netdevs(netlink),
        pf,
        lambda: representors.find(index, devlink.ports()),
        own_macs,
        link_limit=link_limit,
    )
    rates: list[Surface] = [DevlinkRate(devlink, devlink.ports)] if has_rates else []
    return [switchdev, *rates, rtnetlink], [switchdev]


def in_switchdev_mode(device: PciPf) -> bool:
    """Now. Raises NicError."""
    devlink = _opened(device)
    if devlink is None:
        return False
    try:
        return devlink.in_switchdev_mode()
    finally:
        devlink.close()


def _clear(netlink: Netlink, uplink: int) -> None:
    """Removes what vfd's rules left at the uplink when the mode was changed: representors take
    theirs along, and a rule that sends frames to one of them drops them now, the host's too."""
    tc, ports = Tc(netlink), {PF_PORT: uplink}
    try:
        found = tc.read(ports)
        if recorded(PF_PORT, found.rules) is not None:
            tc.evict([*found.foreign, *found.own()], ports)
    except NetlinkError as error:
        raise NicError(f"removing the flower rules of switchdev mode: {error.strerror}") from error


def _opened(device: PciPf) -> Devlink | None:
    """None: a kernel without devlink."""
    try:
        return Devlink(device.path.parent.parent.name, device.address)
    except NicError:
        return None
