"""A NIC whose PF a Linux driver owns: its control surfaces behind the protocol of a NIC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from vfd.nic.kernel import counters
from vfd.nic.kernel.drivers import Driver, driver_named
from vfd.nic.kernel.events import EventSource, Heard, Notice
from vfd.nic.kernel.guests import guest_of
from vfd.nic.kernel.pf import PfSettings
from vfd.nic.kernel.sriov import PciPf, VfDevice
from vfd.nic.kernel.surface import TAGGING, Assignment, PfSurface, Shown, Surface, assign
from vfd.nic.protocol import (
    Capabilities,
    Capability,
    Counters,
    Event,
    EventKind,
    Identity,
    Link,
    NicError,
    NicGoneError,
    NicState,
    Support,
    VfState,
)
from vfd.plan.changes import Change, PfChange, VfChange
from vfd.policy.requests import Decision, Request
from vfd.policy.values import (
    MAX_GROUPS,
    MAX_MACS,
    MAX_VLANS,
    LinkStatus,
    NicPolicy,
    PfPolicy,
    VfRules,
)

_RANK = {Support.ENFORCED: 2, Support.LIMITED: 1, Support.ABSENT: 0}


class KernelNic:
    """One PF, opened; ``surfaces`` are its control surfaces, strongest first.

    Implements ``vfd.nic.protocol.Nic``. It remembers nothing that the NIC could tell, but which
    MACs it forced (see ``Rtnetlink``) and what it last saw, to tell drift from its own echo.
    """

    def __init__(
        self,
        pf: PfPolicy,
        device: PciPf,
        netdev: str,
        ip: IPRoute,
        surfaces: Sequence[Surface],
        pf_surfaces: Sequence[PfSurface] = (),
    ) -> None:
        self._pf = pf
        self._device = device
        self._netdev = netdev
        self._ip = ip
        self._surfaces = tuple(surfaces)
        self._driver: Driver = driver_named(device.driver())
        self._settings = PfSettings(ip, device, netdev, pf_surfaces)
        self._source = EventSource()
        self._link = self.link()
        self._seen: Mapping[int, VfRules | None] | None = None
        self._lost = False

    @property
    def identity(self) -> Identity:
        vendor, number = self._device.ids()
        return Identity(
            id=self._pf.id,
            backend="kernel",
            address=self._device.address,
            model=f"{vendor}:{number}",
            driver=self._device.driver(),
            numa_node=self._device.numa_node(),
        )

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            vf=_strongest(surface.capabilities() for surface in self._surfaces),
            pf=self._settings.capabilities(),
            counters=counters.names(self._driver),
            max_vfs=self._device.total_vfs(),
            max_vlans=MAX_VLANS,
            max_macs=MAX_MACS,
            max_groups=MAX_GROUPS,
        )

    def link(self) -> Link:
        path = Path("/sys/class/net") / self._netdev
        try:
            up = (path / "operstate").read_text().strip() in ("up", "unknown")
            speed = int((path / "speed").read_text())
        except (OSError, ValueError):
            return Link(up=False, speed_bps=None)
        return Link(up, speed * 10**6 if speed > 0 else None)

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:
        return assign(rules, self._surfaces)[1]

    def expressible(self, vfid: int, rules: VfRules | None) -> VfRules | None:  # noqa: ARG002
        wanted = _assignments(rules, self._surfaces)
        return _rules(surface.express(wanted[surface.name]) for surface in self._surfaces)

    def observe(self) -> NicState:
        self._require_device()
        observed = self._observe_rules()
        self._seen = observed
        states = {vf.vfid: self._state(vf, observed.get(vf.vfid)) for vf in self._device.vfs()}
        return NicState(pf=self._settings.observe(self._pf), link=self.link(), vfs=states)

    def apply(self, desired: NicPolicy, changes: Sequence[Change]) -> None:
        self._require_device()
        vf_changes = [change for change in changes if isinstance(change, VfChange)]
        old_pf = self._pf
        try:
            for change in changes:
                if isinstance(change, PfChange):
                    self._settings.apply(self._pf, change.after)
                    self._pf = change.after
            write_rules(
                self._surfaces,
                {change.vfid: (change.before, change.after) for change in vf_changes},
            )
        except NicError:
            if self._pf != old_pf:
                self._settings.apply(self._pf, old_pf)
                self._pf = old_pf
            raise
        self._pf = desired.pf
        self._seen = self._observe_rules()

    def answer(self, request: Request, decision: Decision) -> None:
        """A Linux PF driver answers its guests itself; their requests never get here."""

    def revoke(self, vfid: int) -> None:
        """The PF driver takes a guest's own MACs and groups back when its VF is reset."""

    def counters(self) -> Counters:
        return counters.read(self._ip, self._netdev, self._driver)

    def fileno(self) -> int:
        return self._source.fileno()

    def events(self) -> list[Event]:
        notices = self._source.read(self._netdev)
        events: list[Event] = []
        for notice in notices:
            if notice.heard is Heard.OVERRUN:
                events.append(Event(EventKind.OVERRUN, text="netlink messages were lost"))
            elif notice.heard is Heard.DEVICE:
                events += self._device_events(notice)
        if any(notice.heard in (Heard.PF_LINK, Heard.PF_NETDEV_GONE) for notice in notices):
            events += self._link_events()
        return events

    def close(self) -> None:
        self._source.close()
        self._ip.close()

    def _require_device(self) -> None:
        if not self._device.exists():
            raise NicGoneError(f"{self._device.address}: the PF is not there any more")

    def _observe_rules(self) -> Mapping[int, VfRules | None]:
        shown = [surface.read() for surface in self._surfaces]
        vfids = {vfid for by_vf in shown for vfid in by_vf}
        return {vfid: _rules(by_vf.get(vfid, {}) for by_vf in shown) for vfid in sorted(vfids)}

    def _state(self, vf: VfDevice, rules: VfRules | None) -> VfState:
        guest = guest_of(vf)
        status = rules.link_status if rules else LinkStatus.OFF
        up = status is LinkStatus.ON or (status is LinkStatus.AUTO and self._link.up)
        return VfState(
            vfid=vf.vfid,
            rules=rules,
            link_up=up,
            mac=rules.vm_mac if rules else None,
            mtu=None,
            address=vf.address,
            guest=guest.text,
            held=guest.held,
        )

    def _link_events(self) -> list[Event]:
        """Link news, and drift where the VFs' settings are not those last seen."""
        if not (Path("/sys/class/net") / self._netdev).exists():
            return []  # the uevent of the device tells
        events = []
        link = self.link()
        if link != self._link:
            self._link = link
            events.append(Event(EventKind.LINK, text=f"link {'up' if link.up else 'down'}"))
        if self._seen is not None and (now := self._observe_rules()) != self._seen:
            changed = sorted(vfid for vfid in now if now[vfid] != self._seen.get(vfid))
            self._seen = now
            events += [
                Event(EventKind.DRIFT, vfid, "its settings were changed from outside")
                for vfid in changed
            ] or [Event(EventKind.DRIFT, text="the number of VFs was changed from outside")]
        return events

    def _device_events(self, notice: Notice) -> list[Event]:
        if notice.address == self._device.address:
            if notice.action in ("remove", "unbind") and not self._lost:
                self._lost = True
                return [Event(EventKind.LOST, text=f"{notice.address}: {notice.action}")]
            if notice.action in ("add", "bind") and self._device.netdevs() and self._lost:
                self._lost = False
                self._netdev = self._device.netdevs()[0]
                return [Event(EventKind.BACK, text=f"{notice.address}: {notice.action}")]
            return []
        for vf in self._device.vfs():
            if vf.address == notice.address and notice.action in ("bind", "unbind"):
                kind = EventKind.GUEST_COME if notice.action == "bind" else EventKind.GUEST_GONE
                return [Event(kind, vf.vfid, f"{vf.address}: driver {vf.driver or 'none'}")]
        return []


