"""Numbers, speeds and colours as an operator reads them.

Own code instead of rich, whose import alone would take ``iplex show all`` half as long again.
"""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterable

from vfd.policy import shown

_STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
    "bold red": "1;31",
    "bold cyan": "1;36",
}

ABSENT = "-"
"""Shown where a NIC can't say: never 0."""

_STEERING = re.compile(f"[{shown.STEERING}]")
_HALF = re.compile(f"[{shown.HALVES}]")
_EITHER = re.compile(f"[{shown.STEERING}{shown.HALVES}]")


def paint(text: str, style: str, colour: bool) -> str:
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if colour and style and text else text


def wants_colour(choice: str, is_terminal: bool) -> bool:
    """``always``, ``never``, or ``auto``: on a terminal, unless NO_COLOR (no-color.org) is set."""
    if choice != "auto":
        return choice == "always"
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """Without control characters: what a guest or a file chose never steers the terminal. A byte
    that is no UTF-8, as an argument or a file's name may have, is shown as ``\\xff``."""
    return _HALF.sub(lambda half: shown.printable(half[0]), _STEERING.sub("?", text))


def line(text: str, most: int = 1000) -> str:
    """A printable line of at most ``most`` characters: both ends of a longer one. What is said of
    an argument or a path has all of it, and nobody reads thousands of letters."""
    text = printable(text)
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}…{text[-(most // 3) :]}"


def as_json(value: object, indent: int | None = None, *, ascii_only: bool = False) -> str:
    """JSON in plain letters, but what could steer a terminal as ``\\uXXXX``; with ``ascii_only``
    all but ASCII, for a reader whose encoding may not have it."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    # line breaks are JSON's own: those within texts are escaped already
    return _EITHER.sub(lambda c: c[0] if c[0] == "\n" else f"\\u{ord(c[0]):04x}", text)


def short_number(value: int) -> str:
    """At most five characters: ``999``, ``12.3k``, ``4.56M``."""
    if abs(value) < 1000:
        return str(value)
    size = float(value)
    for unit in "kMGTPE":
        size /= 1000
        if abs(size) < 999.5:
            digits = 2 if abs(size) < 9.995 else 1 if abs(size) < 99.95 else 0
            return f"{size:.{digits}f}{unit}"
    return f"{size:.0f}E"


def number(value: object, exact: bool) -> str:
    """A counter: short for people, exact for pipes, ``-`` where there is none."""
    if not isinstance(value, int):
        return ABSENT
    return str(value) if exact else short_number(value)


def speed(bps: object) -> str:
    """A link speed: ``10G``, in a pipe too; ``-`` where unknown. JSON has bits per second."""
    if not isinstance(bps, int):
        return ABSENT
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if bps >= size:
            return f"{bps / size:.4g}{unit}"
    return str(bps)


def ranges(numbers: Iterable[int | str]) -> str:
    """``0-3,7`` for 0, 1, 2, 3 and 7; texts among them are ranges already."""
    parts: list[list[int]] = []
    for n in sorted({n for number in numbers for n in _span(number)}):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _span(number: int | str) -> range:
    first, _, last = str(number).partition("-")
    return range(int(first), int(last or first) + 1)


def hanging(label: str, parts: Iterable[str], width: int | None) -> list[str]:
    """``label`` and the parts behind it, two blanks apart; where a line of ``width`` columns is
    full they go on below the first of them. Of None: all in one line."""
    if width is None:
        return [label + "  ".join(parts)]
    room = max(width - len(label), 20)
    lines = [""]
    for part in parts:
        for piece in textwrap.wrap(part, room, break_long_words=False, break_on_hyphens=False):
            joined = f"{lines[-1]}  {piece}" if lines[-1] else piece
            if len(joined) <= room:
                lines[-1] = joined
            else:
                lines.append(piece)
    return [(label if n == 0 else " " * len(label)) + line for n, line in enumerate(lines)]
