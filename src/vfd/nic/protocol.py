"""The protocol of a NIC: what a backend implements, and the values that pass over it.

The daemon calls a backend from one thread only, one call at a time, so a backend needs no
locks. Calls may block for as long as the hardware takes; events are the exception and never block.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from vfd.plan.changes import Change
from vfd.policy.requests import Decision, Grants, Request
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy, VfRules


class NicError(Exception):
    """The NIC refused or failed. Says what was asked, what was found and what to do.

    Whoever raises it guarantees that the NIC enforces what it enforced before the call.
    """


class UnsupportedError(NicError):
    """An attribute that this NIC can't enforce was asked for; names what would provide it."""


class NicGoneError(NicError):
    """The device is no longer there (hot-unplug, driver unbound)."""


class Support(StrEnum):
    ENFORCED = "enforced"
    LIMITED = "limited"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether one policy attribute is enforced, and by what."""

    support: Support
    by: str = ""
    """The control surface that enforces it: ``ebpf``, ``rtnetlink``, ``sysfs:trunk`` …"""
    limit: str = ""
    """LIMITED: the limit, in words."""
    reason: str = ""
    """ABSENT: why not, and what would provide it."""
    consequence: str = ""
    """ABSENT: what a guest can therefore do, in words ("this guest can send any VLAN")."""
    fixed: object = None
    """The PF attribute's one value on this NIC, where it can't be set."""


BESIDE = ("mac_control", "veiled_tags")
"""Rules that no attribute turns on or off: a guest's MAC control frames are refused, and a tag that
a priority tag veils is."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a NIC can enforce: one entry for each field of VfRules and PfPolicy it knows of.

    A missing attribute counts as absent. Counters are named in ``counters``.
    """

    vf: Mapping[str, Capability]
    pf: Mapping[str, Capability]
    counters: frozenset[str]
    max_vfs: int
    max_vlans: int
    max_macs: int
    max_groups: int
    max_mirrors: int | None = None
    """Mirrors of one VF, as ``policy.mirrors.merged`` puts them together; None: no limit."""
    uncounted: str = ""
    """Why the VFs have no counters, where they have none."""
    closed: Capability = Capability(Support.ENFORCED)
    """Whether a VF without a configuration is closed."""
    beside: Mapping[str, Capability] = field(default_factory=dict)
    """What docs/semantics.md asks of every NIC, whatever a policy says: BESIDE."""
    counter_limits: Mapping[str, str] = field(default_factory=dict)
    """Counter → in what it counts otherwise than docs/semantics.md says, in words."""
    device: Mapping[str, Capability] = field(default_factory=dict)
    """What the device or its driver is set to beside any policy and that decides what VFs can do,
    by its own name: a driver's flag, a parameter of the device."""
    count_takes_all: bool = False
    """A change of the number of VFs takes every VF from its guest for a moment, not only those
    that go. ``apply`` refuses it while guests hold any, but with ``PfChange.force``."""
    more_with_vfs: bool = False
    """There are no VFs, and the driver shows only with the first all that it can enforce: VFs are
    made before it is judged what their policies ask for."""
    disturbing: frozenset[str] = frozenset()
    """Attributes of the PF whose change disturbs guests, or the host's own network: one that the
    configuration leaves at its default is not worth it while guests hold VFs or ``host_use``."""
    host_use: str = ""
    """What of the host's own network hangs on the PF, in words: a change of the PF may cut it off.
    '' where nothing does."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the NIC is. Unknown texts are empty, unknown numbers None."""

    id: str
    """As the main configuration names it."""
    backend: str
    address: str
    """PCI address, or the software NIC's name."""
    model: str = ""
    driver: str = ""
    firmware: str = ""
    numa_node: int | None = None
    vf_total_msix: int | None = None
    """Interrupt vectors that can be shared out among the VFs, where the NIC lets one choose."""


@dataclass(frozen=True, slots=True)
class Link:
    up: bool
    speed_bps: int | None
    """None: unknown, as on a link that is down."""
    why: str = ""
    """Why it is down, where that is to be told."""


@dataclass(frozen=True, slots=True)
class VfState:
    """One VF as observed."""

    vfid: int
    rules: VfRules | None
    """What the NIC enforces, with rates in bits per second; None: the VF is closed."""
    link_up: bool
    mac: str | None
    """The default MAC in force now: forced, granted, or the NIC's own."""
    mtu: int | None
    address: str = ""
    """The VF's PCI address or netdev name."""
    guest: str = ""
    """Who holds the VF, as far as can be seen: a driver, a namespace, a process; '' unknown."""
    held: bool = False
    """A guest holds the VF now: taking it away would hurt."""
    grants: Grants = field(default_factory=Grants)
    driver: str = ""
    """The driver that the VF is bound to on this host; '' where none is."""
    iommu_group: int | None = None
    numa_node: int | None = None
    msix: int | None = None
    """Interrupt vectors of the VF."""