def _strongest(all_offers: Iterable[Mapping[str, Capability]]) -> Mapping[str, Capability]:
    best: dict[str, Capability] = {}
    for offers in all_offers:
        for attribute, capability in offers.items():
            if attribute not in best or _RANK[capability.support] > _RANK[best[attribute].support]:
                best[attribute] = capability
    return best


def write_rules(
    surfaces: Sequence[Surface], changes: Mapping[int, tuple[VfRules | None, VfRules | None]]
) -> None:
    """Makes VFs go from rules to rules (None: closed), all or none. Raises NicError.

    VFs that close do so from the weakest surface on, which has the link; the others change and
    open from the strongest on, so that a VF's link comes up when its filters are there. A VF whose
    tagging goes from one surface to another is closed in between: the drivers refuse two at once,
    and neither would filter for a moment.
    """
    parts = {
        vfid: (_assignments(before, surfaces), _assignments(after, surfaces))
        for vfid, (before, after) in changes.items()
    }
    closed = _assignments(None, surfaces)
    closing = {
        vfid
        for vfid, (old, new) in parts.items()
        if changes[vfid][1] is None or (changes[vfid][0] and _tagger(old) != _tagger(new))
    }
    rest = {vfid: new for vfid, (_, new) in parts.items() if changes[vfid][1] is not None}
    try:
        for surface in reversed(surfaces):
            if closing:
                surface.write(dict.fromkeys(sorted(closing), closed[surface.name]))
        for surface in surfaces:
            if rest:
                surface.write({vfid: new[surface.name] for vfid, new in rest.items()})
    except NicError:
        for surface in surfaces:
            surface.write({vfid: old[surface.name] for vfid, (old, _) in parts.items()})
        raise


def _assignments(rules: VfRules | None, surfaces: Sequence[Surface]) -> Mapping[str, Assignment]:
    """Each surface's part of these rules."""
    parts = {} if rules is None else assign(rules, surfaces)[0]
    return {
        surface.name: Assignment(rules, parts.get(surface.name, frozenset()))
        for surface in surfaces
    }


def _tagger(parts: Mapping[str, Assignment]) -> str | None:
    """The surface that has the VF's VLANs."""
    return next((name for name, part in parts.items() if "vlans" in part.attributes), None)


def _rules(shown: Iterable[Shown]) -> VfRules | None:
    """Surfaces' parts, strongest first, as one value. A surface's word holds over a weaker one's
    where it says more than the default; a link that is off with nothing else set is a closed VF."""
    parts = list(shown)
    having_vlans = [part for part in parts if part.get("vlans")]
    # The weakest has the port VLAN. A driver with a trunk list shows a port VLAN in the list too.
    tagging = having_vlans[-1] if having_vlans else None
    merged: dict[str, Any] = {}
    for part in parts:
        for attribute, value in part.items():
            if attribute in TAGGING and tagging is not None and part is not tagging:
                continue
            default = VfRules.model_fields[attribute].default
            if merged.get(attribute, default) == default:
                merged[attribute] = value
    rules = VfRules.model_construct(**merged)
    if rules == VfRules.model_construct(link_status=LinkStatus.OFF):
        return None
    return rules
