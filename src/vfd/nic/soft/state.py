"""What a soft NIC is to enforce, as one value, and what follows from it for its netdevs. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from vfd.nic.soft.shaper import stepped
from vfd.nic.soft.tables import NicTables, canonical
from vfd.policy.addresses import mac_text
from vfd.policy.rate import NONE, Rate
from vfd.policy.requests import Grants, default_mac, mtu_of
from vfd.policy.values import (
    DEFAULT_MTU,
    LinkStatus,
    NicPolicy,
    PfPolicy,
    VfPolicy,
    VfRules,
    reserving,
)

DEFAULT_SPEED = 10_000_000_000
"""Bits per second of a link that nobody states and no uplink has."""


_NO_GRANTS = Grants()
_TRIES = 1000
"""Random MACs that are drawn until one isn't reserved."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything that decides what passes."""

    pf: PfPolicy
    vfs: Mapping[int, VfPolicy] = field(default_factory=dict)
    """The open VFs, resolved."""
    grants: Mapping[int, Grants] = field(default_factory=dict)
    own_macs: Mapping[int, str] = field(default_factory=dict)
    """The NIC's own MAC for every VF that exists."""
    wire_up: bool = True
    configured: bool = True
    """False: the NIC was never configured by vfd."""

    @property
    def policy(self) -> NicPolicy:
        ordered = tuple(self.vfs[vfid] for vfid in sorted(self.vfs))
        return NicPolicy.model_construct(pf=self.pf, vfs=ordered)

    def link_up(self, vfid: int) -> bool:
        """Whether the VF's link is up: SEMANTICS, ``link_status``."""
        vf = self.vfs.get(vfid)
        if vf is None or vf.link_status is LinkStatus.OFF:
            return False
        return vf.link_status is LinkStatus.ON or self.wire_up

    def mac(self, vfid: int) -> str | None:
        """The VF's default MAC in force."""
        own = self.own_macs.get(vfid)
        vf = self.vfs.get(vfid)
        return default_mac(vf, self.grants.get(vfid, _NO_GRANTS), own) if vf else own

    def mtu(self, vfid: int) -> int:
        """The VF's MTU in force; of a closed VF, what it gets when nothing is said."""
        vf = self.vfs.get(vfid) or VfRules()
        return mtu_of(self.pf, vf, self.grants.get(vfid, _NO_GRANTS))

    def rx_limits(self) -> dict[int, int]:
        """Bits per second that VFs may be given; those without a limit are left out."""
        return {
            vfid: limit
            for vfid, vf in self.vfs.items()
            if vf.max_rx_rate.bps and (limit := stepped(vf.max_rx_rate.bps))
        }

    def largest_mtu(self) -> int:
        """What the largest frame between ports may carry. No grant is above the PF's MTU."""
        return max([self.pf.mtu, DEFAULT_MTU, *(vf.mtu or 0 for vf in self.vfs.values())])

    def differing(self, other: State) -> set[int]:
        """The VFs that the two states treat differently."""
        everyone = self.own_macs.keys() | other.own_macs.keys() | self.vfs.keys() | other.vfs.keys()
        if self.pf != other.pf or self.wire_up != other.wire_up:
            return everyone
        found = {v for v in everyone if self.vfs.get(v) is not other.vfs.get(v)}
        found |= {v for v, _ in self.own_macs.items() ^ other.own_macs.items()}
        found |= {v for v, _ in self.grants.items() ^ other.grants.items()}
        return found

    def granted(self, grants: Mapping[int, Grants]) -> State:
        """With what those VFs' guests have now."""
        kept = {v: g for v, g in {**self.grants, **grants}.items() if g != _NO_GRANTS}
        return replace(self, grants=kept)

    def fresh(self, vfids: Collection[int]) -> State:
        """Those VFs start again: nothing granted, a new random MAC."""
        macs = {**self.own_macs, **{vfid: random_mac(self.pf) for vfid in vfids}}
        grants = {v: g for v, g in self.grants.items() if v not in vfids}
        return replace(self, grants=grants, own_macs=macs)

    def unforced(self) -> State:
        """Without the default MACs that guests were granted before one was forced: they may be
        another's by the time in which none is forced any more."""
        forced = [vfid for vfid, vf in self.vfs.items() if vf.vm_mac is not None]
        left = {v: replace(self.grants[v], default_mac=None) for v in forced if v in self.grants}
        return self.granted(left)

    def unreserved(self) -> State:
        """Without what the PF reserves: what guests were granted of it before it did, and MACs of
        the NIC's own that happen to be among it."""
        if not self.pf.reserved_macs:
            return self
        own = {v: random_mac(self.pf) for v, m in self.own_macs.items() if reserving(self.pf, m)}
        kept = {vfid: self._kept(grants) for vfid, grants in self.grants.items()}
        return replace(self, own_macs={**self.own_macs, **own}).granted(kept)

    def _kept(self, grants: Grants) -> Grants:
        default = grants.default_mac
        if default is not None and reserving(self.pf, default):
            default = None
        macs = frozenset(mac for mac in grants.macs if not reserving(self.pf, mac))
        return replace(grants, default_mac=default, macs=macs)


