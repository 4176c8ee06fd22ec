"""The files of Intel's SR-IOV hypervisor management interface for one VF, and how they change.

Source: README of Intel's out-of-tree i40e 2.28.16, "SR-IOV Hypervisor Management Interface"; what
it leaves open, from that driver's src/kcompat_vfd.c and src/i40e_virtchnl_pf.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vfd.nic.kernel.attributes import Write, list_texts, parse_list, read

BROADCAST = "ff:ff:ff:ff:ff:ff"
_MACS_A_WRITE = 200
"""MACs of one edit: with 18 characters each they fit a page."""


@dataclass(frozen=True, slots=True)
class VfFiles:
    """What one VF's files say. None: this driver has no such file."""

    enable: bool = True
    trunk: frozenset[int] = frozenset()
    """Empty: every VLAN passes."""
    allow_untagged: bool = True
    vlan_strip: bool = True
    vlan_anti_spoof: bool | None = None
    allow_bcast: bool | None = None
    macs: frozenset[str] = frozenset()
    """Unicast MACs of ``mac_list`` but the default MAC: listed ones and those that the guest
    asked the driver for look the same."""
    promisc: frozenset[str] = frozenset()
    ingress_mirror: int | None = None
    egress_mirror: int | None = None
    vlan_mirror: frozenset[int] = frozenset()
    shares: tuple[tuple[int, int], ...] = field(default=())
    """(traffic class, percent) of the classes that are in use."""
    rates: tuple[tuple[int, int], ...] = ()
    """(traffic class, Mbit/s) likewise; 0: no limit."""


def read_vf(folder: Path, classes: frozenset[int]) -> VfFiles:
    """Raises OSError. ``classes``: the traffic classes in use."""

    def optional(name: str) -> bool | None:
        return _flag(folder / name) if (folder / name).exists() else None

    default = read(folder / "mac").lower()
    return VfFiles(
        enable=_flag(folder / "enable"),
        trunk=parse_list(read(folder / "trunk")),
        allow_untagged=_flag(folder / "allow_untagged"),
        vlan_strip=_flag(folder / "vlan_strip"),
        vlan_anti_spoof=optional("vlan_anti_spoof"),
        allow_bcast=optional("allow_bcast"),
        macs=frozenset(_unicast(read(folder / "mac_list"))) - {default},
        promisc=frozenset(read(folder / "promisc").replace(",", " ").split()) - {"off"},
        ingress_mirror=_target(folder / "ingress_mirror"),
        egress_mirror=_target(folder / "egress_mirror"),
        vlan_mirror=parse_list(read(folder / "vlan_mirror")),
        shares=tuple((tc, int(read(folder / f"qos/{tc}/share"))) for tc in sorted(classes)),
        rates=tuple((tc, int(read(folder / f"qos/{tc}/max_tc_tx_rate"))) for tc in sorted(classes)),
    )


COUNTERS = frozenset({"tx_errors"})
"""Of ``stats``, what IFLA_VF_STATS lacks. README: it counts anti-spoofing violations."""


def read_counters(folder: Path) -> dict[str, int]:
    """Raises OSError, ValueError."""
    return {name: int(read(folder / "stats" / name)) for name in COUNTERS}


def changes(folder: Path, now: VfFiles, want: VfFiles, link: str) -> Iterator[Write]:
    """The writes from ``now`` to ``want``: a VF is disabled before, and enabled after all else.

    Enabling leaves the link at ``auto``; ``link`` is then written. Shares are left to the caller,
    since they take effect for the whole PF at once.
    """

    def flag(name: str, on: bool) -> Write:
        return Write(folder / name, "on" if on else "off")

    if now.enable and not want.enable:
        yield flag("enable", False)
    yield from _tagging(folder, now, want)
    for name in ("vlan_anti_spoof", "allow_bcast"):
        wanted = getattr(want, name)
        if wanted is not None and wanted != getattr(now, name):
            yield flag(name, wanted)
    yield from _edits(folder / "mac_list", sorted(want.macs - now.macs), "add")
    yield from _edits(folder / "mac_list", sorted(now.macs - want.macs), "rem")
    for mode in sorted(now.promisc - want.promisc):
        yield Write(folder / "promisc", f"rem {mode}")
    for mode in sorted(want.promisc - now.promisc):
        yield Write(folder / "promisc", f"add {mode}")
    have = dict(now.rates)
    for tc, mbps in want.rates:
        if have.get(tc, mbps) != mbps:
            yield Write(folder / f"qos/{tc}/max_tc_tx_rate", str(mbps))
    for text in list_texts(now.vlan_mirror - want.vlan_mirror):
        yield Write(folder / "vlan_mirror", f"rem {text}")
    for name in ("ingress_mirror", "egress_mirror"):
        old, new = getattr(now, name), getattr(want, name)
        if old == new:
            continue
        if old is not None:  # adding over it would leave its rule in the switch
            yield Write(folder / name, f"rem {old}")
        if new is not None:
            yield Write(folder / name, f"add {new}")
    if want.enable and not now.enable:
        yield flag("enable", True)
        if link != "auto":
            yield Write(folder / "link_state", link)


def _tagging(folder: Path, now: VfFiles, want: VfFiles) -> Iterator[Write]:
    """The trunk and what the driver changes along with it: the first VLAN shuts untagged frames
    out, an empty trunk lets them in, and every edit turns stripping on in the hardware, which
    ``vlan_strip`` does not show."""
    for text in list_texts(want.trunk - now.trunk):
        yield Write(folder / "trunk", f"add {text}")
    for text in list_texts(now.trunk - want.trunk):
        yield Write(folder / "trunk", f"rem {text}")
    untagged = now.allow_untagged
    if not want.trunk and now.trunk:
        untagged = True
    elif want.trunk and not now.trunk:
        untagged = False
    if want.allow_untagged != untagged:
        yield Write(folder / "allow_untagged", "on" if want.allow_untagged else "off")
    if want.trunk != now.trunk and not want.vlan_strip and not now.vlan_strip:
        yield Write(folder / "vlan_strip", "on")  # the driver drops a write of what it has already
        yield Write(folder / "vlan_strip", "off")
    elif want.vlan_strip != now.vlan_strip:
        yield Write(folder / "vlan_strip", "on" if want.vlan_strip else "off")


def _edits(path: Path, macs: list[str], verb: str) -> Iterator[Write]:
    for start in range(0, len(macs), _MACS_A_WRITE):
        yield Write(path, f"{verb} {','.join(macs[start : start + _MACS_A_WRITE])}")


def _flag(path: Path) -> bool:
    return read(path) == "on"


def _target(path: Path) -> int | None:
    text = read(path)
    return int(text) if text.isdigit() else None


def _unicast(text: str) -> Iterator[str]:
    for mac in text.lower().replace(",", " ").split():
        if len(mac) == len(BROADCAST) and not int(mac[:2], 16) & 1:
            yield mac
