"""To the guest: Rx, in this order."""

from __future__ import annotations

from vfd.policy.requests import Request, RequestKind
from vfd.policy.values import GuestMacs, LinkStatus

from .case import WIRE, Ask, Become, case, nic, passes, sends, vf
from .frames import (
    ALL,
    ARP,
    EXPERIMENT,
    GROUP,
    GROUP6,
    IPV4,
    IPV6,
    LLDP,
    LLDP_GROUP,
    STRANGER,
    WORLD,
    Frame,
    Tag,
    c,
    frame,
    mac,
    own,
    s,
)

SECOND = "02:00:00:00:01:10"


def world(dst: str, *tags: Tag, kind: int = EXPERIMENT, payload: int = 64) -> Frame:
    """A frame from beyond the wire."""
    return frame(dst, WORLD, *tags, kind=kind, payload=payload)


DOWN = {(0, "rx_dropped"): 1}
FOREIGN = {(0, "dropped_vlan"): 1}


LINK = (
    case(
        "A VF whose link_status is off is given nothing",
        "rx.1, link_status.off",
        nic(vf(0, vlans=(100,), link_status=LinkStatus.OFF), vf(1, vlans=(100,))),
        sends(WIRE, world(mac(0), c(100)), at=DOWN),
        passes(WIRE, world(ALL, c(100)), 1),
    ),
    case(
        "What is for a VF whose link is down goes nowhere else",
        "rx.1, sw.known",
        nic(
            vf(0, vlans=(100,), link_status=LinkStatus.OFF),
            vf(1, vlans=(100,), allow_un_ucast=True),
            enable_loopback=True,
        ),
        sends(1, frame(mac(0), mac(1), c(100)), at=DOWN),
        sends(WIRE, world(mac(0), c(100)), at=DOWN),
    ),
    case(
        "A closed VF is given nothing",
        "closed, rx.1",
        nic(vf(1, vlans=(100,), allow_untagged=True)),
        sends(WIRE, world(mac(0))),
        sends(WIRE, world(own(0))),
        passes(WIRE, world(ALL), 1),
        passes(WIRE, world(ALL, c(100)), 1),
        passes(WIRE, world(GROUP), 1),
    ),
    case(
        "A VF whose configuration is deleted is given nothing more, and owns no MAC",
        "deleted",
        nic(vf(0, vlans=(100,)), vf(1, vlans=(100,)), enable_loopback=True),
        passes(1, frame(mac(0), mac(1), c(100)), 0),
        Become(nic(vf(1, vlans=(100,)), enable_loopback=True)),
        passes(1, frame(mac(0), mac(1), c(100)), WIRE),
        sends(WIRE, world(mac(0), c(100))),
        passes(WIRE, world(ALL, c(100)), 1),
    ),
)

FILTER = (
    case(
        "A frame in one of the VF's VLANs reaches it",
        "rx.2, rx.3.own",
        nic(vf(0, vlans=(100, 200))),
        passes(WIRE, world(mac(0), c(100)), 0),
        passes(WIRE, world(mac(0), c(200)), 0),
    ),
    case(
        "A frame in none of the VF's VLANs does not reach it",
        "rx.2, sw.cross",
        nic(vf(0, vlans=(100, 200), allow_un_ucast=True)),
        sends(WIRE, world(mac(0), c(300)), at=FOREIGN),
        sends(WIRE, world(mac(0)), at=FOREIGN),
        sends(WIRE, world(ALL, c(300))),
        sends(WIRE, world(GROUP, c(300))),
        sends(WIRE, world(STRANGER, c(300))),
    ),
    case(
        "An untagged frame reaches only VFs with allow_untagged",
        "rx.2",
        nic(vf(0, vlans=(100,)), vf(1, allow_untagged=True)),
        passes(WIRE, world(mac(1)), 1),
        sends(WIRE, world(mac(0)), at=FOREIGN),
        passes(WIRE, world(ALL), 1),
        passes(WIRE, world(ALL, c(100)), 0),
    ),
    case(
        "A priority tag counts as untagged",
        "rx.2",
        nic(vf(0, vlans=(100,)), vf(1, allow_untagged=True)),
        passes(WIRE, world(mac(1), c(0, pcp=3)), 1),
        passes(WIRE, world(ALL, c(0, pcp=3)), 1),
        sends(WIRE, world(mac(0), c(0, pcp=3)), at=FOREIGN),
    ),
)

