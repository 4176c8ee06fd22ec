"""From the files to the NICs: at start, at SIGHUP, and when a PF comes back.

A file that is bad, or that doesn't agree with the others, is reported and its VF left as it is;
all others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vfd.config.errors import Problem, shown
from vfd.daemon import crowded, vanished
from vfd.daemon.aim import Aim, Configured, surely_out
from vfd.daemon.failures import ExistsError, NotFoundError, RefusedError, StorageError
from vfd.daemon.files import BadFile
from vfd.daemon.managed import Condition, Managed
from vfd.daemon.reading import Reading
from vfd.daemon.reserved import granted_macs, tell_taken_back
from vfd.nic.protocol import NicError
from vfd.plan.changes import Change
from vfd.policy.values import PfPolicy, VfPolicy, VfRules

if TYPE_CHECKING:
    from vfd.daemon.service import Service

log = logging.getLogger("vfd.service")

_HELD_AGAINST_OTHERS = 64
"""Bad files that are held against all VFs at a reload, for what else they would be refused for: the
NICs' thread does that."""
_RIVALS = 8
"""Files for one VF that are judged."""
_TOLD = 256
"""Problems of files that one reload tells as events."""


def load(
    service: Service,
    reading: Reading | None = None,
    *,
    pfs: Mapping[str, PfPolicy] | None = None,
    confirm_gone: bool = False,
) -> None:
    """Makes the NICs follow what the files say: ``reading``, or what is read now.

    A file that is bad is reported and leaves its VF as it is; the others go on. ``confirm_gone``:
    files that are gone are deleted, however many they are.
    """
    following = [managed for managed in service.nics.values() if managed.nic is not None]
    if reading is None or reading.folder != service.files.folder:
        reading = service.files.read_all()
    reading = service.files.used(reading)
    good, bad = list(reading.good), [*reading.bad.values()]
    if reading.error is not None:
        why = f"can't be read: {reading.error.strerror}"
        problem = Problem(str(service.files.folder), "", "", why)
        service.journal.emit("bad-file", str(problem), level="error", file=problem.file)
        # What was in force stays in force, and a NIC that wasn't looked at yet stays as it is.
        following = [managed for managed in following if managed.aim is None]
        unread = BadFile(problem.file, (problem,))
        if not following:
            service.bad[unread.file] = unread
            return
        bad = [unread]
    service.reading = reading
    known = _problems(service)
    main_file = str(service.files.main_file)
    settings = service.bad.get(main_file) if pfs is None else None  # else they are judged again
    service.bad = {b.file: b for b in bad} | ({main_file: settings} if settings else {})
    if reading.error is None:
        vanished.look_for(service, reading, confirmed=confirm_gone)
    if new := [managed for managed in following if managed.aim is None]:
        _adopt(service, new, good)
        good.sort(key=lambda one: not _is_enforced(service, one))
    _refuse_names_in_use(service, good)
    _refuse_a_crowd(service, good)
    lives_on = {one.file: managed for managed, one in service.in_force()}
    homes: dict[str, list[Configured]] = {pf_id: [] for pf_id in service.nics}
    for one in good:
        home = service.home(one.policy.pciid)
        if home is None or home.nic is None:
            _set_aside(service, one, why_homeless(service, one, home), home)
        else:
            homes[home.id].append(one)
    # A file may now name another PF: there it is judged first, and if it is refused its VF stays.
    following.sort(key=lambda m: all(lives_on.get(one.file, m) is m for one in homes[m.id]))
    for managed in following:
        pf = (pfs or {}).get(managed.id, managed.pf)
        granted = granted_macs(managed)
        _follow(service, managed, pf, homes[managed.id])
        tell_taken_back(service, managed, granted)
    _tell_conflicts(service)
    crowded.fold(service)
    _tell_of_new(service, known)
    if reading.error is None:
        vanished.remember(service)


