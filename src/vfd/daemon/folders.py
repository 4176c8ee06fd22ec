"""Folders that the daemon makes where they are missing, whatever its umask."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def make_folder(folder: Path, mode: int = 0o755) -> bool:
    """Makes ``folder`` with this mode where nothing is there, and those above it with 0755.

    Returns whether it made it. Raises OSError where it can't, or where something else is there.
    """
    if folder.is_dir():
        return False
    if folder.parent != folder:
        make_folder(folder.parent)
    try:
        folder.mkdir(mode)
    except FileExistsError:
        if folder.is_dir():  # somebody else made it at this moment
            return False
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    folder.chmod(mode)
    parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    except OSError:
        pass  # a file system that can't: the folder is there all the same
    finally:
        os.close(parent)
    return True
