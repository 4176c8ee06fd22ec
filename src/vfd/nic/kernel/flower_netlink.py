"""tc flower rules to and from the kernel, in batches.

Layout: include/uapi/linux/pkt_cls.h, rtnetlink.h and tc_act/*.h. pyroute2 has no cls_flower.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vfd.nic.kernel.flower import (
    ANY,
    HOST_PREF,
    WIRE,
    Action,
    Drop,
    Goto,
    Match,
    Mirror,
    Note,
    Pass,
    Place,
    Police,
    PoliceBytes,
    Pop,
    Push,
    Redirect,
    Retag,
    Rule,
    Rules,
)
from vfd.nic.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Attrs,
    Message,
    Netlink,
    NetlinkError,
    attr,
    attr_text,
    attr_u32,
    attr_u64,
    nest,
    parse_attrs,
    text,
    u32,
    u64,
)
from vfd.policy.addresses import mac_bytes, mac_text

_NEWQDISC, _NEWTFILTER, _DELTFILTER, _GETTFILTER = 36, 44, 45, 46
_CLSACT, _CLSACT_HANDLE, _INGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2
_TCMSG = struct.Struct("=BxxxiIII")
_KIND, _OPTIONS, _CHAIN = 1, 2, 11
_FLOWER = "flower"

_ACT, _DST, _DST_MASK, _SRC, _SRC_MASK, _ETH_TYPE, _FLAGS, _VLAN_ID = 3, 4, 5, 6, 7, 8, 22, 23
_SECOND, _THIRD = 25, 79
"""TCA_FLOWER_KEY_VLAN_ETH_TYPE, TCA_FLOWER_KEY_CVLAN_ETH_TYPE."""
SKIP_HW, SKIP_SW, IN_HW = 1, 2, 4

_ACT_KIND, _ACT_OPTIONS, _ACT_COOKIE = 1, 2, 6
_PARMS = 2
_GENERIC = struct.Struct("=IIiii")  # index, capab, action, refcnt, bindcnt
_OK, _SHOT, _PIPE, _STOLEN = 0, 2, 3, 4
_GOTO, _CHAIN_MASK = 0x20000000, 0x0FFFFFFF
_EGRESS_REDIR, _EGRESS_MIRROR = 1, 2
_POP, _PUSH, _MODIFY = 1, 2, 3
_PUSH_PRIORITY = 6
_TBF, _RATE_TABLE, _RESULT, _RATE64, _PKTRATE64, _PKTBURST64 = 1, 2, 5, 8, 10, 11
_POLICE = struct.Struct("=IiIII12s12xiiI")
"""struct tc_police: index, action, limit, burst, mtu, rate, peakrate, refcnt, bindcnt, capab."""
_RATESPEC = struct.Struct("=BBHhHI")
"""struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate."""
_TABLE_BYTES, _CELL_LOG, _ETHERNET = 1024, 16, 1
"""act_police.c asks for a table of transmission times, and takes nothing from it if the link layer
is named. 255 cells are the largest frame that passes: far above 64 KiB."""
_LARGEST = 1 << 16
"""Bytes of a segmentation-offload buffer, which is policed whole: it must fit the bucket."""
_TICK_NS = 64
"""PSCHED_TICKS2NS: what net/sched counts bursts in."""
_BURST_NS = 100_000_000
"""A tenth of a second's frames may come at once."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter as the kernel numbers it."""

    port: int
    kind: str
    """The classifier: ``flower``, ``matchall``, ``u32`` …"""
    chain: int
    pref: int
    protocol: int
    handle: int


@dataclass(frozen=True, slots=True)
class Found:
    """The rules that stand in the kernel."""

    rules: Rules
    handles: Mapping[Place, int]
    foreign: Sequence[Filter] = ()
    """What others put where ours stand: none of ours looks like it."""
    offloaded: frozenset[Place] = field(default_factory=frozenset)
    """The rules that the NIC took."""

    def own(self) -> Iterator[Filter]:
        """The rules as filters."""
        for place, handle in self.handles.items():
            yield Filter(place.port, _FLOWER, place.chain, place.pref, place.match.protocol, handle)


