"""Tables that fit: columns leave in the order of their importance, and a note says which did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vfd.cli.text import paint, printable

Row = Mapping[str, Any]

GAP = "  "
SHORTENED = 20
"""What a long cell is cut to before any column leaves."""
SHORTEST = 8
"""The fewest characters that a cut cell keeps: below that it names nothing."""


@dataclass(frozen=True, slots=True)
class Column:
    """``cell`` makes the text of a row, ``style`` its colour.

    ``rank`` 0 stays always; of the others the highest goes first where the width is short.
    """

    key: str
    title: str
    cell: Callable[[Row], str]
    rank: int = 0
    right: bool = False
    cut: bool = False
    """May be shortened to fit."""
    style: Callable[[Row, str], str] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    lines: tuple[str, ...]
    hidden: tuple[str, ...]
    """Titles of the columns that found no room."""


def table(
    columns: Sequence[Column], rows: Sequence[Row], *, width: int | None, colour: bool = False
) -> Table:
    """``width`` None: all columns, nothing cut, as for a pipe."""
    cells = {c.key: [printable(c.cell(row)) for row in rows] for c in columns}
    sizes = {c.key: max([len(c.title), *map(len, cells[c.key])]) for c in columns}
    shown = list(columns)
    if width is not None:
        shown = _fit(columns, sizes, width)
    lines = [paint(_line([(c, c.title) for c in shown], sizes), "bold", colour)]
    for index, row in enumerate(rows):
        parts = [(c, cells[c.key][index]) for c in shown]
        lines.append(_line(parts, sizes, row if colour else None))
    return Table(tuple(lines), tuple(c.title for c in columns if c not in shown))


def _total(sizes: Mapping[str, int], shown: Sequence[Column]) -> int:
    return sum(sizes[c.key] for c in shown) + len(GAP) * (len(shown) - 1)


def _fit(columns: Sequence[Column], sizes: dict[str, int], width: int) -> list[Column]:
    """The columns that stay, and in ``sizes`` how wide they may be.

    Long names give way before columns do, and get back what the columns leave.
    """
    shown, full = list(columns), dict(sizes)
    for column in columns:
        if column.cut:
            sizes[column.key] = min(full[column.key], max(SHORTENED, len(column.title)))
    while _total(sizes, shown) > width:
        last = max(shown, key=lambda c: c.rank)
        if last.rank == 0:
            break
        shown.remove(last)
    spare = width - _total(sizes, shown)
    for column in (c for c in shown if c.cut):
        floor = max(SHORTEST, len(column.title))
        wanted = min(full[column.key], max(floor, sizes[column.key] + spare))
        spare -= wanted - sizes[column.key]
        sizes[column.key] = wanted
    return shown


def _line(
    parts: Sequence[tuple[Column, str]], sizes: Mapping[str, int], row: Row | None = None
) -> str:
    out: list[str] = []
    for column, text in parts:
        size = sizes[column.key]
        if len(text) > size:
            text = _shorten(text, size)
        # Padding stays outside the colour, so that it can be trimmed at the end of the line.
        pad = " " * (size - len(text))
        style = column.style(row, text) if row is not None and column.style else ""
        painted = paint(text, style, bool(style))
        out.append(pad + painted if column.right else painted + pad)
    return GAP.join(out).rstrip()


def _shorten(text: str, size: int) -> str:
    """Both ends stay: names made by programs differ in the last characters."""
    tail = (size - 1) // 3
    return text[: size - 1 - tail] + "…" + text[len(text) - tail :]
