"""``python -m bench.abuser``: one hostile process, for a bounded time. What ``make abuse`` runs.

Guests' attacks run in the guest's network namespace, on its ``eth0``; members' at the socket, as
users of the group. Each prints a line when it begins, and at its end how often it struck.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

from bench import netdev
from bench.tenants import MARK, SPOOFED
from vfd.nic.soft import namespace

_NETDEV = "eth0"

FIRST_UID = 64000
"""Of the users that members are."""

Strike = Callable[[int], None]
"""One blow; which one of how many, counted from 0."""


def _guest(kind: str) -> Strike:
    """A blow against the NIC's mailbox, in the namespace of the calling thread."""
    sock = netdev.control()
    index = socket.if_nametoindex(_NETDEV)

    def mac(turn: int) -> None:
        netdev.set_mac(sock, _NETDEV, struct.pack("!HI", 0x0266, turn & 0xFFFF))

    def mtu(turn: int) -> None:
        netdev.set_mtu(sock, _NETDEV, 1400 + turn % 100)

    def promiscuous(turn: int) -> None:
        netdev.set_flag(sock, _NETDEV, netdev.IFF_PROMISC, turn % 2 == 0)

    def link(turn: int) -> None:
        netdev.set_flag(sock, _NETDEV, netdev.IFF_UP, turn % 2 == 1)

    def groups(turn: int) -> None:
        which = socket.IP_ADD_MEMBERSHIP if turn % 2 == 0 else socket.IP_DROP_MEMBERSHIP
        group = socket.inet_aton(f"239.1.{turn // 2 % 250}.{1 + turn // 500 % 250}")
        sock.setsockopt(socket.IPPROTO_IP, which, struct.pack("4s4si", group, bytes(4), index))

    return {"mac": mac, "mtu": mtu, "promiscuous": promiscuous, "link": link, "groups": groups}[
        kind
    ]


def _spoof() -> Strike:
    """Frames to everybody, each from another MAC that isn't the VF's."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind((_NETDEV, 0))

    def strike(turn: int) -> None:
        source = SPOOFED + struct.pack("!I", turn & 0xFFFFFFFF)
        with contextlib.suppress(OSError):  # its own queue is full
            sock.send(b"\xff" * 6 + source + MARK + bytes(46))

    return strike


def _macvlans(number: int) -> Strike:
    """All at once, in a batch of its own: macvlans on eth0, up."""
    lines = [
        line
        for one in range(number)
        for line in (f"link add k{one} link eth0 type macvlan", f"link set k{one} up")
    ]

    def strike(turn: int) -> None:
        if turn:
            time.sleep(0.05)
            return
        subprocess.run(
            ["ip", "-force", "-batch", "-"], input="\n".join(lines), text=True, check=False,
            capture_output=True,
        )  # fmt: skip

    return strike


def _member(kind: str, path: str) -> Strike:
    """A member of the group at the daemon's socket."""
    held: list[socket.socket] = []

    def dial() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(1)
        sock.connect(path)
        return sock

    def connect(_: int) -> None:
        with contextlib.suppress(OSError), dial():
            pass

    def hold(_: int) -> None:
        with contextlib.suppress(OSError):
            sock = dial()
            sock.send(b"GET /v1/version HTTP/1.1\r\nhost: ")
            held.append(sock)
        del held[:-128]

    def ask(_: int) -> None:
        with contextlib.suppress(OSError), dial() as sock:
            sock.send(b"GET /v1/show HTTP/1.1\r\nhost: vfd\r\nconnection: close\r\n\r\n")
            while sock.recv(65536):
                pass

    return {"connect": connect, "hold": hold, "ask": ask}[kind]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.abuser", description=__doc__)
    parser.add_argument("attack")
    parser.add_argument("--netns", help="the guest's namespace")
    parser.add_argument("--socket", help="the daemon's socket")
    parser.add_argument("--group", type=int, help="become members of this group")
    parser.add_argument("--processes", type=int, default=1, help="so many, each another user")
    parser.add_argument("--number", type=int, default=1000, help="of macvlans")
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    uid = FIRST_UID
    while (uid := uid + 1) < FIRST_UID + options.processes and os.fork():
        pass
    if options.group is not None:
        os.setgroups([])
        os.setgid(options.group)
        os.setuid(uid)
    with namespace.inside(options.netns) if options.netns else contextlib.nullcontext():
        if options.attack == "spoof":
            strike = _spoof()
        elif options.attack == "macvlans":
            strike = _macvlans(options.number)
        elif options.socket:
            strike = _member(options.attack, options.socket)
        else:
            strike = _guest(options.attack)
        os.write(1, b"begins\n")  # in one piece, whoever else of us does
        end, turn = time.monotonic() + options.seconds, 0
        while time.monotonic() < end:
            strike(turn)
            turn += 1
    os.write(1, f"{turn}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
