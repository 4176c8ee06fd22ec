"""The rules between fields, between VFs, and with the PF: docs/semantics.md."""

from __future__ import annotations

import time
from typing import Any

import pytest

from vfd.policy.remarks import remarks
from vfd.policy.rules import Broken, check, check_names, check_pf
from vfd.policy.values import Limits, NicPolicy, PfPolicy, VfPolicy

LINK = 10**10


def vf(vfid: int = 0, **fields: Any) -> VfPolicy:
    rules = {"vlans": [100], "guest_macs": "listed", **fields}
    return VfPolicy.model_validate({"name": f"vm{vfid}", "pciid": "soft0", "vfid": vfid, **rules})


def nic(*vfs: VfPolicy, **pf: Any) -> NicPolicy:
    policy = PfPolicy.model_validate({"id": "soft0", "backend": "soft", "vfs": 8, **pf})
    return NicPolicy(pf=policy, vfs=vfs)


def broken(*vfs: VfPolicy, **pf: Any) -> list[tuple[str, str, str | None]]:
    return [(one.vf, one.field, one.other_vf) for one in check(nic(*vfs, **pf), link_bps=LINK)]


def only(*vfs: VfPolicy, **pf: Any) -> Broken:
    (one,) = check(nic(*vfs, **pf), link_bps=LINK)
    return one


def test_good_policies_break_no_rule() -> None:
    assert broken() == []
    assert broken(
        vf(0, strip_stag=True, vm_mac="02:00:00:00:00:01", macs=["02:00:00:00:00:01"]),
        vf(1, vlans=[], allow_untagged=True, mirror={"target": 0}),
        vf(2, vlans=["1-64"], rate="2Gbps", min_rate="2Gbps", queues=[{"priority": 3, "share": 1}]),
    ) == []  # fmt: skip


def test_vlans_are_required_unless_untagged_frames_pass() -> None:
    assert only(vf(vlans=[])).field == "vlans"
    assert broken(vf(vlans=[], allow_untagged=True)) == []


@pytest.mark.parametrize("strip", ["strip_ctag", "strip_stag"])
def test_access_needs_the_vlan_that_it_inserts(strip: str) -> None:
    one = only(vf(vlans=[], allow_untagged=True, **{strip: True}))
    assert one.field == "vlans"
    assert strip in one.rule


def test_the_two_kinds_of_access_exclude_each_other() -> None:
    assert only(vf(strip_ctag=True, strip_stag=True)).field == "strip_ctag"


def test_nothing_is_listed_twice() -> None:
    assert only(vf(vlans=[5, "4-6"])).value == (5,)
    assert only(vf(macs=["02:00:00:00:00:0a", "02-00-00-00-00-0A"])).field == "macs"
    shares = [{"priority": 1, "share": 5}] * 2
    assert only(vf(queues=shares)).field == "queues"
    assert only(vf(mirror={"target": 1, "vlans": [100, 100]})).field == "mirror[0].vlans"


def test_lists_fit_the_nic() -> None:
    macs = [f"02:00:00:00:00:{n:02x}" for n in range(65)]
    assert broken(vf(vlans=["1-4094"], macs=macs[:64])) == []
    assert broken(vf(vlans=["1-4094"], macs=macs)) == [("vm0", "macs", None)]
    small = Limits(max_vfs=4, max_vlans=1, max_macs=1)
    found = check(nic(vf(vlans=[1, 2], macs=macs[:2])), limits=small)
    assert {one.field for one in found} == {"vfs", "vlans", "macs"}


def test_mirrors_fit_the_nic() -> None:
    room = Limits(max_mirrors=2)
    two = [{"target": 1, "direction": "in"}, {"target": 1, "direction": "out"}, {"target": 2}]
    assert check(nic(vf(mirror=two)), limits=room) == ()
    assert check(nic(vf(mirror=[{"target": n} for n in (1, 2, 3)]))) == ()
    ways = [{"target": 1, "direction": "in", "vlans": [5]}, {"target": 1, "direction": "out"}]
    for many in ([{"target": n} for n in (1, 2, 3)], [*ways, {"target": 2}]):
        (one,) = check(nic(vf(mirror=many)), limits=room)
        assert (one.vf, one.field, one.value) == ("vm0", "mirror", "3 targets")
        assert "at most 2" in one.rule


