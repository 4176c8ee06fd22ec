"""Who asks: the credentials that the kernel keeps of a Unix socket's other end, and the role that
they give."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

from vfd.daemon.sockets import CHANGERS, READERS, Groups

_SO_PEERGROUPS = 59
"""asm-generic/socket.h; Python's socket module doesn't name it."""
_MAX_GROUPS = 65536
"""NGROUPS_MAX, linux/limits.h."""


class Role(IntEnum):
    """What a user may do; each may do what those before it may."""

    NONE = 0
    READ = 1
    CHANGE = 2


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as it was when it connected."""

    uid: int
    gid: int
    pid: int
    groups: frozenset[int] = frozenset()
    """Its supplementary groups."""

    @property
    def trusted(self) -> bool:
        """Root, or the daemon's own user: whoever is that can do to the daemon what it likes."""
        return self.uid in (0, os.geteuid())

    def role(self, groups: Groups) -> Role:
        if self.trusted or self._is_in(groups.changers):
            return Role.CHANGE
        return Role.READ if self._is_in(groups.readers) else Role.NONE

    def _is_in(self, group: int | None) -> bool:
        return group is not None and (group == self.gid or group in self.groups)


def who_may(role: Role) -> str:
    """Whom a refusal names."""
    if role is Role.CHANGE:
        return f"root and the members of the group {CHANGERS} may change"
    return f"root and the members of the groups {CHANGERS} and {READERS} may ask"


def peer_of(sock: socket.socket) -> Peer:
    """The process at the other end. Raises OSError where the socket is none of the Unix family."""
    size = struct.calcsize("3i")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, gid = struct.unpack("3i", raw)
    return Peer(uid, gid, pid, _groups_of(sock))


def _groups_of(sock: socket.socket) -> frozenset[int]:
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError:
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
        except OSError:
            return frozenset()
    return frozenset(struct.unpack(f"{len(raw) // 4}I", raw))