@dataclass(frozen=True, slots=True)
class NicState:
    """What a NIC enforces now, read back from it."""

    pf: PfPolicy | None
    """What the PF enforces; None: the NIC was never configured by vfd."""
    link: Link
    vfs: Mapping[int, VfState]
    """Every VF that exists, by vfid."""


COUNTERS = (
    "rx_packets", "rx_bytes", "rx_errors", "rx_dropped",
    "tx_packets", "tx_bytes", "tx_errors", "tx_dropped",
    "spoofed", "dropped_vlan", "dropped_untagged", "oversize",
    "rate_dropped", "storm_dropped", "mirrored",
)  # fmt: skip
"""Every counter's name, in the order of listings. Directions are the guest's."""

PF_PORT = -1
"""The key of the PF's own (the wire's) counters beside the vfids."""

Counters = Mapping[int, Mapping[str, int]]
"""By vfid, and PF_PORT for the PF: counter → value, monotonic. What can't be counted is absent."""


class EventKind(StrEnum):
    LINK = "link"
    REQUEST = "request"
    VF_RESET = "vf-reset"
    GUEST_COME = "guest-come"
    GUEST_GONE = "guest-gone"
    DRIFT = "drift"
    """Somebody else changed what the NIC enforces."""
    LOST = "lost"
    """The PF is gone."""
    BACK = "back"
    """The PF is there again."""
    OVERRUN = "overrun"
    """Events were lost (ENOBUFS): observe everything again."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at the NIC. ``vfid`` None: at the PF."""

    kind: EventKind
    vfid: int | None = None
    text: str = ""
    request: Request | None = None
    """REQUEST: what the guest asks for; the answer goes to ``Nic.answer``."""


class Nic(Protocol):
    """One NIC, opened. Made by a backend's ``open`` function; ``close`` leaves it enforcing."""

    @property
    def identity(self) -> Identity: ...

    @property
    def capabilities(self) -> Capabilities:
        """Pure, as ``shortfalls`` and ``expressible`` are: what they are worked out from was found
        when the NIC was opened, last observed or changed, or told of something. They cause no call
        into the system."""
        ...

    def link(self) -> Link:
        """The wire's link now."""
        ...

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:
        """The attributes of ``rules`` whose value this NIC can't enforce as asked, each with the
        reason and the consequence. Pure. The caller refuses those that a file states and warns of
        the others. Subsumes ``capabilities`` where a capability depends on the value (one VLAN by
        access mode, but no list)."""
        ...

    def expressible(self, vfid: int, rules: VfRules | None) -> VfRules | None:
        """``rules`` as ``observe`` will show them once applied: rates in the NIC's steps,
        attributes that it can't enforce at their defaults. For a closed VF (None) that is None,
        or, on a NIC that can't close a VF, what it shows instead. Pure."""
        ...

    def observe(self, only: Collection[int] | None = None, *, guests: bool = True) -> NicState:
        """What the NIC enforces now, read back from it. ``only``: of the VFs, at least these.
        ``guests`` false: who holds the VFs may be as last seen, where looking takes time.

        Raises NicGoneError, or NicError when it can't be read."""
        ...

    def adopt(self, policies: Collection[VfPolicy]) -> None:
        """Tells the NIC, once it was opened, what configurations there are of its VFs, be they in
        force or not: by them it may have been set before. It tells so what was set from what a
        guest chose, and finishes what was cut short; what a policy decides stays as it is. Told
        again, it holds for what ``apply`` has not touched since.

        Raises NicError."""
        ...

    def manage(self, vfids: Collection[int] | None) -> None:
        """From now on these VFs are the caller's, None: all. Others are another manager's: no
        change of the PF touches them, but that VFs that are made anew get back what they had."""
        ...

    def apply(self, desired: NicPolicy, changes: Sequence[Change]) -> None:
        """Makes ``changes`` in their order, all or none; ``desired`` is the whole state that
        they lead to. Other VFs' traffic is not disturbed.

        Raises NicError with everything undone. Afterwards ``observe`` shows the changes."""
        ...

    def answer(self, answers: Sequence[tuple[Request, Decision]]) -> None:
        """Grants or refuses guests' requests, in their order; a refused one has no effect on the
        wire.

        Raises NicError with none of them granted, or, where a NIC takes them singly, with those
        granted that came before."""
        ...

    def revoke(self, vfid: int) -> None:
        """Takes back all that was granted to the VF's guest (it is gone); fresh random MAC.
        Raises NicError."""
        ...

    def counters(self) -> Counters:
        """All VFs and the PF in one pass."""
        ...

    def fileno(self) -> int:
        """A descriptor that is readable while ``events`` has something to return."""
        ...

    def events(self) -> list[Event]:
        """What has happened since the last call; never blocks."""
        ...

    def close(self) -> None:
        """Lets go of the NIC. What it enforces stays enforced."""
        ...
