"""What takes time to show: rates, guarantees, classes, storm limits, offload. Data only.

Each row offers load and says in which bounds what arrives must lie. Bounds are wide enough for
two busy cores, and far narrower than the effect of the rule's absence.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfd.policy.values import BandwidthGroup, Direction, Mirror, NicPolicy, TrafficClass, VfRules

from .case import WIRE, nic, vf
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
    """Of the load ``label`` from ``sender``, this much arrives at ``port``: frames or Mbit/s
    (of bytes as they arrive there) within ``low`` … ``high``."""

    port: int
    sender: int
    low: float
    high: float
    unit: str = "Mbit/s"
    label: str = ""


@dataclass(frozen=True, slots=True)
class Counted:
    """``port``'s ``counter`` moves by ``low`` … ``high``."""

    port: int
    counter: str
    low: int
    high: int


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
    tcp: Tcp | None = None
    seconds: float = 0.5
    needs: frozenset[str] = frozenset()

    @property
    def features(self) -> frozenset[str]:
        found = set(self.needs) | ({"offload"} if self.tcp else set())
        for each in self.nic.vfs:
            found |= {
                name
                for name, info in VfRules.model_fields.items()
                if getattr(each, name) != info.default
            }
        if self.nic.pf.enable_qos:
            found.add("tclasses")
        if self.nic.pf.enable_loopback:
            found.add("enable_loopback")
        if any(bound.port == WIRE for bound in self.bounds):
            found.add("wire")
        return frozenset(found)


def big(vfid: int, dst: str = WORLD, pcp: int = 0) -> Frame:
    return from_vf(vfid, dst, c(100, pcp=pcp), kind=IPV4, payload=1490)


BIG_BITS = (14 + 4 + 1490) * 8
MANY = 8000
"""Frames a second: 96 Mbit/s of ``big`` ones."""

