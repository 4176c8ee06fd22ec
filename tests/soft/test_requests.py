"""What a guest does to its interface is a request; only a granted one has an effect on the wire."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest
from tests.soft.world import World, deafen, frame, ip, world

import vfd.nic.soft as soft
from vfd.nic.protocol import Event, EventKind, NicError
from vfd.nic.soft import namespace
from vfd.policy.requests import Decision, Grants, Request, RequestKind

PEER = "02:00:00:00:aa:01"
WANTED = "02:00:00:00:bb:02"


def asked(kind: RequestKind, mac: str | None = None) -> Callable[[Event], bool]:
    def matches(event: Event) -> bool:
        request = event.request
        return request is not None and request.kind is kind and mac in (None, request.mac)

    return matches


def pair(w: World, **fields: object) -> None:
    """VF 0 with ``fields`` and VF 1, which owns PEER, each with its guest."""
    w.apply(w.vf(0, **fields), w.vf(1, vm_mac=PEER))
    w.guest(0)
    w.guest(1)
    w.settle()


def passes(w: World, source: str) -> bool:
    """Whether a frame that VF 0 sends from ``source`` reaches VF 1."""
    out, into = w.port(0), w.port(1)
    out.send(frame(PEER, source))
    heard = bool(into.heard(count=1))
    out.close()
    into.close()
    return heard


@pytest.mark.parametrize("granted", [True, False])
def test_a_changed_mac_is_used_only_when_it_is_granted(granted: bool) -> None:
    with world() as w:
        pair(w, **({} if granted else {"vm_mac": "02:00:00:00:cc:03"}))
        before = w.mac(0)
        ip("-n", w.guests[0], "link", "set", "eth0", "address", WANTED)
        w.until(asked(RequestKind.DEFAULT_MAC, WANTED))
        assert w.mac(0) == (WANTED if granted else before)
        assert passes(w, WANTED) is granted
        assert passes(w, before) is not granted


def test_a_mac_that_is_reserved_after_it_was_granted_is_taken_back_and_refused_from_then() -> None:
    further, kept = "02:00:00:00:bb:03", "02:00:00:00:cc:03"
    with world() as w:
        pair(w)
        ip("-n", w.guests[0], "link", "set", "eth0", "address", WANTED)
        for name, mac in (("m0", further), ("m1", kept)):
            add = ("link", "add", "link", "eth0", "name", name, "address", mac, "type", "macvlan")
            ip("-n", w.guests[0], *add)
            ip("-n", w.guests[0], "link", "set", name, "up")
            w.until(asked(RequestKind.ADD_MAC, mac))
        assert passes(w, WANTED)
        assert passes(w, further)
        reserved = {"reserved_macs": ("02:00:00:00:bb:00/40",)}
        w.apply(w.vf(0), w.vf(1, vm_mac=PEER), pf=w.pf.model_copy(update=reserved))
        grants = w.nic.observe().vfs[0].grants
        assert (grants.default_mac, grants.macs) == (None, frozenset({kept}))
        assert not passes(w, WANTED)
        assert not passes(w, further)
        assert passes(w, kept)
        again = (RequestKind.DEFAULT_MAC, RequestKind.ADD_MAC)
        requests = [e.request for e in w.settle() if e.request and e.request.kind in again]
        assert {one.mac for one in requests} == {WANTED, further}, "whose refusal is told"
        assert w.nic.observe().vfs[0].grants.macs == {kept}
        w.reopen()
        assert w.nic.observe().vfs[0].grants.macs == {kept}
        assert not passes(w, WANTED)


def test_the_nics_own_macs_are_none_that_the_pf_reserves() -> None:
    """Drawn at random in 02:… to fe:…, where an entry may have half of them."""
    half = tuple(f"{first:02x}:00:00:00:00:00/8" for first in range(0x02, 0x80, 4))
    with world(vfs=8) as w:
        before = [w.mac(vfid) for vfid in range(8)]
        w.apply(pf=w.pf.model_copy(update={"reserved_macs": half}))
        macs = [w.mac(vfid) for vfid in range(8)]
        assert all(int(mac[:2], 16) >= 0x80 for mac in macs)
        assert {m for m in before if int(m[:2], 16) >= 0x80} <= set(macs)
        for vfid in range(8):
            w.nic.revoke(vfid)
        assert all(int(w.mac(vfid)[:2], 16) >= 0x80 for vfid in range(8))


@pytest.mark.parametrize("granted", [True, False])
def test_a_macvlan_talks_only_when_its_mac_is_granted(granted: bool) -> None:
    with world() as w:
        pair(w, guest_macs="any" if granted else "none")
        add = ("link", "add", "link", "eth0", "name", "mv", "address", WANTED, "type", "macvlan")
        ip("-n", w.guests[0], *add)
        ip("-n", w.guests[0], "link", "set", "mv", "up")
        w.until(asked(RequestKind.ADD_MAC, WANTED))
        assert passes(w, WANTED) is granted
        ip("-n", w.guests[0], "link", "del", "mv")
        w.until(asked(RequestKind.REMOVE_MAC, WANTED))
        assert not passes(w, WANTED)


def test_a_further_address_of_the_interface_itself_is_a_request() -> None:
    with world() as w:
        pair(w)
        with namespace.inside(w.guests[0]):
            add = ["bridge", "fdb", "add", WANTED, "dev", "eth0", "self"]
            subprocess.run(add, check=True, capture_output=True)
        w.until(asked(RequestKind.ADD_MAC, WANTED))
        assert passes(w, WANTED)


@pytest.mark.parametrize("granted", [True, False])
def test_a_joined_group_reaches_the_guest_only_when_it_is_granted(granted: bool) -> None:
    group = "01:00:5e:01:02:03"
    with world() as w:
        pair(w, allow_mcast=False, guest_groups=granted)
        ip("-n", w.guests[0], "addr", "add", "239.1.2.3/32", "dev", "eth0", "autojoin")
        w.until(asked(RequestKind.JOIN_GROUP, group))
        out, into = w.port(1), w.port(0)
        out.send(frame(group, PEER))
        assert bool(into.heard(count=1)) is granted


@pytest.mark.parametrize("granted", [True, False])
def test_a_raised_mtu_lets_larger_frames_pass_only_when_it_is_granted(granted: bool) -> None:
    with world(mtu=9000 if granted else 1500) as w:
        pair(w)
        ip("-n", w.guests[1], "link", "set", "eth0", "mtu", "9000")
        ip("-n", w.guests[0], "link", "set", "eth0", "mtu", "9000")
        w.until(asked(RequestKind.MTU))
        w.settle()
        out, into = w.port(0), w.port(1)
        out.send(frame(PEER, w.mac(0), bytes(4000)))
        assert bool(into.heard(count=1)) is granted
        assert w.nic.counters()[0]["oversize"] == (0 if granted else 1)


@pytest.mark.parametrize("trust", [True, False])
def test_promiscuous_mode_is_granted_to_trusted_guests(trust: bool) -> None:
    with world() as w:
        pair(w, trust=trust)
        ip("-n", w.guests[0], "link", "set", "eth0", "promisc", "on")
        w.until(asked(RequestKind.PROMISC))
        assert w.nic.observe().vfs[0].grants.promisc is trust


def test_of_several_quick_changes_the_last_one_holds() -> None:
    with world() as w:
        pair(w)
        macs = [f"02:00:00:00:dd:{n:02x}" for n in range(20)]
        for mac in macs:
            ip("-n", w.guests[0], "link", "set", "eth0", "address", mac)
        w.until(asked(RequestKind.DEFAULT_MAC, macs[-1]))
        assert w.mac(0) == macs[-1]
        assert not passes(w, macs[0])
        assert passes(w, macs[-1])


def test_what_was_granted_is_taken_back_when_the_guest_is_gone() -> None:
    with world() as w:
        pair(w)
        ip("-n", w.guests[0], "link", "set", "eth0", "address", WANTED)
        w.until(asked(RequestKind.DEFAULT_MAC, WANTED))
        ip("netns", "del", w.guests[0])
        w.until(lambda e: e.kind is EventKind.VF_RESET)
        w.settle()
        assert w.mac(0) != WANTED
        assert w.nic.observe().vfs[0].grants.default_mac is None


def test_a_forced_mac_is_not_taken_for_the_guests_own_wish() -> None:
    with world() as w:
        pair(w)
        w.apply(w.vf(0, vm_mac=WANTED), w.vf(1, vm_mac=PEER))
        heard = w.settle()
        assert [e for e in heard if asked(RequestKind.DEFAULT_MAC)(e)] == []


def test_a_guest_that_changes_its_mtu_in_a_loop_is_answered_for_where_it_ends() -> None:
    with world() as w:
        pair(w)
        lines = "".join(f"link set eth0 mtu {1000 + turn % 400}\n" for turn in range(2000))
        subprocess.run(["ip", "-n", w.guests[0], "-batch", "-"], input=lines, text=True, check=True)
        heard = w.settle()
        assert len([e for e in heard if asked(RequestKind.MTU)(e)]) < 20


def test_a_vf_that_waits_for_a_guest_asks_for_nothing() -> None:
    """Every interface is in groups as soon as it exists; a NIC's own VFs are not guests yet."""
    with world() as w:
        w.apply(w.vf(0), w.vf(1))
        assert [event for event in w.settle() if event.request is not None] == []
        ip("link", "set", f"{w.id}v1", "up")
        w.until(asked(RequestKind.JOIN_GROUP, "33:33:00:00:00:01"))


