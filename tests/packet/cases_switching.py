"""Switching: a static table, loopback, BUM, the wire."""

from __future__ import annotations

from vfd.policy.requests import Request, RequestKind
from vfd.policy.values import GuestMacs

from .case import WIRE, Ask, Become, case, nic, passes, sends, vf
from .frames import (
    ALL,
    ARP,
    GROUP,
    GROUP6,
    IPV4,
    IPV6,
    LLDP,
    LLDP_GROUP,
    MAC_CONTROL,
    PAUSE_GROUP,
    STRANGER,
    WORLD,
    c,
    frame,
    from_vf,
    mac,
    s,
)

AD = 0x88A8
SECOND = "02:00:00:00:01:10"

PAIR = (vf(0, vlans=(100,)), vf(1, vlans=(100,)), vf(2, vlans=(100,)))
LOOP = nic(*PAIR, enable_loopback=True)
NO_LOOP = nic(*PAIR)
FLOODED = nic(
    vf(0, vlans=(100,)),
    vf(1, vlans=(100,), allow_un_ucast=True),
    vf(2, vlans=(100,)),
    vf(3, vlans=(200,), allow_un_ucast=True),
    enable_loopback=True,
)

TABLE = (
    case(
        "The table is not learned: a source that was seen is still unknown as a destination",
        "sw.static",
        nic(
            vf(0, vlans=(100,), mac_anti_spoof=False),
            vf(1, vlans=(100,)),
            enable_loopback=True,
        ),
        passes(0, frame(WORLD, STRANGER, c(100)), WIRE),
        passes(1, from_vf(1, STRANGER, c(100)), WIRE),
        sends(WIRE, frame(STRANGER, WORLD, c(100))),
    ),
    case(
        "The table is not learned: a VF's MAC seen from the wire stays the VF's",
        "sw.static",
        LOOP,
        passes(WIRE, frame(ALL, mac(1), c(100)), 0, 1, 2),
        passes(0, from_vf(0, mac(1), c(100)), 1),
        needs="wire",
    ),
    case(
        "A VF is found by every one of its MACs, in every one of its VLANs",
        "sw.table, sw.known",
        nic(
            vf(0, vlans=(100, 200)),
            vf(1, vlans=(100, 200), macs=(SECOND,)),
            enable_loopback=True,
        ),
        passes(0, from_vf(0, mac(1), c(100)), 1),
        passes(0, from_vf(0, mac(1), c(200)), 1),
        passes(0, from_vf(0, SECOND, c(100)), 1),
        passes(0, from_vf(0, SECOND, c(200)), 1),
    ),
    case(
        "A MAC that was granted is found like the others, until it is given back",
        "sw.table, ask.macs",
        nic(
            vf(0, vlans=(100,)), vf(1, vlans=(100,), guest_macs=GuestMacs.ANY), enable_loopback=True
        ),
        passes(0, from_vf(0, SECOND, c(100)), WIRE),
        Ask(Request(1, RequestKind.ADD_MAC, mac=SECOND), True),
        passes(0, from_vf(0, SECOND, c(100)), 1),
        Ask(Request(1, RequestKind.REMOVE_MAC, mac=SECOND), True),
        passes(0, from_vf(0, SECOND, c(100)), WIRE),
    ),
    case(
        "Untagged, a VF is found only if it takes untagged frames",
        "sw.table",
        nic(
            vf(0, vlans=(100,), allow_untagged=True),
            vf(1, vlans=(100,), allow_untagged=True),
            vf(2, vlans=(100,)),
            enable_loopback=True,
        ),
        passes(0, from_vf(0, mac(1)), 1),
        passes(0, from_vf(0, mac(1), c(0, pcp=2)), 1),
        sends(0, from_vf(0, mac(2)), {WIRE: from_vf(0, mac(2))}, {(2, "dropped_vlan"): 1}),
    ),
    case(
        "A MAC that moves from one VF to another is found at the new one at once",
        "sw.table",
        nic(
            vf(0, vlans=(100,)),
            vf(1, vlans=(100,), macs=(SECOND,)),
            vf(2, vlans=(100,)),
            enable_loopback=True,
        ),
        passes(0, from_vf(0, SECOND, c(100)), 1),
        Become(
            nic(
                vf(0, vlans=(100,)),
                vf(1, vlans=(100,)),
                vf(2, vlans=(100,), macs=(SECOND,)),
                enable_loopback=True,
            )
        ),
        passes(0, from_vf(0, SECOND, c(100)), 2),
        sends(1, frame(WORLD, SECOND, c(100)), spoofed=1),
    ),
    case(
        "A VF that moves to another VLAN is found there and no longer where it was",
        "sw.table, sw.cross",
        nic(vf(0, vlans=(100, 200)), vf(1, vlans=(100,)), enable_loopback=True),
        passes(0, from_vf(0, mac(1), c(100)), 1),
        Become(nic(vf(0, vlans=(100, 200)), vf(1, vlans=(200,)), enable_loopback=True)),
        passes(0, from_vf(0, mac(1), c(200)), 1),
        sends(
            0,
            from_vf(0, mac(1), c(100)),
            {WIRE: from_vf(0, mac(1), c(100))},
            {(1, "dropped_vlan"): 1},
        ),
    ),
)

