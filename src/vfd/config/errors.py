"""What is wrong with a configuration, as values, and the one exception that carries them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vfd.policy.rules import Broken
from vfd.policy.shown import printable, shown
from vfd.policy.values import VfPolicy

_LONGEST = 1000
"""Characters of one part of a problem."""

__all__ = ["ConfigError", "Problem", "Readable", "not_told", "problems", "shown"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule, or one warning, in words for whoever wrote the file."""

    file: str
    """The file, or how the asker called what it sent."""
    field: str
    """The field's path, like ``pciids[0].mtu``; '' for the file as a whole."""
    value: str
    """What was found there, shortened; '' where there is nothing to show."""
    rule: str
    """What holds there, and what to do."""
    other: str | None = None
    """The VF that it is in conflict with."""

    def __post_init__(self) -> None:
        """What came from a foreign file is shown, but doesn't steer the reader's terminal, nor
        fill it."""
        for name in ("file", "field", "value", "rule", "other"):
            text = getattr(self, name)
            if text and len(text) > _LONGEST and name != "file":
                text = text[: _LONGEST - 1] + "…"
                object.__setattr__(self, name, text)
            if text and not text.isprintable():
                object.__setattr__(self, name, printable(text))

    def __str__(self) -> str:
        where = f"{self.file}: {self.field}" if self.field else self.file
        found = f" = {self.value}" if self.value else ""
        against = f" (VF {self.other})" if self.other else ""
        return f"{where}{found}: {self.rule}{against}"


@dataclass(frozen=True, slots=True)
class Readable:
    """What can be read of a VF's bad configuration: enough to hold it against other VFs, the PF and
    the NIC, so that all trouble is told at once."""

    policy: VfPolicy
    unknown: frozenset[str]
    """Fields that could not be read: they have their defaults, and no rule about them is judged."""
    written: Mapping[str, Any]
    """The file's object, with its own names of fields."""


class ConfigError(Exception):
    """A configuration that breaks rules: all of them at once, in ``problems``."""

    def __init__(self, problems: Iterable[Problem], readable: Readable | None = None) -> None:
        self.problems = tuple(problems)
        self.readable = readable
        """Of a VF's configuration, where its PF and its VF can be read."""
        super().__init__("\n".join(map(str, self.problems)))


def not_told(found: Iterable[Problem], told: Iterable[Problem]) -> list[Problem]:
    """Those of ``found`` that say something new, each once."""
    known = {(one.field, one.rule) for one in told}
    return [one for one in dict.fromkeys(found) if (one.field, one.rule) not in known]


def problems(broken: Iterable[Broken], files: Mapping[str, str]) -> tuple[Problem, ...]:
    """Broken rules between VFs as problems of their files.

    ``files`` has the file of each VF by its name, and the main file under ''.
    """
    return tuple(
        Problem(
            file=files.get(one.vf, one.vf),
            field=one.field,
            value=shown(one.value),
            rule=one.rule,
            other=one.other_vf,
        )
        for one in broken
    )
