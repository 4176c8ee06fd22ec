"""What a guest may ask for, and the table that decides.

The table is docs/semantics.md, "What a guest may ask for". Pure: ``decide`` says whether and why,
``granted`` what the guest has afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from vfd.policy.addresses import BROADCAST, canonical_mac, is_multicast, is_zero, vlan_ranges
from vfd.policy.values import (
    GuestMacs,
    Limits,
    NicPolicy,
    PfPolicy,
    VfPolicy,
    VfRules,
    reserving,
)

MIN_MTU = 68
"""Bytes; what every IPv4 host must take in one piece: RFC 791, 3.2."""


class RequestKind(StrEnum):
    DEFAULT_MAC = "default-mac"
    ADD_MAC = "add-mac"
    REMOVE_MAC = "remove-mac"
    VLAN = "vlan-filter"
    JOIN_GROUP = "join-group"
    LEAVE_GROUP = "leave-group"
    MTU = "mtu"
    PROMISC = "promiscuous"
    ALLMULTI = "all-multicast"


@dataclass(frozen=True, slots=True)
class Request:
    """What a guest asks for through the NIC's mailbox."""

    vfid: int
    kind: RequestKind
    mac: str | None = None
    """DEFAULT_MAC, ADD_MAC, REMOVE_MAC: the MAC; JOIN_GROUP, LEAVE_GROUP: the group."""
    vid: int | None = None
    mtu: int | None = None
    on: bool = True
    """PROMISC, ALLMULTI: on or off. VLAN: set or cleared."""


@dataclass(frozen=True, slots=True)
class Decision:
    granted: bool
    reason: str
    """For the log and the event: why, in words that name the rule."""


@dataclass(frozen=True, slots=True)
class Grants:
    """What a guest was granted, until its VF is deleted or it is gone."""

    default_mac: str | None = None
    macs: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    mtu: int | None = None
    promisc: bool = False
    allmulti: bool = False


class Room(Protocol):
    """What a NIC has room for: ``values.Limits``, or a NIC's capabilities."""

    @property
    def max_macs(self) -> int: ...
    @property
    def max_groups(self) -> int: ...


_NO_LIMITS = Limits()


def default_mac(vf: VfRules, grants: Grants, own: str | None) -> str | None:
    """The default MAC in force: forced, else granted, else the NIC's own."""
    return vf.forced_mac or grants.default_mac or own


def owners(
    nic: NicPolicy, grants: Mapping[int, Grants], own_macs: Mapping[int, str]
) -> dict[str, int]:
    """MAC → the open VF that owns it: as its default, listed or granted. No MAC has two owners.

    Rules and requests see to that when they are decided. Should a later configuration claim what
    a guest was granted before, the configuration has it; a grant comes before the NIC's own MAC.
    """
    vfs = sorted(nic.vfs, key=lambda vf: vf.vfid)
    owned: dict[str, int] = {}
    for vf in vfs:
        for mac in (vf.vm_mac, *vf.macs):
            if mac is not None:
                owned.setdefault(mac, vf.vfid)
    for vf in vfs:
        has = grants.get(vf.vfid, Grants())
        for mac in (default_mac(vf, has, None), *sorted(has.macs)):
            if mac is not None:
                owned.setdefault(mac, vf.vfid)
    for vf in vfs:
        mac = default_mac(vf, grants.get(vf.vfid, Grants()), own_macs.get(vf.vfid))
        if mac is not None:
            owned.setdefault(mac, vf.vfid)
    return owned


def mtu_of(pf: PfPolicy, vf: VfRules, grants: Grants) -> int:
    """The MTU in force: granted (within the PF's), else the VF's, else the PF's default."""
    if grants.mtu is not None:
        return min(grants.mtu, pf.mtu)
    return vf.mtu if vf.mtu is not None else min(pf.default_mtu, pf.mtu)


def decide(
    nic: NicPolicy,
    grants: Mapping[int, Grants],
    request: Request,
    *,
    limits: Room = _NO_LIMITS,
    own_macs: Mapping[int, str],
    owned: Mapping[str, int] | None = None,
) -> Decision:
    """Whether policy lets the guest have what it asks for.

    ``own_macs``: the NIC's own MAC of every VF that exists, closed ones too. Asking for what is so
    already is granted, and so is giving up. The answer has no effect by itself: ``granted`` says
    what it changes. ``owned``: what ``owners`` says of all this, where that is known.
    """
    vf = nic.by_vfid().get(request.vfid)
    if vf is None and nic.pf.unconfigured == "leave":
        return _refuse(f"VF {request.vfid} has no configuration: it is not managed here")
    if vf is None:
        return _refuse(f"VF {request.vfid} has no configuration: it is closed")
    if request.kind in _MAC_REQUESTS:
        return _decide_mac(nic, vf, grants, request, limits, own_macs, owned)
    if request.kind is RequestKind.VLAN:
        return _decide_vlan(vf, request)
    if request.kind is RequestKind.MTU:
        return _decide_mtu(nic.pf, request)
    return _decide_mode(vf, request)


