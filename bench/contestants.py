"""What is compared: two guests joined by a bare veth pair, by a switch without policy, by switches
with the anti-spoofing that can be had from them, and by vfd's software NIC with a full policy.

Each contestant has ``ports`` ports, of which the first two have a guest in a namespace of its own;
the rest exist, are up and are idle, as most of a host's VFs are at any instant.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from bench.traffic import BenchError, Guest, process_cpu, run
from vfd.nic import soft
from vfd.plan.changes import Change, PfChange, VfChange
from vfd.policy.resolve import resolve
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy


def mac_of(port: int) -> str:
    return f"02:be:00:00:{port >> 8:02x}:{port & 255:02x}"


class Contestant(ABC):
    """One way to join guests. A context: everything it makes is gone at its end."""

    name: str
    policy: str
    """What it enforces, in words for the table."""

    def __init__(self, ports: int) -> None:
        self.ports = ports
        self.prefix = f"vb{os.getpid() % 10000}{self.name[:2].strip().lower()}{id(self) % 97}"
        self._namespaces: list[str] = []

    @abstractmethod
    def build(self) -> None: ...

    def tear_down(self) -> None:
        for netns in reversed(self._namespaces):
            with contextlib.suppress(BenchError):
                run("ip", "netns", "del", netns)

    def helper_cpu(self) -> float:
        """CPU time so far of processes that carry packets, seconds."""
        return 0.0

    def guest(self, port: int) -> Guest:
        return Guest(f"{self.prefix}g{port}", "eth0", mac_of(port), f"10.9.0.{port + 1}")

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

    def ports_in(self, switch: str) -> None:
        guests = [self.netns("g0"), self.netns("g1")]
        park = self.netns("park")
        lines = []
        for port in range(self.ports):
            where, name = (guests[port], "eth0") if port < 2 else (park, f"e{port}")
            lines.append(
                f"link add p{port} type veth peer name {name} address {mac_of(port)} netns {where}"
            )
            lines.append(f"link set p{port} up")
        run("ip", "-n", switch, "-batch", "-", stdin="\n".join(lines))
        run("ip", "-n", park, "-batch", "-",
            stdin="\n".join(f"link set e{port} up" for port in range(2, self.ports)))  # fmt: skip
        for port in (0, 1):
            self.address(port)


class Bridge(_VethPorts):
    """A Linux bridge: it forwards and enforces nothing."""

    name = "bridge"
    policy = "none"

    def build(self) -> None:
        switch = self.netns("sw")
        self.ports_in(switch)
        lines = ["link add br0 type bridge", "link set br0 up"]
        lines += [f"link set p{port} master br0" for port in range(self.ports)]
        run("ip", "-n", switch, "-batch", "-", stdin="\n".join(lines))
        self.switch = switch


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


class OpenVSwitch(_VethPorts):
    """Open vSwitch's userspace datapath, as one has it without its kernel module or DPDK."""

    name = "ovs user"
    policy = "MAC, VLAN anti-spoofing"

    def build(self) -> None:
        switch = self.netns("sw")
        self.ports_in(switch)
        self._folder = tempfile.TemporaryDirectory(prefix="vfd-bench-ovs-")
        where = self._folder.name
        self._processes: list[subprocess.Popen[bytes]] = []
        run("ovsdb-tool", "create", f"{where}/conf.db",
            "/usr/share/openvswitch/vswitch.ovsschema")  # fmt: skip
        self._start(["ovsdb-server", f"{where}/conf.db", f"--remote=punix:{where}/db.sock",
                     f"--unixctl={where}/db.ctl"])  # fmt: skip
        self._vsctl = ("ovs-vsctl", f"--db=unix:{where}/db.sock")
        for _ in range(100):
            if Path(f"{where}/db.sock").exists():
                break
            time.sleep(0.05)
        run(*self._vsctl, "--no-wait", "init")
        self._start(["ip", "netns", "exec", switch, "ovs-vswitchd", f"unix:{where}/db.sock",
                     f"--unixctl={where}/vs.ctl"])  # fmt: skip
        adds = ["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"]
        for port in range(self.ports):
            adds += ["--", "add-port", "br0", f"p{port}", "--", "set", "interface", f"p{port}",
                     f"ofport_request={port + 1}"]  # fmt: skip
        run(*self._vsctl, "--timeout=60", *adds)
        flows = [f"priority=10,in_port={port + 1},dl_src={mac_of(port)},vlan_tci=0,actions=normal"
                 for port in range(self.ports)]  # fmt: skip
        management = f"unix:{where}/br0.mgmt"
        run("ovs-ofctl", "replace-flows", management, "-",
            stdin="\n".join([*flows, "priority=0,actions=drop"]))  # fmt: skip
        for port in (0, 1):  # it forwards checksums that the guest left to the NIC as they are
            guest = self.guest(port)
            run("ip", "netns", "exec", guest.netns, "ethtool", "-K", guest.netdev, "tx", "off")

    def _start(self, command: list[str]) -> None:
        environment = {**os.environ, "OVS_RUNDIR": self._folder.name}
        self._processes.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )

    def helper_cpu(self) -> float:
        return process_cpu(self._processes[1].pid)

    def tear_down(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            process.wait(10)
        self._folder.cleanup()
        super().tear_down()


class SoftNic(Contestant):
    """vfd's software NIC: every check on, forced MACs, switching by table between its VFs."""

    name = "soft NIC"
    policy = "full, untagged"
    vlan: int | None = None

    def build(self) -> None:
        self._id = f"b{os.getpid() % 10000}{'v' if self.vlan else 'u'}"
        self._pf = PfPolicy(id=self._id, backend="soft", vfs=self.ports, enable_loopback=True)
        vfs = tuple(self._vf(port) for port in range(self.ports))
        self._nic = soft.open(self._pf)
        desired = resolve(NicPolicy(pf=self._pf, vfs=vfs), self._nic.link().speed_bps or 10**10).nic
        changes: list[Change] = [PfChange(None, desired.pf)]
        changes += [VfChange(vf.vfid, None, vf.rules) for vf in desired.vfs]
        self._nic.apply(desired, changes)
        park = self.netns("park")
        lines = []
        for port in range(self.ports):
            where = self.netns(f"g{port}") if port < 2 else park
            lines.append(f"link set {self._id}v{port} netns {where}"
                         + (" name eth0" if port < 2 else ""))  # fmt: skip
        run("ip", "-batch", "-", stdin="\n".join(lines))
        run("ip", "-n", park, "-batch", "-", stdin="\n".join(
            f"link set {self._id}v{port} up" for port in range(2, self.ports)))  # fmt: skip
        for port in (0, 1):
            self.address(port)
        time.sleep(0.3)
        for _ in self._nic.events():  # the guests have come: direct delivery is set up
            pass

    def _vf(self, port: int) -> VfPolicy:
        tagging = {"vlans": (self.vlan,), "strip_ctag": True} if self.vlan else {
            "vlans": (), "allow_untagged": True}  # fmt: skip
        return VfPolicy.model_validate(
            {"name": f"bench{port}", "pciid": self._id, "vfid": port, "vm_mac": mac_of(port),
             **tagging}
        )  # fmt: skip

    def tear_down(self) -> None:
        self._nic.close()
        soft.destroy(self._pf)
        super().tear_down()


class SoftNicAccess(SoftNic):
    """The same with each guest in a VLAN whose tag the NIC inserts and strips."""

    name = "soft NIC VLAN"
    policy = "full, access VLAN"
    vlan = 100


CONTESTANTS: tuple[type[Contestant], ...] = (
    BareVeth,
    Bridge,
    BridgeNft,
    OpenVSwitch,
    SoftNic,
    SoftNicAccess,
)


@contextlib.contextmanager
def built(kind: type[Contestant], ports: int) -> Iterator[Contestant]:
    """A contestant, ready for traffic. Raises BenchError where its tools are missing."""
    contestant = kind(ports)
    try:
        contestant.build()
        yield contestant
    finally:
        contestant.tear_down()
