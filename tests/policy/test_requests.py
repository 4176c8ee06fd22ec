"""What a guest may ask for: one test for each sentence of the table."""

from __future__ import annotations

from typing import Any

import pytest

from vfd.policy.requests import (
    Decision,
    Grants,
    Request,
    RequestKind,
    decide,
    granted,
    mtu_of,
    owners,
)
from vfd.policy.values import GuestMacs, Limits, NicPolicy, PfPolicy, VfPolicy

OWN = {n: f"02:00:00:00:00:{n:02x}" for n in range(4)}
"""VFs 0 and 1 are open, 2 and 3 closed."""
NEW = "02:00:00:00:aa:01"
FIRST, SECOND = "02:00:00:00:aa:02", "02:00:00:00:aa:03"
GROUP = "01:00:5e:00:00:fb"
KIND = RequestKind


def vf(vfid: int = 0, **fields: Any) -> VfPolicy:
    return VfPolicy(name=f"tenant{vfid}", pciid="soft0", vfid=vfid, **{"vlans": (100,), **fields})


def nic(*vfs: VfPolicy, **pf: Any) -> NicPolicy:
    others = [] if any(one.vfid == 1 for one in vfs) else [vf(1)]
    return NicPolicy(pf=PfPolicy(id="soft0", **pf), vfs=(*vfs, *others))


def ask(
    policy: NicPolicy,
    request: Request,
    grants: dict[int, Grants] | None = None,
    limits: Limits | None = None,
) -> Decision:
    return decide(policy, grants or {}, request, limits=limits or Limits(), own_macs=OWN)


ANYTHING = [
    Request(2, KIND.DEFAULT_MAC, mac=NEW),
    Request(2, KIND.ADD_MAC, mac=NEW),
    Request(2, KIND.REMOVE_MAC, mac=NEW),
    Request(2, KIND.VLAN, vid=100),
    Request(2, KIND.JOIN_GROUP, mac=GROUP),
    Request(2, KIND.LEAVE_GROUP, mac=GROUP),
    Request(2, KIND.MTU, mtu=1500),
    Request(2, KIND.PROMISC, on=False),
    Request(2, KIND.ALLMULTI, on=False),
]


@pytest.mark.parametrize("request_", ANYTHING, ids=lambda request: request.kind)
def test_a_closed_vf_is_refused_everything(request_: Request) -> None:
    decision = ask(nic(vf()), request_)
    assert not decision.granted
    assert "VF 2" in decision.reason
    assert "closed" in decision.reason


def test_the_closed_vfs_list_names_every_kind_of_request() -> None:
    assert {request.kind for request in ANYTHING} == set(RequestKind)


# -- Default MAC


def test_a_default_mac_is_granted_if_vm_mac_is_unset() -> None:
    assert ask(nic(vf()), Request(0, KIND.DEFAULT_MAC, mac=NEW)).granted


def test_a_default_mac_is_granted_if_it_equals_vm_mac() -> None:
    assert ask(nic(vf(vm_mac=NEW)), Request(0, KIND.DEFAULT_MAC, mac=NEW.upper())).granted


def test_a_default_mac_other_than_vm_mac_is_refused() -> None:
    decision = ask(nic(vf(vm_mac=NEW)), Request(0, KIND.DEFAULT_MAC, mac="02:00:00:00:aa:02"))
    assert not decision.granted
    assert f"(vm_mac, or the first of macs) forces {NEW}" in decision.reason


MAC_REQUESTS = pytest.mark.parametrize("kind", [KIND.DEFAULT_MAC, KIND.ADD_MAC])


@MAC_REQUESTS
@pytest.mark.parametrize("mac", [GROUP, "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"])
def test_a_mac_that_is_not_unicast_is_refused(kind: RequestKind, mac: str) -> None:
    decision = ask(nic(vf()), Request(0, kind, mac=mac))
    assert not decision.granted
    assert "unicast" in decision.reason


