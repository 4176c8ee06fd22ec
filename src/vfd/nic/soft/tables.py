"""What the VEB's maps hold for a NIC's policy, and back: pure, no kernel here.

What one VF has in the maps, and ``decode``: what maps mean. ``compiler`` puts VFs together, and
``writes.diff`` says in which order to write so that nothing passes wrongly in between. Rates are
only noted here: who shapes (HTB and TBF) replaces them in what ``decode`` returns by what the
qdiscs say.

Layout and meaning of every field: ``bpf/veb.h``; of the maps: ``bpf/maps.h``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from pydantic import ValidationError

from vfd.nic.protocol import NicError, UnsupportedError
from vfd.nic.soft import layout
from vfd.nic.soft.layout import VebMac, VebMirror, VebPort
from vfd.policy.addresses import mac_bytes, mac_text
from vfd.policy.guarantees import in_each_class
from vfd.policy.mirrors import merged
from vfd.policy.rate import NONE, Rate
from vfd.policy.requests import Grants, mtu_of
from vfd.policy.values import (
    MAX_VFS,
    S_TAG,
    Direction,
    GuestMacs,
    LinkStatus,
    Mirror,
    NicPolicy,
    PfPolicy,
    QueueShare,
    VfPolicy,
    VfRules,
)

_NO_MAC = bytes(6)
_PORT_MAC = slice(VebPort.mac.offset, VebPort.mac.offset + VebPort.mac.size)
_NO_GRANTS = Grants()


@dataclass(frozen=True, slots=True)
class Iface:
    """The netdev behind a port."""

    ifindex: int
    """Of the host end, in the switch's network namespace."""
    peer: bool = False
    """bpf_redirect_peer may be used: a veth whose guest end is in another namespace, with the
    same MTU, the VF's MAC, and no Rx limit on the host end."""
    learn: bool = False
    """A tap: source MACs that its VF does not own are reported as events."""
    snoop: bool = True
    """IGMP and MLD reports are reported as events."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What the policy is compiled for: the NIC as it is there now."""

    vfs: Mapping[int, Iface]
    """By vfid: every VF that exists, closed ones too."""
    wire: int | None
    """The uplink's ifindex; None: there is no wire, which counts as up."""
    wire_up: bool = True
    own_macs: Mapping[int, str] = field(default_factory=dict)
    """By vfid: the NIC's own MAC, for VFs that have no forced or granted one."""
    shaper: int | None = None
    """ifindex of the shaper's near end, in the switch's namespace."""
    limiter: int | None = None
    """ifindex of its far end, where VFs with a rate begin if classes are in use."""
    shaped: frozenset[int] = frozenset()
    """The VFs whose Tx goes through the shaper; see ``needs_shaper``."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Contents of the maps. What is absent from a mapping is zero or not there."""

    ports: Mapping[int, bytes] = field(default_factory=dict)
    """Port → ``struct veb_port`` in force. Port 0 is the wire, VF n is port n + 1."""
    macs: Mapping[bytes, bytes] = field(default_factory=dict)
    groups: frozenset[bytes] = frozenset()
    ifaces: Mapping[int, int] = field(default_factory=dict)
    """ifindex → port."""
    members: Mapping[int, int] = field(default_factory=dict)
    """VLAN, numbered as in veb.h → ports, as the bits of a number."""
    sets: Mapping[int, int] = field(default_factory=dict)
    """Class (SET_*) → ports, as the bits of a number."""
    note: bytes = b""
    """JSON: the PF's policy."""
    hints: Mapping[int, int] = field(default_factory=dict)
    """``layout.hint_of`` a default MAC → port."""
    slots: Mapping[int, int] = field(default_factory=dict)
    """Port → its slot in force. Of tables that were read from maps; else empty."""


@dataclass(frozen=True, slots=True)
class VfTables:
    """One VF as the maps have it."""

    rules: VfRules | None
    """None: closed. Rates in bits per second as they were noted; otherwise canonical."""
    grants: Grants
    own_mac: str | None
    """The NIC's own MAC for the VF."""
    mac: str | None
    """The default MAC in force."""
    mtu: int | None
    link_up: bool
    ifindex: int
    peer: bool
    shaped: bool


@dataclass(frozen=True, slots=True)
class NicTables:
    """A whole NIC as the maps have it."""

    pf: PfPolicy | None
    vfs: Mapping[int, VfTables]
    wire: int | None
    wire_up: bool


