"""What random frames don't reach: time, offload, events, the shaper's near end."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.bpf.rig import SHAPED_MARK, SK_BUFF_IFINDEX, SK_BUFF_MARK, SK_BUFF_SIZE, Rig

from vfd.nic.soft import layout
from vfd.nic.soft.compiler import compile_policy
from vfd.nic.soft.layout import VebEvent
from vfd.nic.soft.tables import Iface, Wiring, class_id
from vfd.policy.requests import Grants
from vfd.policy.values import NicPolicy, PfPolicy, TrafficClass, VfPolicy

pytestmark = pytest.mark.root

A, B, STRANGER = (bytes.fromhex(f"0200000000{n:02x}") for n in (0xA, 0xB, 0xC))
BROADCAST = b"\xff" * 6
REDIRECT, DROP = 7, 2
_OFFSETS = {"mark": SK_BUFF_MARK, "priority": 32, "segs": 164, "size": 176}
"""In ``struct __sk_buff``: gso_segs and gso_size the last."""


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(2) as rig:
        yield rig


def enforce(
    rig: Rig,
    *,
    ifaces: dict[str, bool] | None = None,
    wiring: dict[str, object] | None = None,
    pf: dict[str, object] | None = None,
    **fields: object,
) -> None:
    """Two untagged VFs with MACs A and B on a loopback VEB; ``fields`` are VF 0's."""
    both = {"pciid": "soft0", "allow_untagged": True}
    first = {**both, "name": "a", "vfid": 0, "vm_mac": A.hex(":"), **fields}
    second = {**both, "name": "b", "vfid": 1, "vm_mac": B.hex(":")}
    nic = NicPolicy(
        pf=PfPolicy.model_validate(
            {"id": "soft0", "vfs": 2, "enable_loopback": True, **(pf or {})}
        ),
        vfs=(VfPolicy.model_validate(first), VfPolicy.model_validate(second)),
    )
    vfs = {vfid: Iface(rig.ifindex[vfid], **(ifaces or {})) for vfid in (0, 1)}
    tables = compile_policy(
        nic,
        {0: Grants()},
        Wiring(vfs=vfs, wire=rig.ifindex[-1], **(wiring or {})),  # type: ignore[arg-type]
    )
    rig.enforce(tables)


def moved(rig: Rig, before: dict[tuple[int, str], int]) -> dict[tuple[int, str], int]:
    after = rig.counters()
    return {key: n - before.get(key, 0) for key, n in after.items() if n != before.get(key, 0)}


def context(rig: Rig, port: int, **fields: int) -> bytes:
    raw = bytearray(SK_BUFF_SIZE)
    struct.pack_into("=I", raw, SK_BUFF_IFINDEX, rig.ifindex[port])
    for name, value in fields.items():
        struct.pack_into("=I", raw, _OFFSETS[name], value)
    return bytes(raw)


# -- Storm limit ------------------------------------------------------------------------------


ARP = BROADCAST + A + b"\x08\x06" + bytes(46)


def spoken_for(rig: Rig, storm: int, events: int) -> None:
    """VF 0's buckets are, until these times by the kernel's monotonic clock in nanoseconds."""
    buckets = struct.pack("=QQ", storm, events)
    rig.veb.maps["veb_buckets"].put(struct.pack("=I", 1), buckets)


def at_once(
    rig: Rig, frame: bytes, times: int, within: float, *, anew: Callable[[], object] = list
) -> dict[tuple[int, str], int]:
    """What moves when VF 0, whose buckets are full, sends the frame so many times within so many
    seconds, after which one more would pass. ``anew``: before each try."""
    while True:
        anew()
        spoken_for(rig, 0, 0)
        before = rig.counters()
        start = time.monotonic()
        rig.send(0, frame, repeat=times)
        took = time.monotonic() - start
        rig.drain()
        if took < within:
            return moved(rig, before)


