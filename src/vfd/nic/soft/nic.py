"""The soft NIC behind the protocol of a NIC."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from vfd.nic.netlink import Message, Netlink
from vfd.nic.protocol import (
    PF_PORT,
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
from vfd.nic.soft import namespace, rtnl
from vfd.nic.soft.capabilities import capabilities
from vfd.nic.soft.datapath import open_datapath, program_version
from vfd.nic.soft.enforce import Enforcement
from vfd.nic.soft.guests import Guests, Place
from vfd.nic.soft.state import State, expressible, from_tables
from vfd.nic.soft.switch import MAX_ID, Switch
from vfd.nic.soft.tables import decode
from vfd.nic.soft.watch import Watch
from vfd.plan.changes import Change, PfChange
from vfd.policy.requests import Decision, Grants, Request, RequestKind, granted
from vfd.policy.values import NicPolicy, PfPolicy, VfRules

_MADE_ANEW = "its netdev was gone and was made anew"


class SoftNic:
    """One soft NIC, opened. Use ``vfd.nic.soft.open``."""

    def __init__(self, pf: PfPolicy) -> None:
        if len(pf.id) > MAX_ID or "/" in pf.id or not pf.id.isascii():
            raise NicError(
                f"{pf.id!r} can't be the id of a soft NIC: its VFs' netdevs are called <id>v<N>,"
                f" so it has at most {MAX_ID} plain characters"
            )
        self._guests = Guests()
        self._names: dict[int | None, str] = {}
        self._fresh: set[int] = set()
        """VFs that have their fresh MAC already and were asked nothing since."""
        self._drifted = False
        self._closed = False
        self._switch = Switch(pf.id, pf.guest)
        try:
            self._switch.enter()
            links = self._switch.look()
            if not self._switch.near or not self._switch.far:
                self._switch.build_shaper()
            datapath = open_datapath(self._switch)
            self._works = Enforcement(self._switch, datapath, self._guests)
            self._watch = Watch(self._switch, self._guests, self, datapath.ring, datapath.drain)
            self._state = self._adopt(pf, links)
        except NicError:
            self._switch.close()
            raise
        except OSError as e:
            self._switch.close()
            raise NicError(f"{pf.id} can't be opened: {e.strerror or e}") from e

    def _adopt(self, pf: PfPolicy, links: Mapping[str, rtnl.Link]) -> State:
        """Takes over what is enforced, and finishes or closes what a crash left half done."""
        switch, works = self._switch, self._works
        state = from_tables(decode(works.datapath.tables), pf)
        # a tap NIC's uplink is in sight before it is taken
        works.wire = links.get(state.pf.uplink or "") if state.configured else None
        works.read()
        self._root_nsid = switch.root_nsid()
        if not state.configured:
            return state
        for vfid, port in switch.ports.items():
            if port.guest:
                self._follow(state, vfid, port.guest)
                if not rtnl.tells_groups():
                    self._guests.keep_groups(vfid)
        lost = [v for v in range(state.pf.vfs or 0) if v not in switch.ports]
        state = works.enforce(state, state.fresh(lost))
        self._state = state
        self._watch.add([Event(EventKind.VF_RESET, vfid, _MADE_ANEW) for vfid in lost])
        self._watch.add(self._watch.sync_all())
        return state

    def _follow(self, state: State, vfid: int, place: Place) -> None:
        self._guests.add(
            vfid,
            place,
            mac=state.mac(vfid) or "",
            mtu=state.mtu(vfid),
            grants=state.grants.get(vfid, Grants()),
        )

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
        speed = self._works.link_bps(self._state)
        return Link(self._state.wire_up, speed if self._state.wire_up else None)

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:  # noqa: ARG002
        return {}

    def expressible(self, vfid: int, rules: VfRules | None) -> VfRules | None:  # noqa: ARG002
        if rules is None:
            return None
        return expressible(rules, self._state.pf, self._works.link_bps(self._state))

    def observe(
        self,
        only: Collection[int] | None = None,
        *,
        guests: bool = True,  # noqa: ARG002
    ) -> NicState:
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
            held = port.carrier if self._switch.tap else self._is_held(vfid, place)
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

    def apply(self, desired: NicPolicy, changes: Sequence[Change]) -> None:
        before = self._state
        after = replace(
            before,
            pf=desired.pf,
            vfs={vf.vfid: vf for vf in desired.vfs},
            configured=True,
        )
        closed = [v for v in before.vfs if v not in after.vfs]
        after = after.fresh([v for v in closed if before.grants.get(v)])
        if any(isinstance(c, PfChange) for c in changes) and before.configured:
            self._check_guest_kind(before.pf, desired.pf)
        try:
            if self._drifted:
                self._works.repair()
            self._state = self._works.enforce(before, after)
            self._drifted = False
        except (OSError, NicError) as e:
            self._put_back(before, e)
        self._dress(before)

    def answer(self, answers: Sequence[tuple[Request, Decision]]) -> None:
        before = self._state
        now: dict[int, Grants] = {}
        for request, decision in answers:
            vfid = request.vfid
            self._fresh.discard(vfid)
            if decision.granted and request.kind is not RequestKind.VLAN and vfid in before.vfs:
                has = now.get(vfid) or before.grants.get(vfid, Grants())
                now[vfid] = granted(has, request)
        if any(grants != before.grants.get(vfid, Grants()) for vfid, grants in now.items()):
            self._rewrite(before.granted(now), "granting what guests asked for")

    def revoke(self, vfid: int) -> None:
        if vfid in self._fresh or vfid not in self._switch.ports:
            return
        before = self._state
        self._rewrite(before.fresh([vfid]), "taking grants back")
        self._fresh.add(vfid)
        self._dress(before)

    def counters(self) -> Counters:
        found = self._works.datapath.counters(self._switch.ports)
        for vfid, (tx, rx) in self._works.rate_dropped().items():
            for port in (vfid, PF_PORT):
                found[port]["rate_dropped"] += tx + rx
            found[vfid]["tx_dropped"] += tx
            found[vfid]["rx_dropped"] += rx
        return found

    def fileno(self) -> int:
        return self._watch.fileno()

    def events(self) -> list[Event]:
        try:
            return self._watch.events()
        except OSError as e:
            raise NicError(f"{self._switch.id}: reading events failed: {e.strerror or e}") from e

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._watch.close()
        self._works.datapath.close()
        self._switch.close()

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
            word = "up" if up else "down"
            events.append(Event(EventKind.LINK, text=f"the wire {before.pf.uplink} is {word}"))
        elif was is not None and link is not None and was.mtu != link.mtu:
            self._works.rewrite(before)
        return events

    def wire_appeared(self, name: str) -> list[Event]:
        try:
            link = self._switch.take_uplink(name)
        except (NicError, OSError) as e:
            return [Event(EventKind.DRIFT, text=f"the uplink {name} can't be taken: {e}")]
        return self.wire_changed(link)

    def vf_lost(self, vfid: int) -> list[Event]:
        place = self._guests.place(vfid)
        held = self._is_held(vfid, place)
        self._guests.remove(vfid)
        self._watch.forget(vfid)
        self._switch.ports.pop(vfid, None)
        self._works.forget(vfid)
        events = []
        if held:
            events.append(Event(EventKind.GUEST_GONE, vfid, "its netdev went with its namespace"))
        before = self._state
        try:
            self._state = self._works.enforce(before, before.fresh([vfid]))
        except (OSError, NicError) as e:
            # closed: it has no netdev; observe doesn't show it, so the next plan makes it
            events.append(Event(EventKind.DRIFT, vfid, f"the VF could not be made anew: {e}"))
            return events
        self._fresh.add(vfid)
        events.append(Event(EventKind.VF_RESET, vfid, _MADE_ANEW))
        return events

    def guest_moved(self, vfid: int, before: Place | None, after: Place | None) -> list[Event]:
        if self._switch.tap:
            if after is None:
                return [Event(EventKind.GUEST_GONE, vfid, "no process holds the tap any more")]
            self._fresh.discard(vfid)
            return [Event(EventKind.GUEST_COME, vfid, "a process holds the tap")]
        root = self._root_nsid
        events = []
        if before is not None and before[0] != root:
            events.append(Event(EventKind.GUEST_GONE, vfid, "the VF was moved away"))
        self._names.clear()
        if after is not None:
            self._follow(self._state, vfid, after)
            if after[0] != root:
                self._fresh.discard(vfid)
                name = self._guest_names().get(after[0], "")
                events.append(Event(EventKind.GUEST_COME, vfid, f"taken by {name or 'a guest'}"))
            elif before is not None:
                self._rename_home(vfid, after[1])
        self._works.adapt(self._state)
        return events

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

    # Inside

    def _check_guest_kind(self, before: PfPolicy, after: PfPolicy) -> None:
        if before.guest != after.guest:
            raise NicError(
                f"{self._switch.id}: its guests are {before.guest}s and can't become {after.guest}s"
                " while the NIC exists: remove the NIC, then add it with the other kind"
            )

    def _rewrite(self, after: State, what: str) -> None:
        """Only the tables change; all or nothing."""
        before = self._state
        try:
            self._works.rewrite(after)
            self._state = after
        except OSError as e:
            self._put_back(before, e, what)

    def _put_back(self, before: State, error: Exception, what: str = "the change") -> NoReturn:
        """Enforces what was enforced before, and says what went wrong."""
        why = getattr(error, "strerror", None) or str(error)
        try:
            self._works.repair()
            self._state = self._works.enforce(before, before)
        except (OSError, NicError) as again:
            self._drifted = True
            raise NicError(
                f"{self._switch.id}: {what} failed: {why}; and putting everything back failed"
                f" too: {again}. The next change tries again"
            ) from error
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
        if wanted - self._names.keys():
            self._names = dict.fromkeys(wanted, "")
            missing = set(wanted)
            for name, path in namespace.seen():
                nsid = self._nsid(path)
                if nsid in missing:
                    self._names[nsid] = name
                    missing.discard(nsid)
                if not missing:
                    break
        return self._names

    def _nsid(self, path: Path) -> int | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return rtnl.nsid_of(self._switch.netlink, fd)
        except OSError:
            return None
        finally:
            os.close(fd)

    def _rename_home(self, vfid: int, index: int) -> None:
        """A VF that came back has its own name again, down, as a VF without a guest."""
        name = self._switch.guest_name(vfid)
        home = rtnl.set_link(index, what=f"renaming {name}", up=False, name=name)
        self._switch.root_netlink.send_all([home])

    def _dress(self, before: State) -> None:
        """Gives guest ends the MACs and MTUs that changed, as far as they can be reached: what
        counts is enforced already. Guests of VFs that open are asked what they want."""
        home: list[Message] = []
        for vfid in sorted(self._state.differing(before) & self._switch.ports.keys()):
            opened = vfid in self._state.vfs and vfid not in before.vfs
            changed = self._state.mac(vfid) != before.mac(vfid) or (
                self._state.mtu(vfid) != before.mtu(vfid)
            )
            if opened or changed:
                home += self._dress_one(vfid, opened)
        if home:
            self._switch.root_netlink.send_all(home)
            self._works.adapt(self._state)

    def _dress_one(self, vfid: int, opened: bool) -> list[Message]:
        """Messages for the daemon's namespace; what is elsewhere is done at once."""
        mac, mtu = self._state.mac(vfid), self._state.mtu(vfid)
        place = self._guests.place(vfid)
        what = f"dressing VF {vfid}"
        if self._switch.tap:
            self._watch.forget(vfid)
            host = self._switch.ports[vfid].host
            return [rtnl.set_link(host, what=what, mac=mac)]
        if place is None:
            return []
        nsid, index = place
        worn = self._guests.mac(vfid), self._guests.mtu(vfid)
        if nsid == self._root_nsid:
            if opened:
                self._follow(self._state, vfid, place)
            self._guests.expect(vfid, mac=mac, mtu=mtu)
            if opened:
                asked = self._guests.ask([vfid])
                self._watch.add([Event(EventKind.REQUEST, vfid, request=r) for r in asked])
            if worn == (mac, mtu):
                return []
            return [rtnl.set_link(index, what=what, mac=mac, mtu=mtu)]
        vf = self._state.vfs.get(vfid)
        if vf is not None and vf.vm_mac is not None:
            self._guests.expect(vfid, mac=vf.vm_mac)
            self._set_mac_far(nsid, index, vf.vm_mac)
        if opened:
            self._follow(self._state, vfid, place)
            self._watch.add(self._watch.sync(vfid))
        return []

    def _set_mac_far(self, nsid: int | None, index: int, mac: str) -> None:
        """Sets a guest end's MAC in its guest's namespace, if that can be reached by a name."""
        for _, path in namespace.seen():
            if self._nsid(path) != nsid:
                continue
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                with namespace.inside(fd):
                    there = Netlink()
                try:
                    there.send_all([rtnl.set_link(index, what="dressing a guest end", mac=mac)])
                finally:
                    there.close()
            finally:
                os.close(fd)
            return
