"""Changes to a NIC as an operator reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vfd.cli.failures import of_field
from vfd.cli.text import paint, printable

_LONGEST = 200
_SIGNS = {"open": ("+", "green"), "close": ("-", "red"), "update": ("~", "yellow")}


def change_lines(changes: Iterable[Mapping[str, Any]], colour: bool) -> list[str]:
    """``~ soft0:3`` and under it a line for each attribute that differs."""
    lines = []
    for change in changes:
        sign, style = _SIGNS.get(change["kind"], ("~", "yellow"))
        port = change["pf"] if change["vfid"] is None else f"{change['pf']}:{change['vfid']}"
        verb = {"open": "opens", "close": "closes"}.get(change["kind"], "changes")
        lines.append(paint(f"  {sign} {printable(port)} {verb}", style, colour))
        for field in change["fields"]:
            lines.append("      " + printable(field_text(field, change["kind"])))
    return lines


def field_text(field: Mapping[str, Any], kind: str) -> str:
    name = field["field"]
    before, after = (_short(of_field(name, field.get(when))) for when in ("before", "after"))
    if kind == "open":
        return f"{name}: {after}"
    if kind == "close":
        return f"{name}: {before}"
    return f"{name}: {before} → {after}"


def _short(text: str) -> str:
    """A change is read at a glance: `get` has the whole."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def warning_texts(warnings: Iterable[str], colour: bool) -> list[str]:
    return [f"{paint('!', 'bold red', colour)} {printable(text)}" for text in warnings]