# -- Shaping ----------------------------------------------------------------------------------


def traffic_class(pf: PfPolicy, pcp: int) -> int:
    """The class of a frame with that PCP: two PCPs a class with 4 classes, one with 8; without
    ``enable_qos`` all are in class 0. Semantics, "Rates and traffic classes"."""
    if not pf.enable_qos:
        return 0
    return pcp if len(pf.tclasses) == 8 else pcp // 2


def class_id(vfid: int, tclass: int, *, pooled: bool = False) -> int:
    """The tc handle of the HTB class of a VF in one traffic class: 1:(0x1000 + 8 vfid + class), or
    from 1:0x2000 on for one that hangs under its VF; so a VF can go from one to the other."""
    return 0x1_0000 | (0x2000 if pooled else 0x1000) + 8 * vfid + tclass


def is_pooled(pf: PfPolicy, vf: VfPolicy) -> bool:
    """Whether a VF's guarantee is one for all its traffic classes."""
    return pf.enable_qos and bool(vf.min_rate) and not in_each_class(pf)


def needs_shaper(nic: NicPolicy) -> frozenset[int]:
    """The VFs whose Tx has to go through the shaper: those with a rate, and every VF as soon as
    one has a guarantee or classes are in use, for a guarantee binds all who share the wire."""
    if nic.pf.enable_qos or any(vf.min_rate is not NONE and vf.min_rate for vf in nic.vfs):
        return frozenset(vf.vfid for vf in nic.vfs)
    return frozenset(vf.vfid for vf in nic.vfs if vf.rate is not NONE and vf.rate)


# -- Policy → tables --------------------------------------------------------------------------


def canonical(rules: VfRules, **more: object) -> VfRules:
    """``rules`` as ``decode`` shows them: sorted, one mirror for each target and direction, the MAC
    that is forced as ``vm_mac``, and left in ``macs``. Means the same, but for the fields in
    ``more``."""
    return rules.model_copy(
        update={
            "vm_mac": rules.forced_mac,
            "vlans": tuple(sorted(set(rules.vlans))),
            "macs": tuple(sorted(set(rules.macs))),
            "queues": tuple(sorted(rules.queues, key=lambda queue: queue.priority)),
            "mirror": merged(rules.mirror),
            **more,
        }
    )


def hints_of(ports: Mapping[int, bytes]) -> dict[int, int]:
    """Where the program is to look first for the owners of default MACs. Of two at one place it is
    the VF with the lower number: the other's frames take the way through ``macs``."""
    hints: dict[int, int] = {}
    for port in sorted(ports, reverse=True):
        mac = ports[port][_PORT_MAC]
        if mac != _NO_MAC:
            hints[layout.hint_of(mac)] = port
    return hints


def wire_port(ifindex: int | None, up: bool) -> bytes:
    flags = layout.PORT_CONFIGURED | (layout.PORT_UP if up else 0)
    return bytes(VebPort(flags=flags, ifindex=ifindex or 0))


def closed_port(iface: Iface, own_mac: str | None) -> bytes:
    """A VF without a configuration."""
    port = VebPort(ifindex=iface.ifindex)
    if own_mac:
        port.own_mac[:] = mac_bytes(own_mac)
    return bytes(port)


