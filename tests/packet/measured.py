"""What takes time to show: rates, guarantees, classes, storm limits, offload. Data only.

Each row offers load and says in which bounds what arrives must lie. A rate is bytes by the clock,
measured once queues are full, so a busy host changes nothing but how long it takes. Bounds are 3 %
to either side, unless a row says why not: what the kernel's own clocks and a buffer at either
end of the time come to, and less than any wrong rule would make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vfd.policy.values import (
    BandwidthGroup,
    Direction,
    Mirror,
    NicPolicy,
    QueueShare,
    TrafficClass,
    VfPolicy,
)

from .case import WIRE, nic, stated, vf
from .frames import ALL, GROUP, IPV4, STRANGER, WORLD, Frame, c, from_vf, mac


@dataclass(frozen=True, slots=True)
class Load:
    """``port`` sends ``frame`` at ``pps`` frames a second for the row's time."""

    port: int
    frame: Frame
    pps: int
    label: str = ""
    """Tells loads with the same sender apart in ``Bound``."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Of the load ``label`` from ``sender``, this much arrives at ``port``, within ``low`` …
    ``high``: ``Mbit/s`` of bytes as they arrive there, ``frames`` in all, or ``frames/s`` beyond
    the ``burst`` that passes at once."""

    port: int
    sender: int
    low: float
    high: float
    unit: Literal["Mbit/s", "frames", "frames/s"] = "Mbit/s"
    label: str = ""
    burst: int = 0


def about(port: int, sender: int, mbps: float, label: str = "", *, within: float = 0.03) -> Bound:
    return Bound(port, sender, mbps * (1 - within), mbps * (1 + within), label=label)


@dataclass(frozen=True, slots=True)
class Counted:
    """``port``'s ``counter`` moves by ``low`` … ``high``."""

    port: int
    counter: str
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """What of ``sender``'s load does not arrive at ``port`` is in its ``counter``, to the frame."""

    port: int
    counter: str
    sender: int = 0
    label: str = ""


@dataclass(frozen=True, slots=True)
class Tcp:
    """``size`` bytes over TCP from one guest's own stack to another's, offloads on."""

    sender: int
    receiver: int
    size: int
    tags: int = 0
    """Tags of the frames on the wire that the guests don't see."""


@dataclass(frozen=True, slots=True)
class Measured:
    name: str
    proves: tuple[str, ...]
    nic: NicPolicy
    loads: tuple[Load, ...] = ()
    bounds: tuple[Bound, ...] = ()
    counted: tuple[Counted, ...] = ()
    stopped: tuple[Stopped, ...] = ()
    tcp: Tcp | None = None
    seconds: float = 0.5
    """Half a second for what is counted, longer for what is measured."""
    needs: frozenset[str] = frozenset()

    @property
    def features(self) -> frozenset[str]:
        found = set(self.needs) | ({"offload"} if self.tcp else set())
        for each in self.nic.vfs:
            found |= stated(each)
        if self.nic.pf.enable_qos:
            found.add("tclasses")
        if self.nic.pf.enable_loopback:
            found.add("enable_loopback")
        if any(bound.port == WIRE for bound in self.bounds):
            found.add("wire")
        return frozenset(found)


def big(vfid: int, dst: str = WORLD, pcp: int = 0) -> Frame:
    return from_vf(vfid, dst, c(100, pcp=pcp), kind=IPV4, payload=1490)


JUMBO = 7500
"""Bytes of payload. Large frames: five times as much can be offered by one busy CPU."""


def jumbo(vfid: int, pcp: int = 0) -> Frame:
    return from_vf(vfid, WORLD, c(100, pcp=pcp), kind=IPV4, payload=JUMBO)


def offered(vfid: int, mbps: float, label: str = "", pcp: int = 0) -> Load:
    return Load(vfid, jumbo(vfid, pcp), round(mbps * 1e6 / 8 / (14 + 4 + JUMBO)), label)


