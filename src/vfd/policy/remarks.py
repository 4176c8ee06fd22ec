"""What a policy may say but its operator should know: warnings, as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vfd.policy.addresses import is_multicast
from vfd.policy.guarantees import Uses, in_each_class, needed, scale
from vfd.policy.memo import by_identity
from vfd.policy.no_effect import without_effect
from vfd.policy.rate import LEAST_BPS, bps_text
from vfd.policy.resolve import SLACK, uses_of
from vfd.policy.rules import Broken
from vfd.policy.values import GuestMacs, NicPolicy, PfPolicy, VfPolicy

_LESS_THAN_AN_OCTET = tuple(f"/{bits}" for bits in range(1, 8))
_SLOWEST = 1_000_000
"""Bits per second: whoever states less than any link has forgotten the unit."""


_CLOSER = 'state vm_mac or macs, or "guest_macs": "listed"; reserved_macs of the PF keeps some back'


def vf_remarks(vf: VfPolicy) -> tuple[Broken, ...]:
    """What one VF's configuration says that is unsafe, or has no effect."""
    return tuple(Broken(vf.name, *found) for found in _on_vf(vf))


def _on_vf(vf: VfPolicy) -> Iterator[tuple[str, str | int | bool, str]]:
    if not vf.mac_anti_spoof:
        yield "mac_anti_spoof", False, "off: this guest can send from any MAC"
    if not vf.vlan_anti_spoof:
        yield "vlan_anti_spoof", False, "off: this guest can send in any VLAN"
    if vf.guest_macs is GuestMacs.ANY:
        rule = (
            "this guest may claim whatever MAC no VF owns, a gateway's beyond the wire too, and be"
            f" given frames that are meant for it: {_CLOSER}"
        )
        yield "guest_macs", "any", rule
    if vf.vm_mac is not None and vf.vm_mac in vf.macs:
        yield "macs", vf.vm_mac, "it is vm_mac already: listing it again has no effect"
    if (vf.strip_ctag or vf.strip_stag) and len(vf.vlans) > 1:
        strip = "strip_ctag" if vf.strip_ctag else "strip_stag"
        rule = (
            f"with {len(vf.vlans)} VLANs nothing is inserted: the guest tags what it sends, and"
            " what it is given has lost its tag"
        )
        yield strip, True, rule
    if vf.pcp and vf.access_vid is None:
        yield "pcp", vf.pcp, "the NIC inserts no tag for this VF: it has no effect"
    own = frozenset(vf.vlans)
    for number, mirror in enumerate(vf.mirror):
        outside = [vid for vid in mirror.vlans if vid not in own]
        if outside:
            rule = "the VF is not in it: no frame of it will be copied"
            yield f"mirror[{number}].vlans", outside[0], rule


@by_identity
def _on_pf(vf: VfPolicy, enable_qos: bool, link_bps: int | None) -> tuple[Broken, ...]:
    """What one VF's configuration has, on a PF with or without classes."""
    found = list(vf_remarks(vf))
    if vf.queues and not enable_qos:
        rule = "without enable_qos in the main file, shares have no effect"
        found.append(Broken(vf.name, "queues", len(vf.queues), rule))
    for path, rate in (("rate", vf.rate), ("max_rx_rate", vf.max_rx_rate)):
        if link_bps and rate.on(link_bps) > link_bps:
            rule = "faster than the link: it limits nothing"
            found.append(Broken(vf.name, path, str(rate), rule))
        if link_bps and rate.share and rate.on(link_bps) < LEAST_BPS:
            rule = f"less than a frame a second on this link: {bps_text(LEAST_BPS)} is enforced"
            found.append(Broken(vf.name, path, str(rate), rule))
    if link_bps and vf.rate and vf.min_rate.on(link_bps) > vf.rate.on(link_bps):
        rule = f"above rate, which is {bps_text(vf.rate.on(link_bps))} on this link: held to that"
        found.append(Broken(vf.name, "min_rate", str(vf.min_rate), rule))
    return tuple(found)


