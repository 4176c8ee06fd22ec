"""Policies of a NIC in switchdev mode as tc flower rules. Pure.

A representor's rules take what its VF sends through three chains, in the order of
docs/semantics.md, "From the guest"::

    chain 0  source   MAC control frames are dropped; one rule for each MAC that the VF owns; all
                      else is dropped
    chain 1  tag      one rule for each VLAN; access modes tag here; all else is dropped
    chain 2  switch   storm limit, Tx mirrors, then out by the wire or to other VFs

The uplink has the switch alone, in chain 0; what no VF takes goes on to the host, whose netdev the
uplink is. "Untagged" is what is left after the rules of both TPIDs, so no match on the number of
tags is needed, which few NICs have.

Copies that don't fit one rule go on in a chain of their own, whose number is made of its content:
such chains are never changed, only made and removed.

What flower can't say is not in here: the MTU, guests' grants, what happens to truncated tags, what
is behind a third tag (a MAC control frame there).
tests/kernel/test_switchdev_compile.py holds the rest against the reference model.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from vfd.nic.kernel.flower import (
    ANY,
    EVERY_BIT,
    GROUP_BIT,
    MOST_ACTIONS,
    WIRE,
    Action,
    Drop,
    Goto,
    Match,
    Mirror,
    Pass,
    Place,
    Police,
    PoliceBytes,
    Pop,
    Push,
    Redirect,
    Retag,
    Rules,
)
from vfd.policy.addresses import BROADCAST
from vfd.policy.frames import MAC_CONTROL
from vfd.policy.values import C_TAG, S_TAG, Direction, LinkStatus, VfRules

SOURCE, TAG, SWITCH = 0, 1, 2
FIRST_OVERFLOW = 0x100000
"""Chains from here on hold the rest of long rules."""
ZERO = "00:00:00:00:00:00"
_RESERVED_VID = 4095
_TPIDS = (C_TAG, S_TAG)

# Prefs. Of the tag chain and the switch: tagged before untagged, since the latter is "all else".
GATE = 1
_MAC_CONTROL = {MAC_CONTROL: 5, C_TAG: 6, S_TAG: 7}
_SOURCE, _SOURCE_ODD, _SOURCE_REST = 10, 11, 12
_VEILED, _OTHER_TPID, _VID, _NO_VID, _ANY_VID, _UNTAGGED = 19, 20, 21, 22, 23, 50
_S_TAGGED = 10
_TAGGED = {C_TAG: 30, S_TAG: 40}
_PLAIN = 50
_VEIL, _KNOWN, _BROADCAST, _MULTICAST, _UNKNOWN, _REST_GROUPS, _REST = range(-1, 6)

Vlan = tuple[int, int] | None
"""(TPID, VID) of a frame's outer tag; VID 0: a priority tag; None: no tag."""


@dataclass(frozen=True)
class Eswitch:
    """A NIC in switchdev mode, as it is to be."""

    loopback: bool
    tpid: int
    """Of service tags."""
    vfs: Mapping[int, VfRules]
    """The open VFs."""
    closed: frozenset[int]
    """The others that have a representor."""
    owners: Mapping[str, int]
    """MAC → the VF that owns it (``requests.owners``)."""
    id: int = 0
    """Tells this NIC's policers from those of others."""

    def kind(self, vfid: int) -> int:
        return self.vfs[vfid].tpid(self.tpid)

    def is_up(self, vfid: int) -> bool:
        """The wire's part in ``auto`` is the hardware's."""
        return self.vfs[vfid].link_status is not LinkStatus.OFF

    @cached_property
    def members(self) -> Mapping[Vlan, Sequence[int]]:
        """The VFs in each VLAN, that is, those that pass Rx step 2 for its frames."""
        found: dict[Vlan, list[int]] = defaultdict(list)
        for vfid in sorted(self.vfs):
            for vlan in self.vlans_of(vfid):
                found[vlan].append(vfid)
        return found

    @cached_property
    def macs(self) -> Mapping[int, Sequence[str]]:
        """What each VF owns."""
        found: dict[int, list[str]] = defaultdict(list)
        for mac, owner in self.owners.items():
            found[owner].append(mac)
        return found

    def vlans_of(self, vfid: int) -> Iterator[Vlan]:
        rules, kind = self.vfs[vfid], self.kind(vfid)
        yield from ((kind, vid) for vid in rules.vlans)
        if rules.allow_untagged:
            yield from ((kind, 0), None)


