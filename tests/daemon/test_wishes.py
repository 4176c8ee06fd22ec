"""What a guest was refused is decided again, unasked, when the reason is gone, and is shown until
then. With real guests: namespaces that do to their interfaces what keepalived and bonds do."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from tests.soft.world import frame

from vfd.nic.soft import namespace
from vfd.nic.soft.tap import open_tap

from .harness import Vfd, run, wait_for

M, N = "02:00:00:00:00:4d", "02:00:00:00:00:4e"
GROUP = "01:00:5e:01:02:03"


def wishes(vfd: Vfd, vfid: int) -> list[tuple[str, Any]]:
    return [(w["request"], w["value"]) for w in vfd.row(vfid)["extended"]["wishes"]]


def told(vfd: Vfd, kind: str, vfid: int, value: object) -> list[dict[str, Any]]:
    found = [e for e in vfd.events(kind) if e["vfid"] == vfid]
    return [e for e in found if value in (e["data"].get("mac"), e["data"].get("mtu"))]


def vrrp(netns: str, *, up: bool) -> None:
    """keepalived's use_vmac: a macvlan with the router's MAC, up at the master alone."""
    run("ip", "-n", netns, "link", "set", "vrrp.1", "up" if up else "down")


def with_vrrp(netns: str, mac: str = M) -> None:
    add = ("link", "add", "vrrp.1", "link", "eth0", "address", mac, "type", "macvlan")
    run("ip", "-n", netns, *add)


def test_a_deleted_vfs_mac_goes_to_the_guest_that_was_refused_it(
    vfd: Vfd, seat: Callable[[int], str]
) -> None:
    for vfid in (0, 1):
        vfd.add(f"vm{vfid}", vfd.vf(vfid, vlans=[100], strip_ctag=True))
    guests = [seat(0), seat(1)]
    run("ip", "-n", guests[0], "link", "set", "eth0", "address", M)
    wait_for(lambda: vfd.row(0)["mac"] == M)
    run("ip", "-n", guests[1], "link", "set", "eth0", "address", M)
    wait_for(lambda: wishes(vfd, 1) == [("default-mac", M)])
    assert vfd.row(1)["mac"] != M
    shown = vfd.get("/v1/vfs/vm1")
    assert shown["wishes"][0]["reason"] == f"{M} belongs to VF 0 (vm0)"
    assert any(M in text and "not granted" in text for text in shown["warnings"])
    vfd.ask("DELETE", "/v1/vfs/vm0")
    assert vfd.row(1)["mac"] == M, "at once: the answer to the deletion came after it"
    assert wishes(vfd, 1) == []
    assert not any("not granted" in text for text in vfd.row(1)["warnings"])
    [event] = told(vfd, "granted", 1, M)
    assert "was refused before" in event["text"]
    assert len(told(vfd, "refused", 1, M)) == 1


def test_a_granted_mac_is_free_once_another_is_forced(vfd: Vfd, seat: Callable[[int], str]) -> None:
    for vfid in (0, 1):
        vfd.add(f"vm{vfid}", vfd.vf(vfid))
    guests = [seat(0), seat(1)]
    run("ip", "-n", guests[0], "link", "set", "eth0", "address", M)
    wait_for(lambda: vfd.row(0)["mac"] == M)
    assert vfd.ask("PUT", "/v1/vfs/vm0", {"config": vfd.vf(0, vm_mac=N)})[0] == 200
    assert vfd.get("/v1/vfs/vm0")["grants"]["default_mac"] is None
    run("ip", "-n", guests[1], "link", "set", "eth0", "address", M)
    wait_for(lambda: vfd.row(1)["mac"] == M)
    assert vfd.ask("PUT", "/v1/vfs/vm0", {"config": vfd.vf(0)})[0] == 200
    wait_for(lambda: vfd.get("/v1/vfs/vm0")["grants"]["default_mac"] == N)
    assert (vfd.row(0)["mac"], vfd.row(1)["mac"]) == (N, M)


def test_keepaliveds_mac_moves_between_guests_whoever_is_first(
    vfd: Vfd, seat: Callable[[int], str]
) -> None:
    for vfid in (0, 1):
        vfd.add(f"vm{vfid}", vfd.vf(vfid, guest_macs="any"))
    guests = [seat(0), seat(1)]
    for netns in guests:
        with_vrrp(netns)
    for turn in range(4):
        backup, master = guests[turn % 2], guests[1 - turn % 2]
        vrrp(master, up=True)  # before the other one lets go, as after a lost advertisement
        if turn:
            wait_for(lambda: wishes(vfd, 1 - turn % 2))  # noqa: B023
            vrrp(backup, up=False)
        wait_for(lambda: M in vfd.row(1 - turn % 2)["extended"]["macs"])  # noqa: B023
        assert M not in vfd.row(turn % 2)["extended"]["macs"]
    assert [wishes(vfd, 0), wishes(vfd, 1)] == [[], []]


def test_a_bonds_mac_that_fails_over_to_the_other_vf_is_granted_there(
    vfd: Vfd, seat: Callable[[int], str]
) -> None:
    """fail_over_mac none: the bond gives every slave the MAC of the first, and one guest has two
    VFs. When the first goes, its MAC is the second's."""
    for vfid in (0, 1):
        vfd.add(f"vm{vfid}", vfd.vf(vfid))
    guest = seat(0)
    run("ip", "link", "set", f"{vfd.pf}v1", "netns", guest, "name", "eth1")
    run("ip", "-n", guest, "link", "set", "eth0", "address", M)
    run("ip", "-n", guest, "link", "set", "eth1", "address", M, "up")
    wait_for(lambda: wishes(vfd, 1) == [("default-mac", M)])
    run("ip", "-n", guest, "link", "set", "eth0", "address", N)
    wait_for(lambda: vfd.row(1)["mac"] == M)
    assert vfd.row(0)["mac"] == N


