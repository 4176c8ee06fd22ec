"""Everything known of one PF or VF, as lines to read: ``iplex show extended``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vfd.cli.rows import UNUSUAL, link_style, link_text, port_name, scaled_texts
from vfd.cli.text import hanging, number, paint, printable, ranges, speed

_LABEL = 10
_TRAFFIC = ("packets", "bytes", "errors", "dropped")
_DROPS = (
    "spoofed",
    "dropped_vlan",
    "dropped_untagged",
    "oversize",
    "rate_dropped",
    "storm_dropped",
)


def block_lines(
    row: Mapping[str, Any], *, exact: bool, colour: bool, width: int | None = None
) -> list[str]:
    """The row of a PF or VF with its ``extended`` part, fitted to ``width`` columns if given."""
    more = row.get("extended") or {}
    lines = [_head(row, colour)]

    def line(label: str, *parts: str) -> None:
        if shown := [printable(part) for part in parts if part]:
            lines.extend(hanging(f"  {label:{_LABEL}}", shown, width))

    if row["kind"] == "pf":
        device = [more.get("backend"), more.get("model"), more.get("driver"), more.get("firmware")]
        line("device", " ".join(part for part in device if part), _numa(more))
        scaled = more.get("scale") not in (None, 1, 1.0)
        vfs = more.get("vfs")
        line(
            "vfs",
            "" if vfs is None else str(vfs),
            "" if more.get("msix") is None else f"{more['msix']} interrupts to share out",
            f"guarantees scaled by {more['scale']:.3g}" if scaled else "",
            *(
                f"shares of class {pri} scaled by {factor:.3g}"
                for pri, factor in (more.get("class_scale") or {}).items()
            ),
        )
    else:
        line("guest", _guest(more))
        line("pci", *_pci(more))
        line("mac", row.get("mac") or "", _list("also ", more.get("macs")))
        line("groups", " ".join(more.get("groups") or []))
        line("vlans", *_vlans(more))
        line("rates", *_rates(more), *scaled_texts(row))
        line("link", *_link(more))
        line("rights", *_rights(more))
        line("wishes", *wishes_text(more.get("wishes")))
        line("mirrors", *_mirrors(more))
    counters = row["counters"]
    for side in ("rx", "tx"):
        counted = (f"{n} {number(counters.get(f'{side}_{n}'), exact)}" for n in _TRAFFIC)
        line(side, *counted)
    line("drops", *(f"{name} {number(counters.get(name), exact)}" for name in _DROPS))
    known = {f"{side}_{name}" for side in ("rx", "tx") for name in _TRAFFIC} | set(_DROPS)
    line("others", *(f"{n} {number(v, exact)}" for n, v in counters.items() if n not in known))
    mark = paint("!", "bold red", colour)
    for text in row["warnings"]:
        first, *rest = hanging("    ", [printable(text)], width)
        lines += [f"  {mark} {first.lstrip()}", *rest]
    return lines


def _head(row: Mapping[str, Any], colour: bool) -> str:
    shown = link_text(row)
    name = "" if row["kind"] == "pf" else row["name"] or "no configuration"
    parts = [
        paint(printable(port_name(row)), "bold cyan" if row["kind"] == "pf" else "bold", colour),
        printable(name),
        printable(row["address"]) if row["address"] != row["pf"] else "",
        paint(shown, link_style(row, shown), colour),
        row["link"] if shown in UNUSUAL else "",
        speed(row["speed"]) if row["speed"] is not None else "",
    ]
    return "  ".join(part for part in parts if part)


def _numa(more: Mapping[str, Any]) -> str:
    node = more.get("numa_node")
    return "" if node is None else f"NUMA node {node}"


def _pci(more: Mapping[str, Any]) -> list[str]:
    """The VF as a PCI function; nothing of a VF that is none."""
    group, vectors = more.get("iommu_group"), more.get("msix")
    return [
        f"driver {more['driver']}" if more.get("driver") else "",
        "" if group is None else f"IOMMU group {group}",
        _numa(more),
        "" if vectors is None else f"{vectors} interrupts",
    ]


def _guest(more: Mapping[str, Any]) -> str:
    if more.get("guest"):
        return f"{more['guest']}" + ("" if more.get("held") else " (let go)")
    return "holds it" if more.get("held") else "none seen"


def _list(label: str, values: Iterable[str] | None) -> str:
    text = " ".join(values or ())
    return label + text if text else ""


def _vlans(more: Mapping[str, Any]) -> list[str]:
    if more.get("vlans") is None:
        return []
    return [
        ranges(more["vlans"]) or "none",
        more.get("tagging") or "",
        "untagged too" if more.get("allow_untagged") else "",
        f"pcp {more['pcp']}" if more.get("pcp") else "",
    ]


def _rates(more: Mapping[str, Any]) -> list[str]:
    named = (
        ("at most ", "rate"),
        ("guaranteed ", "min_rate"),
        ("rx at most ", "max_rx_rate"),
    )
    parts = [label + speed(more[key]) for label, key in named if more.get(key)]
    if more.get("storm_limit"):
        parts.append(f"{more['storm_limit']} BUM frames/s")
    return parts


def _link(more: Mapping[str, Any]) -> list[str]:
    status, mtu = more.get("link_status"), more.get("mtu")
    return [str(status or ""), f"mtu {mtu}" if mtu is not None else ""]


def _rights(more: Mapping[str, Any]) -> list[str]:
    return [
        word
        for key, word in (
            ("trust", "trusted"),
            ("promisc", "promiscuous"),
            ("allmulti", "all multicast"),
        )
        if more.get(key)
    ]


def wishes_text(wishes: Iterable[Mapping[str, Any]] | None) -> list[str]:
    """What the guest asked for and was refused, with the reason."""
    return [
        " ".join([w["request"], *([] if w["value"] is None else [str(w["value"])])])
        + f" ({w['reason']})"
        for w in wishes or ()
    ]


def _mirrors(more: Mapping[str, Any]) -> list[str]:
    parts = []
    for mirror in more.get("mirrors") or []:
        vlans = f" in VLANs {ranges(mirror['vlans'])}" if mirror["vlans"] else ""
        target = f"{mirror['pf']}:{mirror['target']}"
        if mirror["target_name"]:
            target += f" ({mirror['target_name']})"
        parts.append(f"{mirror['direction']} to {target}{vlans}")
    if of := more.get("mirror_target_of"):
        parts.append(f"receives copies of {ranges(of)}")
    return parts