def compile_rules(nic: Eswitch) -> Rules:
    """All rules of the NIC's ports."""
    rules: Rules = {}
    for vfid in sorted(nic.closed):
        rules[Place(vfid, SOURCE, _SOURCE_REST, Match())] = (Drop(),)
    for vfid in sorted(nic.vfs):
        if nic.is_up(vfid):
            rules |= _source(nic, vfid)
            rules |= _tag(nic, vfid)
            rules |= _switch_from_vf(nic, vfid)
        else:
            rules[Place(vfid, SOURCE, _SOURCE_REST, Match())] = (Drop(),)
    rules |= _switch_from_wire(nic)
    return _split(rules)


# -- From the guest, steps 2 and 3 ----------------------------------------------------------


def _source(nic: Eswitch, vfid: int) -> Rules:
    def at(pref: int, src: str = "", mask: str = "") -> Place:
        return Place(vfid, SOURCE, pref, Match(src=src, src_mask=mask))

    may_tag = C_TAG if nic.vfs[vfid].access_vid is not None else nic.kind(vfid)
    rules = _mac_control(vfid, {ANY, may_tag}, Drop())
    if not nic.vfs[vfid].mac_anti_spoof:
        return rules | {
            at(_SOURCE, GROUP_BIT, GROUP_BIT): (Drop(),),
            at(_SOURCE_ODD, ZERO, EVERY_BIT): (Drop(),),
            at(_SOURCE_REST): (Goto(TAG),),
        }
    own = nic.macs.get(vfid, ())
    rules |= {at(_SOURCE, mac, EVERY_BIT): (Goto(TAG),) for mac in own}
    rules[at(_SOURCE_REST)] = (Drop(),)
    return rules


def _mac_control(port: int, protocols: Iterable[int], end: Action) -> Rules:
    """MAC control frames, untagged (ANY) and under one or two tags, the outer of these TPIDs."""
    matches: list[Match] = []
    for protocol in protocols:
        if protocol == ANY:
            matches.append(Match(MAC_CONTROL))
        else:
            matches.append(Match(protocol, second=MAC_CONTROL))
            matches += [Match(protocol, second=tpid, third=MAC_CONTROL) for tpid in _TPIDS]
    return {Place(port, SOURCE, _MAC_CONTROL[match.protocol], match): (end,) for match in matches}


# -- Step 4: tagging ------------------------------------------------------------------------


def _tag(nic: Eswitch, vfid: int) -> Rules:
    rules, kind = nic.vfs[vfid], nic.kind(vfid)
    on, out = (Goto(SWITCH),), (Drop(),)

    def at(
        pref: int, protocol: int = ANY, vid: int | None = None, second: int | None = None
    ) -> Place:
        # A pref has one protocol, also while old and new rules stand side by side.
        pref += _S_TAGGED if protocol == S_TAG else 0
        return Place(vfid, TAG, pref, Match(protocol, vid, second=second))

    if rules.access_vid is not None:
        vid = rules.access_vid
        push = Push(kind, vid, rules.pcp)
        veiled = () if rules.strip_stag else _TPIDS
        return {
            **{at(_VEILED, C_TAG, 0, second): out for second in veiled},
            at(_OTHER_TPID, S_TAG): out,
            at(_NO_VID, C_TAG, 0): (Retag(kind, vid), *on),
            at(_ANY_VID, C_TAG): (push, *on) if rules.strip_stag else out,
            at(_UNTAGGED): (push, *on),
        }
    table: Rules = {at(_OTHER_TPID, S_TAG if kind == C_TAG else C_TAG): out}
    if rules.vlan_anti_spoof:
        table |= {at(_VID, kind, vid): on for vid in rules.vlans}
    else:
        table[at(_VID, kind, _RESERVED_VID)] = out
    if rules.allow_untagged:
        table |= {at(_VEILED, kind, 0, second): out for second in _TPIDS}
    table[at(_NO_VID, kind, 0)] = on if rules.allow_untagged else out
    table[at(_ANY_VID, kind)] = out if rules.vlan_anti_spoof else on
    table[at(_UNTAGGED)] = on if rules.allow_untagged else out
    return table


def _sends_in(nic: Eswitch, vfid: int) -> tuple[set[Vlan], bool]:
    """The VLANs whose frames reach the VF's switch chain, and whether all others do too."""
    rules, kind = nic.vfs[vfid], nic.kind(vfid)
    if rules.access_vid is not None:
        return {(kind, rules.access_vid)}, False
    untagged: set[Vlan] = {(kind, 0), None} if rules.allow_untagged else set()
    return {(kind, vid) for vid in rules.vlans} | untagged, not rules.vlan_anti_spoof


