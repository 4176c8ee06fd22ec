"""One VF of the model of Intel's interface: what the driver holds of it, and the files that touch
nothing but it. Sources as in ``lab.models.intel``: R, K and V.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

from lab.models.files import File, Tree, refuse
from lab.models.text import parse_edit, parse_flag, parse_mac, parse_macs, parse_number, show_flag

CLASSES = 8
MAC_FILTERS = 227
"""PAGE_SIZE / 18 MAC filters fit a VF; further ones are dropped with a line in the log only (V)."""
EBADMAC = 10
"""I40E_ERR_INVALID_MAC_ADDR, which reaches the writer as errno 10 (V)."""
BROADCAST = "ff:ff:ff:ff:ff:ff"
NO_MAC = "00:00:00:00:00:00"
LINKS = ("auto", "enable", "disable")
"""In the order of IFLA_VF_LINK_STATE."""
STATS = (
    "rx_bytes", "rx_packets", "rx_dropped", "tx_bytes", "tx_packets", "tx_dropped", "tx_errors",
)  # fmt: skip


@dataclass(slots=True)
class Vf:
    """What the driver holds of one VF; the defaults are those of a VF just created (V)."""

    number: int
    mac: str
    trunk: set[int] = field(default_factory=set)
    vlan_mirror: set[int] = field(default_factory=set)
    egress_mirror: int | None = None
    ingress_mirror: int | None = None
    mirror_rules: list[tuple[str, int]] = field(default_factory=list)
    """The rules in the switch. Adding a target over another leaves the old rule there (V)."""
    mac_anti_spoof: bool = True
    vlan_anti_spoof: bool = False
    allow_untagged: bool = True
    allow_bcast: bool = True
    loopback: bool = True
    macs: list[str] = field(default_factory=list)
    promisc: set[str] = field(default_factory=set)
    vlan_strip: bool = True
    strips: bool = True
    """Whether the hardware strips: writing a trunk turns it on behind ``vlan_strip`` (V)."""
    enable: bool = True
    link: str = "auto"
    max_tx_rate: int = 0
    trust: bool = False
    num_queues: int = 4
    port_vlan: int = 0
    bw_share: int = 0
    """``qos/share``: of the whole VF, for class 0 only (R)."""
    bw_share_applied: bool = False
    resets: int = 0
    exposed: int = 0
    """Commands after which the VF was on without a trunk or a port VLAN: every VLAN passed."""
    requested_share: list[int] = field(default_factory=lambda: [0] * CLASSES)
    applied_share: list[int] = field(default_factory=lambda: [0] * CLASSES)
    tc_rate: list[int] = field(default_factory=lambda: [0] * CLASSES)
    counters: dict[str, int] = field(default_factory=dict)

    def reset(self) -> None:
        """A VF reset: the driver puts its own settings back, so only the guest notices (V)."""
        self.resets += 1
        self.strips = self.vlan_strip


def own_files(vf: Vf) -> Tree:
    """The files of ``vf`` that depend on nothing else of the device."""

    def flag(name: str, after: Callable[[Vf], None] = lambda _: None) -> File:
        def store(text: str) -> None:
            value = parse_flag(text)
            if value != getattr(vf, name):  # unchanged values never reach the device (K)
                setattr(vf, name, value)
                after(vf)

        return File(lambda: show_flag(getattr(vf, name)), store)

    def strip_follows(changed: Vf) -> None:
        changed.strips = changed.vlan_strip

    return {
        "mac_anti_spoof": flag("mac_anti_spoof"),
        "vlan_anti_spoof": flag("vlan_anti_spoof"),
        "allow_untagged": flag("allow_untagged"),
        "allow_bcast": flag("allow_bcast", _broadcast_filter),
        "loopback": flag("loopback"),
        "mac": File(lambda: vf.mac + "\n", lambda text: _store_mac(vf, text)),
        "mac_list": File(lambda: _show_macs(vf), lambda text: _store_macs(vf, text)),
        "promisc": File(lambda: _show_promisc(vf), lambda text: _store_promisc(vf, text)),
        "vlan_strip": flag("vlan_strip", strip_follows),
        "enable": flag("enable", _enabled_or_disabled),
        "link_state": File(lambda: _show_link(vf), lambda text: _store_link(vf, text)),
        "min_tx_rate": File(_unsupported, _unsupported_store),
        "trust": flag("trust"),
        "queue_type": File(lambda: "0\n", _unsupported_store),
        "num_queues": File(lambda: f"{vf.num_queues}\n", lambda text: _store_queues(vf, text)),
        "stats": {
            **{name: File(_counter(vf, name)) for name in STATS},
            "tx_spoofed": File(_unsupported),
        },
        "reset_stats": File(store=lambda text: _reset_stats(vf, text)),
    }


def ip_link_set(vf: Vf, words: list[str]) -> None:
    """What ``ip link set PF vf N`` makes of the VF, through the driver's VF operations (V)."""
    match words:
        case ["mac", mac]:
            _set_mac(vf, parse_mac(mac))
        case ["vlan", vid, _qos, _proto]:
            set_port_vlan(vf, parse_number(vid))
        case ["rate", _minimum, maximum]:
            vf.max_tx_rate = parse_number(maximum)
        case ["spoofchk", on]:
            vf.mac_anti_spoof = on == "1"
        case ["trust", on]:
            vf.trust = on == "1"
        case ["state", number]:
            _store_link(vf, LINKS[parse_number(number)])
        case _:
            raise refuse(errno.EINVAL)


