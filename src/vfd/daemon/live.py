"""VFd's folder of the files that were in force: ``config_dir`` + ``_live``.

VFd moved a file there when it was added, so a host that goes over to vfd has all its tenants in it.
At a start they are taken over into ``config_dir``, one rename each: a daemon that is killed in
between leaves each file in one of the two folders, or in both with the same content, and the next
start goes on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vfd.config import store
from vfd.config.beneath import Identity, open_folder, unlink
from vfd.config.errors import ConfigError
from vfd.config.tree import File, Folder, walk

_SUFFIXES = (".json", f".json{store.KEPT}")


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one file, or of the folder."""

    file: str
    text: str
    is_bad: bool = False


def folder_of(config_dir: Path) -> Path:
    return config_dir.with_name(f"{config_dir.name}_live")


def waiting(config_dir: Path) -> list[Path]:
    """The files that a start takes over."""
    live = folder_of(config_dir)
    if _distrusted(live) != "":
        return []
    return [found.path for found in walk(live, _SUFFIXES) if isinstance(found, File)]


def take_over(config_dir: Path) -> Iterator[Report]:
    """Moves VFd's files into ``config_dir``. What can't be moved stays, and is told."""
    live = folder_of(config_dir)
    why = _distrusted(live)
    if why is None:
        return
    if why:
        yield Report(str(live), f"{live} is not taken over: {why}", is_bad=True)
        return
    folders: list[Path] = []
    try:
        for found in [*walk(live, _SUFFIXES)]:
            if isinstance(found, Folder):
                folders.append(found.path)
            elif isinstance(found, File):
                yield _moved(live, config_dir, found)
            elif found.why:
                yield Report(str(found.path), f"{live / found.path}: {found.why}", is_bad=True)
    except OSError as error:
        yield Report(str(live), f"{live} can't be read: {error.strerror}", is_bad=True)
    _remove_empty(live, folders)


def _distrusted(live: Path) -> str | None:
    """Why a folder isn't VFd's; '' where it is; None where there is none.

    VFd made it as root. Whoever else may write there must not have files put in force by a restart.
    """
    try:
        about = live.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(about.st_mode):
        return "it is no folder"
    if about.st_uid not in (0, os.geteuid()):
        return f"it is uid {about.st_uid}'s, and VFd's was root's; chown it if its files are right"
    if about.st_mode & 0o022:
        return "others than its owner may write there; chmod go-w it if its files are right"
    return ""


def _moved(live: Path, config_dir: Path, found: File) -> Report:
    file = str(found.path)
    where, place = live / found.path, config_dir / found.path
    try:
        if not found.may_be_read or where.is_symlink():
            return Report(file, f"{where} is no regular file: it stays where it is", is_bad=True)
        stored = store.read(where, inside=live)
        aside = ""
        if store.is_there(place, inside=config_dir):
            if _same(place, config_dir, stored.text):  # moved by a daemon that was killed then
                unlink(live, found.path)
                return Report(file, f"{file}, in force with VFd, is in {config_dir} already")
            aside = _put_aside(config_dir, found.path)
        _move(live, config_dir, found.path, stored)
    except (ConfigError, OSError) as error:
        told = getattr(error, "strerror", None) or str(error)
        return Report(file, f"{where} can't be taken over: {told}", is_bad=True)
    text = f"{file}, in force with VFd, is taken over from {live}"
    if aside:
        text += f"; what {config_dir} had under that name was not in force, and is {aside} now"
    return Report(file, text)


def _same(place: Path, config_dir: Path, text: bytes) -> bool:
    try:
        return store.read(place, inside=config_dir).text == text
    except ConfigError:
        return False


def _put_aside(config_dir: Path, file: Path) -> str:
    """Renames what is in ``file``'s place to a name that is free. Raises OSError."""
    aside = f"{file.name}{store.REFUSED}"
    names = [aside, *(f"{aside}.{number}" for number in range(1, 100))]
    for name in names:
        if not store.is_there(config_dir / file.with_name(name), inside=config_dir):
            store.Renaming(config_dir, file, name).commit()
            return str(file.with_name(name))
    raise OSError(errno.EEXIST, f"{file} and {len(names)} names for it are taken")


def _move(live: Path, config_dir: Path, file: Path, stored: store.Stored) -> None:
    """Raises OSError with the file where it was."""
    made: dict[Path, Identity] = {}
    source, target = -1, -1
    try:
        source = open_folder(live, file.parent)
        target = open_folder(config_dir, file.parent, made=made)
        try:
            os.rename(file.name, file.name, src_dir_fd=source, dst_dir_fd=target)
            os.fsync(target)
            os.fsync(source)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            text = stored.text.decode("utf-8", "surrogateescape")
            owner = (stored.uid, stored.gid, stored.mode)
            store.stage(config_dir, file, text, *owner, mtime_ns=stored.mtime_ns).commit()
            os.unlink(file.name, dir_fd=source)
            os.fsync(source)
    finally:
        for fd in (source, target):
            if fd >= 0:
                os.close(fd)


def _remove_empty(live: Path, folders: list[Path]) -> None:
    for folder in sorted(filter(lambda one: one.parts, folders), key=lambda one: -len(one.parts)):
        with contextlib.suppress(OSError):
            fd = open_folder(live, folder.parent)
            try:
                os.rmdir(folder.name, dir_fd=fd)
            finally:
                os.close(fd)
