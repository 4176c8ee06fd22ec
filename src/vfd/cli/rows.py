"""The tables of ``iplex show``, from the API's rows."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vfd.cli.table import Column, Row, Table, table
from vfd.cli.text import ABSENT, number, paint, printable, ranges, speed
from vfd.policy.shown import plural

UNUSUAL = ("drifted", "failed", "lost")
"""States that say more than the link does, and are shown in its place."""

_NO_CONFIGURATION = {"closed": "closed", "not-managed": "not managed"}
"""States of VFs that have none, as they are shown in place of the link."""

_COUNTERS = (
    # key, title, rank: the highest leaves first
    ("rx_packets", "RX PKTS", 0),
    ("rx_bytes", "RX BYTES", 5),
    ("rx_errors", "RX ERR", 7),
    ("rx_dropped", "RX DROP", 2),
    ("tx_packets", "TX PKTS", 0),
    ("tx_bytes", "TX BYTES", 4),
    ("tx_errors", "TX ERR", 6),
    ("tx_dropped", "TX DROP", 1),
    ("spoofed", "SPOOFED", 0),
)
_BAD = ("rx_errors", "tx_errors", "spoofed")


def port_name(row: Row) -> str:
    """``soft0`` or ``soft0:3``, which other commands take as it stands."""
    return str(row["pf"]) if row["vfid"] is None else f"{row['pf']}:{row['vfid']}"


def link_text(row: Row) -> str:
    """``up``, ``down``, ``closed``, ``not managed``, or what is wrong."""
    state = str(row.get("state", "ok"))
    if state in UNUSUAL or state in _NO_CONFIGURATION:
        return _NO_CONFIGURATION.get(state, state)
    return str(row["link"])


def link_style(_row: Row, text: str) -> str:
    if text in UNUSUAL:
        return "bold red"
    return {"up": "green", "down": "red", "closed": "dim", "not managed": "dim"}.get(text, "")


def counter_style(key: str) -> Callable[[Row, str], str]:
    def style(_row: Row, text: str) -> str:
        if text in ("0", ABSENT):
            return "dim"
        if key in _BAD:
            return "red"
        return "yellow" if "dropped" in key else ""

    return style


def port_table(
    rows: Sequence[Row], *, exact: bool, width: int | None, colour: bool = False
) -> Table:
    """One line for each PF and VF."""

    def counter(key: str) -> Callable[[Row], str]:
        return lambda row: number(row["counters"].get(key), exact)

    def port_style(row: Row, _text: str) -> str:
        return "bold cyan" if row["vfid"] is None else ""

    columns = [
        Column("port", "PORT", port_name, style=port_style),
        Column("name", "NAME", _name, cut=True),
        Column("address", "ADDRESS", lambda row: row["address"] or ABSENT, 3),
        Column("link", "LINK", link_text, style=link_style),
        Column("speed", "SPEED", lambda row: speed(row["speed"]), 8, right=True),
        *(
            Column(key, title, counter(key), rank, right=True, style=counter_style(key))
            for key, title, rank in _COUNTERS
        ),
    ]
    if any(row["warnings"] for row in rows):
        mark = Column("mark", "", _mark, style=lambda _row, _text: "bold red")
        # Beside the port for eyes, at the end for programs that count columns.
        columns.insert(len(columns) if exact else 1, mark)
    return table(columns, rows, width=width, colour=colour)


def _mark(row: Row) -> str:
    return "!" if row["warnings"] else ""


def _name(row: Row) -> str:
    return ABSENT if row["vfid"] is None else row["name"] or ABSENT


def warning_lines(rows: Sequence[Row], width: int | None, colour: bool) -> list[str]:
    """Each warning once, with all the ports that it is true of."""
    return _each_once(rows, lambda row: row["warnings"], width, colour)


def scale_lines(rows: Sequence[Row], width: int | None, colour: bool) -> list[str]:
    """How far guarantees and shares are from what was asked, where there is less than all ask for:
    each factor once, with all the ports that have it."""
    return _each_once(rows, scaled_texts, width, colour)


def _each_once(
    rows: Sequence[Row],
    texts_of: Callable[[Row], Iterable[str]],
    width: int | None,
    colour: bool,
) -> list[str]:
    ports: dict[str, list[Row]] = {}
    for row in rows:
        for text in texts_of(row):
            ports.setdefault(text, []).append(row)
    return _noted((f"{_places(where)}: {text}" for text, where in ports.items()), width, colour)


def scaled_texts(row: Row) -> list[str]:
    texts = []
    if row.get("scale", 1) < 1:
        texts.append(f"guarantee scaled by {row['scale']:.3g}, as all add up to more than the link")
    for pri, factor in (row.get("class_scale") or {}).items():
        texts.append(f"share of class {pri} scaled by {factor:.3g}, as all are more than 100 %")
    return texts


def trouble_lines(health: Mapping[str, Any], width: int | None, colour: bool) -> list[str]:
    """PFs that are in trouble, and files that are not in force: each reason once.

    A PF that can't be opened takes the files of all its VFs along.
    """
    notes = [
        f"{pf['id']} {pf['state']}: {pf['detail'].removeprefix(pf['id'] + ': ')}"
        for pf in health["pfs"]
        if pf["detail"]
    ]
    files: dict[str, list[str]] = {}
    for bad in health["bad_files"]:
        for problem in bad["problems"]:
            field = f"{problem['field']}: " if problem["field"] else ""
            files.setdefault(field + problem["rule"], []).append(bad["file"])
    for reason, (first, *others) in files.items():
        which = f"{first} and {plural(len(others), 'other file')} are" if others else f"{first} is"
        notes.append(f"{which} not in force: {reason}")
    return _noted(notes, width, colour)


def _noted(notes: Iterable[str], width: int | None, colour: bool) -> list[str]:
    """Each note after a mark, wrapped to the terminal."""
    lines = []
    for note in map(printable, notes):
        wrapped = [note] if width is None else textwrap.wrap(note, max(width - 2, 20)) or [note]
        lines.append(paint("!", "bold red", colour) + " " + wrapped[0])
        lines.extend("  " + line for line in wrapped[1:])
    return lines


def _places(rows: Sequence[Row]) -> str:
    """``soft0:3 (tenant-a)``, or ``soft0:0-7,9 (9 VFs)`` for many."""
    if len(rows) == 1:
        row = rows[0]
        named = f" ({row['name']})" if row["vfid"] is not None and row["name"] else ""
        return port_name(row) + named
    places = []
    for pf in dict.fromkeys(row["pf"] for row in rows):
        mine = [row["vfid"] for row in rows if row["pf"] == pf]
        if None in mine:
            places.append(str(pf))
        if vfids := [vfid for vfid in mine if vfid is not None]:
            places.append(f"{pf}:{ranges(vfids)}")
    vfs = sum(row["vfid"] is not None for row in rows)
    return ", ".join(places) + (f" ({plural(vfs, 'VF')})" if vfs > 1 else "")


def mirror_table(
    mirrors: Sequence[Mapping[str, Any]], *, width: int | None, colour: bool = False
) -> Table:
    """One line for each mirror."""
    columns = [
        Column("source", "SOURCE", lambda m: f"{m['pf']}:{m['vfid']}"),
        Column("name", "NAME", lambda m: m["name"] or ABSENT, 3, cut=True),
        Column("direction", "DIRECTION", lambda m: m["direction"]),
        Column("target", "TARGET", lambda m: f"{m['pf']}:{m['target']}"),
        Column("target_name", "TARGET NAME", lambda m: m["target_name"] or ABSENT, 2, cut=True),
        Column("vlans", "VLANS", lambda m: ranges(m["vlans"]) if m["vlans"] else "all", 1),
    ]
    return table(columns, mirrors, width=width, colour=colour)