@pytest.mark.parametrize("mac", [None, "", "02:00:00", "zz:00:00:00:00:00"])
@pytest.mark.parametrize(
    "kind", [KIND.DEFAULT_MAC, KIND.ADD_MAC, KIND.REMOVE_MAC, KIND.JOIN_GROUP, KIND.LEAVE_GROUP]
)
def test_what_is_no_mac_is_refused(kind: RequestKind, mac: str | None) -> None:
    decision = ask(nic(vf()), Request(0, kind, mac=mac))
    assert not decision.granted
    assert "not a MAC address" in decision.reason


@MAC_REQUESTS
@pytest.mark.parametrize(
    ("other", "grants"),
    [
        (vf(1, vm_mac=NEW), Grants()),
        (vf(1, macs=(NEW,)), Grants()),
        (vf(1), Grants(default_mac=NEW)),
        (vf(1), Grants(macs=frozenset({NEW}))),
    ],
    ids=["forced", "listed", "granted as default", "granted as further"],
)
def test_a_mac_of_another_vf_is_refused_and_the_vf_is_named(
    kind: RequestKind, other: VfPolicy, grants: Grants
) -> None:
    decision = ask(nic(vf(), other), Request(0, kind, mac=NEW), {1: grants})
    assert not decision.granted
    assert "VF 1 (tenant1)" in decision.reason


@MAC_REQUESTS
def test_the_nics_own_mac_of_another_vf_is_refused(kind: RequestKind) -> None:
    assert "VF 1 (tenant1)" in ask(nic(vf()), Request(0, kind, mac=OWN[1])).reason
    assert "VF 3, which is closed" in ask(nic(vf()), Request(0, kind, mac=OWN[3])).reason


@MAC_REQUESTS
def test_the_own_mac_that_another_vf_replaced_is_free(kind: RequestKind) -> None:
    assert ask(nic(vf(), vf(1, vm_mac=NEW)), Request(0, kind, mac=OWN[1])).granted


# -- Further MACs


def test_a_further_mac_is_granted_if_guest_macs_is_any() -> None:
    assert ask(nic(vf(guest_macs="any")), Request(0, KIND.ADD_MAC, mac=NEW)).granted


def test_a_further_mac_is_granted_if_guest_macs_is_listed_and_it_is() -> None:
    policy = nic(vf(guest_macs="listed", macs=(NEW,)))
    assert ask(policy, Request(0, KIND.ADD_MAC, mac=NEW)).granted
    refused = ask(policy, Request(0, KIND.ADD_MAC, mac="02:00:00:00:aa:02"))
    assert not refused.granted
    assert "guest_macs" in refused.reason


def test_a_further_mac_is_refused_if_guest_macs_is_none() -> None:
    decision = ask(nic(vf(guest_macs="none")), Request(0, KIND.ADD_MAC, mac=NEW))
    assert not decision.granted
    assert "guest_macs" in decision.reason


@pytest.mark.parametrize("rules", [{"vm_mac": FIRST}, {"macs": (FIRST, SECOND)}], ids=str)
def test_without_guest_macs_a_guest_whose_macs_are_stated_is_granted_no_others(rules: Any) -> None:
    decision = ask(nic(vf(**rules)), Request(0, KIND.ADD_MAC, mac=NEW))
    assert not decision.granted
    assert "listed" in decision.reason
    assert ask(nic(vf()), Request(0, KIND.ADD_MAC, mac=NEW)).granted


# -- What is so already


@pytest.mark.parametrize("guest_macs", GuestMacs)
@pytest.mark.parametrize("mac", [FIRST, SECOND])
def test_a_mac_that_is_the_vfs_already_is_granted_as_a_further_one(
    guest_macs: GuestMacs, mac: str
) -> None:
    policy = nic(vf(guest_macs=guest_macs, macs=(FIRST, SECOND)))
    assert ask(policy, Request(0, KIND.ADD_MAC, mac=mac), limits=Limits(max_macs=1)).granted
    has = {0: Grants(macs=frozenset({NEW}))}
    assert ask(nic(vf(guest_macs=guest_macs)), Request(0, KIND.ADD_MAC, mac=NEW), has).granted


