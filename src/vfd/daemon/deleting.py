"""Taking a VF's configuration away: the file goes first, then the VF closes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfd.config.store import Retired
from vfd.daemon import refused, vanished
from vfd.daemon.aim import Configured
from vfd.daemon.failures import ConflictError, NotFoundError, RefusedError, StorageError
from vfd.daemon.loading import close_vf, still_kept
from vfd.daemon.managed import Condition, Managed
from vfd.daemon.request import Made
from vfd.nic.protocol import NicError
from vfd.plan.changes import Change

if TYPE_CHECKING:
    from vfd.daemon.service import Service


def delete(service: Service, name: str, expected: Configured | None = None) -> Made | None:
    """Closes the VF and takes its file away (or aside, with ``delete_keep``).

    The VF of a PF that is lost or fails closes when the PF is back. None: it was a file that is
    not in force. Raises NotFoundError, and ConflictError where the VF is no longer as
    ``expected``.
    """
    found = service.by_name(name)
    if found is None:
        _delete_bad(service, name)
        return None
    managed, one = found
    if expected is not None and (one.policy, one.file) != (expected.policy, expected.file):
        raise ConflictError(
            f"{name} was changed while its stop_cb ran: it is in force as it is now. Delete it"
            " again if it is to go"
        )
    take_away = _closed_first if managed.pf.unconfigured == "leave" else _retired_first
    changes, doubts = take_away(service, managed, one)
    vanished.settle(service, one.file)
    no_longer_bad(service, one.file)
    vanished.remember(service)
    failing = managed.condition in (Condition.LOST, Condition.FAILED)
    later = failing and not managed.is_closed(one.policy.vfid)
    unless = ", unless the daemon starts again before" if managed.pf.unconfigured == "leave" else ""
    warnings = (f"{managed.id} isn't working: the VF closes once it is{unless}",) if later else ()
    made = Made(one.policy.name, managed.id, one.policy.vfid, changes, warnings + doubts)
    service.tell(made, "deleted")
    return made


_TakenAway = tuple[tuple[Change, ...], tuple[str, ...]]
"""What that changed, and what is doubtful."""


def _retired_first(service: Service, managed: Managed, one: Configured) -> _TakenAway:
    """A daemon that is killed in between finds no file at its start, and closes the VF."""
    retired = _retire(service, one)
    try:
        changes = close_vf(service, managed, one)
    except (NicError, RefusedError) as error:
        try:
            retired.restore()
            vanished.remember(service)
        except OSError as second:
            raise StorageError(
                f"{error}. Its file {one.file} could not be put back: {second}"
            ) from error
        raise
    return changes, retired.finish()


def _closed_first(service: Service, managed: Managed, one: Configured) -> _TakenAway:
    """Where VFs without a configuration are left, a start without the file would leave the VF
    open: one that finds the file opens it again, as if it had not been deleted."""
    before = managed.aim
    assert before is not None
    changes = close_vf(service, managed, one)
    try:
        retired = _retire(service, one)
    except StorageError:
        managed.go_or_aim(before)
        raise
    return changes, retired.finish()


def _retire(service: Service, one: Configured) -> Retired:
    # Not after it: a daemon killed in between would take the last file for one that vanished.
    vanished.forget(service, one.file)
    try:
        return service.files.retire(one.file)
    except OSError as error:
        vanished.remember(service)
        raise StorageError(f"{one.file} can't be removed: {error}") from error


def _delete_bad(service: Service, name: str) -> None:
    file = service.files.file_of(name)
    if gone := vanished.by_name(service.vanished, name, file):
        vanished.settle(service, gone)
        _release(service)
        vanished.remember(service)
        service.journal.emit("deleted", f"{gone}, which was gone, is deleted", name=name)
        return
    if file not in service.bad or file == str(service.files.main_file):
        file = next((bad.file for bad in service.bad.values() if bad.name == name), "")
    file = file or refused.file_of(service, name)
    if not file:
        raise NotFoundError(f"no VF has the name {name}, and no bad file has it either")
    on_disk = service.bad[file].on_disk if file in service.bad else ""
    try:
        doubts = service.files.retire(on_disk or file).finish()
    except OSError as error:
        raise StorageError(f"{file} can't be removed: {error}") from error
    no_longer_bad(service, file)
    vanished.remember(service)
    service.journal.emit("deleted", f"{file}, which was not in force, is deleted", name=name)
    for doubt in doubts:
        service.journal.emit("warning", doubt, level="warning", name=name)


def no_longer_bad(service: Service, file: str) -> None:
    """VFs left open for this file's sake close, unless another bad file may be theirs.

    What the request asked for is done by now: what fails here is an event, not its answer.
    """
    if service.bad.pop(file, None) is not None:
        _release(service)


def _release(service: Service) -> None:
    """VFs that nothing keeps open any more close."""
    for managed in service.nics.values():
        if not managed.kept:
            continue
        kept = still_kept(service, managed, managed.vfs.values(), managed.kept)
        if kept != managed.kept:
            managed.kept = kept
            try:
                managed.aim = managed.aim_at(managed.pf, managed.vfs)
            except (NicError, RefusedError) as error:
                service.journal.emit("failed", str(error), level="error", pf=managed.id)
            else:
                service.converge(managed)
