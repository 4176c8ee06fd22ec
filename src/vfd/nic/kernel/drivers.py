"""What each Linux PF driver does with the VF operations of rtnetlink: facts that no read tells.

A driver that is not listed is taken to implement every operation; the kernel's refusal
(EOPNOTSUPP) then comes back as an error that undoes the change. Sources name the kernel's file and,
in the notes, the function, as of 6.12; statements about igb were also seen in the lab
(docs/lab.md). docs/nics.md is written from here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vfd.policy.values import C_TAG, S_TAG


@dataclass(frozen=True, slots=True)
class Rates:
    """Which rates a driver takes, in Mbit/s."""

    step: int = 1
    """Others hold at the next lower multiple."""
    least: int = 1
    when: str = ""
    """A rate is refused but in this case, in words."""

    def __str__(self) -> str:
        parts = [f"steps of {self.step} Mbit/s"]
        if self.least > 1:
            parts.append(f"at least {self.least} Mbit/s")
        return ", ".join([*parts, *filter(None, [self.when])])


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver's ``ndo_set_vf_*`` operations."""

    source: str
    """The kernel file (6.12) in which they are implemented."""
    vlan_tpids: tuple[int, ...] = (C_TAG,)
    """TPIDs that a VF's port VLAN may have."""
    spoofchk: bool = True
    spoofchk_vlan: bool = True
    """Spoof check covers the VLAN too."""
    spoofchk_needs_mac: bool = False
    """Spoof check is against the forced MAC: without one it lets no frame of the guest's pass."""
    trust: bool = True
    unicast_promisc: bool = True
    """A trusted guest that sets promiscuous mode is given unicast that nobody owns."""
    max_tx_rate: bool = True
    rates: Rates = Rates()
    min_tx_rate: bool = False
    link_state: bool = True
    statistics: bool = True
    """``IFLA_VF_STATS`` are counted (not always 0)."""
    mac_needs_rebind: bool = False
    """A new MAC reaches the guest only when its VF driver binds again or resets."""
    vfs_need_bounce: bool = False
    """After the PF was down and up, VFs show a link and pass nothing until they were, too."""
    rate_needs_link: bool = False
    """A rate is refused while the link is down."""
    mac_control: str = ""
    """By what the driver drops its guests' MAC control frames, and with what limit; empty: it isn't
    known that it does."""
    keeps_macs: str = ""
    """The function that refuses a guest every MAC but the forced one, unless it is trusted; '':
    none does."""
    vendors: str = ""
    """The vendor's own version of the driver, where that offers a sysfs interface, which is there
    only while there are VFs."""
    bridge_modes: bool = False
    """The PF's bridge is VEB or VEPA, as asked (``ndo_bridge_setlink``)."""
    notes: tuple[str, ...] = ()
    """What the driver asks for or leaves out beyond these, with the function that says so."""