def test_a_listed_mac_as_the_default_is_refused_with_what_passes_all_the_same() -> None:
    refused = ask(nic(vf(macs=(FIRST, SECOND))), Request(0, KIND.DEFAULT_MAC, mac=SECOND))
    assert not refused.granted
    assert f"the first of macs) forces {FIRST}" in refused.reason
    assert "passes as a further one" in refused.reason
    assert "passes" not in ask(nic(vf(macs=(FIRST,))), Request(0, KIND.DEFAULT_MAC, mac=NEW)).reason


def test_a_group_that_the_guest_is_in_already_is_granted() -> None:
    has = {0: Grants(groups=frozenset({GROUP}))}
    assert ask(nic(vf(guest_groups=False)), Request(0, KIND.JOIN_GROUP, mac=GROUP), has).granted


def test_a_refusal_says_what_reaches_the_guest_all_the_same() -> None:
    join, filtered = Request(0, KIND.JOIN_GROUP, mac=GROUP), Request(0, KIND.VLAN, vid=100)
    least = vf(guest_groups=False, guest_vlans=False)
    assert "allow_mcast is true" in ask(nic(least), join).reason
    deaf = vf(guest_groups=False, allow_mcast=False)
    assert "allow_mcast" not in ask(nic(deaf), join).reason
    assert "VLAN 100 all the same" in ask(nic(least), filtered).reason


def test_a_filter_for_vid_0_is_granted_in_the_access_modes() -> None:
    for strip in ("strip_ctag", "strip_stag"):
        assert ask(nic(vf(**{strip: True})), Request(0, KIND.VLAN, vid=0)).granted


# -- Reserved MACs


@MAC_REQUESTS
@pytest.mark.parametrize("trust", [True, False])
def test_a_reserved_mac_is_granted_to_no_guest_and_the_entry_is_named(
    kind: RequestKind, trust: bool
) -> None:
    policy = nic(vf(trust=trust, guest_macs="any"), reserved_macs=("00:00:5e:00:01:00/40",))
    refused = ask(policy, Request(0, kind, mac="00:00:5e:00:01:0a"))
    assert not refused.granted
    assert "00:00:5e:00:01:00/40" in refused.reason
    assert ask(policy, Request(0, kind, mac="00:00:5e:00:02:0a")).granted


@MAC_REQUESTS
@pytest.mark.parametrize("rules", [{"vm_mac": NEW}, {"macs": (NEW,)}, {}], ids=str)
def test_a_reserved_mac_that_is_the_vfs_default_already_is_granted(
    kind: RequestKind, rules: Any
) -> None:
    mine = NEW if rules else OWN[0]
    policy = nic(vf(trust=True, **rules), reserved_macs=(mine,))
    assert ask(policy, Request(0, kind, mac=mine)).granted


@pytest.mark.parametrize("guest_macs", GuestMacs)
def test_the_default_mac_as_a_further_one_is_granted_always(guest_macs: GuestMacs) -> None:
    assert ask(nic(vf(guest_macs=guest_macs)), Request(0, KIND.ADD_MAC, mac=OWN[0])).granted


def test_further_macs_are_granted_up_to_the_nics_limit() -> None:
    listed = ("02:00:00:00:bb:01",)
    has = {0: Grants(macs=frozenset({"02:00:00:00:bb:02", FIRST}))}
    policy = nic(vf(vm_mac=FIRST, macs=listed, guest_macs="any"))
    request = Request(0, KIND.ADD_MAC, mac=NEW)
    assert ask(policy, request, has, Limits(max_macs=3)).granted
    refused = ask(policy, request, has, Limits(max_macs=2))
    assert not refused.granted
    assert "limit is 2" in refused.reason


def test_asking_again_at_the_limit_is_granted() -> None:
    has = {0: Grants(macs=frozenset({NEW}), groups=frozenset({GROUP}))}
    full = Limits(max_macs=1, max_groups=1)
    assert ask(nic(vf()), Request(0, KIND.ADD_MAC, mac=NEW), has, full).granted
    assert ask(nic(vf()), Request(0, KIND.JOIN_GROUP, mac=GROUP), has, full).granted


# -- VLAN filter


