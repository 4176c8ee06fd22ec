"""A NIC whose PF a Linux driver owns: its control surfaces behind the protocol of a NIC."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from vfd.nic.kernel import counters
from vfd.nic.kernel.abilities import Abilities, Seen
from vfd.nic.kernel.drift import Drift
from vfd.nic.kernel.drivers import Driver, driver_named
from vfd.nic.kernel.events import EventSource, Heard, Notice
from vfd.nic.kernel.guests import HeldNetdevs, guests_of, is_up, state_of
from vfd.nic.kernel.health import told
from vfd.nic.kernel.link import await_link, await_rtnl
from vfd.nic.kernel.ours import Ours
from vfd.nic.kernel.parts import merged, put_back, without_rates, write_rules
from vfd.nic.kernel.pf import PfSettings
from vfd.nic.kernel.sriov import PciPf
from vfd.nic.kernel.surface import (
    CounterSurface,
    FileSurface,
    MacSurface,
    PfSurface,
    Shown,
    Surface,
)
from vfd.nic.kernel.switchdev import SwitchdevSurface
from vfd.nic.kernel.switchdev_find import in_switchdev_mode
from vfd.nic.kernel.worn import Wardrobe, forced_by
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
    VfState,
)
from vfd.plan.changes import Change, PfChange, VfChange
from vfd.policy.requests import Decision, Request
from vfd.policy.values import (
    LinkStatus,
    NicPolicy,
    PfPolicy,
    VfPolicy,
    VfRules,
)

log = logging.getLogger("vfd.nic")

Steps = dict[int, tuple[VfRules | None, VfRules | None]]
"""By vfid: the rules before and after; None: closed."""

FindSurfaces = Callable[
    [PfPolicy, PciPf, Netlink, int], tuple[Sequence[Surface], Sequence[PfSurface]]
]
"""Finds the control surfaces of a PF's netdev, strongest first, and those that set the PF too."""

_IFF_UP = 1