@pytest.mark.parametrize(
    ("guarantee", "limit", "bad"),
    [
        (0.5, 0.4, True), (0.4, 0.5, False), ("2Gbps", "1Gbps", True), ("2Gbps", 0.1, True),
        (0.3, "2Gbps", True), (0.2, "2Gbps", False), (0.9, 0, False), (0, 0.1, False),
    ],
)  # fmt: skip
def test_a_guarantee_is_not_above_the_vfs_limit(guarantee: Any, limit: Any, bad: bool) -> None:
    fields = [path for _, path, _ in broken(vf(min_rate=guarantee, rate=limit))]
    assert fields == (["min_rate"] if bad else [])


@pytest.mark.parametrize("field", ["rate", "max_rx_rate"])
def test_a_limit_that_would_hold_a_frame_for_seconds_is_refused(field: str) -> None:
    for wrong in ("1bps", "7bps", "7.999kbps"):
        one = only(vf(0, **{field: wrong}))
        assert (one.field, one.value) == (field, wrong)
        assert "8kbps" in one.rule
    assert broken(vf(0, **{field: "8kbps"})) == []
    assert broken(vf(0, **{field: 0}), vf(1, min_rate="1bps")) == []
    assert told(vf(0, **{field: 1e-9})) == {("vm0", field)}


def test_a_vf_is_no_mirror_of_itself() -> None:
    assert only(vf(3, mirror={"target": 3})).field == "mirror[0].target"


def test_a_mirrors_target_exists_on_the_pf() -> None:
    assert broken(vf(mirror={"target": 7})) == []
    one = only(vf(mirror=[{"target": 7}, {"target": 8}]))
    assert (one.field, one.value) == ("mirror[1].target", 8)


def test_a_frame_is_copied_to_a_target_once() -> None:
    def mirrors(*entries: dict[str, Any]) -> list[str]:
        return [path for _, path, _ in broken(vf(mirror=list(entries)))]

    assert mirrors({"target": 1}, {"target": 1}) == ["mirror"]
    assert mirrors({"target": 1}, {"target": 1, "direction": "in", "vlans": [5]}) == ["mirror"]
    assert mirrors({"target": 1, "direction": "in"}, {"target": 1, "direction": "out"}) == []
    assert mirrors({"target": 1, "vlans": [5]}, {"target": 1, "vlans": [6]}) == []
    assert mirrors({"target": 1, "vlans": [5, 6]}, {"target": 1, "vlans": [6]}) == ["mirror"]
    assert mirrors({"target": 1}, {"target": 2}) == []


def test_a_vfid_is_below_the_number_of_vfs() -> None:
    assert only(vf(8)).field == "vfid"
    assert "0 … 7" in only(vf(8)).rule
    assert "no VFs" in only(vf(0), vfs=0).rule
    found = check(nic(vf(8), vfs=None, backend="kernel"), limits=Limits(max_vfs=7))
    assert [one.field for one in found] == ["vfid"]


def test_a_vfid_a_name_and_a_mac_have_one_vf() -> None:
    assert broken(vf(1), vf(1, name="other")) == [("other", "vfid", "vm1")]
    assert broken(vf(1), vf(2, name="vm1")) == [("vm1", "name", "vm1")]
    assert broken(vf(1, vm_mac="02:00:00:00:00:01"), vf(2, vm_mac="02:00:00:00:00:01")) == [
        ("vm2", "vm_mac", "vm1")
    ]
    assert broken(
        vf(1, macs=["02:00:00:00:00:01", "02:00:00:00:00:02"]),
        vf(2, vm_mac="02:00:00:00:00:02"),
        vf(3, macs=["02:00:00:00:00:03", "02:00:00:00:00:02"]),
    ) == [("vm2", "vm_mac", "vm1"), ("vm3", "macs[1]", "vm1")]


