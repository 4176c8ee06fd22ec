"""A refused request stays known, and is decided again when the reason of its refusal is gone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.policy.test_requests import GROUP, KIND, NEW, OWN, nic, vf

from vfd.policy.requests import Decision, Grants, Request
from vfd.policy.values import Limits, NicPolicy
from vfd.policy.wishes import MOST, Judge, Wishes, grantable

ANOTHER = "02:00:00:00:aa:02"
NO = Decision(False, "not now")
YES = Decision(True, "asked for")


class Desk:
    """Two or more guests of one PF, and what they have."""

    def __init__(self, policy: NicPolicy, **limits: int) -> None:
        self.policy = policy
        self.limits = replace(Limits(), **limits)
        self.grants = {vfid: Grants() for vfid in OWN}
        self.wishes = Wishes()

    def judge(self) -> Judge:
        return Judge(self.policy, self.grants, OWN, self.limits)

    def ask(self, vfid: int, kind: KIND, mac: str | None = None, **more: object) -> bool:
        judge = self.judge()
        request = Request(vfid, kind, mac=mac, **more)  # type: ignore[arg-type]
        decision = judge.decide(request)
        self.wishes.note(request, decision, judge.basis(request))
        self.grants = judge.grants
        return decision.granted

    def again(self) -> list[tuple[int, str | None]]:
        """What was granted, asked for or not."""
        judge = self.judge()
        found = [w for w, d in list(grantable(self.wishes, judge)) if d.granted]
        for wish in found:
            self.wishes.note(wish.request, YES)
        self.grants = judge.grants
        return [(wish.request.vfid, wish.request.mac) for wish in found]


def test_a_mac_that_is_given_up_goes_to_the_guest_that_wished_it_first() -> None:
    desk = Desk(nic(vf(0), vf(1), vf(2)))
    assert desk.ask(0, KIND.ADD_MAC, NEW)
    assert not desk.ask(2, KIND.ADD_MAC, NEW)
    assert not desk.ask(1, KIND.DEFAULT_MAC, NEW)
    assert not desk.ask(2, KIND.ADD_MAC, NEW), "asked again, it keeps its place"
    assert desk.again() == []
    assert desk.ask(0, KIND.REMOVE_MAC, NEW)
    assert desk.again() == [(2, NEW)]
    assert [w.request.vfid for w in desk.wishes.all()] == [1]


def test_a_chain_of_wishes_is_granted_in_one_go_whatever_the_order_of_asking() -> None:
    desk = Desk(nic(vf(0), vf(1), vf(2)))
    assert desk.ask(0, KIND.DEFAULT_MAC, NEW)
    assert desk.ask(1, KIND.DEFAULT_MAC, ANOTHER)
    assert not desk.ask(2, KIND.DEFAULT_MAC, ANOTHER)
    assert not desk.ask(1, KIND.DEFAULT_MAC, NEW)
    assert desk.ask(0, KIND.DEFAULT_MAC, "02:00:00:00:aa:99")
    assert desk.again() == [(1, NEW), (2, ANOTHER)]
    assert not desk.wishes.all()


@pytest.mark.parametrize(
    ("wished", "given_up"),
    [
        (Request(0, KIND.DEFAULT_MAC, mac=NEW), Request(0, KIND.DEFAULT_MAC, mac=OWN[0])),
        (Request(0, KIND.ADD_MAC, mac=NEW), Request(0, KIND.REMOVE_MAC, mac=NEW)),
        (Request(0, KIND.JOIN_GROUP, mac=GROUP), Request(0, KIND.LEAVE_GROUP, mac=GROUP)),
        (Request(0, KIND.VLAN, vid=7), Request(0, KIND.VLAN, vid=7, on=False)),
        (Request(0, KIND.MTU, mtu=9000), Request(0, KIND.MTU, mtu=1400)),
        (Request(0, KIND.PROMISC), Request(0, KIND.PROMISC, on=False)),
        (Request(0, KIND.ALLMULTI), Request(0, KIND.ALLMULTI, on=False)),
    ],
    ids=lambda request: request.kind,
)
def test_a_wish_ends_when_the_guest_gives_it_up(wished: Request, given_up: Request) -> None:
    wishes = Wishes()
    assert wishes.note(wished, NO)
    assert [w.request for w in wishes.of(0)] == [wished]
    assert wishes.note(given_up, YES), "that is news"
    assert not wishes.of(0)
    assert not wishes.note(given_up, YES)


def test_who_wishes_another_mac_no_longer_wishes_the_first_and_comes_last() -> None:
    wishes = Wishes()
    wishes.note(Request(0, KIND.DEFAULT_MAC, mac=NEW), NO)
    wishes.note(Request(1, KIND.DEFAULT_MAC, mac=NEW), NO)
    wishes.note(Request(0, KIND.DEFAULT_MAC, mac=ANOTHER), NO)
    assert [(w.request.vfid, w.request.mac) for w in wishes.all()] == [(1, NEW), (0, ANOTHER)]


def test_what_stays_refused_for_the_same_reason_is_no_news() -> None:
    wishes, request = Wishes(), Request(0, KIND.ADD_MAC, mac=NEW)
    assert wishes.note(request, NO)
    assert not wishes.note(request, NO)
    assert wishes.note(request, Decision(False, "for another reason"))


def test_a_limit_that_has_room_again_and_a_policy_that_changes_grant_wishes() -> None:
    desk = Desk(nic(vf(0, guest_groups=False)), max_macs=1)
    assert desk.ask(0, KIND.ADD_MAC, NEW)
    assert not desk.ask(0, KIND.ADD_MAC, ANOTHER)
    assert not desk.ask(0, KIND.JOIN_GROUP, GROUP)
    assert not desk.ask(0, KIND.MTU, mtu=9000)
    assert not desk.ask(0, KIND.PROMISC)
    assert desk.ask(0, KIND.REMOVE_MAC, NEW)
    assert desk.again() == [(0, ANOTHER)]
    desk.policy = nic(vf(0, trust=True), mtu=9000)
    assert len(desk.again()) == 3
    assert desk.grants[0].mtu == 9000


def test_a_guest_that_wishes_without_end_is_remembered_by_its_last_wishes() -> None:
    wishes = Wishes()
    macs = [f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}" for n in range(3 * MOST)]
    wishes.note(Request(1, KIND.ADD_MAC, mac=NEW), NO)
    wishes.note(Request(0, KIND.MTU, mtu=9000), NO)
    for mac in macs:
        wishes.note(Request(0, KIND.ADD_MAC, mac=mac), NO)
    mine = [w.request.mac for w in wishes.of(0) if w.request.kind is KIND.ADD_MAC]
    assert mine == macs[-MOST:]
    assert len(wishes.of(0)) == MOST + 1
    assert [w.request.mac for w in wishes.of(1)] == [NEW]


def test_the_wishes_of_a_guest_that_is_gone_and_of_a_vf_that_is_gone_are_forgotten() -> None:
    wishes = Wishes()
    for vfid in range(3):
        wishes.note(Request(vfid, KIND.ADD_MAC, mac=NEW), NO)
    wishes.forget(0)
    wishes.keep({0: None, 1: None})
    assert [w.request.vfid for w in wishes.all()] == [1]
