"""The files of ``config_dir``: read, listed, written so that they are whole or not there.

A VF called NAME has the file NAME.json; a ``/`` in the name is a folder. Files that begin with a
dot are being written, and ``NAME.json-`` is a deleted VF's file that was kept: both are passed
over. No link leads out of ``config_dir``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfd.config.edit import with_field
from vfd.config.errors import ConfigError, Problem
from vfd.config.vf_file import ANY_NIC, ParsedVf, parse_vf
from vfd.policy.names import checked_name
from vfd.policy.rules import Room

MAX_FILE = 1 << 20
"""Bytes of a configuration file; a larger one is something else."""
FILE_MODE = 0o644
KEPT = "-"
"""What ``delete_keep`` puts behind a file's name, as VFd did."""


_TEMPORARY = re.compile(r"\..+\.(?:[0-9a-f]{16}|[0-9a-f]{8}\.vfd-tmp)")


class StoreError(Exception):
    """A file could not be written, renamed or deleted; what was there is still there."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A file as it was when it was read."""

    path: Path
    text: bytes
    uid: int
    gid: int
    mode: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class StoredVf:
    """A VF's file that is good by itself."""

    path: Path
    uid: int
    """The file's owner, as whom its callbacks run."""
    gid: int
    parsed: ParsedVf


def path_of(config_dir: Path, name: str) -> Path:
    """The file of the VF called ``name``. Raises ConfigError for a name that is none."""
    try:
        return config_dir / f"{checked_name(name)}.json"
    except ValueError as error:
        raise ConfigError([Problem(str(config_dir), "name", name, str(error))]) from None


def name_of(config_dir: Path, path: Path) -> str:
    """What the VF of a file is called if the file itself doesn't say."""
    return str(path.relative_to(config_dir)).removesuffix(".json")


def read(path: Path, *, inside: Path | None = None) -> Stored:
    """A file's content and owner, both of the same instant.

    ``inside``: the folder that the file must really be in, wherever links point. Raises
    ConfigError for what is missing, unreadable, too large, no regular file, or elsewhere.
    """
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to would wait forever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    except ValueError as error:  # a NUL in the path
        raise _unreadable(path, str(error)) from None
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise _unreadable(path, "not a regular file")
        if inside is not None and not _really_inside(fd, inside):
            raise _unreadable(path, f"a link that leads out of {inside}")
        if about.st_size > MAX_FILE:
            raise _unreadable(path, f"{about.st_size} bytes: a configuration has at most 1 MiB")
        text = b""
        while len(text) < MAX_FILE and (piece := os.read(fd, about.st_size + 1)):
            text += piece
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    finally:
        os.close(fd)
    mode = stat.S_IMODE(about.st_mode)
    return Stored(path, text, about.st_uid, about.st_gid, mode, about.st_mtime_ns)


def read_vf(path: Path, *, config_dir: Path, limits: Room = ANY_NIC) -> StoredVf:
    """A VF's file below ``config_dir``. Raises ConfigError with everything wrong with it."""
    stored = read(path, inside=config_dir)
    name = name_of(config_dir, path)
    parsed = parse_vf(stored.text, file=str(path), name=name, limits=limits)
    return StoredVf(path, stored.uid, stored.gid, parsed)


def read_all(
    config_dir: Path, *, limits: Room = ANY_NIC
) -> tuple[tuple[StoredVf, ...], tuple[Problem, ...]]:
    """Every good VF file below ``config_dir``, by path, and what is wrong with the others.

    Raises ConfigError where the folder itself can't be read.
    """
    good, problems = [], []
    for found in _walk(config_dir):
        if isinstance(found, Problem):
            problems.append(found)
            continue
        try:
            good.append(read_vf(found, config_dir=config_dir, limits=limits))
        except ConfigError as error:
            problems += error.problems
    return tuple(good), tuple(problems)


def _walk(folder: Path) -> Iterator[Path | Problem]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error.strerror or str(error)) from None
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            try:
                yield from _walk(path)
            except ConfigError as error:
                yield from error.problems
        elif entry.name.endswith(".json"):
            yield path
        elif entry.is_symlink() and entry.is_dir():
            yield Problem(str(path), "", "", "a link to a folder is not followed")


def write(
    path: Path,
    text: str | bytes,
    *,
    inside: Path | None = None,
    uid: int | None = None,
    gid: int | None = None,
    mode: int | None = None,
) -> None:
    """Puts a file there whole, durably, or leaves what was there.

    Folders on the way are made. What is not given of owner and mode stays as the file has it; a
    new file is the caller's, with mode 0644. Raises StoreError with nothing left behind.
    """
    made = _make_folders(path.parent)
    try:
        with _folder(path, inside) as folder:
            _replace(
                folder, path, text if isinstance(text, bytes) else text.encode(), uid, gid, mode
            )
    except BaseException:
        for folder_made in reversed(made):
            with contextlib.suppress(OSError):
                folder_made.rmdir()
        raise


