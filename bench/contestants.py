"""What is compared: two guests joined by a bare veth pair, by switches without policy or with the
anti-spoofing that can be had from them, by eBPF programs that do nothing but deliver, and by vfd's
software NIC with a full policy.

Each contestant has ``vfs`` ports, of which the first two have a guest in a namespace of its own;
the rest exist, are up and are idle, as most of a host's VFs are at any instant. All contestants of
a race exist at the same time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import tcx
from bench.tenants import wire
from bench.traffic import BenchError, Guest, Lane, Tools, run
from vfd.nic import soft
from vfd.nic.soft import libbpf
from vfd.policy.values import PfPolicy

HERE = Path(__file__).parent
CLSACT, TCX = "clsact", "TCX"
FIRST_VF = 0x100
"""The interface index of VF 0's host end, in the NIC's namespace and in the floor's."""
_UPLINKS = range(0x90, 0xA0)
"""Those of wires there."""
VLAN = 100
_numbers = itertools.count()


def mac_of(port: int) -> str:
    return f"02:be:00:00:{port >> 8:02x}:{port & 255:02x}"


OTHER_MAC = "02:be:00:01:00:00"
"""A further MAC of guest 0."""


class Contestant(ABC):
    """One way to join guests. A context: everything it makes is gone at its end."""

    name: str
    policy: str
    """What it enforces, in words for the table."""
    hook = ""
    peer = True

    def __init__(self, vfs: int | None = None) -> None:
        self.vfs = vfs
        self.prefix = f"vb{os.getpid() % 10000}n{next(_numbers)}"
        self._namespaces: list[str] = []

    def __enter__(self) -> Contestant:
        try:
            self.build()
        except BaseException:
            self.tear_down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.tear_down()

    @abstractmethod
    def build(self) -> None: ...

    def tear_down(self) -> None:
        for netns in reversed(self._namespaces):
            with contextlib.suppress(BenchError):
                run("ip", "netns", "del", netns)

    def guest(self, port: int) -> Guest:
        return Guest(f"{self.prefix}g{port}", "eth0", mac_of(port), f"10.9.0.{port + 1}")

    def lane(self) -> Lane:
        """From guest 0 to guest 1."""
        return Lane(self.name, self.policy, self.vfs, self.hook, self.guest(0), (self.guest(1),),
                    peer=self.peer)  # fmt: skip

    def swallow(self, sink: Path, *, netns: str = "", stop: bool = False) -> None:
        """Makes receivers drop what comes, at no cost, once their netdev has counted it: guest 1's,
        or all netdevs of a namespace. ``stop``: no longer."""
        where = netns or self.guest(1).netns
        links = json.loads(run("ip", "-n", where, "-j", "link", "show", "type", "veth"))
        tc = ("ip", "netns", "exec", where, "tc")
        hook = "clsact" if stop else "ingress_block 7 clsact"
        run(*tc, "-batch", "-", stdin="\n".join(
            f"qdisc {'del' if stop else 'add'} dev {link['ifname']} {hook}" for link in links
        ))  # fmt: skip
        if not stop:
            run(*tc, "filter", "add", "block", "7", "pref", "1", "handle", "1", "bpf", "da",
                "obj", str(sink), "sec", "tc")  # fmt: skip

    def netns(self, suffix: str) -> str:
        name = f"{self.prefix}{suffix}"
        run("ip", "netns", "add", name)
        self._namespaces.append(name)
        run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1",
            "net.ipv6.conf.default.disable_ipv6=1")  # fmt: skip
        return name

    def address(self, port: int) -> None:
        """Gives a guest its address, its peer's and a link that is up."""
        me, peer = self.guest(port), self.guest(1 - port)
        run("ip", "-n", me.netns, "-batch", "-", stdin=f"""
            link set {me.netdev} address {me.mac} up
            addr add {me.address}/24 dev {me.netdev}
            neigh replace {peer.address} lladdr {peer.mac} dev {me.netdev}
        """)  # fmt: skip


class Generator(Contestant):
    """No receiver: what sending frames costs by itself."""

    name = "generator"
    policy = "frames are dropped"

    def build(self) -> None:
        netns = self.netns("g0")
        for kind in ("dummy", "ifb"):  # either drops what is sent on it
            with contextlib.suppress(BenchError):
                run("ip", "-n", netns, "link", "add", "eth0", "type", kind)
                break
        run("ip", "-n", netns, "link", "set", "eth0", "up")

    def lane(self) -> Lane:
        nobody = Guest("", "", mac_of(1))
        return Lane(self.name, self.policy, None, "", self.guest(0), (nobody,))


