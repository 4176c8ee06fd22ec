"""Runs the shipped program on single frames and sees what it lets out, and where.

How: BPF_PROG_TEST_RUN runs the program on a frame as if it had come in at a netdev, but doesn't
carry out a redirect and shows no tag that is in the metadata. So the program is loaded with the
load-time constant ``clone``, which makes its last step ``bpf_clone_redirect`` instead of
``bpf_redirect``: that one is carried out. Every port is a real netdev, one end of a veth, in a
namespace of the rig's own, with the ifindex that the NIC gives it, but for the last two VFs, which
have each other's; a packet socket sees what is sent on it, with the tag that is in the metadata.
All else is the program as it is shipped.

What it can't show: the one instruction that ``clone`` replaces, frames longer than a page, and
segmentation offload; tests/soft and tests/packet send those through the whole NIC. Frames shorter
than an Ethernet header it can't make, and no guest can either: see tests/soft/test_short_frames.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

from vfd.nic.soft import layout
from vfd.nic.soft.tables import Tables
from vfd.nic.soft.vebmaps import Veb

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_AUXDATA = 8
_VLAN_VALID = 1 << 4
_VLAN_TPID_VALID = 1 << 6
_SO_RCVBUFFORCE = 33

SK_BUFF_SIZE = 192
SK_BUFF_MARK = 8
SK_BUFF_IFINDEX = 40
"""Bytes: the size of struct __sk_buff, and where in it the fields are."""

LONGEST = 3400
"""Bytes: what BPF_PROG_TEST_RUN takes. It also wants at least 14, and all of an IP header."""
SHAPED_MARK = 0x76650000

Out = list[tuple[int, bytes]]


@contextlib.contextmanager
def own_netns() -> Iterator[None]:
    """In a fresh network namespace, which is gone with everything in it at the end."""
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    if _LIBC.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    try:
        yield
    finally:
        _LIBC.setns(before, _CLONE_NEWNET)
        os.close(before)


@dataclass
class Rig:
    """The program with a wire and ``vfs`` VFs, or those of these ids. Ports: a vfid, or -1 for the
    wire."""

    vfs: int | tuple[int, ...]
    veb: Veb = field(init=False)
    ways: dict[int, Veb] = field(default_factory=dict)
    """The program with the same maps, by the way that it is to go (``layout.PATH_*``)."""
    ifindex: dict[int, int] = field(default_factory=dict)
    tables: Tables = field(default_factory=Tables)

    def __enter__(self) -> Rig:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(own_netns())
        try:
            self._make_netdevs()
            self.sniffer = self._stack.enter_context(_sniffer())
            self.veb = Veb.load(clone=True)
            self._stack.callback(self.veb.close)
            self.ways = {layout.PATH_ALL: self.veb}
            for path in (layout.PATH_GENERAL, layout.PATH_PLAIN):
                self.ways[path] = Veb.load(reuse=self.veb, clone=True, path=path)
                self._stack.callback(self.ways[path].close)
            self.tables = self.veb.read()
            self.drain()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make_netdevs(self) -> None:
        with open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w") as switch:
            switch.write("1")
        vfids = range(self.vfs) if isinstance(self.vfs, int) else self.vfs
        names = {port: f"port{port + 1}" for port in (-1, *vfids)}
        last, former = vfids[-1], vfids[-2]
        likely = {-1: 1000} | {port: layout.HOST_ENDS + port for port in vfids}
        likely |= {last: likely[former], former: likely[last]}
        commands = [
            f"link add {name} index {likely[port]} mtu 9700 type veth"
            f" peer {name}p mtu 9700\n"
            f"link set {name} arp off up\nlink set {name}p arp off up"
            for port, name in names.items()
        ]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)
        self.ifindex = {port: socket.if_nametoindex(name) for port, name in names.items()}
        self.port = {name: port for port, name in names.items()}

    def enforce(self, tables: Tables) -> None:
        """Writes the policy as the NIC would: safely, from what was in force."""
        self.veb.write(tables)

    def send(
        self, port: int, frame: bytes, *, repeat: int = 1, path: int = layout.PATH_ALL
    ) -> tuple[int, int]:
        """Runs the program on a frame from ``port``: what it returned, and its ns."""
        context = bytearray(SK_BUFF_SIZE)
        struct.pack_into("=I", context, SK_BUFF_IFINDEX, self.ifindex[port])
        run = self.ways[path].ingress.test_run(frame, bytes(context), repeat=repeat)
        return run.retval, run.duration_ns

    def send_shaped(self, port: int, frame: bytes) -> None:
        """Runs the program at the shaper's far end on a frame that ``port`` had sent."""
        context = bytearray(SK_BUFF_SIZE)
        struct.pack_into("=I", context, SK_BUFF_MARK, SHAPED_MARK | port + 1)
        struct.pack_into("=I", context, SK_BUFF_IFINDEX, self.ifindex[-1])
        self.veb.shaped.test_run(frame, bytes(context))

    def drain(self) -> Out:
        """(port, frame): all that has left since."""
        out: Out = []
        while True:
            try:
                data, control, _, address = self.sniffer.recvmsg(65536, 256)
            except BlockingIOError:
                return sorted(out)
            port = self.port.get(address[0])
            if port is not None:
                out.append((port, _with_tag(data, control)))

    def through(
        self, port: int, frame: bytes, *, shaped: bool = False, path: int = layout.PATH_ALL
    ) -> Out:
        """What leaves where when ``frame`` comes in at ``port``, sorted."""
        if shaped:
            self.send_shaped(port, frame)
        else:
            self.send(port, frame, path=path)
        return self.drain()

    def counters(self) -> dict[tuple[int, str], int]:
        return {
            (port, name): value
            for port, counters in self.veb.counters().items()
            for name, value in counters.items()
            if value
        }


def _sniffer() -> socket.socket:
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    sniffer.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
    sniffer.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
    sniffer.setblocking(False)
    return sniffer


def _with_tag(data: bytes, control: list[tuple[int, int, bytes]]) -> bytes:
    """The frame with the tag that the kernel keeps beside it."""
    for level, kind, aux in control:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", aux[:20])
            if status & _VLAN_VALID:
                tpid = tpid if status & _VLAN_TPID_VALID else 0x8100
                return data[:12] + struct.pack("!HH", tpid, tci) + data[12:]
    return data


def port_number(port: int) -> int:
    """The program's number of a port."""
    return layout.WIRE if port == -1 else port + 1
