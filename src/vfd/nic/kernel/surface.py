"""Control surfaces: the ways into a PF that a Linux driver offers, and which one takes what.

A PF has several surfaces at once (rtnetlink, the vendor's sysfs, switchdev …), each of which can
enforce some attributes of a VF's rules, some only for some values. ``assign`` gives each attribute
of one VF to the strongest surface that can enforce the value asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vfd.nic.protocol import Capability, Support
from vfd.policy.values import GuestMacs, LinkStatus, PfPolicy, VfRules

Shown = Mapping[str, Any]
"""Attributes of VfRules, as a surface shows them."""

TAGGING = frozenset(
    {"vlans", "strip_stag", "strip_ctag", "allow_untagged", "vlan_anti_spoof", "pcp"}
)
"""What decides together how a VF's frames are tagged: one surface takes all of it, since two
that both touch a VF's VLANs undo each other's work."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one surface is to enforce on one VF."""

    rules: VfRules | None
    """None: the VF is to be closed."""
    attributes: frozenset[str]
    """The attributes that are this surface's; it puts its other settings to neutral. Of a VF that
    is closed: those that stay as they are, because it opens again at once."""


class Surface(Protocol):
    """One control surface of a PF."""

    @property
    def name(self) -> str:
        """``rtnetlink``, ``sysfs:i40e`` …: what listings say enforces an attribute."""
        ...

    def look(self) -> None:
        """Looks what the driver offers now. What is pure below is so from one look to the next."""
        ...

    def capabilities(self) -> Mapping[str, Capability]:
        """The attributes of VfRules that it can enforce, fully or for some values. Pure."""
        ...

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:
        """Those of its attributes whose value in ``rules`` it can't enforce, and why. Pure."""
        ...

    def express(self, assigned: Assignment) -> Shown:
        """What ``read`` will show of a VF after ``write``. Pure."""
        ...

    def read(self) -> Mapping[int, Shown]:
        """What it enforces now, by vfid. Raises NicError."""
        ...

    def write(self, wanted: Mapping[int, Assignment]) -> None:
        """Makes these VFs enforce what is assigned, in as few calls as the surface takes.

        All or none: raises NicError after putting back what it had changed."""
        ...


class PfSurface(Protocol):
    """A control surface that also sets the PF itself. Nothing is offered while it is absent."""

    def pf_capabilities(self) -> Mapping[str, Capability]:
        """The attributes of PfPolicy that it can set."""
        ...

    def observe_pf(self, wanted: PfPolicy) -> Shown:
        """Those of its attributes as the PF has them, in place of those of ``wanted``.

        Raises NicError."""
        ...

    def write_pf(self, now: PfPolicy, after: PfPolicy) -> None:
        """Makes the PF have what ``after`` asks of its attributes; writes only what differs.

        Raises NicError, perhaps with a part done: the caller writes the old policy again."""
        ...


@runtime_checkable
class CounterSurface(Protocol):
    """A control surface that counts what rtnetlink does not."""

    def counter_names(self) -> frozenset[str]: ...

    def counters(self) -> Mapping[int, Mapping[str, int]]:
        """By vfid. Raises NicError."""
        ...


@runtime_checkable
class MacSurface(Protocol):
    """A control surface that shows a MAC that a guest chose as it shows one that was forced."""

    def adopt(self, forced: Mapping[int, Collection[str]]) -> None:
        """By VF that has a configuration, the MACs that this forces. Whatever else such a VF
        shows its guest chose; a MAC that another VF's configuration forces is taken for forced,
        so that it is taken back. VFs that were written to since are left out. Raises NicError."""
        ...


@runtime_checkable
class FileSurface(Protocol):
    """A control surface whose files others may write to."""

    def folders(self) -> list[Path]:
        """Where they are now."""
        ...