def open_port(
    pf: PfPolicy,
    vf: VfPolicy,
    grants: Grants,
    mac: str | None,
    own_mac: str | None,
    iface: Iface,
    wire_up: bool,
    shaper: int,
    limiter: int,
) -> bytes:
    """A VF with a configuration. ``mac``: its default MAC, if it is its own; ``shaper``: 0 if its
    Tx doesn't go there; ``limiter``: where it begins if it has a rate and there are classes."""
    port = VebPort.from_buffer_copy(closed_port(iface, own_mac))
    up = vf.link_status is LinkStatus.ON or (vf.link_status is LinkStatus.AUTO and wire_up)
    mirrors = merged(vf.mirror, source=vf.vfid)
    copied = {mirror.direction for mirror in mirrors}
    port.flags = _bits(
        (layout.PORT_CONFIGURED, True),
        (layout.PORT_UP, up),
        (layout.PORT_MAC_SPOOFCHK, vf.mac_anti_spoof),
        (layout.PORT_VLAN_SPOOFCHK, vf.vlan_anti_spoof),
        (layout.PORT_UNTAGGED, vf.allow_untagged),
        (layout.PORT_BCAST, vf.allow_bcast),
        (layout.PORT_MCAST, vf.allow_mcast),
        (layout.PORT_UCAST, vf.allow_un_ucast),
        (layout.PORT_GROUPS, bool(grants.groups)),
        (layout.PORT_INSERT, vf.access_vid is not None),
        (layout.PORT_STRIP, vf.strip_stag or vf.strip_ctag),
        (layout.PORT_SERVICE, vf.strip_stag),
        (layout.PORT_LOOPBACK, pf.enable_loopback),
        (layout.PORT_PEER, iface.peer),
        (layout.PORT_SHAPED, bool(shaper)),
        (layout.PORT_SNOOP, iface.snoop),
        (layout.PORT_LEARN, iface.learn),
        (layout.PORT_TX_MIRROR, bool(copied - {Direction.IN})),
        (layout.PORT_RX_MIRROR, bool(copied - {Direction.OUT})),
        (layout.PORT_RX_LIMITED, bool(vf.max_rx_rate)),
    )
    port.flags |= vf.pcp << layout.PORT_PCP_SHIFT
    port.mtu = mtu_of(pf, vf, grants)
    port.tpid = vf.tpid(pf.tpid)
    port.vid = vf.access_vid or 0
    if mac is not None:
        port.mac[:] = mac_bytes(mac)
    if shaper:
        port.shaper = shaper
        pooled = is_pooled(pf, vf)
        port.classid[:] = [
            class_id(vf.vfid, traffic_class(pf, pcp), pooled=pooled) for pcp in range(8)
        ]
        port.limiter = limiter if pf.enable_qos and vf.rate else 0
    if vf.storm_limit:
        port.storm_ns = 10**9 // vf.storm_limit
        port.storm_depth_ns = port.storm_ns * storm_burst(vf.storm_limit)
    port.vlans = layout.vid_set(vf.vlans)
    _note(port, vf, grants)
    _fill_mirrors(port, vf, mirrors)
    return bytes(port)