def wide(vfid: int, **rules: Any) -> VfPolicy:
    """A VF in VLAN 100 that may send jumbo frames."""
    return vf(vfid, vlans=(100,), mtu=9000, **rules)


MANY = 8000
"""Frames a second: 96 Mbit/s of ``big`` ones."""

LSP = (
    TrafficClass(pri=0, min_bw=20),
    TrafficClass(pri=1),
    TrafficClass(pri=2),
    TrafficClass(pri=3, lsp=True),
)
CAPPED = (
    TrafficClass(pri=0, max_bw=20),
    TrafficClass(pri=1),
    TrafficClass(pri=2),
    TrafficClass(pri=3),
)
GROUPED = (
    TrafficClass(pri=0, min_bw=10),
    TrafficClass(pri=1, min_bw=70),
    TrafficClass(pri=2, min_bw=10),
    TrafficClass(pri=3, min_bw=10),
)
GROUP_STRICT = (
    TrafficClass(pri=0, min_bw=20),
    TrafficClass(pri=1, min_bw=20),
    TrafficClass(pri=2, min_bw=20),
    TrafficClass(pri=3, min_bw=40, bsp=True),
)
EIGHT = tuple(TrafficClass(pri=n, max_bw=10 if n == 5 else 100) for n in range(8))
TWO_GROUPS = (
    BandwidthGroup(name="low", classes=(0, 2)),
    BandwidthGroup(name="high", classes=(1, 3)),
)


def shares(percent: float) -> tuple[QueueShare, ...]:
    """Of class 0."""
    return (QueueShare(priority=0, share=percent),)


