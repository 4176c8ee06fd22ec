"""Desired state on disk: ``config_dir`` with one JSON file per VF, and the PFs of ``vfd.cfg``.

A change is made in two steps, so that NIC and disk agree whatever happens: the new content is
written and synced beside its place (where a full disk shows), then the NIC changes, then a rename
puts it in place. A daemon killed in between starts with the old file or the new one, never
with half of one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfd.config import store
from vfd.config.edit import with_field
from vfd.config.errors import ConfigError, Problem
from vfd.config.json_text import parse_object
from vfd.config.main_file import MainConfig
from vfd.config.vf_file import parse_vf, parse_vf_object
from vfd.daemon.callbacks import Owner
from vfd.daemon.failures import ExistsError
from vfd.daemon.managed import Configured

log = logging.getLogger("vfd.files")

_UNFINISHED = ".vfd-tmp"
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


@dataclass(slots=True)
class Staged:
    """New content of a file, safe on disk but not yet in its place. Ends by one of its methods."""

    root: Path
    file: Path
    """Below ``root``."""
    fresh: str
    folder: int
    """A descriptor: what is done through it can't be led elsewhere by a link."""

    def commit(self) -> None:
        """Raises OSError, and then the old content is still in place."""
        os.rename(self.fresh, self.file.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        os.fsync(self.folder)
        self._close()

    def abandon(self) -> None:
        """Does nothing once committed."""
        if self.folder >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.fresh, dir_fd=self.folder)
            self._close()
            _remove_empty(self.root, self.file.parent)

    def _close(self) -> None:
        os.close(self.folder)
        self.folder = -1


@dataclass(slots=True)
class Retired:
    """A file out of its place, from where it can come back. Ends by one of its methods."""

    root: Path
    file: Path
    aside: str
    keep: bool
    folder: int
    """A descriptor, or -1: somebody had removed the file already."""

    def restore(self) -> None:
        if self.folder >= 0:
            os.rename(self.aside, self.file.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
            os.close(self.folder)

    def finish(self) -> None:
        if self.folder >= 0:
            if not self.keep:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.aside, dir_fd=self.folder)
            os.fsync(self.folder)
            os.close(self.folder)
        _remove_empty(self.root, self.file.parent)