def edit_field(path: Path, field: str, value: Any, *, inside: Path | None = None) -> None:
    """Sets one field of a file, or takes it out if ``value`` is None; all else stays as it is.

    Raises ConfigError where the file can't be read, StoreError where it can't be written.
    """
    stored = read(path, inside=inside)
    text = with_field(_decoded(stored), field, value, file=str(path))
    write(path, text, inside=inside)


def delete(path: Path, *, inside: Path | None = None, keep: bool = False) -> None:
    """Takes a file away, durably; with ``keep`` it stays under its name with a ``-`` behind.

    Folders between ``inside`` and the file that are empty then go, too. Raises StoreError; a file
    that is not there is no error.
    """
    if not path.parent.is_dir():
        return
    with _folder(path, inside) as folder:
        try:
            if keep:
                os.rename(path.name, path.name + KEPT, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                os.unlink(path.name, dir_fd=folder)
            os.fsync(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed("delete", path, error) from None
    if inside is not None and not keep:
        _remove_empty(path.parent, inside)


def sweep(config_dir: Path) -> None:
    """Takes away what writers left that were killed while they wrote; for the daemon's start."""
    for folder, _, names in os.walk(config_dir):
        for name in names:
            if _TEMPORARY.fullmatch(name):
                with contextlib.suppress(OSError):
                    Path(folder, name).unlink()


def _remove_empty(folder: Path, up_to: Path) -> None:
    while folder != up_to and up_to in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


@contextlib.contextmanager
def _folder(path: Path, inside: Path | None) -> Iterator[int]:
    """A descriptor of the file's folder: what is done through it can't be led astray."""
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _failed("open the folder of", path, error) from None
    try:
        if inside is not None and not _really_inside(fd, inside, itself=True):
            raise StoreError(f"{path}: its folder is a link that leads out of {inside}")
        yield fd
    finally:
        os.close(fd)


def _replace(
    folder: int, path: Path, text: bytes, uid: int | None, gid: int | None, mode: int | None
) -> None:
    temporary = f".{path.name[:100]}.{secrets.token_hex(8)}"
    try:
        before = os.lstat(path.name, dir_fd=folder)
    except OSError:
        before = None
    if before is not None and stat.S_ISREG(before.st_mode):
        uid = before.st_uid if uid is None else uid
        gid = before.st_gid if gid is None else gid
        mode = stat.S_IMODE(before.st_mode) if mode is None else mode
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            with open(fd, "wb") as file:
                file.write(text)
                file.flush()
                _own(fd, uid, gid)
                os.fchmod(fd, FILE_MODE if mode is None else mode)
                os.fsync(fd)
            os.rename(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
    except OSError as error:
        raise _failed("write", path, error) from None
    try:
        os.fsync(folder)
    except OSError as error:
        raise StoreError(f"{path} is written, but may not last: {error.strerror}") from None


def _own(fd: int, uid: int | None, gid: int | None) -> None:
    now = os.fstat(fd)
    uid = now.st_uid if uid is None else uid
    gid = now.st_gid if gid is None else gid
    if (uid, gid) != (now.st_uid, now.st_gid):
        os.fchown(fd, uid, gid)


def _make_folders(folder: Path) -> list[Path]:
    """Makes a folder and those above it, durably; returns the new ones, from the top."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    made: list[Path] = []
    for new in reversed(missing):
        try:
            new.mkdir(mode=0o755, exist_ok=True)
            made.append(new)
            fd = os.open(new.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            for undo in reversed(made):
                with contextlib.suppress(OSError):
                    undo.rmdir()
            raise _failed("make the folder", new, error) from None
    return made


def _really_inside(fd: int, folder: Path, *, itself: bool = False) -> bool:
    """Whether an open file is below ``folder``, asked of the kernel, so that no race can lie."""
    real, root = os.readlink(f"/proc/self/fd/{fd}"), os.path.realpath(folder)  # noqa: PTH115
    return real.startswith(root.rstrip("/") + "/") or (itself and real == root)


def _decoded(stored: Stored) -> str:
    try:
        return stored.text.decode()
    except UnicodeDecodeError:
        raise _unreadable(stored.path, "not UTF-8 text") from None


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError([Problem(str(path), "", "", f"can't be read: {why}")])


def _failed(what: str, path: Path, error: OSError) -> StoreError:
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "; make room and try again"
    elif error.errno == errno.EROFS:
        hint = "; config_dir must be writable"
    return StoreError(f"can't {what} {path}: {error.strerror or error}{hint}; nothing was changed")