def test_a_mac_of_two_vfs_is_told_with_both_and_the_field_that_has_it() -> None:
    taken = "02:00:00:00:00:02"
    one = only(vf(1, macs=["02:00:00:00:00:01", taken]), vf(2, vm_mac=taken))
    assert (one.vf, one.field, one.value, one.other_vf) == ("vm2", "vm_mac", taken, "vm1")
    assert "vm1" in one.rule
    assert "macs[1]" in one.rule


RESERVED = {"reserved_macs": ["00:00:5e:00:01:00/40", "02:00:00:00:00:01"]}


def test_a_reserved_mac_is_in_no_vfs_file_and_the_entry_is_named() -> None:
    found = check(
        nic(vf(1, macs=["02:00:00:00:00:02", "00:00:5e:00:01:7f"]),
            vf(2, vm_mac="02:00:00:00:00:01"), **RESERVED)
    )  # fmt: skip
    assert [(one.vf, one.field, one.value) for one in found] == [
        ("vm1", "macs[1]", "00:00:5e:00:01:7f"),
        ("vm2", "vm_mac", "02:00:00:00:00:01"),
    ]
    assert "00:00:5e:00:01:00/40" in found[0].rule
    assert "02:00:00:00:00:01" in found[1].rule
    assert broken(vf(1, vm_mac="00:00:5e:00:02:01"), **RESERVED) == []


def test_a_trusted_vfs_file_may_state_a_reserved_mac() -> None:
    assert broken(vf(1, macs=["00:00:5e:00:01:01"], trust=True), **RESERVED) == []


def test_reserved_macs_are_listed_once_and_are_no_more_than_a_request_is_held_against() -> None:
    assert broken(reserved_macs=["00:00:5e:00:01:00/40", "00-00-5E-00-01-FF/40"]) == [
        ("", "reserved_macs", None)
    ]
    many = [f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}" for n in range(257)]
    assert broken(reserved_macs=many[:256]) == []
    assert broken(reserved_macs=many) == [("", "reserved_macs", None)]


def test_reserving_what_no_vf_can_own_is_remarked() -> None:
    entries = ["01:00:5e:00:00:00/24", "00:00:5e:00:01:00/40", "01:00:00:00:00:00/7"]
    assert told(reserved_macs=entries) == {("", "reserved_macs[0]")}


def test_names_are_unique_over_the_pfs_of_a_host() -> None:
    (one,) = check_names([vf(1), vf(2), vf(1, pciid="soft1")])
    assert (one.vf, one.other_vf) == ("vm1", "vm1")
    assert "VF 1 of soft0" in one.rule


def test_a_vfs_mtu_is_not_above_the_pfs() -> None:
    assert broken(vf(mtu=1500)) == []
    assert only(vf(mtu=1501)).field == "mtu"


def test_guarantees_fit_the_link_unless_oversubscribed() -> None:
    first, second = vf(1, min_rate=0.6), vf(2, min_rate="4.1Gbps")
    one = only(first, second)
    assert (one.vf, one.field, one.other_vf) == ("vm2", "min_rate", "vm1")
    assert "1.01 times the link of 10Gbps" in one.rule
    assert only(second, first).vf == "vm1"
    assert broken(first, second, vf_oversubscription=True) == []
    assert broken(first, vf(2, min_rate=0.4)) == []
    assert broken(*[vf(n, min_rate=0.1) for n in range(10)], vfs=10) == []


def test_while_the_link_is_unknown_only_shares_are_added_up() -> None:
    assert not check(nic(vf(1, min_rate="40Gbps")))
    assert [one.vf for one in check(nic(vf(1, min_rate=0.6), vf(2, min_rate=0.6)))] == ["vm2"]


def share(vfid: int, percent: Any, priority: int = 1) -> VfPolicy:
    return vf(vfid, queues=[{"priority": priority, "share": percent}])


def test_shares_of_a_class_fit_the_class_unless_oversubscribed() -> None:
    assert broken(share(1, "50%"), share(2, 50), share(3, 90, priority=2)) == []
    assert broken(share(1, 50), share(2, 50.5)) == [("vm2", "queues[0].share", "vm1")]
    assert broken(share(1, 50), share(2, 51), vf_oversubscription=True) == []
    assert broken(*[share(n, 100 / 7) for n in range(7)]) == []


