"""A soft NIC's uplink is another one; what goes wrong on the way leaves none behind."""

from __future__ import annotations

import json
import re
import subprocess
import time
from typing import Any

import pytest
from tests.soft.world import Tap, World, frame, ip, lose_unheard, world

import vfd.nic.soft as soft
from vfd.nic.protocol import PF_PORT, EventKind, NicError
from vfd.nic.soft import namespace, rtnl
from vfd.nic.soft.switch import Switch
from vfd.policy.values import PfPolicy


def tc(*arguments: str) -> str:
    return subprocess.run(["tc", *arguments], capture_output=True, text=True, check=True).stdout


def names() -> set[str]:
    """The netdevs of the daemon's namespace."""
    lines = ip("-o", "link").splitlines()
    return {line.split(":")[1].split("@")[0].strip() for line in lines}


def second_wire(w: World) -> tuple[str, str]:
    """Another pair like ``World.wire``."""
    name, uplink = w.home(f"{w.id}w2"), f"{w.id}u2"
    ip("link", "add", uplink, "type", "veth", "peer", "name", "eth0", "netns", name)
    ip("-n", name, "link", "set", "eth0", "up")
    return uplink, name


def bring(w: World, uplink: str) -> None:
    """The first thing that taking an uplink does."""
    switch = Switch(w.id, "veth")
    switch.enter()
    taken = switch.take_uplink(uplink)
    switch.netlink.send([rtnl.del_clsact(taken.index, "as if killed before that")])
    switch.close()


def with_uplink(w: World, uplink: str | None) -> PfPolicy:
    return w.pf.model_copy(update={"uplink": uplink})


def reaches(w: World, wire: Tap) -> bool:
    wire.heard(0.02)
    out = w.port(0)
    out.send(frame("02:00:00:00:99:99", w.mac(0)))
    out.close()
    return len(wire.heard(count=1)) == 1


@pytest.mark.parametrize("guest", ["veth", "tap"])
def test_the_uplink_becomes_another_and_back_again(guest: str) -> None:
    with world(guest=guest) as w:
        (one, far), (other, far_other) = w.wire(), second_wire(w)
        w.apply(w.vf(0), pf=with_uplink(w, one))
        wires = {one: w.port_in(far, "eth0"), other: w.port_in(far_other, "eth0")}
        if guest == "veth":
            w.guest(0)
        for new, old in ((other, one), (one, other)):
            w.apply(pf=with_uplink(w, new))
            w.settle()
            assert w.nic.link().up
            if guest == "veth":
                assert old in names(), "the old uplink is given back"
                assert reaches(w, wires[new])
                assert not reaches(w, wires[old])
            assert "clsact" not in tc("qdisc", "show", "dev", old)


@pytest.mark.parametrize("daemon", ["the same", "a new"])
@pytest.mark.parametrize("guest", ["veth", "tap"])
def test_an_uplinks_hook_that_somebody_removes_is_put_back(guest: str, daemon: str) -> None:
    with world(guest=guest) as w:
        uplink, far = w.wire()
        w.apply(w.vf(0), pf=with_uplink(w, uplink))
        w.settle()
        inside = ["ip", "netns", "exec", f"vfd-{w.id}"] if guest == "veth" else []
        if daemon == "a new":
            w.nic.close()
        unhook = ["tc", "qdisc", "del", "dev", uplink, "clsact"]
        subprocess.run([*inside, *unhook], check=True)
        if daemon == "a new":
            w.nic = soft.open(w.pf)
        else:
            w.until(lambda e: e.kind is EventKind.DRIFT)
            w.apply()
        w.settle()
        counted = w.nic.counters()[PF_PORT]["rx_packets"]
        wire = w.port_in(far, "eth0")
        for _ in range(20):  # more than the station says of its own accord
            wire.send(frame(w.mac(0), "02:00:00:00:99:99"))
        assert w.nic.counters()[PF_PORT]["rx_packets"] >= counted + 20


@pytest.mark.parametrize("had", ["an uplink", "none"])
def test_a_change_that_fails_gives_the_new_uplink_back_and_the_old_one_goes_on(had: str) -> None:
    with world() as w:
        (one, far), (other, _) = w.wire(), second_wire(w)
        w.apply(w.vf(0), pf=with_uplink(w, one if had == "an uplink" else None))
        w.guest(0)
        w.settle()
        taken = f"{w.id}v2"
        ip("link", "add", taken, "type", "veth", "peer", "name", f"{w.id}x")
        try:
            with pytest.raises(NicError, match="exists already"):
                w.apply(pf=with_uplink(w, other).model_copy(update={"vfs": 3}))
        finally:
            ip("link", "del", taken)
        w.settle()
        assert other in names()
        if had == "an uplink":
            assert reaches(w, w.port_in(far, "eth0"))
        else:
            assert one in names()


def test_an_uplink_that_is_no_netdev_is_refused_and_the_old_one_goes_on() -> None:
    with world() as w:
        one, far = w.wire()
        w.apply(w.vf(0), pf=with_uplink(w, one))
        w.guest(0)
        w.settle()
        with pytest.raises(NicError, match="no netdev of this host"):
            w.apply(pf=with_uplink(w, "nonesuch"))
        w.settle()
        assert reaches(w, w.port_in(far, "eth0"))
        w.apply(w.vf(0, allow_bcast=False))


