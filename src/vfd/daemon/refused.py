"""Files of ``config_dir`` that were refused when they were added: ``NAME.json.error``.

So no later start or reload puts them in force unasked, once the rule that they broke is gone. That
holds for ``add`` alone: a file that a start or a reload refuses was asked for before, and stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfd.config.errors import ConfigError
from vfd.config.store import REFUSED
from vfd.daemon.failures import RefusedError

if TYPE_CHECKING:
    from vfd.daemon.service import Service


def put_aside(service: Service, file: str, error: RefusedError) -> RefusedError:
    """Renames the file that ``add`` refused. The same error, which says so.

    One that is in force, or that keeps a VF as it is, keeps its name: without it the VF would close
    at the next start.
    """
    try:
        if not service.files.has(file) or not service.files.is_file(file):
            return error  # it was renamed before
        if _holds_a_vf(service, file):
            return error
        service.files.refuse(file)
    except ConfigError:
        return error
    except OSError as failure:
        aside = f"{file} could not be renamed to {file}{REFUSED} ({failure.strerror})"
        return RefusedError(error.problems, f"{aside}: a later start may put it in force")
    service.bad.pop(file, None)
    aside = f"{file} is {file}{REFUSED} now, and `iplex add` takes it again once it is right"
    service.journal.emit("refused-file", f"{error}. {aside}", level="warning", file=file)
    return RefusedError(error.problems, aside)


def file_of(service: Service, name: str) -> str:
    """The file of this name that was refused, or ''."""
    file = f"{service.files.file_of(name)}{REFUSED}"
    try:
        return file if service.files.has(file) else ""
    except ConfigError:
        return ""


def _holds_a_vf(service: Service, file: str) -> bool:
    if file in service.vanished or any(one.file == file for _, one in service.in_force()):
        return True
    bad = service.bad.get(file)
    if bad is None:
        return False
    nics = service.nics.values()
    return any(m.kept and (bad.vfid is None or bad.vfid in m.kept) for m in nics)