def test_requests_that_are_answered_together_hold_in_their_order() -> None:
    yes, no = Decision(True, "asked for"), Decision(False, "not that one")
    groups = [f"01:00:5e:00:01:{n:02x}" for n in range(40)]
    with world() as w:
        pair(w, allow_mcast=False)
        wanted = [(Request(0, RequestKind.JOIN_GROUP, mac=group), yes) for group in groups]
        w.nic.answer(
            [
                (Request(0, RequestKind.ADD_MAC, mac=WANTED), yes),
                *wanted,
                (Request(0, RequestKind.LEAVE_GROUP, mac=groups[3]), yes),
                (Request(0, RequestKind.REMOVE_MAC, mac=WANTED), yes),
                (Request(0, RequestKind.ADD_MAC, mac="02:00:00:00:bb:77"), no),
            ]
        )
        grants = w.nic.observe().vfs[0].grants
        assert grants.macs == frozenset()
        assert grants.groups >= set(groups) - {groups[3]}
        assert groups[3] not in grants.groups
        out, into = w.port(1), w.port(0)
        for group in groups:
            out.send(frame(group, PEER))
        assert len(into.heard(count=40)) == 39


def test_a_guest_that_no_path_leads_to_and_that_so_gets_no_forced_mac_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with world() as w:
        pair(w)
        held = os.open(namespace.path(w.guests[0]), os.O_RDONLY)
        try:
            namespace.remove(w.guests[0])
            w.apply(w.vf(0, vm_mac=WANTED))
        finally:
            os.close(held)
        [told] = [r.getMessage() for r in caplog.records if "forced MAC" in r.getMessage()]
        assert f"VF 0 of {w.id}" in told
        assert WANTED in told
        assert "leads to its namespace" in told