def shown(netdev: str) -> dict[str, Any]:
    """What the host sees of a netdev, but for what a move can't keep (its index, its carrier)."""
    (found,) = json.loads(ip("-j", "-d", "addr", "show", "dev", netdev))
    (link,) = json.loads(ip("-j", "-d", "link", "show", "dev", netdev))
    keep = ("ifname", "mtu", "address", "altnames", "ifalias", "promiscuity", "inet6_addr_gen_mode")
    flags = sorted(set(link["flags"]) & {"UP", "NOARP", "PROMISC", "MULTICAST"})
    addresses = sorted(one["local"] for one in found["addr_info"])
    return {"flags": flags, "addresses": addresses} | {name: link.get(name) for name in keep}


USED: dict[str, tuple[str, str]] = {
    "an address": ("addr add 192.0.2.7/24 dev {u}", "192.0.2.7/24"),
    "an IPv6 address": ("addr add 2001:db8::7/64 dev {u} nodad", "2001:db8::7/64"),
    "a route": ("route add 198.51.100.0/24 dev {u}", "routes"),
    "the default route": ("route add default dev {u} metric 4000000", "the default route"),
    "a device above": ("link add {u}m link {u} type macvlan", "the macvlan"),
    "a bridge": ("link set {u} master {b}", "bridge"),
}


@pytest.mark.parametrize("guest", ["veth", "tap"])
@pytest.mark.parametrize("use", USED)
def test_an_uplink_that_the_host_uses_is_refused_with_the_reason_and_left_alone(
    use: str, guest: str
) -> None:
    command, reason = USED[use]
    with world(guest=guest) as w:
        uplink, _ = w.wire()
        bridge = f"{w.id}b"
        ip("link", "add", bridge, "type", "bridge")
        try:
            ip("link", "set", uplink, "up")
            ip(*command.format(u=uplink, b=bridge).split())
            had = shown(uplink), ip("route", "show", "dev", uplink)
            with pytest.raises(NicError, match=f"uplink {uplink} .*{re.escape(reason)}"):
                w.apply(w.vf(0), pf=with_uplink(w, uplink))
            assert (shown(uplink), ip("route", "show", "dev", uplink)) == had
            (told,) = soft.missing(with_uplink(w, uplink))
            assert reason in told[2], "vfd --check says the same"
            assert told[:2] == ("uplink", uplink)
        finally:
            ip("link", "del", bridge)


@pytest.mark.parametrize("guest", ["veth", "tap"])
def test_what_is_no_wire_is_refused_with_the_reason(guest: str) -> None:
    with world(guest=guest) as w:
        bridge, tun = f"{w.id}b", f"{w.id}t"
        ip("link", "add", bridge, "type", "bridge")
        ip("tuntap", "add", "dev", tun, "mode", "tun")
        try:
            for name, why in ((bridge, "a bridge"), (tun, "no Ethernet"), ("lo", "no Ethernet")):
                with pytest.raises(NicError, match=f"the uplink {name}.*{why}"):
                    w.apply(w.vf(0), pf=with_uplink(w, name))
            with pytest.raises(NicError, match="no netdev of this host"):
                w.apply(w.vf(0), pf=with_uplink(w, "nonesuch"))
        finally:
            ip("link", "del", bridge)
            ip("link", "del", tun)
        w.apply(w.vf(0))


@pytest.mark.parametrize("guest", ["veth", "tap"])
def test_an_uplink_by_another_of_its_names_is_refused_with_the_one_to_write(guest: str) -> None:
    with world(guest=guest) as w:
        uplink, _ = w.wire()
        ip("link", "property", "add", "dev", uplink, "altname", f"{uplink}a")
        with pytest.raises(NicError, match=f"another name of {uplink}: write {uplink}"):
            w.apply(pf=with_uplink(w, f"{uplink}a"))
        assert uplink in names()


@pytest.mark.parametrize("ends", ["another uplink", "a kill and another uplink", "removed"])
@pytest.mark.parametrize("guest", ["veth", "tap"])
@pytest.mark.parametrize("was", ["up", "down", "of a manager"])
def test_an_uplink_is_given_back_as_it_was(was: str, guest: str, ends: str) -> None:
    with world(guest=guest) as w:
        uplink, far = w.wire()
        ip("link", "property", "add", "dev", uplink, "altname", f"{uplink}-alt")
        ip("link", "set", uplink, "mtu", "2000")
        if was == "of a manager":  # NetworkManager makes link-local addresses itself
            ip("link", "set", uplink, "addrgenmode", "none", "promisc", "on", "alias", "rack 7; x")
        if was != "down":
            ip("link", "set", uplink, "up")
            until_addresses_settle(uplink)
        had = shown(uplink)
        w.apply(w.vf(0), pf=with_uplink(w, uplink))
        w.settle()
        assert w.nic.link().up
        if ends == "removed":
            w.nic.close()
            soft.destroy(w.pf)
        else:
            if ends == "a kill and another uplink":
                w.nic.close()
                w.nic = soft.open(w.pf)
            w.apply(pf=with_uplink(w, None))
        if was != "down":
            until_addresses_settle(uplink)
        assert shown(uplink) == had
        w.apply(pf=with_uplink(w, None)) if ends != "removed" else None
        del far