def test_a_chain_of_macs_moves_in_one_go(vfd: Vfd, seat: Callable[[int], str]) -> None:
    for vfid in range(3):
        vfd.add(f"vm{vfid}", vfd.vf(vfid))
    guests = [seat(vfid) for vfid in range(3)]
    for vfid, mac in ((0, M), (1, N)):
        run("ip", "-n", guests[vfid], "link", "set", "eth0", "address", mac)
        wait_for(lambda: vfd.row(vfid)["mac"] == mac)  # noqa: B023
    for vfid, mac in ((2, N), (1, M)):
        run("ip", "-n", guests[vfid], "link", "set", "eth0", "address", mac)
        wait_for(lambda: wishes(vfd, vfid) == [("default-mac", mac)])  # noqa: B023
    namespace.remove(guests[0])
    wait_for(lambda: (vfd.row(1)["mac"], vfd.row(2)["mac"]) == (M, N))


WISHED: dict[str, tuple[dict[str, Any], dict[str, Any], list[str], tuple[str, Any]]] = {
    "a further MAC": (
        {"guest_macs": "none"},
        {"guest_macs": "any"},
        [f"link add mv link eth0 address {M} type macvlan", "link set mv up"],
        ("add-mac", M),
    ),
    "a group": (
        {"guest_groups": False},
        {"guest_groups": True},
        ["addr add 239.1.2.3/32 dev eth0 autojoin"],
        ("join-group", GROUP),
    ),
    "promiscuous mode": ({}, {"trust": True}, ["link set eth0 promisc on"], ("promiscuous", None)),
    "all-multicast mode": (
        {},
        {"trust": True},
        ["link set eth0 allmulticast on"],
        ("all-multicast", None),
    ),
}
"""The VF's fields that refuse and that grant it, how a guest asks, how the wish is shown."""


@pytest.mark.parametrize("what", WISHED)
def test_a_policy_that_changes_grants_what_was_wished_also_after_a_restart(
    what: str, vfd: Vfd, seat: Callable[[int], str]
) -> None:
    refusing, granting, commands, wish = WISHED[what]
    vfd.add("vm0", vfd.vf(0, **refusing))
    guest = seat(0)
    for command in commands:
        run("ip", "-n", guest, *command.split())
    wait_for(lambda: wish in wishes(vfd, 0))
    vfd.stop()
    vfd.start()
    wait_for(lambda: wish in wishes(vfd, 0))
    body = {"name": "vm0", "config": vfd.vf(0, **granting)}
    status, answer = vfd.ask("PUT", "/v1/vfs/vm0", body)
    assert status == 200, answer
    assert wish not in wishes(vfd, 0), "granted before the answer came"


def test_a_pf_that_takes_larger_frames_grants_the_mtu_that_was_wished(
    vfd: Vfd, seat: Callable[[int], str]
) -> None:
    vfd.add("vm0", vfd.vf(0))
    guest = seat(0)
    run("ip", "-n", guest, "link", "set", "eth0", "mtu", "9000")
    wait_for(lambda: wishes(vfd, 0) == [("mtu", 9000)])
    vfd.main["pciids"][0]["mtu"] = 9000
    vfd.write_main()
    vfd.reload()
    wait_for(lambda: vfd.row(0)["extended"]["mtu"] == 9000)
    assert wishes(vfd, 0) == []


