"""What each Linux PF driver does with the VF operations of rtnetlink: facts that no read tells.

A driver that is not listed is taken to implement every operation; the kernel's refusal
(EOPNOTSUPP) then comes back as an error that undoes the change. Sources name the kernel's file;
statements about igb were also seen in the lab (docs/lab.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from vfd.policy.values import C_TAG, S_TAG


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
    trust: bool = True
    max_tx_rate: bool = True
    min_tx_rate: bool = False
    link_state: bool = True
    statistics: bool = True
    """``IFLA_VF_STATS`` are counted (not always 0)."""
    mac_needs_rebind: bool = False
    """A new MAC reaches the guest only when its VF driver binds again or resets."""


DRIVERS = {
    "igb": Driver(
        "drivers/net/ethernet/intel/igb/igb_main.c",
        link_state=False,
        statistics=False,
        mac_needs_rebind=True,
    ),
    "ixgbe": Driver("drivers/net/ethernet/intel/ixgbe/ixgbe_sriov.c", mac_needs_rebind=True),
    "i40e": Driver(
        "drivers/net/ethernet/intel/i40e/i40e_virtchnl_pf.c",
        spoofchk_vlan=False,
    ),
    "ice": Driver(
        "drivers/net/ethernet/intel/ice/ice_sriov.c",
        vlan_tpids=(C_TAG, S_TAG),
        min_tx_rate=True,
    ),
    "mlx5_core": Driver(
        "drivers/net/ethernet/mellanox/mlx5/core/esw/legacy.c",
        vlan_tpids=(C_TAG,),
        min_tx_rate=True,
    ),
    "bnxt_en": Driver(
        "drivers/net/ethernet/broadcom/bnxt/bnxt_sriov.c",
        min_tx_rate=True,
        statistics=False,
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


def driver_named(name: str) -> Driver:
    return DRIVERS.get(name, Driver("(a driver that docs/nics.md does not list)"))
