"""Opening a file below a folder so that no link leads the way out of it, not even to look.

To open a file and ask afterwards where it is would be too late: others may own folders there, and
to open a device or a file on a dead file server has effects of its own. openat2(2) of Linux 5.6
has the kernel refuse before it goes there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path

_OPENAT2 = 437  # on every architecture
_RESOLVE_BENEATH = 0x08
_LINKS = 8
"""Absolute links that are followed, each as if it were relative; the kernel follows the others."""

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    """``struct open_how`` of linux/openat2.h."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(folder: Path, below: Path, flags: int) -> int:
    """A descriptor of ``folder/below``. Raises OSError: EXDEV where a link leads out of it."""
    root = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(_LINKS):
            try:
                return _openat2(root, below, flags)
            except OSError as error:
                target = _absolute_target(root, below) if error.errno == errno.EXDEV else None
                if target is None or not target.is_relative_to(folder):
                    raise
                below = target.relative_to(folder)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    finally:
        os.close(root)


Identity = tuple[int, int]
"""The device and inode of a folder: another one in its place has others."""


def open_folder(root: Path, below: Path, *, made: dict[Path, Identity] | None = None) -> int:
    """A descriptor of a folder below ``root``, found without following any link on the way.

    Others may own folders there, and put links where folders were. With ``made`` those that are
    missing are made, durably, and put there. Raises OSError.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    folder = os.open(root, flags)
    for number, part in enumerate(below.parts, 1):
        fresh = False
        try:
            if made is not None:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=folder)
                    fresh = True
                    os.fsync(folder)
            inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=folder)
            if made is not None and fresh:
                made[Path(*below.parts[:number])] = identity_of(inner)
        finally:
            os.close(folder)
        folder = inner
    return folder


def unlink(root: Path, file: Path) -> None:
    """Removes a file below ``root``, found as ``open_folder`` finds its folder. Raises OSError."""
    folder = open_folder(root, file.parent)
    try:
        os.unlink(file.name, dir_fd=folder)
    finally:
        os.close(folder)


def identity_of(fd: int) -> Identity:
    about = os.fstat(fd)
    return about.st_dev, about.st_ino


def _openat2(root: int, below: Path, flags: int) -> int:
    how = _How(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH)
    while True:
        fd: int = _libc.syscall(
            _OPENAT2, root, os.fsencode(below), ctypes.byref(how), ctypes.sizeof(how)
        )
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number != errno.EAGAIN:  # a rename somewhere, while the kernel went along ".."
            raise OSError(number, os.strerror(number))


def _absolute_target(root: int, below: Path) -> Path | None:
    """Where the link ``below`` points, if it is one and names its target from the root."""
    link = _openat2(root, below, os.O_PATH | os.O_NOFOLLOW)
    try:
        target = Path(os.readlink("", dir_fd=link))
    except OSError:
        return None
    finally:
        os.close(link)
    return target if target.is_absolute() else None
