"""A NIC whose PF a Linux driver owns: its control surfaces behind the protocol of a NIC."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from vfd.nic.kernel import counters, switchdev
from vfd.nic.kernel.drivers import Driver, driver_named
from vfd.nic.kernel.events import EventSource, Heard, Notice
from vfd.nic.kernel.guests import guest_of, is_on_netdev, is_up, rebind_for_mac
from vfd.nic.kernel.pf import PfSettings
from vfd.nic.kernel.sriov import PciPf, VfDevice
from vfd.nic.kernel.surface import (
    TAGGING,
    Assignment,
    CounterSurface,
    PfSurface,
    Shown,
    Surface,
    absent,
    assign,
)
from vfd.nic.kernel.switchdev import SwitchdevSurface
from vfd.nic.kernel.switchdev_find import in_switchdev_mode
from vfd.nic.netlink import Netlink
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
    MAX_VLANS,
    LinkStatus,
    NicPolicy,
    PfPolicy,
    VfRules,
)

_DEFAULTS: Mapping[str, Any] = {n: f.default for n, f in VfRules.model_fields.items()}
"""Given to model_construct, which would copy each of them deeply."""
_CLOSED = {**_DEFAULTS, "link_status": LinkStatus.OFF}
_RANK = {Support.ENFORCED: 2, Support.LIMITED: 1, Support.ABSENT: 0}


FindSurfaces = Callable[
    [PfPolicy, PciPf, Netlink, int], tuple[Sequence[Surface], Sequence[PfSurface]]
]
"""Finds the control surfaces of a PF's netdev, strongest first, and those that set the PF too."""

_IFF_UP = 1
_MOST_EXPRESSED = 1024
LINK_PATIENCE = 5.0
"""Seconds for a link that was up to come back: 1000BASE-T takes two to four to negotiate."""


