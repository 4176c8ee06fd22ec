"""What only one daemon may have at a time: a NIC, a socket. Locks die with their holder."""

from __future__ import annotations

import fcntl
import os
import stat
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from vfd.daemon.folders import make_folder

LOCKS = Path("/run/vfd/locks")
"""One file for each NIC and pid file that a daemon on this host holds. Root's alone: flock(2) asks
no more than a descriptor, so whoever can read a lock's file can hold the lock."""


class InUseError(Exception):
    """Another process has it, or may. Says which, and what to do."""

    def __init__(self, text: str, lock: Path | None = None) -> None:
        super().__init__(text)
        self.lock = lock
        """The file of the lock that somebody holds."""


class Lock:
    """An flock(2) on a file, held until ``close`` or the process's end, however it ends."""

    def __init__(self, path: Path, what: str, holder: str) -> None:
        make_folder(path.parent)
        self.path = path
        try:
            self._take()
        except BlockingIOError:
            who = os.pread(self.fd, 4096, 0).decode(errors="replace").strip() or "unknown"
            os.close(self.fd)
            raise InUseError(
                f"{what} is in use by another daemon ({who}): stop that one, or leave {what} to it",
                path,
            ) from None
        try:
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, f"{holder}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds all the same, the other daemon sees no name

    def _take(self) -> None:
        """Raises BlockingIOError where another has it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            self.fd = os.open(self.path, flags, 0o600)
            try:
                os.fchmod(self.fd, 0o600)
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                os.close(self.fd)
                raise
            if os.fstat(self.fd).st_nlink:
                return
            os.close(self.fd)  # its holder removed it after we had opened it: lock the next one

    def is_in_place(self) -> bool:
        """Whether who comes next finds it: somebody may have removed its file."""
        try:
            return os.path.samestat(os.fstat(self.fd), os.lstat(self.path))
        except OSError:
            return False

    def close(self, *, remove: bool = False) -> None:
        """``remove``: what was locked is no more. The file goes while it is locked, so that who
        locks it later finds that it is none any more, and makes another."""
        if self.fd >= 0:
            if remove and self.is_in_place():
                self.path.unlink(missing_ok=True)
            os.close(self.fd)
            self.fd = -1


def lock_nic(nic_id: str, holder: str) -> Lock:
    """Raises InUseError where another daemon on this host has the NIC."""
    return _lock_of(quote(nic_id, safe=":.@"), f"NIC {nic_id}", holder)


def lock_pid_file(path: Path, holder: str) -> Lock:
    """The right to write ``path`` and to remove it. Raises InUseError where another daemon on
    this host has it."""
    place = path.parent.resolve() / path.name
    return _lock_of(f"pid-{sha256(bytes(place)).hexdigest()[:16]}", f"pid file {path}", holder)


def _lock_of(name: str, what: str, holder: str) -> Lock:
    try:
        _make_roots_own(LOCKS)
        return Lock(LOCKS / f"{name}.lock", what, holder)
    except OSError as error:
        raise InUseError(f"{what} can't be locked: {error}") from error


def _make_roots_own(folder: Path) -> None:
    """``folder`` exists and nobody else can open what is in it, or put something there.

    Raises InUseError where somebody else made it, OSError where it can't be made.
    """
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    for one in (folder.parent, folder):
        about = one.lstat()
        ours = stat.S_ISDIR(about.st_mode) and about.st_uid in (0, os.geteuid())
        if not ours or (one != folder and about.st_mode & stat.S_IWOTH):
            raise InUseError(
                f"{one} is not root's own folder, so what is locked there may be anybody's lock:"
                " remove it"
            )
    if stat.S_IMODE(about.st_mode) != 0o700:
        folder.chmod(0o700)