def set_port_vlan(vf: Vf, vid: int) -> None:
    """V, i40e_ndo_set_vf_port_vlan: the port VLAN replaces the trunk; ending it empties it."""
    if vid != vf.port_vlan:
        vf.port_vlan = vid
        vf.trunk = {vid} if vid else set()
        vf.allow_untagged = not vid


def watched(vf: Vf, files: Tree) -> Tree:
    """The files, with an eye on what the VF can do after each command."""

    def seen(file: File | Tree) -> File | Tree:
        if not isinstance(file, File) or file.store is None:
            return file
        taken = file.store

        def store(text: str) -> None:
            taken(text)
            if vf.enable and vf.link != "disable" and not vf.trunk and not vf.port_vlan:
                vf.exposed += 1

        return File(file.show, store)

    return {name: seen(file) for name, file in files.items()}


def _unsupported() -> str:
    raise refuse(errno.EOPNOTSUPP)


def _unsupported_store(_: str) -> None:
    raise refuse(errno.EOPNOTSUPP)


def _enabled_or_disabled(vf: Vf) -> None:
    """R: enabling resets the VF. V: disabling forces its link down, enabling makes it ``auto``."""
    vf.link = "auto" if vf.enable else "disable"
    if vf.enable:
        vf.reset()


def _broadcast_filter(vf: Vf) -> None:
    if vf.allow_bcast:
        vf.macs.append(BROADCAST)
    else:
        vf.macs.remove(BROADCAST)


def _counter(vf: Vf, name: str) -> Callable[[], str]:
    return lambda: f"{vf.counters.get(name, 0)}\n"


def _show_link(vf: Vf) -> str:
    """K: whether the link is up and its speed; ``auto`` is not told from ``enable``."""
    return "down\n" if vf.link == "disable" else "up, 10 Gbps\n"


def _store_mac(vf: Vf, text: str) -> None:
    _set_mac(vf, parse_mac(text))


def _set_mac(vf: Vf, mac: str) -> None:
    if mac == NO_MAC:  # V: the forced MAC goes, and its filter
        vf.macs = [known for known in vf.macs if known != vf.mac]
        vf.mac = mac
    elif vf.mac == NO_MAC:
        vf.macs.append(mac)
        vf.mac = mac
    elif mac != vf.mac:
        vf.macs = [mac if known == vf.mac else known for known in vf.macs]
        vf.mac = mac


def _show_macs(vf: Vf) -> str:
    """V: every MAC filter of the VF: broadcast, its default MAC, its guest's, in no order."""
    return ",".join(vf.macs) + "\n" if vf.macs else ""


def _store_macs(vf: Vf, text: str) -> None:
    adding, rest = parse_edit(text)
    for mac in parse_macs(rest):
        if adding and mac not in vf.macs:
            if len(vf.macs) < MAC_FILTERS:
                vf.macs.append(mac)
        elif not adding:
            if mac not in vf.macs:
                raise refuse(EBADMAC)
            vf.macs.remove(mac)


def _show_promisc(vf: Vf) -> str:
    return (", ".join(mode for mode in ("ucast", "mcast") if mode in vf.promisc) or "off") + "\n"


def _store_promisc(vf: Vf, text: str) -> None:
    adding, mode = parse_edit(text)
    if mode.strip() not in ("ucast", "mcast"):
        raise refuse(errno.EINVAL)
    vf.promisc = vf.promisc | {mode.strip()} if adding else vf.promisc - {mode.strip()}


def _store_link(vf: Vf, text: str) -> None:
    if text not in LINKS:
        raise refuse(errno.EINVAL)
    vf.link = text


def _store_queues(vf: Vf, text: str) -> None:
    queues = parse_number(text)
    if not 1 <= queues <= 16:
        raise refuse(errno.EINVAL)
    vf.num_queues = queues
    vf.resets += 1


def _reset_stats(vf: Vf, text: str) -> None:
    if parse_number(text) != 1:
        raise refuse(errno.EINVAL)
    vf.counters.clear()
