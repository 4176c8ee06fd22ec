"""The MACs that VFs' netdevs wear on this host, and those netdevs that wear one that isn't theirs.

A MAC that the PF takes back stays on the VF's netdev. igbvf, ixgbevf and mlx5 ask for theirs only
when they bind; iavf and bnxt_en keep what they have when they are told of none
(iavf_virtchnl_completion, VIRTCHNL_OP_GET_VF_RESOURCES; bnxt_update_vf_mac). The next tenant would
wear the MAC of the one before, which another VF may own by now. A driver that binds while none is
forced chooses a random one, so an idle VF is bound anew.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from vfd.nic.kernel.drivers import Driver
from vfd.nic.kernel.guests import VFIO, guests_of, is_on_netdev
from vfd.nic.kernel.ours import Ours
from vfd.nic.kernel.sriov import (
    DRIVERS,
    NETDEVS,
    PciPf,
    VfDevice,
    override_of,
    probe,
    set_override,
    write_patiently,
)
from vfd.nic.protocol import NicError
from vfd.plan.plan import owned
from vfd.policy.values import NicPolicy, VfPolicy, VfRules

log = logging.getLogger("vfd.nic")

GIVEN, RANDOM = 0, 1
"""``addr_assign_type``: the PF gave the MAC (NET_ADDR_PERM), the driver chose it (NET_ADDR_RANDOM).
Others are a user's."""


@dataclass(frozen=True, slots=True)
class Worn:
    """What a VF's netdev wears."""

    mac: str = ""
    kind: int | None = None
    """None: it is in another namespace."""


def worn_by(vf: VfDevice) -> Worn:
    try:
        kind = int((NETDEVS / vf.netdev / "addr_assign_type").read_text())
        return Worn((NETDEVS / vf.netdev / "address").read_text().strip(), kind)
    except (OSError, ValueError):
        return Worn()


def is_foreign(
    worn: Worn, before: VfRules | None, after: VfRules | None, driver: Driver, *, had_tenant: bool
) -> bool:
    """Whether the netdev's MAC isn't the VF's any more (or not yet) once it went from rules to
    rules (None: closed). ``had_tenant``: a configuration had the VF before."""
    if after is not None and after.vm_mac:
        return driver.mac_needs_rebind and worn.mac != after.vm_mac
    if after is None:
        used = had_tenant or worn.kind != RANDOM
        return before is not None and (used or bool(before.vlans))
    was_forced = before is not None and before.vm_mac is not None
    return worn.kind == GIVEN or (worn.kind is None and was_forced)


def forced_by(policies: Iterable[VfPolicy]) -> Mapping[int, frozenset[str]]:
    """The MACs that configurations force, by VF; there may be several for one."""
    found: dict[int, frozenset[str]] = {}
    for vf in policies:
        macs = frozenset({vf.forced_mac} if vf.forced_mac else ())
        found[vf.vfid] = found.get(vf.vfid, frozenset()) | macs
    return found


