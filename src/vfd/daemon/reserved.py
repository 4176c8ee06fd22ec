"""What guests were granted before their PF reserved it is taken back, which is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vfd.daemon.managed import Managed
from vfd.policy.values import reserving

if TYPE_CHECKING:
    from vfd.daemon.service import Service


def granted_macs(managed: Managed) -> Mapping[int, frozenset[str]]:
    """The MACs that each VF's guest has been granted, as last seen."""
    found = {}
    for vfid, state in managed.seen.vfs.items() if managed.seen else ():
        default = state.grants.default_mac
        found[vfid] = state.grants.macs | (frozenset((default,)) if default else frozenset())
    return found


def tell_taken_back(
    service: Service, managed: Managed, before: Mapping[int, frozenset[str]]
) -> None:
    """After the NIC followed the files. ``before``: what had been granted until then."""
    now = granted_macs(managed)
    for vfid, macs in before.items():
        for mac in sorted(macs - now.get(vfid, frozenset())):
            if entry := reserving(managed.pf, mac):
                service.journal.emit(
                    "refused",
                    f"{mac} is taken back from the guest: it is reserved now, reserved_macs of"
                    f" {managed.id} has {entry}",
                    level="warning",
                    pf=managed.id,
                    vfid=vfid,
                    name=service.name_of(managed, vfid),
                    mac=mac,
                )