def granted(grants: Grants, request: Request) -> Grants:
    """What the guest has once ``request`` is granted; the same if it had that before."""
    mac = canonical_mac(request.mac) if request.mac is not None else None
    one = frozenset((mac,)) if mac is not None else frozenset()
    match request.kind:
        case RequestKind.DEFAULT_MAC:
            return replace(grants, default_mac=mac)
        case RequestKind.ADD_MAC:
            return replace(grants, macs=grants.macs | one)
        case RequestKind.REMOVE_MAC:
            return replace(grants, macs=grants.macs - one)
        case RequestKind.JOIN_GROUP:
            return replace(grants, groups=grants.groups | one)
        case RequestKind.LEAVE_GROUP:
            return replace(grants, groups=grants.groups - one)
        case RequestKind.MTU:
            return replace(grants, mtu=request.mtu)
        case RequestKind.PROMISC:
            return replace(grants, promisc=request.on)
        case RequestKind.ALLMULTI:
            return replace(grants, allmulti=request.on)
        case RequestKind.VLAN:
            return grants  # the VF has all of its vlans already


def in_words(request: Request) -> str:
    """The request in a few words: ``add-mac 02:00:00:00:00:05``."""
    match request.kind:
        case RequestKind.VLAN:
            return f"{request.kind} {request.vid}"
        case RequestKind.MTU:
            return f"{request.kind} {request.mtu}"
        case RequestKind.PROMISC | RequestKind.ALLMULTI:
            return f"{request.kind} {'on' if request.on else 'off'}"
    return f"{request.kind} {request.mac}"


_MAC_REQUESTS = frozenset(
    {
        RequestKind.DEFAULT_MAC,
        RequestKind.ADD_MAC,
        RequestKind.REMOVE_MAC,
        RequestKind.JOIN_GROUP,
        RequestKind.LEAVE_GROUP,
    }
)


def _grant(reason: str) -> Decision:
    return Decision(True, reason)


def _refuse(reason: str) -> Decision:
    return Decision(False, reason)


def _decide_mac(
    nic: NicPolicy,
    vf: VfPolicy,
    grants: Mapping[int, Grants],
    request: Request,
    limits: Room,
    own_macs: Mapping[int, str],
    owned: Mapping[str, int] | None,
) -> Decision:
    try:
        mac = canonical_mac(request.mac or "")
    except ValueError as error:
        return _refuse(str(error))
    has = grants.get(vf.vfid, Grants())
    match request.kind:
        case RequestKind.REMOVE_MAC | RequestKind.LEAVE_GROUP:
            return _grant(f"a guest may give up {mac}")
        case RequestKind.JOIN_GROUP:
            return _decide_group(vf, has, mac, limits)
    if is_multicast(mac) or is_zero(mac):
        return _refuse(f"{mac} is not a unicast address: no VF can own it")
    if owned is None:
        owned = owners(nic, grants, own_macs)
    default = default_mac(vf, has, own_macs.get(vf.vfid))
    is_own = owned.get(mac) == vf.vfid
    if is_own and mac == default:
        return _grant(f"{mac} is the VF's default MAC already")
    if is_own and request.kind is RequestKind.ADD_MAC:
        return _grant(f"{mac} is the VF's already")
    if owner := _other_owner(nic, vf, owned, own_macs, mac):
        return _refuse(f"{mac} belongs to {owner}")
    if request.kind is RequestKind.DEFAULT_MAC and vf.forced_mac is not None:
        further = " as its default, though it passes as a further one" if is_own else ""
        by = "its configuration (vm_mac, or the first of macs)"
        return _refuse(f"{by} forces {vf.forced_mac}: the guest may not have {mac}{further}")
    if reserved := reserving(nic.pf, mac):
        return _refuse(f"{mac} is reserved: reserved_macs of {nic.pf.id} has {reserved}")
    if request.kind is RequestKind.DEFAULT_MAC:
        return _grant(f"vm_mac is unset, no other VF owns {mac}")
    return _decide_further_mac(vf, has, mac, default, limits)


