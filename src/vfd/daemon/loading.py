"""From the files to the NICs: at start, at SIGHUP, and when a PF comes back.

A file that is bad, or that doesn't agree with the others, is reported and its VF left as it is;
all others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from vfd.config.errors import Problem, shown
from vfd.daemon.failures import ExistsError, NotFoundError, RefusedError, StorageError
from vfd.daemon.files import BadFile
from vfd.daemon.managed import Aim, Condition, Configured, Managed
from vfd.nic.protocol import NicError
from vfd.policy.values import PfPolicy, VfRules

if TYPE_CHECKING:
    from vfd.daemon.service import Service

log = logging.getLogger("vfd.service")


def load(
    service: Service, *, starting: bool = False, pfs: Mapping[str, PfPolicy] | None = None
) -> None:
    """Reads every VF file and makes the NICs follow.

    A file that is bad is reported and leaves its VF as it is; the others go on.
    """
    try:
        good, bad = service.files.load_all()
    except OSError as error:
        problem = Problem(str(service.files.folder), "", "", f"can't be read: {error.strerror}")
        service.journal.emit("bad-file", str(problem), level="error", file=problem.file)
        if not starting:
            return  # what was in force stays in force
        good, bad = [], [BadFile(problem.file, (problem,))]
    known = _problems(service)
    service.bad = {b.file: b for b in bad}
    if starting:
        good.sort(key=lambda one: not _is_enforced(service, one))
    _refuse_names_in_use(service, good)
    homes: dict[str, list[Configured]] = {pf_id: [] for pf_id in service.nics}
    for one in good:
        home = service.home(one.policy.pciid)
        if home is None or home.nic is None:
            _set_aside(service, one, why_homeless(service, one, home), home)
        else:
            homes[home.id].append(one)
    for pf_id, managed in service.nics.items():
        if managed.nic is not None:
            pf = (pfs or {}).get(pf_id, managed.pf)
            _follow(service, managed, pf, homes[pf_id], starting=starting)
    _tell_conflicts(service)
    _tell_of_new(service, known)


def judge_again(service: Service, managed: Managed, found: str) -> int:
    """Follows once more what was aimed at, on a NIC that came back with another driver perhaps or
    in another mode. What it can't enforce any more is refused as at the door: the VF closes
    rather than be open with less than its file states. Returns the number of changes."""
    assert managed.aim is not None
    before, wanted = managed.aim, [*managed.aim.vfs.values()]
    pf = before.pf
    if pf.vfs is None:  # their number is what it was, whatever the PF came back with
        pf = pf.model_copy(update={"vfs": before.desired.pf.vfs})
    managed.aim = None
    known = _problems(service)
    managed.kept = still_kept(service, managed, wanted)
    _make_vfs(managed, pf)
    aim = _agreed(service, managed, pf, wanted, {})
    if aim is not None:
        managed.aim, managed.pf = replace(aim, pf=before.pf), before.pf
    _tell_of_new(service, known)
    return service.converge(managed, found=found)


def _problems(service: Service) -> set[Problem]:
    return {problem for bad in service.bad.values() for problem in bad.problems}


def _tell_of_new(service: Service, known: set[Problem]) -> None:
    for problem in (p for b in service.bad.values() for p in b.problems):
        if problem not in known:
            service.journal.emit(
                "bad-file", str(problem), level="error", file=problem.file, field=problem.field
            )


def _is_enforced(service: Service, one: Configured) -> bool:
    home = service.home(one.policy.pciid)
    return home is not None and home.shows(one.policy)


def _tell_conflicts(service: Service) -> None:
    """What bad files would be refused for once they are corrected."""
    in_force = {one.file: one for managed in service.nics.values() for one in managed.vfs.values()}
    for bad in tuple(service.bad.values()):
        if more := service.conflicts(bad.file, bad.problems, bad.readable, in_force.get(bad.file)):
            service.bad[bad.file] = replace(bad, problems=(*bad.problems, *more))


def admit_waiting(service: Service, managed: Managed) -> None:
    """Files whose VF was missing come into force where it is there now."""
    assert managed.seen is not None
    for bad in tuple(service.bad.values()):
        if bad.device and service.home(bad.device) is managed and bad.vfid in managed.seen.vfs:
            try:
                service.admit(bad.file)
            except (RefusedError, NotFoundError, ExistsError, NicError, StorageError) as error:
                log.info("%s stays out of force: %s", bad.file, error)


def _refuse_names_in_use(service: Service, good: list[Configured]) -> None:
    first: dict[str, Configured] = {}
    for one in tuple(good):
        other = first.setdefault(one.policy.name, one)
        if other is not one:
            good.remove(one)
            rule = f"a name is unique on the host: {other.file} has it"
            _set_aside(
                service, one, Problem(one.file, "name", one.policy.name, rule, other.policy.name)
            )


def _set_aside(
    service: Service, one: Configured, problem: Problem, home: Managed | None = None
) -> None:
    earlier = service.bad[one.file].problems if one.file in service.bad else ()
    home = home or service.home(one.policy.pciid)
    service.bad[one.file] = BadFile(
        one.file,
        (*earlier, problem),
        home.id if home else one.policy.pciid,
        one.policy.vfid,
        one.policy.name,
    )


def why_homeless(service: Service, one: Configured, home: Managed | None) -> Problem:
    if home is None:
        rule = f"no PF of this daemon: pciids has {', '.join(service.nics) or 'none'}"
    else:
        rule = f"its PF isn't working: {home.detail}"
    return Problem(one.file, "pciid", shown(one.policy.pciid), rule)


def _follow(
    service: Service, managed: Managed, pf: PfPolicy, wanted: list[Configured], *, starting: bool
) -> None:
    """Aims at as many of ``wanted`` as agree with each other, and at the VFs of files that
    were good and became bad; then converges."""
    before = dict(managed.vfs)
    old_of = {one.file: one for one in before.values()}
    files = {one.file for one in wanted}
    fallback = [one for file, one in old_of.items() if _is_bad(service, file) and file not in files]
    candidates = fallback + wanted
    managed.kept = still_kept(service, managed, candidates, starting=starting)
    _make_vfs(managed, pf)
    bad = dict(service.bad)
    aim = _agreed(service, managed, pf, candidates, old_of)
    if aim is None:
        return
    is_new_pf = managed.aim is not None and managed.aim.pf != pf
    managed.aim, managed.pf, managed.refused = aim, pf, ""
    service.converge(managed)
    if is_new_pf:  # as it is now, the PF may enforce less of its VFs' policies, or more
        service.bad = bad
        aim = _agreed(service, managed, pf, candidates, old_of, anew=True)
        if aim is None:
            return
        managed.aim = aim
        service.converge(managed)
    for vfid in managed.kept:
        service.journal.emit(
            "kept",
            "open without a readable configuration: left as it is, because a file in"
            " config_dir that may be its own is bad",
            level="warning",
            pf=managed.id,
            vfid=vfid,
        )


def _make_vfs(managed: Managed, pf: PfPolicy) -> None:
    try:
        managed.make_vfs(pf)
    except NicError as error:  # converging tries again, and tells what becomes of it
        log.warning("%s: %s", managed.id, error)


def _agreed(
    service: Service,
    managed: Managed,
    pf: PfPolicy,
    candidates: list[Configured],
    old_of: Mapping[str, Configured],
    *,
    anew: bool = False,
) -> Aim | None:
    """What as many of ``candidates`` as agree ask for; None: the PF's own configuration is bad."""
    while True:
        try:
            return managed.aim_at(pf, candidates, anew=anew)
        except RefusedError as refused:
            again = _without_offenders(service, managed, candidates, refused, old_of)
            if again is None:
                managed.condition, managed.detail = Condition.FAILED, str(refused)
                managed.refused = str(refused)
                service.journal.emit("failed", str(refused), level="error", pf=managed.id)
                return None
            candidates = again


