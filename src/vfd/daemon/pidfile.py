"""The file that ``pid_fname`` names: one daemon's, for as long as that daemon runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from vfd.daemon.exclusive import InUseError, Lock, lock_pid_file
from vfd.daemon.folders import make_folder

log = logging.getLogger("vfd.daemon")


class PidFile:
    """Has this process's id, unless it is another daemon's.

    Several daemons may have left ``pid_fname`` as it is: the file stays with the first one. Neither
    that nor a full disk is a reason not to run. Whoever looks after the daemon asks whether it
    ``is_in_place``, and has it ``put`` there again.
    """

    def __init__(self, path: Path, holder: str) -> None:
        self._path = path
        self._holder = holder
        self._lock: Lock | None = None
        self._is_anothers = False
        self._told = ""

    def is_in_place(self) -> bool:
        if self._is_anothers or self._lock is None:
            return self._is_anothers
        try:
            return self._lock.is_in_place() and self._path.read_text() == _content()
        except (OSError, ValueError):
            return False

    def put(self) -> None:
        try:
            if self._lock is None or not self._lock.is_in_place():
                lock = lock_pid_file(self._path, self._holder)
                if self._lock is not None:
                    self._lock.close()
                self._lock = lock
            _write(self._path)
            self._told = ""
        except InUseError as error:
            self._is_anothers = True
            log.warning("no process id is written: %s", error)
        except OSError as error:
            if str(error) != self._told:  # told once, not at every attempt
                self._told = str(error)
                log.warning("%s can't be written: %s", self._path, error)

    def remove(self) -> None:
        if self._lock is None or self._is_anothers:
            return
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s can't be removed: %s", self._path, error)
        self._lock.close(remove=True)
        self._lock = None


def _content() -> str:
    return f"{os.getpid()}\n"


def _write(path: Path) -> None:
    """Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    make_folder(path.parent)
    with open(os.open(path, flags, 0o644), "w") as file:
        file.write(_content())
