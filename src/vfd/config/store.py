"""The files of ``config_dir``: read, and written so that they are whole or not there.

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
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import MappingProxyType

from vfd.config.beneath import Identity, open_beneath, open_folder, unlink
from vfd.config.errors import ConfigError, Problem
from vfd.config.tree import File, walk
from vfd.policy.names import checked_name

MAX_FILE = 1 << 20
"""Bytes of a configuration file; a larger one is something else."""
KEPT = "-"
"""What ``delete_keep`` puts behind a file's name, as VFd did."""

REFUSED = ".error"
"""What stands behind the name of a file that was refused when it was added, as VFd had it: no later
start reads it."""

_TEMPORARY_SUFFIX = ".vfd-tmp"
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.vfd-tmp")


@dataclass(frozen=True, slots=True)
class Stored:
    """A file as it was when it was read."""

    path: Path
    text: bytes
    uid: int
    """The file's owner, as whom its callbacks run."""
    gid: int
    mode: int
    mtime_ns: int


def path_of(config_dir: Path, name: str) -> Path:
    """The file of the VF called ``name``. Raises ConfigError for a name that is none."""
    try:
        return config_dir / f"{checked_name(name)}.json"
    except ValueError as error:
        raise ConfigError([Problem(str(config_dir), "name", name, str(error))]) from None


def read(path: Path, *, inside: Path | None = None) -> Stored:
    """A file's content and owner, both of the same instant.

    ``inside``: the folder that the file must really be in, wherever links point. Raises
    ConfigError for what is missing, unreadable, too large, no regular file, or elsewhere.
    """
    # O_NONBLOCK: opening a FIFO that nobody writes to would wait forever.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        if inside is None:
            fd = os.open(path, flags)
        else:
            fd = open_beneath(inside, path.relative_to(inside), flags)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise _unreadable(path, f"a link that leads out of {inside}") from None
        raise _unreadable(path, error.strerror or str(error)) from None
    except ValueError as error:  # a NUL in the path
        raise _unreadable(path, str(error)) from None
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise _unreadable(path, "not a regular file")
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


def is_there(path: Path, *, inside: Path) -> bool:
    """Whether ``inside`` has anything of this name, for ``read`` to judge."""
    try:
        os.close(open_beneath(inside, path.relative_to(inside), os.O_PATH | os.O_NOFOLLOW))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError([Problem(str(path), "", "", f"can't be read: {why}")])


# Writing, in two steps