class KernelNic:
    """One PF, opened; ``find`` finds its control surfaces, now and when the PF comes back.

    Implements ``vfd.nic.protocol.Nic``. It remembers nothing that the NIC could tell, but which
    MACs are forced (see ``Rtnetlink``) and what it last saw, to tell drift from its own echo.
    """

    def __init__(
        self, pf: PfPolicy, device: PciPf, find: FindSurfaces, netlink: Netlink | None = None
    ) -> None:
        self._pf = pf
        self._device = device
        self._find = find
        self._source = EventSource()
        self._netlink = netlink or Netlink()
        self._seen: Mapping[int, VfRules | None] | None = None
        self._seen_pf: Shown | None = None
        self._drifted: Mapping[int, VfRules | None] | None = None
        """What was just read, where it was drift: a repair must not take long."""
        self._states: Mapping[int, VfState] = {}
        self._merged: dict[int, Seen] = {}
        """By vfid, what was seen last, or is to be seen next."""
        self._drift = Drift()
        self._netdevs = HeldNetdevs()
        self._ours = Ours()
        self._worn = Wardrobe(self._ours)
        self._configured: Mapping[int, frozenset[str]] = {}
        """The VFs that have a configuration, and the MACs that it forces."""
        self._lost = self._is_away = False
        """Lost is the PF's netdev alone: to another network namespace."""
        try:
            self._take_up()
        except NicError:
            self.close()
            raise
        self._note_link()

    def _note_link(self) -> None:
        """What it is from now on is told."""
        self._link, self._is_up = self.link(), is_up(self._netdev)

    def _take_up(self) -> None:
        """Finds the PF's netdev and its surfaces: at the start, and when the PF is back, with
        another netdev, index and perhaps driver. Raises NicError, NicGoneError."""
        self._driver: Driver = driver_named(self._device.driver(), self._device.ids()[1])
        self._netdev, self._index = self._device.uplink()
        surfaces, pf_surfaces = self._find(self._pf, self._device, self._netlink, self._index)
        self._surfaces = tuple(surfaces)
        self._eswitch = next((s for s in surfaces if isinstance(s, SwitchdevSurface)), None)
        if self._eswitch is not None:
            self._source.hear_rules()
        self._tell_surfaces()
        self._hear_files()
        self._settings = PfSettings(
            self._netlink, self._device, self._index, pf_surfaces, self._ours
        )
        self._can = Abilities(
            self._netlink, self._index, self._device, self._driver, surfaces, self._settings
        )
        self._had_vfs = self._device.num_vfs() > 0

    def _tell_surfaces(self) -> None:
        for surface in self._surfaces:
            if self._configured and isinstance(surface, MacSurface):
                surface.adopt(self._configured)

    def _hear_files(self) -> None:
        """VFs that are made anew have other files than before."""
        for surface in self._surfaces:
            if isinstance(surface, FileSurface):
                self._source.hear_files(surface.folders())

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
            vf_total_msix=self._device.vf_total_msix(),
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._can.capabilities

    def link(self) -> Link:
        return self._device.link(self._netdev)

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:
        return self._can.shortfalls(rules)

    def expressible(self, vfid: int, rules: VfRules | None) -> VfRules | None:  # noqa: ARG002
        return self._can.express(rules)[1]

    def observe(
        self,
        only: Collection[int] | None = None,  # noqa: ARG002
        *,
        guests: bool = True,
    ) -> NicState:
        self._require_device()
        rules = self._drifted or self._observe_rules()
        self._drifted = None
        if bool(rules) != self._had_vfs:
            self._take_up()  # drivers show with their first VF what they can enforce
            rules = self._observe_rules()
            self._had_vfs, self._seen = bool(rules), None
        if self._seen is None:
            self._seen, self._seen_pf = rules, self._settings.shown(self._pf)
        self._drift.forget_repaired(rules)
        if not guests and self._states.keys() == rules.keys():
            self._states = {
                vfid: self._with_rules(state, rules[vfid]) for vfid, state in self._states.items()
            }
            pf = self._settings.observe(self._pf, counted=len(rules))
        else:
            self._look_at_vfs(rules)
            self._can.look(len(rules))
            pf = self._settings.observe(self._pf)
        return NicState(pf, self.link(), self._states)

    def adopt(self, policies: Collection[VfPolicy]) -> None:
        self._require_device()
        self._configured = forced_by(policies)
        self._tell_surfaces()
        self._seen, self._drifted, self._merged = None, None, {}
        rules = self._observe_rules()
        bound = self._worn.adopt(self._device, self._driver, rules, self._configured)
        closed = self._can.express(None)[1]
        self._shut_again([vfid for vfid in bound if rules[vfid] == closed])

    def manage(self, vfids: Collection[int] | None) -> None:
        self._ours.are(vfids)

    def apply(self, desired: NicPolicy, changes: Sequence[Change]) -> None:
        self._require_device()
        self._drifted = None
        steps: Steps = {}
        for change in changes:
            if isinstance(change, VfChange):  # one that goes in two steps: from before the first
                first = steps.get(change.vfid, (change.before,))[0]
                steps[change.vfid] = first, change.after
        pf = next((c for c in changes if isinstance(c, PfChange)), None)
        if pf is None:
            bind = partial(self._settings.bind_vfs, desired.pf)  # VFs that become ours
            then = bind if self._ours.named is not None else None
            write_rules(self._surfaces, self._can.assigned, steps, then)
        else:
            steps = self._apply_with_pf(desired, pf, steps)
        self._pf = desired.pf
        self._expect(steps, pf)
        had, self._configured = self._configured.keys(), forced_by(desired.vfs)
        bound = self._worn.follow(self._device, self._driver, desired, steps, had)
        self._shut_again(bound - self._configured.keys())

    def _apply_with_pf(self, desired: NicPolicy, pf: PfChange, steps: Steps) -> Steps:
        """The PF's settings, then the rules of the VFs, which are new ones where their number
        changes. What was written."""
        count = self._device.num_vfs()
        old = self._settings.observe(self._pf).model_copy(
            update={"vfs": count, "vf_driver": self._pf.vf_driver}
        )
        recount = pf.after.vfs not in (None, count)
        before, was_up = self._observe_rules(), self.link().up
        if recount:
            self._settings.refuse_count(pf.after, force=pf.force)
        policy = self._pf
        try:
            self._settings.apply(old, pf.after)
            self._is_now(pf.after)
            if recount:
                self._take_up()  # what was known of the old VFs is no longer true
                had = {vfid: rules for vfid, rules in before.items() if vfid not in self._ours}
                steps = self._write_new({**had, **self._wanted(desired)}, was_up=was_up)
            else:
                steps = self._again(desired, steps)
                write_rules(self._surfaces, self._can.assigned, steps)
            self._settings.bind_vfs(pf.after)
            return steps
        except NicGoneError:
            raise
        except NicError as error:
            try:
                self._settings.apply(self._settings.observe(old), old)
                self._is_now(policy)
                if recount:
                    self._take_up()
                    self._write_new(before, was_up=was_up)
                    self._settings.bind_vfs(old)
                else:
                    put_back(self._surfaces, self._can.assigned, before)
            except NicError as second:
                raise type(second)(f"{error}. Undoing it failed: {second}") from error
            raise

    def _is_now(self, pf: PfPolicy) -> None:
        """What VFs can be given follows from what their PF is."""
        self._pf = pf
        self._can.look(self._device.num_vfs(), anew=True)

    def _wanted(self, desired: NicPolicy) -> Mapping[int, VfRules | None]:
        """What this NIC can show of what is desired of the VFs that are not closed."""
        policies = desired.by_vfid()
        return {vfid: self.expressible(vfid, vf.rules) for vfid, vf in policies.items()}

    def _again(self, desired: NicPolicy, steps: Steps) -> Steps:
        """``steps`` on a PF that is another now, and with them all other VFs: more or less of
        their policies may be enforced than when the steps were worked out, or by another surface.
        """
        wanted, shown = self._wanted(desired), self._observe_rules()
        others = {v: (rules, wanted.get(v)) for v, rules in shown.items() if v in self._ours}
        return {**others, **{v: (before, wanted.get(v)) for v, (before, _) in steps.items()}}

    def _write_new(self, rules: Mapping[int, VfRules | None], *, was_up: bool) -> Steps:
        """Makes VFs that have just been created what they are to be, closed where no rules are
        given and the VF is ours. Until then a VF is open, so what must wait for the link comes
        last."""
        vfids = [vf.vfid for vf in self._device.vfs()]
        wanted = {v: rules.get(v) for v in vfids if v in self._ours or v in rules}
        first = {vfid: without_rates(rule) for vfid, rule in wanted.items()}
        steps: Steps = {vfid: (None, rule) for vfid, rule in wanted.items()}
        if self._driver.rate_needs_link and first != wanted:
            write_rules(
                self._surfaces,
                self._can.assigned,
                {vfid: (None, rule) for vfid, rule in first.items()},
            )
            if was_up:
                await_link(self.link)
            steps = {vfid: (first[vfid], rule) for vfid, rule in wanted.items()}
        write_rules(self._surfaces, self._can.assigned, steps)
        return steps

    def answer(self, answers: Sequence[tuple[Request, Decision]]) -> None:
        """A Linux PF driver answers its guests itself; their requests never get here."""

    def revoke(self, vfid: int) -> None:
        """The PF driver takes a guest's own MACs and groups back when its VF is reset."""
        for device in self._device.vfs([vfid]):
            if self._worn.let_go(device) and vfid not in self._configured:
                self._shut_again([vfid])

    def _shut_again(self, closed: Collection[int]) -> None:
        """igbvf tells the PF of its random MAC when it binds, which a closed VF has not."""
        try:
            write_rules(self._surfaces, self._can.assigned, dict.fromkeys(closed, (None, None)))
        except NicError as error:
            log.warning("%s: VF %s: %s", self._device.address, sorted(closed), error)

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
        settings_may_differ = guests_may_differ = mode_may_differ = count_may_differ = False
        are_new = netdev_may_differ = False
        for notice in notices:
            match notice.heard:
                case Heard.OVERRUN:
                    events.append(Event(EventKind.OVERRUN, text="netlink messages were lost"))
                    settings_may_differ = mode_may_differ = guests_may_differ = True
                case Heard.DEVICE:
                    events += self._device_events(notice)
                    count_may_differ |= notice.action == "remove"
                    are_new |= notice.action == "add"
                case Heard.LINK if self._is_away or (
                    notice.index == self._index and notice.action == "remove"
                ):
                    netdev_may_differ = True
                case Heard.LINK if notice.index == self._index and not self._lost:
                    settings_may_differ = True
                    self._netdev = notice.name or self._netdev
                    events += self._up_events(notice)
                case Heard.LINK if self._eswitch and notice.index in self._eswitch.watched:
                    settings_may_differ = True
                case Heard.LINK if notice.index != self._index:
                    guests_may_differ |= self._netdevs.may_be_told_of(
                        self._device.address,
                        notice.index,
                        notice.name,
                        is_gone=notice.action == "remove",
                    )
                case Heard.HEALTH if notice.health and not self._lost:
                    events += told(notice.health, self._device.address)
                case Heard.RULES | Heard.FILES:
                    settings_may_differ = True
                case Heard.DEVLINK if notice.address == self._device.address:
                    settings_may_differ = mode_may_differ = True
        if netdev_may_differ or guests_may_differ:
            await_rtnl(self._netlink)
        if mode_may_differ:
            events += self._mode_events()
        if netdev_may_differ:
            events += self._netdev_events()
        if not self._lost and (settings_may_differ or count_may_differ or are_new):
            events += self._look(settings=settings_may_differ, are_new=are_new)
        if not self._lost and (guests_may_differ or self._netdevs.are_untold):
            events += self._netdevs.events(self._device)
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
        before, self._merged = self._merged, {}
        for vfid in sorted(vfids):
            parts = [by_vf.get(vfid, {}) for by_vf in shown]
            known = before.get(vfid)
            same = known is not None and known[0] == parts
            self._merged[vfid] = known if known and same else (parts, merged(parts))
        return {vfid: rules for vfid, (_, rules) in self._merged.items()}

    def _expect(self, steps: Steps, pf: PfChange | None) -> None:
        """What was written is to be seen from now on. It is not read back here: what somebody
        else changed meanwhile would pass for ours."""
        recount = pf is not None and steps.keys() == set(range(self._device.num_vfs()))
        if pf is not None and "vfs" in pf.fields and self._ours.named is not None:
            self._seen = None  # others' new VFs are as they are found
        if self._seen is not None:
            wanted = {vfid: self._can.express(after) for vfid, (_, after) in steps.items()}
            self._merged = {**({} if recount else self._merged), **wanted}
            shown = {vfid: rules for vfid, (_, rules) in wanted.items()}
            self._seen = {**({} if recount else self._seen), **shown}
        if self._seen_pf is not None and pf is not None:
            self._seen_pf = {name: getattr(pf.after, name) for name in self._seen_pf}

    def _look_at_vfs(self, rules: Mapping[int, VfRules | None]) -> None:
        """The VFs as devices, and who holds them."""
        vfs = self._device.vfs()
        macs = {vfid: rule.vm_mac if rule else None for vfid, rule in rules.items()}
        guests = guests_of(vfs, macs, self._worn.left)
        self._netdevs.start([vf for vf in vfs if vf.vfid not in self._states], guests)
        self._states = {
            vf.vfid: self._with_rules(state_of(vf, guests[vf.vfid]), rules.get(vf.vfid))
            for vf in vfs
        }

    def _with_rules(self, state: VfState, rules: VfRules | None) -> VfState:
        status = rules.link_status if rules else LinkStatus.OFF
        up = status is LinkStatus.ON or (status is LinkStatus.AUTO and self._link.up)
        if state.rules is rules and state.link_up == up:
            return state
        return replace(state, rules=rules, link_up=up, mac=rules.vm_mac if rules else None)

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
        surfaces enforce, other netdevs are there. Or nobody knows what happened to the PF."""
        was_lost = self._lost
        try:
            if not was_lost:
                is_same = in_switchdev_mode(self._device) == (self._eswitch is not None)
                if is_same and self._device.uplink()[1] == self._index:
                    return []
            self._take_up()
        except NicError as error:
            self._lost, self._is_away = True, self._device.has_netdevs()
            return [] if was_lost else [Event(EventKind.LOST, text=str(error))]
        mode = "legacy" if self._eswitch is None else "switchdev"
        return [self._back("is there again" if was_lost else f"is in {mode} mode now")]

    def _netdev_events(self) -> list[Event]:
        """The PF's netdev went to another network namespace, with its driver and the VFs as they
        are, or came back from one, perhaps with another index."""
        address = self._device.address
        try:
            self._device.uplink()
        except NicGoneError:
            if self._lost or not self._device.has_netdevs():
                return []  # the uevent of the device tells
            self._lost = self._is_away = True
            return [Event(EventKind.LOST, text=f"{address}: its netdev left the network namespace")]
        return self._come_back() if self._is_away else []

    def _come_back(self) -> list[Event]:
        try:
            self._take_up()
        except NicError as error:
            return [Event(EventKind.LOST, text=str(error))]
        return [self._back("is there again")]

    def _back(self, what: str) -> Event:
        self._lost, self._is_away, self._seen, self._states = False, False, None, {}
        self._note_link()
        return Event(EventKind.BACK, text=f"{self._device.address} {what}, as {self._netdev}")

    def _look(self, *, settings: bool, are_new: bool) -> list[Event]:
        """Link news, and drift where the VFs are not those last seen. New VFs, be they as many as
        before, have none of what the old ones had."""
        events: list[Event] = []
        link = self.link()
        if link != self._link:
            self._link = link
            events.append(Event(EventKind.LINK, text=f"link {'up' if link.up else 'down'}"))
        if self._seen is None or self._seen_pf is None:
            return events
        try:
            if are_new and self._device.num_vfs():  # which waits for whoever makes them
                self._hear_files()
            elif not settings and len(self._seen) == self._device.num_vfs():
                return events
            now, pf = self._observe_rules(), self._settings.shown(self._pf)
        except NicGoneError:
            return events  # the uevent of the device tells
        except NicError as error:
            return [*events, Event(EventKind.OVERRUN, text=str(error))]  # who is told looks again
        drift = self._drift.of_pf(self._pf, self._seen_pf, pf)
        drift += self._drift.of_vfs(self._seen, now)
        self._drifted = now if drift else None
        self._seen, self._seen_pf = now, pf
        return events + drift

    def _device_events(self, notice: Notice) -> list[Event]:
        if notice.address == self._device.address:
            return self._pf_events(notice)
        if notice.action not in ("bind", "unbind") or self._lost:
            return []
        vfid = self._device.vfid_of(notice.address)
        if vfid is None:
            return []
        come = notice.action == "bind"
        self._netdevs.bound(vfid, is_bound=come)
        if come:
            self._worn.bound(vfid)
        kind = EventKind.GUEST_COME if come else EventKind.GUEST_GONE
        text = f"has driver {notice.driver}" if come else "has no driver any more"
        return [Event(kind, vfid, f"{notice.address} {text}")]

    def _pf_events(self, notice: Notice) -> list[Event]:
        address, action = self._device.address, notice.action
        if notice.error == "SUCCESSFUL_RECOVERY":
            return [Event(EventKind.VF_RESET, text=f"{address} was reset after a PCI error")]
        if notice.error == "FAILED_RECOVERY" and not self._lost:
            self._lost = True
            text = f"{address}: its driver could not recover from a PCI error: bind it again"
            return [Event(EventKind.LOST, text=text)]
        if action in ("remove", "unbind") and not self._lost:
            self._lost = True
            why = "the device is gone" if action == "remove" else "its driver was unbound"
            return [Event(EventKind.LOST, text=f"{address}: {why}")]
        if action == "bind" and self._lost:
            return self._come_back()
        return []