@pytest.mark.parametrize(("limit", "burst"), [(1, 1), (9, 9), (20, 10), (120, 12), (400, 40)])
def test_under_a_storm_limit_a_tenth_of_a_second_passes_at_once_and_not_one_frame_more(
    rig: Rig, limit: int, burst: int
) -> None:
    enforce(rig, storm_limit=limit)
    counted = at_once(rig, ARP, 60, 1 / limit)
    assert counted[0, "tx_packets"] == counted[1, "rx_packets"] == burst
    assert counted[0, "storm_dropped"] == counted[0, "tx_dropped"] == 60 - burst


def test_a_storm_limit_is_no_limit_for_known_unicast_or_for_the_wires_alone(rig: Rig) -> None:
    enforce(rig, storm_limit=1)
    before = rig.counters()
    for destination in (B, STRANGER):
        for _ in range(20):
            rig.through(0, destination + A + b"\x08\x06" + bytes(46))
    counted = moved(rig, before)
    assert counted[0, "tx_packets"] == 40
    assert (0, "storm_dropped") not in counted


# -- Segmentation offload ---------------------------------------------------------------------


def tcp(payload: int, *, tag: bytes = b"", ipv6: bool = False, dst: bytes = B) -> bytes:
    if ipv6:
        ip = b"\x86\xdd\x60\0\0\0" + struct.pack("!HBB", 20 + payload, 6, 64) + bytes(32)
    else:
        ip = b"\x08\0\x45\0" + struct.pack("!H", 40 + payload) + bytes(4) + b"\x40\x06" + bytes(10)
    return dst + A + tag + ip + bytes(12) + b"\x50" + bytes(7) + bytes(payload)


GROUP = bytes.fromhex("01005e010203")
CHARGED: dict[str, tuple[bytes, dict[str, int], int, int]] = {
    "broadcast": (ARP, {}, 1, 0),
    "broadcast that is spoofed": (BROADCAST + STRANGER + b"\x08\x06" + bytes(46), {}, 0, 1),
    "known unicast": (B + A + b"\x08\x06" + bytes(46), {}, 0, 0),
    "unicast of an unknown source": (B + STRANGER + b"\x08\x06" + bytes(46), {}, 0, 1),
    "a multicast buffer of three packets": (
        tcp(2500, dst=GROUP),
        {"size": 1000},
        3,
        0,
    ),
}
"""Frames that VF 0 sends, and how many frames of its storm limit and events they cost it."""