class Tc:
    """The rules at the ingress of netdevs. ``ifindexes``: of the ports."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    def prepare(self, ifindexes: Iterable[int]) -> None:
        """Makes the qdisc that rules hang on, where it is not there. Raises NetlinkError."""
        messages = [
            Message(
                _NEWQDISC,
                _TCMSG.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + attr_text(_KIND, "clsact"),
                NLM_F_CREATE | NLM_F_EXCL,
                f"clsact on interface {index}",
            )
            for index in ifindexes
        ]
        for error in self._netlink.send_all(messages):
            if error.errno != errno.EEXIST:
                raise error

    def read(self, ports: Mapping[int, int], chain: int | None = None) -> Found:
        """All rules of ``ports`` (port → ifindex), or of one chain. Raises NetlinkError."""
        numbers = {index: port for port, index in ports.items()}
        rules: Rules = {}
        handles: dict[Place, int] = {}
        foreign: list[Filter] = []
        offloaded: set[Place] = set()
        for port, index in ports.items():
            body = _TCMSG.pack(0, index, 0, _INGRESS, 0)
            if chain is not None:
                body += attr_u32(_CHAIN, chain)
            try:
                answers = self._netlink.dump(_GETTFILTER, body, f"rules of interface {index}")
            except NetlinkError as error:
                if error.errno in (errno.EINVAL, errno.ENOENT):
                    continue  # no qdisc: no rules
                raise
            for _, answer in answers:
                self._take(port, answer, numbers, rules, handles, foreign, offloaded)
        return Found(rules, handles, tuple(foreign), frozenset(offloaded))

    def put(
        self, rule: Rule, ports: Mapping[int, int], old: int | None, flags: int, new: int = 0
    ) -> Message:
        """``old``: the handle of the rule that stands there, None where none does; ``new``: the
        one to give where none does, 0 for any."""
        place = rule.place
        index = ports[place.port]
        match = place.match
        keys = []
        if match.protocol != ANY:
            keys.append(attr(_ETH_TYPE, match.protocol.to_bytes(2, "big")))
        if match.vid is not None:
            keys.append(attr(_VLAN_ID, struct.pack("=H", match.vid)))
        for key, ethertype in ((_SECOND, match.second), (_THIRD, match.third)):
            if ethertype is not None:
                keys.append(attr(key, ethertype.to_bytes(2, "big")))
        if match.dst:
            keys += [attr(_DST, mac_bytes(match.dst)), attr(_DST_MASK, mac_bytes(match.dst_mask))]
        if match.src:
            keys += [attr(_SRC, mac_bytes(match.src)), attr(_SRC_MASK, mac_bytes(match.src_mask))]
        actions = b"".join(
            nest(number + 1, *_action(action, ports)) for number, action in enumerate(rule.actions)
        )
        options = nest(_OPTIONS, *keys, nest(_ACT, actions), attr_u32(_FLAGS, flags))
        how = NLM_F_CREATE | (NLM_F_EXCL if old is None else NLM_F_REPLACE)
        handle = new if old is None else old
        return Message(
            _NEWTFILTER, _head_of(place, index, handle) + options, how, _words(place, rule.actions)
        )

    def remove(self, place: Place, ports: Mapping[int, int], handle: int) -> Message:
        return Message(
            _DELTFILTER, _head_of(place, ports[place.port], handle), 0, f"removing {_words(place)}"
        )

    def evict(self, filters: Iterable[Filter], ports: Mapping[int, int]) -> None:
        """Removes them; those that have gone by themselves are no error.

        Ours and another's flower rule may share a classifier (a chain and pref): of a flower
        classifier the one rule goes, of any other the whole. Raises NetlinkError."""
        gone = {one if one.kind == _FLOWER else replace(one, handle=0) for one in filters}
        messages = [
            Message(
                _DELTFILTER,
                _head(ports[one.port], one.handle, one.kind, one.chain, one.pref, one.protocol),
                what=f"removing {one.kind} of {_port(one.port)}, chain {one.chain} pref {one.pref}",
            )
            for one in sorted(gone, key=lambda one: (one.port, one.chain, one.pref))
        ]
        for error in self._netlink.send_all(messages):
            if error.errno != errno.ENOENT:
                raise error

    def send(self, messages: Sequence[Message]) -> list[NetlinkError]:
        return self._netlink.send_all(messages)

    @staticmethod
    def _take(
        port: int,
        answer: bytes,
        numbers: Mapping[int, int],
        rules: Rules,
        handles: dict[Place, int],
        foreign: list[Filter],
        offloaded: set[Place],
    ) -> None:
        _, _, handle, _, info = _TCMSG.unpack_from(answer)
        found = parse_attrs(answer, _TCMSG.size)
        if not handle:
            return  # the classifier itself, before its rules
        pref, protocol = info >> 16, int.from_bytes(struct.pack("=H", info & 0xFFFF), "big")
        chain = u32(found[_CHAIN]) if _CHAIN in found else 0
        if port == WIRE and pref >= HOST_PREF:
            return
        kind = text(found[_KIND])
        options = parse_attrs(found.get(_OPTIONS, b""))
        actions = _actions(options, numbers) if kind == _FLOWER else None
        place = Place(port, chain, pref, _match(options, protocol))
        if actions is None or options.keys() - _KEYS or place in rules:
            foreign.append(Filter(port, kind, chain, pref, protocol, handle))
            return
        rules[place], handles[place] = actions, handle
        flags = u32(options[_FLAGS]) if _FLAGS in options else 0
        if flags & IN_HW:
            offloaded.add(place)


_IN_HW_COUNT = 86
_KEYS = {
    _ACT, _DST, _DST_MASK, _SRC, _SRC_MASK, _ETH_TYPE, _FLAGS, _VLAN_ID, _SECOND, _THIRD,
    _IN_HW_COUNT,
}  # fmt: skip


def _head_of(place: Place, index: int, handle: int) -> bytes:
    return _head(index, handle, _FLOWER, place.chain, place.pref, place.match.protocol)


def _head(index: int, handle: int, kind: str, chain: int, pref: int, protocol: int) -> bytes:
    info = pref << 16 | struct.unpack("=H", protocol.to_bytes(2, "big"))[0]
    return (
        _TCMSG.pack(0, index, handle, _INGRESS, info)
        + attr_text(_KIND, kind)
        + attr_u32(_CHAIN, chain)
    )


def _match(options: Attrs, protocol: int) -> Match:
    def mac(kind: int) -> str:
        return mac_text(options[kind]) if kind in options else ""

    def ethertype(kind: int) -> int | None:
        return int.from_bytes(options[kind][:2], "big") if kind in options else None

    vid = struct.unpack("=H", options[_VLAN_ID][:2])[0] if _VLAN_ID in options else None
    return Match(
        protocol,
        vid,
        mac(_DST),
        mac(_DST_MASK),
        mac(_SRC),
        mac(_SRC_MASK),
        ethertype(_SECOND),
        ethertype(_THIRD),
    )


def _action(action: Action, ports: Mapping[int, int]) -> tuple[bytes, ...]:
    def of(kind: str, *options: bytes) -> tuple[bytes, ...]:
        return attr_text(_ACT_KIND, kind), nest(_ACT_OPTIONS, *options)

    def gact(verdict: int) -> tuple[bytes, ...]:
        return of("gact", attr(_PARMS, _GENERIC.pack(0, 0, verdict, 0, 0)))

    def vlan(what: int, *options: bytes) -> tuple[bytes, ...]:
        return of("vlan", attr(_PARMS, _GENERIC.pack(0, 0, _PIPE, 0, 0) + _i32(what)), *options)

    match action:
        case Mirror(port):
            mirred = _GENERIC.pack(0, 0, _PIPE, 0, 0) + _i32(_EGRESS_MIRROR) + _i32(ports[port])
            return of("mirred", attr(_PARMS, mirred))
        case Redirect(port):
            mirred = _GENERIC.pack(0, 0, _STOLEN, 0, 0) + _i32(_EGRESS_REDIR) + _i32(ports[port])
            return of("mirred", attr(_PARMS, mirred))
        case Push(tpid, vid, pcp):
            priority = [attr(_PUSH_PRIORITY, bytes((pcp,)))] if pcp else []
            return vlan(_PUSH, *_vlan_tag(tpid, vid), *priority)
        case Retag(tpid, vid):
            return vlan(_MODIFY, *_vlan_tag(tpid, vid))
        case Pop():
            return vlan(_POP)
        case Police(index, pps):
            police = _POLICE.pack(index, _SHOT, 0, 0, 0, b"", 0, 0, 0)
            return of(
                "police",
                attr(_TBF, police),
                attr_u32(_RESULT, _PIPE),
                attr_u64(_PKTRATE64, pps),
                attr_u64(_PKTBURST64, max(_BURST_NS, 10**9 // pps) // _TICK_NS),
            )
        case PoliceBytes(index, rate):
            spec = _RATESPEC.pack(_CELL_LOG, _ETHERNET, 0, 0, 0, min(rate, 0xFFFFFFFF))
            burst = min(max(_BURST_NS, _LARGEST * 10**9 // rate) // _TICK_NS, 0xFFFFFFFF)
            return of(
                "police",
                attr(_TBF, _POLICE.pack(index, _SHOT, 0, burst, 0, spec, 0, 0, 0)),
                attr(_RATE_TABLE, bytes(_TABLE_BYTES)),
                attr_u32(_RESULT, _PIPE),
                attr_u64(_RATE64, rate),
            )
        case Goto(chain):
            return gact(_GOTO | chain)
        case Drop():
            return gact(_SHOT)
        case Pass():
            return gact(_OK)
        case Note(note):
            return *gact(_PIPE), attr(_ACT_COOKIE, note)


def _vlan_tag(tpid: int, vid: int) -> tuple[bytes, bytes]:
    return attr(3, struct.pack("=H", vid)), attr(4, tpid.to_bytes(2, "big"))


def _i32(number: int) -> bytes:
    return struct.pack("=i", number)


def _actions(options: Attrs, numbers: Mapping[int, int]) -> tuple[Action, ...] | None:
    """None: there is one among them that we don't use."""
    listed = parse_attrs(options.get(_ACT, b""))
    actions = [_parse_action(parse_attrs(listed[number]), numbers) for number in sorted(listed)]
    return None if None in actions else tuple(action for action in actions if action is not None)


