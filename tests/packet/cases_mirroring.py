"""Mirroring: copies to another VF of the PF, with the tags of the wire."""

from __future__ import annotations

from vfd.policy.values import Direction, LinkStatus, Mirror

from .case import WIRE, Become, Send, Wire, case, nic, passes, sends, vf
from .frames import ALL, IPV4, STRANGER, WORLD, Frame, c, frame, from_vf, mac, s

AD = 0x88A8
TARGET = 3


def mirror(way: Direction, *vlans: int, target: int = TARGET) -> tuple[Mirror, ...]:
    return (Mirror(target=target, direction=way, vlans=vlans),)


def copied(port: int, sent: Frame, *to: int) -> Send:
    """The frame arrives unchanged at ``to``, of which one is the target, for VF 0's sake."""
    return sends(port, sent, dict.fromkeys(to, sent), {(0, "mirrored"): 1})


OUT, IN, BOTH = mirror(Direction.OUT), mirror(Direction.IN), mirror(Direction.ALL)
DEAF = vf(TARGET, vlans=(4000,), allow_bcast=False, allow_mcast=False)
"""A target whose own filters let nothing of this pass."""

WAYS = (
    case(
        "Direction out copies what the guest sends, and nothing that it is given",
        "tx.7, mirror.copies, mirror.vfs",
        nic(vf(0, vlans=(100,), mirror=OUT), DEAF),
        copied(0, from_vf(0, WORLD, c(100)), WIRE, TARGET),
        copied(0, from_vf(0, ALL, c(100), kind=IPV4), WIRE, TARGET),
        passes(WIRE, frame(mac(0), WORLD, c(100)), 0),
    ),
    case(
        "Direction in copies what the guest is given, and nothing that it sends",
        "rx.4, mirror.copies, mirror.vfs",
        nic(vf(0, vlans=(100,), mirror=IN), DEAF),
        copied(WIRE, frame(mac(0), WORLD, c(100)), 0, TARGET),
        copied(WIRE, frame(ALL, WORLD, c(100), kind=IPV4), 0, TARGET),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
    ),
    case(
        "Direction all copies both",
        "tx.7, rx.4",
        nic(vf(0, vlans=(100,), mirror=BOTH), DEAF),
        copied(0, from_vf(0, WORLD, c(100)), WIRE, TARGET),
        copied(WIRE, frame(mac(0), WORLD, c(100)), 0, TARGET),
    ),
    case(
        "Traffic between VFs is copied for the one that is mirrored",
        "tx.7, rx.4",
        nic(vf(0, vlans=(100,), mirror=BOTH), vf(1, vlans=(100,)), DEAF, enable_loopback=True),
        copied(0, from_vf(0, mac(1), c(100)), 1, TARGET),
        copied(1, from_vf(1, mac(0), c(100)), 0, TARGET),
        passes(1, from_vf(1, WORLD, c(100)), WIRE),
    ),
    case(
        "Two mirrored VFs that talk to each other have each its copy",
        "tx.7, rx.4",
        nic(
            vf(0, vlans=(100,), mirror=OUT),
            vf(1, vlans=(100,), mirror=mirror(Direction.IN, target=2)),
            vf(2, vlans=(7,)),
            DEAF,
            enable_loopback=True,
        ),
        sends(
            0,
            from_vf(0, mac(1), c(100)),
            {port: from_vf(0, mac(1), c(100)) for port in (1, 2, TARGET)},
            {(0, "mirrored"): 1, (1, "mirrored"): 1},
        ),
    ),
    case(
        "A list of mirrors copies to each target what it names",
        "tx.7, rx.4, mirror.copies",
        nic(
            vf(
                0,
                vlans=(100,),
                mirror=(
                    Mirror(target=2, direction=Direction.OUT),
                    Mirror(target=3, direction=Direction.ALL),
                ),
            ),
            vf(2, vlans=(7,)),
            DEAF,
        ),
        sends(
            0,
            from_vf(0, WORLD, c(100)),
            {port: from_vf(0, WORLD, c(100)) for port in (WIRE, 2, 3)},
            mirrored=2,
        ),
        copied(WIRE, frame(mac(0), WORLD, c(100)), 0, 3),
    ),
    case(
        "With vlans only frames in those VLANs are copied",
        "mirror.vlans, tx.7, rx.4",
        nic(vf(0, vlans=(100, 200), mirror=mirror(Direction.ALL, 200)), DEAF),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        copied(0, from_vf(0, WORLD, c(200)), WIRE, TARGET),
        passes(WIRE, frame(mac(0), WORLD, c(100)), 0),
        copied(WIRE, frame(mac(0), WORLD, c(200)), 0, TARGET),
    ),
    case(
        "With vlans untagged frames are not copied",
        "mirror.vlans",
        nic(vf(0, vlans=(200,), allow_untagged=True, mirror=mirror(Direction.ALL, 200)), DEAF),
        passes(0, from_vf(0, WORLD), WIRE),
        copied(0, from_vf(0, WORLD, c(200)), WIRE, TARGET),
    ),
)

