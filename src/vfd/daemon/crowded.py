"""A crowd of bad files in one folder is told as one: the operator's table is for all others too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfd.config.errors import Problem
from vfd.daemon.files import BadFile
from vfd.daemon.reading import MAX_BAD

if TYPE_CHECKING:
    from vfd.daemon.service import Service


def fold(service: Service) -> None:
    """Leaves at most ``MAX_BAD`` bad files of each folder directly in ``config_dir``, and one entry
    with the number of the others. None that holds a VF as it is goes."""
    open_ones = {(m.id, vfid) for m in service.nics.values() for vfid in m.kept}
    in_force = {one.file for _, one in service.in_force()}
    folders: dict[str, list[BadFile]] = {}
    for bad in service.bad.values():
        folders.setdefault(bad.file.partition("/")[0] if "/" in bad.file else "", []).append(bad)
    for folder, crowd in folders.items():
        idle = [
            bad
            for bad in crowd
            if bad.file not in in_force
            and bad.vfid is not None
            and (bad.device, bad.vfid) not in open_ones
        ]
        if len(crowd) <= MAX_BAD or not idle:
            continue
        out = idle[MAX_BAD - len(crowd) :]
        for bad in out:
            del service.bad[bad.file]
        name = f"{folder}/…" if folder else "…"
        rule = f"{len(out)} more files are not in force: correct those that are listed, and reload"
        last = out[-1]
        problem = Problem(name, "", "", rule)
        service.bad[name] = BadFile(name, (problem,), last.device, last.vfid)
