"""From the guest: Tx, in this order."""

from __future__ import annotations

from vfd.policy.requests import Request, RequestKind
from vfd.policy.values import LinkStatus

from .case import WIRE, Ask, Become, Wire, case, nic, passes, sends, vf
from .frames import (
    ALL,
    ARP,
    EXPERIMENT,
    GROUP,
    IPV4,
    IPV6,
    LLDP,
    LLDP_GROUP,
    STRANGER,
    WORLD,
    c,
    frame,
    from_vf,
    mac,
    own,
    s,
)

ZERO = "00:00:00:00:00:00"
SECOND = "02:00:00:00:01:10"
"""A further MAC of VF 0."""

TRUNK = nic(vf(0, vlans=(100, 200)), vf(1, vlans=(100,)))
PLAIN = nic(vf(0, allow_untagged=True), vf(1, allow_untagged=True))

LINK = (
    case(
        "A VF whose link_status is off sends nothing",
        "tx.1, link_status.off",
        nic(vf(0, vlans=(100,), link_status=LinkStatus.OFF)),
        sends(0, from_vf(0, WORLD, c(100)), tx_dropped=1),
        sends(0, from_vf(0, ALL, c(100)), tx_dropped=1),
        needs="wire",
    ),
    case(
        "A VF whose link_status is off sends nothing, not even what would be spoofed",
        "tx.1, tx.2, tx.3",
        nic(vf(0, vlans=(100,), link_status=LinkStatus.OFF)),
        sends(0, frame(WORLD, STRANGER, c(100)), tx_dropped=1),
        sends(0, frame(WORLD, ZERO, c(100)), tx_dropped=1),
        needs="wire",
    ),
    case(
        "With link_status auto nothing is sent while the wire is down, and again when it is up",
        "tx.1, link_status.auto",
        nic(vf(0, vlans=(100,)), vf(1, vlans=(100,)), enable_loopback=True),
        passes(0, from_vf(0, mac(1), c(100)), 1),
        Wire(False),
        sends(0, from_vf(0, mac(1), c(100)), tx_dropped=1),
        Wire(True),
        passes(0, from_vf(0, mac(1), c(100)), 1),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        needs="link_status",
    ),
    case(
        "With link_status on VFs go on talking to each other while the wire is down",
        "tx.1, rx.1, link_status.on",
        nic(
            vf(0, vlans=(100,), link_status=LinkStatus.ON),
            vf(1, vlans=(100,), link_status=LinkStatus.ON),
            vf(2, vlans=(100,)),
            enable_loopback=True,
        ),
        Wire(False),
        passes(0, from_vf(0, mac(1), c(100)), 1),
        sends(1, from_vf(1, ALL, c(100)), {0: from_vf(1, ALL, c(100))}, {(WIRE, "tx_dropped"): 1}),
    ),
    case(
        "Without an uplink the wire counts as up: VFs whose link_status is auto talk",
        "tx.1, link_status.auto",
        nic(vf(0, vlans=(100,)), vf(1, vlans=(100,)), enable_loopback=True),
        passes(0, from_vf(0, mac(1), c(100)), 1),
        sends(1, from_vf(1, WORLD, c(100))),
        needs="no wire",
    ),
    case(
        "A closed VF sends nothing",
        "closed, tx.1",
        nic(vf(1, vlans=(100,), allow_untagged=True), enable_loopback=True),
        sends(0, from_vf(0, mac(1), c(100)), tx_dropped=1),
        sends(0, from_vf(0, mac(1)), tx_dropped=1),
        sends(0, from_vf(0, ALL), tx_dropped=1),
        sends(0, from_vf(0, WORLD, s(100)), tx_dropped=1),
        needs="wire",
    ),
    case(
        "A VF whose configuration is deleted sends nothing more",
        "deleted",
        nic(vf(0, vlans=(100,)), vf(1, vlans=(100,))),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        Become(nic(vf(1, vlans=(100,)))),
        sends(0, from_vf(0, WORLD, c(100)), tx_dropped=1),
        passes(1, from_vf(1, WORLD, c(100)), WIRE),
    ),
)

