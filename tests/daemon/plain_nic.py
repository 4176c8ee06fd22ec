"""A NIC made of a dictionary: it goes away, comes back and disobeys as a test asks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from vfd.nic.protocol import (
    Capabilities,
    Capability,
    Event,
    EventKind,
    Identity,
    Link,
    NicError,
    NicGoneError,
    NicState,
    Support,
    VfState,
)
from vfd.plan.changes import Change, VfChange
from vfd.plan.plan import PF_FIELDS
from vfd.policy.requests import Decision, Request
from vfd.policy.values import NicPolicy, PfPolicy, VfRules

VFS = 4


class PlainNic:
    """Enforces everything, in memory."""

    def __init__(self, pf: PfPolicy) -> None:
        self.pf = pf
        self.rules: dict[int, VfRules | None] = dict.fromkeys(range(VFS))
        self.gone = False
        self.refuses = ""
        """What it answers to a change instead of making it."""
        self.forgets = False
        """It takes a change of a VF that opens and doesn't make it."""
        self.lacks: frozenset[str] = frozenset()
        """Attributes that it can't enforce."""
        self.held = False
        """Guests hold its VFs."""
        self.told: list[Event] = []
        self.answered = 0
        self._fd = os.eventfd(0)

    @property
    def identity(self) -> Identity:
        return Identity(self.pf.id, "plain", self.pf.id)

    @property
    def capabilities(self) -> Capabilities:
        everything = Capability(Support.ENFORCED, "memory")
        return Capabilities(
            dict.fromkeys(VfRules.model_fields, everything),
            dict.fromkeys(PF_FIELDS, everything),
            frozenset(),
            VFS,
            64,
            64,
            64,
            disturbing=frozenset({"enable_loopback"}),
        )

    def link(self) -> Link:
        return Link(not self.gone, 10**10)

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:  # noqa: ARG002
        return dict.fromkeys(self.lacks, Capability(Support.ABSENT, reason="not this driver"))

    def expressible(self, vfid: int, rules: VfRules | None) -> VfRules | None:  # noqa: ARG002
        if rules is None or not self.lacks:
            return rules
        neutral = {name: VfRules.model_fields[name].default for name in self.lacks}
        return rules.model_copy(update=neutral)

    def observe(self, only: object = None, *, guests: bool = True) -> NicState:  # noqa: ARG002
        if self.gone:
            raise NicGoneError("it is unplugged")
        vfs = {v: VfState(v, r, True, None, 1500, held=self.held) for v, r in self.rules.items()}
        return NicState(self.pf, self.link(), vfs)

    def apply(self, desired: NicPolicy, changes: Sequence[Change]) -> None:
        if self.gone:
            raise NicGoneError("it is unplugged")
        if self.refuses:
            raise NicError(self.refuses)
        self.pf = desired.pf
        for change in changes:
            if isinstance(change, VfChange) and not (self.forgets and change.before is None):
                self.rules[change.vfid] = change.after

    def answer(self, answers: Sequence[tuple[Request, Decision]]) -> None:
        self.answered += len(answers)

    def counters(self) -> dict[int, dict[str, int]]:
        return {}

    def events(self) -> list[Event]:
        told, self.told = self.told, []
        return told

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nobody is expected to ask a plain NIC for {name}")

    # What tests do to it

    def unplug(self) -> None:
        self.gone = True
        self.told.append(Event(EventKind.LOST))

    def plug_in(self) -> None:
        self.gone = False
        self.told.append(Event(EventKind.BACK))
