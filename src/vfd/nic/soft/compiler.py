"""A policy as contents of the VEB's maps, worked out anew only where it changed: pure.

``Compiled.then`` leads from one policy to the next in steps that are proportional to what differs:
a change to one of 256 VFs must not cost as much as all of them. From nothing it is the whole
compilation, ``compile_policy``, which says what the maps shall hold.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from vfd.nic.soft import layout
from vfd.nic.soft.tables import (
    Iface,
    Tables,
    Wiring,
    closed_port,
    hints_of,
    mac_key,
    open_port,
    owned_mac,
    sets_of,
    vlans_of,
    wire_port,
)
from vfd.policy.requests import Grants, default_mac
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

_NO_GRANTS = Grants()


@dataclass(frozen=True, slots=True)
class _Around:
    """What decides about every VF."""

    pf: PfPolicy
    wire: int | None
    wire_up: bool
    shaper: int | None
    limiter: int | None

    @property
    def link_up(self) -> bool:
        """A NIC without an uplink has its wire up; one whose uplink is gone has it down."""
        return self.wire_up or (self.wire is None and not self.pf.uplink)


_Input = tuple[VfPolicy | None, Grants, str | None, Iface | None, bool]
"""What decides about one VF: its policy, what it was granted, the NIC's own MAC for it, its netdev,
and whether it is shaped."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What one VF has in the maps."""

    ifindex: int
    port: bytes
    macs: Mapping[bytes, bytes] = field(default_factory=dict)
    groups: frozenset[bytes] = frozenset()
    members: tuple[int, ...] = ()
    sets: tuple[int, ...] = ()


_Claims = Mapping[str, tuple[tuple[int, int], ...]]
"""MAC → (rank, vfid) of all who claim it, the owner first: ``policy.requests.owners``."""
_CONFIGURED, _GRANTED, _OWN = range(3)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy's tables, and what they were made from."""

    tables: Tables = field(default_factory=Tables)
    around: _Around | None = None
    inputs: Mapping[int, _Input] = field(default_factory=dict)
    parts: Mapping[int, _Part] = field(default_factory=dict)
    claims: _Claims = field(default_factory=dict)

    def then(self, nic: NicPolicy, grants: Mapping[int, Grants], wiring: Wiring) -> Compiled:
        """The tables for another policy. ``nic`` is resolved: no rate is a share.

        VFs of ``nic`` that ``wiring`` doesn't have are left out; those that only ``wiring`` has
        are closed. Raises UnsupportedError for more mirrors than a VF's table has room for.
        """
        around = _Around(nic.pf, wiring.wire, wiring.wire_up, wiring.shaper, wiring.limiter)
        inputs = _inputs(nic, grants, wiring)
        if around != self.around:
            return _from(Compiled(), around, inputs)
        return _from(self, around, inputs)


def compile_policy(nic: NicPolicy, grants: Mapping[int, Grants], wiring: Wiring) -> Tables:
    """What the maps hold for this policy: ``Compiled.then`` from nothing."""
    return Compiled().then(nic, grants, wiring).tables


def _inputs(nic: NicPolicy, grants: Mapping[int, Grants], wiring: Wiring) -> dict[int, _Input]:
    policies, own, shaped = nic.by_vfid(), wiring.own_macs, wiring.shaped
    return {
        vfid: (
            policies.get(vfid),
            grants.get(vfid, _NO_GRANTS),
            own.get(vfid),
            wiring.vfs.get(vfid),
            vfid in shaped,
        )
        for vfid in wiring.vfs.keys() | policies.keys()
    }


def _from(before: Compiled, around: _Around, inputs: dict[int, _Input]) -> Compiled:
    changed = {
        vfid
        for vfid in inputs.keys() | before.inputs.keys()
        if inputs.get(vfid) != before.inputs.get(vfid)
    }
    claims = dict(before.claims)
    for mac, whose in _reclaimed(before, inputs, changed).items():
        # a MAC that gets another owner concerns both
        changed.update(vfid for _, vfid in (*claims.pop(mac, ())[:1], *whose[:1]))
        if whose:
            claims[mac] = whose
    parts = {vfid: part for vfid, part in before.parts.items() if vfid not in changed}
    for vfid in changed & inputs.keys():
        part = _part(vfid, around, inputs[vfid], claims)
        if part is not None:
            parts[vfid] = part
    return Compiled(_merged(before, around, parts, changed), around, inputs, parts, claims)


def _reclaimed(
    before: Compiled, inputs: Mapping[int, _Input], changed: Collection[int]
) -> dict[str, tuple[tuple[int, int], ...]]:
    """The claims to every MAC that a changed VF gives up or takes."""
    found: dict[str, list[tuple[int, int]]] = {}
    for vfid in changed:
        for mac, _ in _claims_of(before.inputs.get(vfid)):
            found.setdefault(mac, [])
        for mac, rank in _claims_of(inputs.get(vfid)):
            found.setdefault(mac, []).append((rank, vfid))
    for mac, claims in found.items():
        claims += [claim for claim in before.claims.get(mac, ()) if claim[1] not in changed]
    return {mac: tuple(sorted(claims)) for mac, claims in found.items()}