@pytest.mark.parametrize("limit", [120, 1000])
@pytest.mark.parametrize("what", CHARGED)
def test_a_storm_limit_and_the_limit_of_events_are_charged_apart_and_to_the_packet(
    rig: Rig, what: str, limit: int
) -> None:
    frame, offload, storm, events = CHARGED[what]
    enforce(rig, ifaces={"learn": True}, storm_limit=limit)
    until = 0
    while until < time.monotonic_ns():  # or it would be charged from now on
        until = time.monotonic_ns() + 20_000_000
        spoken_for(rig, until, until)
        rig.veb.ingress.test_run(frame, context(rig, 0, **offload))
        rig.drain()
    now = rig.veb.maps["veb_buckets"].get(struct.pack("=I", 1)) or b""
    charged = [bucket - until for bucket in struct.unpack("=QQ", now)]
    assert charged == [storm * (10**9 // limit), events * 10_000_000]


@pytest.mark.parametrize("segs", [0, 3])
@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("mtu", [1500, 9000])  # the whole buffer is longer, or isn't
def test_a_segmented_buffer_counts_as_its_packets_with_all_their_headers(
    rig: Rig, segs: int, ipv6: bool, mtu: int
) -> None:
    enforce(rig, mtu=mtu, pf={"mtu": 9000})
    frame = tcp(2500, ipv6=ipv6)
    header = len(frame) - 2500
    before = rig.counters()
    rig.veb.ingress.test_run(frame, context(rig, 0, segs=segs, size=1000))
    counted = moved(rig, before)
    rig.drain()
    assert counted[0, "tx_packets"] == counted[1, "rx_packets"] == 3
    assert counted[0, "tx_bytes"] == counted[1, "rx_bytes"] == 2500 + 3 * header


def test_a_segmented_buffers_inserted_tag_is_in_each_of_its_packets(rig: Rig) -> None:
    enforce(rig, vlans=(5,), strip_ctag=True, pf={"enable_loopback": False})
    frame = tcp(2500)
    before = rig.counters()
    rig.veb.ingress.test_run(frame, context(rig, 0, size=1000))
    counted = moved(rig, before)
    rig.drain()
    assert counted[0, "tx_bytes"] == 2500 + 3 * 54
    assert counted[-1, "tx_bytes"] == 2500 + 3 * (54 + 4)


def test_a_segmented_buffer_is_oversize_by_its_segments(rig: Rig) -> None:
    for mtu, passes in ((1040, True), (1039, False)):
        enforce(rig, mtu=mtu)
        before = rig.counters()
        rig.veb.ingress.test_run(tcp(2500), context(rig, 0, size=1000))
        counted = moved(rig, before)
        rig.drain()
        assert counted.get((0, "tx_packets"), 0) == (3 if passes else 0)
        assert counted.get((0, "oversize"), 0) == (0 if passes else 3)


# -- The shaper -------------------------------------------------------------------------------


TRUNK: dict[str, Any] = {"vlans": (5,)}
ACCESS: dict[str, Any] = {"vlans": (5,), "strip_ctag": True, "allow_untagged": False}
SERVICE: dict[str, Any] = {"vlans": (5,), "strip_stag": True, "allow_untagged": False}
PRIORITY, TAGGED = b"\x81\0\xa0\0", b"\x81\0\xa0\x05"
"""C-tags of PCP 5: VID 0, and VID 5."""


@pytest.mark.parametrize(
    ("fields", "tag", "pcp"),
    [
        (TRUNK, b"", 0),
        (TRUNK, TAGGED, 5),
        (TRUNK, PRIORITY, 5),
        (TRUNK | {"pcp": 3}, b"", 0),
        (ACCESS, b"", 0),
        (ACCESS, PRIORITY, 5),
        (ACCESS | {"pcp": 3}, b"", 3),
        (ACCESS | {"pcp": 3}, PRIORITY, 5),
        (SERVICE | {"pcp": 3}, b"", 3),
        (SERVICE | {"pcp": 3}, PRIORITY, 5),
        (SERVICE | {"pcp": 3}, TAGGED, 3),
    ],
)
@pytest.mark.parametrize("classes", [4, 8])
def test_a_shaped_vfs_frame_goes_to_its_class_of_the_shaper_unswitched_and_uncounted(
    rig: Rig, fields: dict[str, Any], tag: bytes, pcp: int, classes: int
) -> None:
    """Its class is by the PCP of the tag that it leaves with; without one, by PCP 0."""
    shaper = {"shaper": rig.ifindex[1], "shaped": frozenset({0})}
    tclasses = tuple(TrafficClass(pri=pri) for pri in range(classes))
    enforce(rig, wiring=shaper, pf={"enable_qos": True, "tclasses": tclasses}, **fields)
    before = rig.counters()
    run = rig.veb.ingress.test_run(B + A + tag + b"\x08\x06" + bytes(46), context(rig, 0))
    assert run.retval == REDIRECT
    assert rig.drain() == []
    assert moved(rig, before) == {}
    left = {
        name: struct.unpack_from("=I", run.context, offset)[0] for name, offset in _OFFSETS.items()
    }
    assert left["mark"] == SHAPED_MARK | 1
    assert left["priority"] == class_id(0, pcp * classes // 8)
    port = layout.VebPort.from_buffer_copy(rig.veb.read().ports[1])
    assert port.shaper == rig.ifindex[1]


def test_a_shaped_vfs_spoofed_frame_ends_before_the_shaper(rig: Rig) -> None:
    shaper = {"shaper": rig.ifindex[1], "shaped": frozenset({0})}
    enforce(rig, wiring=shaper)
    run = rig.veb.ingress.test_run(B + STRANGER + b"\x08\x06" + bytes(46), context(rig, 0))
    assert run.retval == DROP


def test_a_guests_mark_steers_nothing(rig: Rig) -> None:
    """Neither at the port, where it is cleared, nor at the shaper's far end without our mark."""
    enforce(rig)
    frame = B + A + b"\x08\x06" + bytes(46)
    forged = context(rig, 0, mark=SHAPED_MARK | 2, priority=77)
    before = rig.counters()
    rig.veb.ingress.test_run(frame, forged)
    assert rig.drain() == [(1, frame)]
    assert moved(rig, before)[0, "tx_packets"] == 1
    before = rig.counters()
    assert rig.veb.shaped.test_run(frame, context(rig, 0, mark=1)).retval == DROP
    assert rig.veb.shaped.test_run(frame, context(rig, 0, mark=SHAPED_MARK)).retval == DROP
    assert rig.drain() == []
    assert moved(rig, before) == {}


def test_a_netdev_that_is_no_port_sends_nothing(rig: Rig) -> None:
    enforce(rig)
    tables = rig.veb.read()
    left = {index: port for index, port in tables.ifaces.items() if index != rig.ifindex[0]}
    others = {port: policy for port, policy in tables.ports.items() if port != 1}
    rig.enforce(replace(tables, ifaces=left, ports=others))
    assert rig.through(0, B + A + b"\x08\x06" + bytes(46)) == []


# -- Events -----------------------------------------------------------------------------------

IGMP_REPORT = (
    bytes.fromhex("01005e000016") + A + b"\x08\0\x46\0\0\x28" + bytes(4) + b"\x01\x02" + bytes(10)
    + bytes.fromhex("940400002200") + bytes(14)
)  # fmt: skip
MLD_REPORT = (
    bytes.fromhex("333300000016") + A + b"\x86\xdd\x60\0\0\0\0\x24\0\x01" + bytes(32)
    + bytes.fromhex("3a000502000001008f00") + bytes(26)
)  # fmt: skip


def test_reports_are_told_with_their_frame_whatever_tag_is_outside(rig: Rig) -> None:
    enforce(rig, vlans=(5,))
    ring = rig.veb.events()
    ring.read()
    for report in (IGMP_REPORT, MLD_REPORT):
        for tag in (b"", b"\x81\0\0\x05"):
            rig.through(0, report[:12] + tag + report[12:])
            (sample,) = ring.read()
            event = VebEvent.from_buffer_copy(sample)
            assert (event.port, event.kind) == (1, layout.EVENT_REPORT)
            assert bytes(event.frame[: event.len]) == report
    rig.through(0, BROADCAST + A + b"\x08\x06" + bytes(46))
    rig.through(0, IGMP_REPORT[:6] + STRANGER + IGMP_REPORT[12:])
    assert ring.read() == []
    ring.close()


def test_a_taps_unknown_source_is_told_and_still_spoofed(rig: Rig) -> None:
    enforce(rig, ifaces={"learn": True})
    ring = rig.veb.events()
    ring.read()
    before = rig.counters()
    frame = B + STRANGER + b"\x08\x06" + bytes(1200)
    assert rig.through(0, frame) == []
    event = VebEvent.from_buffer_copy(ring.read()[0])
    assert (event.port, event.kind, event.len) == (1, layout.EVENT_SOURCE, layout.SNAP)
    assert bytes(event.frame) == frame[: layout.SNAP]
    assert moved(rig, before)[0, "spoofed"] == 1
    rig.through(0, B + A + b"\x08\x06" + bytes(46))
    assert ring.read() == []
    ring.close()


def test_a_guest_cannot_flood_the_daemon_with_events(rig: Rig) -> None:
    enforce(rig, ifaces={"learn": True})
    ring = rig.veb.events()
    at_once(rig, B + STRANGER + b"\x08\x06" + bytes(46), 400, 0.01, anew=ring.read)
    assert len(ring.read()) == 100
    ring.close()