def _decide_further_mac(
    vf: VfPolicy, has: Grants, mac: str, default: str | None, limits: Room
) -> Decision:
    if vf.guest_macs is GuestMacs.NONE:
        return _refuse(f'guest_macs is "none": the guest may not ask for {mac}')
    if vf.guest_macs is GuestMacs.LISTED:
        return _refuse(f'guest_macs is "listed" and {mac} is not in macs')
    further = (has.macs | set(vf.macs)) - {default}
    if len(further) >= limits.max_macs:
        return _refuse(f"the VF has {len(further)} further MACs: the limit is {limits.max_macs}")
    return _grant(f'guest_macs is "{vf.guest_macs}", no other VF owns {mac}')


def _decide_group(vf: VfPolicy, has: Grants, group: str, limits: Room) -> Decision:
    if group == BROADCAST or not is_multicast(group):
        return _refuse(f"{group} is not a multicast group")
    if group in has.groups:
        return _grant(f"the guest is in {group} already")
    anyway = ", which is given to it all the same: allow_mcast is true" if vf.allow_mcast else ""
    if not vf.guest_groups:
        return _refuse(f"guest_groups is false: the guest may not join {group}{anyway}")
    if len(has.groups) >= limits.max_groups:
        found = f"the guest is in {len(has.groups)} groups: the limit is {limits.max_groups}"
        return _refuse(f"{found}, and it may not join {group}{anyway}")
    return _grant(f"guest_groups lets the guest join {group}")


def _other_owner(
    nic: NicPolicy,
    vf: VfPolicy,
    owned: Mapping[str, int],
    own_macs: Mapping[int, str],
    mac: str,
) -> str | None:
    """Which other VF on the PF owns ``mac``, in words.

    A closed VF keeps the NIC's own MAC: it would be owned twice once the VF is opened.
    """
    owner = owned.get(mac, vf.vfid)
    if owner != vf.vfid:
        return f"VF {owner} ({nic.by_vfid()[owner].name})"
    for closed in sorted(own_macs.keys() - nic.by_vfid().keys()):
        if own_macs[closed] == mac:
            left = nic.pf.unconfigured == "leave"
            return f"VF {closed}, which is {'not managed' if left else 'closed'}"
    return None


def _decide_vlan(vf: VfPolicy, request: Request) -> Decision:
    vid = request.vid
    if vid is None:
        return _refuse("a VLAN filter needs a VID: the request names none")
    if not request.on:
        return _grant(f"a guest may give up its filter for VLAN {vid}")
    if vid == 0 and vf.access_vid is not None:
        return _grant(f"VID 0 is untagged, and tagged with {vf.access_vid} for the guest")
    if not vf.guest_vlans:
        anyway = f" (it is in VLAN {vid} all the same)" if vid in vf.vlans else ""
        return _refuse(f"guest_vlans is false: the guest may ask for no VLAN filter{anyway}")
    if vid == 0:
        if vf.allow_untagged:
            return _grant("VID 0 is untagged, and allow_untagged is true")
        return _refuse("VID 0 is untagged, and allow_untagged is false")
    if vid not in vf.vlans:
        return _refuse(f"VLAN {vid} is not in vlans ({_listing(vf.vlans)})")
    return _grant(f"VLAN {vid} is in vlans")


def _listing(vlans: tuple[int, ...]) -> str:
    return ", ".join(map(str, vlan_ranges(vlans))) or "which is empty"


def _decide_mtu(pf: PfPolicy, request: Request) -> Decision:
    mtu = request.mtu
    if mtu is None:
        return _refuse("the request names no MTU")
    if mtu < MIN_MTU:
        return _refuse(f"MTU {mtu} is below {MIN_MTU}, the least that IPv4 works with")
    if mtu > pf.mtu:
        return _refuse(f"MTU {mtu} is above the PF's mtu, {pf.mtu}")
    return _grant(f"MTU {mtu} is not above the PF's mtu, {pf.mtu}")


def _decide_mode(vf: VfPolicy, request: Request) -> Decision:
    if not request.on:
        return _grant(f"a guest may give up {request.kind}")
    if not vf.trust:
        return _refuse(f"trust is false: the guest may not be {request.kind}")
    within = f"allow_mcast ({_says(vf.allow_mcast)})"
    if request.kind is RequestKind.PROMISC:
        within = f"allow_un_ucast ({_says(vf.allow_un_ucast)}), {within}"
    return _grant(f"trust is true; {request.kind} within {within}")


def _says(flag: bool) -> str:
    return "true" if flag else "false"