def test_a_mac_that_is_no_longer_forced_is_what_the_guest_asks_for() -> None:
    """Its interface still has it: nothing else would make the guest's frames pass again."""
    forced = "02:00:00:00:cc:03"
    with world() as w:
        pair(w, vm_mac=forced)
        assert passes(w, forced)
        w.apply(w.vf(0))
        w.settle()
        assert w.mac(0) == forced
        assert passes(w, forced)


def test_grants_that_do_not_fit_are_all_undone_and_the_old_mac_goes_on() -> None:
    """The kernel's table of groups is full half way through."""
    yes = Decision(True, "asked for")
    groups = [f"01:00:5e:00:{n >> 8:02x}:{n & 255:02x}" for n in range(600)]
    with world(vfs=66) as w:
        pair(w)
        w.apply(*(w.vf(vfid) for vfid in range(2, 66)))
        own, before = w.mac(0), w.nic.observe()
        too_many = [
            (Request(vfid, RequestKind.JOIN_GROUP, mac=group), yes)
            for vfid in range(2, 66)
            for group in groups
        ]
        with pytest.raises(NicError, match="undone"):
            w.nic.answer([(Request(0, RequestKind.DEFAULT_MAC, mac=WANTED), yes), *too_many])
        assert w.nic.observe() == before
        assert passes(w, own)
        assert not passes(w, WANTED)


