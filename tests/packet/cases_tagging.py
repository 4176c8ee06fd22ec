"""Tagging: trunk, access, service access, strip with several VIDs; PCP and DEI."""

from __future__ import annotations

from .case import WIRE, Become, Send, case, nic, passes, sends, vf
from .frames import (
    ALL,
    ARP,
    GROUP,
    IPV4,
    IPV6,
    STRANGER,
    WORLD,
    Frame,
    Tag,
    c,
    frame,
    from_vf,
    mac,
    s,
)

AD = 0x88A8
"""802.1ad: the PF's tpid where service tags are S-tags."""

ACCESS = nic(vf(0, vlans=(100,), strip_ctag=True))
SERVICE = nic(vf(0, vlans=(300,), strip_stag=True), tpid=AD)
QINQ = nic(vf(0, vlans=(300,), strip_stag=True))


def world(*tags: Tag, kind: int = 0x88B5) -> Frame:
    """A frame from beyond the wire to VF 0."""
    return frame(mac(0), WORLD, *tags, kind=kind)


def leaves(sent: Frame, *tags: Tag) -> Send:
    """VF 0 sends, and the frame leaves by the wire with these tags."""
    return sends(0, sent, {WIRE: sent.tagged(*tags)})


def given(came: Frame, *tags: Tag) -> Send:
    """A frame comes from the wire, and VF 0 is given it with these tags."""
    return sends(WIRE, came, {0: came.tagged(*tags)})


FOREIGN = {(0, "dropped_vlan"): 1}

TRUNK = (
    case(
        "In trunk mode the guest tags, and its tags leave as they are",
        "tag.trunk.tx",
        nic(vf(0, vlans=(100, 4094))),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        passes(0, from_vf(0, WORLD, c(4094, pcp=5)), WIRE),
        passes(0, from_vf(0, WORLD, c(100, pcp=1, dei=1), c(4000)), WIRE),
        passes(0, from_vf(0, WORLD, c(100), s(7), kind=IPV4), WIRE),
    ),
    case(
        "With vlan_anti_spoof the outer VID must be in vlans, whatever stands behind it",
        "tag.trunk.tx, tx.4",
        nic(vf(0, vlans=(100,)), vf(1, vlans=(200,))),
        sends(0, from_vf(0, WORLD, c(200)), spoofed=1),
        sends(0, from_vf(0, ALL, c(1), kind=ARP), spoofed=1),
        sends(0, from_vf(0, WORLD, c(200), c(100)), spoofed=1),
        sends(0, from_vf(0, WORLD, c(4095)), spoofed=1),
        passes(0, from_vf(0, WORLD, c(100), c(200)), WIRE),
        needs="vlan_anti_spoof",
    ),
    case(
        "Without vlan_anti_spoof the guest may name any VLAN, but stays untagged only if allowed",
        "tag.trunk.tx",
        nic(vf(0, vlans=(100,), vlan_anti_spoof=False), vf(1, vlans=(100,))),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        passes(0, from_vf(0, WORLD, c(999)), WIRE),
        sends(0, from_vf(0, WORLD), dropped_untagged=1),
        sends(1, from_vf(1, WORLD, c(999)), spoofed=1),
    ),
    case(
        "Without vlan_anti_spoof the guest still receives only its own VLANs",
        "tag.trunk.tx, rx.2",
        nic(vf(0, vlans=(100,), vlan_anti_spoof=False)),
        sends(WIRE, world(c(999)), at=FOREIGN),
        passes(WIRE, world(c(100)), 0),
    ),
    case(
        "In trunk mode the guest is given frames with their tags",
        "tag.trunk.rx",
        nic(vf(0, vlans=(100, 200), allow_untagged=True)),
        passes(WIRE, world(c(100, pcp=3, dei=1)), 0),
        passes(WIRE, world(c(200), c(5, pcp=2), kind=IPV6), 0),
        passes(WIRE, world(c(0, pcp=4)), 0),
        passes(WIRE, world(), 0),
    ),
    case(
        "In trunk mode a priority-tagged frame passes as untagged and keeps its tag",
        "tag.trunk.tx",
        nic(vf(0, allow_untagged=True), vf(1, allow_untagged=True), enable_loopback=True),
        passes(0, from_vf(0, WORLD, c(0, pcp=6, dei=1)), WIRE),
        passes(0, from_vf(0, mac(1), c(0, pcp=6)), 1),
        needs="wire",
    ),
    case(
        "In trunk mode an S-tag is not the VF's kind, both ways",
        "tag.kind",
        nic(vf(0, vlans=(100,), allow_untagged=True), tpid=AD),
        sends(0, from_vf(0, WORLD, s(100)), spoofed=1),
        sends(0, from_vf(0, WORLD, s(100), c(100)), spoofed=1),
        sends(WIRE, world(s(100)), at=FOREIGN),
        sends(WIRE, world(s(100), c(100)), at=FOREIGN),
        passes(WIRE, world(c(100)), 0),
    ),
    case(
        "An S-tag with VID 0 is not the VF's kind either",
        "tag.kind",
        nic(vf(0, vlans=(100,), allow_untagged=True)),
        sends(0, from_vf(0, WORLD, s(0, pcp=3)), spoofed=1),
        sends(WIRE, world(s(0, pcp=3)), at=FOREIGN),
    ),
)