LSP = (
    TrafficClass(pri=0, max_bw=100),
    TrafficClass(pri=1, max_bw=100),
    TrafficClass(pri=2, max_bw=100),
    TrafficClass(pri=3, max_bw=100, lsp=True),
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
GROUP_STRICT = (*GROUPED[:3], TrafficClass(pri=3, min_bw=10, bsp=True))
EIGHT = tuple(TrafficClass(pri=n, max_bw=10 if n == 5 else 100) for n in range(8))
TWO_GROUPS = (
    BandwidthGroup(name="low", classes=(0, 2)),
    BandwidthGroup(name="high", classes=(1, 3)),
)

RATES = (
    Measured(
        "A VF sends no more than its rate, a share of the link that the configuration states",
        ("tx.6", "rates.link"),
        nic(vf(0, vlans=(100,), rate="10%"), vf(1, vlans=(100,)), link_speed="200Mbps"),
        loads=(Load(0, big(0), MANY // 2), Load(1, big(1), 1000)),
        bounds=(Bound(WIRE, 0, 12, 26), Bound(WIRE, 1, 10.5, 13)),
        counted=(Counted(0, "rate_dropped", 100, 100_000), Counted(1, "rate_dropped", 0, 0)),
    ),
    Measured(
        "What a rate drops is not mirrored",
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
        bounds=(Bound(WIRE, 0, 12, 26), Bound(3, 0, 12, 26)),
        counted=(Counted(0, "rate_dropped", 100, 100_000),),
    ),
    Measured(
        "A VF is given no more than its max_rx_rate",
        ("rx.5",),
        nic(vf(0, vlans=(100,), max_rx_rate="20Mbps"), vf(1, vlans=(100,))),
        loads=(
            Load(WIRE, Frame(mac(0), WORLD, (c(100),), IPV4, 1490), MANY // 2, "to 0"),
            Load(WIRE, Frame(mac(1), WORLD, (c(100),), IPV4, 1490), 1000, "to 1"),
        ),
        bounds=(
            Bound(0, WIRE, 12, 26, label="to 0"),
            Bound(1, WIRE, 10.5, 13, label="to 1"),
        ),
        needs=frozenset({"wire"}),
    ),
    Measured(
        "VFs that want more than the link has get at least their guarantees",
        ("tx.6", "rates.link"),
        nic(
            vf(0, vlans=(100,), min_rate="30Mbps"),
            vf(1, vlans=(100,), min_rate="5Mbps"),
            link_speed="40Mbps",
        ),
        loads=(Load(0, big(0), MANY // 2), Load(1, big(1), MANY // 2)),
        bounds=(Bound(WIRE, 0, 24, 38), Bound(WIRE, 1, 3.5, 14)),
        seconds=0.8,
    ),
    Measured(
        "A guarantee that is not used is lent to the others",
        ("tx.6",),
        nic(
            vf(0, vlans=(100,), min_rate="30Mbps"),
            vf(1, vlans=(100,), min_rate="5Mbps"),
            link_speed="40Mbps",
        ),
        loads=(Load(1, big(1), MANY // 2),),
        bounds=(Bound(WIRE, 1, 28, 46),),
    ),
    Measured(
        "A frame's PCP is its class, and a strict class comes before the others on the link",
        ("rates.classes", "tx.6"),
        nic(
            vf(0, vlans=(100,)),
            vf(1, vlans=(100,)),
            link_speed="40Mbps",
            enable_qos=True,
            tclasses=LSP,
        ),
        loads=(
            Load(0, big(0, pcp=0), MANY // 2, "low"),
            Load(1, big(1, pcp=7), MANY // 3, "strict"),
        ),
        bounds=(
            Bound(WIRE, 1, 24, 42, label="strict"),
            Bound(WIRE, 0, 0, 16, label="low"),
        ),
        seconds=0.8,
    ),
    Measured(
        "A class gets no more than its max_bw, even alone",
        ("rates.classes",),
        nic(vf(0, vlans=(100,)), link_speed="100Mbps", enable_qos=True, tclasses=CAPPED),
        loads=(Load(0, big(0, pcp=0), MANY // 2),),
        bounds=(Bound(WIRE, 0, 12, 26),),
    ),
    Measured(
        "Classes share the link by min_bw, and groups lend each other what they don't use",
        ("rates.classes",),
        nic(
            vf(0, vlans=(100,)),
            vf(1, vlans=(100,)),
            link_speed="40Mbps",
            enable_qos=True,
            tclasses=GROUPED,
            bw_grps=TWO_GROUPS,
        ),
        loads=(
            Load(0, big(0, pcp=0), MANY // 2, "low"),
            Load(1, big(1, pcp=2), MANY // 2, "high"),
        ),
        bounds=(Bound(WIRE, 1, 23, 39, label="high"), Bound(WIRE, 0, 2.5, 15, label="low")),
        seconds=0.8,
    ),
    Measured(
        "A class strict in its group takes all that is the group's, and nothing of the others'",
        ("rates.classes",),
        nic(
            vf(0, vlans=(100,)),
            vf(1, vlans=(100,)),
            link_speed="40Mbps",
            enable_qos=True,
            tclasses=GROUP_STRICT,
            bw_grps=TWO_GROUPS,
        ),
        loads=(
            Load(0, big(0, pcp=0), MANY // 2, "other group"),
            Load(1, big(1, pcp=2), MANY // 2, "beside"),
            Load(1, big(1, pcp=6), MANY // 2, "strict"),
        ),
        bounds=(
            Bound(WIRE, 1, 22, 38, label="strict"),
            Bound(WIRE, 1, 0, 6, label="beside"),
            Bound(WIRE, 0, 3, 14, label="other group"),
        ),
        seconds=0.8,
    ),
    Measured(
        "With 8 classes each PCP is a class of its own",
        ("rates.classes",),
        nic(
            vf(0, vlans=(100,)),
            vf(1, vlans=(100,)),
            link_speed="100Mbps",
            enable_qos=True,
            tclasses=EIGHT,
        ),
        loads=(
            Load(0, big(0, pcp=5), MANY // 4, "capped"),
            Load(1, big(1, pcp=4), MANY // 4, "its neighbour"),
        ),
        bounds=(
            Bound(WIRE, 0, 6, 14, label="capped"),
            Bound(WIRE, 1, 20, 25, label="its neighbour"),
        ),
    ),
    Measured(
        "A VF's rate is over all its classes",
        ("tx.6", "rates.classes"),
        nic(
            vf(0, vlans=(100,), rate="18Mbps"),
            vf(1, vlans=(100,)),
            link_speed="100Mbps",
            enable_qos=True,
        ),
        loads=(
            *(Load(0, big(0, pcp=pcp), MANY // 6, f"PCP {pcp}") for pcp in (0, 2, 4)),
            Load(1, big(1), 1000),
        ),
        bounds=(
            *(Bound(WIRE, 0, 3.5, 9, label=f"PCP {pcp}") for pcp in (0, 2, 4)),
            Bound(WIRE, 1, 10.5, 13),
        ),
    ),
    Measured(
        "Queue shares divide a class between the VFs that want all of it",
        ("rates.classes", "tx.6"),
        nic(
            vf(0, vlans=(100,), queues=({"priority": 0, "share": 80},)),
            vf(1, vlans=(100,), queues=({"priority": 0, "share": 20},)),
            link_speed="40Mbps",
            enable_qos=True,
            tclasses=tuple(TrafficClass(pri=n) for n in range(4)),
        ),
        loads=(Load(0, big(0), MANY // 2), Load(1, big(1), MANY // 2)),
        bounds=(Bound(WIRE, 0, 24, 38), Bound(WIRE, 1, 3.5, 14)),
        seconds=0.8,
    ),
)

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
            Bound(1, 0, 60, 350, "frames", "broadcast"),
            Bound(WIRE, 0, 60, 350, "frames", "broadcast"),
            Bound(1, 0, 1000, 1000, "frames", "unicast"),
        ),
        counted=(Counted(0, "storm_dropped", 650, 940),),
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
        bounds=(Bound(WIRE, 0, 60, 350, "frames"), Bound(3, 0, 60, 350, "frames")),
        counted=(Counted(0, "storm_dropped", 650, 940),),
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
        bounds=(Bound(WIRE, 0, 60, 350, "frames"), Bound(1, 0, 60, 350, "frames")),
        counted=(Counted(0, "storm_dropped", 650, 940),),
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
        bounds=(Bound(WIRE, 0, 1000, 1000, "frames"), Bound(3, 0, 1, 500, "frames")),
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