def _is_bad(service: Service, file: str) -> bool:
    """The file, or a folder that it is in, can't be read."""
    return file in service.bad or any(file.startswith(f"{folder}/") for folder in service.bad)


def still_kept(
    service: Service,
    managed: Managed,
    candidates: Iterable[Configured],
    *,
    starting: bool = False,
) -> dict[int, VfRules]:
    """VFs that are open without a configuration, where a bad file may be theirs."""
    assert managed.seen is not None
    claimed = {one.policy.vfid for one in candidates}
    mine = [b for b in service.bad.values() if not b.device or service.home(b.device) is managed]
    anybodys = any(b.vfid is None for b in mine)
    named = {b.vfid for b in mine}
    return {
        vfid: state.rules
        for vfid, state in managed.seen.vfs.items()
        if vfid not in claimed
        and state.rules is not None
        and not managed.is_closed(vfid)
        and (starting or vfid in managed.kept)
        and (anybodys or vfid in named)
    }


def _without_offenders(
    service: Service,
    managed: Managed,
    candidates: list[Configured],
    refused: RefusedError,
    old_of: Mapping[str, Configured],
) -> list[Configured] | None:
    """``candidates`` without what was refused, or with what was in force before in its place.

    None: it is the PF's own configuration that is refused.
    """
    offenders = {p.file for p in refused.problems}
    current = {one.file: one for one in candidates}
    kept_names = {f"{managed.id}:{vfid}": vfid for vfid in managed.kept}
    if not offenders & (current.keys() | kept_names.keys()):
        return None
    first: list[Configured] = []
    rest: list[Configured] = []
    for one in candidates:
        if one.file not in offenders:
            rest.append(one)
        elif (old := old_of.get(one.file)) is not None and old is not one:
            first.append(old)
    for name in offenders & kept_names.keys():
        managed.kept.pop(kept_names[name], None)
    for problem in refused.problems:
        if problem.file in current:
            _set_aside(service, current[problem.file], problem, managed)
    return first + rest