def _claims_of(given: _Input | None) -> Iterator[tuple[str, int]]:
    """The MACs that an open VF would own, each with the rank of its claim."""
    vf, has, own, *_ = given or (None, _NO_GRANTS, None)
    if vf is None:
        return
    for rank, macs in (
        (_CONFIGURED, (vf.vm_mac, *vf.macs)),
        (_GRANTED, (default_mac(vf, has, None), *has.macs)),
        (_OWN, (default_mac(vf, has, own),)),
    ):
        yield from ((mac, rank) for mac in macs if mac is not None)


def _part(vfid: int, around: _Around, given: _Input, claims: _Claims) -> _Part | None:
    """What a VF has in the maps; None: it has no netdev."""
    vf, has, own, iface, shaped = given
    if iface is None:
        return None
    if vf is None:
        return _Part(iface.ifindex, closed_port(iface, own))

    def owns(mac: str | None) -> bool:
        return mac is not None and claims[mac][0][1] == vfid

    mac = default_mac(vf, has, own)
    return _Part(
        iface.ifindex,
        open_port(
            around.pf,
            vf,
            has,
            mac if owns(mac) else None,
            own,
            iface,
            around.link_up,
            (around.shaper or 0) if shaped else 0,
            around.limiter or 0,
        ),
        {mac_key(m): owned_mac(vf, has, m) for m in {mac, *vf.macs, *has.macs} if m and owns(m)},
        frozenset(mac_key(group, vfid + 1) for group in has.groups),
        vlans_of(around.pf, vf),
        tuple(sets_of(vf, has)),
    )


def _merged(
    before: Compiled,
    around: _Around,
    parts: Mapping[int, _Part],
    changed: Iterable[int],
) -> Tables:
    """The tables of ``before`` with the changed VFs' parts in the place of their old ones."""
    old = before.tables
    ports, ifaces, macs = dict(old.ports), dict(old.ifaces), dict(old.macs)
    members, sets = dict(old.members), dict(old.sets)
    gone = {vfid: part for vfid in changed if (part := before.parts.get(vfid))}
    come = {vfid: part for vfid in changed if (part := parts.get(vfid))}
    for vfid, part in gone.items():
        del ports[vfid + 1], ifaces[part.ifindex]
        for key in part.macs:
            del macs[key]
    _without(members, _by_indexes((vfid + 1, part.members) for vfid, part in gone.items()))
    _without(sets, _by_indexes((vfid + 1, part.sets) for vfid, part in gone.items()))
    for vfid, part in come.items():
        ports[vfid + 1], ifaces[part.ifindex] = part.port, vfid + 1
        macs.update(part.macs)
    _with(members, _by_indexes((vfid + 1, part.members) for vfid, part in come.items()))
    _with(sets, _by_indexes((vfid + 1, part.sets) for vfid, part in come.items()))
    hints, groups = hints_of(ports), old.groups
    if any(part.groups for part in (*gone.values(), *come.values())):
        groups = groups.difference(*(part.groups for part in gone.values()))
        groups = groups.union(*(part.groups for part in come.values()))
    if before.around is not None:
        return replace(old, ports=ports, ifaces=ifaces, macs=macs, members=members, sets=sets,
                       groups=groups, hints=hints)  # fmt: skip
    ports[layout.WIRE] = wire_port(around.wire, around.link_up)
    if around.wire is not None:
        ifaces[around.wire] = layout.WIRE
    note = json.dumps(around.pf.model_dump(mode="json"), separators=(",", ":")).encode()
    return Tables(ports, macs, groups, ifaces, members, sets, note, hints)


def _by_indexes(wanted: Iterable[tuple[int, tuple[int, ...]]]) -> Mapping[tuple[int, ...], int]:
    """The ports that are in the same sets, together: 256 full trunks cost as much as one."""
    ports: dict[tuple[int, ...], int] = {}
    for port, indexes in wanted:
        ports[indexes] = ports.get(indexes, 0) | 1 << port
    return ports


def _with(sets: dict[int, int], wanted: Mapping[tuple[int, ...], int]) -> None:
    for indexes, ports in wanted.items():
        for index in indexes:
            sets[index] = sets.get(index, 0) | ports


def _without(sets: dict[int, int], wanted: Mapping[tuple[int, ...], int]) -> None:
    for indexes, ports in wanted.items():
        for index in indexes:
            if left := sets.get(index, 0) & ~ports:
                sets[index] = left
            else:
                sets.pop(index, None)