SOURCE = (
    case(
        "A multicast, broadcast or zero source is spoofed",
        "tx.2",
        PLAIN,
        sends(0, frame(WORLD, GROUP), spoofed=1),
        sends(0, frame(WORLD, ALL), spoofed=1),
        sends(0, frame(WORLD, ZERO), spoofed=1),
        needs="mac_anti_spoof, wire",
    ),
    case(
        "A multicast, broadcast or zero source is spoofed even without mac_anti_spoof",
        "tx.2",
        nic(vf(0, allow_untagged=True, mac_anti_spoof=False)),
        sends(0, frame(WORLD, GROUP), spoofed=1),
        sends(0, frame(WORLD, ALL), spoofed=1),
        sends(0, frame(WORLD, ZERO), spoofed=1),
        needs="wire",
    ),
    case(
        "With mac_anti_spoof a source that is none of the VF's MACs is spoofed",
        "tx.3",
        TRUNK,
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        sends(0, frame(WORLD, STRANGER, c(100)), spoofed=1),
        sends(0, frame(WORLD, STRANGER, c(200)), spoofed=1),
        sends(0, frame(ALL, STRANGER, c(100)), spoofed=1),
        needs="mac_anti_spoof",
    ),
    case(
        "With mac_anti_spoof the MAC of another VF is spoofed",
        "tx.3",
        nic(vf(0, vlans=(100,)), vf(1, vlans=(100,)), enable_loopback=True),
        sends(0, from_vf(1, WORLD, c(100)), spoofed=1),
        sends(0, from_vf(1, mac(1), c(100)), spoofed=1),
        passes(1, from_vf(1, mac(0), c(100)), 0),
        needs="mac_anti_spoof, wire",
    ),
    case(
        "The VF's listed MACs are sources like its default one",
        "tx.3",
        nic(vf(0, vlans=(100,), macs=(SECOND,)), vf(1, vlans=(100,))),
        passes(0, frame(WORLD, SECOND, c(100)), WIRE),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        sends(1, frame(WORLD, SECOND, c(100)), spoofed=1),
        needs="mac_anti_spoof",
    ),
    case(
        "A MAC that was granted is a source, and no longer once it is given back",
        "tx.3, ask.macs",
        nic(vf(0, vlans=(100,))),
        sends(0, frame(WORLD, SECOND, c(100)), spoofed=1),
        Ask(Request(0, RequestKind.ADD_MAC, mac=SECOND), True),
        passes(0, frame(WORLD, SECOND, c(100)), WIRE),
        Ask(Request(0, RequestKind.REMOVE_MAC, mac=SECOND), True),
        sends(0, frame(WORLD, SECOND, c(100)), spoofed=1),
        needs="mac_anti_spoof",
    ),
    case(
        "Without vm_mac the NIC's own MAC is the VF's source, and no other",
        "tx.3",
        nic(vf(0, vlans=(100,), vm_mac=None)),
        passes(0, frame(WORLD, own(0), c(100)), WIRE),
        sends(0, from_vf(0, WORLD, c(100)), spoofed=1),
        needs="mac_anti_spoof",
    ),
    case(
        "Without mac_anti_spoof any unicast source passes",
        "tx.3",
        nic(vf(0, vlans=(100,), mac_anti_spoof=False), vf(1, vlans=(100,))),
        passes(0, frame(WORLD, STRANGER, c(100)), WIRE),
        passes(0, from_vf(1, WORLD, c(100)), WIRE),
        sends(1, frame(WORLD, STRANGER, c(100)), spoofed=1),
    ),
    case(
        "A VF's MACs change while it runs: the old one is spoofed at once, the new one passes",
        "tx.3",
        nic(vf(0, vlans=(100,), vm_mac=SECOND)),
        passes(0, frame(WORLD, SECOND, c(100)), WIRE),
        sends(0, from_vf(0, WORLD, c(100)), spoofed=1),
        Become(nic(vf(0, vlans=(100,)))),
        sends(0, frame(WORLD, SECOND, c(100)), spoofed=1),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        needs="mac_anti_spoof",
    ),
    case(
        "A frame of every protocol is spoofed alike",
        "tx.3",
        nic(vf(0, allow_untagged=True)),
        sends(0, frame(WORLD, STRANGER, kind=IPV4), spoofed=1),
        sends(0, frame(WORLD, STRANGER, kind=IPV6), spoofed=1),
        sends(0, frame(ALL, STRANGER, kind=ARP), spoofed=1),
        sends(0, frame(LLDP_GROUP, STRANGER, kind=LLDP), spoofed=1),
        sends(0, frame(WORLD, STRANGER, kind=EXPERIMENT), spoofed=1),
        needs="mac_anti_spoof, wire",
    ),
)

REFUSED = (
    case(
        "An untagged frame refused only because allow_untagged is false is dropped_untagged",
        "tx.4, tag.trunk.tx",
        TRUNK,
        sends(0, from_vf(0, WORLD), dropped_untagged=1),
        sends(0, from_vf(0, ALL), dropped_untagged=1),
        sends(0, from_vf(0, WORLD, c(0, pcp=5)), dropped_untagged=1),
        needs="wire",
    ),
    case(
        "A tag outside vlans is spoofed, though untagged frames would pass",
        "tx.4, tag.trunk.tx",
        nic(vf(0, vlans=(100,), allow_untagged=True)),
        passes(0, from_vf(0, WORLD), WIRE),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        sends(0, from_vf(0, WORLD, c(101)), spoofed=1),
        needs="vlan_anti_spoof",
    ),
    case(
        "A false source is looked at before the tags: it is spoofed, once",
        "tx.3, tx.4",
        TRUNK,
        sends(0, frame(WORLD, STRANGER), spoofed=1),
        sends(0, frame(WORLD, STRANGER, c(300)), spoofed=1),
        needs="mac_anti_spoof, vlan_anti_spoof, wire",
    ),
)

