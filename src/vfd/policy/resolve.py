"""Policies with everything that depends on the link and the other VFs worked out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vfd.policy import guarantees
from vfd.policy.memo import by_identity
from vfd.policy.rate import LEAST_BPS, NONE, Rate
from vfd.policy.values import NicPolicy, PfPolicy, QueueShare, VfPolicy

SLACK = 1 + 1e-9
"""Shares are sums of decimal fractions; this much over the whole is rounding."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a NIC is told to enforce, and by how much it was scaled."""

    nic: NicPolicy
    """Rates in bits per second, an MTU for every VF, shares in every class where classes are on;
    a default MAC that comes from ``macs`` is ``vm_mac``."""
    scale: float = 1.0
    """What each guarantee (min_rate) was multiplied with: below 1 under oversubscription, and on a
    link that has become too slow for them (where classes state min_bw: for both)."""
    class_scale: Mapping[int, float] = field(default_factory=dict)
    """The same for the shares in each traffic class that was scaled."""


def resolve(nic: NicPolicy, link_bps: int) -> Resolved:
    """``nic`` with nothing left to look up: docs/semantics.md, "Rates and traffic classes".

    Resolving what is resolved changes nothing. ``nic`` has passed ``rules.check``, perhaps when
    its link was faster.
    """
    pf = nic.pf
    shares, class_scale = _shares(nic)
    parts = {vf.vfid: vf.min_rate.on(link_bps) for vf in nic.vfs if vf.min_rate is not NONE}
    scale, part = 1.0, None
    if parts:
        uses = _uses(nic, shares)
        wanted = guarantees.needed(pf, link_bps, parts, uses)
        if wanted > link_bps:
            part = guarantees.scale(pf, link_bps, parts, uses)
        # shares that add up to the whole may be a bit more once each is rounded: no news to anybody
        if part and wanted > link_bps * SLACK:
            scale = part[0] / part[1]
    mtu = min(pf.default_mtu, pf.mtu)
    vfs = tuple(
        _resolved(vf, link_bps, mtu, part, queues)
        for vf, queues in zip(nic.vfs, shares, strict=True)
    )
    return Resolved(NicPolicy.model_construct(pf=pf, vfs=vfs), scale, class_scale)


@by_identity
def _resolved(
    vf: VfPolicy,
    link_bps: int,
    mtu: int,
    part: tuple[int, int] | None,
    queues: tuple[QueueShare, ...],
) -> VfPolicy:
    """One VF. ``part``: numerator and denominator of what is left of its guarantee; rounded down to
    a whole number, so that the sum fits the link and need not be scaled again."""
    guarantee, rate = vf.min_rate.on(link_bps), _limit(vf.rate, link_bps)
    if part:
        guarantee = guarantee * part[0] // part[1]
    return vf.model_copy(
        update={
            "rate": rate,
            "min_rate": _bps(min(guarantee, rate.bps) if rate.bps else guarantee),
            "max_rx_rate": _limit(vf.max_rx_rate, link_bps),
            "mtu": mtu if vf.mtu is None else vf.mtu,
            "vm_mac": vf.forced_mac,
            "macs": vf.further_macs,
            "queues": queues,
        }
    )


def _limit(rate: Rate, link_bps: int) -> Rate:
    """A share of next to nothing is the least limit there is: rounded to 0 it would be none."""
    return Rate(bps=max(rate.on(link_bps), LEAST_BPS)) if rate else NONE


def _bps(bps: int) -> Rate:
    return Rate(bps=bps) if bps else NONE


def _shares(nic: NicPolicy) -> tuple[list[tuple[QueueShare, ...]], dict[int, float]]:
    """Each VF's shares in every class, and what those of a class were multiplied with.

    Without ``enable_qos`` there are no classes to share. A VF that states no share in a class
    gets an equal part of what the others leave, counting every VF that the PF has, so that a VF
    that comes or goes does not change the shares of the rest.
    """
    pf = nic.pf
    if not pf.enable_qos:
        return [vf.queues for vf in nic.vfs], {}
    stated = [{queue.priority: queue.share for queue in vf.queues} for vf in nic.vfs]
    final: list[dict[int, float]] = [{} for _ in nic.vfs]
    scales: dict[int, float] = {}
    for tc in _priorities(pf):
        having = [shares[tc] for shares in stated if tc in shares]
        total = sum(having)
        scale = 100 / total if pf.vf_oversubscription and total > 100 * SLACK else 1.0
        if scale < 1:
            scales[tc] = scale
        without = max(pf.vfs or 0, len(nic.vfs)) - len(having)
        equal = max(0.0, 100 - total * scale) / without if without else 0.0
        for shares, mine in zip(stated, final, strict=True):
            mine[tc] = shares[tc] * scale if tc in shares else equal
    return [
        tuple(QueueShare.model_construct(priority=tc, share=share) for tc, share in mine.items())
        for mine in final
    ], scales


def uses_of(nic: NicPolicy) -> dict[int, set[int]]:
    """By traffic class, the VFs that have a share of it; empty where guarantees aren't judged class
    by class, which then nobody asks about."""
    return _uses(nic, _shares(nic)[0]) if guarantees.in_each_class(nic.pf) else {}


def _uses(nic: NicPolicy, shares: list[tuple[QueueShare, ...]]) -> dict[int, set[int]]:
    if not nic.pf.enable_qos:
        return {}
    found: dict[int, set[int]] = {tc: set() for tc in _priorities(nic.pf)}
    for vf, queues in zip(nic.vfs, shares, strict=True):
        for queue in queues:
            if queue.share > 0:
                found[queue.priority].add(vf.vfid)
    return found


def _priorities(pf: PfPolicy) -> list[int]:
    return sorted(tc.pri for tc in pf.tclasses) or list(range(pf.classes))
