"""IGMP and MLD reports as guests send them, whole and cut short: which groups they speak of."""

from __future__ import annotations

import socket
import struct

import pytest

from vfd.nic.soft.reports import reports

A, B = "239.1.2.3", "239.1.2.4"
MAC_A, MAC_B = "01:00:5e:01:02:03", "01:00:5e:01:02:04"
SIX, SEVEN = "ff15::6", "ff15::7"
MAC_6, MAC_7 = "33:33:00:00:00:06", "33:33:00:00:00:07"
DEVICE = 9

IS_INCLUDE, IS_EXCLUDE, TO_INCLUDE, TO_EXCLUDE, ALLOW, BLOCK = range(1, 7)


def igmp(report: bytes, *, options: bytes = b"\x94\x04\0\0") -> bytes:
    """An Ethernet frame; IPv4 with the router alert, RFC 2113. Nobody looks at checksums."""
    words = 5 + len(options) // 4
    ip = struct.pack("!BBHHHBBH", 0x40 | words, 0, 4 * words + len(report), 0, 0, 1, 2, 0)
    ip += socket.inet_aton("10.0.0.1") + socket.inet_aton(A) + options
    return bytes.fromhex("01005e010203 020000000001 0800") + ip + report


def mld(report: bytes) -> bytes:
    """The same with IPv6 and a hop-by-hop header, RFC 2710, 3."""
    hop = bytes((58, 0, 5, 2, 0, 0, 1, 0))
    ip = struct.pack("!IHBB", 6 << 28, len(hop + report), 0, 1)
    ip += socket.inet_pton(socket.AF_INET6, "fe80::1") + socket.inet_pton(socket.AF_INET6, SIX)
    return bytes.fromhex("333300000006 020000000001 86dd") + ip + hop + report


def igmp2(kind: int, group: str) -> bytes:
    return struct.pack("!BBH", kind, 0, 0) + socket.inet_aton(group)


def mld1(kind: int, group: str) -> bytes:
    return struct.pack("!BBHHH", kind, 0, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, group)


Records = tuple[tuple[int, str, list[str]], ...]


def v3(*records: tuple[int, str, list[str]]) -> bytes:
    """RFC 3376, 4.2."""
    return igmp(struct.pack("!BBHHH", 0x22, 0, 0, 0, len(records)) + _records(records))


def v2(*records: tuple[int, str, list[str]]) -> bytes:
    """RFC 3810, 5.2."""
    return mld(struct.pack("!BBHHH", 143, 0, 0, 0, len(records)) + _records(records))


def _records(records: Records) -> bytes:
    raw = b""
    for kind, group, sources in records:
        family = socket.AF_INET6 if ":" in group else socket.AF_INET
        raw += struct.pack("!BBH", kind, 0, len(sources))
        raw += b"".join(socket.inet_pton(family, each) for each in (group, *sources))
    return raw


def found(frame: bytes) -> list[tuple[bool, str]]:
    heard = reports(frame, DEVICE)
    assert all(member.index == DEVICE for _, member in heard)
    return [(joined, member.mac) for joined, member in heard]


ONES = {
    "IGMPv1 report": (igmp(igmp2(0x12, A)), [(True, MAC_A)]),
    "IGMPv2 report": (igmp(igmp2(0x16, A)), [(True, MAC_A)]),
    "IGMPv2 report without the router alert": (
        igmp(igmp2(0x16, A), options=b""),
        [(True, MAC_A)],
    ),
    "IGMPv2 leave": (igmp(igmp2(0x17, A)), [(False, MAC_A)]),
    "IGMP query": (igmp(igmp2(0x11, A)), []),
    "MLDv1 report": (mld(mld1(131, SIX)), [(True, MAC_6)]),
    "MLDv1 done": (mld(mld1(132, SIX)), [(False, MAC_6)]),
}


@pytest.mark.parametrize("name", ONES)
def test_a_report_of_one_group(name: str) -> None:
    frame, says = ONES[name]
    assert found(frame) == says


@pytest.mark.parametrize(
    ("report", "sources", "one", "two", "macs"),
    [
        (v3, ["10.0.0.9", "10.0.0.8"], A, B, (MAC_A, MAC_B)),
        (v2, ["2001:db8::9", "2001:db8::8"], SIX, SEVEN, (MAC_6, MAC_7)),
    ],
)
def test_records_of_several_groups_with_and_without_sources(
    report: type, sources: list[str], one: str, two: str, macs: tuple[str, str]
) -> None:
    first, second = macs
    assert found(report((IS_EXCLUDE, one, []), (TO_EXCLUDE, two, sources))) == [
        (True, first),
        (True, second),
    ]
    assert found(report((ALLOW, one, sources), (TO_INCLUDE, two, []))) == [
        (True, first),
        (False, second),
    ]
    assert found(report((TO_INCLUDE, one, sources), (BLOCK, two, sources))) == [(True, first)]
    assert found(report((IS_INCLUDE, one, sources), (IS_INCLUDE, two, []))) == [(True, first)]


@pytest.mark.parametrize("name", [*ONES, "IGMPv3", "MLDv2"])
def test_a_report_that_is_cut_short_says_no_more_than_what_is_whole(name: str) -> None:
    records = {
        "IGMPv3": v3((IS_EXCLUDE, A, []), (TO_EXCLUDE, B, ["10.0.0.9"])),
        "MLDv2": v2((IS_EXCLUDE, SIX, []), (TO_EXCLUDE, SEVEN, ["2001:db8::9"])),
    }
    frame = records.get(name) or ONES[name][0]
    whole = found(frame)
    for size in range(len(frame)):
        heard = found(frame[:size])
        assert heard == whole[: len(heard)], f"{size} of {len(frame)} bytes"


def test_more_records_than_there_are_end_with_the_frame() -> None:
    frame = bytearray(v3((IS_EXCLUDE, A, [])))
    at = frame.index(socket.inet_aton(A), 40) - 5  # the last byte of the number of records
    assert frame[at] == 1
    frame[at - 1 : at + 1] = b"\xff\xff"
    assert found(bytes(frame)) == [(True, MAC_A)]


def test_other_frames_say_nothing() -> None:
    for frame in (b"", bytes(14), bytes(60), b"\xff" * 60, igmp(igmp2(0x16, A))[:12]):
        assert found(frame) == []
