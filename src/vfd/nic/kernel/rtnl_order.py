"""In which order rtnetlink's settings of several VFs are made, so that no frame passes in between
that neither the old nor the new ones let pass.

The kernel makes the VFs' settings one after the other, and of one VF the MAC, the VLAN, the rates
and only then the link state (net/core/rtnetlink.c, do_setvfinfo). So a VF that closes has its link
off before it leaves its VLAN, and a VF that gets another's VLAN comes after that one has left it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from vfd.nic.kernel.vfinfo import LINK_OFF, Step, VfSettings

Changes = Mapping[int, tuple[VfSettings, VfSettings]]


def in_order(changes: Changes) -> Iterator[Step]:
    """The changes as steps. VFs that swap VLANs can't both wait: one has its link off meanwhile,
    where the driver can set it."""
    waiting = dict(sorted(changes.items()))
    for vfid, (before, after) in waiting.items():
        if after.link_state == LINK_OFF != before.link_state:
            yield Step(vfid, before, replace(before, mac=None, link_state=LINK_OFF))
            waiting[vfid] = (replace(before, link_state=LINK_OFF), after)
    reopened: list[Step] = []
    leaving = Counter(_left(*change) for change in waiting.values())
    while waiting:
        free = next((v for v, (_, after) in waiting.items() if not leaving[_vlan(after)]), None)
        vfid = free if free is not None else next(iter(waiting))
        before, after = waiting.pop(vfid)
        leaving[_left(before, after)] -= 1
        if free is None and after.link_state is not None:
            shut = replace(before, link_state=LINK_OFF)
            moved = replace(after, link_state=LINK_OFF)
            yield Step(vfid, before, replace(shut, mac=None))
            yield Step(vfid, shut, moved)
            reopened.append(Step(vfid, moved, after))
        else:
            yield Step(vfid, before, after)
    yield from reopened


def _left(before: VfSettings, after: VfSettings) -> tuple[int, int] | None:
    """The VLAN that the VF is in with its link on, and leaves; None: no such."""
    stays = _vlan(before) == _vlan(after)
    return None if stays or before.link_state == LINK_OFF else _vlan(before)


def _vlan(settings: VfSettings) -> tuple[int, int]:
    return settings.tpid, settings.vlan