# -- Steps 6 to 8: storm limit, mirrors, switch ---------------------------------------------


def _switch_from_vf(nic: Eswitch, vfid: int) -> Rules:
    rules = nic.vfs[vfid]
    listed, others = _sends_in(nic, vfid)
    vlans = set(listed)
    if others:  # whoever's VLANs they are, and those that are mirrored
        if nic.loopback:
            vlans |= {vlan for vlan in nic.members if vlan is not None}
        vlans |= {(nic.kind(vfid), vid) for mirror in rules.mirror for vid in mirror.vlans}
        vlans = {v for v in vlans if v is None or v[0] == nic.kind(vfid)}
        vlans -= set() if rules.allow_untagged else {(nic.kind(vfid), 0)}
    limit: tuple[Action, ...] = ()
    if rules.storm_limit:
        limit = (Police(_policer(nic.id, vfid, f"{rules.storm_limit}"), rules.storm_limit),)
    floods = (
        bool(limit)
        and nic.loopback
        and any(nic.vfs[other].allow_un_ucast for other in nic.vfs if other != vfid)
    )
    table: Rules = {}
    for vlan in vlans:
        before = _copies(nic, vfid, vlan, Direction.OUT)
        if nic.loopback:
            table |= _deliver(nic, vfid, SWITCH, vlan, limit if floods else (), limit, before)
        else:
            table |= _all_to_wire(vfid, vlan, limit, before)
    if others:
        kind = nic.kind(vfid)
        before = _copies(nic, vfid, (kind, _RESERVED_VID), Direction.OUT)
        end: tuple[Action, ...] = (*before, Redirect(WIRE))
        groups = Match(kind, None, GROUP_BIT, GROUP_BIT)
        base = _TAGGED[kind]
        if limit:
            table[Place(vfid, SWITCH, base + _REST_GROUPS, groups)] = (*limit, *end)
        table[Place(vfid, SWITCH, base + _REST, Match(kind))] = (*(limit if floods else ()), *end)
    return table


def _all_to_wire(
    port: int, vlan: Vlan, limit: tuple[Action, ...], before: tuple[Action, ...]
) -> Rules:
    base, match = _base(vlan)
    end: tuple[Action, ...] = (*before, Redirect(WIRE))
    table: Rules = {Place(port, SWITCH, base + _UNKNOWN, match): end}
    if limit:
        groups = Match(match.protocol, match.vid, GROUP_BIT, GROUP_BIT)
        table[Place(port, SWITCH, base + _MULTICAST, groups)] = (*limit, *end)
    return table


def _switch_from_wire(nic: Eswitch) -> Rules:
    table: Rules = {}
    for vlan in nic.members:
        table |= _deliver(nic, WIRE, SOURCE, vlan, (), (), ())
    tagged = {place.match.protocol for place in table if place.match.protocol in _TPIDS}
    plain = any(place.match.protocol == ANY for place in table)
    for tpid in _TPIDS if plain else tagged:  # else other VLANs would count as untagged
        table[Place(WIRE, SOURCE, _TAGGED[tpid] + _REST, Match(tpid))] = (Pass(),)
    for tpid in tagged:
        if (tpid, 0) in nic.members:
            for second in _TPIDS:
                match = Match(tpid, 0, second=second)
                table[Place(WIRE, SOURCE, _TAGGED[tpid] + _VEIL, match)] = (Pass(),)
    return table | _mac_control(WIRE, {*tagged, *([ANY] if plain else [])}, Pass())


def _deliver(
    nic: Eswitch,
    port: int,
    chain: int,
    vlan: Vlan,
    limit_unknown: tuple[Action, ...],
    limit_groups: tuple[Action, ...],
    before: tuple[Action, ...],
) -> Rules:
    """The switch for frames of one VLAN that came in at ``port``."""
    base, match = _base(vlan)

    def at(what: int, dst: str = "", mask: str = "") -> Place:
        return Place(port, chain, base + what, Match(match.protocol, match.vid, dst, mask))

    table: Rules = {}
    members = nic.members.get(vlan, ())
    for owner in members:
        to_owner = (*before, *_to_owner(nic, port, owner, vlan))
        table |= {at(_KNOWN, mac, EVERY_BIT): to_owner for mac in nic.macs.get(owner, ())}
    takers = [vfid for vfid in members if vfid != port and nic.is_up(vfid)]
    for what, limit, dst, mask, attribute in (
        (_BROADCAST, limit_groups, BROADCAST, EVERY_BIT, "allow_bcast"),
        (_MULTICAST, limit_groups, GROUP_BIT, GROUP_BIT, "allow_mcast"),
        (_UNKNOWN, limit_unknown, "", "", "allow_un_ucast"),
    ):
        to = [vfid for vfid in takers if getattr(nic.vfs[vfid], attribute)]
        table[at(what, dst, mask)] = (*limit, *before, *_flood(nic, port, to, vlan))
    return table