def until_addresses_settle(netdev: str) -> None:
    """IPv6 makes sure that its address is nobody else's before it has it."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        (found,) = json.loads(ip("-j", "addr", "show", "dev", netdev))
        made = [one for one in found["addr_info"] if one["scope"] == "link"]
        wanted = "none" not in ip("-d", "link", "show", "dev", netdev).split("addrgenmode")[1][:6]
        if not any(one.get("tentative") for one in made) and bool(made) == wanted:
            return
        time.sleep(0.05)


def test_a_wire_that_comes_back_in_use_is_left_and_the_vfs_go_on() -> None:
    with world() as w:
        uplink, far = w.wire()
        w.apply(w.vf(0), w.vf(1), pf=with_uplink(w, uplink))
        w.settle()
        ip("-n", far, "link", "del", "eth0")
        w.until(lambda e: e.kind is EventKind.LINK and not w.nic.link().up)
        ip("link", "add", uplink, "type", "veth", "peer", "name", "eth0", "netns", far)
        ip("addr", "add", "192.0.2.7/24", "dev", uplink)
        try:
            ip("link", "set", uplink, "up")
            w.settle()
            w.apply(w.vf(0, allow_bcast=False))
            assert "192.0.2.7/24" in w.nic.link().why
            assert "192.0.2.7" in ip("addr", "show", "dev", uplink)
        finally:
            ip("link", "del", uplink)


def test_an_uplink_that_a_killed_daemon_did_not_release_is_given_back() -> None:
    with world() as w:
        (one, _), (other, _) = w.wire(), second_wire(w)
        w.apply(w.vf(0), pf=with_uplink(w, one))
        w.nic.close()
        # as if killed while another uplink was taken, or before a former one was released
        bring(w, other)
        w.nic = soft.open(w.pf)
        assert other in names()
        assert one in ip("-n", f"vfd-{w.id}", "-o", "link")


def test_a_nic_that_is_removed_gives_back_every_uplink() -> None:
    with world() as w:
        (one, _), (other, _) = w.wire(), second_wire(w)
        w.apply(w.vf(0), pf=with_uplink(w, one))
        w.nic.close()
        bring(w, other)
        soft.destroy(with_uplink(w, None))
        assert {one, other} <= names()
        assert not namespace.exists(f"vfd-{w.id}")


def test_a_guests_netdev_that_is_called_like_the_lost_uplink_is_not_taken_for_it() -> None:
    with world() as w:
        uplink, far = w.wire()
        w.apply(w.vf(0), pf=with_uplink(w, uplink))
        w.guest(0, up=False)
        w.settle()
        ip("-n", far, "link", "del", "eth0")
        w.until(lambda e: e.kind is EventKind.LINK and not w.nic.link().up)
        w.settle()
        ip("-n", w.guests[0], "link", "set", "eth0", "name", uplink)
        ip("-n", w.guests[0], "link", "add", "x", "type", "veth", "peer", "name", "y")
        assert [e for e in w.settle() if e.kind in (EventKind.DRIFT, EventKind.LINK)] == []


def lay(uplink: str, far: str) -> None:
    """A cable between the uplink and its station, both made for it."""
    ip("link", "add", uplink, "type", "veth", "peer", "name", "eth0", "netns", far)
    ip("-n", far, "link", "set", "eth0", "up")
    ip("link", "set", uplink, "up")


@pytest.mark.parametrize("lost", ["nothing", "a VF"])
def test_a_wire_that_is_there_again_is_told_also_where_something_else_finds_it(lost: str) -> None:
    with world() as w:
        uplink, far = w.wire()
        w.apply(w.vf(0), w.vf(1), pf=with_uplink(w, uplink))
        w.guest(1)
        w.settle()
        ip("-n", far, "link", "del", "eth0")
        w.until(lambda e: e.kind is EventKind.LINK and not w.nic.link().up)
        w.settle()
        if lost == "a VF":  # it is heard of first, and making it anew finds the wire
            lose_unheard(w, 1)
            lay(uplink, far)
        else:
            lay(uplink, far)
            w.apply(w.vf(0, allow_bcast=False))
        told = [e.text for e in w.settle() if e.kind is EventKind.LINK]
        assert told
        assert told[-1].endswith("is up")
        assert w.nic.link().up
        assert w.nic.observe().vfs[0].link_up


def test_of_an_uplink_that_is_replaced_at_once_the_last_word_is_what_holds() -> None:
    with world() as w:
        uplink, far = w.wire()
        w.apply(w.vf(0), pf=with_uplink(w, uplink))
        w.settle()
        ip("-n", far, "link", "del", "eth0")
        lay(uplink, far)
        told = [e.text for e in w.settle() if e.kind is EventKind.LINK]
        assert told
        assert told[-1].endswith("is up")
        assert w.nic.link().up