ACCESS_MODE = (
    case(
        "In access mode every frame leaves with the VF's C-tag",
        "tag.access.tx",
        ACCESS,
        leaves(from_vf(0, WORLD), c(100)),
        leaves(from_vf(0, WORLD, kind=IPV4), c(100)),
        leaves(from_vf(0, WORLD, kind=IPV6), c(100)),
        leaves(from_vf(0, ALL, kind=ARP), c(100)),
        leaves(from_vf(0, "01:00:5e:01:02:03", kind=IPV4), c(100)),
        leaves(from_vf(0, WORLD, kind=60), c(100)),
    ),
    case(
        "In access mode a frame that the guest tagged is refused, even with the VF's own VID",
        "tag.access.tx, tx.4, tag.insert.unchecked",
        ACCESS,
        sends(0, from_vf(0, WORLD, c(100)), spoofed=1),
        sends(0, from_vf(0, WORLD, c(200)), spoofed=1),
        sends(0, from_vf(0, WORLD, s(100)), spoofed=1),
        needs="wire",
    ),
    case(
        "In access mode a guest's tag is refused without vlan_anti_spoof too",
        "tag.access.tx, tag.insert.unchecked",
        nic(vf(0, vlans=(100,), strip_ctag=True, vlan_anti_spoof=False)),
        sends(0, from_vf(0, WORLD, c(100)), spoofed=1),
        sends(0, from_vf(0, WORLD, c(200)), spoofed=1),
        leaves(from_vf(0, WORLD), c(100)),
    ),
    case(
        "In access mode the guest's untagged frames need no allow_untagged",
        "tag.access.tx, tx.4",
        nic(vf(0, vlans=(100,), strip_ctag=True), vf(1, vlans=(200,), strip_ctag=True)),
        leaves(from_vf(0, WORLD), c(100)),
        sends(1, from_vf(1, WORLD), {WIRE: from_vf(1, WORLD, c(200))}),
    ),
    case(
        "In access mode the guest is given frames without the tag, the customer's inner one kept",
        "tag.access.rx",
        ACCESS,
        given(world(c(100, pcp=5))),
        given(world(c(100), kind=IPV4)),
        given(world(c(100), c(7, pcp=2), kind=IPV6), c(7, pcp=2)),
        given(world(c(100), s(8)), s(8)),
        sends(WIRE, world(c(101)), at=FOREIGN),
        sends(WIRE, world(s(100)), at=FOREIGN),
        sends(WIRE, world(), at=FOREIGN),
    ),
    case(
        "In access mode a priority tag gives its PCP and DEI to the inserted tag",
        "tag.pcp, tag.access.tx",
        ACCESS,
        leaves(from_vf(0, WORLD, c(0, pcp=5)), c(100, pcp=5)),
        leaves(from_vf(0, WORLD, c(0, pcp=7, dei=1), kind=IPV4), c(100, pcp=7, dei=1)),
        leaves(from_vf(0, WORLD, c(0)), c(100)),
        leaves(from_vf(0, WORLD), c(100)),
    ),
)

