"""Single values: addresses, names, and the fields that a policy has."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from vfd.policy.addresses import canonical_device, canonical_mac, checked_netdev, is_pci_address
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy, VfRules, reserving


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("0000:07:00.1", "0000:07:00.1"),
        ("07:00.1", "0000:07:00.1"),
        ("00000000:07:00.1", "0000:07:00.1"),
        ("00010000:07:00.1", "10000:07:00.1"),
        (" 0000:0A:1F.7 ", "0000:0a:1f.7"),
        ("10000:e1:00.0", "10000:e1:00.0"),
        ("ens1f0", "ens1f0"),
        ("ENS1F0", "ENS1F0"),
        ("a" * 15, "a" * 15),
        ("vlan0.5", "vlan0.5"),
    ],
)
def test_a_pf_is_a_pci_address_or_a_netdev(written: str, canonical: str) -> None:
    assert canonical_device(written) == canonical
    assert is_pci_address(canonical) is (":" in canonical)


@pytest.mark.parametrize(
    "wrong",
    ["", ".", "..", "0000:07:20.0", "0000:07:00.8", "0:07:00.1", "a" * 16, "a/b", "a b", "a:b",
     "ä", "a\0", "a\nb", "eth0\t1", "s%d", "%", "100%"],
)  # fmt: skip
def test_what_is_neither_pci_address_nor_netdev_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="neither a PCI address"):
        canonical_device(wrong)


@pytest.mark.parametrize("wrong", ["0000:07:00.1", "s%d", "eth%d"])
def test_what_the_kernel_calls_no_netdev_is_no_netdev(wrong: str) -> None:
    with pytest.raises(ValueError, match="not the name of a netdev"):
        checked_netdev(wrong)


@pytest.mark.parametrize("mac", ["02:00:00:00:00:0a", "02-00-00-00-00-0A", " 02:00:00:00:00:0A"])
def test_a_mac_has_one_canonical_spelling(mac: str) -> None:
    assert canonical_mac(mac) == "02:00:00:00:00:0a"


@pytest.mark.parametrize(
    "mac", ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "0200.0000.000a", "0g:00:00:00:00:00"]
)
def test_what_is_no_mac_is_refused(mac: str) -> None:
    with pytest.raises(ValueError, match="not a MAC"):
        canonical_mac(mac)


BASE = {"name": "vm1", "pciid": "soft0", "vfid": 0}


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("vlans", [0]), ("vlans", [4095]), ("vlans", [True]), ("vlans", ["20-10"]),
        ("vlans", ["0-5"]), ("vlans", ["4094-4095"]), ("vlans", "10"), ("vlans", ["x"]),
        ("vm_mac", "01:00:5e:00:00:01"), ("vm_mac", "ff:ff:ff:ff:ff:ff"),
        ("macs", ["00:00:00:00:00:00"]), ("vfid", -1), ("vfid", 256), ("vfid", "1"),
        ("mtu", 67), ("mtu", 9711), ("pcp", -1), ("pcp", 8), ("pcp", "3"), ("pcp", True),
        ("storm_limit", -1), ("storm_limit", 2**32),
        ("link_status", "up"), ("guest_macs", True), ("trust", 1), ("mirror", [{"target": -1}]),
        ("queues", [{"priority": 8, "share": 1}]), ("queues", [{"priority": 0, "share": 101}]),
        ("queues", [{"priority": 0, "share": True}]), ("start_cb", " "), ("start_cb", "'"),
        ("none", 1),
    ],
)  # fmt: skip
def test_a_value_out_of_its_range_is_no_policy(field: str, wrong: Any) -> None:
    with pytest.raises(ValidationError):
        VfPolicy.model_validate({**BASE, field: wrong})


def test_the_defaults_let_a_guest_do_no_more_than_it_must() -> None:
    rules = VfRules()
    assert rules.mac_anti_spoof
    assert rules.vlan_anti_spoof
    assert (rules.trust, rules.allow_untagged, rules.allow_un_ucast) == (False, False, False)
    assert (rules.vlans, rules.macs, rules.mirror) == ((), (), ())


@pytest.mark.parametrize(
    ("stated", "means"),
    [
        ({}, "any"),
        ({"vm_mac": "02:00:00:00:00:01"}, "listed"),
        ({"macs": ["02:00:00:00:00:01"]}, "listed"),
        ({"macs": []}, "any"),
        ({"vm_mac": "02:00:00:00:00:01", "guest_macs": "any"}, "any"),
        ({"guest_macs": "none"}, "none"),
    ],
)
def test_guest_macs_follow_from_the_macs_that_are_stated(stated: Any, means: str) -> None:
    policy = VfPolicy.model_validate({**BASE, **stated})
    assert policy.guest_macs == policy.rules.guest_macs == means
    assert ("guest_macs" in policy.model_fields_set) == ("guest_macs" in stated)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("00:00:5e:00:01:00/40", "00:00:5e:00:01:00/40"),
        (" 00-00-5E-00-01-FF/040 ", "00:00:5e:00:01:00/40"),
        ("02:ff:ff:ff:ff:ff/7", "02:00:00:00:00:00/7"),
        ("02:00:00:00:00:0A", "02:00:00:00:00:0a"),
        ("02:00:00:00:00:0a/48", "02:00:00:00:00:0a"),
    ],
)
def test_reserved_macs_have_one_spelling(written: str, meant: str) -> None:
    assert PfPolicy(id="soft0", reserved_macs=(written,)).reserved_macs == (meant,)


@pytest.mark.parametrize(
    "wrong",
    ["", "/40", "02:00:00:00:00:00/0", "02:00:00:00:00:00/49", "02:00:00:00:00:00/", "02:00/16",
     "02:00:00:00:00:00/4x", "02:00:00:00:00:00/00048", "02:00:00:00:00:00/-1", 5],
)  # fmt: skip
def test_what_is_no_prefix_of_macs_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        PfPolicy.model_validate({"id": "soft0", "reserved_macs": [wrong]})


@pytest.mark.parametrize(
    ("mac", "entry"),
    [
        ("00:00:5e:00:01:ff", "00:00:5e:00:01:00/40"), ("00:00:5e:00:00:ff", None),
        ("00:00:5e:00:02:00", None), ("02:00:00:00:00:01", "02:00:00:00:00:01"),
        ("02:00:00:00:00:02", None), ("0a:00:00:00:00:01", "08:00:00:00:00:00/5"),
        ("10:00:00:00:00:01", None),
    ],
)  # fmt: skip
def test_a_mac_is_reserved_by_the_entry_that_it_begins_with(mac: str, entry: str | None) -> None:
    entries = ("00:00:5e:00:01:00/40", "02:00:00:00:00:01", "08:00:00:00:00:00/5")
    assert reserving(PfPolicy(id="soft0", reserved_macs=entries), mac) == entry


def test_the_rules_of_a_vf_are_its_policy_without_its_identity() -> None:
    policy = VfPolicy.model_validate({**BASE, "vlans": [5], "rate": 0.5})
    assert policy.rules == VfRules.model_validate({"vlans": [5], "rate": 0.5})
    assert not set(policy.rules.model_dump()) & {"name", "pciid", "vfid", "start_cb", "stop_cb"}


@pytest.mark.parametrize(
    ("vlans", "shown"),
    [
        (["1-4094"], ["1-4094"]),
        ([10, 11], [10, 11]),
        ([10, 11, 12, 20], ["10-12", 20]),
        ([20, "1-3", 4, 9], [20, "1-4", 9]),
        ([3, 2, 1], [3, 2, 1]),
        ([], []),
    ],
)
def test_runs_of_vlans_are_ranges_in_json_and_mean_the_same(
    vlans: list[int | str], shown: list[int | str]
) -> None:
    rules = VfRules.model_validate({"vlans": vlans, "mirror": {"target": 1, "vlans": vlans}})
    dumped = rules.model_dump(mode="json")
    assert dumped["vlans"] == dumped["mirror"][0]["vlans"] == shown
    assert VfRules.model_validate(dumped) == rules


def test_a_policy_is_the_same_after_json() -> None:
    pf = PfPolicy.model_validate(
        {"id": "soft0", "bw_grps": {"a": [0]}, "tpid": "0x88a8", "link_speed": "10Gbps"}
    )
    vf = VfPolicy.model_validate(
        {**BASE, "vlans": ["5-7"], "mirror": {"target": 1}, "rate": "1Gbps"}
    )
    nic = NicPolicy(pf=pf, vfs=(vf,))
    assert NicPolicy.model_validate_json(nic.model_dump_json()) == nic
