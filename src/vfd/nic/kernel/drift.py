"""Which differences between what is expected of a NIC and what it shows are worth a repair."""

from __future__ import annotations

from collections.abc import Mapping

from vfd.nic.kernel.surface import Shown
from vfd.nic.protocol import Event, EventKind
from vfd.policy.values import PfPolicy, VfRules

_PERSISTENCE = 3
"""Repairs of one difference in a row."""


class Drift:
    """A NIC that goes on showing something else than was written to it would be repaired for ever:
    it is, a few times."""

    def __init__(self) -> None:
        self._differs: dict[int | None, tuple[tuple[object, object], int]] = {}
        """By VF, None: the PF: what was expected and is shown, and how often that was told."""

    def of_pf(self, wanted: PfPolicy, expected: Shown, shown: Shown) -> list[Event]:
        """What surfaces don't show of the PF is as in ``wanted``: see PfSurface.observe_pf."""
        names = sorted(expected.keys() | shown.keys())
        before = {name: expected.get(name, getattr(wanted, name)) for name in names}
        now = {name: shown.get(name, getattr(wanted, name)) for name in names}
        if not self._is_drift(None, before, now):
            return []
        changed = ", ".join(name for name in names if now[name] != before[name])
        return [Event(EventKind.DRIFT, text=f"the PF's {changed} changed from outside")]

    def of_vfs(
        self, expected: Mapping[int, VfRules | None], shown: Mapping[int, VfRules | None]
    ) -> list[Event]:
        events = []
        if shown.keys() != expected.keys():
            text = f"the number of VFs was changed from outside, from {len(expected)}"
            events.append(Event(EventKind.DRIFT, text=f"{text} to {len(shown)}"))
        events += [
            Event(EventKind.DRIFT, vfid, "its settings were changed from outside")
            for vfid in shown.keys() & expected.keys()
            if self._is_drift(vfid, expected[vfid], shown[vfid])
        ]
        return events

    def forget_repaired(self, rules: Mapping[int, VfRules | None]) -> None:
        """A VF that shows what was expected of it was repaired: if it differs again, it is news."""
        for vfid, ((expected, _), _) in tuple(self._differs.items()):
            if vfid is not None and rules.get(vfid) == expected:
                del self._differs[vfid]

    def _is_drift(self, vfid: int | None, expected: object, shown: object) -> bool:
        if shown == expected:
            self._differs.pop(vfid, None)
            return False
        before, times = self._differs.get(vfid, (None, 0))
        times = times + 1 if before == (expected, shown) else 1
        self._differs[vfid] = (expected, shown), times
        return times <= _PERSISTENCE