PRIORITY = (
    case(
        "The VF's pcp is that of a tag that the NIC inserts before an untagged frame",
        "tag.pcp",
        nic(vf(0, vlans=(100,), strip_ctag=True, pcp=5)),
        leaves(from_vf(0, WORLD), c(100, pcp=5)),
        leaves(from_vf(0, WORLD, kind=IPV4), c(100, pcp=5)),
        given(world(c(100, pcp=7))),
    ),
    case(
        "A guest's priority tag has its own PCP, 0 too, whatever the VF's pcp is",
        "tag.pcp",
        nic(vf(0, vlans=(100,), strip_ctag=True, pcp=5)),
        leaves(from_vf(0, WORLD, c(0, pcp=2, dei=1)), c(100, pcp=2, dei=1)),
        leaves(from_vf(0, WORLD, c(0)), c(100)),
        given(world(c(100, pcp=7))),
    ),
    case(
        "Under service access the VF's pcp is the outer tag's alone, before a guest's tag too",
        "tag.pcp, tag.service.tx",
        nic(vf(0, vlans=(300,), strip_stag=True, pcp=6), tpid=AD),
        leaves(from_vf(0, WORLD), s(300, pcp=6)),
        leaves(from_vf(0, WORLD, c(5, pcp=1)), s(300, pcp=6), c(5, pcp=1)),
        leaves(from_vf(0, WORLD, c(0, pcp=3), kind=IPV4), s(300, pcp=3)),
    ),
    case(
        "The VF's pcp changes while it runs, and is on copies and on what other VFs are given",
        "tag.pcp, tx.7",
        nic(
            vf(
                0, vlans=(100,), strip_ctag=True, pcp=5, mirror=({"target": 2, "direction": "out"},)
            ),
            vf(1, vlans=(100,)),
            vf(2, vlans=(7,)),
            enable_loopback=True,
        ),
        sends(
            0,
            from_vf(0, mac(1)),
            {1: from_vf(0, mac(1), c(100, pcp=5)), 2: from_vf(0, mac(1), c(100, pcp=5))},
            mirrored=1,
        ),
        Become(
            nic(
                vf(0, vlans=(100,), strip_ctag=True, pcp=1),
                vf(1, vlans=(100,)),
                vf(2, vlans=(7,)),
                enable_loopback=True,
            )
        ),
        sends(0, from_vf(0, mac(1)), {1: from_vf(0, mac(1), c(100, pcp=1))}),
        needs="wire",
    ),
    case(
        "A VF that the NIC tags nothing for has no use for pcp: what it sends is as it was",
        "tag.pcp, tag.trunk.tx, tag.several",
        nic(
            vf(0, vlans=(100,), allow_untagged=True, pcp=5),
            vf(1, vlans=(100, 200), strip_ctag=True, allow_untagged=True, pcp=5),
        ),
        passes(0, from_vf(0, WORLD), WIRE),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        passes(1, from_vf(1, WORLD), WIRE),
        passes(1, from_vf(1, WORLD, c(200, pcp=1)), WIRE),
    ),
)

