"""What a guest may ask for, and what a refused request does not do; counters."""

from __future__ import annotations

from vfd.policy.requests import Request, RequestKind
from vfd.policy.values import GuestMacs

from .case import WIRE, Ask, Become, Leave, case, nic, passes, sends, vf
from .frames import ALL, GROUP, STRANGER, WORLD, c, frame, from_vf, mac, own

K = RequestKind
BEYOND = "02:00:00:00:02:10"
SECOND = "02:00:00:00:01:10"
THIRD = "02:00:00:00:01:11"
FREE = vf(0, vlans=(100,), vm_mac=None)


def ask(kind: RequestKind, granted: bool, *, vfid: int = 0, **what: object) -> Ask:
    return Ask(Request(vfid, kind, **what), granted)  # type: ignore[arg-type]


MACS = (
    case(
        "Without vm_mac the guest chooses its default MAC, which replaces the NIC's own",
        "ask.mac, ask.at-once",
        nic(FREE),
        ask(K.DEFAULT_MAC, True, mac=SECOND),
        passes(0, frame(WORLD, SECOND, c(100)), WIRE),
        passes(WIRE, frame(SECOND, WORLD, c(100)), 0),
        sends(0, frame(WORLD, own(0), c(100)), spoofed=1),
        sends(WIRE, frame(own(0), WORLD, c(100))),
        needs="mac_anti_spoof",
    ),
    case(
        "With vm_mac another default MAC is refused and has no effect",
        "ask.mac",
        nic(vf(0, vlans=(100,))),
        ask(K.DEFAULT_MAC, False, mac=SECOND),
        sends(0, frame(WORLD, SECOND, c(100)), spoofed=1),
        sends(WIRE, frame(SECOND, WORLD, c(100))),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        passes(WIRE, frame(mac(0), WORLD, c(100)), 0),
        needs="mac_anti_spoof",
    ),
    case(
        "A default MAC that another VF owns is refused",
        "ask.mac",
        nic(FREE, vf(1, vlans=(100,), macs=(SECOND,)), enable_loopback=True),
        ask(K.DEFAULT_MAC, False, mac=mac(1)),
        ask(K.DEFAULT_MAC, False, mac=SECOND),
        sends(0, frame(WORLD, SECOND, c(100)), spoofed=1),
        passes(0, frame(SECOND, own(0), c(100)), 1),
        needs="mac_anti_spoof",
    ),
    case(
        "A further MAC is granted by guest_macs any, to several, beside the default one",
        "ask.macs",
        nic(vf(0, vlans=(100,), guest_macs=GuestMacs.ANY)),
        ask(K.ADD_MAC, True, mac=SECOND),
        ask(K.ADD_MAC, True, mac=THIRD),
        passes(0, frame(WORLD, SECOND, c(100)), WIRE),
        passes(0, frame(WORLD, THIRD, c(100)), WIRE),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
        passes(WIRE, frame(THIRD, WORLD, c(100)), 0),
    ),
    case(
        "With guest_macs none a further MAC is refused and has no effect",
        "ask.macs",
        nic(vf(0, vlans=(100,), guest_macs=GuestMacs.NONE)),
        ask(K.ADD_MAC, False, mac=SECOND),
        sends(0, frame(WORLD, SECOND, c(100)), spoofed=1),
        sends(WIRE, frame(SECOND, WORLD, c(100))),
        needs="mac_anti_spoof",
    ),
    case(
        "Without guest_macs a guest whose MACs are stated is granted no others",
        "ask.macs",
        nic(vf(0, vlans=(100,), macs=(SECOND,))),
        ask(K.ADD_MAC, True, mac=SECOND),
        ask(K.ADD_MAC, False, mac=THIRD),
        passes(0, frame(WORLD, SECOND, c(100)), WIRE),
        sends(0, frame(WORLD, THIRD, c(100)), spoofed=1),
        needs="mac_anti_spoof",
    ),
    case(
        "A reserved MAC is granted to no guest, a trusted one neither",
        "ask.mac, ask.macs",
        nic(
            vf(0, vlans=(100,), trust=True, vm_mac=None),
            vf(1, vlans=(100,), guest_macs=GuestMacs.ANY),
            enable_loopback=True,
            reserved_macs=("02:00:00:00:01:00/40",),
        ),
        ask(K.DEFAULT_MAC, False, mac=SECOND),
        ask(K.ADD_MAC, False, mac=SECOND),
        ask(K.ADD_MAC, False, vfid=1, mac=SECOND),
        ask(K.ADD_MAC, True, vfid=1, mac=BEYOND),
        sends(0, frame(WORLD, SECOND, c(100)), spoofed=1),
        sends(1, frame(WORLD, SECOND, c(100)), spoofed=1),
        sends(WIRE, frame(SECOND, WORLD, c(100))),
        passes(1, frame(WORLD, BEYOND, c(100)), WIRE),
        needs="mailbox",
    ),
    case(
        "With guest_macs listed only the VF's macs are granted",
        "ask.macs",
        nic(vf(0, vlans=(100,), macs=(SECOND,), guest_macs=GuestMacs.LISTED)),
        ask(K.ADD_MAC, True, mac=SECOND),
        ask(K.ADD_MAC, False, mac=THIRD),
        passes(0, frame(WORLD, SECOND, c(100)), WIRE),
        sends(0, frame(WORLD, THIRD, c(100)), spoofed=1),
        needs="mac_anti_spoof",
    ),
    case(
        "A further MAC that another VF owns is refused, though it was granted to that guest only",
        "ask.macs",
        nic(
            vf(0, vlans=(100,), guest_macs=GuestMacs.ANY),
            vf(1, vlans=(100,), guest_macs=GuestMacs.ANY),
            enable_loopback=True,
        ),
        ask(K.ADD_MAC, False, mac=mac(1)),
        ask(K.ADD_MAC, True, vfid=1, mac=SECOND),
        ask(K.ADD_MAC, False, mac=SECOND),
        sends(0, frame(WORLD, SECOND, c(100)), spoofed=1),
        passes(0, from_vf(0, SECOND, c(100)), 1),
        needs="mac_anti_spoof",
    ),
    case(
        "A multicast address is no MAC of a VF",
        "ask.mac, ask.macs",
        nic(vf(0, vlans=(100,), vm_mac=None)),
        ask(K.ADD_MAC, False, mac=GROUP),
        needs="mailbox",
    ),
)