def test_the_spread_of_a_class_is_at_most_ten() -> None:
    assert broken(share(1, 50), share(2, 5)) == []
    assert broken(share(1, 50), share(2, 4.9)) == [("vm2", "queues[0].share", "vm1")]
    assert broken(share(1, 4), share(2, 50)) == [("vm2", "queues[0].share", "vm1")]
    assert broken(share(1, 0.3), share(2, 3)) == []
    assert broken(share(1, 50), share(2, 1, priority=2), share(3, 0)) == []


def test_a_share_is_of_a_class_that_the_pf_has() -> None:
    assert only(share(1, 10, priority=4)).field == "queues[0].priority"
    eight = [{"pri": n} for n in range(8)]
    assert broken(share(1, 10, priority=7), tclasses=eight) == []


def pf_broken(**fields: Any) -> list[str]:
    return [one.field for one in check_pf(nic(**fields).pf)]


def test_traffic_classes_are_each_there_once_and_fit_the_link() -> None:
    assert pf_broken(tclasses=[{"pri": n, "min_bw": 25} for n in range(4)]) == []
    assert pf_broken(tclasses=[{"pri": n} for n in (0, 1, 2, 2)]) == ["tclasses"]
    assert pf_broken(tclasses=[{"pri": n} for n in (0, 1, 2, 4)]) == ["tclasses[3].pri"]
    for one_too_many in ((26, 25, 25, 25), (25, 25, 25, 26), (101 - 3, 1, 1, 1), (100, 1, 0, 0)):
        classes = [{"pri": n, "min_bw": bw} for n, bw in enumerate(one_too_many)]
        assert pf_broken(tclasses=classes) == ["tclasses"], one_too_many
    low = [{"pri": 0, "min_bw": 20, "max_bw": 19}, {"pri": 1}, {"pri": 2}, {"pri": 3}]
    assert pf_broken(tclasses=low) == ["tclasses[0].max_bw"]


GUARANTEED = [{"pri": n, "min_bw": bw} for n, bw in enumerate((20, 20, 20, 40))]


def test_a_guarantee_fits_each_class_beside_what_the_others_are_guaranteed() -> None:
    assert broken(vf(0, min_rate="20%"), vf(1), enable_qos=True, tclasses=GUARANTEED) == []
    half = vf(1, min_rate="50%")
    assert broken(vf(0), half, enable_qos=True, tclasses=GUARANTEED) == [("vm1", "min_rate", None)]
    assert "in each class" in only(half, enable_qos=True, tclasses=GUARANTEED).rule
    assert broken(half, tclasses=GUARANTEED) == [], "without enable_qos there are no classes"
    assert broken(half, enable_qos=True, tclasses=GUARANTEED, vf_oversubscription=True) == []


def test_guarantees_of_vfs_that_share_no_class_may_come_to_the_whole_link() -> None:
    def of_class(vfid: int, own: int, **fields: Any) -> VfPolicy:
        others = [{"priority": tc, "share": 0} for tc in range(4) if tc != own]
        return vf(vfid, queues=others, **fields)

    least: dict[str, Any] = {
        "enable_qos": True,
        "tclasses": [{"pri": n, "min_bw": 1} for n in range(4)],
    }
    vfs = [of_class(n, n, min_rate="25%") for n in range(4)]
    assert broken(*vfs, **least) == []
    assert broken(vf(0, min_rate="26%"), **least) == [("vm0", "min_rate", None)]
    assert broken(of_class(0, 0, min_rate="97%"), **least) == []
    both = of_class(0, 0, min_rate="60%"), of_class(1, 0, min_rate="38%")
    assert broken(*both, **least) == [("vm1", "min_rate", "vm0")]


def test_where_classes_state_no_bandwidth_guarantees_may_come_to_the_whole_link() -> None:
    for classes in ([], [{"pri": n, "lsp": n == 3, "bsp": n == 2} for n in range(4)]):
        pf = {"enable_qos": True, "tclasses": classes, "bw_grps": {"a": [1, 2]}}
        assert broken(vf(0, min_rate="60%"), vf(1, min_rate="40%"), **pf) == []
        both = vf(0, min_rate="60%"), vf(1, min_rate="41%")
        assert broken(*both, **pf) == [("vm1", "min_rate", "vm0")]


