"""The kernel's own flower under the same surface: real rules, real frames, the model's verdict.

netdevsim runs no rules, so here veth pairs stand for representors and uplink. They have no
offload: the kernel refuses ``skip_sw``, the surface falls back to the CPU, and the CPU does what
the rules say.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.kernel.test_switchdev_compile import drawn_frames, drawn_world
from tests.lab_netdevsim.simulated import run
from tests.packet.ports import PacketPort

from vfd.nic.kernel.flower import WIRE
from vfd.nic.kernel.flower_netlink import Tc
from vfd.nic.kernel.representors import Representors
from vfd.nic.kernel.surface import Assignment
from vfd.nic.kernel.switchdev import SwitchdevSurface
from vfd.nic.kernel.switchdev_netdevs import Netdevs
from vfd.nic.netlink import Netlink
from vfd.nic.protocol import Support
from vfd.policy.model import Model
from vfd.policy.rate import NONE, Rate
from vfd.policy.values import PfPolicy, VfRules

VFS = 4
NETNS = "guests"
_ALL = frozenset(VfRules.model_fields)


class Wires:
    """Veth pairs: ``r-1`` is the uplink, ``r0`` … the representors; ``g…`` their other ends."""

    def __init__(self) -> None:
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        run("ip", "netns", "add", NETNS)
        run("ip", "netns", "exec", NETNS, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        for port in range(WIRE, VFS):
            run("ip", "link", "add", f"r{port}", "type", "veth", "peer", "name", f"g{port}",
                "netns", NETNS)  # fmt: skip
            run("ip", "link", "set", f"r{port}", "up")
            run("ip", "-n", NETNS, "link", "set", f"g{port}", "up")
        self.ifindexes = {
            port: int(Path(f"/sys/class/net/r{port}/ifindex").read_text())
            for port in range(WIRE, VFS)
        }
        self.ends = {port: PacketPort(NETNS, f"g{port}") for port in range(WIRE, VFS)}

    def close(self) -> None:
        for end in self.ends.values():
            end.close()
        run("ip", "netns", "del", NETNS)

    def through(self, port: int, raw: bytes, expected: int) -> tuple[tuple[int, bytes], ...]:
        """Sends a frame and returns what arrives: ``expected`` frames and any more that come."""
        self.ends[port].send(raw)
        got: list[tuple[int, bytes]] = []
        end = time.monotonic() + 1
        while len(got) < expected and time.monotonic() < end:
            got += self.arrived()
        time.sleep(0.004)
        return tuple(sorted([*got, *self.arrived()]))

    def arrived(self) -> Iterator[tuple[int, bytes]]:
        for port, end in self.ends.items():
            while (raw := end.receive()) is not None:
                yield port, raw


@pytest.fixture
def wires() -> Iterator[Wires]:
    made = Wires()
    time.sleep(1.5)  # the kernel's link watch sees the carriers
    yield made
    made.close()


def test_rules_in_the_kernel_do_with_frames_what_the_model_does(wires: Wires) -> None:
    rng, checked, passed = Random(4), 0, 0
    netlink = Netlink()
    for _ in range(10):
        world = drawn_world(rng, VFS)
        surface = SwitchdevSurface(
            Tc(netlink),
            Netdevs(netlink),
            world.nic.pf,
            lambda: Representors(wires.ifindexes),
            lambda world=world: world.own_macs,  # type: ignore[misc]
            link_limit="",
        )
        surface.write_pf(world.nic.pf, world.nic.pf)
        # no limits: a policer's tokens are no matter of single frames
        unlimited = {"storm_limit": 0, "max_rx_rate": NONE}
        policies = tuple(vf.model_copy(update=unlimited) for vf in world.nic.vfs)
        nic = world.nic.model_copy(update={"vfs": policies})
        wanted = {vf.vfid: Assignment(vf.rules, _ALL) for vf in nic.vfs}
        closed = {vfid: Assignment(None, frozenset()) for vfid in range(VFS)}
        surface.write(closed)  # what one world forces may be another's own MAC
        surface.write(closed | wanted)
        shown = surface.read()
        for vf in nic.vfs:
            assert shown[vf.vfid] == surface.express(wanted[vf.vfid])
        assert surface.capabilities()["vlans"].support is Support.LIMITED
        limit = surface.capabilities()["vlans"].limit
        assert "by the CPU" in limit
        assert "hw-tc-offload is off and stays off at r-1" in limit
        model = Model(nic, {}, world.own_macs, wire_up=True)
        for port, raw in drawn_frames(rng, world, 30):
            whole = raw.ljust(64, b"\0")
            expected = model.process(port, whole).out
            assert wires.through(port, whole, len(expected)) == expected, (nic, port, whole.hex())
            checked += 1
            passed += bool(expected)
    assert checked == 300
    assert passed > 50


def test_what_a_vf_is_sent_above_its_limit_is_dropped_and_floods_are_not(wires: Wires) -> None:
    macs = {vfid: f"02:00:00:00:00:{vfid:02x}" for vfid in range(2)}
    pf = PfPolicy(id="none")
    surface = SwitchdevSurface(
        Tc(Netlink()),
        Netdevs(Netlink()),
        pf,
        lambda: Representors(wires.ifindexes),
        lambda: macs,
        link_limit="",
    )
    slow = VfRules(allow_untagged=True, max_rx_rate=Rate(bps=8000))  # the bucket is 64 KiB
    surface.write({vfid: Assignment(slow, _ALL) for vfid in range(2)})
    rest = bytes.fromhex("02ffffff0001" + "0800") + bytes(1400)

    def arrived(dst: str, count: int) -> int:
        for _ in range(count):
            wires.ends[WIRE].send(bytes.fromhex(dst.replace(":", "")) + rest)
        time.sleep(0.3)
        return sum(1 for port, _ in wires.arrived() if port == 0)

    assert 40 <= arrived(macs[0], 100) <= 50
    assert arrived("ff:ff:ff:ff:ff:ff", 20) == 20
    assert arrived(macs[0], 20) <= 1