FROM_VF = (
    case(
        "With enable_loopback known unicast goes to its owner, not to the wire",
        "sw.known, tx.8",
        LOOP,
        passes(0, from_vf(0, mac(1), c(100)), 1),
        passes(1, from_vf(1, mac(0), c(100), kind=IPV4), 0),
        passes(2, from_vf(2, mac(0), c(100), kind=IPV6), 0),
        needs="wire",
    ),
    case(
        "Without enable_loopback known unicast goes to the wire, not to its owner",
        "sw.known",
        NO_LOOP,
        passes(0, from_vf(0, mac(1), c(100)), WIRE),
        passes(1, from_vf(1, mac(0), c(100), kind=IPV4), WIRE),
    ),
    case(
        "enable_loopback is switched while frames pass",
        "sw.known",
        LOOP,
        passes(0, from_vf(0, mac(1), c(100)), 1),
        Become(NO_LOOP),
        passes(0, from_vf(0, mac(1), c(100)), WIRE),
        Become(LOOP),
        passes(0, from_vf(0, mac(1), c(100)), 1),
    ),
    case(
        "Unknown unicast goes to the wire, and with loopback to VFs with allow_un_ucast",
        "sw.unknown, rx.3.unknown",
        FLOODED,
        passes(0, from_vf(0, STRANGER, c(100)), WIRE, 1),
        passes(1, from_vf(1, STRANGER, c(100)), WIRE),
        passes(3, from_vf(3, STRANGER, c(200)), WIRE),
    ),
    case(
        "Without loopback unknown unicast goes to the wire alone",
        "sw.unknown",
        nic(vf(0, vlans=(100,)), vf(1, vlans=(100,), allow_un_ucast=True)),
        passes(0, from_vf(0, STRANGER, c(100)), WIRE),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
    ),
    case(
        "Broadcast and multicast go to the wire, and with loopback to every VF that takes them",
        "sw.bum",
        nic(
            vf(0, vlans=(100,)),
            vf(1, vlans=(100,), allow_bcast=False),
            vf(2, vlans=(100,), allow_mcast=False),
            vf(3, vlans=(200,)),
            enable_loopback=True,
        ),
        passes(0, from_vf(0, ALL, c(100), kind=ARP), WIRE, 2),
        passes(0, from_vf(0, GROUP, c(100), kind=IPV4), WIRE, 1),
        passes(0, from_vf(0, GROUP6, c(100), kind=IPV6), WIRE, 1),
        passes(3, from_vf(3, ALL, c(200)), WIRE),
    ),
    case(
        "Without loopback broadcast and multicast go to the wire alone",
        "sw.bum",
        NO_LOOP,
        passes(0, from_vf(0, ALL, c(100), kind=ARP), WIRE),
        passes(0, from_vf(0, GROUP, c(100), kind=IPV4), WIRE),
        passes(0, from_vf(0, GROUP6, c(100), kind=IPV6), WIRE),
    ),
    case(
        "Groups that IEEE reserves are flooded like any other",
        "sw.bum",
        nic(
            vf(0, allow_untagged=True),
            vf(1, allow_untagged=True),
            vf(2, vlans=(100,)),
            enable_loopback=True,
        ),
        passes(0, from_vf(0, LLDP_GROUP, kind=LLDP), WIRE, 1),
        passes(0, from_vf(0, "01:80:c2:00:00:00"), WIRE, 1),
    ),
    case(
        "Multicast between VFs reaches a guest that joined, without allow_mcast",
        "sw.bum, rx.3.mcast",
        nic(
            vf(0, vlans=(100,)),
            vf(1, vlans=(100,), allow_mcast=False),
            enable_loopback=True,
        ),
        passes(0, from_vf(0, GROUP, c(100)), WIRE),
        Ask(Request(1, RequestKind.JOIN_GROUP, mac=GROUP), True),
        passes(0, from_vf(0, GROUP, c(100)), WIRE, 1),
    ),
)