NEEDS_NOBODY: Mapping[str, Callable[[Any], bool]] = {
    "vlans": lambda _: False,
    "strip_stag": lambda on: not on,
    "strip_ctag": lambda on: not on,
    "allow_untagged": bool,
    "pcp": lambda pcp: not pcp,
    "vm_mac": lambda mac: mac is None,
    "macs": lambda macs: not macs,
    "mac_anti_spoof": lambda on: not on,
    "vlan_anti_spoof": lambda on: not on,
    "allow_bcast": bool,
    "allow_mcast": bool,
    "allow_un_ucast": lambda _: False,
    "link_status": lambda status: status is LinkStatus.AUTO,
    "rate": lambda rate: not rate,
    "min_rate": lambda rate: not rate,
    "max_rx_rate": lambda rate: not rate,
    "queues": lambda shares: not shares,
    "mirror": lambda mirrors: not mirrors,
    "trust": lambda on: not on,
    "mtu": lambda mtu: mtu is None,
    "storm_limit": lambda limit: not limit,
    "guest_macs": lambda macs: macs is GuestMacs.ANY,
    "guest_vlans": bool,
    "guest_groups": bool,
}
"""Values that hold although no surface enforces them: they forbid nothing and add nothing."""

CONSEQUENCES: Mapping[str, str] = {
    "vlans": "this guest can send any VLAN",
    "allow_untagged": "this guest can send and receive untagged frames",
    "pcp": "this guest's frames leave with priority 0",
    "strip_stag": "no service tag is pushed: this guest's frames leave as it sends them",
    "strip_ctag": "no tag is inserted: this guest's frames leave as it sends them",
    "vm_mac": "this guest chooses its own MAC",
    "macs": "the further MACs are not reserved for this guest",
    "mac_anti_spoof": "this guest can send with any source MAC",
    "vlan_anti_spoof": "this guest can send any VLAN",
    "allow_bcast": "this guest receives broadcasts",
    "allow_mcast": "this guest receives any multicast that it asks the NIC for",
    "allow_un_ucast": "this guest may receive unicast that is meant for nobody here",
    "link_status": "this guest's link follows the wire",
    "rate": "this guest can send at the link's full speed",
    "min_rate": "nothing is guaranteed to this guest",
    "max_rx_rate": "this guest can be sent to at the link's full speed",
    "queues": "this guest's shares in the traffic classes are the NIC's own",
    "mirror": "no copies are made",
    "trust": "this guest is refused promiscuous modes",
    "mtu": "this guest chooses its MTU, up to the NIC's largest frame",
    "storm_limit": "this guest can send any number of broadcasts",
    "guest_macs": "the NIC's driver decides which further MACs this guest gets",
    "guest_vlans": "the NIC's driver decides which VLAN filters this guest gets",
    "guest_groups": "the NIC's driver decides which multicast groups this guest joins",
}
"""What follows for the guest where an attribute is not enforced; for listings."""

_SOFT = "a software NIC"
_LIST = f"switchdev mode, Intel's out-of-tree i40e, MLNX_OFED's VGT+ or {_SOFT}"
_FILTER = f"switchdev mode, Intel's out-of-tree i40e or {_SOFT}"

PROVIDERS: Mapping[str, str] = {
    "vlans": _LIST,
    "strip_stag": f"switchdev mode, a driver with 802.1ad (ice, bnxt_en) or {_SOFT}",
    "strip_ctag": f"switchdev mode or {_SOFT}",
    "allow_untagged": _LIST,
    "pcp": f"a NIC whose driver has VF operations, switchdev mode or {_SOFT}",
    "vm_mac": f"a NIC whose driver has VF operations, or {_SOFT}",
    "macs": _FILTER,
    "mac_anti_spoof": f"switchdev mode, a driver with spoof check or {_SOFT}",
    "vlan_anti_spoof": _LIST,
    "allow_bcast": _FILTER,
    "allow_mcast": _FILTER,
    "allow_un_ucast": _FILTER,
    "link_status": f"a driver with link states (ixgbe, i40e, ice, mlx5_core, bnxt_en) or {_SOFT}",
    "rate": f"a driver with rates (82576, ixgbe at 10 Gbit/s, i40e, ice, mlx5_core) or {_SOFT}",
    "min_rate": f"a driver with guarantees (ice, mlx5_core, bnxt_en) or {_SOFT}",
    "max_rx_rate": f"switchdev mode or {_SOFT}",
    "queues": f"Intel's out-of-tree i40e or {_SOFT}",
    "mirror": _FILTER,
    "trust": f"a driver with trust, in legacy mode, or {_SOFT}",
    "mtu": _SOFT,
    "storm_limit": f"switchdev mode or {_SOFT}",
    "guest_macs": _SOFT,
    "guest_vlans": _SOFT,
    "guest_groups": _SOFT,
}
"""What would provide an attribute: a driver, a mode or another NIC. docs/nics.md has the table."""


