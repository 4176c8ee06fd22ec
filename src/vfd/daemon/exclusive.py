"""What only one daemon may have at a time: a NIC, a socket. Locks die with their holder."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import socket
import stat
from pathlib import Path
from urllib.parse import quote

LOCKS = Path("/run/lock/vfd")
"""One file for each NIC that a daemon on this host holds."""
GROUP = "vfd"
BACKLOG = 128


class InUseError(Exception):
    """Another process has it. Says which, and what to do."""


class Lock:
    """An flock(2) on a file, held until ``close`` or the process's end, however it ends."""

    def __init__(self, path: Path, what: str, holder: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(self.fd, 4096, 0).decode(errors="replace").strip() or "unknown"
            os.close(self.fd)
            raise InUseError(
                f"{what} is in use by another daemon ({who}): stop that one, or leave {what} to it"
            ) from None
        try:
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, f"{holder}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds all the same, the other daemon sees no name

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def lock_nic(nic_id: str, holder: str) -> Lock:
    """Raises InUseError where another daemon on this host has the NIC."""
    return Lock(LOCKS / f"{quote(nic_id, safe=':.@')}.lock", f"NIC {nic_id}", holder)


def group_id() -> int | None:
    """The gid of the group that may use the API; None: the host has no such group."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


def listen(path: Path, gid: int | None, holder: str) -> tuple[socket.socket, Lock]:
    """A listening socket at ``path``, 0660, root's and the group's, replacing a dead daemon's.

    It appears at once with its permissions: bound beside ``path``, then renamed. Raises InUseError
    where a live one is there or something that is no socket, OSError where it can't be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(path.with_name(path.name + ".lock"), f"socket {path}", holder)
    try:
        _refuse_if_taken(path)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            previous = os.umask(0o177)
            try:
                sock.bind(str(fresh))
            finally:
                os.umask(previous)
            if gid is not None:
                os.chown(fresh, -1, gid)
                fresh.chmod(0o660)
            sock.listen(BACKLOG)
            sock.setblocking(False)
            fresh.rename(path)
        except OSError:
            sock.close()
            fresh.unlink(missing_ok=True)
            raise
    except BaseException:
        lock.close()
        raise
    return sock, lock


def _refuse_if_taken(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InUseError(f"{path} exists and is no socket: move it away, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
                return  # nobody listens: a dead daemon left it
        raise InUseError(f"socket {path} is in use by another program: choose another path")