def _adopt(service: Service, nics: Iterable[Managed], good: Iterable[Configured]) -> None:
    """Tells NICs that no daemon process has set yet what they were set by."""
    claims: dict[str, list[VfPolicy]] = {managed.id: [] for managed in nics}
    for one in good:
        home = service.home(one.policy.pciid)
        if home is not None and home.id in claims:
            claims[home.id].append(one.policy)
    for pf_id, policies in claims.items():
        managed = service.nics[pf_id]
        try:
            if managed.pf.unconfigured == "leave":
                named = {one.vfid for one in policies} | _named(service, managed)
                managed.working().manage({vfid for vfid in named if vfid is not None})
            managed.working().adopt(policies)
            managed.look()
        except NicError as error:  # converging meets it, too, and tells
            log.warning("%s: %s", pf_id, error)


def _is_enforced(service: Service, one: Configured) -> bool:
    home = service.home(one.policy.pciid)
    return home is not None and home.shows(one.policy)


def _tell_conflicts(service: Service) -> None:
    """What bad files would be refused for once they are corrected."""
    in_force = {one.file: one for _, one in service.in_force()}
    readable = [bad for bad in service.bad.values() if bad.readable is not None]
    for bad in readable[:_HELD_AGAINST_OTHERS]:
        if more := service.conflicts(bad.file, bad.problems, bad.readable, in_force.get(bad.file)):
            service.bad[bad.file] = replace(bad, problems=(*bad.problems, *more))


def _problems(service: Service) -> set[Problem]:
    return {problem for bad in service.bad.values() for problem in bad.problems}


def _tell_of_new(service: Service, known: set[Problem]) -> None:
    new = [p for b in service.bad.values() for p in b.problems if p not in known]
    for problem in new[:_TOLD]:
        service.journal.emit(
            "bad-file", str(problem), level="error", file=problem.file, field=problem.field
        )
    if (more := len(new) - _TOLD) > 0:
        text = f"and {more} more problems of files: `iplex show all` lists them"
        service.journal.emit("bad-file", text, level="error")


def admit_waiting(service: Service, managed: Managed) -> tuple[Change, ...]:
    """Files whose VF was missing come into force where it is there now. What that changed."""
    assert managed.seen is not None
    made: tuple[Change, ...] = ()
    for bad in tuple(service.bad.values()):
        if bad.device and service.home(bad.device) is managed and bad.vfid in managed.seen.vfs:
            try:
                made += service.admit(bad.file).changes
            except (RefusedError, NotFoundError, ExistsError, NicError, StorageError) as error:
                log.info("%s stays out of force: %s", bad.file, error)
    return made


def close_vf(service: Service, managed: Managed, one: Configured) -> tuple[Change, ...]:
    """Aims at all VFs of the PF but this one. What that changed. Raises NicError, RefusedError."""
    assert managed.aim is not None
    try:
        aim = managed.aim_at(
            managed.pf, [other for other in managed.vfs.values() if other is not one]
        )
    except RefusedError as refused:
        if not managed.refused or {p.file for p in refused.problems} != {managed.main_file}:
            raise
    else:
        return managed.go_or_aim(aim)
    # The PF's own configuration was refused before: that is no reason to keep a VF open.
    assert managed.seen is not None
    managed.aim = managed.aim.without(one.policy.vfid)
    changes = managed.changes(managed.aim, managed.seen, {one.policy.vfid})
    service.converge(managed)
    return changes


def _refuse_names_in_use(service: Service, good: list[Configured]) -> None:
    in_force = {(one.file, one.policy.name) for _, one in service.in_force()}
    first: dict[str, Configured] = {}
    out: set[str] = set()
    for one in sorted(good, key=lambda one: (one.file, one.policy.name) not in in_force):
        other = first.setdefault(one.policy.name, one)
        if other is not one:
            out.add(one.file)
            rule = f"a name is unique on the host: {other.file} has it"
            _set_aside(
                service, one, Problem(one.file, "name", one.policy.name, rule, other.policy.name)
            )
    good[:] = [one for one in good if one.file not in out]