SIZE = (
    case(
        "A frame as large as the VF's MTU passes, a byte more is oversize",
        "tx.5",
        PLAIN,
        passes(0, from_vf(0, WORLD, payload=1500), WIRE),
        sends(0, from_vf(0, WORLD, payload=1501), oversize=1),
        passes(0, from_vf(0, WORLD, kind=IPV4, payload=1500), WIRE),
        sends(0, from_vf(0, WORLD, kind=IPV4, payload=1501), oversize=1),
    ),
    case(
        "The guest's own outer tag is no part of the MTU, an inner one is",
        "tx.5",
        TRUNK,
        passes(0, from_vf(0, WORLD, c(100), payload=1500), WIRE),
        sends(0, from_vf(0, WORLD, c(100), payload=1501), oversize=1),
        passes(0, from_vf(0, WORLD, c(100), c(7), payload=1496), WIRE),
        sends(0, from_vf(0, WORLD, c(100), c(7), payload=1497), oversize=1),
    ),
    case(
        "A tag that the NIC inserts is no part of the MTU",
        "tx.5, tag.access.tx",
        nic(vf(0, vlans=(100,), strip_ctag=True)),
        sends(
            0,
            from_vf(0, WORLD, payload=1500),
            {WIRE: from_vf(0, WORLD, c(100), payload=1500)},
        ),
        sends(0, from_vf(0, WORLD, payload=1501), oversize=1),
    ),
    case(
        "Under service access the guest fills its MTU, its own tag besides",
        "tx.5, tag.service.tx",
        nic(vf(0, vlans=(300,), strip_stag=True), tpid=0x88A8),
        sends(
            0,
            from_vf(0, WORLD, c(5), payload=1500),
            {WIRE: from_vf(0, WORLD, s(300), c(5), payload=1500)},
        ),
        sends(0, from_vf(0, WORLD, c(5), payload=1501), oversize=1),
    ),
    case(
        "A VF's mtu makes jumbo frames pass, and a small one less than 1500",
        "tx.5",
        nic(vf(0, vlans=(100,), mtu=9000), vf(1, vlans=(100,), mtu=576)),
        passes(0, from_vf(0, WORLD, c(100), payload=9000), WIRE),
        sends(0, from_vf(0, WORLD, c(100), payload=9001), oversize=1),
        passes(1, from_vf(1, WORLD, c(100), payload=576), WIRE),
        sends(1, from_vf(1, WORLD, c(100), payload=577), oversize=1),
    ),
    case(
        "Jumbo frames pass between VFs that both have the MTU",
        "tx.5, sw.known",
        nic(
            vf(0, allow_untagged=True, mtu=9000),
            vf(1, allow_untagged=True, mtu=9000),
            enable_loopback=True,
        ),
        passes(0, from_vf(0, mac(1), payload=8000), 1),
        passes(1, from_vf(1, mac(0), payload=9000, kind=IPV6), 0),
    ),
    case(
        "Tags and source are looked at before the size",
        "tx.3, tx.4, tx.5",
        TRUNK,
        sends(0, from_vf(0, WORLD, payload=1501), dropped_untagged=1),
        sends(0, frame(WORLD, STRANGER, c(100), payload=1501), spoofed=1),
        needs="mac_anti_spoof, wire",
    ),
)

PROTOCOLS = (
    case(
        "Frames of every protocol pass unchanged",
        "tx.8",
        PLAIN,
        passes(0, from_vf(0, WORLD, kind=IPV4), WIRE),
        passes(0, from_vf(0, WORLD, kind=IPV6), WIRE),
        passes(0, from_vf(0, ALL, kind=ARP), WIRE),
        passes(0, from_vf(0, LLDP_GROUP, kind=LLDP), WIRE),
        passes(0, from_vf(0, WORLD, kind=EXPERIMENT), WIRE),
        passes(0, from_vf(0, WORLD, kind=0x9100), WIRE),
        # IEEE 802.3 with a length instead of an EtherType.
        passes(0, from_vf(0, WORLD, kind=64), WIRE),
    ),
    case(
        "Frames of every protocol pass unchanged under a tag",
        "tx.8",
        TRUNK,
        passes(0, from_vf(0, WORLD, c(200), kind=IPV4), WIRE),
        passes(0, from_vf(0, WORLD, c(200), kind=IPV6), WIRE),
        passes(0, from_vf(0, ALL, c(200), kind=ARP), WIRE),
        passes(0, from_vf(0, WORLD, c(200, pcp=7, dei=1)), WIRE),
        passes(0, from_vf(0, WORLD, c(200), c(300), kind=IPV4), WIRE),
        passes(0, from_vf(0, WORLD, c(200), s(300), c(400), kind=IPV6), WIRE),
    ),
    case(
        "Frames shorter than an Ethernet minimum pass as they are",
        "tx.8",
        PLAIN,
        passes(0, from_vf(0, WORLD, payload=8), WIRE),
        passes(0, from_vf(0, WORLD, payload=20), WIRE),
        needs="runts",
    ),
)

CASES = (*LINK, *SOURCE, *REFUSED, *SIZE, *PROTOCOLS)
