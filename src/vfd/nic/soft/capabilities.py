"""What the soft NIC can enforce, attribute by attribute, and with what."""

from __future__ import annotations

from vfd.nic.protocol import COUNTERS, Capabilities, Capability, Support
from vfd.policy.values import MAX_GROUPS, MAX_MACS, MAX_VFS, MAX_VLANS, PfPolicy

_EBPF = Capability(Support.ENFORCED, by="ebpf")
_HTB = Capability(Support.ENFORCED, by="htb")
_TBF = Capability(Support.ENFORCED, by="tbf")
_RTNETLINK = Capability(Support.ENFORCED, by="rtnetlink")

_VF = {
    "vlans": _EBPF,
    "strip_stag": _EBPF,
    "strip_ctag": _EBPF,
    "allow_untagged": _EBPF,
    "vm_mac": _EBPF,
    "macs": _EBPF,
    "mac_anti_spoof": _EBPF,
    "vlan_anti_spoof": _EBPF,
    "allow_bcast": _EBPF,
    "allow_mcast": _EBPF,
    "allow_un_ucast": _EBPF,
    "link_status": Capability(Support.ENFORCED, by="ebpf, rtnetlink"),
    "rate": _HTB,
    "min_rate": _HTB,
    "max_rx_rate": _TBF,
    "queues": _HTB,
    "mirror": _EBPF,
    "trust": _EBPF,
    "mtu": _EBPF,
    "storm_limit": _EBPF,
    "guest_macs": _EBPF,
    "guest_vlans": _EBPF,
    "guest_groups": _EBPF,
}

_PF = {
    "vfs": _RTNETLINK,
    "mtu": _EBPF,
    "enable_loopback": _EBPF,
    "promiscuous": Capability(
        Support.LIMITED,
        by="rtnetlink",
        limit="the PF has no port to the host; recorded, moves no frame",
    ),
    "vf_oversubscription": _HTB,
    "tpid": _EBPF,
    "enable_qos": _HTB,
    "tclasses": _HTB,
    "bw_grps": _HTB,
    "link_speed": _HTB,
    "uplink": _RTNETLINK,
    "guest": _RTNETLINK,
    "vf_driver": Capability(
        Support.ABSENT,
        reason="a software NIC's VFs are netdevs, not PCI functions that a driver is bound to",
        consequence="its VFs have no drivers",
    ),
}

_TAP_LINK = Capability(
    Support.LIMITED,
    by="ebpf",
    limit="frames are dropped, but a tap can't show its guest that the link is down:"
    " tell QEMU (set_link)",
)
_RATE_BY_CLASS = Capability(
    Support.LIMITED, by="htb", limit="with enable_qos the limit holds in each traffic class"
)


def capabilities(pf: PfPolicy) -> Capabilities:
    """Of a soft NIC with this PF configuration."""
    vf = dict(_VF)
    if pf.guest == "tap":
        vf["link_status"] = _TAP_LINK
    if pf.enable_qos:
        vf["rate"] = _RATE_BY_CLASS
    return Capabilities(
        vf=vf,
        pf=_PF,
        counters=frozenset(COUNTERS),
        max_vfs=MAX_VFS,
        max_vlans=MAX_VLANS,
        max_macs=MAX_MACS,
        max_groups=MAX_GROUPS,
    )