class BareVeth(Contestant):
    """The yardstick: one veth pair, nothing between the guests."""

    name = "bare veth"
    policy = "none, two ports only"

    def build(self) -> None:
        first, second = self.netns("g0"), self.netns("g1")
        run("ip", "-n", first, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0",
            "netns", second)  # fmt: skip
        for port in (0, 1):
            self.address(port)


class _VethPorts(Contestant):
    """Veth ports ``p0`` … in a switch namespace, guests' ends in theirs."""

    def ports_in(self, switch: str, ports: int) -> None:
        guests = [self.netns("g0"), self.netns("g1")]
        park = self.netns("park")
        lines = []
        queues = "numtxqueues 1 numrxqueues 1"
        for port in range(ports):
            where, name = (guests[port], "eth0") if port < 2 else (park, f"e{port}")
            lines.append(
                f"link add p{port} index {FIRST_VF + port} {queues} type veth"
                f" peer name {name} address {mac_of(port)} {queues} netns {where}"
            )
            lines.append(f"link set p{port} up")
        run("ip", "-n", switch, "-batch", "-", stdin="\n".join(lines))
        run("ip", "-n", park, "-batch", "-",
            stdin="\n".join(f"link set e{port} up" for port in range(2, ports)))  # fmt: skip
        for port in (0, 1):
            self.address(port)


class Floor(_VethPorts):
    """An empty program delivers: what no policy on the same hooks can cost less than."""

    name = "floor"

    def __init__(self, tools: Tools, hook: str, *, peer: bool) -> None:
        super().__init__()
        self.hook = hook
        self.peer = peer
        self.policy = f"empty, {'redirect_peer' if peer else 'redirect'}"
        self._tools = tools

    def build(self) -> None:
        """Raises BpfError where the kernel has no such hook."""
        switch = self.netns("sw")
        self.ports_in(switch, 2)
        program = "peer" if self.peer else "plain"
        loaded = libbpf.load(self._tools.floor.read_bytes())
        try:
            for port in (0, 1):
                if self.hook == TCX:
                    tcx.attach(switch, FIRST_VF + port, loaded.programs[program])
                    continue
                tc = ("ip", "netns", "exec", switch, "tc")
                run(*tc, "qdisc", "add", "dev", f"p{port}", "clsact")
                run(*tc, "filter", "add", "dev", f"p{port}", "ingress", "bpf", "da", "obj",
                    str(self._tools.floor), "sec", f"tc/{program}")  # fmt: skip
        finally:
            loaded.close()


class Bridge(_VethPorts):
    """A Linux bridge: it forwards and enforces nothing."""

    name = "bridge"
    policy = "none"

    def __init__(self, vfs: int) -> None:
        super().__init__(vfs)
        self.ports = vfs

    def build(self) -> None:
        self.switch = self.netns("sw")
        self.ports_in(self.switch, self.ports)
        lines = ["link add br0 type bridge", "link set br0 up"]
        lines += [f"link set p{port} master br0" for port in range(self.ports)]
        # it is told what it would learn, and would forget where a guest only receives
        run("ip", "-n", self.switch, "-batch", "-", stdin="\n".join(lines))
        for port in (0, 1):
            run("ip", "netns", "exec", self.switch, "bridge", "fdb", "replace", mac_of(port), "dev",
                f"p{port}", "master", "static")  # fmt: skip


class BridgeNft(Bridge):
    """The bridge, with nftables checking each port's source MAC against a set, and that no guest
    names a VLAN."""

    name = "nft bridge"
    policy = "MAC, VLAN anti-spoofing"

    def build(self) -> None:
        super().build()
        owners = ", ".join(f'"p{port}" . {mac_of(port)}' for port in range(self.ports))
        run("ip", "netns", "exec", self.switch, "nft", "-f", "-", stdin=f"""
            table bridge spoof {{
                set owners {{ type ifname . ether_addr; elements = {{ {owners} }} }}
                chain in {{
                    type filter hook prerouting priority 0;
                    iifname . ether saddr != @owners counter drop
                    ether type {{ 8021q, 8021ad }} counter drop
                }}
            }}
        """)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Version:
    """A vfd to measure: its name in tables, and the folder with its ``src``."""

    name: str
    root: Path


THIS = Version("vfd", HERE.parent)