class Files:
    """The files of one daemon. File names are relative to ``config_dir``."""

    def __init__(self, main_file: Path, main: MainConfig) -> None:
        self.main_file = main_file
        self.configure(main)

    def configure(self, main: MainConfig) -> None:
        self.folder = Path(main.config_dir)
        self.delete_keep = main.delete_keep

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
                stored = store.read(path, inside=self.folder)
                text = stored.text
                mtime = path.stat().st_mtime_ns
                good.append((mtime, file, self._parsed(file, stored)))
            except ConfigError as error:
                if os.path.lexists(path):  # else deleted while we looked
                    bad.append(BadFile(file, error.problems, *_identity(text)))
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
                if name.startswith("."):
                    if name.endswith(_UNFINISHED):
                        Path(parent, name).unlink(missing_ok=True)
                elif name.endswith(".json"):
                    yield Path(parent, name)

    def load(self, name: str) -> Configured:
        """The VF file of this name, with or without ``.json``.

        Raises FileNotFoundError, ConfigError, OSError.
        """
        file = self.file_of(name)
        path = self._path(file)
        if not os.path.lexists(path):
            raise FileNotFoundError(f"there is no file {path}")
        return self._parsed(file, store.read(path, inside=self.folder))

    def _parsed(self, file: str, stored: store.Stored) -> Configured:
        parsed = parse_vf(stored.text, file=file, name=file.removesuffix(".json"))
        return Configured(
            parsed.policy,
            file,
            Owner(stored.uid, stored.gid, stored.mode),
            tuple(_words(w) for w in parsed.warnings),
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
        parsed = parse_vf_object(
            config, file=called, name=replaces.policy.name if replaces else name
        )
        if name is None and replaces is None and "name" not in config:
            raise ConfigError([Problem(called, "name", "", "give the VF a name")])
        file = replaces.file if replaces else f"{parsed.policy.name}.json"
        path = self._path(file)
        if replaces is None and path.exists():
            raise ExistsError(
                f"{path} exists and is not in force: add it by its name, or delete it first"
            )
        owner = Owner(uid, gid)
        text = json.dumps(dict(config), indent=4, ensure_ascii=False) + "\n"
        staged = _stage(self.folder, Path(file), text, uid, gid, 0o640)
        remarks = tuple(_words(w) for w in parsed.warnings)
        return Configured(parsed.policy, file, owner, remarks), staged

    def restage(self, file: str, field: str, value: Any) -> Staged:
        """The file with ``field`` changed and all else as it is. Raises ConfigError, OSError."""
        stored = store.read(self.folder / file, inside=self.folder)
        text = with_field(stored.text.decode(errors="replace"), field, value, file=file)
        return _stage(self.folder, Path(file), text, stored.uid, stored.gid, stored.mode)

    def restage_pf(self, pf_id: str, fields: Mapping[str, Any]) -> Staged:
        """The main configuration with ``fields`` of one PF changed."""
        stored = store.read(self.main_file.resolve())
        raw, _ = parse_object(stored.text, file=str(self.main_file))
        entries = raw.get("pciids", [])
        for number, entry in enumerate(entries):
            pf = {"id": entry} if isinstance(entry, str) else entry
            if pf.get("id") == pf_id:
                entries[number] = {**pf, **fields}
                text = stored.text.decode(errors="replace")
                text = with_field(text, "pciids", entries, file=str(self.main_file))
                where, file = stored.path.parent, Path(stored.path.name)
                return _stage(where, file, text, stored.uid, stored.gid, stored.mode)
        rule = f"{pf_id} is no longer listed: send SIGHUP first"
        raise ConfigError([Problem(str(self.main_file), "pciids", "", rule)])

    def retire(self, file: str) -> Retired:
        """Takes a file out of its place: with ``delete_keep`` under its name and a ``-``."""
        where = Path(file)
        if self.delete_keep:
            aside = where.name + store.KEPT
        else:
            aside = f".{where.name[:200]}.{secrets.token_hex(4)}{_UNFINISHED}"
        folder = -1
        try:
            folder = _open_folder(self.folder, where.parent)
            os.rename(where.name, aside, src_dir_fd=folder, dst_dir_fd=folder)
        except FileNotFoundError:  # somebody removed it by hand: the VF goes all the same
            if folder >= 0:
                os.close(folder)
                folder = -1
        except OSError:
            if folder >= 0:
                os.close(folder)
            raise
        return Retired(self.folder, where, aside, self.delete_keep, folder)


def _words(warning: Problem) -> str:
    return f"{warning.field}: {warning.rule}" if warning.field else warning.rule


def _stage(root: Path, file: Path, text: str, uid: int, gid: int, mode: int) -> Staged:
    """Raises ConfigError where a link would lead out of ``root``, OSError with nothing left."""
    fresh = f".{file.name[:200]}.{secrets.token_hex(4)}{_UNFINISHED}"
    try:
        folder = _open_folder(root, file.parent, make=True)
    except OSError as error:
        _remove_empty(root, file.parent)
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        rule = f"its folder is a link, or no folder: a VF's file is really below {root}"
        raise ConfigError([Problem(str(root / file), "", "", rule)]) from None
    staged = Staged(root, file, fresh, folder)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(fresh, flags, 0o600, dir_fd=folder)
        with open(fd, "w", encoding="utf-8") as written:
            written.write(text)
            written.flush()
            if (uid, gid) != (os.geteuid(), os.getegid()):
                os.fchown(fd, uid, gid)
            os.fchmod(fd, stat.S_IMODE(mode))
            os.fsync(fd)
    except OSError:
        staged.abandon()
        raise
    return staged


def _open_folder(root: Path, below: Path, *, make: bool = False) -> int:
    """A descriptor of a folder below ``root``, found without following any link on the way.

    Others may own folders there, and put links where folders were. Raises OSError.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if make:
        root.mkdir(parents=True, exist_ok=True)
    folder = os.open(root, flags)
    for part in below.parts:
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=folder)
            inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _remove_empty(root: Path, below: Path) -> None:
    """Removes a folder below ``root``, and those above it, as far as they are empty."""
    for folder in (below, *below.parents):
        if not folder.parts:
            return
        try:
            above = _open_folder(root, folder.parent)
        except FileNotFoundError:
            continue
        except OSError:
            return
        try:
            os.rmdir(folder.name, dir_fd=above)
        except FileNotFoundError:
            continue
        except OSError:
            return  # something else is in it
        finally:
            os.close(above)


def _identity(text: bytes) -> tuple[str | None, int | None]:
    """Which VF a damaged file is for, as far as it can be made out."""
    decoded = text.decode(errors="replace")
    pciid, vfid = _PCIID.search(decoded), _VFID.search(decoded)
    return (pciid[1] if pciid else None), (int(vfid[1]) if vfid else None)