def test_a_vlan_filter_is_granted_if_its_vid_is_in_vlans() -> None:
    assert ask(nic(vf()), Request(0, KIND.VLAN, vid=100)).granted
    refused = ask(nic(vf(vlans=(100, 200))), Request(0, KIND.VLAN, vid=300))
    assert not refused.granted
    assert "300" in refused.reason
    assert "100, 200" in refused.reason


def test_a_vlan_filter_is_refused_without_guest_vlans() -> None:
    decision = ask(nic(vf(guest_vlans=False)), Request(0, KIND.VLAN, vid=100))
    assert not decision.granted
    assert "guest_vlans" in decision.reason


def test_a_filter_for_vid_0_is_granted_if_untagged_frames_pass() -> None:
    assert ask(nic(vf(allow_untagged=True)), Request(0, KIND.VLAN, vid=0)).granted
    assert not ask(nic(vf()), Request(0, KIND.VLAN, vid=0)).granted


@pytest.mark.parametrize("vid", [None, -1, 4095, 70000])
def test_a_filter_for_no_vlan_is_refused(vid: int | None) -> None:
    assert not ask(nic(vf()), Request(0, KIND.VLAN, vid=vid)).granted


# -- Multicast groups


def test_a_group_is_granted_if_guest_groups_allows_it() -> None:
    assert ask(nic(vf()), Request(0, KIND.JOIN_GROUP, mac=GROUP)).granted
    refused = ask(nic(vf(guest_groups=False)), Request(0, KIND.JOIN_GROUP, mac=GROUP))
    assert not refused.granted
    assert "guest_groups" in refused.reason


def test_groups_are_granted_up_to_the_nics_limit() -> None:
    has = {0: Grants(groups=frozenset({"33:33:00:00:00:01"}))}
    request = Request(0, KIND.JOIN_GROUP, mac=GROUP)
    assert ask(nic(vf()), request, has, Limits(max_groups=2)).granted
    assert not ask(nic(vf()), request, has, Limits(max_groups=1)).granted


@pytest.mark.parametrize("mac", [NEW, "ff:ff:ff:ff:ff:ff"])
def test_unicast_and_broadcast_are_no_groups(mac: str) -> None:
    decision = ask(nic(vf()), Request(0, KIND.JOIN_GROUP, mac=mac))
    assert not decision.granted
    assert "not a multicast group" in decision.reason


# -- MTU


def test_an_mtu_is_granted_up_to_the_pfs() -> None:
    policy = nic(vf(mtu=1500), mtu=9000)
    assert ask(policy, Request(0, KIND.MTU, mtu=9000)).granted
    assert ask(policy, Request(0, KIND.MTU, mtu=68)).granted
    refused = ask(policy, Request(0, KIND.MTU, mtu=9001))
    assert not refused.granted
    assert "9000" in refused.reason


@pytest.mark.parametrize("mtu", [None, -1, 0, 67])
def test_what_is_no_mtu_is_refused(mtu: int | None) -> None:
    assert not ask(nic(vf()), Request(0, KIND.MTU, mtu=mtu)).granted


def test_a_granted_mtu_is_in_force_within_the_pfs() -> None:
    pf = PfPolicy(id="soft0", mtu=4000, default_mtu=9000)
    assert mtu_of(pf, vf(), Grants()) == 4000
    assert mtu_of(pf, vf(mtu=1400), Grants()) == 1400
    assert mtu_of(pf, vf(mtu=1400), Grants(mtu=3000)) == 3000
    assert mtu_of(pf, vf(mtu=1400), Grants(mtu=9000)) == 4000


# -- Promiscuous and all-multicast


@pytest.mark.parametrize("kind", [KIND.PROMISC, KIND.ALLMULTI])
def test_a_mode_is_granted_to_a_trusted_guest_only(kind: RequestKind) -> None:
    assert ask(nic(vf(trust=True)), Request(0, kind)).granted
    refused = ask(nic(vf()), Request(0, kind))
    assert not refused.granted
    assert "trust" in refused.reason