def test_a_class_needs_no_more_than_its_max_bw_for_guarantees() -> None:
    capped = [{"pri": n, "max_bw": 10 if n else 100} for n in range(4)]
    assert broken(vf(0, min_rate="70%"), enable_qos=True, tclasses=capped) == []
    assert broken(vf(0, min_rate="71%"), enable_qos=True, tclasses=capped) != []
    (remark,) = remarks(nic(vf(0, min_rate="70%"), enable_qos=True, tclasses=capped), link_bps=LINK)
    assert (remark.vf, remark.field) == ("vm0", "min_rate")
    assert "classes 1, 2, 3" in remark.rule


def test_a_guarantee_is_remarked_that_its_vf_has_not_in_every_class() -> None:
    whole, none = share(1, 100, priority=0), vf(2, min_rate="10%")
    assert remarks(nic(whole, none, enable_qos=True), link_bps=LINK) == ()
    classes = [{"pri": n, "min_bw": 1} for n in range(4)]
    (remark,) = remarks(nic(whole, none, enable_qos=True, tclasses=classes), link_bps=LINK)
    assert (remark.vf, remark.field) == ("vm2", "min_rate")
    assert "class 0" in remark.rule


def test_guarantees_that_classes_no_longer_leave_room_for_are_scaled_with_a_remark() -> None:
    was = vf(1, min_rate="50%")
    policy = nic(was, enable_qos=True, tclasses=GUARANTEED)
    assert check(policy, link_bps=LINK, in_force=[was]) == ()
    (remark,) = remarks(policy, link_bps=LINK)
    assert (remark.vf, remark.field) == ("", "min_rate")
    assert "scaled by 0.4" in remark.rule


def test_a_guarantee_above_its_limit_since_the_link_became_slower_may_stay_but_not_grow() -> None:
    """Half of a link of 10 Gbit/s is less than 6 Gbit/s, half of the 20 before it was not."""
    was = vf(rate="50%", min_rate="6Gbps")
    assert check(nic(was), link_bps=2 * LINK) == ()
    assert check(nic(was), link_bps=LINK, in_force=[was]) == ()
    smaller = vf(rate="50%", min_rate="5.5Gbps")
    assert check(nic(smaller), link_bps=LINK, in_force=[was]) == ()
    for worse in (vf(rate="50%", min_rate="6.5Gbps"), vf(rate="40%", min_rate="6Gbps")):
        (found,) = check(nic(worse), link_bps=LINK, in_force=[was])
        assert found.field == "min_rate"
    assert check(nic(was), link_bps=LINK) != ()


def test_a_class_is_in_one_group_at_most_and_exists() -> None:
    assert pf_broken(bw_grps={"a": [0], "b": [1, 2]}) == []
    assert pf_broken(bw_grps={"a": [0], "b": [1, 0]}) == ["bw_grps.b"]
    assert pf_broken(bw_grps={"a": [4]}) == ["bw_grps.a"]
    assert pf_broken(bw_grps={"a": [0, 0], "b": []}) == ["bw_grps.a", "bw_grps.b"]


def test_a_software_nic_says_its_vfs_and_its_ports_have_names_that_the_kernel_takes() -> None:
    assert pf_broken(vfs=None) == ["vfs"]
    assert pf_broken(id="0000:07:00.0") == ["id"]
    assert pf_broken(id="elevenchars", vfs=256) == []
    assert pf_broken(id="twelve-chars", vfs=256) == ["id"]
    assert pf_broken(id="twelve-chars", vfs=100) == []
    # taps' NICs have longer names beside those of their VFs
    assert pf_broken(id="thirteenchars", vfs=10) == []
    assert pf_broken(id="thirteenchars", vfs=10, guest="tap") == ["id"]
    assert pf_broken(uplink="soft0") == ["uplink"]
    for own in ("v3", "v255", "shaper0"):
        assert pf_broken(uplink=own) == ["uplink"], "in the NIC's namespace that name is taken"
        assert pf_broken(uplink=own, guest="tap") == []
    assert pf_broken(uplink="soft0-s1", guest="tap") == ["uplink"]
    assert pf_broken(uplink="soft0v3") == ["uplink"]
    assert pf_broken(uplink="soft0vx") == []
    assert pf_broken(link_speed=0) == ["link_speed"]


