"""Which test shows that a NIC enforces an attribute, for the marks in docs/nics.md.

A mark is given to what a test did and to nothing else. tests/kernel/test_nics_page.py holds that
the tests are there and are about the attribute.
"""

from __future__ import annotations

from collections.abc import Mapping

_IGB = "tests/lab/test_igb_under_the_daemon.py"
_LEGACY = "tests/lab_netdevsim/test_legacy.py"
_FLOWER = "tests/lab_netdevsim/test_switchdev.py"
_INTEL, _INTEL_PF = "tests/kernel/test_intel.py", "tests/kernel/test_intel_pf.py"
_MLX, _PFS = "tests/kernel/test_mlx.py", "tests/kernel/test_modelled_pfs.py"

_READ_BACK = f"{_IGB}::test_iplex_adds_a_vf_which_reads_back_as_asked"
_SERVICE = f"{_LEGACY}::test_a_service_tag_is_802_1ad_to_the_kernel"
_PCP = f"{_LEGACY}::test_a_priority_is_set_read_back_and_put_back"
_RATES = f"{_LEGACY}::test_rates_and_link_state_are_set"
_ASKED = f"{_FLOWER}::test_what_was_asked_is_read_back"
_RANDOM = f"{_FLOWER}::test_random_policies_are_read_back"
_ANY = f"{_INTEL}::test_after_any_policies_what_is_read_is_what_was_expressible"
_SERVICE_LISTS = f"{_INTEL_PF}::test_with_service_tags_customer_tag_lists_are_refused"
_SHARES = f"{_INTEL_PF}::test_shares_are_applied_together_and_read_back"
_LOOPBACK = f"{_INTEL_PF}::test_loopback_is_switched_on_every_vf_and_only_where_it_differs"
_TPID = f"{_INTEL_PF}::test_a_tpid_restarts_the_vfs_once_and_not_again"
_CLASSES = f"{_PFS}::test_traffic_classes_and_shares_come_into_force_on_the_x710"
_COUNTERS = f"{_PFS}::test_what_the_x710s_files_count_is_among_the_counters"
_TRUNK = f"{_MLX}::test_a_trunk_is_read_back_as_it_was_asked"
_OFED_SERVICE = f"{_PFS}::test_service_access_on_connectx_with_ofed_pushes_802_1ad_tags"


def _each(column: str, test: str, *attributes: str) -> dict[tuple[str, str], str]:
    return {(column, attribute): test for attribute in attributes}


PROVEN_BY: Mapping[tuple[str, str], str] = {
    **_each(
        "82576 igb",
        _READ_BACK,
        *("vlans", "strip_ctag", "vm_mac", "mac_anti_spoof", "rate", "trust"),
    ),
    **_each("netdevsim", _SERVICE, "strip_stag", "tpid"),
    **_each("netdevsim", _PCP, "pcp"),
    **_each("netdevsim", _RATES, "vlans", "strip_ctag", "rate", "min_rate", "link_status", "trust"),
    **_each(
        "netdevsim switchdev",
        _ASKED,
        *("vlans", "macs", "mirror", "storm_limit", "rate", "min_rate", "max_rx_rate", "vm_mac"),
        *("enable_loopback", "tpid", "pcp"),
    ),
    **_each(
        "netdevsim switchdev",
        _RANDOM,
        *("strip_ctag", "mac_anti_spoof", "vlan_anti_spoof", "allow_un_ucast"),
    ),
}
"""(column, attribute) → test: a real driver took it and showed it."""


def _modelled(column: str, test: str, *attributes: str) -> dict[tuple[str, str, str], str]:
    return {(column, attribute, "sysfs"): test for attribute in attributes}


MODELLED_BY: Mapping[tuple[str, str, str], str] = {
    **_modelled(
        "X710 out-of-tree",
        _ANY,
        *("vlans", "strip_ctag", "allow_untagged", "vlan_anti_spoof", "macs", "mirror"),
        *("allow_bcast", "allow_mcast", "allow_un_ucast"),
    ),
    **_modelled("X710 out-of-tree", _SERVICE_LISTS, "strip_stag"),
    **_modelled("X710 out-of-tree", _SHARES, "queues"),
    **_modelled("X710 out-of-tree", _LOOPBACK, "enable_loopback"),
    **_modelled("X710 out-of-tree", _TPID, "tpid"),
    **_modelled("X710 out-of-tree", _CLASSES, "enable_qos", "tclasses"),
    **_modelled("X710 out-of-tree", _COUNTERS, "counters"),
    **_modelled("ConnectX OFED", _TRUNK, "vlans", "allow_untagged", "vlan_anti_spoof"),
    ("ConnectX OFED", "strip_stag", "rtnl"): _OFED_SERVICE,
}
"""(column, attribute, surface) → test: a model of the vendor's interface took it and showed it."""
