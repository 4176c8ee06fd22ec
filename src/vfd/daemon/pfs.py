"""What is asked of a PF itself: how many VFs it has, whether it is there, where counters start."""

from __future__ import annotations

import logging
import select
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vfd.config.errors import ConfigError, Problem
from vfd.daemon import removing
from vfd.daemon.aim import Configured
from vfd.daemon.exclusive import InUseError
from vfd.daemon.failures import (
    NotFoundError,
    RefusedError,
    StorageError,
    not_stored,
)
from vfd.daemon.files import BadFile
from vfd.daemon.loading import admit_waiting, settings_in_force
from vfd.daemon.managed import Managed
from vfd.daemon.service import Service
from vfd.daemon.vanished import remember
from vfd.daemon.watch import handle
from vfd.nic.protocol import NicError
from vfd.plan.changes import Change
from vfd.policy.shown import plural
from vfd.policy.values import PfPolicy

log = logging.getLogger("vfd.service")

_ROUNDS = 5
"""Times that a NIC is listened to before it is judged who holds its VFs: a guest that comes and
goes without end must not hold up a request."""


def going(service: Service, pf_id: str, vfs: int, *, force: bool) -> list[Configured]:
    """The configured VFs that ``set_vfs`` would take away. Raises RefusedError where it would."""
    managed = service.nic(pf_id)
    _hear(service, managed)
    if managed.aim is None:
        problems = _of_unknown_owner(managed, vfs)
    else:
        problems = [] if force else _in_the_way(managed, vfs)
    if problems:
        raise RefusedError(problems)
    return [one for one in managed.vfs.values() if one.policy.vfid >= vfs]


def _hear(service: Service, managed: Managed) -> None:
    """Who holds a VF may have changed unheard, and a NIC shows what it has heard. Raises
    NicError."""
    for _ in range(_ROUNDS):
        if managed.nic is None:
            break
        pending = select.poll()
        pending.register(managed.nic.fileno(), select.POLLIN)
        if not pending.poll(0):
            break
        handle(service, managed)
    managed.look()


def set_vfs(service: Service, pf_id: str, vfs: int, *, force: bool) -> tuple[Change, ...]:
    """Changes how many VFs there are, and keeps the number in the main configuration."""
    gone = going(service, pf_id, vfs, force=force)
    managed = service.nic(pf_id)
    pf = managed.pf.model_copy(update={"vfs": vfs})
    before = managed.aim
    aim = managed.aim_at(pf, [one for one in managed.vfs.values() if one.policy.vfid < vfs])
    with _kept_first(service, managed, {"vfs": vfs}) as doubts:
        changes = managed.go(aim, force=force) if before is not None else ()
    if before is None:
        changes = _brought_into_force(service, managed, pf)
    managed.kept = {vfid: rules for vfid, rules in managed.kept.items() if vfid < vfs}
    settings_in_force(service, managed)
    if managed.refused:  # until now, when it came back
        managed.refused = ""
        service.converge(managed)
    service.journal.emit("pf", f"{managed.id} has {plural(vfs, 'VF')} now", pf=managed.id, vfs=vfs)
    for doubt in doubts:
        service.journal.emit("warning", doubt, level="warning", pf=managed.id)
    rule = f"{managed.id} has {plural(vfs, 'VF')} now: in force again once it has more"
    for one in gone:
        _park(service, managed, one, "vfid", str(one.policy.vfid), rule)
    remember(service)
    return changes + admit_waiting(service, managed)


@contextmanager
def _kept_first(
    service: Service, managed: Managed, fields: Mapping[str, Any] | None
) -> Iterator[tuple[str, ...]]:
    """The main configuration has ``fields`` of this PF changed, or is without it (None), before the
    NIC changes: what can't be kept is not done, for the netdevs of guests don't come back. Where
    the NIC then fails, the file is as it was.

    Yields what is to be warned of. Raises RefusedError, StorageError.
    """
    file = service.files.main_file
    try:
        new, old = service.files.restage_pf(managed.pf.id, fields)
    except ConfigError as error:
        raise RefusedError(error.problems) from None
    except OSError as error:
        raise not_stored(file, error) from error
    try:
        try:
            doubts = new.commit()
        except OSError as error:
            raise not_stored(file, error) from error
        try:
            yield doubts
        except Exception as error:
            try:
                old.commit()
            except OSError as second:
                text = f"{error}. {file} could not be put back as it was: {second}"
                raise StorageError(text) from error
            raise
    finally:
        new.abandon()
        old.abandon()


def _brought_into_force(service: Service, managed: Managed, pf: PfPolicy) -> tuple[Change, ...]:
    """Does with a PF whose configuration was refused until now what a restart would: the files of
    its VFs are read, and those that are open stay so. Returns what that changed.

    Raises NicError where it still isn't in force.
    """
    before = managed.seen
    managed.pf = pf
    service.load()
    if managed.aim is None or before is None:
        text = f"{service.files.main_file} is changed, but {managed.id} still isn't working"
        raise NicError(f"{text}: {managed.detail}")
    return managed.changes(managed.aim, before)