def _parse_action(found: Attrs, numbers: Mapping[int, int]) -> Action | None:
    options = parse_attrs(found.get(_ACT_OPTIONS, b""))
    kind = text(found[_ACT_KIND])
    if kind == "police":
        index, exceeded, _, _, _, spec, *_ = _POLICE.unpack_from(options[_TBF])
        if exceeded != _SHOT:
            return None
        if _PKTRATE64 in options:
            return Police(index, u64(options[_PKTRATE64]))
        rate = u64(options[_RATE64]) if _RATE64 in options else _RATESPEC.unpack(spec)[5]
        return PoliceBytes(index, rate) if rate else None
    if _PARMS not in options:
        return None
    parms = options[_PARMS]
    verdict = _GENERIC.unpack_from(parms)[2]
    if kind == "gact":
        if verdict == _PIPE:
            return Note(found.get(_ACT_COOKIE, b""))
        if verdict & ~_CHAIN_MASK == _GOTO:
            return Goto(verdict & _CHAIN_MASK)
        ends: dict[int, Action] = {_SHOT: Drop(), _OK: Pass()}
        return ends.get(verdict)
    if kind == "mirred":
        what, index = struct.unpack_from("=iI", parms, _GENERIC.size)
        port = numbers.get(index)
        if port is None:
            return None
        if (what, verdict) == (_EGRESS_MIRROR, _PIPE):
            return Mirror(port)
        return Redirect(port) if (what, verdict) == (_EGRESS_REDIR, _STOLEN) else None
    if kind == "vlan" and verdict == _PIPE:
        return _parse_vlan(struct.unpack_from("=i", parms, _GENERIC.size)[0], options)
    return None


def _parse_vlan(what: int, options: Attrs) -> Action | None:
    if what == _POP:
        return Pop()
    vid = struct.unpack("=H", options.get(3, b"\0\0")[:2])[0]
    tpid = int.from_bytes(options.get(4, b"\x81\x00")[:2], "big")
    if what == _PUSH:
        return Push(tpid, vid, options.get(_PUSH_PRIORITY, b"\0")[0])
    return Retag(tpid, vid) if what == _MODIFY else None


def _words(place: Place, actions: Sequence[Action] = ()) -> str:
    return f"flower rule of {_port(place.port)}, chain {place.chain}, {place.match}: {actions}"


def _port(port: int) -> str:
    return "the uplink" if port == WIRE else f"VF {port}"