def storm_burst(limit: int) -> int:
    """Frames that may come at once under a storm limit of ``limit`` a second: a tenth of a
    second's, and never fewer than an address resolution or two need."""
    return min(limit, max(10, limit // 10))


def _note(port: VebPort, vf: VfPolicy, grants: Grants) -> None:
    """What only the control plane acts on."""
    port.said = _bits(
        (layout.SAID_LINK_ON, vf.link_status is LinkStatus.ON),
        (layout.SAID_LINK_OFF, vf.link_status is LinkStatus.OFF),
        (layout.SAID_STRIP_CTAG, vf.strip_ctag),
        (layout.SAID_TRUST, vf.trust),
        (layout.SAID_MACS_LISTED, vf.guest_macs is GuestMacs.LISTED),
        (layout.SAID_MACS_NONE, vf.guest_macs is GuestMacs.NONE),
        (layout.SAID_GUEST_VLANS, vf.guest_vlans),
        (layout.SAID_GUEST_GROUPS, vf.guest_groups),
        (layout.SAID_PROMISC, grants.promisc),
        (layout.SAID_ALLMULTI, grants.allmulti),
    )
    port.storm_limit = vf.storm_limit
    port.mtu_said = vf.mtu or 0
    port.mtu_granted = grants.mtu or 0
    port.rate = _bps(vf.rate)
    port.min_rate = _bps(vf.min_rate)
    port.max_rx_rate = _bps(vf.max_rx_rate)
    port.shares[:] = [layout.NO_SHARE] * 8
    for queue in vf.queues:
        port.shares[queue.priority] = struct.unpack("=Q", struct.pack("=d", queue.share))[0]
    if grants.default_mac:
        port.granted_mac[:] = mac_bytes(grants.default_mac)


def _fill_mirrors(port: VebPort, vf: VfPolicy, mirrors: tuple[Mirror, ...]) -> None:
    if len(mirrors) > layout.MIRRORS:  # Capabilities.max_mirrors keeps it at the door
        raise UnsupportedError(
            f"VF {vf.vfid} has {len(mirrors)} mirrors: the soft NIC has room for {layout.MIRRORS}"
        )
    port.mirrors = len(mirrors)
    for entry, mirror in zip(port.mirror, mirrors, strict=False):
        entry.port = mirror.target + 1
        entry.flags = _bits(
            (layout.MIRROR_IN, mirror.direction is not Direction.OUT),
            (layout.MIRROR_OUT, mirror.direction is not Direction.IN),
            (layout.MIRROR_VLANS, bool(mirror.vlans)),
        )
        entry.vlans = layout.vid_set(mirror.vlans)


def owned_mac(vf: VfPolicy, grants: Grants, mac: str) -> bytes:
    """The entry of a MAC that the VF owns, with the reasons why."""
    why = _bits(
        (layout.MAC_FORCED, mac == vf.vm_mac),
        (layout.MAC_LISTED, mac in vf.macs),
        (layout.MAC_GRANTED, mac in grants.macs),
    )
    return mac_key(mac, (vf.vfid + 1) | why)


def vlans_of(pf: PfPolicy, vf: VfPolicy) -> tuple[int, ...]:
    """The VLANs that an open VF is in, numbered as in veb.h."""
    kind = layout.STAG if vf.tpid(pf.tpid) == S_TAG else 0
    return _numbered(kind, vf.vlans, vf.allow_untagged)


@lru_cache(maxsize=MAX_VFS)  # VFs that have many VLANs mostly have the same, and share one tuple
def _numbered(kind: int, vids: tuple[int, ...], untagged: bool) -> tuple[int, ...]:
    vlans = tuple(kind | vid for vid in vids)
    return (*vlans, kind, layout.UNTAGGED) if untagged else vlans


def sets_of(vf: VfPolicy, grants: Grants) -> list[int]:
    """The classes of frames that an open VF is flooded with."""
    wanted = (
        (layout.SET_BCAST, vf.allow_bcast),
        (layout.SET_MCAST, vf.allow_mcast or bool(grants.groups)),
        (layout.SET_UCAST, vf.allow_un_ucast),
    )
    return [index for index, wants in wanted if wants]


def mac_key(mac: str, port: int = 0) -> bytes:
    """``struct veb_mac``."""
    return mac_bytes(mac) + port.to_bytes(2, layout.ORDER)


def _bits(*pairs: tuple[int, bool]) -> int:
    return sum(bit for bit, on in pairs if on)


def _bps(rate: Rate) -> int:
    if rate.bps is None and rate:
        raise ValueError(f"the rate {rate} is a share of the link: resolve the policy first")
    return rate.bps or 0


# -- Tables → policy --------------------------------------------------------------------------


def mac_port(raw: bytes) -> int:
    """The port that owns a MAC, by its entry in ``Tables.macs``."""
    return int.from_bytes(raw[6:8], layout.ORDER) & layout.MAC_PORT


def changed_ports(before: Tables, after: Tables) -> set[int]:
    """The ports whose policies or MACs differ."""
    changed = {port for port, _ in before.ports.items() ^ after.ports.items()}
    changed |= {mac_port(raw) for _, raw in before.macs.items() ^ after.macs.items()}
    return changed


def decode(tables: Tables) -> NicTables:
    """What the tables mean. ``decode(compile_policy(nic, …))`` has nic's canonical rules."""
    macs: dict[int, list[tuple[str, int]]] = {}
    for raw in tables.macs.values():
        entry = VebMac.from_buffer_copy(raw)
        owner = macs.setdefault(entry.port & layout.MAC_PORT, [])
        owner.append((mac_text(bytes(entry.mac)), entry.port))
    groups: dict[int, set[str]] = {}
    for raw in tables.groups:
        entry = VebMac.from_buffer_copy(raw)
        groups.setdefault(entry.port, set()).add(mac_text(bytes(entry.mac)))
    vfs = {
        port - 1: _decode_vf(
            raw, tuple(sorted(macs.get(port, ()))), frozenset(groups.get(port, ()))
        )
        for port, raw in sorted(tables.ports.items())
        if port != layout.WIRE
    }
    wire = VebPort.from_buffer_copy(tables.ports.get(layout.WIRE, bytes(VebPort())))
    return NicTables(
        pf=_noted(tables.note) if tables.note else None,
        vfs=vfs,
        wire=wire.ifindex or None,
        wire_up=bool(wire.flags & layout.PORT_UP),
    )


def _noted(note: bytes) -> PfPolicy:
    """The PF's attributes. Those that this vfd doesn't know or understand, as another version wrote
    them, are left out: the NIC is adopted, and then they differ from what is asked."""
    try:
        return PfPolicy.model_validate_json(note)
    except ValidationError as error:
        foreign = {one["loc"][0] for one in error.errors() if one["loc"]}
        if not foreign:
            raise NicError(f"the NIC's note of its PF can't be read: {error}") from error
    known = {field: value for field, value in json.loads(note).items() if field not in foreign}
    return PfPolicy.model_validate_json(json.dumps(known))


@lru_cache(maxsize=4 * MAX_VFS)
def _decode_vf(raw: bytes, macs: tuple[tuple[str, int], ...], groups: frozenset[str]) -> VfTables:
    port = VebPort.from_buffer_copy(raw)
    is_open = bool(port.flags & layout.PORT_CONFIGURED)
    return VfTables(
        rules=_decode_rules(port, macs) if is_open else None,
        grants=Grants(
            default_mac=_mac_or_none(port.granted_mac),
            macs=frozenset(mac for mac, why in macs if why & layout.MAC_GRANTED),
            groups=groups,
            mtu=port.mtu_granted or None,
            promisc=bool(port.said & layout.SAID_PROMISC),
            allmulti=bool(port.said & layout.SAID_ALLMULTI),
        ),
        own_mac=_mac_or_none(port.own_mac),
        mac=_mac_or_none(port.mac),
        mtu=port.mtu or None,
        link_up=bool(port.flags & layout.PORT_UP),
        ifindex=port.ifindex,
        peer=bool(port.flags & layout.PORT_PEER),
        shaped=bool(port.flags & layout.PORT_SHAPED),
    )


def _decode_rules(port: VebPort, macs: tuple[tuple[str, int], ...]) -> VfRules:
    def on(bit: int) -> bool:
        return bool(port.flags & bit)

    def said(bit: int) -> bool:
        return bool(port.said & bit)

    link = LinkStatus.OFF if said(layout.SAID_LINK_OFF) else LinkStatus.AUTO
    guest_macs = GuestMacs.NONE if said(layout.SAID_MACS_NONE) else GuestMacs.ANY
    return VfRules(
        vlans=layout.vids_in(port.vlans),
        strip_stag=on(layout.PORT_SERVICE),
        strip_ctag=said(layout.SAID_STRIP_CTAG),
        allow_untagged=on(layout.PORT_UNTAGGED),
        pcp=port.flags >> layout.PORT_PCP_SHIFT,
        vm_mac=next((mac for mac, why in macs if why & layout.MAC_FORCED), None),
        macs=tuple(sorted(mac for mac, why in macs if why & layout.MAC_LISTED)),
        mac_anti_spoof=on(layout.PORT_MAC_SPOOFCHK),
        vlan_anti_spoof=on(layout.PORT_VLAN_SPOOFCHK),
        allow_bcast=on(layout.PORT_BCAST),
        allow_mcast=on(layout.PORT_MCAST),
        allow_un_ucast=on(layout.PORT_UCAST),
        link_status=LinkStatus.ON if said(layout.SAID_LINK_ON) else link,
        rate=_rate(port.rate),
        min_rate=_rate(port.min_rate),
        max_rx_rate=_rate(port.max_rx_rate),
        queues=tuple(
            QueueShare(priority=at, share=struct.unpack("=d", struct.pack("=Q", raw))[0])
            for at, raw in enumerate(port.shares)
            if raw != layout.NO_SHARE
        ),
        mirror=tuple(
            _decode_mirror(entry) for entry in port.mirror[: min(port.mirrors, layout.MIRRORS)]
        ),
        trust=said(layout.SAID_TRUST),
        mtu=port.mtu_said or None,
        storm_limit=port.storm_limit,
        guest_macs=GuestMacs.LISTED if said(layout.SAID_MACS_LISTED) else guest_macs,
        guest_vlans=said(layout.SAID_GUEST_VLANS),
        guest_groups=said(layout.SAID_GUEST_GROUPS),
    )


def _decode_mirror(entry: VebMirror) -> Mirror:
    ways = entry.flags & (layout.MIRROR_IN | layout.MIRROR_OUT)
    direction = {layout.MIRROR_IN: Direction.IN, layout.MIRROR_OUT: Direction.OUT}
    vids = layout.vids_in(entry.vlans) if entry.flags & layout.MIRROR_VLANS else ()
    return Mirror(target=entry.port - 1, direction=direction.get(ways, Direction.ALL), vlans=vids)


def _mac_or_none(raw: Iterable[int]) -> str | None:
    mac = bytes(raw)
    return mac_text(mac) if mac != _NO_MAC else None


def _rate(bps: int) -> Rate:
    return Rate(bps=bps) if bps else NONE
