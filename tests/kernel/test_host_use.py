"""A PF on which the host's own network hangs is known, and said before it is changed."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.modelled_nic import ADDRESS, plain_pf
from tests.kernel.test_modelled_pfs import daemon_on, reload
from tests.kernel.vf_operations import PlainVfs, VfSeen

from vfd.api import views
from vfd.nic.kernel.host_use import host_use
from vfd.nic.netlink import Netlink
from vfd.nic.soft import namespace


def ip(*arguments: str) -> str:
    command = ["ip", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"use-{secrets.token_hex(3)}"
    far = f"{name}-far"
    for one in (name, far):
        ip("netns", "add", one)
    ip("-n", name, "link", "add", "pf", "type", "veth", "peer", "name", "far", "netns", far)
    ip("-n", name, "link", "set", "pf", "up")
    ip("-n", far, "link", "set", "far", "up")
    yield name
    for one in (name, far):
        ip("netns", "del", one)


def use_of(netns: str) -> str:
    index = json.loads(ip("-n", netns, "-j", "link", "show", "pf"))[0]["ifindex"]
    with namespace.inside(netns):
        netlink = Netlink()
    try:
        return host_use(netlink, index)
    finally:
        netlink.close()


@pytest.mark.root
def test_a_netdev_that_nobody_uses_has_its_link_local_address_alone(netns: str) -> None:
    for _ in range(50):
        if "fe80" in ip("-n", netns, "addr", "show", "pf"):
            break
        time.sleep(0.1)
    assert use_of(netns) == ""


@pytest.mark.root
@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (["addr add 192.0.2.7/24 dev pf"], "it has 192.0.2.7/24"),
        (["addr add 2001:db8::7/64 dev pf nodad"], "it has 2001:db8::7/64"),
        (["route add default dev pf"], "the default route leads over it"),
        (["-6 route add default dev pf"], "the default route leads over it"),
        (["addr add 192.0.2.7/24 dev pf", "route add 10.0.0.0/8 dev pf"], "it has 192.0.2.7/24"),
    ],
)
def test_what_hangs_on_it_is_said(netns: str, commands: list[str], said: str) -> None:
    for command in commands:
        ip("-n", netns, *command.split())
    assert use_of(netns) == said


@pytest.mark.root
@pytest.mark.parametrize("what", ["master", "upper"])
def test_what_it_belongs_to_and_what_is_above_it_is_said(what: str) -> None:
    one, other = (f"use{secrets.token_hex(3)}" for _ in range(2))
    ip("link", "add", one, "type", "veth", "peer", "name", f"{one}p")
    try:
        if what == "master":
            ip("link", "add", other, "type", "bridge")
            ip("link", "set", one, "master", other)
        else:
            ip("link", "add", other, "link", one, "type", "macvlan")
        netlink, index = Netlink(), socket.if_nametoindex(one)
        said = host_use(netlink, index)
        netlink.close()
    finally:
        ip("link", "del", one)
        subprocess.run(["ip", "link", "del", other], capture_output=True, check=False)
    assert said == (f"it is a port of {other}" if what == "master" else f"{other} is above it")


def test_a_pf_that_the_host_uses_is_warned_of_and_keeps_the_mtu_that_nobody_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with plain_pf("ice", PlainVfs([VfSeen()])) as device:
        device.netdev.mtu = 9000
        device.netdev.addresses = ["192.0.2.7"]
        with daemon_on(device, tmp_path, monkeypatch) as (service, managed):
            assert device.netdev.mtu == 9000
            [row] = views.show(service, ADDRESS, None, extended=True).rows[:1]
            warned = "\n".join(row.warnings)
            assert "192.0.2.7/24" in warned
            assert "mtu is 9000" in warned
            assert managed.condition == "ok"
            reload(service, tmp_path, mtu=1500)
            assert device.netdev.mtu == 1500
            device.netdev.addresses = []
            managed.look()
            reload(service, tmp_path, mtu=1400)
            assert "192.0.2.7" not in "\n".join(
                views.show(service, ADDRESS, None, extended=True).rows[0].warnings
            )


def test_a_pf_that_nobody_uses_has_the_mtu_of_the_policies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with plain_pf("ice", PlainVfs([VfSeen()])) as device:
        device.netdev.mtu = 9000
        with daemon_on(device, tmp_path, monkeypatch):
            assert device.netdev.mtu == 1500
