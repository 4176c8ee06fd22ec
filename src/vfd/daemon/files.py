"""Desired state on disk: ``config_dir`` with one JSON file per VF, and the PFs of ``vfd.cfg``.

A change is made in two steps, so that NIC and disk agree whatever happens: the new content is
written and synced beside its place (where a full disk shows), then the NIC changes, then a rename
puts it in place. A daemon killed in between starts with the old file or the new one, never
with half of one.
"""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakSet

from vfd.config import store
from vfd.config.beneath import Identity
from vfd.config.edit import with_field
from vfd.config.errors import ConfigError, Problem, Readable
from vfd.config.json_text import parse_object
from vfd.config.main_file import MainConfig
from vfd.config.store import Renaming, Retired, Staged
from vfd.config.vf_file import parse_vf_object
from vfd.daemon.aim import Configured
from vfd.daemon.callbacks import Owner
from vfd.daemon.failures import ExistsError
from vfd.daemon.memory import Memory
from vfd.daemon.reading import BadFile, Reading, parsed, read_all, reread, words
from vfd.policy.values import VfPolicy

__all__ = ["BadFile", "Files"]


class Files:
    """The files of one daemon. File names are relative to ``config_dir``."""

    def __init__(self, main_file: Path, main: MainConfig, memory: Path | None = None) -> None:
        """``memory``: where it is kept which files were in force."""
        self.main_file = main_file
        self.memory = Memory(memory)
        self._guard = threading.Lock()
        self._unused: WeakSet[Reading] = WeakSet()
        """Readings that are not used yet."""
        self._same: dict[str, tuple[tuple[int, ...], VfPolicy]] = {}
        """Files as they were when they said what is in force."""
        self.made: dict[Path, Identity] = {Path(f): i for f, i in self.memory.kept.made.items()}
        """Folders that were made here: empty, they go again."""
        self.configure(main)

    def configure(self, main: MainConfig) -> None:
        self.folder = Path(main.config_dir)
        self.delete_keep = main.delete_keep

    def sweep(self) -> None:
        """Takes away what a daemon left that was killed while it wrote."""
        store.sweep(self.folder)
        store.sweep_beside(self.main_file.resolve())

    # Reading

    def read_all(self, folder: Path | None = None) -> Reading:
        """Reads every VF file of ``config_dir``, or of the folder that is to become it. Any thread
        may: what is changed meanwhile is read once more when the reading is used."""
        reading = Reading(folder or self.folder)
        with self._guard:
            self._unused.add(reading)
        read_all(reading)
        return reading

    def used(self, reading: Reading) -> Reading:
        """The reading with what was changed since it began."""
        with self._guard:
            self._unused.discard(reading)
            changed = set(reading.changed)
        for file in changed:
            reread(reading, file)
        return reading

    def _changes(self, file: str) -> None:
        """To be said before a file is written or taken away."""
        with self._guard:
            for reading in self._unused:
                reading.changed.add(file)

    def load(self, name: str) -> Configured:
        """The VF file of this name, with or without ``.json``.

        Raises FileNotFoundError, ConfigError, OSError.
        """
        file = self.file_of(name)
        path = self._path(file)
        if not store.is_there(path, inside=self.folder):
            # of a VF that is called like a file, x.json
            longer = path.with_name(f"{path.name}.json")
            if store.is_there(longer, inside=self.folder):
                file, path = f"{file}.json", longer
        if not store.is_there(path, inside=self.folder):
            raise FileNotFoundError(f"there is no file {path}")
        return parsed(file, store.read(path, inside=self.folder))

    def take(self, name: str) -> tuple[Configured, Renaming | None]:
        """The same for a file that is to be added: one that was refused before is taken, too, where
        there is no other, and is to be renamed once it is in force."""
        file = self.file_of(name)
        refused = f"{file}{store.REFUSED}"
        if self.has(file) or not self.has(refused):
            return self.load(file), None
        path = self._path(file).with_name(Path(refused).name)
        one = parsed(file, store.read(path, inside=self.folder))
        self._changes(file)
        return one, Renaming(self.folder, Path(refused), Path(file).name)

    def refuse(self, file: str) -> None:
        """Renames a file that was refused, so that no later start reads it. Raises OSError."""
        self._changes(file)
        aside = f"{Path(file).name}{store.REFUSED}"
        Renaming(self.folder, Path(file), aside).commit()

    def has(self, file: str) -> bool:
        """Raises ConfigError for a name that would lead out of ``config_dir``."""
        path = self._path(file.removesuffix(store.REFUSED))
        return store.is_there(path.with_name(Path(file).name), inside=self.folder)

    def is_file(self, file: str) -> bool:
        """Whether it is a file or a link, and no folder."""
        try:
            return not stat.S_ISDIR((self.folder / file).lstat().st_mode)
        except OSError:
            return False

    def says(self, one: Configured) -> bool:
        """Whether the file, as it stands, is this configuration (whatever it calls the VF)."""
        try:
            policy = self.load(one.file).policy
            return policy.model_copy(update={"name": one.policy.name}) == one.policy
        except (ConfigError, OSError):
            return False

    def edited(self, in_force: Iterable[Configured]) -> dict[str, str]:
        """Which files of these, all in force, say something else by now, with what is the matter,
        in words. Any thread may ask: it may wait for a slow file system."""
        found: dict[str, str] = {}
        same: dict[str, tuple[tuple[int, ...], VfPolicy]] = {}
        for one in in_force:
            try:
                about = (self.folder / one.file).lstat()
            except FileNotFoundError:
                found[one.file] = f"its file {one.file} is gone: a reload says what becomes of it"
                continue
            except OSError:
                continue
            stamp = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
            if (known := self._same.get(one.file)) == (stamp, one.policy):
                same[one.file] = known
            elif self.says(one):
                if stat.S_ISREG(about.st_mode):  # a link stays the same when its target changes
                    same[one.file] = (stamp, one.policy)
            else:
                found[one.file] = (
                    f"edited, not in force: {one.file} says something else by now; `iplex plan"
                    f" {one.policy.name}` shows what, a reload or `iplex update` puts it in force"
                )
        self._same = same
        return found

    def file_of(self, name: str) -> str:
        """``vm1``, ``vm1.json`` and ``vm1.json.error`` are ``vm1.json``; so are absolute paths."""
        name = name.removesuffix(store.REFUSED) if name.endswith(f".json{store.REFUSED}") else name
        file = name if name.endswith(".json") else f"{name}.json"
        return file.removeprefix(f"{self.folder}/")

    def _path(self, file: str) -> Path:
        """Raises ConfigError for a name that would lead out of ``config_dir``."""
        return store.path_of(self.folder, file.removesuffix(".json"))

    # Writing

    def sent(
        self,
        config: Mapping[str, Any],
        name: str | None,
        uid: int,
        gid: int,
        replaces: Configured | None,
    ) -> Configured:
        """A configuration that was sent, as it is to be kept; whoever sent it owns it. Raises
        ConfigError."""
        called = replaces.file if replaces else f"{name or 'request'}.json"
        nameless = name is None and replaces is None and "name" not in config
        missing = [Problem(called, "name", "", "give the VF a name")] if nameless else []
        try:
            made = parse_vf_object(
                config, file=called, name=replaces.policy.name if replaces else name
            )
        except ConfigError as error:
            raise ConfigError([*error.problems, *missing], error.readable) from None
        if missing:
            nobody = made.policy.model_copy(update={"name": f"<{called}>"})
            raise ConfigError(missing, Readable(nobody, frozenset({"name"}), made.written))
        file = replaces.file if replaces else f"{made.policy.name}.json"
        self._path(file)
        remarks = tuple(words(w) for w in made.warnings)
        return Configured(made.policy, file, Owner(uid, gid), remarks, made.written)

    def stage(self, one: Configured, config: Mapping[str, Any], *, fresh: bool) -> Staged:
        """A configuration that was ``sent``, written beside its place.

        Raises ConfigError, OSError; and ExistsError where a file has the name of a ``fresh`` one.
        """
        text = json.dumps(dict(config), indent=4, ensure_ascii=False) + "\n"
        staged = self._stage(one.file, text, one.owner.uid, one.owner.gid, 0o640)
        if fresh and staged.replaces():
            staged.abandon()
            raise self._exists(one.file)
        return staged

    def foresee(self, one: Configured, *, fresh: bool) -> None:
        """Raises what ``stage`` would raise, but for a disk that is full: writes nothing."""
        self.folder.stat()
        if fresh and store.is_there(self._path(one.file), inside=self.folder):
            raise self._exists(one.file)

    def _exists(self, file: str) -> ExistsError:
        return ExistsError(
            f"{self._path(file)} exists and is not in force: add it by its name, or delete it first"
        )

    def restage(self, file: str, field: str, value: Any) -> Staged:
        """The file with ``field`` changed and all else as it is. Raises ConfigError, OSError."""
        stored = store.read(self.folder / file, inside=self.folder)
        text = with_field(stored.text.decode(errors="replace"), field, value, file=file)
        return self._stage(file, text, stored.uid, stored.gid, stored.mode)

    def _stage(self, file: str, text: str, uid: int, gid: int, mode: int) -> store.Staged:
        """Its age is its rank: of conflicting files the older is in force."""
        self._changes(file)
        staged = store.stage(self.folder, Path(file), text, uid, gid, mode, keep_age=True)
        self.made |= staged.made
        return staged

    def restage_pf(self, pf_id: str, fields: Mapping[str, Any] | None) -> tuple[Staged, Staged]:
        """The main configuration with ``fields`` of one PF changed (None: without that PF), and as
        it is now, to lead back there. Raises ConfigError, OSError."""
        stored = store.read(self.main_file.resolve())
        raw, _ = parse_object(stored.text, file=str(self.main_file))
        entries = raw.get("pciids", [])
        for number, entry in enumerate(entries):
            pf = {"id": entry} if isinstance(entry, str) else entry
            if pf.get("id") == pf_id:
                entries[number : number + 1] = [] if fields is None else [{**pf, **fields}]
                old = stored.text.decode(errors="replace")
                new = with_field(old, "pciids", entries, file=str(self.main_file))
                there = self._restaged(stored, new)
                try:
                    return there, self._restaged(stored, old)
                except BaseException:
                    there.abandon()
                    raise
        rule = f"{pf_id} is no longer listed: send SIGHUP first"
        raise ConfigError([Problem(str(self.main_file), "pciids", "", rule)])

    def _restaged(self, stored: store.Stored, text: str) -> Staged:
        where, file = stored.path.parent, Path(stored.path.name)
        return store.stage(where, file, text, stored.uid, stored.gid, stored.mode)

    def retire(self, file: str) -> Retired:
        """Takes a file out of its place: with ``delete_keep`` under its name and a ``-``."""
        self._changes(file)
        return store.retire(self.folder, Path(file), keep=self.delete_keep, made=self.made)