def _refuse_a_crowd(service: Service, good: list[Configured]) -> None:
    """Of a crowd of files for one VF the first few are judged by all rules: that takes time."""
    in_force = {one.file for _, one in service.in_force()}
    crowds: dict[tuple[str, int], list[Configured]] = {}
    for one in sorted(good, key=lambda one: one.file not in in_force):
        crowds.setdefault((one.policy.pciid, one.policy.vfid), []).append(one)
    out: set[str] = set()
    for (pciid, vfid), crowd in crowds.items():
        for one in crowd[_RIVALS:]:
            rule = (
                f"{len(crowd)} files are for VF {vfid} of {pciid}, and a VF has one configuration"
            )
            _set_aside(service, one, Problem(one.file, "vfid", str(vfid), rule))
            out.add(one.file)
    good[:] = [one for one in good if one.file not in out]


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


def _follow(service: Service, managed: Managed, pf: PfPolicy, wanted: list[Configured]) -> None:
    """Aims at as many of ``wanted`` as agree with each other, and at the VFs of files that
    were good and became bad; then converges."""
    is_new_pf = managed.aim is not None and managed.aim.pf != pf
    _make_vfs(managed, pf)
    bad = dict(service.bad)
    standing, fresh = _by_age(service, managed, wanted)
    if not _aim(service, managed, pf, standing, fresh):
        for one in fresh:
            _set_aside(service, one, why_homeless(service, one, managed), managed)
        return
    service.converge(managed)
    if is_new_pf and managed.pf == pf:
        # It may enforce less of its VFs' policies now: what is in force is judged anew. Or more:
        # then files come into force that were refused, and the others leave their VFs once more.
        assert managed.aim is not None
        if not _aim(service, managed, pf, [], [*managed.aim.vfs.values()], anew=True):
            return
        service.converge(managed)
        service.bad = bad
        if not _aim(service, managed, pf, *_by_age(service, managed, wanted)):
            return
        service.converge(managed)
    for vfid in managed.kept:
        service.journal.emit(
            "kept",
            "open without a configuration in force: left as it is, because a file in config_dir"
            " that may be its own is bad",
            level="warning",
            pf=managed.id,
            vfid=vfid,
        )


def _by_age(
    service: Service, managed: Managed, wanted: list[Configured]
) -> tuple[list[Configured], list[Configured]]:
    """What is in force and didn't change, or whose file became bad; and what is new."""
    files = {one.file for one in wanted}
    old_of = {one.file: one for one in managed.vfs.values()}
    standing = [old for file, old in old_of.items() if file not in files and _is_bad(service, file)]
    fresh = []
    for one in wanted:
        old = old_of.get(one.file)
        if old is None or old.policy != one.policy:
            fresh.append(one)
        else:
            standing.append(old if old == one else one)
    return standing, fresh


def judge_again(service: Service, managed: Managed, found: str) -> int:
    """Follows once more what was aimed at, on a NIC that came back with another driver perhaps or
    in another mode. What it can't enforce any more is refused as at the door: the VF closes
    rather than be open with less than its file states. Returns the number of changes."""
    assert managed.aim is not None
    before, wanted = managed.aim, [*managed.aim.vfs.values()]
    pf = before.pf
    if pf.vfs is None:  # their number is what it was, whatever the PF came back with
        pf = pf.model_copy(update={"vfs": before.desired.pf.vfs})
    known = _problems(service)
    _make_vfs(managed, pf)
    if _aim(service, managed, pf, [], wanted, anew=True):
        managed.aim, managed.pf = replace(managed.aim, pf=before.pf), before.pf
    _tell_of_new(service, known)
    return service.converge(managed, found=found)


def _aim(
    service: Service,
    managed: Managed,
    pf: PfPolicy,
    standing: list[Configured],
    fresh: list[Configured],
    *,
    anew: bool = False,
) -> bool:
    """Aims at what agrees. False: the PF's own configuration is refused, and told so.

    ``anew``: the NIC may enforce something else than before. What it can't enforce any more closes:
    it wouldn't be as its file states if it were left open.
    """
    kept = managed.kept
    try:
        pf, agreed = _agreed(service, managed, pf, standing, fresh, anew=anew)
    except RefusedError as refused:
        managed.kept = kept
        managed.condition, managed.detail = Condition.FAILED, str(refused)
        managed.refused = str(refused)
        service.journal.emit("failed", str(refused), level="error", pf=managed.id)
        return False
    for one, problem in agreed.refused:
        _set_aside(service, one, problem, managed)
    managed.aim, managed.pf, managed.kept, managed.refused = agreed.aim, pf, agreed.kept, ""
    return True