TAGS = (
    case(
        "A Tx copy has the tag that the NIC inserted",
        "tx.7, tag.access.tx",
        nic(vf(0, vlans=(100,), strip_ctag=True, mirror=OUT), DEAF),
        sends(
            0,
            from_vf(0, WORLD, c(0, pcp=5)),
            {port: from_vf(0, WORLD, c(100, pcp=5)) for port in (WIRE, TARGET)},
            mirrored=1,
        ),
    ),
    case(
        "A Tx copy under service access is QinQ",
        "tx.7, tag.service.tx",
        nic(vf(0, vlans=(300,), strip_stag=True, mirror=OUT), DEAF, tpid=AD),
        sends(
            0,
            from_vf(0, WORLD, c(5)),
            {port: from_vf(0, WORLD, s(300), c(5)) for port in (WIRE, TARGET)},
            mirrored=1,
        ),
    ),
    case(
        "An Rx copy has the tag that the guest no longer sees",
        "rx.4, tag.access.rx",
        nic(vf(0, vlans=(100,), strip_ctag=True, mirror=IN), DEAF),
        sends(
            WIRE,
            frame(mac(0), WORLD, c(100, pcp=3)),
            {0: frame(mac(0), WORLD), TARGET: frame(mac(0), WORLD, c(100, pcp=3))},
            {(0, "mirrored"): 1},
        ),
    ),
    case(
        "A target in access mode is given copies with their tags on",
        "mirror.copies",
        nic(
            vf(0, vlans=(100,), mirror=BOTH),
            vf(TARGET, vlans=(100,), strip_ctag=True),
        ),
        sends(
            0,
            from_vf(0, WORLD, c(100)),
            {port: from_vf(0, WORLD, c(100)) for port in (WIRE, TARGET)},
            mirrored=1,
        ),
        sends(
            WIRE,
            frame(ALL, WORLD, c(100)),
            {
                0: frame(ALL, WORLD, c(100)),
                TARGET: (
                    frame(ALL, WORLD, c(100)),
                    frame(ALL, WORLD),
                ),
            },
            {(0, "mirrored"): 1},
        ),
    ),
)

NOTHING = (
    case(
        "What Tx refuses is not copied",
        "tx.7, tx.3, tx.4, tx.5",
        nic(vf(0, vlans=(100,), mirror=BOTH), DEAF),
        sends(0, frame(WORLD, STRANGER, c(100)), spoofed=1),
        sends(0, from_vf(0, WORLD, c(300)), spoofed=1),
        sends(0, from_vf(0, WORLD), dropped_untagged=1),
        sends(0, from_vf(0, WORLD, c(100), payload=1501), oversize=1),
        needs="mac_anti_spoof, vlan_anti_spoof, wire",
    ),
    case(
        "What Rx refuses is not copied",
        "rx.4, rx.2, rx.3.bcast",
        nic(vf(0, vlans=(100,), allow_bcast=False, mirror=BOTH), DEAF),
        sends(WIRE, frame(mac(0), WORLD, c(300)), at={(0, "dropped_vlan"): 1}),
        sends(WIRE, frame(ALL, WORLD, c(100))),
        sends(WIRE, frame(STRANGER, WORLD, c(100))),
    ),
    case(
        "A copy is not mirrored again",
        "mirror.copies",
        nic(
            vf(0, vlans=(100,), mirror=OUT),
            vf(TARGET, vlans=(7,), mirror=mirror(Direction.ALL, target=1)),
            vf(1, vlans=(8,)),
        ),
        copied(0, from_vf(0, WORLD, c(100)), WIRE, TARGET),
    ),
    case(
        "A target whose link is down gets nothing, and the source sends on",
        "mirror.slow, rx.1",
        nic(
            vf(0, vlans=(100,), mirror=BOTH),
            vf(TARGET, vlans=(7,), link_status=LinkStatus.OFF),
        ),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        passes(WIRE, frame(mac(0), WORLD, c(100)), 0),
    ),
    case(
        "A frame is copied though the wire it should leave by is down",
        "tx.7",
        nic(
            vf(0, vlans=(100,), link_status=LinkStatus.ON, mirror=OUT),
            vf(TARGET, vlans=(7,), link_status=LinkStatus.ON),
        ),
        Wire(False),
        sends(
            0,
            from_vf(0, WORLD, c(100)),
            {TARGET: from_vf(0, WORLD, c(100))},
            {(WIRE, "tx_dropped"): 1},
            mirrored=1,
        ),
    ),
)

LIVE = (
    case(
        "A mirror is set and cleared while frames pass, which go on as before",
        "mirror.live, deleted",
        nic(vf(0, vlans=(100,)), DEAF),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        Become(nic(vf(0, vlans=(100,), mirror=BOTH), DEAF)),
        copied(0, from_vf(0, WORLD, c(100)), WIRE, TARGET),
        copied(WIRE, frame(mac(0), WORLD, c(100)), 0, TARGET),
        Become(nic(vf(0, vlans=(100,), mirror=IN), DEAF)),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        copied(WIRE, frame(mac(0), WORLD, c(100)), 0, TARGET),
        Become(nic(vf(0, vlans=(100,)), DEAF)),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        passes(WIRE, frame(mac(0), WORLD, c(100)), 0),
    ),
    case(
        "A mirrored VF whose configuration is deleted is mirrored no more",
        "deleted",
        nic(vf(0, vlans=(100,), mirror=BOTH), vf(1, vlans=(100,)), DEAF),
        copied(WIRE, frame(mac(0), WORLD, c(100)), 0, TARGET),
        Become(nic(vf(1, vlans=(100,)), DEAF)),
        sends(WIRE, frame(mac(0), WORLD, c(100))),
        passes(WIRE, frame(ALL, WORLD, c(100)), 1),
        needs="mirror",
    ),
)

CASES = (*WAYS, *TAGS, *NOTHING, *LIVE)
