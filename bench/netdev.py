"""What a guest's root does to its netdevs, one system call each (netdevice(7))."""

from __future__ import annotations

import fcntl
import socket
import struct

IFF_UP, IFF_PROMISC = 0x1, 0x100
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCSIFMTU, _SIOCSIFHWADDR = 0x8922, 0x8924
_ARPHRD_ETHER = 1


def control() -> socket.socket:
    """A socket for the calls below, in the calling thread's network namespace."""
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def set_mac(sock: socket.socket, netdev: str, mac: bytes) -> None:
    """Raises OSError, as all of these."""
    asked = struct.pack("16sH6s8x", netdev.encode(), _ARPHRD_ETHER, mac)
    fcntl.ioctl(sock, _SIOCSIFHWADDR, asked)


def set_mtu(sock: socket.socket, netdev: str, mtu: int) -> None:
    fcntl.ioctl(sock, _SIOCSIFMTU, struct.pack("16si12x", netdev.encode(), mtu))


def flags(sock: socket.socket, netdev: str) -> int:
    answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH14x", netdev.encode(), 0))
    return int(struct.unpack_from("16xH", answer)[0])


def set_flag(sock: socket.socket, netdev: str, flag: int, on: bool) -> None:
    now = flags(sock, netdev)
    wanted = now | flag if on else now & ~flag
    fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", netdev.encode(), wanted))
