"""Reading and writing the attributes of a vendor's sysfs interface: one write, one command."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vfd.nic.protocol import NicError, NicGoneError

_PAGE = 4096
_MOST_RUNS = 200
"""Runs of a list in one write: with at most ten characters each they fit a page."""


@dataclass(frozen=True, slots=True)
class Write:
    """One command to the driver."""

    path: Path
    text: str


def read(path: Path) -> str:
    """The attribute's text, stripped. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(handle, _PAGE):
            parts.append(part)
    finally:
        os.close(handle)
    return b"".join(parts).decode(errors="replace").strip()


def run(writes: Iterable[Write]) -> None:
    """Makes the writes in their order. Raises NicError at the first that is refused."""
    for write in writes:
        try:
            handle = os.open(write.path, os.O_WRONLY)
            try:
                os.write(handle, write.text.encode())
            finally:
                os.close(handle)
        except FileNotFoundError as error:
            raise NicGoneError(f"{write.path}: it is not there any more") from error
        except OSError as error:
            raise NicError(
                f"{write.path}: the driver refused {write.text!r}: {error.strerror}"
            ) from error


def vf_numbers(root: Path) -> tuple[int, ...]:
    """The VFs that have a folder below ``root``; none where the interface is not there."""
    try:
        return tuple(sorted(int(entry.name) for entry in root.iterdir() if entry.name.isdigit()))
    except OSError:
        return ()


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of each unbroken run: 2, 4, 5, 6 → (2, 2), (4, 6)."""
    first = last = None
    for number in sorted(numbers):
        if first is None or last is None:
            first = last = number
        elif number == last + 1:
            last = number
        else:
            yield first, last
            first = last = number
    if first is not None and last is not None:
        yield first, last


def list_texts(numbers: Iterable[int]) -> Iterator[str]:
    """The kernel's lists, ``2,4-6``: one text, or more where one would not fit a page."""
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in runs(numbers)]
    for start in range(0, len(texts), _MOST_RUNS):
        yield ",".join(texts[start : start + _MOST_RUNS])


def parse_list(text: str) -> frozenset[int]:
    """Such a list read back."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return frozenset(found)


def folders_below(root: Path) -> list[Path]:
    """``root`` and all folders below it; none where it is not there."""
    return [Path(folder) for folder, _, _ in os.walk(root)]