OTHERS = (
    case(
        "A VLAN filter is granted within vlans and changes nothing beyond them",
        "ask.vlan",
        nic(vf(0, vlans=(100, 200))),
        ask(K.VLAN, True, vid=200),
        ask(K.VLAN, False, vid=300),
        passes(0, from_vf(0, WORLD, c(200)), WIRE),
        sends(0, from_vf(0, WORLD, c(300)), spoofed=1),
        needs="vlan_anti_spoof, mailbox",
    ),
    case(
        "Without guest_vlans no VLAN filter is granted",
        "ask.vlan",
        nic(vf(0, vlans=(100,), guest_vlans=False)),
        ask(K.VLAN, False, vid=100),
        needs="mailbox",
    ),
    case(
        "Without guest_groups a group is refused and does not reach the guest",
        "ask.group, rx.3.mcast",
        nic(vf(0, vlans=(100,), allow_mcast=False, guest_groups=False)),
        ask(K.JOIN_GROUP, False, mac=GROUP),
        sends(WIRE, frame(GROUP, WORLD, c(100))),
        passes(WIRE, frame(mac(0), WORLD, c(100)), 0),
    ),
    case(
        "An MTU up to the PF's is granted and holds at once, a larger one is refused",
        "ask.mtu, tx.5",
        nic(vf(0, vlans=(100,)), mtu=4000),
        sends(0, from_vf(0, WORLD, c(100), payload=4000), oversize=1),
        ask(K.MTU, True, mtu=4000),
        passes(0, from_vf(0, WORLD, c(100), payload=4000), WIRE),
        ask(K.MTU, False, mtu=4001),
        sends(0, from_vf(0, WORLD, c(100), payload=4001), oversize=1),
    ),
    case(
        "Promiscuous without trust is refused and brings the guest nothing",
        "ask.promisc",
        nic(vf(0, vlans=(100,)), vf(1, vlans=(100,)), enable_loopback=True),
        ask(K.PROMISC, False, on=True),
        sends(WIRE, frame(STRANGER, WORLD, c(100))),
        passes(WIRE, frame(mac(1), WORLD, c(100)), 1),
    ),
    case(
        "Promiscuous is granted to a trusted guest, within allow_un_ucast and its VLANs",
        "ask.promisc",
        nic(
            vf(0, vlans=(100,), trust=True, allow_un_ucast=True),
            vf(1, vlans=(100,)),
            vf(2, vlans=(100,), trust=True),
        ),
        ask(K.PROMISC, True, on=True),
        ask(K.PROMISC, True, vfid=2, on=True),
        passes(WIRE, frame(STRANGER, WORLD, c(100)), 0),
        sends(WIRE, frame(STRANGER, WORLD, c(200))),
        passes(WIRE, frame(mac(1), WORLD, c(100)), 1),
    ),
    case(
        "All-multicast without trust is refused and brings the guest nothing",
        "ask.promisc",
        nic(vf(0, vlans=(100,), allow_mcast=False)),
        ask(K.ALLMULTI, False, on=True),
        sends(WIRE, frame(GROUP, WORLD, c(100))),
        passes(WIRE, frame(mac(0), WORLD, c(100)), 0),
    ),
    case(
        "All-multicast is granted to a trusted guest, within allow_mcast",
        "ask.promisc",
        nic(
            vf(0, vlans=(100,), trust=True, allow_mcast=False),
            vf(1, vlans=(100,), trust=True),
        ),
        ask(K.ALLMULTI, True, on=True),
        ask(K.ALLMULTI, True, vfid=1, on=True),
        passes(WIRE, frame(GROUP, WORLD, c(100)), 1),
    ),
    case(
        "A closed VF's requests are refused",
        "closed",
        nic(vf(1, vlans=(100,))),
        ask(K.ADD_MAC, False, mac=SECOND),
        sends(WIRE, frame(SECOND, WORLD, c(100))),
        passes(WIRE, frame(ALL, WORLD, c(100)), 1),
    ),
)

