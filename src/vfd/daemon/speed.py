"""What a link's other speed did to the rates that hang on it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfd.daemon.aim import Aim
from vfd.daemon.managed import Managed

if TYPE_CHECKING:
    from vfd.daemon.service import Service


def tell_of_speed(service: Service, managed: Managed, before: Aim, unfollowed: str) -> None:
    """After a look. ``before``: what was aimed at until then; ``unfollowed``: what was told."""
    assert managed.aim is not None
    if managed.unfollowed not in ("", unfollowed):
        text = f"rates stay as they were for the link's last speed: {managed.unfollowed}"
        service.journal.emit("failed", text, level="error", pf=managed.id)
    if managed.aim is before:
        return
    for vfid, warnings in managed.aim.warnings.items():
        for warning in warnings:
            if warning not in before.warnings.get(vfid, ()):
                service.journal.emit(
                    "warning",
                    warning,
                    level="warning",
                    pf=managed.id,
                    vfid=vfid,
                    name=service.name_of(managed, vfid),
                )