DRIVERS = {
    "igb": Driver(
        "drivers/net/ethernet/intel/igb/igb_main.c",
        link_state=False,
        statistics=False,
        keeps_macs="igb_set_vf_mac_filter",
        mac_needs_rebind=True,
        unicast_promisc=False,
        rates=Rates(when="with the link up, at most its speed"),
        notes=(
            "a rate only on the 82576, with the link up, at most its speed (igb_ndo_set_vf_bw)",
            "a guest's unicast promiscuous mode is refused, trusted or not (igb_set_vf_promisc)",
            "a rate is gone when the link's speed changes (igb_check_vf_rate_limit)",
            "spoof check is of MAC and VLAN together (igb_ndo_set_vf_spoofchk)",
        ),
        vfs_need_bounce=True,
        rate_needs_link=True,
    ),
    "ixgbe": Driver(
        "drivers/net/ethernet/intel/ixgbe/ixgbe_sriov.c",
        keeps_macs="ixgbe_set_vf_macvlan_msg",
        mac_needs_rebind=True,
        rate_needs_link=True,
        bridge_modes=True,
        rates=Rates(least=11, when="on a link of 10 Gbit/s that is up"),
        mac_control="on the X550 and later, while spoof check is on; by the EtherType, so perhaps"
        " not under a guest's own tags (ixgbe_ndo_set_vf_spoofchk)",
        notes=(
            (
                "a rate only on a link of 10 Gbit/s that is up, and above 10 Mbit/s"
                " (ixgbe_ndo_set_vf_bw)"
            ),
            "spoof check is of MAC and VLAN together (ixgbe_ndo_set_vf_spoofchk)",
            "VEB or VEPA for the whole PF (ixgbe_ndo_bridge_setlink)",
        ),
    ),
    "i40e": Driver(
        "drivers/net/ethernet/intel/i40e/i40e_virtchnl_pf.c",
        vendors="Intel's out-of-tree i40e",
        keeps_macs="i40e_check_vf_permission",
        rates=Rates(step=50, least=50),
        mac_control="by the EtherType, so perhaps not under a guest's own tags"
        " (i40e_add_filter_to_drop_tx_flow_control_frames)",
        bridge_modes=True,
        notes=(
            (
                "a rate holds in steps of 50 Mbit/s, at least 50, and reads back as it was asked"
                " (i40e_set_bw_limit)"
            ),
            "spoof check is of MAC and VLAN together (i40e_ndo_set_vf_spoofchk)",
            "changing between VEB and VEPA resets the PF (i40e_ndo_bridge_setlink)",
            (
                "private flags vf-vlan-pruning and vf-true-promisc-support, while no VF is active"
                " (i40e_set_priv_flags)"
            ),
        ),
    ),
    "ice": Driver(
        "drivers/net/ethernet/intel/ice/ice_sriov.c",
        keeps_macs="ice_can_vf_change_mac",
        vlan_tpids=(C_TAG, S_TAG),
        min_tx_rate=True,
        bridge_modes=True,
        mac_control="by the EtherType, so perhaps not under a guest's own tags; not in safe mode"
        " (ice_vsi_setup)",
        notes=(
            (
                "802.1ad only where the device is in double VLAN mode"
                " (ice_is_supported_port_vlan_proto)"
            ),
            "a new MAC or trust resets the VF (ice_set_vf_mac, ice_set_vf_trust)",
            "no guarantee while DCB is active, and none beyond the link (ice_set_vf_bw)",
            "spoof check is of MAC, and of VLAN once the VF is in one (ice_vsi_ena_spoofchk)",
            "VEB or VEPA for the whole PF (ice_bridge_setlink)",
            (
                "private flags vf-vlan-pruning, vf-true-promisc-support and mdd-auto-reset-vf"
                " (ice_gstrings_priv_flags)"
            ),
        ),
    ),
    "mlx5_core": Driver(
        "drivers/net/ethernet/mellanox/mlx5/core/esw/legacy.c",
        vendors="MLNX_OFED's mlx5_core",
        mac_needs_rebind=True,
        spoofchk_vlan=False,
        spoofchk_needs_mac=True,
        min_tx_rate=True,
        bridge_modes=True,
        notes=(
            "802.1Q only (mlx5e_set_vf_vlan)",
            "a VF's driver asks for its MAC when it binds (en_main.c, mlx5e_set_netdev_dev_addr)",
            (
                "spoof check is of the forced MAC alone; without one it would drop all that the"
                " guest sends (esw_acl_ingress_lgcy_setup)"
            ),
            "in switchdev mode none of these (mlx5_eswitch_set_vport_vlan: EOPNOTSUPP)",
            "VEB or VEPA for the whole PF (mlx5e_bridge_setlink)",
        ),
    ),
    "bnxt_en": Driver(
        "drivers/net/ethernet/broadcom/bnxt/bnxt_sriov.c",
        vlan_tpids=(C_TAG, S_TAG),
        spoofchk_vlan=False,
        min_tx_rate=True,
        statistics=False,
        bridge_modes=True,
        notes=(
            "802.1ad only with firmware that has DFLT_VLAN_TPID_PCP (bnxt_set_vf_vlan)",
            "spoof check is of the MAC alone (bnxt_set_vf_spoofchk)",
            "VEB or VEPA only where the port has one PF (bnxt_bridge_setlink)",
        ),
    ),
    "netdevsim": Driver(
        "drivers/net/netdevsim/netdev.c",
        vlan_tpids=(C_TAG, S_TAG),
        min_tx_rate=True,
        statistics=False,
    ),
}

NO_VF_OPERATIONS = {
    "virtio-pci": "drivers/net/virtio_net.c implements no VF operations",
    "virtio_net": "drivers/net/virtio_net.c implements no VF operations",
}
"""Drivers with SR-IOV but without a single VF operation: these NICs are refused."""


_I350 = frozenset({"1521", "1522", "1523", "1524", "1546"})
"""Device ids of igb's other NIC with SR-IOV (e1000_hw.h, E1000_DEV_ID_I350_*)."""


def driver_named(name: str, device: str = "") -> Driver:
    """``device``: the PF's PCI device id, where drivers know several kinds of NICs."""
    found = DRIVERS.get(name, Driver("(a driver that docs/nics.md does not list)"))
    if name == "igb" and device in _I350:
        return replace(found, max_tx_rate=False)  # igb_ndo_set_vf_bw: EOPNOTSUPP
    return found
