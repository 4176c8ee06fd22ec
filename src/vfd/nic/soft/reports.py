"""IGMP and MLD reports: how a guest that only frames are seen of joins and leaves groups.

Membership lasts until the guest leaves; there is no querier here that would let it expire.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

from vfd.nic.soft.rtnl import Membership

_IPV4, _IPV6 = 0x0800, 0x86DD
_IGMP_REPORTS, _IGMP_LEAVE, _IGMP_V3 = (0x12, 0x16), 0x17, 0x22
_MLD_REPORT, _MLD_DONE, _MLD_V2 = 131, 132, 143
_IS_INCLUDE, _IS_EXCLUDE, _TO_INCLUDE, _TO_EXCLUDE, _ALLOW = 1, 2, 3, 4, 5


def reports(frame: bytes, device: int) -> list[tuple[bool, Membership]]:
    """(joined, group) for each group that an untagged frame speaks of, as memberships of
    ``device``. Nothing for frames that are no reports; of one that is cut short (as long ones are
    on their way here), what is whole."""
    found: list[tuple[bool, Membership]] = []
    with contextlib.suppress(struct.error, IndexError):
        for joined, group in _groups(frame):
            found.append((joined, Membership(device, group)))
    return found


def _groups(frame: bytes) -> Iterator[tuple[bool, bytes]]:
    ethertype = struct.unpack_from("!H", frame, 12)[0]
    if ethertype == _IPV4 and frame[23] == 2:
        at = 14 + (frame[14] & 0xF) * 4
        kind = frame[at]
        if kind in _IGMP_REPORTS or kind == _IGMP_LEAVE:
            yield kind != _IGMP_LEAVE, struct.unpack_from("4s", frame, at + 4)[0]
        elif kind == _IGMP_V3:
            yield from _records(frame, at, 4)
    elif ethertype == _IPV6 and frame[20] == 0 and frame[54] == 58:
        at = 14 + 40 + 8
        kind = frame[at]
        if kind in (_MLD_REPORT, _MLD_DONE):
            yield kind == _MLD_REPORT, struct.unpack_from("16s", frame, at + 8)[0]
        elif kind == _MLD_V2:
            yield from _records(frame, at, 16)


def _records(frame: bytes, at: int, size: int) -> Iterator[tuple[bool, bytes]]:
    """Group records: RFC 3376, 4.2.12; RFC 3810, 5.2.12. Sources don't matter to a MAC filter,
    only whether any is left."""
    count = struct.unpack_from("!H", frame, at + 6)[0]
    at += 8
    for _ in range(count):
        kind, words, sources = struct.unpack_from("!BBH", frame, at)
        group = struct.unpack_from(f"{size}s", frame, at + 4)[0]
        if kind in (_IS_EXCLUDE, _TO_EXCLUDE) or (sources and kind in (_IS_INCLUDE, _ALLOW)):
            yield True, group
        elif kind == _TO_INCLUDE:
            yield bool(sources), group
        at += 4 + size + size * sources + 4 * words