def test_the_answer_says_within_what_a_mode_is_granted() -> None:
    policy = nic(vf(trust=True, allow_mcast=False))
    promisc = ask(policy, Request(0, KIND.PROMISC)).reason
    assert "allow_un_ucast (false)" in promisc
    assert "allow_mcast (false)" in promisc
    assert "allow_mcast (false)" in ask(policy, Request(0, KIND.ALLMULTI)).reason


# -- Giving up


@pytest.mark.parametrize(
    "request_",
    [
        Request(0, KIND.REMOVE_MAC, mac=NEW),
        Request(0, KIND.LEAVE_GROUP, mac=GROUP),
        Request(0, KIND.VLAN, vid=100, on=False),
        Request(0, KIND.PROMISC, on=False),
        Request(0, KIND.ALLMULTI, on=False),
    ],
    ids=lambda request: request.kind,
)
def test_giving_up_is_granted_always(request_: Request) -> None:
    least = vf(guest_macs="none", guest_groups=False, guest_vlans=False)
    assert ask(nic(least), request_).granted


# -- What a grant changes


@pytest.mark.parametrize(
    ("request_", "after"),
    [
        (Request(0, KIND.DEFAULT_MAC, mac=NEW.upper()), Grants(default_mac=NEW)),
        (Request(0, KIND.ADD_MAC, mac=NEW), Grants(macs=frozenset({NEW}))),
        (Request(0, KIND.JOIN_GROUP, mac=GROUP), Grants(groups=frozenset({GROUP}))),
        (Request(0, KIND.MTU, mtu=9000), Grants(mtu=9000)),
        (Request(0, KIND.PROMISC), Grants(promisc=True)),
        (Request(0, KIND.ALLMULTI), Grants(allmulti=True)),
        (Request(0, KIND.VLAN, vid=100), Grants()),
        (Request(0, KIND.REMOVE_MAC, mac=NEW), Grants()),
        (Request(0, KIND.LEAVE_GROUP, mac=GROUP), Grants()),
    ],
    ids=lambda value: value.kind if isinstance(value, Request) else "",
)
def test_a_granted_request_changes_what_it_names_and_twice_is_once(
    request_: Request, after: Grants
) -> None:
    assert granted(Grants(), request_) == after
    assert granted(after, request_) == after


@pytest.mark.parametrize(
    ("taken", "given"),
    [
        (Request(0, KIND.ADD_MAC, mac=NEW), Request(0, KIND.REMOVE_MAC, mac=NEW)),
        (Request(0, KIND.JOIN_GROUP, mac=GROUP), Request(0, KIND.LEAVE_GROUP, mac=GROUP)),
        (Request(0, KIND.PROMISC), Request(0, KIND.PROMISC, on=False)),
        (Request(0, KIND.ALLMULTI), Request(0, KIND.ALLMULTI, on=False)),
    ],
    ids=["mac", "group", "promiscuous", "all-multicast"],
)
def test_what_is_given_up_is_gone(taken: Request, given: Request) -> None:
    assert granted(granted(Grants(), taken), given) == Grants()


def test_a_granted_default_mac_replaces_the_nics_own() -> None:
    policy = nic(vf())
    has = granted(Grants(), Request(0, KIND.DEFAULT_MAC, mac=NEW))
    assert owners(policy, {0: has}, OWN) == {NEW: 0, OWN[1]: 1}


def test_a_forced_default_mac_stands_over_a_granted_one() -> None:
    has = {0: Grants(default_mac="02:00:00:00:aa:02")}
    assert owners(nic(vf(vm_mac=NEW)), has, OWN) == {NEW: 0, OWN[1]: 1}


def test_a_mac_has_one_owner_and_configuration_comes_before_grants() -> None:
    policy = nic(vf(), vf(1, macs=(NEW,)))
    has = {0: Grants(macs=frozenset({NEW, OWN[1]}))}
    assert owners(policy, has, OWN) == {OWN[0]: 0, NEW: 1, OWN[1]: 0}


def test_a_closed_vf_owns_nothing() -> None:
    assert set(owners(nic(vf()), {2: Grants(macs=frozenset({NEW}))}, OWN).values()) == {0, 1}