def _park(
    service: Service, managed: Managed, one: Configured, field: str, value: str, rule: str
) -> None:
    """The file stays and is in force again when its VF is."""
    problem = Problem(one.file, field, value, rule)
    service.bad[one.file] = BadFile(
        one.file, (problem,), managed.id, one.policy.vfid, one.policy.name
    )


def _of_unknown_owner(managed: Managed, vfs: int) -> list[Problem]:
    """What a PF whose configuration was refused would lose: as long as no file is in force nobody
    can tell whose its VFs are, so no VF is taken, not by force either."""
    assert managed.seen is not None
    count = len(managed.seen.vfs)
    takes_all = managed.working().capabilities.count_takes_all and vfs != count
    rule = (
        "it is open or held, and files come into force only once the PF's configuration does:"
        f" set vfs to {count} first"
    )
    return [
        Problem("request", "vfs", str(vfs), f"VF {vfid} would go: {rule}", f"{managed.id}:{vfid}")
        for vfid, state in managed.seen.vfs.items()
        if (vfid >= vfs or takes_all) and (state.held or not managed.is_closed(vfid))
    ]


def _in_the_way(managed: Managed, vfs: int) -> list[Problem]:
    assert managed.seen is not None
    problems = []
    takes_all = managed.working().capabilities.count_takes_all and vfs != len(managed.seen.vfs)
    for vfid, state in managed.seen.vfs.items():
        if vfid < vfs and not (takes_all and state.held):
            continue
        one = managed.vfs.get(vfid)
        if state.held:
            why = "go" if vfid >= vfs else "go and come back, as all VFs of this NIC do"
            rule = f"VF {vfid} would {why}, and {state.guest or 'a guest'} holds it"
        elif one is not None:
            rule = f"VF {vfid} would go, and {one.policy.name} configures it"
        elif vfid in managed.kept:
            rule = f"VF {vfid} would go, and a bad file that may be its own keeps it open"
        else:
            continue
        problems.append(
            Problem(
                "request",
                "vfs",
                str(vfs),
                rule + ": free it first, or force it",
                one.policy.name if one else f"{managed.id}:{vfid}",
            )
        )
    return problems


def removal(service: Service, pf_id: str, *, force: bool) -> list[Configured]:
    """The configured VFs that ``remove`` would take away. Raises RefusedError where it would."""
    managed = service.nic(pf_id)
    if managed.pf.backend != "soft":
        rule = (
            "only a software NIC can be removed; vfd leaves another one alone once pciids in"
            f" {service.files.main_file} no longer lists it (reload)"
        )
        raise RefusedError([Problem("request", "pf", managed.id, rule)])
    if force:
        return list(managed.vfs.values())
    if managed.nic is None:
        rule = f"who holds its VFs can't be told, because it isn't working ({managed.detail})"
        raise RefusedError([Problem("request", "pf", managed.id, f"{rule}: force it")])
    _hear(service, managed)
    in_the_way = _of_unknown_owner if managed.aim is None else _in_the_way
    if problems := in_the_way(managed, 0):
        raise RefusedError(problems)
    return []


def remove(service: Service, pf_id: str, *, force: bool) -> str:
    """Takes a software NIC away, from the host and from the main configuration; its id. Files of
    its VFs stay, out of force."""
    gone = removal(service, pf_id, force=force)
    managed = service.nic(pf_id)
    with (
        removing.remembered(service.files.memory, managed.id, managed.guests()),
        _kept_first(service, managed, None) as doubts,
    ):
        managed.remove()
    del service.nics[managed.id]
    service.journal.emit("pf", f"{managed.id} is removed", pf=managed.id)
    for doubt in doubts:
        service.journal.emit("warning", doubt, level="warning", pf=managed.id)
    for one in gone:
        rule = f"{managed.id} was removed: in force again once pciids lists it"
        _park(service, managed, one, "pciid", managed.id, rule)
    remember(service)
    return managed.id


def hold(service: Service) -> None:
    """Holds the NICs' locks again whose files somebody removed: who does so with the socket's
    folder may have done so with theirs."""
    for managed in service.nics.values():
        try:
            managed.hold(service.holder)
        except InUseError as error:
            service.journal.emit("failed", str(error), level="error", pf=managed.id)


def clear(service: Service, pf_id: str, vfid: int | None) -> str:
    """A new zero for the counters that are shown; those behind it stay monotonic. Returns what was
    done, and a warning where it ends with the daemon."""
    managed = service.nic(pf_id)
    counters = managed.working().counters()
    if vfid is not None and vfid not in counters:
        raise NotFoundError(f"{managed.id} has no VF {vfid}")
    lost = service.zero.set(managed.id, counters if vfid is None else {vfid: counters[vfid]})
    whom = f"VF {vfid} of {managed.id}" if vfid is not None else f"{managed.id} and its VFs"
    more: dict[str, Any] | None = service.flood.fields(("cleared", managed.id))
    if more is not None:
        text = f"counters of {whom} start at zero"
        service.journal.emit("cleared", text, pf=managed.id, vfid=vfid, **more)
    return "counters start at zero" + (f", but {lost}" if lost else "")