def remarks(
    nic: NicPolicy, *, link_bps: int | None = None, backend: str | None = None
) -> tuple[Broken, ...]:
    """All remarks about a PF and its VFs. ``link_bps`` None: the link's speed is unknown;
    ``backend``: the one that was found for a PF whose configuration names none."""
    pf = nic.pf
    found = []
    for path, count in (("tclasses", len(pf.tclasses)), ("bw_grps", len(pf.bw_grps))):
        if count and not pf.enable_qos:
            rule = "without enable_qos in the main file, traffic classes have no effect"
            found.append(Broken("", path, count, rule))
    for path, value, rule in without_effect(pf, backend or pf.backend):
        found.append(Broken("", path, value, rule))
    if pf.unconfigured == "leave" and pf.backend == "soft":
        rule = (
            "a software NIC's VFs are vfd's alone: they are listed as not managed, but without a"
            " configuration they pass nothing, whoever else is to manage them"
        )
        found.append(Broken("", "unconfigured", "leave", rule))
    if pf.link_speed is not None and pf.link_speed < _SLOWEST:
        rule = f'read as {bps_text(pf.link_speed)}: for 10 Gbit/s write "10Gbps"'
        found.append(Broken("", "link_speed", pf.link_speed, rule))
    for number, entry in enumerate(pf.reserved_macs):
        if is_multicast(entry) and not entry.endswith(_LESS_THAN_AN_OCTET):
            rule = "multicast, which no VF can own anyway: it has no effect"
            found.append(Broken("", f"reserved_macs[{number}]", entry, rule))
    for number, tc in enumerate(pf.tclasses):
        if tc.latency:
            rule = "kept for old files; it has no effect"
            found.append(Broken("", f"tclasses[{number}].latency", True, rule))
    if link_bps and (parts := {vf.vfid: n for vf in nic.vfs if (n := vf.min_rate.on(link_bps))}):
        uses = uses_of(nic)
        if not pf.vf_oversubscription:
            found += _scaled(pf, link_bps, parts, uses)
        if in_each_class(pf):
            found += _not_in_every_class(nic, link_bps, parts, uses)
    configured = {vf.vfid for vf in nic.vfs}
    for vf in nic.vfs:
        found += _on_pf(vf, pf.enable_qos, link_bps)
        for number, mirror in enumerate(vf.mirror):
            if mirror.target not in configured:
                rule = (
                    f"VF {mirror.target} has no configuration and is closed: it gets copies once it"
                    " has one"
                )
                if pf.unconfigured == "leave":
                    rule = f"VF {mirror.target} is not managed here: whoever has it gets the copies"
                found.append(Broken(vf.name, f"mirror[{number}].target", mirror.target, rule))
    return tuple(found)


def _scaled(pf: PfPolicy, link_bps: int, parts: Mapping[int, int], uses: Uses) -> Iterator[Broken]:
    """Guarantees (``parts``, by vfid) that fitted until the link became slower, or the classes
    others."""
    wanted = needed(pf, link_bps, parts, uses)
    if wanted > link_bps * SLACK:
        room, whole = scale(pf, link_bps, parts, uses)
        beside = ", each beside min_bw of the other classes," if in_each_class(pf) else ""
        rule = (
            f"the guarantees of the PF's VFs{beside} add up to {wanted / link_bps:.4g} times the"
            f" link of {bps_text(link_bps)}: each is scaled by {room / whole:.4g}, until the link"
            " is faster or they are lowered"
        )
        yield Broken("", "min_rate", sum(parts.values()), rule)


def _not_in_every_class(
    nic: NicPolicy, link_bps: int, parts: Mapping[int, int], uses: Uses
) -> Iterator[Broken]:
    """Guarantees that a VF has not in all classes that its guest may send in."""
    capped = {
        tc.pri
        for tc in nic.pf.tclasses
        if sum(parts.get(vfid, 0) for vfid in uses.get(tc.pri, ())) > link_bps * tc.max_bw / 100
    }
    for vf in nic.vfs:
        if vf.vfid not in parts:
            continue
        without = sorted(pri for pri, vfids in uses.items() if vf.vfid not in vfids)
        if without:
            rule = f"not in {_classes(without)}: nothing of it is the VF's (queues)"
            yield Broken(vf.name, "min_rate", str(vf.min_rate), rule)
        if short := sorted(capped - set(without)):
            rule = f"in {_classes(short)} no more than its part of what the class may have (max_bw)"
            yield Broken(vf.name, "min_rate", str(vf.min_rate), rule)


def _classes(pris: list[int]) -> str:
    word = "class" if len(pris) == 1 else "classes"
    return f"{word} {', '.join(map(str, pris))}"