class KernelNic:
    """One PF, opened; ``find`` finds its control surfaces, now and when the PF comes back.

    Implements ``vfd.nic.protocol.Nic``. It remembers nothing that the NIC could tell, but which
    MACs it forced (see ``Rtnetlink``) and what it last saw, to tell drift from its own echo.
    """

    def __init__(
        self, pf: PfPolicy, device: PciPf, find: FindSurfaces, netlink: Netlink | None = None
    ) -> None:
        self._pf = pf
        self._device = device
        self._find = find
        self._source = EventSource()
        self._source.hear_devlink()
        self._netlink = netlink or Netlink()
        self._seen: Mapping[int, VfRules | None] | None = None
        self._drifted: Mapping[int, VfRules | None] | None = None
        """What was just read, where it was drift: whoever is told looks at once, and a repair must
        not take long."""
        self._held: dict[int, bool] = {}
        """VFs whose netdev is in use, as last seen."""
        self._lost = False
        try:
            self._take_up()
        except NicError:
            self.close()
            raise

    def _take_up(self) -> None:
        """Finds the PF's netdev and its surfaces: at the start, and when the PF is back, with
        another netdev, index and perhaps driver. Raises NicError, NicGoneError."""
        self._had_vfs = self._device.num_vfs() > 0
        self._driver: Driver = driver_named(self._device.driver(), self._device.ids()[1])
        self._netdev, self._index = self._device.uplink()
        surfaces, pf_surfaces = self._find(self._pf, self._device, self._netlink, self._index)
        self._surfaces = tuple(surfaces)
        self._eswitch = next((s for s in surfaces if isinstance(s, SwitchdevSurface)), None)
        if self._eswitch is not None:
            self._source.hear_rules()
        self._settings = PfSettings(self._netlink, self._device, self._index, pf_surfaces)
        self._expressed: dict[VfRules | None, VfRules | None] = {}
        """A repair compares all VFs with what is wanted of them; it must not take long."""
        self._link = self.link()
        self._is_up = is_up(self._netdev)

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
        offers = _strongest(surface.capabilities() for surface in self._surfaces)
        return Capabilities(
            vf={name: offers.get(name) or absent(name) for name in VfRules.model_fields},
            pf=self._settings.capabilities(),
            counters=counters.names(self._driver).union(*(c.counter_names() for c in self._more())),
            max_vfs=self._device.total_vfs(),
            max_vlans=MAX_VLANS,
            max_macs=self._settings.max_macs,
            max_groups=MAX_GROUPS,
            closed=_closing(offers),
            count_takes_all=True,
            more_with_vfs=bool(self._driver.vendors) and not self._device.num_vfs(),
        )

    def link(self) -> Link:
        return self._device.link(self._netdev)

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:
        return assign(rules, self._surfaces)[1]

    def expressible(self, vfid: int, rules: VfRules | None) -> VfRules | None:  # noqa: ARG002
        if rules not in self._expressed:
            wanted = _assignments(rules, self._surfaces)
            shown = _rules(surface.express(wanted[surface.name]) for surface in self._surfaces)
            if len(self._expressed) > _MOST_EXPRESSED:
                self._expressed.clear()
            self._expressed[rules] = shown
        return self._expressed[rules]

    def observe(self, only: Collection[int] | None = None) -> NicState:  # noqa: ARG002
        self._require_device()
        if bool(self._device.num_vfs()) != self._had_vfs:
            self._drifted = None
            self._take_up()  # drivers show with their first VF what they can enforce
        observed = self._drifted or self._observe_rules()
        self._seen, self._drifted = observed, None
        vfs = self._device.vfs()
        states = {vf.vfid: self._state(vf, observed.get(vf.vfid)) for vf in vfs}
        self._held = {vf.vfid: states[vf.vfid].held for vf in vfs if is_on_netdev(vf)}
        return NicState(pf=self._settings.observe(self._pf), link=self.link(), vfs=states)

    def apply(self, desired: NicPolicy, changes: Sequence[Change]) -> None:
        self._require_device()
        self._drifted = None
        steps = {c.vfid: (c.before, c.after) for c in changes if isinstance(c, VfChange)}
        old_pf, forced = self._pf, False
        try:
            for change in changes:
                if isinstance(change, PfChange):
                    forced, was_up = change.force, self.link().up
                    new = self._settings.apply(self._pf, change.after, force=change.force)
                    self._pf = change.after
                    self._expressed.clear()
                    if new:
                        self._take_up()  # what was known of the old VFs is no longer true
                        steps = self._as_new(desired)
                        if was_up and self._driver.rate_needs_link:
                            self._await_link()
                    else:
                        steps = self._again(desired, steps)
            write_rules(self._surfaces, steps)
        except NicGoneError:
            raise
        except NicError:
            if self._pf != old_pf:
                self._settings.apply(self._pf, old_pf, force=forced)
                self._pf = old_pf
                self._expressed.clear()
            raise
        self._pf = desired.pf
        self._seen = self._observe_rules()
        if self._driver.mac_needs_rebind:
            macs = {vfid: after.vm_mac for vfid, (_, after) in steps.items() if after}
            for vf in self._device.vfs():
                rebind_for_mac(vf, macs.get(vf.vfid))

    def _await_link(self) -> None:
        """Creating VFs resets the PF, whose link comes back after some seconds."""
        deadline = time.monotonic() + LINK_PATIENCE
        while not self.link().up and time.monotonic() < deadline:
            time.sleep(0.02)

    def _as_new(self, desired: NicPolicy) -> dict[int, tuple[VfRules | None, VfRules | None]]:
        """What makes VFs that have just been created what they are to be, the closed ones too."""
        return {vf.vfid: (None, self._wanted(desired, vf.vfid)) for vf in self._device.vfs()}

    def _again(
        self, desired: NicPolicy, steps: Mapping[int, tuple[VfRules | None, VfRules | None]]
    ) -> dict[int, tuple[VfRules | None, VfRules | None]]:
        """``steps`` on a PF that is another now: more or less of the policies may be enforced than
        when they were worked out, and what is in force by another surface than before."""
        in_force = {
            vfid: (rules, rules)
            for vfid, rules in self._observe_rules().items()
            if rules == self._wanted(desired, vfid)
        }
        changed = {v: (before, self._wanted(desired, v)) for v, (before, _) in steps.items()}
        return {**in_force, **changed}

    def _wanted(self, desired: NicPolicy, vfid: int) -> VfRules | None:
        """What this NIC can show of what is desired of the VF; None: closed."""
        policy = next((vf for vf in desired.vfs if vf.vfid == vfid), None)
        return self.expressible(vfid, policy.rules) if policy else None

    def answer(self, answers: Sequence[tuple[Request, Decision]]) -> None:
        """A Linux PF driver answers its guests itself; their requests never get here."""

    def revoke(self, vfid: int) -> None:
        """The PF driver takes a guest's own MACs and groups back when its VF is reset."""

    def counters(self) -> Counters:
        more = [surface.counters() for surface in self._more()]
        return counters.read(self._netlink, self._index, self._driver, more)

    def _more(self) -> list[CounterSurface]:
        return [surface for surface in self._surfaces if isinstance(surface, CounterSurface)]

    def fileno(self) -> int:
        return self._source.fileno()

    def events(self) -> list[Event]:
        self._drifted = None
        notices = self._source.read()
        events: list[Event] = []
        settings_may_differ = count_may_differ = guests_may_differ = mode_may_differ = False
        for notice in notices:
            match notice.heard:
                case Heard.OVERRUN:
                    events.append(Event(EventKind.OVERRUN, text="netlink messages were lost"))
                case Heard.DEVICE:
                    events += self._device_events(notice)
                    count_may_differ |= notice.action in ("add", "remove")
                case Heard.LINK if notice.index == self._index and not self._lost:
                    settings_may_differ = True
                    self._netdev = notice.name
                    events += self._up_events(notice)
                case Heard.LINK if self._eswitch and notice.index in self._eswitch.watched:
                    settings_may_differ = True
                case Heard.LINK if notice.index != self._index:
                    guests_may_differ = True
                case Heard.RULES:
                    settings_may_differ = True
                case Heard.DEVLINK if notice.address == self._device.address:
                    settings_may_differ = mode_may_differ = True
        if mode_may_differ:
            events += self._mode_events()
        if not self._lost and (settings_may_differ or count_may_differ):
            events += self._look(settings=settings_may_differ)
        if not self._lost and guests_may_differ:
            events += self._guest_events()
        return events

    def close(self) -> None:
        self._source.close()
        self._netlink.close()

    def _require_device(self) -> None:
        if not self._device.exists():
            raise NicGoneError(f"{self._device.address}: the PF is not there any more")

    def _observe_rules(self) -> Mapping[int, VfRules | None]:
        shown = [surface.read() for surface in self._surfaces]
        vfids = {vfid for by_vf in shown for vfid in by_vf}
        return {vfid: _rules(by_vf.get(vfid, {}) for by_vf in shown) for vfid in sorted(vfids)}

    def _state(self, vf: VfDevice, rules: VfRules | None) -> VfState:
        guest = guest_of(vf, rules.vm_mac if rules else None)
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
            driver=vf.driver,
            iommu_group=vf.iommu_group,
            numa_node=vf.numa_node,
            msix=vf.msix,
        )

    def _up_events(self, notice: Notice) -> list[Event]:
        """The PF was set down or up by somebody."""
        up = bool(notice.flags & _IFF_UP)
        if up == self._is_up:
            return []
        self._is_up = up
        if not up:
            return [
                Event(EventKind.LINK, text=f"{notice.name} was set down: no VF passes anything")
            ]
        text = f"{notice.name} was set up again"
        if self._driver.vfs_need_bounce:
            text += (
                f": with {self._device.driver()} a VF shows a link but passes nothing"
                " until its guest takes it down and up"
            )
        return [Event(EventKind.VF_RESET, text=text)]

    def _mode_events(self) -> list[Event]:
        """The mode of the embedded switch was changed, or devlink loaded the driver anew: other
        surfaces enforce, other netdevs are there."""
        try:
            if not self._lost:
                is_same = in_switchdev_mode(self._device) == (self._eswitch is not None)
                if is_same and self._device.uplink()[1] == self._index:
                    return []
            self._take_up()
        except NicError as error:
            was_lost, self._lost = self._lost, True
            return [] if was_lost else [Event(EventKind.LOST, text=str(error))]
        self._lost, self._seen = False, None
        mode = "legacy" if self._eswitch is None else "switchdev"
        text = f"{self._device.address} is in {mode} mode now, as {self._netdev}"
        return [Event(EventKind.BACK, text=text)]

    def _look(self, *, settings: bool) -> list[Event]:
        """Link news, and drift where the VFs are not those last seen."""
        events = []
        link = self.link()
        if link != self._link:
            self._link = link
            events.append(Event(EventKind.LINK, text=f"link {'up' if link.up else 'down'}"))
        if self._seen is None:
            return events
        if not settings and len(self._seen) == self._device.num_vfs():
            return events
        try:
            now = self._observe_rules()
        except NicGoneError:
            return events  # the uevent of the device tells
        if now.keys() != self._seen.keys():
            text = f"the number of VFs was changed from outside, from {len(self._seen)}"
            events.append(Event(EventKind.DRIFT, text=f"{text} to {len(now)}"))
        events += [
            Event(EventKind.DRIFT, vfid, "its settings were changed from outside")
            for vfid in now.keys() & self._seen.keys()
            if now[vfid] != self._seen[vfid]
        ]
        if any(event.kind is EventKind.DRIFT for event in events):
            self._drifted = now
        self._seen = now
        return events

    def _device_events(self, notice: Notice) -> list[Event]:
        if notice.address == self._device.address:
            return self._pf_events(notice.action)
        if notice.action not in ("bind", "unbind") or self._lost:
            return []
        vfid = self._device.vfid_of(notice.address)
        if vfid is None:
            return []
        come = notice.action == "bind"
        kind = EventKind.GUEST_COME if come else EventKind.GUEST_GONE
        text = f"has driver {notice.driver}" if come else "has no driver any more"
        return [Event(kind, vfid, f"{notice.address} {text}")]

    def _guest_events(self) -> list[Event]:
        """Guests that took a VF's netdev or let it go: set it up or down, or moved it to another
        namespace."""
        found = []
        for vf in self._device.vfs():
            if not is_on_netdev(vf):
                self._held.pop(vf.vfid, None)
                continue
            guest = guest_of(vf)
            if self._held.get(vf.vfid, False) != guest.held:
                kind = EventKind.GUEST_COME if guest.held else EventKind.GUEST_GONE
                found.append(Event(kind, vf.vfid, f"{vf.address}: {guest.text}"))
            self._held[vf.vfid] = guest.held
        return found

    def _pf_events(self, action: str) -> list[Event]:
        address = self._device.address
        if action in ("remove", "unbind") and not self._lost:
            self._lost = True
            why = "the device is gone" if action == "remove" else "its driver was unbound"
            return [Event(EventKind.LOST, text=f"{address}: {why}")]
        if action == "bind" and self._lost:
            try:
                self._take_up()
            except NicError as error:
                return [Event(EventKind.LOST, text=str(error))]
            self._lost, self._seen = False, None
            text = f"{address} is there again, as {self._netdev}"
            return [Event(EventKind.BACK, text=text)]
        return []


def _closing(offers: Mapping[str, Capability]) -> Capability:
    """How well a VF is closed: by rules that drop all it sends, else by its link."""
    if "vlans" in offers and offers["vlans"].by == switchdev.NAME:
        return Capability(Support.ENFORCED, by=switchdev.NAME)
    link_status = offers.get("link_status")
    if link_status is not None and link_status.support is Support.ENFORCED:
        return Capability(Support.ENFORCED, by=link_status.by)
    return Capability(
        Support.LIMITED,
        by="rtnetlink",
        limit="its MAC, VLAN and trust are taken away, but its driver can't set its link down",
        consequence="a guest that holds this closed VF may choose a MAC, and send and receive",
    )


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
    merged = dict(_DEFAULTS)
    for part in parts:
        for attribute, value in part.items():
            if attribute in TAGGING and tagging is not None and part is not tagging:
                continue
            if merged[attribute] == _DEFAULTS[attribute]:
                merged[attribute] = value
    if merged == _CLOSED:
        return None
    return VfRules.model_construct(**merged)
