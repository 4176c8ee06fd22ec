"""Desired state on disk: ``config_dir`` with one JSON file per VF, and the PFs of ``vfd.cfg``.

A change is made in two steps, so that NIC and disk agree whatever happens: the new content is
written and synced beside its place (where a full disk shows), then the NIC changes, then a rename
puts it in place. A daemon killed in between starts with the old file or the new one, never
with half of one.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfd.config import store
from vfd.config.edit import with_field
from vfd.config.errors import ConfigError, Problem, Readable
from vfd.config.json_text import parse_object
from vfd.config.main_file import MainConfig
from vfd.config.store import Retired, Staged
from vfd.config.vf_file import parse_vf, parse_vf_object
from vfd.daemon.aim import Configured
from vfd.daemon.callbacks import Owner
from vfd.daemon.failures import ExistsError
from vfd.policy.shown import printable

log = logging.getLogger("vfd.files")

_PCIID = re.compile(r'"pciid"\s*:\s*"([^"]+)"')
_VFID = re.compile(r'"vfid"\s*:\s*"?(\d{1,3})\b')


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that is not in force as it stands."""

    file: str
    problems: tuple[Problem, ...]
    device: str | None = None
    """The ``pciid`` and ``vfid`` that can be made out in it, if any."""
    vfid: int | None = None
    name: str | None = None
    """The VF's name, where the file as such is good."""
    readable: Readable | None = None
    on_disk: str = ""
    """Its name below ``config_dir`` where that isn't ``file``, which is made to be shown."""

    def __post_init__(self) -> None:
        """Whoever may write a file may call it and what is in it as he likes."""
        if not self.file.isprintable():
            object.__setattr__(self, "on_disk", self.on_disk or self.file)
            object.__setattr__(self, "file", printable(self.file))
        if self.device and not self.device.isprintable():
            object.__setattr__(self, "device", printable(self.device))


