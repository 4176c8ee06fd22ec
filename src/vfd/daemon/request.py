"""What is asked of the service, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from vfd.plan.changes import Change


@dataclass(frozen=True, slots=True)
class Source:
    """Which configuration a request means: a file in ``config_dir``, or the content itself."""

    file: str | None = None
    name: str | None = None
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A request that was done, or with ``changes`` only planned, what it would do."""

    name: str
    pf: str
    vfid: int
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]


class Whose(TypedDict):
    """Whom an event is about."""

    pf: str
    vfid: int | None
    name: str | None