class SoftNic(Contestant):
    """vfd's software NIC: every check on, forced MACs, switching by table between its VFs. Where
    this vfd and the kernel have TCX, ``hook`` is that, unless ``clsact`` says no."""

    def __init__(
        self,
        vfs: int,
        version: Version = THIS,
        *,
        vlan: bool = False,
        clsact: bool = False,
        wired: bool = False,
    ) -> None:
        """``vlan``: all are in one, whose tag the NIC inserts and strips. ``wired``: has a wire."""
        super().__init__(vfs)
        self.name = version.name
        self.policy = "full, access VLAN" if vlan else "full, untagged"
        self.ports = vfs
        self.vlan = vlan
        self._id = self.prefix[1:]
        self._pf: dict[str, Any] = {
            "id": self._id, "backend": "soft", "vfs": vfs, "enable_loopback": True
        }  # fmt: skip
        self._version, self._clsact, self._wired = version, clsact, wired
        self._held = contextlib.ExitStack()

    @property
    def _host_ends(self) -> range:
        return range(FIRST_VF, FIRST_VF + self.ports)

    @property
    def _switch(self) -> str:
        return f"vfd-{self._id}"

    def build(self) -> None:
        if self._wired:
            self._pf["uplink"] = self._held.enter_context(wire(self.prefix))
        with subprocess.Popen(
            [sys.executable, "-P", str(HERE / "softnic.py")],
            env={**os.environ, "PYTHONPATH": str(self._version.root / "src")},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as daemon:  # fmt: skip
            assert daemon.stdin is not None
            assert daemon.stdout is not None
            vfs = [self._vf(port) for port in range(self.ports)]
            print(json.dumps({"pf": self._pf, "vfs": vfs}), file=daemon.stdin, flush=True)
            if daemon.stdout.readline() != "made\n":
                raise BenchError(f"{self.name} made no software NIC: what it said is above")
            self._seat_guests()
            self._come_to_rest()
        if daemon.returncode:
            raise BenchError(f"{self.name} broke down: what it said is above")
        if self._clsact:
            tcx.detach(self._switch, self._host_ends)
        hooked = len(tcx.attached(self._switch, self._host_ends))
        if hooked not in (0, self.ports):
            raise BenchError(f"{self.name}: {hooked} of {self.ports} VFs have their TCX hook")
        self.hook = TCX if hooked else CLSACT

    def _seat_guests(self) -> None:
        park = self.netns("park")
        lines = []
        for port in range(self.ports):
            where, name = (self.netns(f"g{port}"), "eth0") if port < 2 else (park, f"e{port}")
            lines.append(f"link set {self._id}v{port} netns {where} name {name}")
        run("ip", "-batch", "-", stdin="\n".join(lines))
        run("ip", "-n", park, "-batch", "-",
            stdin="\n".join(f"link set e{port} up" for port in range(2, self.ports)))  # fmt: skip
        for port in (0, 1):
            self.address(port)

    def _come_to_rest(self) -> None:
        """Until the daemon has seen its guests, and its TCX hooks are there or don't come."""
        seen = -1
        while (now := len(tcx.attached(self._switch, self._host_ends))) > seen:
            seen = now
            time.sleep(1)

    def _vf(self, port: int) -> dict[str, Any]:
        more = [OTHER_MAC] if port == 0 else []
        tagging: dict[str, Any] = (
            {"vlans": [VLAN], "strip_ctag": True}
            if self.vlan
            else {"vlans": [], "allow_untagged": True}
        )
        return {"name": f"bench{port}", "pciid": self._id, "vfid": port, "vm_mac": mac_of(port),
                "macs": more, **tagging}  # fmt: skip

    def tear_down(self) -> None:
        soft.destroy(PfPolicy.model_validate(self._pf))
        self._held.close()
        super().tear_down()

    # Other flows than from guest 0 to guest 1

    def flows(self) -> Iterator[Lane]:
        """Of a wired one."""
        first, second = self.guest(0), self.guest(1)
        others = tuple(
            Guest(f"{self.prefix}park", f"e{port}", mac_of(port)) for port in range(2, self.ports)
        )
        world = Guest(f"{self.prefix}w", "wire", "02:99:00:00:00:01")
        row = (self.vfs, self.hook)
        wire_hook = TCX if tcx.attached(self._switch, _UPLINKS) else CLSACT
        yield Lane(self.name, "one destination", *row, first, (second,))
        yield Lane(self.name, "destinations in turn", *row, first, others)
        yield Lane(self.name, "from a further MAC", *row, first, (second,), OTHER_MAC)
        yield Lane(self.name, "wire to VF", self.vfs, wire_hook, world, (second,))
        yield Lane(self.name, "VF to wire", *row, first, (world,), peer=False)
