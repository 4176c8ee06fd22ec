"""From a state to netdevs, qdiscs and tables, in an order that never opens a hole.

``Enforcement`` knows what the kernel has now, so that it only sends what differs; enforcing the
state that is in force repairs what was broken, and enforcing the state before undoes a change.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import lru_cache

from vfd.nic.netlink import Message
from vfd.nic.protocol import PF_PORT, NicError
from vfd.nic.soft import rtnl, shaper
from vfd.nic.soft.compiler import Compiled
from vfd.nic.soft.datapath import Datapath
from vfd.nic.soft.guests import Guests
from vfd.nic.soft.rtnl import Link
from vfd.nic.soft.state import DEFAULT_SPEED, State
from vfd.nic.soft.switch import NoUplinkError, Switch, speed_of
from vfd.nic.soft.tables import (
    Iface,
    Tables,
    Wiring,
    changed_ports,
    decode,
    mac_port,
    needs_shaper,
)
from vfd.policy.rate import NONE, Rate
from vfd.policy.requests import Grants
from vfd.policy.values import MAX_VFS, LinkStatus, VfRules

_TBF_WAIT_MS = 50
"""How much may wait before an Rx limit, as time at its rate."""


class Enforcement:
    """What one soft NIC's kernel objects enforce now."""

    def __init__(self, switch: Switch, datapath: Datapath, guests: Guests) -> None:
        self._switch = switch
        self._guests = guests
        self.datapath = datapath
        self.wire: Link | None = None
        self.uplink: str | None = None
        """The uplink in the configuration that ``wire`` is."""
        self.speed = DEFAULT_SPEED
        """The link's, in bits per second, when it was last asked for."""
        self.no_wire = ""
        """Why a netdev of that name is not taken."""
        self._peers: set[int] = set()
        self._compiled = Compiled()
        self._decoded_from: Tables | None = None
        self._decoded_rules: dict[int, VfRules] = {}
        self._trees: tuple[shaper.Tree, shaper.Tree] = ({}, {})
        self._drops: dict[shaper.Queue, int] = {}
        """Of each queue of the shaper, when it was looked at last."""
        self._buckets: dict[int, int] = {}

    def read(self) -> None:
        """Looks at the shaper and the Rx limits, as others may have changed them."""
        hosts = {port.host: vfid for vfid, port in self._switch.ports.items()}
        found: list[shaper.Tree] = [{}, {}]
        self._buckets = {}
        for qdisc in rtnl.qdiscs(self._switch.netlink):
            if qdisc.index in self._ends and qdisc.handle == shaper.HANDLE:
                tree, _ = shaper.read(self._switch.netlink, qdisc.index)
                found[self._ends.index(qdisc.index)] = tree
            elif qdisc.kind == "tbf" and qdisc.index in hosts:
                self._buckets[hosts[qdisc.index]] = rtnl.tbf_rate(qdisc)
        self._trees = found[0], found[1]

    @property
    def _ends(self) -> tuple[int, int]:
        """The shaper's, each with its tree."""
        return self._switch.near, self._switch.far

    def link_bps(self, state: State) -> int:
        """The link's speed: stated, else the uplink's, else 10 Gbit/s."""
        found = state.pf.link_speed
        if not found and self.wire is not None:
            with self._switch.inside():
                found = speed_of(self.wire.name)
        self.speed = found or DEFAULT_SPEED
        return self.speed

    def enforce(self, old: State, new: State) -> State:
        """Leads from ``old`` to ``new``; returns ``new`` with what was made on the way (MACs).

        Raises NicError or OSError half way; enforcing ``old`` then puts everything back."""
        new = self._come(old, new)
        nic = new.policy
        trees = shaper.trees(nic, self.link_bps(new))
        moved = any(map(shaper.moved, self._trees, trees))
        if moved or not self._switch.shaper_ready:
            self._rebuild_shaper()
        steps = [*map(shaper.changes, self._ends, self._trees, trees)]
        buckets = {v: b for v, b in new.rx_limits().items() if v in self._switch.ports}
        self._send([message for first, _ in steps for message in first])
        lifted = {v: b for v, b in self._buckets.items() if v not in buckets}
        self._limit(lifted, drop=True)
        self._write(new, buckets)
        self._limit({v: b for v, b in buckets.items() if self._buckets.get(v) != b})
        self._switch.raise_ports({v: new.link_up(v) for v in self._switch.ports})
        self._leave(trees)
        self._send([message for _, last in steps for message in last])
        self._trees = trees
        self._go(old, new)
        return new

    def rules(
        self, state: State, *, look: bool, only: Collection[int] | None
    ) -> dict[int, VfRules]:
        """What is enforced, by open VF. ``look``: reads everything back, because somebody else
        changed something; what isn't there then shows as not enforced. ``only``: these VFs."""
        if look:
            self.datapath.reread()
            self.read()
        if not self.datapath.is_attached(self._switch):
            return {}
        nic, limits = state.policy, state.rx_limits()
        wanted = shaper.trees(nic, self.link_bps(state))
        shaped = needs_shaper(nic)
        whole = self._switch.shaper_ready and wanted == self._trees
        found: dict[int, VfRules] = {}
        decoded = self._decoded()
        for vfid in decoded if only is None else only:
            port, rules = self._switch.ports.get(vfid), decoded.get(vfid)
            if rules is None or port is None or not port.hooked:
                continue
            changed: dict[str, object] = {}
            if state.link_up(vfid) and not port.up:
                changed["link_status"] = LinkStatus.OFF
            if limits.get(vfid, 0) != self._buckets.get(vfid, 0):
                bps = self._buckets.get(vfid, 0)
                changed["max_rx_rate"] = Rate(bps=bps) if bps else NONE
            if not whole and vfid in shaped:
                changed |= {"rate": NONE, "min_rate": NONE, "queues": ()}
            found[vfid] = rules.model_copy(update=changed) if changed else rules
        return found

    def _decoded(self) -> dict[int, VfRules]:
        """The rules that the tables hold; decoded again only where the tables changed."""
        tables, before = self.datapath.tables, self._decoded_from
        if tables is not before:
            changed = changed_ports(before or Tables(), tables)
            ports = {port: tables.ports[port] for port in changed if port in tables.ports}
            macs = {}
            if ports:
                macs = {k: raw for k, raw in tables.macs.items() if mac_port(raw) in ports}
            for port in changed:
                self._decoded_rules.pop(port - 1, None)
            for vfid, vf in decode(Tables(ports=ports, macs=macs)).vfs.items():
                if vf.rules is not None:
                    self._decoded_rules[vfid] = vf.rules
            self._decoded_from = tables
        return self._decoded_rules

    def repair(self) -> None:
        """Puts back what somebody took away under the netdevs and looks at the rest, so that the
        next ``enforce`` sees what differs."""
        self._switch.look()
        if not self._switch.shaper_ready:
            self._switch.build_shaper()
        self.datapath.attach(self._switch)
        self.read()
        self.doubt_wire()

    def doubt_wire(self) -> None:
        """A wire that somebody took the hook from, or that a killed daemon did not get to hook, is
        one to be taken: the next ``enforce`` does that."""
        if self.wire and not self._switch.is_hooked(self.wire.index):
            self.wire = None

    def forget(self, vfid: int) -> None:
        """The VF's netdevs are gone, and their queues with them."""
        self._buckets.pop(vfid, None)

    def adapt(self, state: State) -> None:
        """Guest ends moved or changed: makes room for their frames, and rewrites the tables where
        that matters."""
        self._make_room(state)
        if self._may_skip_host_ends(state, self._buckets) != self._peers:
            self.rewrite(state)

    def _make_room(self, state: State, *, only_more: bool = False) -> None:
        """For the larger MTU of each VF and its guest: while the daemon is away the VF's may be
        used, and what is above it is counted."""
        mtus = {
            vfid: max(state.mtu(vfid) if vfid in state.vfs else 0, self._guests.mtu(vfid))
            for vfid in self._switch.ports
        }
        self._switch.make_room(mtus, only_more=only_more)

    def rewrite(self, state: State) -> None:
        """Only the tables: grants, wire and guests' places changed, nothing else."""
        self._write(state, self._buckets)

    def _write(self, state: State, limited: Mapping[int, int]) -> None:
        self._make_room(state, only_more=True)
        tap = self._switch.tap
        self._peers = self._may_skip_host_ends(state, limited)
        nic = state.policy
        wiring = Wiring(
            vfs={
                vfid: _iface(port.host, vfid in self._peers, tap)
                for vfid, port in self._switch.ports.items()
            },
            wire=self.wire.index if self.wire else None,
            wire_up=state.wire_up,
            own_macs=state.own_macs,
            shaper=self._switch.near or None,
            limiter=self._switch.far or None,
            shaped=needs_shaper(nic),
        )
        compiled = self._compiled.then(nic, state.grants, wiring)
        self.datapath.write(self._switch, compiled.tables)
        self._compiled = compiled
        self._make_room(state)

    def _may_skip_host_ends(self, state: State, limited: Mapping[int, int]) -> set[int]:
        """The VFs to which ``bpf_redirect_peer`` may be used: it skips the host end with its queue
        and its MTU and the guest's native XDP, and drops where the guest end is in the program's
        own namespace."""
        if self._switch.tap:
            return set()
        largest = max(state.largest_mtu(), self.wire.mtu if self.wire else 0)
        xdp = {vfid for vfid, port in self._switch.ports.items() if port.has_xdp}
        return (self._guests.roomy(largest) & state.vfs.keys()) - limited.keys() - xdp

    def _come(self, old: State, new: State) -> State:
        """Makes what isn't there: VFs, hooks, the uplink. A VF that is made has had no guest."""
        wanted = set(self._switch.ports if new.pf.vfs is None else range(new.pf.vfs))
        missing = sorted(wanted - self._switch.ports.keys())
        new = new.fresh(missing)
        self._switch.make({v: (new.mac(v) or new.own_macs[v], new.mtu(v)) for v in missing})
        for vfid in missing:
            port = self._switch.ports.get(vfid)
            if port and port.guest:
                self._guests.add(
                    vfid,
                    port.guest,
                    mac=new.mac(vfid) or "",
                    mtu=new.mtu(vfid),
                    grants=new.grants.get(vfid, Grants()),
                )
        bare = {v: p.host for v, p in self._switch.ports.items() if not p.hooked}
        if bare:
            self._switch.hook_vfs(bare)
            for vfid in bare:
                self._switch.ports[vfid].hooked = True
        take = new.pf.uplink if self.wire is None or self.uplink != new.pf.uplink else None
        if take:
            self.wire = self._take_uplink(take, old)
        elif not new.pf.uplink:
            self.wire = None
        self.uplink = new.pf.uplink
        if missing or bare or take:  # a hook may have been the first of a block that was gone
            self.datapath.look(self._switch)
        return _with_wire(new, self.wire)

    def _take_uplink(self, name: str, old: State) -> Link | None:
        """Where the NIC is to have the uplink already, its absence is a cut cable and no error, and
        neither is one that came back as no wire: the VFs go on."""
        self.no_wire = ""
        try:
            return self._switch.take_uplink(name)
        except NoUplinkError:
            if old.pf.uplink != name:
                raise
        except NicError as e:
            if old.pf.uplink != name:
                raise
            self.no_wire = str(e)
            if not old.configured:
                raise
        return None

    def _go(self, old: State, new: State) -> None:
        """Takes away what is no longer wanted. Nothing is sent there any more."""
        if new.pf.vfs is not None:
            gone = [v for v in self._switch.ports if v >= new.pf.vfs]
            for vfid in gone:
                self._guests.remove(vfid)
                self._buckets.pop(vfid, None)
            self._switch.remove(gone)
        if old.pf.uplink != new.pf.uplink:
            self.release_uplinks()

    def release_uplinks(self) -> None:
        """Gives back what was brought as an uplink and is not the one in force."""
        self._switch.release_uplinks(but=self.wire.index if self.wire else 0)

    def _rebuild_shaper(self) -> None:
        if not self._switch.shaper_ready:
            self._switch.build_shaper()
        self._leave(({}, {}))
        gone = [
            rtnl.del_root_qdisc(index, "making the shaper anew")
            for index, tree in zip(self._ends, self._trees, strict=True)
            if tree
        ]
        self._send(gone)
        self._trees = {}, {}

    def _limit(self, buckets: Mapping[int, int], *, drop: bool = False) -> None:
        messages: list[Message] = []
        for vfid, bps in buckets.items():
            port = self._switch.ports.get(vfid)
            if port is None:
                continue
            if drop:
                messages.append(rtnl.del_root_qdisc(port.host, f"lifting VF {vfid}'s Rx limit"))
                continue
            size = shaper.burst(bps)
            waiting = max(size, bps // 8 * _TBF_WAIT_MS // 1000)
            messages.append(
                rtnl.tbf(
                    port.host,
                    rate=bps,
                    burst=size,
                    limit=size + waiting,
                    what=f"limiting VF {vfid}'s Rx",
                )
            )
        # ENODEV: the VF is gone just now, its DELLINK follows
        self._send(messages, errno.ENODEV, *((errno.ENOENT, errno.EINVAL) if drop else ()))
        for vfid, bps in buckets.items():
            if drop:
                self._buckets.pop(vfid, None)
            else:
                self._buckets[vfid] = bps

    def _send(self, messages: list[Message], *harmless: int) -> None:
        if not messages:
            return
        for failed in self._switch.netlink.send_all(messages):
            if failed.errno not in harmless:
                raise failed

    # Drops before Tx limits: the queues count them, and queues go

    def counters(self) -> dict[int, dict[str, int]]:
        """By vfid and PF_PORT: the programs' counts, and those of the shaper's queues."""
        now = self._look_at_drops()
        found = self.datapath.counters(self._switch.ports)
        for (_, classid), count in now.items():
            vfid = shaper.vf_of_leaf(classid)
            found[PF_PORT]["rate_dropped"] += count
            if vfid in found:
                found[vfid]["rate_dropped"] += count
                found[vfid]["tx_dropped"] += count
        return found

    def _leave(self, trees: tuple[shaper.Tree, shaper.Tree]) -> None:
        """Before queues go that ``trees`` don't have: their drops are noted, with the programs,
        where they outlive the queue, the VF's netdev and the daemon."""
        leaving = [
            (end, classid)
            for end, (before, after) in enumerate(zip(self._trees, trees, strict=True))
            for classid in before
            if classid not in after
        ]
        if leaving:
            now = self._look_at_drops()
            self._note({queue: now.get(queue, 0) for queue in leaving})
            for queue in leaving:
                self._drops.pop(queue, None)

    def _look_at_drops(self) -> dict[shaper.Queue, int]:
        """What the queues count now. One that counts less than before is another one (somebody
        took the former away), and what that had counted is noted."""
        now: dict[shaper.Queue, int] = {}
        for end, tree in enumerate(self._trees):
            if tree:
                _, drops = shaper.read(self._switch.netlink, self._ends[end])
                now |= {(end, classid): count for classid, count in drops.items()}
        self._note({q: count for q, count in self._drops.items() if now.get(q, 0) < count})
        self._drops = dict(now)
        return now

    def _note(self, drops: Mapping[shaper.Queue, int]) -> None:
        more: dict[int, int] = {}
        for (_, classid), count in drops.items():
            vfid = shaper.vf_of_leaf(classid)
            if vfid is not None:
                more[vfid] = more.get(vfid, 0) + count
        if any(more.values()):
            self.datapath.note_drops(more)


@lru_cache(maxsize=4 * MAX_VFS)
def _iface(index: int, peer: bool, tap: bool) -> Iface:
    # what the kernel doesn't tell is heard from the guests' reports
    snoop = tap or not rtnl.tells_groups()
    return Iface(index, peer=peer, learn=tap, snoop=snoop)


def _with_wire(state: State, wire: Link | None) -> State:
    """A NIC without an uplink has its wire up; one whose uplink is gone has it down."""
    up = wire.carrier and wire.up if wire else not state.pf.uplink
    return replace(state, wire_up=up)