@dataclass(slots=True)
class Staged:
    """New content of a file, safe on disk but not yet in its place. Ends by one of its methods."""

    root: Path
    file: Path
    """Below ``root``."""
    fresh: str
    folder: int
    """A descriptor: what is done through it can't be led elsewhere by a link."""
    made: dict[Path, Identity]
    """The folders that were made for it."""

    def replaces(self) -> bool:
        """Whether there is something in its place now."""
        try:
            os.stat(self.file.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def commit(self) -> tuple[str, ...]:
        """Raises OSError, and then the old content is still in place.

        Once the file is renamed, the change is made. A disk that then fails to say that it has
        written this is no reason to undo it, which it would fail to write, too: that is returned
        as a warning.

        A file that is a mount of its own, as a container's may be, can't be renamed onto: it is
        written in place. A power cut in that instant may leave a part of it.
        """
        try:
            os.rename(self.fresh, self.file.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _write_over(self.folder, self.fresh, self.file.name)
            os.unlink(self.fresh, dir_fd=self.folder)
        warnings = _synced(self.folder, self.root / self.file, "is written")
        self._close()
        return warnings

    def abandon(self) -> None:
        """Does nothing once committed."""
        if self.folder >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self.fresh, dir_fd=self.folder)
            self._close()
            _remove_made(self.root, self.file.parent, self.made)

    def _close(self) -> None:
        os.close(self.folder)
        self.folder = -1


@dataclass(slots=True)
class Renaming:
    """A file that is to be given its other name. Ends by one of its methods."""

    root: Path
    file: Path
    """Below ``root``, as it is called now."""
    name: str
    """What it is to be called, in the same folder."""

    def commit(self) -> tuple[str, ...]:
        """Raises OSError, and then it is called as before. Returns warnings, as ``Staged`` does."""
        folder = open_folder(self.root, self.file.parent)
        try:
            os.rename(self.file.name, self.name, src_dir_fd=folder, dst_dir_fd=folder)
            return _synced(folder, self.root / self.file.with_name(self.name), "is in its place")
        finally:
            os.close(folder)

    def abandon(self) -> None:
        """Nothing was done yet."""


@dataclass(slots=True)
class Retired:
    """A file out of its place, from where it can come back. Ends by one of its methods."""

    root: Path
    file: Path
    aside: str
    keep: bool
    folder: int
    """A descriptor, or -1: somebody had removed the file already."""
    made: Mapping[Path, Identity]
    """The folders that go with it if they are empty then."""

    def restore(self) -> None:
        """Raises OSError with the file where it is."""
        if self.folder >= 0:
            try:
                os.rename(
                    self.aside, self.file.name, src_dir_fd=self.folder, dst_dir_fd=self.folder
                )
                _synced(self.folder, self.root / self.file, "is put back")
            finally:
                os.close(self.folder)

    def finish(self) -> tuple[str, ...]:
        """Warnings of a disk that may not keep what was done: the file is out of its place."""
        warnings: tuple[str, ...] = ()
        if self.folder >= 0:
            if not self.keep:
                with contextlib.suppress(OSError):  # swept at the next start
                    os.unlink(self.aside, dir_fd=self.folder)
            warnings = _synced(self.folder, self.root / self.file, "is removed")
            os.close(self.folder)
        _remove_made(self.root, self.file.parent, self.made)
        return warnings


def stage(
    root: Path,
    file: Path,
    text: str,
    uid: int,
    gid: int,
    mode: int,
    *,
    keep_age: bool = False,
    mtime_ns: int | None = None,
) -> Staged:
    """``text`` beside the place of ``file`` below ``root``, durably. Folders on the way are made;
    ``root`` is not: an empty one in its place would close every VF at the next reload.

    ``keep_age``: it is as old as the file that it replaces. ``mtime_ns``: it is this old.

    Raises ConfigError where a link would lead out of ``root``, OSError with nothing left.
    """
    fresh = _temporary(file)
    made: dict[Path, Identity] = {}
    try:
        folder = open_folder(root, file.parent, made=made)
    except OSError as error:
        for one in reversed(made):
            _remove_made(root, one, made)
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        rule = f"its folder is a link, or no folder: a VF's file is really below {root}"
        raise ConfigError([Problem(str(root / file), "", "", rule)]) from None
    staged = Staged(root, file, fresh, folder, made)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(fresh, flags, 0o600, dir_fd=folder)
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as written:
            written.write(text)
            written.flush()
            if (uid, gid) != (os.geteuid(), os.getegid()):
                os.fchown(fd, uid, gid)
            os.fchmod(fd, stat.S_IMODE(mode))
            if keep_age:
                with contextlib.suppress(FileNotFoundError):
                    old = os.stat(file.name, dir_fd=folder, follow_symlinks=False)
                    os.utime(fd, ns=(old.st_atime_ns, old.st_mtime_ns))
            if mtime_ns is not None:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            os.fsync(fd)
    except OSError:
        staged.abandon()
        raise
    return staged


def _write_over(folder: int, fresh: str, name: str) -> None:
    """Gives the file ``name`` all that ``fresh`` has. Raises OSError, with its old content back."""
    with open(_opened(folder, fresh, os.O_RDONLY), "rb") as source:
        text, about = source.read(), os.fstat(source.fileno())
    with open(_opened(folder, name, os.O_RDWR), "r+b", buffering=0) as target:
        old = target.read()
        try:
            _set_content(target, text)
        except OSError:
            with contextlib.suppress(OSError):
                _set_content(target, old)
            raise
        os.fchown(target.fileno(), about.st_uid, about.st_gid)
        os.fchmod(target.fileno(), stat.S_IMODE(about.st_mode))
        os.utime(target.fileno(), ns=(about.st_atime_ns, about.st_mtime_ns))
        os.fsync(target.fileno())


def _opened(folder: int, name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)


def _set_content(target: FileIO, text: bytes) -> None:
    """In one call if the kernel takes it so: what kills us then comes before or after it."""
    done = 0
    while done < len(text):
        done += os.pwrite(target.fileno(), text[done:], done)
    os.ftruncate(target.fileno(), len(text))
    os.fsync(target.fileno())


def retire(
    root: Path, file: Path, *, keep: bool, made: Mapping[Path, Identity] = MappingProxyType({})
) -> Retired:
    """Takes a file out of its place: with ``keep`` under its name and a ``-``. Folders of it that
    are among ``made``, and empty then, go with it.

    A file that is not there is none that fails. Raises OSError with the file in its place.
    """
    aside = file.name + KEPT if keep else _temporary(file)
    folder = -1
    try:
        folder = open_folder(root, file.parent)
        os.rename(file.name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    except FileNotFoundError:  # somebody removed it by hand: the VF goes all the same
        if folder >= 0:
            os.close(folder)
            folder = -1
    except OSError:
        if folder >= 0:
            os.close(folder)
        raise
    return Retired(root, file, aside, keep, folder, made)


def sweep(folder: Path) -> None:
    """Takes away what writers left that were killed while they wrote; for the daemon's start, when
    nobody writes."""
    with contextlib.suppress(OSError):
        for found in walk(folder, (_TEMPORARY_SUFFIX,)):
            if isinstance(found, File) and _TEMPORARY.fullmatch(found.path.name):
                with contextlib.suppress(OSError):
                    unlink(folder, found.path)


def sweep_beside(file: Path) -> None:
    """The same for one file, whose folder may be anybody's."""
    with contextlib.suppress(OSError):
        for one in file.parent.iterdir():
            if _TEMPORARY.fullmatch(one.name) and one.name.startswith(f".{file.name[:200]}."):
                one.unlink()


def _temporary(file: Path) -> str:
    return f".{file.name[:200]}.{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}"


def _synced(folder: int, path: Path, done: str) -> tuple[str, ...]:
    try:
        os.fsync(folder)
    except OSError as error:
        return (f"{path} {done}, but that may not outlive a power cut: {error.strerror}",)
    return ()


def _remove_made(root: Path, below: Path, made: Mapping[Path, Identity]) -> None:
    """Removes a folder below ``root``, and those above it, as far as they are empty and among
    ``made``: another's folder is not ours to take, though it is empty."""
    for folder in (below, *below.parents):
        if not folder.parts or folder not in made:
            return
        try:
            above = open_folder(root, folder.parent)
        except FileNotFoundError:
            continue
        except OSError:
            return
        try:
            about = os.stat(folder.name, dir_fd=above, follow_symlinks=False)
            if (about.st_dev, about.st_ino) != made[folder]:
                return
            os.rmdir(folder.name, dir_fd=above)
        except FileNotFoundError:
            continue
        except OSError:
            return  # something else is in it
        finally:
            os.close(above)
