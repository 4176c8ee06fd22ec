"""Random policies and frames: dense where rules meet, so that most frames matter.

What draws is a ``Random``: of a seed, or hypothesis's own, which shrinks what fails. Every draw is
a small integer, as hypothesis draws those fast and evenly: 5000 frames a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from vfd.nic.soft.layout import hint_of
from vfd.nic.soft.tables import Iface, Wiring
from vfd.policy.addresses import mac_bytes
from vfd.policy.rate import Rate
from vfd.policy.requests import Grants, default_mac
from vfd.policy.values import (
    C_TAG,
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

VIDS = (1, 2, 63, 64, 100, 4094)
GROUPS = ("01:00:5e:00:00:01", "01:00:5e:00:00:02", "01:00:5e:00:00:03", "33:33:00:00:00:01")
MACS = tuple(f"02:00:00:00:00:{n:02x}" for n in range(32))
"""What VFs may own. No one owns ``STRANGERS``."""
STRANGERS = ("02:ff:00:00:00:01", "02:ff:00:00:00:02")
NO_MAC = "00:00:00:00:00:00"
ODD_SOURCES = (NO_MAC, "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff")
IP_HEADERS = {b"\x08\x00": 34, b"\x86\xdd": 54}
"""Shortest frames of these types that BPF_PROG_TEST_RUN takes on new kernels."""
TYPES = (b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x88\xb5", b"\x91\x00", b"\0\x2e")
BROADCAST = "ff:ff:ff:ff:ff:ff"


@dataclass(frozen=True)
class World:
    """A NIC as both sides are told of it."""

    nic: NicPolicy
    grants: Mapping[int, Grants]
    own_macs: Mapping[int, str]
    has_wire: bool
    wire_up: bool

    def wiring(self, ifindex: Mapping[int, int], **extra: object) -> Wiring:
        """The same for ``compile_policy``. ``ifindex`` by vfid, -1 the wire."""
        return Wiring(
            vfs={vfid: Iface(index) for vfid, index in ifindex.items() if vfid >= 0},
            wire=ifindex[-1] if self.has_wire else None,
            wire_up=self.wire_up,
            own_macs=self.own_macs,
            **extra,  # type: ignore[arg-type]
        )


def chance(rng: Random, percent: int) -> bool:
    return rng.randrange(100) >= 100 - percent  # 0, to which hypothesis shrinks, is no


def random_world(rng: Random, vfs: int) -> World:
    macs = list(MACS)
    rng.shuffle(macs)
    own_macs = {vfid: macs.pop() for vfid in range(vfs)}
    count = rng.choice((2, vfs - 1, vfs, vfs))
    chosen = sorted(rng.sample(range(vfs), count))
    pf = PfPolicy(
        id="soft0",
        vfs=vfs,
        mtu=rng.choice((1500, 3000)),
        default_mtu=rng.choice((68, 200, 1500)),
        enable_loopback=chance(rng, 75),
        tpid=rng.choice((C_TAG, S_TAG)),
    )
    policies = tuple(_random_vf(rng, vfid, vfs, macs) for vfid in chosen)
    return World(
        nic=NicPolicy(pf=pf, vfs=policies),
        grants={vf.vfid: _random_grants(rng, macs) for vf in policies if chance(rng, 40)},
        own_macs=own_macs,
        has_wire=chance(rng, 90),
        wire_up=chance(rng, 90),
    )


def _random_vf(rng: Random, vfid: int, vfs: int, macs: list[str]) -> VfPolicy:
    vlans = rng.sample(VIDS, rng.choice((0, 1, 1, 1, 2, 3, len(VIDS))))
    strip = rng.choice(("", "", "strip_stag", "strip_ctag"))
    others = [other for other in range(vfs) if other != vfid]
    stated = VfRules(
        vm_mac=macs.pop() if chance(rng, 40) else None,
        macs=tuple(macs.pop() for _ in range(rng.choice((0, 0, 1, 2)))),
    )
    return VfPolicy.model_validate(
        {
            "name": f"vf{vfid}",
            "pciid": "soft0",
            "vfid": vfid,
            "vlans": tuple(vlans),
            "strip_stag": strip == "strip_stag",
            "strip_ctag": strip == "strip_ctag",
            "allow_untagged": not vlans or chance(rng, 50),
            "vm_mac": stated.forced_mac,
            "macs": stated.further_macs,
            "mac_anti_spoof": chance(rng, 80),
            "vlan_anti_spoof": chance(rng, 80),
            "pcp": rng.choice((0, 0, rng.randrange(8))),
            "allow_bcast": chance(rng, 80),
            "allow_mcast": chance(rng, 60),
            "allow_un_ucast": chance(rng, 40),
            "link_status": rng.choice((LinkStatus.AUTO, LinkStatus.AUTO, *LinkStatus)),
            "mirror": tuple(
                Mirror(
                    target=rng.choice(others),
                    direction=rng.choice(tuple(Direction)),
                    vlans=tuple(rng.sample(VIDS, rng.choice((0, 0, 1, 2)))),
                )
                for _ in range(rng.choice((0, 0, 0, 1, 2, 3)))
            ),
            "mtu": rng.choice((None, None, 68, 300, 1500)),
            **_random_said(rng),
        }
    )


def _random_said(rng: Random) -> dict[str, object]:
    """What no frame is decided by."""
    priorities = sorted(rng.sample(range(8), rng.choice((0, 0, 2, 8))))
    return {
        "rate": _random_rate(rng),
        "min_rate": _random_rate(rng),
        "max_rx_rate": _random_rate(rng),
        "queues": tuple(QueueShare(priority=at, share=rng.uniform(0, 100)) for at in priorities),
        "trust": chance(rng, 50),
        "guest_macs": rng.choice(tuple(GuestMacs)),
        "guest_vlans": chance(rng, 50),
        "guest_groups": chance(rng, 50),
    }


def _random_rate(rng: Random) -> Rate:
    return Rate(bps=rng.randrange(1, 10**10)) if chance(rng, 30) else Rate(share=0.0)


def _random_grants(rng: Random, macs: list[str]) -> Grants:
    return Grants(
        default_mac=macs.pop() if chance(rng, 50) else None,
        macs=frozenset(macs.pop() for _ in range(rng.choice((0, 1, 2)))),
        groups=frozenset(rng.sample(GROUPS, rng.choice((0, 1, 2)))),
        mtu=rng.choice((None, 100, 1400)),
        promisc=chance(rng, 50),
        allmulti=chance(rng, 50),
    )


def colliding(mac: str) -> str:
    """Another MAC that the program looks for at the same place."""
    for n in range(1 << 20):
        other = f"02:00:00:{n >> 16 | 0x80:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"
        if hint_of(mac_bytes(other)) == hint_of(mac_bytes(mac)):
            return other
    raise AssertionError("the hints' hash leaves a place out")


COLLIDING = colliding(MACS[0])


def plain_world(rng: Random, vfs: int) -> World:
    """VFs in a few networks, who exchange frames without tags. What breaks that is rare."""
    own_macs = {vfid: (*MACS[: vfs - 1], COLLIDING)[vfid] for vfid in range(vfs)}
    networks = rng.sample(_NETWORKS, rng.choice((1, 1, 1, 2)))
    spare = list(MACS[vfs:])
    pf = PfPolicy(
        id="soft0",
        vfs=vfs,
        mtu=1500,
        default_mtu=rng.choice((300, 1500)),
        enable_loopback=chance(rng, 95),
        tpid=rng.choice((C_TAG, S_TAG)),
    )
    policies, grants = [], {}
    spare.append(own_macs[rng.randrange(vfs)])  # who has it forced takes it from its owner
    for vfid in range(vfs):
        twist = rng.choice(_twists(vfid, vfs)) if chance(rng, 25) else {}
        stated = {
            "name": f"vf{vfid}",
            "pciid": "soft0",
            "vfid": vfid,
            "vm_mac": spare.pop() if chance(rng, 30) else None,
            "macs": (spare.pop(),) if chance(rng, 30) else (),
        }
        policies.append(VfPolicy.model_validate({**stated, **rng.choice(networks), **twist}))
        if chance(rng, 20):
            grants[vfid] = _random_grants(rng, spare)
    return World(
        NicPolicy(pf=pf, vfs=tuple(policies)), grants, own_macs, has_wire=True, wire_up=True
    )


_NETWORKS: tuple[dict[str, object], ...] = (
    {"allow_untagged": True},
    {"vlans": (100,), "strip_ctag": True},
    {"vlans": (100,), "strip_stag": True},
    {"vlans": (64,), "strip_ctag": True, "pcp": 5},
)


def _twists(vfid: int, vfs: int) -> tuple[Mapping[str, object], ...]:
    """What takes a VF off the short way, each in a way of its own."""
    target = (vfid + 1) % vfs
    mirrors = [{"mirror": (Mirror(target=target, direction=each),)} for each in Direction]
    return (
        *mirrors,
        {"link_status": LinkStatus.OFF},
        {"max_rx_rate": Rate(bps=10**9)},
        {"mtu": 200},
        {"vlans": (1, 100), "strip_ctag": False, "strip_stag": False, "allow_untagged": True},
        {"vlans": (1, 100), "strip_ctag": False, "strip_stag": False, "allow_untagged": False},
        {"mac_anti_spoof": False, "vlan_anti_spoof": False},
        {"allow_un_ucast": True},
    )


def plain_frame(rng: Random, world: World, longest: int) -> tuple[int, bytes]:
    """(port it comes in at, frame): plain unicast between two VFs, but for one thing at times."""
    vfs = len(world.own_macs)
    port, to = rng.sample(range(vfs), 2)
    dst, src = (_default_mac(world, vfid) for vfid in (to, port))
    kind, length = rng.choice(TYPES), rng.randrange(40, 80)
    twist = rng.randrange(32) - 24  # 0, to which hypothesis shrinks, is none
    if twist == 1:
        src = rng.choice((*ODD_SOURCES, *STRANGERS, *_owned(world, port), dst))
    elif twist == 2:
        dst = rng.choice((*ODD_SOURCES, *STRANGERS, *_owned(world, to), *GROUPS, src))
    elif twist == 3:
        kind = b"\x88\x08"
    elif twist == 4:
        vid = rng.choice((0, 4095, *VIDS))
        kind = rng.choice((C_TAG, S_TAG)).to_bytes(2, "big") + _tci(rng, vid) + kind
    elif twist == 5:
        length = rng.choice((200, 300, 1500)) + rng.choice((-1, 0, 1))
    elif twist == 6:
        src = rng.choice(MACS)
    elif twist == 7:
        port = -1
    return port, (_mac(dst) + _mac(src) + kind + bytes(length))[:longest]


def _default_mac(world: World, vfid: int) -> str:
    """The MAC that a guest sends from; none where its VF lost its own to another."""
    own, vf = world.own_macs[vfid], world.nic.by_vfid()[vfid]
    mac = default_mac(vf, world.grants.get(vfid, Grants()), own) or own
    taken = {each.vm_mac for each in world.nic.vfs if each is not vf}
    return NO_MAC if mac in taken else mac


def changed(rng: Random, world: World) -> World:
    """Another world: often only a little different, so that much stays allowed."""
    vfs = len(world.own_macs)
    other = random_world(rng, vfs)
    if chance(rng, 30):
        return other
    theirs = other.nic.by_vfid()
    touched = set(rng.sample(range(vfs), rng.choice((1, 1, 2, 3))))
    if chance(rng, 30):
        theirs = _with_other_vlans(rng, world.nic)
    policies = tuple(
        vf
        for vfid in range(vfs)
        if (vf := (theirs if vfid in touched else world.nic.by_vfid()).get(vfid))
    )
    pf = other.nic.pf if chance(rng, 20) else world.nic.pf
    wire_up = other.wire_up if chance(rng, 20) else world.wire_up
    grants = {**world.grants, **{k: v for k, v in other.grants.items() if k in touched}}
    return World(NicPolicy(pf=pf, vfs=policies), grants, world.own_macs, world.has_wire, wire_up)


def _with_other_vlans(rng: Random, nic: NicPolicy) -> dict[int, VfPolicy]:
    """Every VF as it is, but in the same other VLANs: tenants that move together."""
    vlans = tuple(rng.sample(VIDS, rng.choice((1, 2, 3))))
    return {vf.vfid: vf.model_copy(update={"vlans": vlans}) for vf in nic.vfs}


def random_frame(rng: Random, world: World, longest: int) -> tuple[int, bytes]:
    """(port it comes in at, frame)."""
    vfs = len(world.own_macs)
    port = -1 if chance(rng, 25) and world.has_wire else rng.randrange(vfs)
    frame = _mac(_destination(rng, world)) + _mac(_source(rng, world, port))
    vf = world.nic.by_vfid().get(port)
    frame += _veils(rng, world, vf)
    for depth in range(rng.choice((0, 0, 1, 1, 1, 2, 3))):
        vid = rng.choice((0, 0, 4095, *VIDS, *VIDS))
        tpid = rng.choice((C_TAG, C_TAG, S_TAG))
        if depth == 0 and vf is not None and chance(rng, 50):
            tpid = vf.tpid(world.nic.pf.tpid)
            vid = rng.choice(vf.vlans or (0,))
        elif depth == 0 and port == -1 and chance(rng, 50):
            tpid = world.nic.pf.tpid
        frame += tpid.to_bytes(2, "big") + _tci(rng, vid)
    frame += b"\x88\x08" if chance(rng, 8) else rng.choice(TYPES)
    frame += Random(rng.getrandbits(16)).randbytes(_payload(rng, longest))
    if chance(rng, 8):
        frame = frame[: rng.randrange(14, min(len(frame), 40) + 1)]
    if len(frame) < IP_HEADERS.get(frame[12:14], 0):
        frame = frame[:12] + b"\x08\x06" + frame[14:]
    return port, frame[:longest]


def _veils(rng: Random, world: World, vf: VfPolicy | None) -> bytes:
    """Often priority tags, one or two of any TPID, for the tags behind them to hide under; most of
    all of a kind that the VF may send."""
    veils = b""
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        tpid = rng.choice((C_TAG, S_TAG, world.nic.pf.tpid))
        if vf is not None and chance(rng, 50):
            tpid = C_TAG if vf.access_vid else vf.tpid(world.nic.pf.tpid)
        veils += tpid.to_bytes(2, "big") + _tci(rng, 0)
    return veils


def _payload(rng: Random, longest: int) -> int:
    """Often just at an MTU."""
    if chance(rng, 40):
        return rng.choice((68, 100, 200, 300, 1400, 1500)) + rng.choice((-8, -4, -1, 0, 1, 4, 8))
    return rng.randrange(0, longest) if chance(rng, 10) else rng.randrange(0, 80)


def _tci(rng: Random, vid: int) -> bytes:
    pcp_dei = rng.choice((0, 0, rng.randrange(16)))
    return (pcp_dei << 12 | vid).to_bytes(2, "big")


def _owned(world: World, vfid: int) -> list[str]:
    vf = world.nic.by_vfid().get(vfid)
    grants = world.grants.get(vfid, Grants())
    found = {world.own_macs[vfid], grants.default_mac, *grants.macs}
    if vf is not None:
        found |= {vf.vm_mac, *vf.macs}
    return sorted(mac for mac in found if mac is not None)


def _source(rng: Random, world: World, port: int) -> str:
    draw = rng.randrange(100)
    if draw < 6:
        return rng.choice(ODD_SOURCES)
    if port >= 0 and draw < 88:
        return rng.choice(_owned(world, port))
    return rng.choice(MACS + STRANGERS)


def _destination(rng: Random, world: World) -> str:
    draw = rng.randrange(100)
    if draw < 20:
        return BROADCAST
    if draw < 40:
        return rng.choice(GROUPS)
    if draw < 85:
        return rng.choice(_owned(world, rng.randrange(len(world.own_macs))))
    return rng.choice((*MACS, *STRANGERS, NO_MAC))


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
