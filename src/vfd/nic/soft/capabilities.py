"""What the soft NIC can enforce, attribute by attribute, and with what."""

from __future__ import annotations

from collections.abc import Mapping

from vfd.nic.protocol import BESIDE, COUNTERS, Capabilities, Capability, Support
from vfd.nic.soft.layout import MIRRORS
from vfd.policy.values import (
    MAX_GROUPS,
    MAX_MACS,
    MAX_VFS,
    MAX_VLANS,
    LinkStatus,
    PfPolicy,
    VfRules,
)

_EBPF = Capability(Support.ENFORCED, by="ebpf")
_HTB = Capability(Support.ENFORCED, by="htb")
_TBF = Capability(Support.ENFORCED, by="tbf")
_RTNETLINK = Capability(Support.ENFORCED, by="rtnetlink")

_VF = {
    "vlans": _EBPF,
    "strip_stag": _EBPF,
    "strip_ctag": _EBPF,
    "allow_untagged": _EBPF,
    "pcp": _EBPF,
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
    "guest_vlans": Capability(
        Support.LIMITED,
        by="ebpf",
        limit="its guests have no VLAN filter to ask for: all of vlans reaches them",
    ),
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
    "reserved_macs": Capability(Support.ENFORCED, by="ebpf"),
    "unconfigured": Capability(Support.ENFORCED, by="daemon"),
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
_IN_BUFFERS = (
    "a segmentation-offload buffer that rate drops counts as one packet where a socket in the guest"
    " sent it; that takes hundreds of them at once, as each waits for its buffers to leave"
)


def shortfalls(rules: VfRules, pf: PfPolicy) -> Mapping[str, Capability]:
    """What of these rules a soft NIC enforces with a limit: the link of a tap that may be down."""
    may_be_down = rules.link_status is LinkStatus.OFF or (
        rules.link_status is LinkStatus.AUTO and pf.uplink is not None
    )
    return {"link_status": _TAP_LINK} if pf.guest == "tap" and may_be_down else {}


def capabilities(pf: PfPolicy) -> Capabilities:
    """Of a soft NIC with this PF configuration."""
    vf = dict(_VF)
    if pf.guest == "tap":
        vf["link_status"] = _TAP_LINK
    return Capabilities(
        vf=vf,
        pf=_PF,
        counters=frozenset(COUNTERS),
        max_vfs=MAX_VFS,
        max_vlans=MAX_VLANS,
        max_macs=MAX_MACS,
        max_groups=MAX_GROUPS,
        max_mirrors=MIRRORS,
        beside=dict.fromkeys(BESIDE, _EBPF),
        counter_limits=dict.fromkeys(("rate_dropped", "tx_dropped"), _IN_BUFFERS)
        if pf.guest == "veth"
        else {},
    )