def _make_vfs(managed: Managed, pf: PfPolicy) -> None:
    try:
        managed.make_vfs(pf)
    except NicError as error:  # converging tries again, and tells what becomes of it
        log.warning("%s: %s", managed.id, error)


_Refused = tuple[tuple[Configured, Problem], ...]


@dataclass(frozen=True, slots=True)
class _Agreed:
    """What keeps all rules together, and the files that were left out for it."""

    aim: Aim
    kept: dict[int, VfRules]
    refused: _Refused


def _agreed(
    service: Service,
    managed: Managed,
    pf: PfPolicy,
    standing: list[Configured],
    fresh: list[Configured],
    *,
    anew: bool,
) -> tuple[PfPolicy, _Agreed]:
    """With the PF's old settings where its new ones don't go with a VF that is open.

    Raises RefusedError where the PF's own configuration is refused and there is no other.
    """
    assert managed.seen is not None
    kept = managed.kept
    try:
        agreed = _agree(service, managed, pf, standing, fresh, kept, anew)
    except RefusedError as refused:
        if managed.aim is None or pf == managed.pf:
            raise
        _keep_settings(service, managed, pf, managed.pf, refused.problems)
        return managed.pf, _agree(service, managed, managed.pf, standing, fresh, kept, anew)
    beyond = {vfid for vfid in agreed.kept if pf.vfs is not None and vfid >= pf.vfs}
    if not beyond:
        return pf, agreed
    there = pf.model_copy(update={"vfs": len(managed.seen.vfs)})
    told = [problem for one, problem in agreed.refused if one.policy.vfid in beyond]
    unnamed = beyond - {one.policy.vfid for one, _ in agreed.refused}
    rule = "it is open, and a file that may be its own is bad"
    told += [Problem(f"VF {vfid}", "", "", rule) for vfid in sorted(unnamed)]
    _keep_settings(service, managed, pf, there, told)
    return there, _agree(service, managed, there, standing, fresh, kept, anew)


def _agree(
    service: Service,
    managed: Managed,
    pf: PfPolicy,
    standing: list[Configured],
    fresh: list[Configured],
    kept: Mapping[int, VfRules],
    anew: bool,
) -> _Agreed:
    """As many of the files as keep all rules together. What is in force and didn't change
    (``standing``) comes before what is new. A file that is refused leaves its VF as it was: with
    the configuration of before, or else as the NIC has it.

    Raises RefusedError where the PF's own configuration is refused, or breaks what is in force.
    """
    old_of = {} if anew else {one.file: one for one in managed.vfs.values()}
    new_pf = managed.aim is not None and pf != managed.pf
    refused: _Refused = ()
    while True:
        everyone = {one.file: one for one in (*standing, *fresh)}
        managed.kept = {
            **still_kept(service, managed, everyone.values(), kept),
            **({} if anew else _left_open(managed, everyone.values(), refused, kept)),
        }
        try:
            aim = managed.aim_at(pf, list(everyone.values()), anew=anew)
        except RefusedError as error:
            blamed = {problem.file for problem in error.problems}
            newcomers = blamed & {one.file for one in fresh}
            if not blamed <= everyone.keys() or (new_pf and not newcomers):
                raise
            out = surely_out(error.problems, fresh) or blamed
            refused += tuple((everyone[p.file], p) for p in error.problems if p.file in out)
            back = [old_of[file] for file in out & newcomers if file in old_of]
            standing = back + [one for one in standing if one.file not in out]
            fresh = [one for one in fresh if one.file not in out]
        else:
            return _Agreed(aim, managed.kept, refused)


