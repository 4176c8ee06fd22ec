"""What the daemon does: holds desired state, makes the NICs enforce it, answers guests.

One thread calls all of this, one call at a time: there are no locks, and what a call returns was
true when it returned. Requests apply wholly or not at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from vfd.config import store
from vfd.config.errors import ConfigError, Problem, shown
from vfd.config.main_file import MainConfig
from vfd.daemon.failures import (
    ExistsError,
    NotFoundError,
    RefusedError,
    StorageError,
    not_stored,
)
from vfd.daemon.files import BadFile, Files, Staged
from vfd.daemon.flood import Flood
from vfd.daemon.journal import Journal
from vfd.daemon.loading import load, still_kept, why_homeless
from vfd.daemon.managed import Condition, Configured, Managed, differences
from vfd.daemon.zero import Zero
from vfd.nic.protocol import NicError
from vfd.plan.changes import Change, VfChange
from vfd.policy.values import Mirror, PfPolicy

log = logging.getLogger("vfd.service")


@dataclass(frozen=True, slots=True)
class Source:
    """Which configuration a request means: a file in ``config_dir``, or the content itself."""

    file: str | None = None
    name: str | None = None
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A request that was done, or with ``changes`` only planned, what it would do."""

    name: str
    pf: str
    vfid: int
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]


