"""The file that ``pid_fname`` names: one daemon's, for as long as that daemon runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from vfd.daemon.exclusive import InUseError, Lock, lock_pid_file

log = logging.getLogger("vfd.daemon")


def write(path: Path, holder: str) -> Lock | None:
    """Puts this process's id there. What ``remove`` needs; None: the file isn't this daemon's.

    Several daemons may have left ``pid_fname`` as it is: the file stays with the first one. Neither
    that nor a full disk is a reason not to start.
    """
    try:
        lock = lock_pid_file(path, holder)
    except InUseError as error:
        log.warning("no process id is written: %s", error)
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o644), "w") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        log.warning("%s can't be written: %s", path, error)
    return lock


def remove(path: Path, lock: Lock | None) -> None:
    """Takes the file away if it is this daemon's."""
    if lock is None:
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s can't be removed: %s", path, error)
    lock.close()