SERVICE_MODE = (
    case(
        "Under service access an untagged frame leaves with one S-tag",
        "tag.service.tx",
        SERVICE,
        leaves(from_vf(0, WORLD), s(300)),
        leaves(from_vf(0, WORLD, kind=IPV4), s(300)),
        leaves(from_vf(0, ALL, kind=ARP), s(300)),
    ),
    case(
        "Under service access a guest-tagged frame leaves as QinQ, the customer's tag untouched",
        "tag.service.tx, tag.kind, tag.insert.unchecked",
        SERVICE,
        leaves(from_vf(0, WORLD, c(5, pcp=3, dei=1)), s(300), c(5, pcp=3, dei=1)),
        leaves(from_vf(0, WORLD, c(300), kind=IPV6), s(300), c(300)),
        leaves(from_vf(0, WORLD, c(6), c(7), kind=IPV4), s(300), c(6), c(7)),
        leaves(from_vf(0, ALL, c(9), kind=ARP), s(300), c(9)),
    ),
    case(
        "Under service access a guest frame whose outer TPID is 0x88a8 is refused",
        "tag.service.88a8, tx.4",
        SERVICE,
        sends(0, from_vf(0, WORLD, s(300)), spoofed=1),
        sends(0, from_vf(0, WORLD, s(1)), spoofed=1),
        sends(0, from_vf(0, WORLD, s(0, pcp=2)), spoofed=1),
        sends(0, from_vf(0, WORLD, s(300), c(5)), spoofed=1),
        needs="wire",
    ),
    case(
        "Under service access only the outer tag is removed: the guest sees its own tags again",
        "tag.service.rx",
        SERVICE,
        given(world(s(300, pcp=4), c(5, pcp=3)), c(5, pcp=3)),
        given(world(s(300), c(6), c(7), kind=IPV4), c(6), c(7)),
        given(world(s(300), kind=IPV6)),
        given(world(s(300), s(12), c(13)), s(12), c(13)),
    ),
    case(
        "Under service access a C-tag from the wire is not the VF's kind",
        "tag.kind, tag.service.rx",
        SERVICE,
        sends(WIRE, world(c(300)), at=FOREIGN),
        sends(WIRE, world(c(300), s(300)), at=FOREIGN),
        sends(WIRE, world(s(301), c(300)), at=FOREIGN),
        sends(WIRE, world(), at=FOREIGN),
        needs="wire",
    ),
    case(
        "Under service access a priority tag gives its PCP and DEI to the pushed tag",
        "tag.pcp, tag.service.tx",
        SERVICE,
        leaves(from_vf(0, WORLD, c(0, pcp=6)), s(300, pcp=6)),
        leaves(from_vf(0, WORLD, c(0, pcp=1, dei=1), kind=IPV4), s(300, pcp=1, dei=1)),
    ),
    case(
        "Service tags are of the PF's tpid: with 0x8100 they are C-tags over C-tags",
        "tag.service.tx, tag.service.rx",
        QINQ,
        leaves(from_vf(0, WORLD), c(300)),
        leaves(from_vf(0, WORLD, c(5, pcp=3)), c(300), c(5, pcp=3)),
        leaves(from_vf(0, WORLD, c(0, pcp=3)), c(300, pcp=3)),
        given(world(c(300, pcp=2), c(5)), c(5)),
        given(world(c(300), kind=IPV4)),
    ),
    case(
        "With tpid 0x8100 an S-tag is refused both ways under service access",
        "tag.service.88a8, tag.kind",
        QINQ,
        sends(0, from_vf(0, WORLD, s(300)), spoofed=1),
        sends(WIRE, world(s(300), c(5)), at=FOREIGN),
        needs="wire",
    ),
)