def test_every_broken_rule_is_told_at_once() -> None:
    bad = vf(9, vlans=[], mtu=9000, mirror={"target": 9}, strip_ctag=True, strip_stag=True)
    fields = [path for _, path, _ in broken(bad, vf(9, name="vm9"), bw_grps={"a": [9 - 2]})]
    assert fields == [
        "bw_grps.a", "strip_ctag", "vlans", "mirror[0].target", "vfid", "mtu",
        "mirror[0].target", "vfid", "name", "vfid",
    ]  # fmt: skip


def told(*vfs: VfPolicy, **pf: Any) -> set[tuple[str, str]]:
    return {(one.vf, one.field) for one in remarks(nic(*vfs, **pf), link_bps=LINK)}


def test_a_plain_configuration_is_passed_without_a_remark() -> None:
    assert told(vf(1), vf(2, strip_stag=True, mirror={"target": 1, "vlans": [100]})) == set()


def test_what_is_unsafe_or_has_no_effect_is_remarked_and_not_refused() -> None:
    assert told(vf(1, mac_anti_spoof=False)) == {("vm1", "mac_anti_spoof")}
    assert told(vf(1, vlan_anti_spoof=False)) == {("vm1", "vlan_anti_spoof")}
    mac = "02:00:00:00:00:01"
    assert told(vf(1, vm_mac=mac, macs=[mac])) == {("vm1", "macs")}
    assert told(vf(1, strip_stag=True, vlans=[1, 2])) == {("vm1", "strip_stag")}
    assert told(vf(1, mirror={"target": 2})) == {("vm1", "mirror[0].target")}
    assert told(vf(1, mirror={"target": 0, "vlans": [5]}), vf(0)) == {("vm1", "mirror[0].vlans")}
    assert told(vf(1, rate="11Gbps", max_rx_rate="10Gbps")) == {("vm1", "rate")}
    assert told(share(1, 10)) == {("vm1", "queues")}
    assert told(share(1, 10), enable_qos=True) == set()
    classes = [{"pri": n, "latency": n == 3} for n in range(4)]
    assert told(tclasses=classes) == {("", "tclasses"), ("", "tclasses[3].latency")}


def test_a_guest_that_may_claim_any_mac_is_remarked_stated_or_not() -> None:
    assert told(VfPolicy(name="vm1", pciid="soft0", vfid=1, vlans=(100,))) == {
        ("vm1", "guest_macs")
    }
    assert told(vf(1, guest_macs="any", vm_mac="02:00:00:00:00:01")) == {("vm1", "guest_macs")}
    (remark,) = remarks(nic(vf(1, guest_macs="any")))
    assert "gateway" in remark.rule


def test_a_link_that_is_slower_than_any_is_remarked() -> None:
    assert told(link_speed=10_000) == {("", "link_speed")}
    assert told(link_speed="10Mbps") == set()


@pytest.mark.measured
def test_checking_grows_with_the_number_of_vfs_and_not_with_its_square() -> None:
    def seconds(count: int) -> float:
        vfs = tuple(
            vf(n, macs=[f"02:00:00:00:{m:02x}:{n:02x}" for m in range(8)], mirror={"target": 0},
               min_rate=0.001, queues=[{"priority": 1, "share": 0.3}])
            for n in range(1, count + 1)
        )  # fmt: skip
        policy = nic(*vfs, vfs=256)
        best = 9.0
        for _ in range(5):
            start = time.process_time()
            assert check(policy, link_bps=LINK) == ()
            best = min(best, time.process_time() - start)
        return best

    # 8 times the VFs: about 8 times as long; a rule that compares all pairs takes 64 times.
    assert seconds(248) < 24 * seconds(31)