def random_mac(pf: PfPolicy) -> str:
    """A random unicast MAC, locally administered (IEEE 802-2014, 8.4) and none that the PF
    reserves, unless it reserves nearly all."""
    for _ in range(_TRIES):
        raw = bytearray(secrets.token_bytes(6))
        raw[0] = raw[0] & 0xFC | 0x02
        mac = mac_text(bytes(raw))
        if not reserving(pf, mac):
            break
    return mac


def expressible(rules: VfRules, pf: PfPolicy, link_bps: int) -> VfRules:
    """``rules`` as the NIC shows them: rates in bits per second in HTB's steps of 8, an MTU."""
    return canonical(
        rules,
        rate=_rate(rules.rate, link_bps),
        min_rate=_rate(rules.min_rate, link_bps),
        max_rx_rate=_rate(rules.max_rx_rate, link_bps),
        mtu=min(pf.default_mtu, pf.mtu) if rules.mtu is None else rules.mtu,
    )


def _rate(rate: Rate, link_bps: int) -> Rate:
    if rate is NONE:
        return rate
    return _held(rate.on(link_bps))


def _held(bps: int) -> Rate:
    """What HTB makes of it."""
    bps = stepped(bps)
    return Rate(bps=bps) if bps else NONE


def in_steps(vf: VfPolicy) -> VfPolicy:
    """``vf`` with rates that the shaper can hold: those are read back, and asked for again."""
    rates = {name: getattr(vf, name).bps or 0 for name in ("rate", "min_rate", "max_rx_rate")}
    changed = {name: _held(bps) for name, bps in rates.items() if stepped(bps) != bps}
    return vf.model_copy(update=changed) if changed else vf


def as_policy(pf: PfPolicy, vfid: int, rules: VfRules) -> VfPolicy:
    """Rules read back, as the policy of a VF without a file."""
    fields = {name: getattr(rules, name) for name in VfRules.model_fields}
    return VfPolicy.model_construct(name=f"{pf.id}v{vfid}", pciid=pf.id, vfid=vfid, **fields)


def from_tables(found: NicTables, asked: PfPolicy) -> State:
    """The state that a NIC's tables say is in force. ``asked`` stands in for the PF of a NIC
    that was never configured."""
    pf = found.pf or asked
    opened = {vfid: vf.rules for vfid, vf in found.vfs.items() if vf.rules is not None}
    return State(
        pf=pf,
        vfs={vfid: as_policy(pf, vfid, rules) for vfid, rules in opened.items()},
        grants={v: vf.grants for v, vf in found.vfs.items() if vf.grants != _NO_GRANTS},
        own_macs={v: vf.own_mac for v, vf in found.vfs.items() if vf.own_mac},
        wire_up=found.wire_up,
        configured=found.pf is not None,
    )
