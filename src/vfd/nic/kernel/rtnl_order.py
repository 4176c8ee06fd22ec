"""In which order rtnetlink's settings of several VFs are made, so that no frame passes in between
that neither the old nor the new ones let pass.

The kernel makes the VFs' settings one after the other, and of one VF the MAC, the VLAN, the rates
and only then the link state (net/core/rtnetlink.c, do_setvfinfo). So a VF that closes has its link
off before it leaves its VLAN, and a VF that gets another's VLAN or MAC comes after that one has
left it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from vfd.nic.kernel.vfinfo import LINK_OFF, NO_MAC, Step, VfSettings

Changes = Mapping[int, tuple[VfSettings, VfSettings]]


def in_order(changes: Changes) -> Iterator[Step]:
    """The changes as steps. VFs that swap MACs or VLANs can't all wait: one has no MAC meanwhile,
    or its link off where the driver can set it."""
    waiting = dict(sorted(changes.items()))
    for vfid, (before, after) in waiting.items():
        if after.link_state == LINK_OFF != before.link_state:
            yield Step(vfid, before, replace(before, mac=None, link_state=LINK_OFF))
            waiting[vfid] = (replace(before, link_state=LINK_OFF), after)
    reopened: list[Step] = []
    vlans = Counter(_vlan_left(*change) for change in waiting.values())
    macs = Counter(_mac_left(*change) for change in waiting.values())

    def lacks_mac(vfid: int) -> bool:
        before, after = waiting[vfid]
        takes = after.mac not in (None, NO_MAC, before.mac)
        return takes and bool(macs[after.mac])

    def is_free(vfid: int) -> bool:
        return not lacks_mac(vfid) and not vlans[_vlan(waiting[vfid][1])]

    while waiting:
        free = next((vfid for vfid in waiting if is_free(vfid)), None)
        if free is None and (
            gives := [v for v in waiting if lacks_mac(v) and _mac_left(*waiting[v])]
        ):
            before, after = waiting[gives[0]]
            without = replace(before, mac=NO_MAC)
            yield Step(gives[0], before, without)
            macs[before.mac] -= 1
            waiting[gives[0]] = without, after
            continue
        vfid = free if free is not None else next(v for v in waiting if not lacks_mac(v))
        before, after = waiting.pop(vfid)
        vlans[_vlan_left(before, after)] -= 1
        macs[_mac_left(before, after)] -= 1
        if free is None and after.link_state is not None:
            shut = replace(before, link_state=LINK_OFF)
            moved = replace(after, link_state=LINK_OFF)
            yield Step(vfid, before, replace(shut, mac=None))
            yield Step(vfid, shut, moved)
            reopened.append(Step(vfid, moved, after))
        else:
            yield Step(vfid, before, after)
    yield from reopened


def _mac_left(before: VfSettings, after: VfSettings) -> str | None:
    """The MAC that the VF has and loses; None: none."""
    if after.mac in (None, before.mac) or before.mac == NO_MAC:
        return None
    return before.mac


def _vlan_left(before: VfSettings, after: VfSettings) -> tuple[int, int] | None:
    """The VLAN that the VF is in with its link on, and leaves; None: no such."""
    stays = _vlan(before) == _vlan(after)
    return None if stays or before.link_state == LINK_OFF else _vlan(before)


def _vlan(settings: VfSettings) -> tuple[int, int]:
    return settings.tpid, settings.vlan
