"""A soft NIC's uplink is another one; what goes wrong on the way leaves none behind."""

from __future__ import annotations

import subprocess

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