class Whose(TypedDict):
    """Whom an event is about."""

    pf: str
    vfid: int | None
    name: str | None


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
        self.flood = Flood()
        self.started = time.time()

    # Start, reload, stop

    def start(self) -> list[Configured]:
        """Opens the NICs and brings them to what the files say. Returns the VFs that it opened.

        Raises InUseError where another daemon has one of them.
        """
        store.sweep(self.files.folder)
        for managed in self.nics.values():
            self._open(managed)
        return self.load()

    def _open(self, managed: Managed) -> None:
        known = managed.detail
        try:
            managed.open(self.holder)
        except NicError as error:
            if str(error) != known:  # told once, not at every attempt
                self.journal.emit("failed", str(error), level="error", pf=managed.id)

    def stop(self) -> None:
        """Lets go of the NICs. They go on enforcing."""
        for managed in self.nics.values():
            managed.close()

    def reload(self, main: MainConfig) -> list[Configured]:
        """Takes over a new main configuration and reads all VF files again."""
        self.main = main
        self.files.configure(main)
        wanted = {pf.id: pf for pf in main.nics}
        for gone in self.nics.keys() - wanted.keys():
            self.nics.pop(gone).close()
            self.journal.emit("released", "no longer configured: it keeps what it has", pf=gone)
        for pf in main.nics:
            managed = self.nics.setdefault(pf.id, Managed(pf, str(self.files.main_file)))
            if managed.nic is None:
                managed.pf = pf
                self._open(managed)
        return self.load(pfs=wanted)

    def retry(self) -> list[Configured]:
        """Tries again the NICs that could not be opened. Returns the VFs that this opened."""
        closed = [managed for managed in self.nics.values() if managed.nic is None]
        for managed in closed:
            self._open(managed)
        return self.load() if any(m.nic is not None for m in closed) else []

    def load(self, *, pfs: Mapping[str, PfPolicy] | None = None) -> list[Configured]:
        """Reads every VF file and makes the NICs follow. Returns the VFs that were opened."""
        return load(self, pfs=pfs)

    def home(self, device: str) -> Managed | None:
        """The PF that a VF file's ``pciid`` means."""
        exact = self.nics.get(device)
        return exact or next((m for m in self.nics.values() if m.is_called(device)), None)

    # Requests

    def add(self, source: Source, uid: int, gid: int) -> Made:
        """Puts a VF's configuration in force, and keeps it. Raises ExistsError where it is."""
        one, staged = self._read(source, uid, gid)
        return self._put(one, staged, None)

    def update(self, name: str, source: Source, uid: int, gid: int) -> Made:
        """Changes what differs. The VF stays on its PF. Raises NotFoundError."""
        managed, old = self.find(name)
        one, staged = self._read(source, uid, gid, replaces=old)
        if self.home(one.policy.pciid) is not managed:
            rule = f"an update leaves a VF on its PF, which is {managed.id}: delete it and add it"
            raise RefusedError([Problem(one.file, "pciid", shown(one.policy.pciid), rule)])
        return self._put(one, staged, old)

    def plan_of(self, source: Source, uid: int, gid: int) -> tuple[str, Made]:
        """What adding or updating would do: ("add", "update" or "none", the changes)."""
        old = self._replaced(source)
        one, staged = self._read(source, uid, gid, replaces=old)
        if staged is not None:
            staged.abandon()
        if old is None:
            found = self._by_name(one.policy.name)
            old = found[1] if found else None
        managed = self._home_or_refuse(one)
        assert managed.seen is not None
        aim = managed.aim_at(managed.pf, self._with(managed, one, old))
        changes = managed.changes(aim, managed.seen)
        action = "add" if old is None else "update" if changes else "none"
        warnings = aim.warnings.get(one.policy.vfid, ())
        return action, Made(one.policy.name, managed.id, one.policy.vfid, changes, warnings)

    def _replaced(self, source: Source) -> Configured | None:
        for name in (source.name, source.file):
            if name and (found := self._by_name(name)):
                return found[1]
        return None

    def _read(
        self, source: Source, uid: int, gid: int, replaces: Configured | None = None
    ) -> tuple[Configured, Staged | None]:
        """The configuration that a request means; content is written beside its place."""
        try:
            if source.config is not None:
                return self.files.stage(source.config, source.name, uid, gid, replaces)
            file = source.file or (replaces.file if replaces else None)
            if file is None:
                rule = "name a file in config_dir, or send a configuration"
                raise RefusedError([Problem("request", "file", "", rule)])
            return self.files.load(file), None
        except FileNotFoundError as error:
            raise NotFoundError(str(error)) from None
        except ConfigError as error:
            raise RefusedError(error.problems) from None
        except OSError as error:
            raise not_stored(self.files.folder, error) from error

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

    def _put(self, one: Configured, staged: Staged | None, old: Configured | None) -> Made:
        try:
            managed = self._home_or_refuse(one)
            if (found := self._by_name(one.policy.name)) and found[1] is not old:
                raise ExistsError(
                    f"{one.policy.name} is in force on VF {found[1].policy.vfid} of {found[0].id}:"
                    " update it, or delete it first"
                )
            kept = dict(managed.kept)
            managed.kept.pop(one.policy.vfid, None)
            before = managed.aim
            assert before is not None
            try:
                aim = managed.aim_at(managed.pf, self._with(managed, one, old))
                changes = managed.go(aim)
            except (RefusedError, NicError):
                managed.kept = kept
                raise
            if staged is not None:
                try:
                    staged.commit()
                except OSError as error:
                    managed.kept = kept
                    managed.go(before)
                    raise StorageError(
                        f"{one.file} can't be kept: {error}. It was undone"
                    ) from error
                staged = None
        finally:
            if staged is not None:
                staged.abandon()
        self._no_longer_bad(one.file)
        made = Made(
            one.policy.name,
            managed.id,
            one.policy.vfid,
            changes,
            aim.warnings.get(one.policy.vfid, ()),
        )
        self._tell(made, "added" if old is None else "updated")
        return made

    def _tell(self, made: Made, kind: str) -> None:
        fields = sorted({f for c in made.changes if isinstance(c, VfChange) for f in c.fields})
        text = f"VF {made.vfid} of {made.pf} is {kind}"
        if kind == "updated":
            text += f": {', '.join(fields) or 'nothing differed'}"
        self.journal.emit(kind, text, pf=made.pf, vfid=made.vfid, name=made.name)
        for warning in made.warnings:
            self.journal.emit(
                "warning", warning, level="warning", pf=made.pf, vfid=made.vfid, name=made.name
            )

    def delete(self, name: str) -> Made | None:
        """Closes the VF and takes its file away (or aside, with ``delete_keep``).

        The VF of a PF that is lost or fails closes when the PF is back. None: it was a file that is
        not in force. Raises NotFoundError.
        """
        found = self._by_name(name)
        if found is None:
            self._delete_bad(name)
            return None
        managed, one = found
        try:
            retired = self.files.retire(one.file)
        except OSError as error:
            raise StorageError(f"{one.file} can't be removed: {error}") from error
        rest = [other for other in managed.vfs.values() if other is not one]
        try:
            aim = managed.aim_at(managed.pf, rest)
            changes = managed.go_or_aim(aim)
        except (NicError, RefusedError):
            retired.restore()
            raise
        retired.finish()
        self._no_longer_bad(one.file)
        later = managed.condition in (Condition.LOST, Condition.FAILED)
        warnings = (f"{managed.id} isn't working: the VF closes once it is",) if later else ()
        made = Made(one.policy.name, managed.id, one.policy.vfid, changes, warnings)
        self._tell(made, "deleted")
        return made

    def _delete_bad(self, name: str) -> None:
        file = self.files.file_of(name)
        if file not in self.bad or file == str(self.files.main_file):
            file = next((bad.file for bad in self.bad.values() if bad.name == name), "")
        if not file:
            raise NotFoundError(f"no VF has the name {name}, and no bad file has it either")
        try:
            self.files.retire(file).finish()
        except OSError as error:
            raise StorageError(f"{file} can't be removed: {error}") from error
        self._no_longer_bad(file)
        self.journal.emit("deleted", f"{file}, which was not in force, is deleted", name=name)

    def _no_longer_bad(self, file: str) -> None:
        """VFs left open for this file's sake close, unless another bad file may be theirs."""
        if self.bad.pop(file, None) is None:
            return
        for managed in self.nics.values():
            if not managed.kept:
                continue
            kept = still_kept(self, managed, managed.vfs.values(), managed.kept)
            if kept != managed.kept:
                managed.kept = kept
                managed.go(managed.aim_at(managed.pf, managed.vfs))

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

    def set_vfs(self, pf_id: str, vfs: int, *, force: bool) -> tuple[Change, ...]:
        """Changes how many VFs there are, and keeps the number in the main configuration."""
        managed = self.nic(pf_id)
        managed.seen = managed.working().observe()  # who holds a VF may have changed unheard
        if not force and (problems := self._in_the_way(managed, vfs)):
            raise RefusedError(problems)
        pf = managed.pf.model_copy(update={"vfs": vfs})
        going = [one for one in managed.vfs.values() if one.policy.vfid >= vfs]
        staying = [one for one in managed.vfs.values() if one.policy.vfid < vfs]
        before = managed.aim
        aim = managed.aim_at(pf, staying)
        try:
            staged = self.files.restage_pf(managed.pf.id, {"vfs": vfs})
        except ConfigError as error:
            raise RefusedError(error.problems) from None
        except OSError as error:
            raise not_stored(self.files.main_file, error) from error
        try:
            changes = managed.go(aim, force=force)
            staged.commit()
        except OSError as error:
            if before is not None:
                managed.go(before, force=force)
            raise StorageError(f"{self.files.main_file} can't be kept: {error}") from error
        finally:
            staged.abandon()
        managed.kept = {vfid: rules for vfid, rules in managed.kept.items() if vfid < vfs}
        self.journal.emit("pf", f"{pf_id} has {vfs} VFs now", pf=managed.id, vfs=vfs)
        for one in going:
            rule = f"{managed.id} has {vfs} VFs now: in force again once it has more"
            problem = Problem(one.file, "vfid", str(one.policy.vfid), rule)
            self.bad[one.file] = BadFile(
                one.file, (problem,), managed.id, one.policy.vfid, one.policy.name
            )
        self._admit_waiting(managed)
        return changes

    def _admit_waiting(self, managed: Managed) -> None:
        """Files whose VF was missing come into force where it is there now."""
        assert managed.seen is not None
        for bad in tuple(self.bad.values()):
            if bad.device and self.home(bad.device) is managed and bad.vfid in managed.seen.vfs:
                try:
                    self._put(self.files.load(bad.file), None, None)
                except (ConfigError, RefusedError, ExistsError, NicError, OSError) as error:
                    log.info("%s stays out of force: %s", bad.file, error)

    def _in_the_way(self, managed: Managed, vfs: int) -> list[Problem]:
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

    def clear(self, pf_id: str, vfid: int | None) -> None:
        """A new zero for the counters that are shown; those behind it stay monotonic."""
        managed = self.nic(pf_id)
        counters = managed.working().counters()
        if vfid is not None and vfid not in counters:
            raise NotFoundError(f"{pf_id} has no VF {vfid}")
        self.zero.set(pf_id, counters if vfid is None else {vfid: counters[vfid]})
        whom = f"VF {vfid} of {pf_id}" if vfid is not None else f"{pf_id} and its VFs"
        self.journal.emit("cleared", f"counters of {whom} start at zero", pf=pf_id, vfid=vfid)

    # Finding

    def nic(self, pf_id: str) -> Managed:
        found = self.home(pf_id)
        if found is None:
            raise NotFoundError(f"no PF {pf_id}: there is {', '.join(self.nics) or 'none'}")
        return found

    def find(self, name: str) -> tuple[Managed, Configured]:
        """The VF of this name, or of the file of this name."""
        found = self._by_name(name)
        if found is None:
            raise NotFoundError(f"no VF has the name {name}")
        return found

    def _by_name(self, name: str) -> tuple[Managed, Configured] | None:
        file = self.files.file_of(name)
        by_file = None
        for managed in self.nics.values():
            for one in managed.vfs.values():
                if one.policy.name == name:
                    return managed, one
                if one.file == file:
                    by_file = managed, one
        return by_file

    # Convergence

    def converge(self, managed: Managed, *, found: str | None = None, repair: bool = False) -> int:
        """Brings the NIC to what is aimed at. Tells what could not be done and, where something
        should not have differed (``found`` says how it was noticed), what was repaired.

        Returns the number of changes made.
        """
        if managed.nic is None or managed.aim is None:
            return 0
        try:
            done, failed = managed.converge(repair=repair)
        except NicError as error:
            kind = "lost" if managed.condition is Condition.LOST else "failed"
            self.journal.emit(kind, str(error), level="error", pf=managed.id)
            return 0
        for change in done if found is not None else ():
            self.journal.emit(
                "drift",
                f"{found}; repaired: {differences([change])}",
                level="warning",
                **self._whose(managed, change),
            )
        for change, reason in failed:
            self.journal.emit(
                "failed",
                f"not enforced as asked: {reason}",
                level="error",
                **self._whose(managed, change),
            )
        return len(done)

    def _whose(self, managed: Managed, change: Change) -> Whose:
        vfid = change.vfid if isinstance(change, VfChange) else None
        return {"pf": managed.id, "vfid": vfid, "name": self.name_of(managed, vfid)}

    def name_of(self, managed: Managed, vfid: int | None) -> str | None:
        one = managed.vfs.get(vfid) if vfid is not None else None
        return one.policy.name if one else None