CLASS = (
    case(
        "Each of the VF's MACs is its own: default, listed and granted",
        "rx.3.own",
        nic(vf(0, vlans=(100,), macs=(SECOND,), guest_macs=GuestMacs.ANY)),
        passes(WIRE, world(mac(0), c(100)), 0),
        passes(WIRE, world(SECOND, c(100)), 0),
        Ask(Request(0, RequestKind.ADD_MAC, mac=STRANGER), True),
        passes(WIRE, world(STRANGER, c(100)), 0),
    ),
    case(
        "Without vm_mac the NIC's own MAC reaches the VF",
        "rx.3.own",
        nic(vf(0, vlans=(100,), vm_mac=None)),
        passes(WIRE, world(own(0), c(100)), 0),
        sends(WIRE, world(mac(0), c(100))),
    ),
    case(
        "With vm_mac the NIC's own MAC is no longer the VF's",
        "rx.3.own",
        nic(vf(0, vlans=(100,))),
        sends(WIRE, world(own(0), c(100))),
        passes(WIRE, world(mac(0), c(100)), 0),
    ),
    case(
        "Unicast to a MAC that no port owns reaches only VFs with allow_un_ucast",
        "rx.3.unknown",
        nic(vf(0, vlans=(100,)), vf(1, vlans=(100,), allow_un_ucast=True)),
        passes(WIRE, world(STRANGER, c(100)), 1),
        passes(WIRE, world(STRANGER, c(100), kind=IPV4), 1),
    ),
    case(
        "allow_un_ucast brings no frames that another VF owns",
        "rx.3.unknown, sw.known",
        nic(
            vf(0, vlans=(100,)),
            vf(1, vlans=(100,), allow_un_ucast=True),
            vf(2, vlans=(100,)),
            enable_loopback=True,
        ),
        passes(WIRE, world(mac(0), c(100)), 0),
        passes(2, frame(mac(0), mac(2), c(100)), 0),
        needs="wire",
    ),
    case(
        "Broadcast reaches only VFs with allow_bcast",
        "rx.3.bcast",
        nic(vf(0, vlans=(100,), allow_bcast=False), vf(1, vlans=(100,))),
        passes(WIRE, world(ALL, c(100)), 1),
        passes(WIRE, world(ALL, c(100), kind=ARP), 1),
        passes(WIRE, world(GROUP, c(100)), 0, 1),
    ),
    case(
        "Multicast reaches only VFs with allow_mcast",
        "rx.3.mcast",
        nic(vf(0, vlans=(100,), allow_mcast=False), vf(1, vlans=(100,))),
        passes(WIRE, world(GROUP, c(100), kind=IPV4), 1),
        passes(WIRE, world(GROUP6, c(100), kind=IPV6), 1),
        passes(WIRE, world(ALL, c(100)), 0, 1),
    ),
    case(
        "Groups that IEEE reserves are multicast like any other",
        "rx.3.mcast",
        nic(vf(0, allow_untagged=True, allow_mcast=False), vf(1, allow_untagged=True)),
        passes(WIRE, world(LLDP_GROUP, kind=LLDP), 1),
        passes(WIRE, world("01:80:c2:00:00:00"), 1),
        passes(WIRE, world("01:80:c2:00:00:03"), 1),
    ),
    case(
        "A group that the guest joined reaches it without allow_mcast, and no other group",
        "rx.3.mcast, guest_groups.reach, ask.group",
        nic(vf(0, vlans=(100,), allow_mcast=False)),
        sends(WIRE, world(GROUP, c(100))),
        Ask(Request(0, RequestKind.JOIN_GROUP, mac=GROUP), True),
        passes(WIRE, world(GROUP, c(100)), 0),
        sends(WIRE, world("01:00:5e:00:00:43", c(100))),
        Ask(Request(0, RequestKind.LEAVE_GROUP, mac=GROUP), True),
        sends(WIRE, world(GROUP, c(100))),
    ),
    case(
        "The VLAN is looked at before the class",
        "rx.2, rx.3.bcast",
        nic(vf(0, vlans=(100,), allow_bcast=False, allow_mcast=False)),
        sends(WIRE, world(mac(0), c(200)), at=FOREIGN),
        sends(WIRE, world(ALL, c(200))),
        sends(WIRE, world(ALL, c(100))),
        sends(WIRE, world(STRANGER, c(100))),
        sends(WIRE, world(GROUP, c(100))),
    ),
)

DELIVERY = (
    case(
        "Frames of every protocol reach the guest unchanged",
        "rx.5",
        nic(vf(0, vlans=(100,), allow_untagged=True)),
        passes(WIRE, world(mac(0), kind=IPV4), 0),
        passes(WIRE, world(mac(0), kind=IPV6), 0),
        passes(WIRE, world(ALL, kind=ARP), 0),
        passes(WIRE, world(mac(0), kind=0x9100), 0),
        passes(WIRE, world(mac(0), kind=64), 0),
        passes(WIRE, world(mac(0), c(100, pcp=6, dei=1), kind=IPV4), 0),
        passes(WIRE, world(mac(0), c(100), c(8), c(9), kind=IPV6), 0),
        passes(WIRE, world(mac(0), c(100), s(8), kind=IPV4), 0),
    ),
    case(
        "The MTU is the guest's limit for sending: what the wire brings is delivered",
        "tx.5, rx.5",
        nic(vf(0, vlans=(100,), mtu=1000)),
        passes(WIRE, world(mac(0), c(100), payload=1500), 0),
    ),
)

CASES = (*LINK, *FILTER, *CLASS, *DELIVERY)
