"""What the daemon does: holds desired state, makes the NICs enforce it, answers guests.

One thread calls all of this, one call at a time: there are no locks, and what a call returns was
true when it returned. Requests apply wholly or not at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vfd.config.errors import ConfigError, Problem, Readable, not_told, shown
from vfd.config.main_file import MainConfig
from vfd.config.store import Renaming, Staged
from vfd.daemon import deleting, live, refused, removing, vanished
from vfd.daemon.aim import Aim, Configured
from vfd.daemon.callbacks import Owner
from vfd.daemon.exclusive import InUseError
from vfd.daemon.failures import (
    ExistsError,
    NotFoundError,
    RefusedError,
    StorageError,
    not_stored,
)
from vfd.daemon.files import BadFile, Files
from vfd.daemon.flood import Flood
from vfd.daemon.journal import Journal, Level
from vfd.daemon.loading import admit_waiting, load, why_homeless
from vfd.daemon.managed import Condition, Managed
from vfd.daemon.memory import Known
from vfd.daemon.openings import Openings
from vfd.daemon.reading import Reading
from vfd.daemon.request import Made, Source, Whose, callbacks_that_differ, moved_unasked
from vfd.daemon.speed import tell_of_speed
from vfd.daemon.steps import differences
from vfd.daemon.whole import Placed
from vfd.daemon.zero import Zero
from vfd.nic.protocol import NicError
from vfd.plan.changes import Change, VfChange
from vfd.policy.rules import NOTHING_UNKNOWN
from vfd.policy.values import Mirror, PfPolicy

log = logging.getLogger("vfd.service")


__all__ = ["Made", "Service", "Source"]


_TAKEN_OVER: Mapping[bool, tuple[str, Level]] = {
    False: ("taken-over", "info"),
    True: ("bad-file", "error"),
}


class Service:
    """All NICs of one daemon."""

    def __init__(self, files: Files, main: MainConfig, journal: Journal, zero: Zero, holder: str):
        self.files = files
        self.main = main
        self.journal = journal
        self.zero = zero
        self.holder = holder
        self.nics: dict[str, Managed] = {
            pf.id: Managed(pf, str(files.main_file)) for pf in main.nics
        }
        self.bad: dict[str, BadFile] = {}
        self.reading: Reading | None = None
        """The files as they were last read."""
        self.vanished: dict[str, Known] = {}
        """Files that are gone without having been deleted: see ``vanished``."""
        self.placed: list[Placed] = [files.memory]
        """Files that are minded as NICs are: written as soon as they can be."""
        self.flood = Flood()
        self.openings = Openings()
        self.started = time.time()

    # Start, reload, stop

    def start(self) -> None:
        """Opens the NICs and brings them to what the files say.

        Raises InUseError where another daemon has one of them.
        """
        self.files.sweep()
        removing.finish(self)
        for one in live.take_over(self.files.folder):
            kind, level = _TAKEN_OVER[one.is_bad]
            self.journal.emit(kind, one.text, level=level, file=one.file)
        for managed in self.nics.values():
            self._open(managed, starting=True)
        self.load()

    def _open(self, managed: Managed, *, starting: bool = False) -> None:
        known = managed.detail
        try:
            managed.open(self.holder)
        except (InUseError, NicError) as error:
            told: Exception = error
            if isinstance(error, InUseError):
                told = self._twin(managed, error) or error
                if starting and told is error:
                    raise
            managed.fail(told)
            if str(told) != known:  # told once, not at every attempt
                self.journal.emit("failed", str(told), level="error", pf=managed.id)
        else:
            self.openings.adopt(managed)

    def _twin(self, managed: Managed, error: InUseError) -> NicError | None:
        """What is wrong where it is this daemon that has the NIC, under another name."""
        for other in self.nics.values():
            if other is not managed and other.lock and other.lock.path == error.lock:
                text = f"{managed.id} is the same device as {other.id}: list it once in pciids"
                return NicError(text)
        return None

    def stop(self) -> None:
        """Lets go of the NICs. They go on enforcing."""
        for managed in self.nics.values():
            managed.close()

    def reload(
        self, main: MainConfig, reading: Reading | None = None, confirm_gone: bool = False
    ) -> None:
        """Takes over a new main configuration and follows what all VF files say now.

        A PF that can't be opened, or that another daemon has, is told and tried again later; all
        others go on.
        """
        self.main = main
        self.files.configure(main)
        wanted = {pf.id: pf for pf in main.nics}
        for gone in self.nics.keys() - wanted.keys():
            managed = self.nics.pop(gone)
            managed.close(for_good=True)
            text = "no longer configured: it keeps what it has"
            if managed.pf.backend == "soft":
                text += f". To take it away, list it again, reload, and: iplex pf remove {gone}"
            self.journal.emit("released", text, pf=gone)
        for pf in main.nics:
            managed = self.nics.setdefault(pf.id, Managed(pf, str(self.files.main_file)))
            if managed.nic is None:
                managed.pf = pf
                self._open(managed)
        self.load(reading, pfs=wanted, confirm_gone=confirm_gone)

    def refuse(self, problems: tuple[Problem, ...]) -> None:
        """The main configuration is bad: what was read before stays in force, and it is told until
        a good one is read, for the next start would fail."""
        main_file = str(self.files.main_file)
        self.bad[main_file] = BadFile(main_file, problems)
        for problem in problems:
            self.journal.emit("bad-file", str(problem), level="error", file=problem.file)

    def in_trouble(self) -> bool:
        """Whether ``reopen`` or ``mend`` has something to try."""
        nics = list(self.nics.values())
        return any(m.nic is None or _may_be_mended(m) for m in nics) or any(self._out_of_place())

    def _out_of_place(self) -> Iterator[Placed]:
        return (file for file in self.placed if not file.is_in_place())

    def reopen(self) -> bool:
        """Tries to open NICs that could not be opened. Whether files may be in force now."""
        closed = [managed for managed in self.nics.values() if managed.nic is None]
        for managed in closed:
            self._open(managed)
        return any(managed.nic is not None for managed in closed)

    def mend(self) -> None:
        """Tries again what NICs could not do, and to write the daemon's own files."""
        for file in self._out_of_place():
            file.put()
        for managed in self.nics.values():
            if _may_be_mended(managed):
                unknown = not managed.unmet  # what is wrong may be what can't be observed
                self.converge(managed, found="it could not be done before", repair=unknown)

    def came_into_force(self) -> list[Configured]:
        """The VFs that were opened since this was last asked."""
        return self.openings.news(self.nics.values())

    def load(
        self,
        reading: Reading | None = None,
        *,
        pfs: Mapping[str, PfPolicy] | None = None,
        confirm_gone: bool = False,
    ) -> None:
        """Makes the NICs follow every VF file: as ``reading`` has them, or as they are read now."""
        load(self, reading, pfs=pfs, confirm_gone=confirm_gone)

    def home(self, device: str) -> Managed | None:
        """The PF that a VF file's ``pciid`` means. Any thread may ask."""
        exact = self.nics.get(device)
        return exact or next((m for m in list(self.nics.values()) if m.is_called(device)), None)

    # Requests

    def add(self, source: Source, uid: int, gid: int) -> Made:
        """Puts a VF's configuration in force, and keeps it. Raises ExistsError where it is. A file
        of ``config_dir`` that is refused is renamed, so that no later start reads it."""
        try:
            return self._add(source, uid, gid)
        except RefusedError as error:
            if source.file is None:
                raise
            raise refused.put_aside(self, self.files.file_of(source.file), error) from None

    def admit(self, file: str) -> Made:
        """Puts a file in force that waited for its VF. Raises as ``add`` does."""
        return self._add(Source(file=file), 0, 0)

    def _add(self, source: Source, uid: int, gid: int) -> Made:
        one, staged = self._read(source, uid, gid)
        return self._put(one, staged, None)

    def update(self, name: str, source: Source, uid: int, gid: int) -> Made:
        """Changes what differs. The VF stays on its PF and in its file. Raises NotFoundError."""
        _, old = self.find(name)
        one, staged = self._read(source, uid, gid, replaces=old)
        return self._put(one, staged, old, move=source.move)

    def plan_of(self, source: Source, uid: int, gid: int) -> tuple[str, Made]:
        """What adding or updating would do: ("add", "update" or "none", the changes).

        Raises what adding or updating would raise, but for a disk that is full: nothing is written.
        """
        old = self._replaced(source)
        one, _ = self._read(source, uid, gid, replaces=old, planned=True)
        if old is None and (found := self.called(one.policy.name)):
            old = found[1]
        managed, aim = self._judge(one, old, move=source.move)
        assert managed.seen is not None
        changes = managed.changes(aim, managed.seen)
        callbacks = callbacks_that_differ(one, old)
        action = "add" if old is None else "update" if changes or callbacks else "none"
        warnings = aim.warnings.get(one.policy.vfid, ())
        made = Made(one.policy.name, managed.id, one.policy.vfid, changes, warnings, callbacks)
        return action, made

    def _replaced(self, source: Source) -> Configured | None:
        stated = source.config.get("name") if source.config else None
        if isinstance(stated, str) and stated:
            if found := self.called(stated):
                return found[1]
            if source.name == stated:  # and no file of another VF, which is called so
                return None
        name = source.name or source.file
        found = self.by_name(name) if name else None
        return found[1] if found else None

    def _read(
        self,
        source: Source,
        uid: int,
        gid: int,
        replaces: Configured | None = None,
        *,
        planned: bool = False,
    ) -> tuple[Configured, Staged | Renaming | None]:
        """The configuration that a request means; content is written beside its place, unless it is
        ``planned`` only."""
        try:
            if source.config is not None:
                one = self.files.sent(source.config, source.name, uid, gid, replaces)
                if planned:
                    self.files.foresee(one, fresh=replaces is None)
                    return one, None
                return one, self.files.stage(one, source.config, fresh=replaces is None)
            file = source.file or (replaces.file if replaces else None)
            if file is None:
                rule = "name a file in config_dir, or send a configuration"
                raise RefusedError([Problem("request", "file", "", rule)])
            return self.files.take(file) if replaces is None else (self.files.load(file), None)
        except FileNotFoundError as error:
            if error.errno is None:  # said by us: there is no such file in config_dir
                raise NotFoundError(str(error)) from None
            raise not_stored(self.files.folder, error) from error
        except ConfigError as error:
            told = error.problems
            file = replaces.file if replaces else told[0].file
            more = self.conflicts(file, told, error.readable, replaces)
            raise RefusedError([*told, *more]) from None
        except OSError as error:
            raise not_stored(self.files.folder, error) from error

    def conflicts(
        self, file: str, told: Sequence[Problem], readable: Readable | None, old: Configured | None
    ) -> list[Problem]:
        """What is wrong with a bad configuration beside ``told``: with other VFs, the PF, the NIC.

        ``old``: what is in force in its place.
        """
        if readable is None:
            return []
        one = Configured(readable.policy, file, Owner(0, 0), written=readable.written)
        try:
            self._judge(one, old, {one.policy.name: readable.unknown}, move=True)
        except RefusedError as refused:
            return not_told(refused.problems, told)
        except (ExistsError, NicError) as other:
            log.debug("%s: not held against other VFs: %s", file, other)
        return []

    def _judge(
        self,
        one: Configured,
        old: Configured | None,
        unknown: Mapping[str, frozenset[str]] = NOTHING_UNKNOWN,
        move: bool = False,
    ) -> tuple[Managed, Aim]:
        """By all rules for a VF that is added, or takes the place of ``old``.

        Raises RefusedError, ExistsError, and NicError where the PF isn't working.
        """
        managed = self._home_or_refuse(one)
        if old is not None and managed is not self.home(old.policy.pciid):
            home = self.home(old.policy.pciid)
            rule = f"an update leaves a VF on its PF, which is {home.id if home else 'gone'}"
            problem = Problem(
                one.file, "pciid", shown(one.policy.pciid), f"{rule}: delete it and add it"
            )
            raise RefusedError([problem])
        if old is not None and not move and (moved := moved_unasked(one, old)):
            raise RefusedError([moved])
        if old is not None and one.file != old.file:
            rule = f"{one.policy.name} is in force from {old.file}: change that, or delete it first"
            raise RefusedError([Problem(one.file, "", "", rule, old.policy.name)])
        if (found := self.called(one.policy.name)) and found[1] is not old:
            raise ExistsError(
                f"{one.policy.name} is in force on VF {found[1].policy.vfid} of {found[0].id}:"
                " update it, or delete it first"
            )
        return managed, managed.aim_at(managed.pf, self._with(managed, one, old), unknown=unknown)

    def _home_or_refuse(self, one: Configured) -> Managed:
        managed = self.home(one.policy.pciid)
        if managed is None:
            raise RefusedError([why_homeless(self, one, None)])
        managed.working()
        if managed.aim is None or managed.condition is Condition.LOST:
            raise NicError(f"{managed.id} isn't working: {managed.detail}")
        return managed

    def _with(self, managed: Managed, one: Configured, old: Configured | None) -> list[Configured]:
        """The VFs of the PF with ``one`` last, so that it is to blame for conflicts."""
        return [other for other in managed.vfs.values() if other is not old] + [one]

    def _put(
        self,
        one: Configured,
        staged: Staged | Renaming | None,
        old: Configured | None,
        *,
        move: bool = False,
    ) -> Made:
        try:
            managed, aim = self._judge(one, old, move=move)
            before = managed.aim
            assert before is not None
            changes = managed.go(aim)
            doubts: tuple[str, ...] = ()
            if staged is not None:
                try:
                    doubts = staged.commit()
                except OSError as error:
                    managed.go(before)
                    raise StorageError(
                        f"{one.file} can't be kept: {error}. It was undone"
                    ) from error
                staged = None
        finally:
            if staged is not None:
                staged.abandon()
        managed.kept.pop(one.policy.vfid, None)
        vanished.settle(self, one.file)
        if one.file in self.bad and self.files.says(one):  # else but a field of it was changed
            deleting.no_longer_bad(self, one.file)
        made = Made(
            one.policy.name,
            managed.id,
            one.policy.vfid,
            changes,
            aim.warnings.get(one.policy.vfid, ()) + doubts,
            callbacks_that_differ(one, old),
        )
        vanished.remember(self)
        self.tell(made, "added" if old is None else "updated")
        return made

    def tell(self, made: Made, kind: str) -> None:
        """Who asks for the same again and again fills no log: see Flood."""
        more: dict[str, Any] | None = self.flood.fields((kind, made.pf, made.vfid))
        if more is None:
            return
        changed = {f for c in made.changes if isinstance(c, VfChange) for f in c.fields}
        fields = sorted(changed | {field for field, _, _ in made.callbacks})
        text = f"VF {made.vfid} of {made.pf} is {kind}"
        if kind == "updated":
            text += f": {', '.join(fields) or 'nothing differed'}"
        self.journal.emit(kind, text, pf=made.pf, vfid=made.vfid, name=made.name, **more)
        for warning in made.warnings:
            self.journal.emit(
                "warning", warning, level="warning", pf=made.pf, vfid=made.vfid, name=made.name
            )

    def delete(self, name: str, expected: Configured | None = None) -> Made | None:
        """Closes the VF and takes its file away: see ``deleting``."""
        return deleting.delete(self, name, expected)

    def mirror(self, pf_id: str, vfid: int, direction: str, target: int | None) -> Made:
        """Sets, changes or (``off``) ends the mirror of a VF to ``target``; its file follows."""
        managed = self.nic(pf_id)
        old = managed.vfs.get(vfid)
        if old is None:
            raise NotFoundError(f"VF {vfid} of {pf_id} has no configuration: it can't be mirrored")
        if direction != "off" and target is None:
            rule = "name the VF that is to get the copies"
            raise RefusedError([Problem("request", "target", "", rule)])
        mirrors = [m for m in old.policy.mirror if target is not None and m.target != target]
        if direction != "off" and target is not None:
            vlans = next((m.vlans for m in old.policy.mirror if m.target == target), ())
            mirrors.append(
                Mirror.model_validate(
                    {"target": target, "direction": direction, "vlans": list(vlans)}
                )
            )
        policy = old.policy.model_copy(update={"mirror": tuple(mirrors)})
        one = replace(old, policy=policy)
        try:
            staged = self.files.restage(
                one.file, "mirror", [m.model_dump(mode="json") for m in mirrors] or None
            )
        except ConfigError as error:
            raise RefusedError(error.problems) from None
        except OSError as error:
            raise not_stored(one.file, error) from error
        return self._put(one, staged, old)

    # Finding

    def nic(self, pf_id: str) -> Managed:
        found = self.home(pf_id)
        if found is None:
            raise NotFoundError(f"no PF {pf_id}: there is {', '.join(self.nics) or 'none'}")
        return found

    def find(self, name: str) -> tuple[Managed, Configured]:
        """The VF of this name, or of the file of this name."""
        found = self.by_name(name)
        if found is None:
            raise NotFoundError(f"no VF has the name {name}")
        return found

    def by_name(self, name: str) -> tuple[Managed, Configured] | None:
        file = self.files.file_of(name)
        of_file = (found for found in self.in_force() if found[1].file == file)
        return self.called(name) or next(of_file, None)

    def called(self, name: str) -> tuple[Managed, Configured] | None:
        """The VF of this name, whatever its file is called."""
        return next((found for found in self.in_force() if found[1].policy.name == name), None)

    def in_force(self) -> Iterator[tuple[Managed, Configured]]:
        """All VFs that have a configuration, each with its PF. Any thread may ask."""
        for managed in list(self.nics.values()):
            for one in managed.vfs.values():
                yield managed, one

    # Convergence

    def converge(
        self,
        managed: Managed,
        *,
        found: str | None = None,
        repair: bool = False,
        guests: bool = True,
    ) -> int:
        """Brings the NIC to what is aimed at (``repair``, ``guests``: see Managed). Tells what
        could not be done and, where something should not have differed (``found`` says how it was
        noticed), what was repaired. Returns the number of changes made."""
        if managed.nic is None or managed.aim is None:
            return 0
        known, unmet = managed.detail, managed.unmet
        aim, unfollowed = managed.aim, managed.unfollowed
        there = managed.seen.vfs.keys() if managed.seen else set()
        failed_before = managed.condition is Condition.FAILED and not managed.refused
        try:
            done, failed = managed.converge(repair=repair, guests=guests)
        except NicError as error:
            kind = "lost" if managed.condition is Condition.LOST else "failed"
            if str(error) != known:  # told once, not at every attempt
                self.journal.emit(kind, str(error), level="error", pf=managed.id)
            return 0
        finally:
            tell_of_speed(self, managed, aim, unfollowed)
        if managed.refused and managed.condition is Condition.OK:
            managed.condition, managed.detail = Condition.FAILED, managed.refused
        for change in done if found is not None else ():
            whose = self._whose(managed, change)
            more: dict[str, Any] | None = self.flood.fields(("drift", *whose.values()))
            if more is not None:
                text = f"{found}; repaired: {differences([change])}"
                self.journal.emit("drift", text, level="warning", **whose, **more)
        for change, reason in failed:
            if unmet.get(change.vfid if isinstance(change, VfChange) else None) == reason:
                continue  # told before
            self.journal.emit(
                "failed",
                f"not enforced as asked: {reason}",
                level="error",
                **self._whose(managed, change),
            )
        mended = failed_before and found is not None
        if managed.seen and (mended or managed.seen.vfs.keys() - there):
            admit_waiting(self, managed)
        return len(done)

    def _whose(self, managed: Managed, change: Change) -> Whose:
        vfid = change.vfid if isinstance(change, VfChange) else None
        return {"pf": managed.id, "vfid": vfid, "name": self.name_of(managed, vfid)}

    def name_of(self, managed: Managed, vfid: int | None) -> str | None:
        one = managed.vfs.get(vfid) if vfid is not None else None
        return one.policy.name if one else None


def _may_be_mended(managed: Managed) -> bool:
    return (
        managed.condition in (Condition.FAILED, Condition.DRIFTED)
        and managed.nic is not None
        and managed.aim is not None
        and not managed.refused
    )