FROM_WIRE = (
    case(
        "MAC control frames from the wire reach no VF and no mirror's target",
        "sw.wire.control",
        nic(
            vf(
                0,
                vlans=(100,),
                allow_untagged=True,
                allow_un_ucast=True,
                mirror=({"target": 1},),
            ),
            vf(1, vlans=(300,), strip_stag=True),
        ),
        sends(WIRE, frame(PAUSE_GROUP, WORLD, kind=MAC_CONTROL)),
        sends(WIRE, frame(mac(0), WORLD, kind=MAC_CONTROL)),
        sends(WIRE, frame(mac(0), WORLD, c(100), kind=MAC_CONTROL)),
        sends(WIRE, frame(STRANGER, WORLD, c(100), c(7), kind=MAC_CONTROL)),
        sends(WIRE, frame(ALL, WORLD, c(0), kind=MAC_CONTROL)),
        sends(WIRE, frame(mac(1), WORLD, c(300), c(5), c(6), kind=MAC_CONTROL)),
        sends(
            WIRE,
            frame(PAUSE_GROUP, WORLD),
            {0: frame(PAUSE_GROUP, WORLD), 1: frame(PAUSE_GROUP, WORLD)},
            {(0, "mirrored"): 1},
        ),
        needs="MAC control",
    ),
    case(
        "From the wire a frame reaches its owner alone",
        "sw.wire",
        nic(*PAIR[:2], vf(2, vlans=(100,), allow_un_ucast=True)),
        passes(WIRE, frame(mac(0), WORLD, c(100)), 0),
        passes(WIRE, frame(mac(1), WORLD, c(100), kind=IPV4), 1),
    ),
    case(
        "From the wire BUM reaches every VF that takes it, loopback or not, never the wire",
        "sw.wire, sw.back",
        nic(
            vf(0, vlans=(100,)),
            vf(1, vlans=(100,), allow_un_ucast=True),
            vf(2, vlans=(100,), allow_bcast=False),
            vf(3, vlans=(200,), allow_un_ucast=True),
        ),
        passes(WIRE, frame(ALL, WORLD, c(100)), 0, 1),
        passes(WIRE, frame(GROUP, WORLD, c(100)), 0, 1, 2),
        passes(WIRE, frame(STRANGER, WORLD, c(100)), 1),
        passes(WIRE, frame(STRANGER, WORLD, c(200)), 3),
        sends(WIRE, frame(STRANGER, WORLD, c(300))),
    ),
)

NOT_BACK = (
    case(
        "What a VF sends to itself does not come back, nor go to the wire with loopback",
        "sw.back, sw.known",
        LOOP,
        sends(0, from_vf(0, mac(0), c(100))),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        needs="wire",
    ),
    case(
        "What a VF sends to itself goes to the wire without loopback",
        "sw.back, sw.known",
        NO_LOOP,
        passes(0, from_vf(0, mac(0), c(100)), WIRE),
    ),
    case(
        "A VF's own BUM does not come back to it",
        "sw.back",
        nic(
            vf(0, vlans=(100,), allow_un_ucast=True),
            vf(1, vlans=(100,)),
            enable_loopback=True,
        ),
        passes(0, from_vf(0, ALL, c(100)), WIRE, 1),
        passes(0, from_vf(0, GROUP, c(100)), WIRE, 1),
        passes(0, from_vf(0, STRANGER, c(100)), WIRE),
    ),
    case(
        "Under access tags too, what a VF sends to itself does not come back",
        "sw.back, tag.access.tx",
        nic(
            vf(0, vlans=(100,), strip_ctag=True),
            vf(1, vlans=(100,), strip_ctag=True),
            enable_loopback=True,
        ),
        sends(0, from_vf(0, mac(0))),
        sends(0, from_vf(0, ALL), {WIRE: from_vf(0, ALL, c(100)), 1: from_vf(0, ALL)}),
    ),
)

