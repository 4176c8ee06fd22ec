"""Persistent taps: netdevs whose other side is a process, as QEMU opens them by name."""

from __future__ import annotations

import fcntl
import os
import struct

_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x0002, 0x1000, 0x4000, 0x8000


def open_tap(name: str, *, flags: int = 0) -> int:
    """A descriptor of the tap ``name`` in the caller's network namespace; makes the tap if there
    is none. Without packet information; with virtio-net headers, as QEMU opens it, unless it
    sets it otherwise.

    Raises OSError: EBUSY while a process holds it."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        wanted = struct.pack(
            "=16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | flags
        )
        fcntl.ioctl(fd, _TUNSETIFF, wanted)
    except OSError:
        os.close(fd)
        raise
    return fd


def create(name: str) -> None:
    """Makes a tap that outlives its maker. Raises OSError where one of that name exists."""
    fd = open_tap(name, flags=_IFF_TUN_EXCL)
    try:
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)
