"""The file that ``pid_fname`` names: one daemon's, for as long as that daemon runs."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from vfd.daemon.exclusive import InUseError, lock_pid_file
from vfd.daemon.folders import make_folder

log = logging.getLogger("vfd.daemon")


@contextlib.contextmanager
def written(path: Path, holder: str) -> Iterator[None]:
    """This process's id is in the file, unless another daemon's is.

    Several daemons may have left ``pid_fname`` as it is: the file stays with the first one. Neither
    that nor a full disk is a reason not to run.
    """
    try:
        lock = lock_pid_file(path, holder)
    except InUseError as error:
        log.warning("no process id is written: %s", error)
        yield
        return
    try:
        _write(path)
        yield
    finally:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s can't be removed: %s", path, error)
        lock.close(remove=True)


def _write(path: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        make_folder(path.parent)
        with open(os.open(path, flags, 0o644), "w") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        log.warning("%s can't be written: %s", path, error)
