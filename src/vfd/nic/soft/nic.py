"""The soft NIC behind the protocol of a NIC."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

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
    NicState,
    VfState,
)
from vfd.nic.soft import rtnl
from vfd.nic.soft.capabilities import capabilities, shortfalls
from vfd.nic.soft.datapath import open_datapath, program_version
from vfd.nic.soft.ends import GuestEnds
from vfd.nic.soft.enforce import Enforcement
from vfd.nic.soft.guests import Guests, Place
from vfd.nic.soft.homes import Homes
from vfd.nic.soft.marks import HERE, Marks
from vfd.nic.soft.state import State, expressible, from_tables, in_steps
from vfd.nic.soft.switch import Switch
from vfd.nic.soft.tables import decode
from vfd.nic.soft.watch import Watch
from vfd.plan.changes import Change, PfChange, VfChange
from vfd.policy.requests import Decision, Grants, Request, RequestKind, granted
from vfd.policy.rules import check_pf
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy, VfRules

_LOST = "its netdev is gone: the VF is made anew, with nothing granted"


class SoftNic:
    """One soft NIC, opened. Use ``vfd.nic.soft.open``."""

    def __init__(self, pf: PfPolicy) -> None:
        if broken := [one for one in check_pf(pf) if one.field == "id"]:
            raise NicError(f"{pf.id!r} can't be the id of a soft NIC: {broken[0].rule}")
        self._guests = Guests()
        self._taken_back: Counter[int] = Counter()
        """How many guests of each VF went whose ``revoke`` is to come, and is done already."""
        self._sent_before: dict[int, int] = {}
        """What each tap had sent when its guest came."""
        self._drifted = False
        self._closed = False
        with contextlib.ExitStack() as held:
            try:
                self._switch = Switch(pf.id, pf.guest)
                held.callback(self._switch.close)
                self._switch.enter()
                self._homes = Homes(self._switch.netlink)
                self._watch = Watch(self._switch, self._guests, self)
                held.callback(self._watch.close)
                links = self._switch.look()
                if not self._switch.shaper_ready:
                    self._switch.build_shaper()
                datapath = open_datapath(self._switch)
                held.callback(datapath.close)
                self._works = Enforcement(self._switch, datapath, self._guests)
                self._watch.hear_program(datapath.ring, datapath.drain)
                self._ends = GuestEnds(
                    self._switch, self._guests, self._homes, self._watch, self._works
                )
                self._state = self._adopt(pf, links)
                self._works.link_bps(self._state)
            except OSError as e:
                raise NicError(f"{pf.id} can't be opened: {e.strerror or e}") from e
            self._held = held.pop_all()

    def _adopt(self, pf: PfPolicy, links: Mapping[str, rtnl.Link]) -> State:
        """Takes over what is enforced, and finishes or closes what a crash left half done."""
        switch, works = self._switch, self._works
        state = from_tables(decode(works.datapath.tables), pf)
        # a tap NIC's uplink is in sight before it is taken
        works.uplink = state.pf.uplink if state.configured else None
        works.wire = links.get(works.uplink or "")
        works.read()
        self._root_nsid = switch.root_nsid()
        self._marks = Marks(switch, self._guests, self.reach, self._root_nsid)
        try:
            works.release_uplinks()
        except OSError as e:
            self._watch.add([Event(EventKind.LINK, text=f"a former uplink stays: {e.strerror}")])
        if not state.configured:
            return state
        works.doubt_wire()
        self._state = state
        self._watch.seek_holders(state.grants)
        self._follow_all()
        lost = [v for v in range(state.pf.vfs or 0) if v not in switch.ports]
        self._watch.add(self._lose(lost))
        self._state = works.enforce(self._state, self._state)
        self._watch.add(self._unmade(lost))
        self._watch.sync_all()
        self._take_back_unheld()
        return self._state

    def _take_back_unheld(self) -> None:
        """Guests that went while no daemon lived leave nothing to the next ones."""
        gone = [vfid for vfid in self._state.grants if self._waits(vfid)]
        if not gone:
            return
        self._take_back(gone)
        for vfid in gone:
            self._taken_back[vfid] += 1
            place = self._guests.place(vfid)
            if place and not self._switch.tap:
                self._ends.follow(self._state, vfid, place)
                if place[0] == self._root_nsid:
                    self._ends.welcome_home(self._state, vfid, place[1])
                else:
                    self._watch.sync(vfid)
        text = "the guest that was granted what the VF had is gone"
        self._watch.add([Event(EventKind.GUEST_GONE, vfid, text) for vfid in gone])

    def _waits(self, vfid: int) -> bool:
        """Whether it is certain that the guest that was granted what the VF has is gone. Looks
        itself: a namespace where much happens may not have been listed yet."""
        port, place = self._switch.ports.get(vfid), self._guests.place(vfid)
        if self._marks.is_anothers(vfid):
            return True
        if self._switch.tap:
            return port is not None and not port.held
        if place is None or place[0] != self._root_nsid or self._marks.noted(vfid) == HERE:
            return False
        link = rtnl.link(self._switch.root_netlink, index=place[1])
        return link is not None and not link.up

    def _follow_all(self) -> None:
        for vfid, port in self._switch.ports.items():
            if place := self._guests.place(vfid) or port.guest:
                self._ends.follow(self._state, vfid, place)
                if self._switch.tap:
                    self._guests.hold(vfid, port.held)
                if self._switch.tap:  # heard by its reports alone
                    self._guests.keep_groups(vfid, (rtnl.AF_INET, rtnl.AF_INET6))
                elif not rtnl.tells_groups():
                    self._guests.keep_groups(vfid, (rtnl.AF_INET,))

    # The protocol

    @property
    def identity(self) -> Identity:
        return Identity(
            id=self._switch.id,
            backend="soft",
            address=self._switch.id,
            model="eBPF VEB on tap" if self._switch.tap else "eBPF VEB on veth",
            driver="tun" if self._switch.tap else "veth",
            firmware=program_version(),
        )

    @property
    def capabilities(self) -> Capabilities:
        return capabilities(self._state.pf)

    def link(self) -> Link:
        speed, uplink = self._link_bps(), self._state.pf.uplink
        why = ""
        if uplink and self._works.wire is None:
            why = self._works.no_wire or (
                f"the uplink {uplink} is no netdev of this host: no wire until it is one"
            )
        return Link(self._state.wire_up, speed if self._state.wire_up else None, why)

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:
        return shortfalls(rules, self._state.pf)

    def expressible(self, vfid: int, rules: VfRules | None) -> VfRules | None:  # noqa: ARG002
        if rules is None:
            return None
        return expressible(rules, self._state.pf, self._works.speed)

    def _link_bps(self) -> int:
        with self._errors("asking for the link's speed"):
            return self._works.link_bps(self._state)

    def observe(
        self,
        only: Collection[int] | None = None,
        *,
        guests: bool = True,  # noqa: ARG002
    ) -> NicState:
        with self._errors("looking at what is enforced"):
            return self._observe(only)

    def _observe(self, only: Collection[int] | None) -> NicState:
        if self._drifted:
            only = None
        state = self._state
        rules = self._works.rules(state, look=self._drifted, only=only)
        names = self._guest_names()
        vfs = {}
        for vfid in sorted(self._switch.ports if only is None else only):
            port = self._switch.ports.get(vfid)
            if port is None:
                continue
            place = self._guests.place(vfid)
            held = port.held if self._switch.tap else self._is_held(vfid, place)
            vfs[vfid] = VfState(
                vfid=vfid,
                rules=rules.get(vfid),
                link_up=port.up and state.link_up(vfid),
                mac=state.mac(vfid),
                mtu=state.mtu(vfid),
                address=self._switch.guest_name(vfid),
                guest=names.get(place[0], "") if place and held else "",
                held=held,
                grants=state.grants.get(vfid, Grants()),
            )
        return NicState(state.pf if state.configured else None, self.link(), vfs)

    def adopt(self, policies: Collection[VfPolicy]) -> None:
        """Its tables say what is in force, and what was granted beside it."""

    def manage(self, vfids: Collection[int] | None) -> None:
        """Nobody else can open a VF of a software NIC: without a configuration it passes nothing,
        whoever's it is."""

    def apply(self, desired: NicPolicy, changes: Sequence[Change]) -> None:
        before, wire = self._state, self._works.wire
        if any(isinstance(c, PfChange) for c in changes) and before.configured:
            self._check_guest_kind(before.pf, desired.pf)
        try:
            if self._drifted:
                self._repair()
            after = self._works.enforce(self._state, self._asked(desired))
            self._check_made(changes)
            self._state = after
            self._drifted = False
        except (OSError, NicError) as e:
            self._put_back(e)
        finally:
            self._watch.add(self._found_wire(before, wire))
        self._dress(before)

    def answer(self, answers: Sequence[tuple[Request, Decision]]) -> None:
        before = self._state
        now: dict[int, Grants] = {}
        for request, decision in answers:
            vfid = request.vfid
            if self._watch.is_gone(vfid):
                continue  # granted now, it would be the next guest's
            if decision.granted and request.kind is not RequestKind.VLAN and vfid in before.vfs:
                has = now.get(vfid) or before.grants.get(vfid, Grants())
                now[vfid] = granted(has, request)
        if any(grants != before.grants.get(vfid, Grants()) for vfid, grants in now.items()):
            self._marks.note(now)
            self._rewrite(before.granted(now), "granting what guests asked for")

    def revoke(self, vfid: int) -> None:
        if self._taken_back[vfid]:
            self._taken_back[vfid] -= 1
        elif vfid in self._switch.ports:
            self._take_back([vfid])

    def counters(self) -> Counters:
        with self._errors("reading counters"):
            return self._works.counters()

    def fileno(self) -> int:
        return self._watch.fileno()

    def events(self) -> list[Event]:
        with self._errors("reading events"):
            events = self._watch.events()
            self._works.datapath.attach_next()
            if self._works.datapath.has_waiting_hooks:
                self._watch.look_soon()
            return events

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._held.close()

    # What the watch asks for

    def wire_changed(self, link: rtnl.Link | None) -> list[Event]:
        was, before = self._works.wire, self._state
        if not before.pf.uplink:
            return []
        self._works.wire = link
        up = link is not None and link.up and link.carrier
        events = []
        if was is not None and link is None:
            text = f"the uplink {before.pf.uplink} is gone"
            events.append(Event(EventKind.LINK, text=text))
        if up != before.wire_up or (was and was.index) != (link and link.index):
            self._state = self._works.enforce(before, replace(before, wire_up=up))
            events.append(self._word_of_wire())
        elif was is not None and link is not None and was.mtu != link.mtu:
            self._works.rewrite(before)
        return events

    def wire_appeared(self, name: str) -> list[Event]:
        try:
            link = self._switch.take_uplink(name)
        except (NicError, OSError) as e:
            return [Event(EventKind.DRIFT, text=f"the uplink {name} can't be taken: {e}")]
        return self.wire_changed(link)

    def _word_of_wire(self) -> Event:
        """As it is by now: enforcing what a lost uplink changes may find another one."""
        word = "up" if self._state.wire_up else "down"
        return Event(EventKind.LINK, text=f"the wire {self._state.pf.uplink} is {word}")

    def _found_wire(self, before: State, wire: rtnl.Link | None) -> list[Event]:
        """Tells when what was enforced since ``before`` found the uplink to be another, or there
        again: then its notification, which is to come, shows nothing new."""
        now = self._state
        same = _netdev(self._works.wire) == _netdev(wire) and now.wire_up == before.wire_up
        if same or not now.pf.uplink or now.pf.uplink != before.pf.uplink:
            return []
        return [self._word_of_wire()]

    def vfs_lost(self, vfids: Collection[int]) -> list[Event]:
        before, wire = self._state, self._works.wire
        events = self._lose(vfids)
        try:
            self._state = self._works.enforce(self._state, self._state)
        except (OSError, NicError) as e:
            self._drifted = True
            events.append(Event(EventKind.DRIFT, text=f"lost VFs could not be made anew: {e}"))
        return events + self._unmade(vfids) + self._found_wire(before, wire)

    def guest_moved(self, vfid: int, before: Place | None, after: Place | None) -> list[Event]:
        if self._switch.tap:
            self._guests.hold(vfid, after is not None)
            if after is None:
                return [self._guest_gone(vfid, "no process holds the tap any more")]
            self._sent_before[vfid] = self._sent(vfid)
            return [Event(EventKind.GUEST_COME, vfid, "a process holds the tap")]
        root = self._root_nsid
        events = []
        if before is not None and before[0] != root:
            self._guests.remove(vfid)
            events.append(self._guest_gone(vfid, "the VF was moved away"))
        self._homes.forget()
        if after is not None:
            self._ends.follow(self._state, vfid, after)
            self.guest_stays(vfid)
            if after[0] != root:
                name = self._guest_names().get(after[0], "")
                events.append(Event(EventKind.GUEST_COME, vfid, f"taken by {name or 'a guest'}"))
            elif before is not None:
                self._ends.welcome_home(self._state, vfid, after[1])
        try:
            self._works.adapt(self._state)
        except (OSError, NicError) as e:
            events += self.drifted(vfid, f"its guest's place could not be followed: {e}")
        return events

    def guest_stays(self, vfid: int) -> None:
        if vfid in self._state.grants:
            self._marks.note([vfid])

    def forget_guests(self) -> None:
        if not self._switch.tap:
            self._follow_all()

    def guest_changed(self) -> None:
        self._works.adapt(self._state)

    def drifted(self, vfid: int | None, what: str) -> list[Event]:
        self._drifted = True
        return [Event(EventKind.DRIFT, vfid, what)]

    def uplink(self) -> tuple[str | None, int]:
        wire = self._works.wire
        return self._state.pf.uplink, wire.index if wire else 0

    def grants(self) -> Mapping[int, Grants]:
        return self._state.grants

    def may_be_its_own(self, vfid: int) -> bool:
        vf = self._state.vfs.get(vfid)
        if vf is None or vf.vm_mac or self._state.grants.get(vfid, Grants()).default_mac:
            return False
        # a machine that has sent under the VF's MAC has that one
        return self._sent(vfid) == self._sent_before.get(vfid, 0)

    def _sent(self, vfid: int) -> int:
        return self._works.datapath.counters([vfid])[vfid]["tx_packets"]

    def related(self, nsid: int | None) -> set[int]:
        return self._homes.related(nsid)

    def reach(self, nsid: int | None) -> contextlib.AbstractContextManager[Netlink | None]:
        if nsid == self._root_nsid:
            return contextlib.nullcontext(self._switch.root_netlink)
        return self._homes.reach(nsid)

    # Inside

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """The kernel's errors as the NIC's, which is what the protocol promises."""
        try:
            yield
        except OSError as e:
            raise NicError(f"{self._switch.id}: {what} failed: {e.strerror or e}") from e

    def _check_guest_kind(self, before: PfPolicy, after: PfPolicy) -> None:
        if before.guest != after.guest:
            raise NicError(
                f"{self._switch.id}: its guests are {before.guest}s and can't become {after.guest}s"
                " while the NIC exists: remove the NIC (`iplex pf remove`), then add it with the"
                " other kind"
            )

    def _asked(self, desired: NicPolicy) -> State:
        """The state that the caller asks for."""
        before = self._state
        vfs = {vf.vfid: in_steps(vf) for vf in desired.vfs}
        after = replace(before, pf=desired.pf, vfs=vfs, configured=True)
        after = after.unforced().unreserved()
        return after.fresh([v for v in before.vfs if v not in vfs and before.grants.get(v)])

    def _check_made(self, changes: Sequence[Change]) -> None:
        """A VF that could not be made fails what asks for it, and nothing else."""
        before = self._state
        opened = {c.vfid for c in changes if isinstance(c, VfChange) and c.after is not None}
        for vfid, why in self._switch.unmade.items():
            if vfid in opened or (before.configured and vfid >= (before.pf.vfs or 0)):
                raise NicError(why)

    def _lose(self, vfids: Collection[int]) -> list[Event]:
        """VFs' netdevs are gone: forgets them and their guests, with what those were granted."""
        events = []
        for vfid in sorted(vfids):
            held = self._is_held(vfid, self._guests.place(vfid))
            self._guests.remove(vfid)
            self._watch.forget(vfid)
            self._switch.ports.pop(vfid, None)
            self._works.forget(vfid)
            self._marks.forget(vfid)
            if held:
                self._taken_back[vfid] += 1
                text = "its netdev went with its namespace"
                events.append(Event(EventKind.GUEST_GONE, vfid, text))
            events.append(Event(EventKind.VF_RESET, vfid, _LOST))
        self._state = self._state.fresh(list(vfids))
        return events

    def _unmade(self, vfids: Collection[int]) -> list[Event]:
        """Tells which of them could not be made. ``observe`` doesn't show them, so that every
        plan asks for them again."""
        unmade = self._switch.unmade
        return [Event(EventKind.DRIFT, v, unmade[v]) for v in sorted(vfids) if v in unmade]

    def _repair(self) -> None:
        """Puts back what others took away. What they took is looked for everywhere, so that VFs
        may be found gone of which nobody was told yet."""
        known = set(self._switch.ports)
        try:
            self._works.repair()
        finally:
            self._watch.add(self._lose(known - self._switch.ports.keys()))

    def _rewrite(self, after: State, what: str) -> None:
        """Only the tables change; all or nothing."""
        before, wire = self._state, self._works.wire
        try:
            self._works.rewrite(after)
            self._state = after
        except (OSError, NicError) as e:
            try:
                self._put_back(e, what)
            finally:
                self._watch.add(self._found_wire(before, wire))

    def _put_back(self, error: Exception, what: str = "the change") -> NoReturn:
        """Enforces what was enforced before, and says what went wrong."""
        why = getattr(error, "strerror", None) or str(error)
        try:
            self._repair()
            self._state = self._works.enforce(self._state, self._state)
            self._works.release_uplinks()
        except (OSError, NicError) as again:
            self._drifted = True
            failed = f"{self._switch.id}: {what} failed: {why}"
            if str(again) != str(error):  # else it stood in the way before, too
                failed += f"; and putting everything back failed too: {again}"
            raise NicError(f"{failed}. The next change tries again") from error
        raise NicError(f"{self._switch.id}: {what} failed and was undone: {why}") from error

    def _is_held(self, vfid: int, place: Place | None) -> bool:
        """A guest has the VF: in a namespace of its own, or up where it is."""
        if place is None:
            return False
        return place[0] != self._root_nsid or self._guests.is_up(vfid)

    def _guest_names(self) -> dict[int | None, str]:
        """The names of the namespaces that guests are in, by id."""
        if self._switch.tap:
            return {}
        wanted = {
            place[0]
            for vfid in self._switch.ports
            if (place := self._guests.place(vfid)) and place[0] not in (self._root_nsid, None)
        }
        return self._homes.names(wanted)

    def _guest_gone(self, vfid: int, text: str) -> Event:
        """What was granted is taken back before anything else: what the next guest shows is
        compared with a VF that starts again."""
        try:
            self._take_back([vfid])
            self._taken_back[vfid] += 1
        except NicError:
            pass  # ``revoke`` tries again, and its failure is told
        return Event(EventKind.GUEST_GONE, vfid, text)

    def _take_back(self, vfids: Collection[int]) -> None:
        before = self._state
        self._rewrite(before.fresh(vfids), "taking grants back")
        self._dress(before)

    def _dress(self, before: State) -> None:
        """Gives guest ends the MACs and MTUs that changed, as far as they can be reached, and asks
        guests of VFs that open what they want. What counts is enforced already, so a failure
        doesn't fail what was asked for."""
        try:
            self._ends.dress(before, self._state)
        except (OSError, NicError) as e:
            self._watch.add(self.drifted(None, f"guest ends could not be dressed: {e}"))


def _netdev(link: rtnl.Link | None) -> tuple[int, str] | None:
    """Which one it is: one made anew may have the index of the former."""
    return (link.index, link.mac) if link else None