FULL = (
    case(
        "A VF may be in all 4094 VLANs",
        "tag.trunk.tx, tag.trunk.rx",
        nic(
            vf(0, vlans=("1-4094",)),
            vf(1, vlans=("1-4094",), allow_un_ucast=True),
            vf(2, vlans=(100,)),
            enable_loopback=True,
        ),
        passes(0, from_vf(0, WORLD, c(1)), WIRE, 1),
        passes(0, from_vf(0, mac(1), c(2048)), 1),
        passes(0, from_vf(0, mac(1), c(4094)), 1),
        sends(0, from_vf(0, WORLD, c(4095)), spoofed=1),
        sends(0, from_vf(0, WORLD), dropped_untagged=1),
        passes(WIRE, world(c(63)), 0),
        passes(WIRE, world(c(4032)), 0),
        passes(WIRE, frame(ALL, WORLD, c(4094)), 0, 1),
        passes(WIRE, frame(ALL, WORLD, c(100)), 0, 1, 2),
        needs="wire",
    ),
    case(
        "A VF leaves its full trunk and comes back while it runs",
        "tag.trunk.tx, tag.trunk.rx",
        nic(vf(0, vlans=("1-4094",)), vf(1, vlans=(100,))),
        passes(0, from_vf(0, WORLD, c(4000)), WIRE),
        Become(nic(vf(0, vlans=("5-2000", 4094)), vf(1, vlans=(100,)))),
        sends(0, from_vf(0, WORLD, c(4000)), spoofed=1),
        sends(WIRE, world(c(4000)), at=FOREIGN),
        passes(WIRE, world(c(2000)), 0),
        Become(nic(vf(0, vlans=("1-4094",)), vf(1, vlans=(100,)))),
        passes(WIRE, world(c(4000)), 0),
    ),
)

SEVERAL = (
    case(
        "strip_ctag with several VIDs: the guest names the VID, and is given frames without it",
        "tag.several",
        nic(vf(0, vlans=(100, 200), strip_ctag=True)),
        passes(0, from_vf(0, WORLD, c(100, pcp=2)), WIRE),
        passes(0, from_vf(0, WORLD, c(200), c(9)), WIRE),
        given(world(c(100))),
        given(world(c(200), c(9)), c(9)),
    ),
    case(
        "strip_ctag with several VIDs refuses what trunk refuses",
        "tag.several, tag.kind",
        nic(vf(0, vlans=(100, 200), strip_ctag=True)),
        sends(0, from_vf(0, WORLD, c(300)), spoofed=1),
        sends(0, from_vf(0, WORLD, s(100)), spoofed=1),
        sends(0, from_vf(0, WORLD), dropped_untagged=1),
        sends(WIRE, world(c(300)), at=FOREIGN),
        sends(WIRE, world(s(100)), at=FOREIGN),
        needs="vlan_anti_spoof",
    ),
    case(
        "strip_stag with several VIDs: tags are of the PF's tpid, a C-tag is refused",
        "tag.several, tag.kind",
        nic(vf(0, vlans=(300, 400), strip_stag=True), tpid=AD),
        passes(0, from_vf(0, WORLD, s(300, pcp=2)), WIRE),
        passes(0, from_vf(0, WORLD, s(400), c(5)), WIRE),
        sends(0, from_vf(0, WORLD, c(300)), spoofed=1),
        sends(0, from_vf(0, WORLD, s(500)), spoofed=1),
        sends(0, from_vf(0, WORLD), dropped_untagged=1),
        given(world(s(400), c(5)), c(5)),
        given(world(s(300))),
        sends(WIRE, world(c(300)), at=FOREIGN),
        needs="vlan_anti_spoof",
    ),
    case(
        "With several VIDs and no vlan_anti_spoof the guest names any VLAN",
        "tag.several",
        nic(vf(0, vlans=(100, 200), strip_ctag=True, vlan_anti_spoof=False)),
        passes(0, from_vf(0, WORLD, c(999)), WIRE),
        sends(0, from_vf(0, WORLD), dropped_untagged=1),
    ),
    case(
        "With several VIDs and allow_untagged, untagged frames pass both ways untouched",
        "tag.several, rx.2",
        nic(vf(0, vlans=(100, 200), strip_ctag=True, allow_untagged=True)),
        passes(0, from_vf(0, WORLD), WIRE),
        passes(WIRE, world(), 0),
        given(world(c(100))),
    ),
)