class Wardrobe:
    """Binds anew the VFs whose netdevs wear a foreign MAC: idle ones at once, a guest's when it
    lets go."""

    def __init__(self, ours: Ours) -> None:
        self._ours = ours
        self._left: dict[int, str | None] = {}
        """VFs whose guest still wears such a MAC, and the one that is forced instead."""

    @property
    def left(self) -> frozenset[int]:
        return frozenset(self._left)

    def adopt(
        self,
        pf: PciPf,
        driver: Driver,
        shown: Mapping[int, VfRules | None],
        configured: Collection[int],
    ) -> frozenset[int]:
        """Finishes what was cut short; a VF without a configuration closes, if it isn't closed.
        Returns those that were bound anew."""
        bound = {vf.vfid for vf in self._ours.of(pf.vfs()) if _finish_binding(vf)}
        for vf in self._ours.of(pf.vfs()):
            rules = shown.get(vf.vfid)
            is_open = vf.vfid in configured or (rules and rules.vm_mac)
            after = rules if is_open else None
            is_one = is_foreign(worn_by(vf), VfRules(), after, driver, had_tenant=False)
            if is_one and self.change(vf, after.vm_mac if after else None):
                bound.add(vf.vfid)
        return frozenset(bound)

    def follow(
        self,
        pf: PciPf,
        driver: Driver,
        desired: NicPolicy,
        steps: Mapping[int, tuple[VfRules | None, VfRules | None]],
        configured: Collection[int],
    ) -> frozenset[int]:
        """VFs went from rules to rules. ``configured``: those that had a configuration before.
        Returns those that were bound anew."""
        bound: set[int] = set()
        for vf in pf.vfs(steps):
            old, new = steps[vf.vfid]
            had_tenant = vf.vfid in configured
            is_one = is_foreign(worn_by(vf), old, new, driver, had_tenant=had_tenant)
            if is_one and self.change(vf, new.vm_mac if new else None):
                bound.add(vf.vfid)
        taken = frozenset[str]().union(*(owned(new) - owned(old) for old, new in steps.values()))
        forced = {vf.vfid: vf.vm_mac for vf in desired.vfs}
        for vf in self._ours.of(pf.vfs()) if taken else ():
            is_one = vf.vfid not in steps and worn_by(vf).mac in taken
            if is_one and self.change(vf, forced.get(vf.vfid)):
                bound.add(vf.vfid)
        return frozenset(bound)

    def change(self, vf: VfDevice, forced: str | None) -> bool:
        """The VF's netdev is to wear ``forced``, or none that was anybody's. Whether the VF was
        bound anew."""
        self._left.pop(vf.vfid, None)
        if not is_on_netdev(vf):
            return False  # a driver that gives it a netdev asks for the MAC then
        if vf.netdev and not _is_held(vf):
            return _bind_anew(vf)
        self._left[vf.vfid] = forced
        log.warning("%s keeps a MAC that isn't its own until its guest lets go", vf.address)
        return False

    def let_go(self, vf: VfDevice) -> bool:
        """The VF's guest is gone. Whether the VF was bound anew."""
        if vf.vfid not in self._left or (vf.netdev and _is_held(vf)):
            return False
        forced = self._left[vf.vfid]
        if forced is not None and worn_by(vf).mac == forced:
            del self._left[vf.vfid]
            return False
        return self.change(vf, forced)

    def bound(self, vfid: int) -> None:
        """Some driver bound the VF: it has asked for its MAC."""
        self._left.pop(vfid, None)


def _is_held(vf: VfDevice) -> bool:
    return guests_of([vf])[vf.vfid].held


def _bind_anew(vf: VfDevice) -> bool:
    """Whether the VF was unbound. Meanwhile its ``driver_override`` says what it is to have again:
    to ``_finish_binding``, if we are killed now."""
    driver = DRIVERS / vf.driver
    was_free = not override_of(vf.address)
    try:
        if was_free:
            set_override(vf.address, vf.driver)
        write_patiently(driver / "unbind", vf.address)
    except NicError as error:
        log.warning("%s keeps a MAC that isn't its own any more: %s", vf.address, error)
        _let_any_bind(vf, was_free)
        return False
    try:
        write_patiently(driver / "bind", vf.address)
    except NicError as error:
        log.warning("%s was to be bound anew and has no driver now: %s", vf.address, error)
    _let_any_bind(vf, was_free)
    return True


def _finish_binding(vf: VfDevice) -> bool:
    """Binds a VF that a daemon was killed over in ``_bind_anew``. Whether it was one."""
    driver = "" if vf.driver else override_of(vf.address)
    if not driver or driver == VFIO or "uio" in driver:  # those are a VM manager's, at work on it
        return False
    try:
        probe(vf.address)
    except NicError as error:
        log.warning("%s was to be bound to %s again: %s", vf.address, driver, error)
        return False
    _let_any_bind(vf, was_free=True)
    return True


def _let_any_bind(vf: VfDevice, was_free: bool) -> None:
    if not was_free:
        return
    try:
        set_override(vf.address, "")
    except NicError as error:
        log.warning("%s: only %s may bind it still: %s", vf.address, vf.driver, error)
