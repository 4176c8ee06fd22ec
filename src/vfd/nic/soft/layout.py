"""``bpf/veb.h`` for the control plane: structs, sizes and bits. A test holds both sides equal."""

from __future__ import annotations

import ctypes
import struct
import sys
from functools import lru_cache
from typing import Literal

ORDER: Literal["little", "big"] = sys.byteorder

LAYOUT = 1
WIRE = 0
"""Port number of the wire; VF n is port n + 1."""
NOBODY = 0xFFF
PORTS = 257
HOST_ENDS = 0x100
"""Likely ifindex of VF 0's host end; VF n's is n more."""
WORDS = 5
SLOTS = 4
MIRRORS = 8
NOTE = 16384
SNAP = 256
HINTS = 4096
HINT_FACTOR = 0x9E3779B97F4A7C15
HINT_SHIFT = 52

STAG = 0x1000
UNTAGGED = 0x2000
VEILED = 0x4000

PORT_UP = 1 << 0
PORT_MAC_SPOOFCHK = 1 << 1
PORT_VLAN_SPOOFCHK = 1 << 2
PORT_UNTAGGED = 1 << 3
PORT_BCAST = 1 << 4
PORT_MCAST = 1 << 5
PORT_UCAST = 1 << 6
PORT_GROUPS = 1 << 7
PORT_INSERT = 1 << 8
PORT_STRIP = 1 << 9
PORT_SERVICE = 1 << 10
PORT_LOOPBACK = 1 << 11
PORT_PEER = 1 << 12
PORT_SHAPED = 1 << 13
PORT_SNOOP = 1 << 14
PORT_LEARN = 1 << 15
PORT_TX_MIRROR = 1 << 16
PORT_RX_MIRROR = 1 << 17
PORT_CONFIGURED = 1 << 18
PORT_RX_LIMITED = 1 << 19
PORT_PCP_SHIFT = 29

SAID_LINK_ON = 1 << 0
SAID_LINK_OFF = 1 << 1
SAID_STRIP_CTAG = 1 << 2
SAID_TRUST = 1 << 3
SAID_MACS_LISTED = 1 << 4
SAID_MACS_NONE = 1 << 5
SAID_GUEST_VLANS = 1 << 6
SAID_GUEST_GROUPS = 1 << 7
SAID_PROMISC = 1 << 8
SAID_ALLMULTI = 1 << 9

MIRROR_IN = 1
MIRROR_OUT = 2
MIRROR_VLANS = 4

MAC_PORT = 0x0FFF
MAC_FORCED = 0x1000
MAC_LISTED = 0x2000
MAC_GRANTED = 0x4000

SET_BCAST = 0
SET_MCAST = 1
SET_UCAST = 2
SETS = 3

EVENT_SOURCE = 1
EVENT_REPORT = 2

PATH_ALL = 0
PATH_GENERAL = 1
PATH_PLAIN = 2

NO_SHARE = (1 << 64) - 1
"""In ``VebPort.shares``: not stated."""

VidSet = ctypes.c_uint64 * 64


class VebMirror(ctypes.Structure):
    _fields_ = (("port", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("vlans", VidSet))


class VebPort(ctypes.Structure):
    """``struct veb_port``: a port's whole policy."""

    _fields_ = (
        ("flags", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("mtu", ctypes.c_uint32),
        ("tpid", ctypes.c_uint16),
        ("vid", ctypes.c_uint16),
        ("mac", ctypes.c_uint8 * 6),
        ("mirrors", ctypes.c_uint16),
        ("shaper", ctypes.c_uint32),
        ("classid", ctypes.c_uint32 * 8),
        ("storm_ns", ctypes.c_uint64),
        ("storm_depth_ns", ctypes.c_uint64),
        ("said", ctypes.c_uint32),
        ("storm_limit", ctypes.c_uint32),
        ("mtu_said", ctypes.c_uint32),
        ("mtu_granted", ctypes.c_uint32),
        ("rate", ctypes.c_uint64),
        ("min_rate", ctypes.c_uint64),
        ("max_rx_rate", ctypes.c_uint64),
        ("shares", ctypes.c_uint64 * 8),
        ("own_mac", ctypes.c_uint8 * 6),
        ("granted_mac", ctypes.c_uint8 * 6),
        ("limiter", ctypes.c_uint32),
        ("vlans", VidSet),
        ("mirror", VebMirror * MIRRORS),
    )


class VebMac(ctypes.Structure):
    _fields_ = (("mac", ctypes.c_uint8 * 6), ("port", ctypes.c_uint16))


class VebEvent(ctypes.Structure):
    _fields_ = (
        ("port", ctypes.c_uint32),
        ("kind", ctypes.c_uint16),
        ("len", ctypes.c_uint16),
        ("frame", ctypes.c_uint8 * SNAP),
    )


class VebMeta(ctypes.Structure):
    _fields_ = (
        ("layout", ctypes.c_uint32),
        ("spare", ctypes.c_uint32),
        ("made_ns", ctypes.c_uint64),
    )


class VebOptions(ctypes.Structure):
    _fields_ = (("clone", ctypes.c_uint32), ("path", ctypes.c_uint32))


COUNTER_WORDS = 16
"""64-bit words of ``struct veb_counters``: nic.protocol.COUNTERS in their order, and a spare."""


def hint_of(mac: bytes) -> int:
    """Where ``veb_hints`` may know a MAC: as the program computes it, in 64 bits."""
    number = int.from_bytes(mac.ljust(8, b"\0"), ORDER)
    return (number * HINT_FACTOR & (1 << 64) - 1) >> HINT_SHIFT


def vids_in(words: ctypes.Array[ctypes.c_uint64]) -> tuple[int, ...]:
    """The VIDs of a set, ascending."""
    return _vids_in(bytes(words))


@lru_cache(maxsize=256)  # VFs that have many VLANs mostly have the same
def _vids_in(raw: bytes) -> tuple[int, ...]:
    words = struct.unpack("=64Q", raw)
    return tuple(64 * at + bit for at, word in enumerate(words) if word for bit in bits_of(word))


@lru_cache(maxsize=256)
def vid_set(vids: tuple[int, ...]) -> ctypes.Array[ctypes.c_uint64]:
    """The set of these VIDs; to be read only."""
    words = [0] * 64
    for vid in vids:
        words[vid // 64] |= 1 << vid % 64
    return VidSet(*words)


def bits_of(word: int) -> tuple[int, ...]:
    """The numbers of the bits that are set, ascending."""
    found = []
    while word:
        low = word & -word
        found.append(low.bit_length() - 1)
        word ^= low
    return tuple(found)
