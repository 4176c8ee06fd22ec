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
from vfd.nic.protocol import NicError
from vfd.nic.soft import rtnl, shaper
from vfd.nic.soft.compiler import Compiled
from vfd.nic.soft.datapath import Datapath
from vfd.nic.soft.guests import Guests
from vfd.nic.soft.rtnl import Link
from vfd.nic.soft.state import DEFAULT_SPEED, State
from vfd.nic.soft.switch import Switch, speed_of
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
        self._peers: set[int] = set()
        self._compiled = Compiled()
        self._decoded_from: Tables | None = None
        self._decoded_rules: dict[int, VfRules] = {}
        self._tree: dict[int, shaper.Class] = {}
        self._buckets: dict[int, int] = {}

    def read(self) -> None:
        """Looks at the shaper and the Rx limits, as others may have changed them."""
        hosts = {port.host: vfid for vfid, port in self._switch.ports.items()}
        self._tree, self._buckets = {}, {}
        for qdisc in rtnl.qdiscs(self._switch.netlink):
            if qdisc.index == self._switch.near and qdisc.handle == shaper.HANDLE:
                self._tree, _ = shaper.read(self._switch.netlink, self._switch.near)
            elif qdisc.kind == "tbf" and qdisc.index in hosts:
                self._buckets[hosts[qdisc.index]] = rtnl.tbf_rate(qdisc)

    def link_bps(self, state: State) -> int:
        """The link's speed: stated, else the uplink's, else 10 Gbit/s."""
        if state.pf.link_speed:
            return state.pf.link_speed
        if self.wire is not None:
            with self._switch.inside():
                speed = speed_of(self.wire.name)
            if speed:
                return speed
        return DEFAULT_SPEED

    def enforce(self, old: State, new: State) -> State:
        """Leads from ``old`` to ``new``; returns ``new`` with what was made on the way (MACs).

        Raises NicError or OSError half way; enforcing ``old`` then puts everything back."""
        new = self._come(old, new)
        nic = new.policy
        tree = shaper.tree(nic, self.link_bps(new))
        if shaper.moved(self._tree, tree) or not self._switch.near:
            self._rebuild_shaper()
        first, last = shaper.changes(self._switch.near, self._tree, tree)
        buckets = {v: b for v, b in new.rx_limits().items() if v in self._switch.ports}
        self._send(first)
        lifted = {v: b for v, b in self._buckets.items() if v not in buckets}
        leaving = {shaper.vf_of_leaf(c) for c in self._tree if c not in tree} - {None}
        if lifted or leaving:
            self._carry_drops(lifted.keys() | leaving)
        self._limit(lifted, drop=True)
        self._write(new, buckets)
        self._limit({v: b for v, b in buckets.items() if self._buckets.get(v) != b})
        self._switch.raise_ports({v: new.link_up(v) for v in self._switch.ports})
        self._send(last)
        self._tree = tree
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
        wanted = shaper.tree(nic, self.link_bps(state))
        shaped = needs_shaper(nic)
        whole = self._switch.near and self._switch.far and wanted == self._tree
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
        if not self._switch.near or not self._switch.far:
            self._switch.build_shaper()
        self.datapath.attach(self._switch)
        self.read()

    def forget(self, vfid: int) -> None:
        """The VF's netdevs are gone, and their queues with them."""
        self._buckets.pop(vfid, None)

    def adapt(self, state: State) -> None:
        """Guest ends moved or changed: rewrites the tables where that matters."""
        if self._may_skip_host_ends(state, self._buckets) != self._peers:
            self.rewrite(state)

    def rewrite(self, state: State) -> None:
        """Only the tables: grants, wire and guests' places changed, nothing else."""
        self._write(state, self._buckets)

    def _write(self, state: State, limited: Mapping[int, int]) -> None:
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
            shaped=needs_shaper(nic),
        )
        compiled = self._compiled.then(nic, state.grants, wiring)
        self.datapath.write(self._switch, compiled.tables)
        self._compiled = compiled

    def _may_skip_host_ends(self, state: State, limited: Mapping[int, int]) -> set[int]:
        """The VFs to which ``bpf_redirect_peer`` may be used: it skips the host end with its queue
        and its MTU, and drops where the guest end is in the program's own namespace."""
        if self._switch.tap:
            return set()
        largest = max(state.largest_mtu(), self.wire.mtu if self.wire else 0)
        return (self._guests.roomy(largest) & state.vfs.keys()) - limited.keys()

    def _come(self, old: State, new: State) -> State:
        """Makes what isn't there: VFs, hooks, the uplink."""
        wanted = set(self._switch.ports if new.pf.vfs is None else range(new.pf.vfs))
        missing = sorted(wanted - self._switch.ports.keys())
        new = new.fresh([v for v in missing if v not in new.own_macs])
        self._switch.make({v: (new.mac(v) or new.own_macs[v], new.mtu(v)) for v in missing})
        for vfid in missing:
            port = self._switch.ports[vfid]
            if port.guest:
                self._guests.add(
                    vfid,
                    port.guest,
                    mac=new.mac(vfid) or "",
                    mtu=new.mtu(vfid),
                    grants=new.grants.get(vfid, Grants()),
                )
        bare = {v: p.host for v, p in self._switch.ports.items() if not p.hooked}
        if bare:
            self._switch.hook(bare, bare)
            for vfid in bare:
                self._switch.ports[vfid].hooked = True
        if new.pf.uplink and (self.wire is None or old.pf.uplink != new.pf.uplink):
            self.wire = self._take_uplink(new.pf.uplink, lost=old.pf.uplink == new.pf.uplink)
        elif not new.pf.uplink:
            self.wire = None
        if missing:
            self.datapath.attach_again(self._switch)
        return _with_wire(new, self.wire)

    def _take_uplink(self, name: str, *, lost: bool) -> Link | None:
        """``lost``: the NIC had it before. Then its absence is a cut cable, and no error."""
        try:
            return self._switch.take_uplink(name)
        except NicError:
            if lost:
                return None
            raise

    def _go(self, old: State, new: State) -> None:
        """Takes away what is no longer wanted. Nothing is sent there any more."""
        if new.pf.vfs is not None:
            gone = [v for v in self._switch.ports if v >= new.pf.vfs]
            for vfid in gone:
                self._guests.remove(vfid)
                self._buckets.pop(vfid, None)
            self._switch.remove(gone)
        if old.pf.uplink and old.pf.uplink != new.pf.uplink:
            self._switch.release_uplink(old.pf.uplink)

    def _rebuild_shaper(self) -> None:
        if not self._switch.near or not self._switch.far:
            self._switch.build_shaper()
        if self._tree:
            self._carry_drops({shaper.vf_of_leaf(c) for c in self._tree})
            gone = rtnl.del_root_qdisc(self._switch.near, "making the shaper anew")
            self._send([gone])
        self._tree = {}

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
        self._send(messages, errno.ENOENT, errno.EINVAL) if drop else self._send(messages)
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

    def _carry_drops(self, vfids: Collection[int | None]) -> None:
        """Counters must not go back when the qdisc that holds them goes: they are noted at the
        host end, where a new daemon finds them."""
        now = self._qdisc_drops()
        notes: list[Message] = []
        for vfid in vfids:
            port = self._switch.ports.get(vfid) if vfid is not None else None
            if port is None or vfid is None or now.get(vfid, (0, 0)) == (0, 0):
                continue
            port.drops = _sum(port.drops, now[vfid])
            alias = f"rate_dropped {port.drops[0]} {port.drops[1]}"
            notes.append(rtnl.set_link(port.host, what="noting drops", alias=alias))
        self._send(notes)

    def rate_dropped(self) -> dict[int, tuple[int, int]]:
        """Buffers that found no room before a limit since the VF was made: vfid → (Tx, Rx)."""
        now = self._qdisc_drops()
        found = {}
        for vfid, port in self._switch.ports.items():
            total = _sum(port.drops, now.get(vfid, (0, 0)))
            if total != (0, 0):
                found[vfid] = total
        return found

    def _qdisc_drops(self) -> dict[int, tuple[int, int]]:
        """What the qdiscs that are there now have dropped: vfid → (Tx, Rx)."""
        found: dict[int, tuple[int, int]] = {}
        if self._tree:
            _, drops = shaper.read(self._switch.netlink, self._switch.near)
            for classid, count in drops.items():
                vfid = shaper.vf_of_leaf(classid)
                if vfid is not None:
                    found[vfid] = _sum(found.get(vfid, (0, 0)), (count, 0))
        if self._buckets:
            hosts = {p.host: v for v, p in self._switch.ports.items()}
            for qdisc in rtnl.qdiscs(self._switch.netlink):
                if qdisc.kind == "tbf" and qdisc.index in hosts:
                    vfid = hosts[qdisc.index]
                    found[vfid] = _sum(found.get(vfid, (0, 0)), (0, qdisc.drops))
        return found


@lru_cache(maxsize=4 * MAX_VFS)
def _iface(index: int, peer: bool, tap: bool) -> Iface:
    # what the kernel doesn't tell is heard from the guests' reports
    snoop = tap or not rtnl.tells_groups()
    return Iface(index, peer=peer, learn=tap, snoop=snoop)


def _sum(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]


def _with_wire(state: State, wire: Link | None) -> State:
    """A NIC without an uplink has its wire up; one whose uplink is gone has it down."""
    up = wire.carrier and wire.up if wire else not state.pf.uplink
    return replace(state, wire_up=up)
