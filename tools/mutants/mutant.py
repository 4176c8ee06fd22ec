"""One small change of a source file that a test should notice, and a fair choice of such."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Mutant:
    path: str
    """From the root of the tree."""
    where: str
    """The function that it is in."""
    kind: str
    start: int
    """Where in the file's text."""
    old: str
    new: str
    line: int
    around: str
    """The line that it is in, without its indentation."""
    copy: int = 0
    """How many like it stand before it in the file."""

    @property
    def id(self) -> str:
        """The same as long as function and line stay as they are, wherever in the file."""
        return _digest(self.path, self.where, self.kind, self.old, self.new, self.around, self.copy)

    def applied(self, text: str) -> str:
        end = self.start + len(self.old)
        assert text[self.start : end] == self.old, self
        return text[: self.start] + self.new + text[end:]

    def __str__(self) -> str:
        change = f"{_short(self.old)} → {_short(self.new) or 'nothing'}"
        return f"{self.id} {self.path}:{self.line} {self.where}: {change}"


@dataclass(frozen=True)
class ByHand:
    """A mutant that somebody thought of."""

    name: str
    part: str
    path: str
    old: str
    """What stands in the file once and only once."""
    new: str
    near: str = ""
    """What the test's file is called that should notice it first."""

    def applied(self, text: str) -> str:
        """Raises LookupError where the text isn't there, or is more than once."""
        if text.count(self.old) != 1:
            raise LookupError(f"{self.path} has {text.count(self.old)} times: {self.old}")
        return text.replace(self.old, self.new)

    def __str__(self) -> str:
        return self.name


def told_apart(found: Iterable[Mutant]) -> list[Mutant]:
    """Those that look the same are numbered, so that each has an id of its own."""
    seen: dict[str, int] = {}
    numbered = []
    for mutant in found:
        before = seen.get(mutant.id, 0)
        seen[mutant.id] = before + 1
        numbered.append(replace(mutant, copy=before))
    return numbered


def in_order(found: Iterable[Mutant], seed: int) -> list[Mutant]:
    """Shuffled by what they are, at most one of a line: a change elsewhere moves nothing."""
    order = sorted(found, key=lambda mutant: _digest(seed, mutant.id))
    lines: dict[tuple[str, int], Mutant] = {}
    for mutant in order:
        lines.setdefault((mutant.path, mutant.line), mutant)
    return list(lines.values())


def _digest(*of: object) -> str:
    return hashlib.sha256("\0".join(map(str, of)).encode()).hexdigest()[:8]


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) < 60 else flat[:57] + "…"