def _to_owner(nic: Eswitch, port: int, owner: int, vlan: Vlan) -> tuple[Action, ...]:
    if owner == port or not nic.is_up(owner):
        return (Drop(),)
    strip = (Pop(),) if _strips(nic, owner, vlan) else ()
    copies = _copies(nic, owner, vlan, Direction.IN)
    return (*copies, *strip, *_rx_limit(nic, owner), Redirect(owner))


def _rx_limit(nic: Eswitch, vfid: int) -> tuple[Action, ...]:
    """Of what is addressed to the VF alone: a policer drops a frame with all copies that would come
    after it, so a flood, which is others' too, can't be made to pass it."""
    rate = (nic.vfs[vfid].max_rx_rate.bps or 0) // 8
    return (PoliceBytes(_policer(nic.id, vfid, f"rx {rate}"), rate),) if rate else ()


def _flood(nic: Eswitch, port: int, takers: list[int], vlan: Vlan) -> tuple[Action, ...]:
    """Copies to all takers, and the frame itself to the wire, or from there to the host."""
    actions: list[Action] = []
    for vfid in takers:
        actions += _copies(nic, vfid, vlan, Direction.IN)
        if not _strips(nic, vfid, vlan):
            actions.append(Mirror(vfid))
    stripped = [vfid for vfid in takers if _strips(nic, vfid, vlan)]
    if port != WIRE:
        if not stripped:
            return (*actions, Redirect(WIRE))
        copies: list[Action] = [Mirror(WIRE), Pop(), *map(Mirror, stripped[:-1])]
        return (*actions, *copies, Redirect(stripped[-1]))
    if stripped and vlan is not None:  # the host is given the tag back, with priority 0
        return (*actions, Pop(), *map(Mirror, stripped), Push(*vlan), Pass())
    return (*actions, Pass())


def _copies(nic: Eswitch, vfid: int, vlan: Vlan, way: Direction) -> tuple[Mirror, ...]:
    """To the targets of the VF's mirrors, one each, for a frame of this VLAN."""
    targets = {
        mirror.target
        for mirror in nic.vfs[vfid].mirror
        if mirror.direction in (way, Direction.ALL)
        and (not mirror.vlans or (vlan is not None and vlan[1] in mirror.vlans))
    }
    return tuple(
        Mirror(target) for target in sorted(targets) if target in nic.vfs and target != vfid
        and nic.is_up(target)
    )  # fmt: skip


def _strips(nic: Eswitch, vfid: int, vlan: Vlan) -> bool:
    return vlan is not None and (nic.vfs[vfid].strip_stag or nic.vfs[vfid].strip_ctag)


def _base(vlan: Vlan) -> tuple[int, Match]:
    """The first pref of a VLAN's rules, and what they all match."""
    return (_PLAIN, Match()) if vlan is None else (_TAGGED[vlan[0]], Match(*vlan))


def _policer(nic: int, vfid: int, limit: str) -> int:
    """A number of its own for each limit, so that a policer never changes under its rules."""
    return zlib.crc32(f"{nic} {vfid} {limit}".encode()) | 1


# -- Long rules -----------------------------------------------------------------------------


def _split(rules: Rules) -> Rules:
    """The same rules with at most MOST_ACTIONS actions each."""
    table: Rules = {}
    for place, actions in rules.items():
        rest = list(actions)
        parts = []
        while len(rest) > MOST_ACTIONS:
            parts.append(rest[: MOST_ACTIONS - 1])
            rest = rest[MOST_ACTIONS - 1 :]
        tail = tuple(rest)
        for part in reversed(parts):
            chain = _overflow(place.port, tail)
            table[Place(place.port, chain, 1, Match())] = tail
            tail = (*part, Goto(chain))
        table[place] = tail
    return table


def _overflow(port: int, actions: tuple[Action, ...]) -> int:
    """Below 2²⁸, as TC_ACT_EXT_VAL_MASK asks."""
    return FIRST_OVERFLOW + zlib.crc32(repr((port, actions)).encode()) % (1 << 27)