def test_a_closed_vf_that_is_opened_grants_what_its_guest_wished(
    vfd: Vfd, seat: Callable[[int], str]
) -> None:
    guest = seat(0)
    with_vrrp(guest)
    vrrp(guest, up=True)
    wait_for(lambda: ("add-mac", M) in wishes(vfd, 0))
    assert vfd.row(0)["warnings"] == []
    vfd.add("vm0", vfd.vf(0, guest_macs="any"))
    wait_for(lambda: M in vfd.row(0)["extended"]["macs"])
    assert len(told(vfd, "granted", 0, M)) == 1


def test_of_two_guests_that_wish_a_mac_the_first_gets_it_and_a_wish_given_up_is_none(
    vfd: Vfd, seat: Callable[[int], str]
) -> None:
    for vfid in range(4):
        vfd.add(f"vm{vfid}", vfd.vf(vfid))
    guests = [seat(vfid) for vfid in range(4)]
    order = (0, 3, 1, 2)
    for vfid in order:
        run("ip", "-n", guests[vfid], "link", "set", "eth0", "address", M)
        wait_for(lambda: vfd.row(vfid)["mac"] == M or wishes(vfd, vfid))  # noqa: B023
    run("ip", "-n", guests[3], "link", "set", "eth0", "address", N)
    wait_for(lambda: vfd.row(3)["mac"] == N)
    run("ip", "-n", guests[0], "link", "set", "eth0", "address", "02:00:00:00:00:4f")
    wait_for(lambda: vfd.row(1)["mac"] == M)
    assert wishes(vfd, 2) == [("default-mac", M)]
    assert wishes(vfd, 3) == []


def test_a_wish_that_goes_on_being_refused_is_told_of_once(
    vfd: Vfd, seat: Callable[[int], str]
) -> None:
    for vfid in range(3):
        vfd.add(f"vm{vfid}", vfd.vf(vfid))
    guests = [seat(vfid) for vfid in range(3)]
    for vfid in (0, 1):
        run("ip", "-n", guests[vfid], "link", "set", "eth0", "address", M)
        wait_for(lambda: vfd.row(vfid)["mac"] == M or wishes(vfd, vfid))  # noqa: B023
    for n in range(5):
        run("ip", "-n", guests[2], "link", "set", "eth0", "address", f"02:00:00:00:01:{n:02x}")
        wait_for(lambda: told(vfd, "granted", 2, f"02:00:00:00:01:{n:02x}"))  # noqa: B023
    vfd.ask("DELETE", "/v1/vfs/vm2")
    assert len(told(vfd, "refused", 1, M)) == 1
    assert wishes(vfd, 1) == [("default-mac", M)]


def test_a_guest_of_a_closed_vf_is_no_news_when_the_daemon_starts(
    vfd: Vfd, seat: Callable[[int], str]
) -> None:
    guest = seat(0)
    run("ip", "-n", guest, "link", "set", "eth0", "address", M)
    wait_for(lambda: told(vfd, "refused", 0, M))
    vfd.stop()
    vfd.start()
    wait_for(lambda: ("default-mac", M) in wishes(vfd, 0))
    assert vfd.events("refused") == []


def test_a_machine_behind_a_tap_gets_the_mac_that_another_one_let_go(
    make_vfd: Callable[..., Vfd],
) -> None:
    """It is heard by its frames and may never send another one before it is given something."""
    vfd = make_vfd()
    vfd.main["pciids"][0]["guest"] = "tap"
    vfd.write_main()
    vfd.start()
    for vfid in (0, 1):
        vfd.add(f"vm{vfid}", vfd.vf(vfid, allow_untagged=True))
    guests = [open_tap(f"{vfd.pf}v{vfid}") for vfid in (0, 1)]
    try:
        wait_for(lambda: all(vfd.row(vfid)["extended"]["held"] for vfid in (0, 1)))
        os.write(guests[0], bytes(10) + frame(N, M))
        wait_for(lambda: vfd.row(0)["mac"] == M)
        os.write(guests[1], bytes(10) + frame(N, M))
        wait_for(lambda: wishes(vfd, 1) == [("default-mac", M)])
        os.close(guests.pop(0))
        wait_for(lambda: vfd.row(1)["mac"] == M)
    finally:
        for guest in guests:
            os.close(guest)
