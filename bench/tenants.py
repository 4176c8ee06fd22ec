"""Tenants of a software NIC, and how long each has to wait: what ``make abuse`` looks at.

All of it is seen from outside: frames on the wire, the state of a netdev, answers of the API.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench import netdev
from bench.host import Host
from bench.traffic import BenchError, run
from vfd.api.client import Client, NoDaemonError
from vfd.nic.soft import namespace
from vfd.policy.addresses import mac_text

MARK = b"\x88\xb5"
"""The EtherType of all frames here: IEEE 802 local experimental, number 1."""
SPOOFED = b"\x02\x5f"
"""How the source MACs of frames begin that must not pass."""
VILLAIN, TENANT, CHANGED, DAMAGED, TALKER = range(5)
"""VFs: whose guest attacks; whose guest wants another MAC; that the operator changes; whose netdev
somebody sets down; whose guest sends without a pause."""
PATIENCE = 100.0
"""Seconds after which waiting for anything is given up."""
PAUSE = 0.001
_PACKET_IGNORE_OUTGOING, _SOL_PACKET, _SO_RCVBUFFORCE = 23, 263, 33

POLICIES: dict[str, dict[str, Any]] = {
    f"vf{vfid}": {"vfid": vfid, "allow_untagged": True, "allow_bcast": False, "trust": True}
    for vfid in range(5)
}
"""Each guest may choose its MAC, so that there is much to ask for."""


def _packet_socket(netns: str, name: str, protocol: int = 0) -> socket.socket:
    with namespace.inside(netns):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
    sock.bind((name, protocol))
    sock.setblocking(False)
    return sock


class Tenants:
    """Guests in namespaces at the VFs of a host's NIC, and a station at its wire."""

    def __init__(self, host: Host, prefix: str, stack: contextlib.ExitStack) -> None:
        """``prefix`` begins the names of all namespaces; the wire's is ``PREFIXw`` already."""
        self.host = host
        self.prefix = prefix
        self.client = Client(str(host.socket))
        self._turn = 0
        self._up = False
        self._vlan = 100
        for vfid in (VILLAIN, TENANT, TALKER):
            self.seat(vfid, stack)
        self._wire = stack.enter_context(
            _packet_socket(f"{prefix}w", "wire", int.from_bytes(MARK, "big"))
        )
        self._tenant = stack.enter_context(_packet_socket(self.netns(TENANT), "eth0"))
        self._talker = stack.enter_context(_packet_socket(self.netns(TALKER), "eth0"))
        with namespace.inside(self.netns(TENANT)):
            self._interface = stack.enter_context(netdev.control())
        with namespace.inside(f"vfd-{host.nic}"):
            self._inside = stack.enter_context(netdev.control())
        self._talks_from = self._mac_of(TALKER)
        self.sent = self.heard = self.escaped = 0

    def netns(self, vfid: int) -> str:
        return f"{self.prefix}g{vfid}"

    def seat(self, vfid: int, stack: contextlib.ExitStack) -> None:
        """A guest in a new namespace gets the VF as its ``eth0``."""
        netns = self.netns(vfid)
        namespace.create(netns)
        stack.callback(namespace.remove, netns)
        quiet = ("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1",
                 "net.ipv6.conf.default.disable_ipv6=1")  # fmt: skip
        run("ip", "netns", "exec", netns, *quiet)
        run("ip", "link", "set", f"{self.host.nic}v{vfid}", "netns", netns, "name", "eth0")
        run("ip", "-n", netns, "link", "set", "eth0", "up", "arp", "off")

    def _mac_of(self, vfid: int) -> bytes:
        netns = self.netns(vfid)
        text = run("ip", "-n", netns, "-o", "link", "show", "eth0").split("link/ether ")[1][:17]
        return bytes.fromhex(text.replace(":", ""))

    # What is measured: each returns seconds

    def guests_mac(self) -> float:
        """From the instant in which a guest sets another MAC until the wire hears it."""
        self._turn += 1
        mac = struct.pack("!HI", 0x0277, self._turn)
        began = time.perf_counter()
        netdev.set_mac(self._interface, "eth0", mac)
        while time.perf_counter() - began < PATIENCE:
            with contextlib.suppress(OSError):
                self._tenant.send(b"\x02\x99" + bytes(4) + mac + MARK + bytes(46))
            if mac in self._listen(PAUSE):
                return time.perf_counter() - began
        raise BenchError(f"the guest's MAC {mac_text(mac)} was not granted in {PATIENCE:g} s")

    def update(self) -> float:
        """An operator's change of a VF, from request to answer."""
        self._vlan = self._vlan % 4000 + 1
        policy = {**POLICIES[f"vf{CHANGED}"], "vlans": [self._vlan]}
        return _persistent(lambda: self.host.update(f"vf{CHANGED}", policy))

    def repair(self) -> float:
        """From the instant in which somebody sets a VF's netdev down until it is up again."""
        host_end = f"v{DAMAGED}"
        began = time.perf_counter()
        netdev.set_flag(self._inside, host_end, netdev.IFF_UP, False)
        while time.perf_counter() - began < PATIENCE:
            if netdev.flags(self._inside, host_end) & netdev.IFF_UP:
                return time.perf_counter() - began
            time.sleep(PAUSE)
        raise BenchError(f"{host_end} was not set up again in {PATIENCE:g} s")

    def ping(self) -> float:
        """Root asks the daemon for its version, as ``iplex ping`` does."""
        return _persistent(lambda: self.client.get("/v1/version"))

    # What must not happen

    def talk(self) -> None:
        """One frame of a guest that does nothing wrong, to the wire."""
        payload = struct.pack("!I", self.sent) + bytes(42)
        self._talker.send(b"\x02\x98" + bytes(4) + self._talks_from + MARK + payload)
        self.sent += 1

    def settle(self) -> None:
        """Takes in what is on its way still."""
        self._listen(0.3)

    def _listen(self, seconds: float) -> set[bytes]:
        """The sources of all frames that come to the wire within that time; counts them."""
        sources: set[bytes] = set()
        end = time.perf_counter() + seconds
        while select.select([self._wire], [], [], max(0.0, end - time.perf_counter()))[0]:
            source = self._wire.recv(2048)[6:12]
            sources.add(source)
            self.heard += source == self._talks_from
            self.escaped += source.startswith(SPOOFED)
        return sources


def _persistent(ask: Callable[[], object]) -> float:
    """Seconds until it is answered; who is told that there is no daemon asks again."""
    began = time.perf_counter()
    while True:
        try:
            ask()
        except NoDaemonError:
            if time.perf_counter() - began > PATIENCE:
                raise
        else:
            return time.perf_counter() - began


@contextlib.contextmanager
def wire(prefix: str) -> Iterator[str]:
    """The uplink for a NIC: a netdev here, whose other end is ``wire`` in namespace ``PREFIXw``."""
    with contextlib.ExitStack() as stack:
        netns, uplink = f"{prefix}w", f"{prefix}u"
        namespace.create(netns)
        stack.callback(namespace.remove, netns)
        run("ip", "link", "add", uplink, "type", "veth", "peer", "name", "wire", "netns", netns)
        stack.callback(_quietly, "ip", "link", "del", uplink)
        run("ip", "-n", netns, "link", "set", "wire", "up", "arp", "off")
        yield uplink


def _quietly(*command: str) -> None:
    with contextlib.suppress(BenchError):
        run(*command)


def prefix() -> str:
    """Begins the names of all that this process makes."""
    return f"ab{os.getpid() % 100000}"