NOT_CROSSED = (
    case(
        "VFs of different VLANs never reach each other, whatever they send",
        "sw.cross, sw.known",
        nic(
            vf(0, vlans=(100,)),
            vf(1, vlans=(200,), allow_un_ucast=True),
            enable_loopback=True,
        ),
        sends(
            0,
            from_vf(0, mac(1), c(100)),
            {WIRE: from_vf(0, mac(1), c(100))},
            {(1, "dropped_vlan"): 1},
        ),
        passes(0, from_vf(0, ALL, c(100)), WIRE),
        passes(0, from_vf(0, GROUP, c(100)), WIRE),
        passes(0, from_vf(0, STRANGER, c(100)), WIRE),
        passes(0, from_vf(0, STRANGER, c(100), c(200)), WIRE),
    ),
    case(
        "Tenants in access mode reach each other in their VLAN and nobody else",
        "sw.cross, tag.access.rx",
        nic(
            vf(0, vlans=(100,), strip_ctag=True),
            vf(1, vlans=(100,), strip_ctag=True),
            vf(2, vlans=(200,), strip_ctag=True),
            enable_loopback=True,
        ),
        passes(0, from_vf(0, mac(1), kind=IPV4), 1),
        passes(1, from_vf(1, mac(0), kind=IPV6), 0),
        sends(
            0,
            from_vf(0, mac(2)),
            {WIRE: from_vf(0, mac(2), c(100))},
            {(2, "dropped_vlan"): 1},
        ),
        sends(
            0,
            from_vf(0, ALL, kind=ARP),
            {WIRE: from_vf(0, ALL, c(100), kind=ARP), 1: from_vf(0, ALL, kind=ARP)},
        ),
    ),
    case(
        "An access VF and a trunk VF meet in their common VLAN, each with its own tags",
        "tag.access.tx, tag.access.rx, tag.trunk.rx, sw.known",
        nic(
            vf(0, vlans=(100,), strip_ctag=True),
            vf(1, vlans=(100, 200)),
            enable_loopback=True,
        ),
        sends(0, from_vf(0, mac(1)), {1: from_vf(0, mac(1), c(100))}),
        sends(0, from_vf(0, mac(1), c(0, pcp=4)), {1: from_vf(0, mac(1), c(100, pcp=4))}),
        sends(1, from_vf(1, mac(0), c(100)), {0: from_vf(1, mac(0))}),
        sends(
            1,
            from_vf(1, mac(0), c(200)),
            {WIRE: from_vf(1, mac(0), c(200))},
            {(0, "dropped_vlan"): 1},
        ),
    ),
    case(
        "Two VFs under service access pass the customer's tags to each other untouched",
        "tag.service.tx, tag.service.rx, sw.known",
        nic(
            vf(0, vlans=(300,), strip_stag=True),
            vf(1, vlans=(300,), strip_stag=True),
            vf(2, vlans=(301,), strip_stag=True),
            tpid=AD,
            enable_loopback=True,
        ),
        passes(0, from_vf(0, mac(1), c(5, pcp=3)), 1),
        passes(0, from_vf(0, mac(1), kind=IPV4), 1),
        passes(1, from_vf(1, mac(0), c(6), c(7), kind=IPV6), 0),
        sends(
            0,
            from_vf(0, ALL, c(5)),
            {WIRE: from_vf(0, ALL, s(300), c(5)), 1: from_vf(0, ALL, c(5))},
        ),
    ),
    case(
        "A C-tag 100 and an S-tag 100 are two VLANs",
        "sw.cross, tag.kind",
        nic(
            vf(0, vlans=(100,)),
            vf(1, vlans=(100,), strip_stag=True, allow_un_ucast=True),
            tpid=AD,
            enable_loopback=True,
        ),
        sends(
            0,
            from_vf(0, mac(1), c(100)),
            {WIRE: from_vf(0, mac(1), c(100))},
            {(1, "dropped_vlan"): 1},
        ),
        passes(0, from_vf(0, ALL, c(100)), WIRE),
        sends(1, from_vf(1, ALL), {WIRE: from_vf(1, ALL, s(100))}),
        sends(1, from_vf(1, ALL, c(100)), {WIRE: from_vf(1, ALL, s(100), c(100))}),
    ),
    case(
        "With tpid 0x8100 a service-access VF and a trunk VF meet in their common VLAN",
        "tag.service.tx, tag.service.rx",
        nic(
            vf(0, vlans=(100,)),
            vf(1, vlans=(100,), strip_stag=True),
            enable_loopback=True,
        ),
        sends(1, from_vf(1, mac(0), c(5)), {0: from_vf(1, mac(0), c(100), c(5))}),
        sends(0, from_vf(0, mac(1), c(100), c(5)), {1: from_vf(0, mac(1), c(5))}),
    ),
)

CASES = (*TABLE, *FROM_VF, *FROM_WIRE, *NOT_BACK, *NOT_CROSSED)