@pytest.mark.parametrize("loss", ["a new daemon", "lost notifications"])
def test_addresses_set_on_the_interface_itself_are_still_asked_for_after(loss: str) -> None:
    added, later, group = WANTED, "02:00:00:00:bb:03", "01:1b:19:00:00:00"
    with world() as w:
        pair(w, allow_mcast=False)
        fdb = ["ip", "netns", "exec", w.guests[0], "bridge", "fdb"]
        for mac in (added, group):
            subprocess.run([*fdb, "add", mac, "dev", "eth0", "self"], check=True)
        ip("-n", w.guests[0], "link", "add", "link", "eth0", "m0", "type", "macvlan")
        ip("-n", w.guests[0], "link", "set", "m0", "up")
        w.settle()
        before = w.nic.observe().vfs[0].grants
        assert added in before.macs
        assert group in before.groups
        if loss == "a new daemon":
            w.nic.close()
        subprocess.run([*fdb, "add", later, "dev", "eth0", "self"], check=True)
        if loss == "a new daemon":
            w.nic = soft.open(w.pf)
        else:
            deafen("eth0", netns=w.guests[1])
        events = [e for e in w.settle() if e.vfid in (0, None)]
        assert any(e.kind is EventKind.OVERRUN for e in events) is (loss == "lost notifications")
        assert not any(asked(RequestKind.REMOVE_MAC)(e) for e in events)
        assert not any(asked(RequestKind.LEAVE_GROUP)(e) for e in events)
        after = w.nic.observe().vfs[0].grants
        assert after.macs == before.macs | {later}
        assert after.groups >= before.groups
        assert passes(w, added)
        ip("-n", w.guests[0], "link", "del", "m0")
        subprocess.run([*fdb, "del", added, "dev", "eth0", "self"], check=True)
        subprocess.run([*fdb, "del", group, "dev", "eth0", "self"], check=True)
        w.settle()
        assert w.nic.observe().vfs[0].grants.macs == {later}
        assert group not in w.nic.observe().vfs[0].grants.groups


Fields = dict[str, object]
REFUSED: dict[str, tuple[Fields, Fields, list[str], Callable[[Grants], bool]]] = {
    "a further MAC": (
        {"guest_macs": "none"},
        {"guest_macs": "any"},
        [
            f"link add link NETDEV name MACVLAN address {WANTED} type macvlan",
            "link set MACVLAN up",
        ],
        lambda grants: WANTED in grants.macs,
    ),
    "promiscuous mode": (
        {},
        {"trust": True},
        ["link set NETDEV promisc on"],
        lambda grants: grants.promisc,
    ),
    "a group": (
        {"guest_groups": False},
        {"guest_groups": True},
        ["addr add 239.1.2.3/32 dev NETDEV autojoin"],
        lambda grants: "01:00:5e:01:02:03" in grants.groups,
    ),
    "an MTU": (
        {},
        {"mtu": 9000},
        ["link set NETDEV mtu 9000"],
        lambda grants: grants.mtu == 9000,
    ),
}
"""What a guest asks for: refused with these fields of the VF (of the PF for the MTU), granted with
those, asked for in this way, and how it shows."""


@pytest.mark.parametrize("place", ["a namespace of its own", "the daemon's"])
@pytest.mark.parametrize("what", REFUSED)
def test_what_was_refused_is_asked_for_again_when_policy_changes(what: str, place: str) -> None:
    refusing, granting, commands, has = REFUSED[what]
    with world() as w:
        w.apply(w.vf(0, **refusing), w.vf(1))
        if place == "the daemon's":
            where, netdev = [], f"{w.id}v0"
            ip("link", "set", netdev, "up")
        else:
            where, netdev = ["-n", w.guest(0)], "eth0"
        w.settle()
        for command in commands:
            words = command.replace("NETDEV", netdev).replace("MACVLAN", f"{w.id}m").split()
            ip(*where, *words)
        w.settle()
        assert not has(w.nic.observe().vfs[0].grants)
        if what == "an MTU":
            w.apply(pf=w.pf.model_copy(update=granting))
        else:
            w.apply(w.vf(0, **granting))
        w.settle()
        assert has(w.nic.observe().vfs[0].grants)


def test_a_macvlan_is_no_wish_for_promiscuous_mode() -> None:
    """A veth with further addresses is promiscuous for them, in the kernel's own books."""
    with world() as w:
        pair(w, guest_macs="any")
        add = ("link", "add", "mv", "link", "eth0", "address", WANTED, "type", "macvlan")
        ip("-n", w.guests[0], *add)
        ip("-n", w.guests[0], "link", "set", "mv", "up")
        w.until(asked(RequestKind.ADD_MAC, WANTED))
        ip("-n", w.guests[0], "link", "set", "eth0", "txqueuelen", "77")
        heard = w.settle()
        w.reopen()
        heard += w.settle()
        assert not any(asked(RequestKind.PROMISC)(event) for event in heard), heard
        assert w.wishes.of(0) == ()
        ip("-n", w.guests[0], "link", "set", "eth0", "promisc", "on")
        w.until(asked(RequestKind.PROMISC))
