"""What is asked of the service, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from vfd.config.errors import Problem, shown
from vfd.daemon.aim import Configured
from vfd.plan.changes import Change


@dataclass(frozen=True, slots=True)
class Source:
    """Which configuration a request means: a file in ``config_dir``, or the content itself."""

    file: str | None = None
    name: str | None = None
    config: Mapping[str, Any] | None = None
    move: bool = False
    """An update may take the policy to another VF of the PF."""


@dataclass(frozen=True, slots=True)
class Made:
    """A request that was done, or with ``changes`` only planned, what it would do."""

    name: str
    pf: str
    vfid: int
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    callbacks: tuple[tuple[str, str | None, str | None], ...] = ()
    """(field, before, after) of those that an update changes: no NIC has them."""


class Whose(TypedDict):
    """Whom an event is about."""

    pf: str
    vfid: int | None
    name: str | None


def callbacks_that_differ(
    one: Configured, old: Configured | None
) -> tuple[tuple[str, str | None, str | None], ...]:
    """See ``Made``. None where nothing was in force: then they are not changed, but there."""
    if old is None:
        return ()
    found = (
        (field, getattr(old.policy, field), getattr(one.policy, field))
        for field in ("start_cb", "stop_cb")
    )
    return tuple(change for change in found if change[1] != change[2])


def moved_unasked(one: Configured, old: Configured) -> Problem | None:
    """What is wrong with an update that nobody said may move the policy: a ``vfid`` that was
    mistyped hands one tenant's rights to another."""
    if one.policy.vfid == old.policy.vfid:
        return None
    rule = (
        f"{old.policy.name} is VF {old.policy.vfid}, and another VF is another guest's, who would"
        ' get its policy: --move (in a request "move": true) says that this is meant'
    )
    return Problem(one.file, "vfid", shown(one.policy.vfid), rule)
