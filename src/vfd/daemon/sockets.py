"""The API's sockets: one for each kind of user, and there again when somebody removes one.

A kind of user has a socket of its own, and so a queue of its own in the kernel: whoever fills it
with connections keeps no higher kind from asking. Who may do what is not decided here: the daemon
asks the kernel who has connected (``vfd.api.peers``).
"""

from __future__ import annotations

import errno
import grp
import os
import secrets
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from vfd.daemon.exclusive import InUseError, Lock
from vfd.daemon.folders import make_folder
from vfd.nic.inotify import CREATE, DELETE, DELETE_SELF, MOVE_SELF, MOVED_FROM, MOVED_TO, Inotify

CHANGERS, READERS = "vfd", "vfd-read"
"""The groups whose members may change and ask, and only ask."""
SUFFIXES = {".root": None, "": CHANGERS, ".read": READERS}
"""What a socket's path ends in, and the group that may connect to it; None: root alone."""
BACKLOG = 128
"""Connections that wait in the kernel until they are accepted. The next one waits in connect(2)."""
_WATCHED = CREATE | DELETE | MOVED_FROM | MOVED_TO | DELETE_SELF | MOVE_SELF


@dataclass(frozen=True, slots=True)
class Groups:
    """The gids of the two groups; None: the host has no such group."""

    changers: int | None = None
    readers: int | None = None


def groups() -> Groups:
    """As the host has them now."""
    return Groups(_gid(CHANGERS), _gid(READERS))


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


@dataclass(frozen=True, slots=True)
class _Bound:
    sock: socket.socket
    inode: os.stat_result


class Sockets:
    """The listening sockets of one daemon, and the lock beside them.

    Each appears at once with its permissions: bound beside its path, then renamed. A dead daemon's
    is replaced. Raises InUseError where a live one is in its place or something that is no
    socket, OSError where it can't be made.
    """

    def __init__(self, path: Path, groups: Groups, holder: str) -> None:
        self.path = path
        self._holder = holder
        gids = {CHANGERS: groups.changers, READERS: groups.readers, None: None}
        # Without a group `vfd` its socket is root's alone; without `vfd-read` there is none.
        self._gids = {
            path.with_name(path.name + suffix): gids[group]
            for suffix, group in SUFFIXES.items()
            if group != READERS or groups.readers is not None
        }
        self._bound: dict[Path, _Bound] = {}
        self._lock: Lock | None = None
        self._inotify: Inotify | None = None
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def listening(self) -> list[socket.socket]:
        return [bound.sock for bound in self._bound.values()]

    def fileno(self) -> int:
        """Can be read once something has happened where the sockets are; -1: nobody tells."""
        return self._inotify.fileno() if self._inotify else -1

    def missing(self) -> list[Path]:
        """Those that who wants to ask no longer finds. To be called when ``fileno`` can be read."""
        if self._inotify is not None:
            self._inotify.read()
        gone = [path for path in self._gids if not self._is_ours(path)]
        if not gone and self._lock is not None and not self._lock.is_in_place():
            gone = [self._lock.path]
        return gone

    def mend(self) -> None:
        """Makes again what is missing, under the rules of a start, and raises what that raises.
        A socket that nobody finds any more leaves ``listening`` for the new one in its place."""
        try:
            self._make()
        except BaseException:
            self._watch()
            raise

    def _make(self) -> None:
        make_folder(self.path.parent)
        if self._lock is None or not self._lock.is_in_place():
            lock = self.path.with_name(self.path.name + ".lock")
            fresh = Lock(lock, f"socket {self.path}", self._holder)
            if self._lock is not None:
                self._lock.close()
            self._lock = fresh
        self._watch()
        for path, gid in self._gids.items():
            if not self._is_ours(path):
                self._bound[path] = _bind(path, gid)

    def _watch(self) -> None:
        """Without inotify they are served all the same."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        try:
            self._inotify = Inotify(_WATCHED)
            self._inotify.watch(self.path.parent)
        except OSError:
            pass

    def _is_ours(self, path: Path) -> bool:
        bound = self._bound.get(path)
        try:
            return bound is not None and os.path.samestat(bound.inode, path.lstat())
        except OSError:
            return False

    def close(self) -> None:
        """No longer served. What somebody else has put in a socket's place stays."""
        for path, bound in self._bound.items():
            if self._is_ours(path):
                try:
                    path.unlink()
                except OSError:
                    pass
            bound.sock.close()
        self._bound.clear()
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _bind(path: Path, gid: int | None) -> _Bound:
    _refuse_if_taken(path)
    fresh = path.with_name(f".vfd-{secrets.token_hex(4)}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        previous = os.umask(0o177)
        try:
            sock.bind(
                f"/proc/self/fd/{folder}/{fresh.name}"
            )  # a socket's path is at most 107 bytes
        finally:
            os.umask(previous)
        if gid is not None:
            os.chown(fresh, -1, gid)
            fresh.chmod(0o660)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        inode = fresh.lstat()
        fresh.rename(path)
    except OSError:
        sock.close()
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(folder)
    return _Bound(sock, inode)


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