def absent(attribute: str) -> Capability:
    """No surface offers the attribute."""
    return Capability(
        Support.ABSENT,
        reason=f"no control surface of this NIC's driver offers {attribute};"
        f" {PROVIDERS[attribute]} does",
        consequence=CONSEQUENCES[attribute],
    )


_STRENGTH = {Support.ENFORCED: 2, Support.LIMITED: 1, Support.ABSENT: 0}


def assign(
    rules: VfRules, surfaces: Sequence[Surface]
) -> tuple[Mapping[str, frozenset[str]], Mapping[str, Capability]]:
    """Which surface takes which attributes of these rules, and what none of them can enforce.

    ``surfaces``: strongest first, which decides between equals. Returns (surface name →
    attributes, attribute → capability that says what is missing). Pure.
    """
    taken = takers(surfaces)(rules)
    mine = frozenset[str]().union(*taken.values())
    lacking = [
        attribute
        for attribute in VfRules.model_fields
        if attribute not in mine and not needs_nobody(attribute, rules)
    ]
    short = [surface.shortfalls(rules) for surface in surfaces] if lacking else []
    return taken, {attribute: _why_not(attribute, short) for attribute in lacking}


def needs_nobody(attribute: str, rules: VfRules) -> bool:
    """Whether the attribute's value holds although no surface enforces it."""
    if attribute == "pcp" and rules.access_vid is None:
        return True  # no tag is inserted
    return NEEDS_NOBODY[attribute](getattr(rules, attribute))


def takers(surfaces: Sequence[Surface]) -> Callable[[VfRules], Mapping[str, frozenset[str]]]:
    """The first half of ``assign``, for the rules of many VFs on the same surfaces."""
    supports = [
        (surface.name, tuple((name, can.support) for name, can in surface.capabilities().items()))
        for surface in surfaces
    ]
    known: dict[tuple[frozenset[str], ...], Mapping[str, frozenset[str]]] = {}

    def of(rules: VfRules) -> Mapping[str, frozenset[str]]:
        short = tuple(frozenset(surface.shortfalls(rules)) for surface in surfaces)
        if short not in known:
            offers = zip(supports, short, strict=True)
            known[short] = _takers(tuple((*support, lacks) for support, lacks in offers))
        return known[short]

    return of


_Offer = tuple[str, tuple[tuple[str, Support], ...], frozenset[str]]
"""A surface's name, the attributes that it can enforce and how well, and those whose value it
can't."""


@lru_cache(maxsize=64)  # the VFs of a PF are of few kinds, and there may be 256
def _takers(offers: tuple[_Offer, ...]) -> Mapping[str, frozenset[str]]:
    can = {
        name: {
            attribute: _STRENGTH[support]
            for attribute, support in supports
            if attribute not in short and support is not Support.ABSENT
        }
        for name, supports, short in offers
    }
    owner = _tagging_owner(can)
    taken: dict[str, set[str]] = {}
    for attribute in VfRules.model_fields:
        if attribute in TAGGING:
            best = owner if owner and attribute in can[owner] else None
        else:
            best = _strongest(attribute, can)
        if best:
            taken.setdefault(best, set()).add(attribute)
    return {name: frozenset(attributes) for name, attributes in taken.items()}


def _strongest(attribute: str, can: Mapping[str, Mapping[str, int]]) -> str | None:
    offers = [name for name in can if attribute in can[name]]
    return max(offers, key=lambda name: can[name][attribute], default=None)


def _tagging_owner(can: Mapping[str, Mapping[str, int]]) -> str | None:
    """The surface that can do most of the tagging that these rules ask for."""
    offers = [name for name in can if TAGGING & can[name].keys()]
    return max(
        offers,
        key=lambda name: (
            len(TAGGING & can[name].keys()),
            sum(can[name][attribute] for attribute in TAGGING & can[name].keys()),
        ),
        default=None,
    )


def _why_not(attribute: str, reasons: Iterable[Mapping[str, Capability]]) -> Capability:
    """The reason of the surface that comes nearest, or that there is none at all."""
    for short in reasons:
        if attribute in short:
            near = short[attribute]
            return Capability(
                Support.ABSENT,
                reason=f"{near.reason or near.limit}; {PROVIDERS[attribute]} can enforce it",
                consequence=near.consequence or CONSEQUENCES[attribute],
            )
    return absent(attribute)