LAST = (
    case(
        "Grants are gone with the VF's configuration",
        "ask.last, deleted",
        nic(vf(0, vlans=(100,), allow_mcast=False, guest_macs=GuestMacs.ANY)),
        ask(K.ADD_MAC, True, mac=SECOND),
        ask(K.JOIN_GROUP, True, mac=GROUP),
        passes(0, frame(WORLD, SECOND, c(100)), WIRE),
        Become(nic()),
        Become(nic(vf(0, vlans=(100,), allow_mcast=False))),
        sends(0, frame(WORLD, SECOND, c(100)), spoofed=1),
        sends(WIRE, frame(SECOND, WORLD, c(100))),
        sends(WIRE, frame(GROUP, WORLD, c(100))),
        needs="mac_anti_spoof",
    ),
    case(
        "Grants are gone with the guest, and the next one has a MAC that the last had not",
        "ask.last",
        nic(FREE),
        ask(K.DEFAULT_MAC, True, mac=SECOND),
        passes(0, frame(WORLD, SECOND, c(100)), WIRE),
        Leave(0),
        sends(0, frame(WORLD, SECOND, c(100)), spoofed=1),
        sends(WIRE, frame(SECOND, WORLD, c(100))),
        passes(0, frame(WORLD, own(0), c(100)), WIRE),
        passes(WIRE, frame(own(0), WORLD, c(100)), 0),
        needs="mac_anti_spoof",
    ),
)

COUNTED = (
    case(
        "Each counter moves for its own VF, by the frames and bytes of the wire",
        "count.names",
        nic(vf(0, vlans=(100,)), vf(1, vlans=(100,)), enable_loopback=True),
        passes(0, from_vf(0, mac(1), c(100), payload=1000), 1),
        passes(1, from_vf(1, ALL, c(100), payload=500), 0, WIRE),
        sends(0, frame(WORLD, STRANGER, c(100)), spoofed=1),
        sends(1, from_vf(1, WORLD, c(7)), spoofed=1),
        sends(1, from_vf(1, WORLD), dropped_untagged=1),
        sends(0, from_vf(0, WORLD, c(100), payload=1501), oversize=1),
        sends(WIRE, frame(mac(1), WORLD, c(9)), at={(1, "dropped_vlan"): 1}),
        needs="mac_anti_spoof, vlan_anti_spoof",
    ),
    case(
        "Counters that the NIC has not are absent, and those it has are whole numbers",
        "count.absent",
        nic(vf(0, vlans=(100,))),
        passes(0, from_vf(0, WORLD, c(100)), WIRE),
    ),
)

CASES = (*MACS, *OTHERS, *LAST, *COUNTED)