RATES = (
    Measured(
        "A VF sends no more than its rate, a share of the link that the configuration states",
        ("tx.6", "rates.link"),
        nic(wide(0, rate="10%"), wide(1), link_speed="200Mbps"),
        loads=(offered(0, 30), offered(1, 10)),
        bounds=(about(WIRE, 0, 20), about(WIRE, 1, 10, within=0.06)),
        counted=(Counted(1, "rate_dropped", 0, 0),),
        seconds=1.3,
    ),
    Measured(
        "What a rate drops is counted, and not mirrored",
        ("tx.6", "tx.7"),
        nic(
            vf(
                0,
                vlans=(100,),
                rate="20Mbps",
                mirror=(Mirror(target=3, direction=Direction.OUT),),
            ),
            vf(3, vlans=(7,)),
        ),
        loads=(Load(0, big(0), MANY // 2),),
        # in all: what a second at 20 Mbit/s lets pass, a burst of 70 kB, and a full queue; the
        # sender stands still for a tenth of a second at the most
        bounds=(Bound(WIRE, 0, 2600, 2950, "frames"), Bound(3, 0, 2600, 2950, "frames")),
        stopped=(Stopped(WIRE, "rate_dropped"),),
        seconds=1.0,
    ),
    Measured(
        "A VF is given no more than its max_rx_rate",
        ("rx.5",),
        nic(wide(0, max_rx_rate="20Mbps"), wide(1)),
        loads=(
            Load(WIRE, Frame(mac(0), WORLD, (c(100),), IPV4, JUMBO), 700, "to 0"),
            Load(WIRE, Frame(mac(1), WORLD, (c(100),), IPV4, JUMBO), 166, "to 1"),
        ),
        bounds=(
            about(0, WIRE, 20, "to 0"),
            about(1, WIRE, 10, "to 1", within=0.06),
        ),
        seconds=1.3,
        needs=frozenset({"wire"}),
    ),
    Measured(
        "VFs that want more than the link has get their guarantees, and the rest in proportion",
        ("tx.6", "rates.link"),
        nic(
            wide(0, min_rate="120Mbps"),
            wide(1, min_rate="30Mbps"),
            link_speed="200Mbps",
        ),
        loads=(offered(0, 220), offered(1, 100)),
        bounds=(about(WIRE, 0, 160), about(WIRE, 1, 40, within=0.06)),
        seconds=1.6,
    ),
    Measured(
        "A guarantee that is not used is lent to the others",
        ("tx.6",),
        nic(
            wide(0, min_rate="90Mbps"),
            wide(1, min_rate="5Mbps"),
            link_speed="100Mbps",
        ),
        loads=(offered(1, 130),),
        bounds=(about(WIRE, 1, 100),),
        seconds=1.0,
    ),
    Measured(
        "A frame's PCP is its class, and a strict class has all that it wants before the others",
        ("rates.classes", "tx.6"),
        nic(wide(0), wide(1), link_speed="100Mbps", enable_qos=True, tclasses=LSP),
        loads=(offered(0, 100, "low"), offered(1, 70, "strict", pcp=7)),
        bounds=(
            # what is offered comes as evenly as the host has time for it
            about(WIRE, 1, 70, "strict", within=0.06),
            about(WIRE, 0, 30, "low", within=0.15),
        ),
        seconds=1.3,
    ),
    Measured(
        "A strict class leaves the others what they are guaranteed",
        ("rates.classes", "rates.together"),
        nic(wide(0), wide(1), link_speed="100Mbps", enable_qos=True, tclasses=LSP),
        loads=(offered(0, 60, "low"), offered(1, 120, "strict", pcp=7)),
        bounds=(about(WIRE, 1, 80, "strict"), about(WIRE, 0, 20, "low", within=0.05)),
        seconds=1.3,
    ),
    Measured(
        "A class gets no more than its max_bw, even alone",
        ("rates.classes",),
        nic(wide(0), link_speed="100Mbps", enable_qos=True, tclasses=CAPPED),
        loads=(offered(0, 40),),
        bounds=(about(WIRE, 0, 20),),
        seconds=1.3,
    ),
    Measured(
        "Classes share the link by min_bw, and groups lend each other what they don't use",
        ("rates.classes",),
        nic(
            wide(0),
            wide(1),
            link_speed="100Mbps",
            enable_qos=True,
            tclasses=GROUPED,
            bw_grps=TWO_GROUPS,
        ),
        loads=(offered(0, 60, "low"), offered(1, 120, "high", pcp=2)),
        bounds=(about(WIRE, 1, 80, "high"), about(WIRE, 0, 20, "low", within=0.05)),
        seconds=1.3,
    ),
    Measured(
        "A class strict in its group takes all that nobody in it is guaranteed, and nothing of the"
        " others'",
        ("rates.classes", "rates.together"),
        nic(
            wide(0),
            wide(1),
            link_speed="100Mbps",
            enable_qos=True,
            tclasses=GROUP_STRICT,
            bw_grps=TWO_GROUPS,
        ),
        loads=(
            offered(0, 60, "other group"),
            offered(1, 60, "beside", pcp=2),
            offered(1, 80, "strict", pcp=6),
        ),
        bounds=(
            about(WIRE, 1, 40, "strict", within=0.05),
            about(WIRE, 1, 20, "beside", within=0.05),
            about(WIRE, 0, 40, "other group", within=0.05),
        ),
        seconds=1.3,
    ),
    Measured(
        "A guarantee holds in the one class that a VF sends in, beside min_bw of all others",
        ("rates.together",),
        nic(
            wide(0, queues=shares(45)),
            wide(1, queues=shares(5), min_rate="25Mbps"),
            link_speed="100Mbps",
            enable_qos=True,
            tclasses=tuple(TrafficClass(pri=n, min_bw=25) for n in range(4)),
        ),
        loads=(
            *(offered(0, 40, f"PCP {pcp}", pcp=pcp) for pcp in (0, 2, 4, 6)),
            offered(1, 60),
        ),
        bounds=(
            about(WIRE, 1, 25, within=0.05),
            *(about(WIRE, 0, 25, f"PCP {pcp}", within=0.05) for pcp in (2, 4, 6)),
        ),
        seconds=1.3,
    ),
    Measured(
        "Where classes state no bandwidth, a guarantee is one for all that a VF sends",
        ("rates.together",),
        nic(
            wide(0),
            wide(1, min_rate="60Mbps"),
            link_speed="100Mbps",
            enable_qos=True,
        ),
        loads=(
            *(offered(0, 30, f"PCP {pcp}", pcp=pcp) for pcp in (0, 2, 4, 6)),
            offered(1, 45, "low"),
            offered(1, 45, "high", pcp=6),
        ),
        # of the other 40 three quarters are VF 0's (1 of 4 VFs is guaranteed 60 for its part), and
        # the last 10 go round among six queues
        bounds=tuple(Bound(WIRE, 1, 29.5, 34.0, label=label) for label in ("low", "high")),
        seconds=1.6,
    ),
    Measured(
        "With 8 classes each PCP is a class of its own",
        ("rates.classes",),
        nic(wide(0), wide(1), link_speed="200Mbps", enable_qos=True, tclasses=EIGHT),
        loads=(
            offered(0, 40, "capped", pcp=5),
            offered(1, 40, "its neighbour", pcp=4),
        ),
        bounds=(
            about(WIRE, 0, 20, "capped"),
            about(WIRE, 1, 40, "its neighbour", within=0.06),
        ),
        seconds=1.3,
    ),
    Measured(
        "A VF's rate is over all its classes",
        ("tx.6", "rates.classes"),
        nic(wide(0, rate="60Mbps"), wide(1), link_speed="200Mbps", enable_qos=True),
        loads=(
            *(offered(0, 30, f"PCP {pcp}", pcp=pcp) for pcp in (0, 2, 4)),
            offered(1, 10),
        ),
        bounds=(
            *(about(WIRE, 0, 20, f"PCP {pcp}", within=0.1) for pcp in (0, 2, 4)),
            about(WIRE, 1, 10, within=0.06),
        ),
        seconds=1.3,
    ),
    Measured(
        "Queue shares divide a class between the VFs that want all of it, what it borrows too",
        ("rates.classes", "rates.shares", "tx.6"),
        nic(
            wide(0, queues=shares(50)),
            wide(1, queues=shares(20)),
            wide(2, queues=shares(5)),
            wide(3, queues=shares(5)),
            link_speed="100Mbps",
            enable_qos=True,
        ),
        loads=(offered(0, 120), offered(1, 60)),
        # a round of quanta is 980 kB here, 80 ms of the link
        bounds=(
            about(WIRE, 0, 500 / 7, within=0.04),
            about(WIRE, 1, 200 / 7, within=0.06),
        ),
        seconds=1.9,
    ),
)


def passing(port: int, limit: int, label: str = "") -> Bound:
    """What a storm limit of VF 0 lets pass: its rate, and a tenth of a second's worth at once."""
    return Bound(port, 0, limit * 0.96, limit * 1.04, "frames/s", label, burst=limit // 10)


STORMS = (
    Measured(
        "A guest sends no more BUM frames than its storm_limit, and as much unicast as it likes",
        ("tx.6", "storm_limit"),
        nic(vf(0, vlans=(100,), storm_limit=200), vf(1, vlans=(100,)), enable_loopback=True),
        loads=(
            Load(0, from_vf(0, ALL, c(100)), 2000, "broadcast"),
            Load(0, from_vf(0, mac(1), c(100)), 2000, "unicast"),
        ),
        bounds=(
            passing(1, 200, "broadcast"),
            passing(WIRE, 200, "broadcast"),
            Bound(1, 0, 1000, 1000, "frames", "unicast"),
        ),
        stopped=(Stopped(WIRE, "storm_dropped", label="broadcast"),),
    ),
    Measured(
        "Multicast counts against storm_limit, and what is dropped for it is not mirrored",
        ("tx.6", "tx.7", "storm_limit"),
        nic(
            vf(
                0,
                vlans=(100,),
                storm_limit=200,
                mirror=(Mirror(target=3, direction=Direction.OUT),),
            ),
            vf(3, vlans=(7,)),
        ),
        loads=(Load(0, from_vf(0, GROUP, c(100)), 2000),),
        bounds=(passing(WIRE, 200), passing(3, 200)),
        stopped=(Stopped(WIRE, "storm_dropped"),),
    ),
    Measured(
        "Unknown unicast counts against storm_limit where another VF may be given it",
        ("tx.6", "storm_limit"),
        nic(
            vf(0, vlans=(100,), storm_limit=200),
            vf(1, vlans=(100,), allow_un_ucast=True),
            enable_loopback=True,
        ),
        loads=(Load(0, from_vf(0, STRANGER, c(100)), 2000),),
        bounds=(passing(WIRE, 200), passing(1, 200)),
        stopped=(Stopped(WIRE, "storm_dropped"),),
    ),
    Measured(
        "Without storm_limit broadcast is not limited",
        ("storm_limit",),
        nic(vf(0, vlans=(100,)), vf(1, vlans=(100,)), enable_loopback=True),
        loads=(Load(0, from_vf(0, ALL, c(100)), 2000),),
        bounds=(Bound(1, 0, 1000, 1000, "frames"),),
        counted=(Counted(0, "storm_dropped", 0, 0),),
        needs=frozenset({"storm_limit"}),
    ),
)

SLOW_MIRROR = (
    Measured(
        "A target that takes copies slowly does not slow the source",
        ("mirror.slow",),
        nic(
            vf(0, vlans=(100,), mirror=(Mirror(target=3, direction=Direction.OUT),)),
            vf(3, vlans=(7,), max_rx_rate="1Mbps"),
        ),
        loads=(Load(0, big(0), MANY // 4),),
        # a burst of 70 kB, twice as much in the queue, and what half a second lets pass
        bounds=(Bound(WIRE, 0, 1000, 1000, "frames"), Bound(3, 0, 165, 195, "frames")),
    ),
)

OFFLOAD = (
    Measured(
        "A guest's TCP with offloads on is counted in packets of the wire, at both ends alike",
        ("count.segments",),
        nic(vf(0, allow_untagged=True), vf(1, allow_untagged=True), enable_loopback=True),
        tcp=Tcp(0, 1, 4_000_000),
    ),
    Measured(
        "TCP with offloads on passes access VFs, whose tags come and go",
        ("count.segments", "tag.access.tx", "tag.access.rx"),
        nic(
            vf(0, vlans=(100,), strip_ctag=True),
            vf(1, vlans=(100,), strip_ctag=True),
            enable_loopback=True,
        ),
        tcp=Tcp(0, 1, 4_000_000, tags=1),
    ),
    Measured(
        "TCP with offloads on passes service-access VFs with S-tags",
        ("count.segments", "tag.service.tx", "tag.service.rx"),
        nic(
            vf(0, vlans=(300,), strip_stag=True),
            vf(1, vlans=(300,), strip_stag=True),
            enable_loopback=True,
            tpid=0x88A8,
        ),
        tcp=Tcp(0, 1, 4_000_000, tags=1),
    ),
    Measured(
        "TCP is carried at nearly the VF's rate",
        ("tx.6", "count.segments"),
        nic(
            vf(0, vlans=(100,), strip_ctag=True, rate="100Mbps"),
            vf(1, vlans=(100,), strip_ctag=True),
            enable_loopback=True,
        ),
        tcp=Tcp(0, 1, 6_000_000, tags=1),
        seconds=0.48,
    ),
)

MEASURED: tuple[Measured, ...] = (*RATES, *STORMS, *SLOW_MIRROR, *OFFLOAD)
