"""Files that are gone in a way that is no decision to delete them: all of a folder at once, or with
another folder in its place. A mount that isn't there looks so. docs/semantics.md, "Bad input".

Their VFs stay as they are until the files are back, an operator deletes the VFs, or confirms that
the files are to be gone (``iplex reload --confirm-gone``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from vfd.config.errors import Problem
from vfd.daemon.aim import Configured
from vfd.daemon.files import BadFile
from vfd.daemon.memory import Kept, Known
from vfd.daemon.reading import Reading, folders_of
from vfd.policy.shown import plural

if TYPE_CHECKING:
    from vfd.daemon.service import Service

_NAMED = 8
"""VFs that a message names."""


def look_for(service: Service, reading: Reading, *, confirmed: bool) -> None:
    """Finds out which files are gone so. ``confirmed``: they are deleted, however it looks."""
    before = service.files.memory.kept
    there = {one.file for one in reading.good} | {b.on_disk or b.file for b in reading.bad.values()}
    missing = {
        file: known
        for file, known in before.files.items()
        if file not in there and not reading.may_have(file) and known.pf in service.nics
    }
    blamed = {} if confirmed else _blamed(before, missing, reading)
    asked = {*service.vanished, *before.vanished}
    successors = _claims(service, reading.good)
    service.vanished = {
        file: known
        for file, known in missing.items()
        if (file in blamed or (file in asked and not confirmed))
        and not successors & {(known.pf, known.vfid), known.name}
    }
    _tell(service, blamed)


def _tell(service: Service, blamed: Mapping[str, str]) -> None:
    """One entry for each folder: the one that is blamed, or else a file's own."""
    folders: dict[str, list[str]] = {}
    for file, known in service.vanished.items():
        folders.setdefault(blamed.get(file, folders_of(file)[0]), []).append(known.name)
    for folder, names in folders.items():
        entry = _entry(service, folder, names)
        service.bad[entry.file] = entry


def _blamed(before: Kept, missing: Iterable[str], reading: Reading) -> dict[str, str]:
    """Of the missing files those that are not deleted, each with the outermost folder of which all
    are missing, or that is another one now."""
    had = Counter(folder for file in before.files for folder in folders_of(file))
    lacks = Counter(folder for file in missing for folder in folders_of(file))
    suspect = {
        folder
        for folder in lacks
        if lacks[folder] == had[folder]
        or (
            folder in before.folders
            and reading.folders.get(folder, before.folders[folder]) != before.folders[folder]
        )
    }
    found = {}
    for file in missing:
        if outer := [folder for folder in folders_of(file) if folder in suspect]:
            found[file] = outer[-1]
    return found


def _claims(service: Service, good: Iterable[Configured]) -> set[object]:
    """The VFs and names that files have now: one that was renamed or moved isn't gone."""
    claims: set[object] = set()
    for one in good:
        home = service.home(one.policy.pciid)
        claims |= {(home.id if home else "", one.policy.vfid), one.policy.name}
    return claims


def _entry(service: Service, folder: str, names: list[str]) -> BadFile:
    shown = folder or str(service.files.folder)
    some = ", ".join(sorted(names)[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    rule = (
        f"the files of {plural(len(names), 'VF')} ({some}) are gone from it, all at once or with"
        " another folder in its place: that is taken for a mount that is missing, and the VFs stay"
        " as they are. Put the files back and reload. If they are to go: `iplex reload"
        " --confirm-gone`, or `iplex delete NAME` for one of them"
    )
    return BadFile(shown, (Problem(shown, "", "", rule),), vanished=True)


def remember(service: Service) -> None:
    """Keeps which files are in force now, for the next look, also of the daemon that comes next."""
    before, reading = service.files.memory.kept, service.reading
    files: dict[str, Known] = {}
    for file, known in before.files.items():  # of a PF that isn't open nothing new is known
        managed = service.nics.get(known.pf)
        if managed is not None and managed.aim is None:
            files[file] = known
    gone = {*service.vanished, *(files.keys() & {*before.vanished})}
    for managed in service.nics.values():
        for vfid, one in managed.vfs.items():
            files[one.file] = Known(managed.id, vfid, one.policy.name)
    for bad in service.bad.values():
        home = service.home(bad.device) if bad.device else None
        if home is not None and bad.vfid is not None and bad.vfid in home.kept:
            name = bad.name or bad.file.removesuffix(".json")
            files.setdefault(bad.on_disk or bad.file, Known(home.id, bad.vfid, name))
    files |= service.vanished
    wanted = {folder for file in files for folder in folders_of(file)} | {""}
    suspect = {folder for file in service.vanished for folder in folders_of(file)}
    folders = {f: i for f, i in before.folders.items() if f in wanted}
    if reading is not None and reading.error is None:
        folders |= {f: i for f, i in reading.folders.items() if f in wanted - suspect}
    made = {str(folder): identity for folder, identity in service.files.made.items()}
    kept = Kept(files, folders, made, before.removing, tuple(sorted(gone)))
    service.files.memory.keep(kept)


def forget(service: Service, file: str) -> None:
    """A file is about to be deleted, which is a decision."""
    kept = service.files.memory.kept
    files = {one: known for one, known in kept.files.items() if one != file}
    service.files.memory.keep(replace(kept, files=files))


def by_name(vanished: Mapping[str, Known], name: str, file: str) -> str | None:
    """The vanished file of the VF of this name, or with this name itself."""
    if file in vanished:
        return file
    return next((one for one, known in vanished.items() if known.name == name), None)


def settle(service: Service, file: str) -> None:
    """A file that was gone is deleted, or there again: it is told so no longer."""
    if service.vanished.pop(file, None) is None:
        return
    for bad in [bad for bad in service.bad.values() if bad.vanished]:
        del service.bad[bad.file]
    _tell(service, {})