class Files:
    """The files of one daemon. File names are relative to ``config_dir``."""

    def __init__(self, main_file: Path, main: MainConfig) -> None:
        self.main_file = main_file
        self.configure(main)

    def configure(self, main: MainConfig) -> None:
        self.folder = Path(main.config_dir)
        self.delete_keep = main.delete_keep

    def sweep(self) -> None:
        """Takes away what a daemon left that was killed while it wrote."""
        store.sweep(self.folder)
        store.sweep_beside(self.main_file.resolve())

    # Reading

    def load_all(self) -> tuple[list[Configured], list[BadFile]]:
        """Every VF file, the oldest first, and those that can't be used, with the reasons.

        Raises OSError where ``config_dir`` itself can't be read.
        """
        good: list[tuple[int, str, Configured]] = []
        bad: list[BadFile] = []
        for path in self._listing(bad):
            file = str(path.relative_to(self.folder))
            text = b""
            try:
                if not file.isprintable():
                    rule = "a file's name is UTF-8 text without control characters: rename it"
                    raise ConfigError([Problem(file, "", "", rule)])
                stored = store.read(path, inside=self.folder)
                text = stored.text
                good.append((stored.mtime_ns, file, self._parsed(file, stored)))
            except ConfigError as error:
                if store.is_there(path, inside=self.folder):  # else deleted while we looked
                    identity = _identity(text)
                    bad.append(BadFile(file, error.problems, *identity, readable=error.readable))
            except FileNotFoundError:
                continue
            except Exception as error:
                # Whoever may write a file here must not be able to stop the daemon with it.
                log.exception("reading %s", path)
                rule = f"can't be read, by a fault of vfd's own: {type(error).__name__}"
                bad.append(BadFile(file, (Problem(file, "", "", rule),), *_identity(text)))
        return [one for _, _, one in sorted(good, key=lambda entry: entry[:2])], bad

    def _listing(self, bad: list[BadFile]) -> Iterator[Path]:
        def unreadable(error: OSError) -> None:
            if error.filename == str(self.folder):
                raise error
            folder = str(Path(error.filename).relative_to(self.folder))
            problem = Problem(folder, "", "", f"this folder can't be read: {error.strerror}")
            bad.append(BadFile(folder, (problem,)))

        for parent, folders, names in os.walk(self.folder, onerror=unreadable):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if name.endswith(".json") and not name.startswith("."):
                    yield Path(parent, name)

    def load(self, name: str) -> Configured:
        """The VF file of this name, with or without ``.json``.

        Raises FileNotFoundError, ConfigError, OSError.
        """
        file = self.file_of(name)
        path = self._path(file)
        if not store.is_there(path, inside=self.folder):
            raise FileNotFoundError(f"there is no file {path}")
        return self._parsed(file, store.read(path, inside=self.folder))

    def says(self, one: Configured) -> bool:
        """Whether the file, as it stands, is this configuration (whatever it calls the VF)."""
        try:
            policy = self.load(one.file).policy
            return policy.model_copy(update={"name": one.policy.name}) == one.policy
        except (ConfigError, OSError):
            return False

    def _parsed(self, file: str, stored: store.Stored) -> Configured:
        parsed = parse_vf(stored.text, file=file, name=file.removesuffix(".json"))
        return Configured(
            parsed.policy,
            file,
            Owner(stored.uid, stored.gid, stored.mode),
            tuple(_words(w) for w in parsed.warnings),
            parsed.written,
        )

    def file_of(self, name: str) -> str:
        """``vm1`` and ``vm1.json`` are ``vm1.json``; so is its absolute path."""
        file = name if name.endswith(".json") else f"{name}.json"
        return file.removeprefix(f"{self.folder}/")

    def _path(self, file: str) -> Path:
        """Raises ConfigError for a name that would lead out of ``config_dir``."""
        return store.path_of(self.folder, file.removesuffix(".json"))

    # Writing

    def stage(
        self,
        config: Mapping[str, Any],
        name: str | None,
        uid: int,
        gid: int,
        replaces: Configured | None,
    ) -> tuple[Configured, Staged]:
        """A configuration that was sent, written beside its place; whoever sent it owns it.

        Raises ConfigError, ExistsError where a file that isn't in force has its name, OSError.
        """
        called = replaces.file if replaces else f"{name or 'request'}.json"
        nameless = name is None and replaces is None and "name" not in config
        missing = [Problem(called, "name", "", "give the VF a name")] if nameless else []
        try:
            parsed = parse_vf_object(
                config, file=called, name=replaces.policy.name if replaces else name
            )
        except ConfigError as error:
            raise ConfigError([*error.problems, *missing], error.readable) from None
        if missing:
            nobody = parsed.policy.model_copy(update={"name": f"<{called}>"})
            raise ConfigError(missing, Readable(nobody, frozenset({"name"}), parsed.written))
        file = replaces.file if replaces else f"{parsed.policy.name}.json"
        path = self._path(file)
        owner = Owner(uid, gid)
        text = json.dumps(dict(config), indent=4, ensure_ascii=False) + "\n"
        staged = self._stage(file, text, uid, gid, 0o640)
        if replaces is None and staged.replaces():
            staged.abandon()
            raise ExistsError(
                f"{path} exists and is not in force: add it by its name, or delete it first"
            )
        remarks = tuple(_words(w) for w in parsed.warnings)
        return Configured(parsed.policy, file, owner, remarks, parsed.written), staged

    def restage(self, file: str, field: str, value: Any) -> Staged:
        """The file with ``field`` changed and all else as it is. Raises ConfigError, OSError."""
        stored = store.read(self.folder / file, inside=self.folder)
        text = with_field(stored.text.decode(errors="replace"), field, value, file=file)
        return self._stage(file, text, stored.uid, stored.gid, stored.mode)

    def _stage(self, file: str, text: str, uid: int, gid: int, mode: int) -> store.Staged:
        """Its age is its rank: of conflicting files the older is in force."""
        return store.stage(self.folder, Path(file), text, uid, gid, mode, keep_age=True)

    def restage_pf(self, pf_id: str, fields: Mapping[str, Any] | None) -> Staged:
        """The main configuration with ``fields`` of one PF changed; None: without that PF."""
        stored = store.read(self.main_file.resolve())
        raw, _ = parse_object(stored.text, file=str(self.main_file))
        entries = raw.get("pciids", [])
        for number, entry in enumerate(entries):
            pf = {"id": entry} if isinstance(entry, str) else entry
            if pf.get("id") == pf_id:
                entries[number : number + 1] = [] if fields is None else [{**pf, **fields}]
                text = stored.text.decode(errors="replace")
                text = with_field(text, "pciids", entries, file=str(self.main_file))
                where, file = stored.path.parent, Path(stored.path.name)
                return store.stage(where, file, text, stored.uid, stored.gid, stored.mode)
        rule = f"{pf_id} is no longer listed: send SIGHUP first"
        raise ConfigError([Problem(str(self.main_file), "pciids", "", rule)])

    def retire(self, file: str) -> Retired:
        """Takes a file out of its place: with ``delete_keep`` under its name and a ``-``."""
        return store.retire(self.folder, Path(file), keep=self.delete_keep)


def _words(warning: Problem) -> str:
    return f"{warning.field}: {warning.rule}" if warning.field else warning.rule


def _identity(text: bytes) -> tuple[str | None, int | None]:
    """Which VF a damaged file is for, as far as it can be made out."""
    decoded = text.decode(errors="replace")
    pciid, vfid = _PCIID.search(decoded), _VFID.search(decoded)
    return (pciid[1] if pciid else None), (int(vfid[1]) if vfid else None)