def _keep_settings(
    service: Service, managed: Managed, new: PfPolicy, old: PfPolicy, why: Iterable[Problem]
) -> None:
    """Reports what the main file says of a PF and is not taken over, because of open VFs."""
    file, entry = str(service.files.main_file), _entry(service, managed)
    changed = [f for f in PfPolicy.model_fields if getattr(new, f) != getattr(old, f)]
    field, value = entry, ""
    if len(changed) == 1:
        field, value = f"{entry}.{changed[0]}", shown(new.model_dump(mode="json")[changed[0]])
    names = {one.file: one.policy.name for one in managed.vfs.values()}
    told = tuple(
        replace(problem, field=f"{entry}.{problem.field}")
        if problem.file == file
        else Problem(
            file,
            field,
            value,
            f"not taken over while a VF is open that breaks a rule with it: {problem}",
            names.get(problem.file),
        )
        for problem in why
    )
    earlier = service.bad[file].problems if file in service.bad else ()
    service.bad[file] = BadFile(file, (*earlier, *told), managed.id)


def settings_in_force(service: Service, managed: Managed) -> None:
    """A number of VFs was set and kept. What the main file says of the PF is no longer told as not
    taken over, unless it says more that isn't."""
    file, entry = str(service.files.main_file), _entry(service, managed)
    told = service.bad.get(file)
    listed = next(pf for pf in service.main.nics if pf.id == managed.id)
    # A file that can't be read as such is of no PF, and is bad as before.
    if told is None or told.device is None:
        return
    if listed.model_copy(update={"vfs": managed.pf.vfs}) != managed.pf:
        return
    of_others = tuple(p for p in told.problems if p.field.split(".")[0] != entry)
    if of_others:
        service.bad[file] = replace(told, problems=of_others)
    else:
        del service.bad[file]


def _entry(service: Service, managed: Managed) -> str:
    """What the main file calls the PF."""
    return f"pciids[{[pf.id for pf in service.main.nics].index(managed.id)}]"


def _is_bad(service: Service, file: str) -> bool:
    """The file, or a folder that it is in, can't be read."""
    return (
        file in service.bad
        or file in service.vanished
        or any(file.startswith(f"{folder}/") for folder in service.bad)
        or (service.reading is not None and service.reading.may_have(file))
    )


def still_kept(
    service: Service,
    managed: Managed,
    candidates: Iterable[Configured],
    kept: Mapping[int, VfRules],
) -> dict[int, VfRules]:
    """VFs that are open without a configuration, where a bad file may be theirs.

    Of a NIC that is looked at for the first time it may be any VF, later one of ``kept``.
    """
    named = _named(service, managed)
    anybodys = None in named
    if managed.aim is None and managed.pf.unconfigured == "leave":
        anybodys = False  # one that no file names may be another manager's
    return {
        vfid: rules
        for vfid, rules in _open_without(managed, candidates).items()
        if (managed.aim is None or vfid in kept) and (anybodys or vfid in named)
    }


def _named(service: Service, managed: Managed) -> set[int | None]:
    """The PF's VFs that bad files, or files that are gone, are for; None: of one nobody knows."""
    main_file = str(service.files.main_file)
    found = {
        b.vfid
        for b in service.bad.values()
        if b.file != main_file
        and not b.vanished
        and (not b.device or service.home(b.device) is managed)
    }
    return found | {gone.vfid for gone in service.vanished.values() if gone.pf == managed.id}


def _left_open(
    managed: Managed,
    candidates: Iterable[Configured],
    refused: _Refused,
    kept: Mapping[int, VfRules],
) -> dict[int, VfRules]:
    """VFs that are open, and whose file is refused now."""
    theirs = {one.policy.vfid for one, _ in refused}
    return {
        vfid: rules
        for vfid, rules in _open_without(managed, candidates).items()
        if vfid in theirs and (managed.aim is None or vfid in kept or vfid in managed.vfs)
    }


def _open_without(managed: Managed, candidates: Iterable[Configured]) -> dict[int, VfRules]:
    """VFs that are open in the NIC and that none of ``candidates`` is for, as they are."""
    assert managed.seen is not None
    claimed = {one.policy.vfid for one in candidates}
    return {
        vfid: state.rules
        for vfid, state in managed.seen.vfs.items()
        if vfid not in claimed and state.rules is not None and not managed.is_closed(vfid)
    }