VEILED = (
    case(
        "In trunk mode a priority tag hides no other: the guest may not send both",
        "tag.veiled, tx.4",
        nic(vf(0, vlans=(100,), allow_untagged=True)),
        passes(0, from_vf(0, WORLD, c(0, pcp=5)), WIRE),
        sends(0, from_vf(0, WORLD, c(0), c(400)), spoofed=1),
        sends(0, from_vf(0, WORLD, c(0, pcp=5), c(100), kind=IPV4), spoofed=1),
        sends(0, from_vf(0, ALL, c(0), c(400), kind=ARP), spoofed=1),
        sends(0, from_vf(0, WORLD, c(0), s(400)), spoofed=1),
        sends(0, from_vf(0, WORLD, c(0), c(0), c(400)), spoofed=1),
        sends(0, from_vf(0, WORLD, c(0), c(0)), spoofed=1),
        sends(0, from_vf(0, WORLD, s(0), c(400)), spoofed=1),
        sends(0, from_vf(0, WORLD, c(0), c(100), c(400)), spoofed=1),
        passes(0, from_vf(0, WORLD, c(100), c(0), c(400)), WIRE),
        needs="veiled tags",
    ),
    case(
        "A veiled tag is spoofed without allow_untagged too, and without vlan_anti_spoof",
        "tag.veiled, tx.4",
        nic(
            vf(0, vlans=(100,)),
            vf(1, vlans=(100,), allow_untagged=True, vlan_anti_spoof=False),
        ),
        sends(0, from_vf(0, WORLD, c(0), c(100)), spoofed=1),
        sends(1, from_vf(1, WORLD, c(0), c(400)), spoofed=1),
        passes(1, from_vf(1, WORLD, c(400)), WIRE),
        needs="veiled tags",
    ),
    case(
        "In trunk mode the guest is given no veiled tag from the wire",
        "tag.veiled, rx.2",
        nic(
            vf(0, vlans=(100,), allow_untagged=True),
            vf(1, vlans=(400,), allow_untagged=True, allow_un_ucast=True),
        ),
        passes(WIRE, world(c(0)), 0),
        sends(WIRE, world(c(0), c(400)), at=FOREIGN),
        sends(WIRE, world(c(0), c(100), kind=IPV4), at=FOREIGN),
        sends(WIRE, world(c(0), c(0), c(100)), at=FOREIGN),
        sends(WIRE, world(c(0), s(100)), at=FOREIGN),
        sends(WIRE, frame(ALL, WORLD, c(0), c(100))),
        sends(WIRE, frame(GROUP, WORLD, c(0), c(100))),
        sends(WIRE, frame(STRANGER, WORLD, c(0), c(400))),
        passes(WIRE, frame(STRANGER, WORLD, c(400)), 1),
        needs="veiled tags",
    ),
    case(
        "A veiled tag reaches no other VF, no mirror's target and no wire",
        "tag.veiled",
        nic(
            vf(0, vlans=(100,), allow_untagged=True, mirror=({"target": 2},)),
            vf(1, vlans=(400,), allow_untagged=True, allow_un_ucast=True),
            vf(2, vlans=(400,)),
            enable_loopback=True,
        ),
        sends(0, from_vf(0, mac(1), c(0), c(400)), spoofed=1),
        sends(0, from_vf(0, ALL, c(0), c(400)), spoofed=1),
        sends(0, from_vf(0, STRANGER, c(0), c(400)), spoofed=1),
        sends(0, from_vf(0, STRANGER, c(0), c(400), c(400)), spoofed=1),
        sends(WIRE, world(c(0), c(100)), at=FOREIGN),
        needs="veiled tags, wire",
    ),
    case(
        "In access mode a veiled tag is refused both ways",
        "tag.veiled, tag.access.tx, tag.access.rx",
        nic(vf(0, vlans=(100,), strip_ctag=True, allow_untagged=True)),
        leaves(from_vf(0, WORLD, c(0, pcp=5)), c(100, pcp=5)),
        sends(0, from_vf(0, WORLD, c(0), c(400)), spoofed=1),
        sends(0, from_vf(0, WORLD, c(0), c(100)), spoofed=1),
        sends(0, from_vf(0, WORLD, c(0), s(100)), spoofed=1),
        sends(0, from_vf(0, WORLD, c(0), c(0)), spoofed=1),
        given(world(c(0))),
        sends(WIRE, world(c(0), c(400)), at=FOREIGN),
        sends(WIRE, world(c(0), c(100)), at=FOREIGN),
        given(world(c(100), c(0), c(7)), c(0), c(7)),
        needs="veiled tags",
    ),
    case(
        "With several VIDs to be stripped a veiled tag is refused both ways, of either kind",
        "tag.veiled, tag.several",
        nic(
            vf(0, vlans=(100, 200), strip_stag=True, allow_untagged=True),
            vf(1, vlans=(100, 200), strip_ctag=True, allow_untagged=True),
            tpid=AD,
        ),
        passes(0, from_vf(0, WORLD, s(0)), WIRE),
        sends(0, from_vf(0, WORLD, s(0), s(100)), spoofed=1),
        sends(0, from_vf(0, WORLD, s(0), c(100)), spoofed=1),
        sends(1, from_vf(1, WORLD, c(0), c(100)), spoofed=1),
        sends(WIRE, world(s(0), s(100)), at=FOREIGN),
        sends(WIRE, world(s(0), c(100)), at=FOREIGN),
        sends(WIRE, frame(mac(1), WORLD, c(0), c(100)), at={(1, "dropped_vlan"): 1}),
        needs="veiled tags",
    ),
    case(
        "Under service access the NIC's tag takes a priority tag's place, whatever is behind it",
        "tag.veiled.service, tag.pcp, tag.service.tx",
        SERVICE,
        leaves(from_vf(0, WORLD, c(0, pcp=6), c(5)), s(300, pcp=6), c(5)),
        leaves(from_vf(0, WORLD, c(0), c(5, pcp=3), c(7), kind=IPV4), s(300), c(5, pcp=3), c(7)),
        leaves(from_vf(0, WORLD, c(0, pcp=2), c(0, pcp=4)), s(300, pcp=2), c(0, pcp=4)),
        leaves(from_vf(0, WORLD, c(0), c(0), c(5)), s(300), c(0), c(5)),
        leaves(from_vf(0, WORLD, c(0), s(5)), s(300), s(5)),
        needs="veiled tags",
    ),
    case(
        "Under service access the guest is given all that is behind the NIC's own tag",
        "tag.veiled.service, tag.service.rx",
        SERVICE,
        given(world(s(300), c(0), c(5)), c(0), c(5)),
        given(world(s(300), c(0, pcp=2), kind=IPV4), c(0, pcp=2)),
        given(world(s(300), s(0), c(5)), s(0), c(5)),
        needs="veiled tags",
    ),
    case(
        "Under service access a tag that a priority tag veils, in place of the NIC's, is refused",
        "tag.veiled.service, tag.veiled",
        nic(
            vf(0, vlans=(300,), strip_stag=True, allow_untagged=True),
            vf(1, vlans=(300,), strip_stag=True, allow_untagged=True),
            tpid=AD,
        ),
        given(world(s(0))),
        sends(WIRE, world(s(0), c(5)), at=FOREIGN),
        sends(WIRE, world(s(0), s(300)), at=FOREIGN),
        sends(WIRE, frame(ALL, WORLD, s(0), c(5))),
        needs="veiled tags",
    ),
)

CASES = (*TRUNK, *FULL, *ACCESS_MODE, *PRIORITY, *SERVICE_MODE, *SEVERAL, *VEILED)
