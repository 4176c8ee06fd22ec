"""Who asks: the credentials that the kernel keeps of a Unix socket's other end."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

_SO_PEERGROUPS = 59
"""asm-generic/socket.h; Python's socket module doesn't name it."""
_MAX_GROUPS = 65536
"""NGROUPS_MAX, linux/limits.h."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as it was when it connected."""

    uid: int
    gid: int
    pid: int
    groups: frozenset[int] = frozenset()
    """Its supplementary groups."""

    def may_use(self, group: int | None) -> bool:
        """Root, the daemon's own user, and members of ``group`` may use the API."""
        if self.uid in (0, os.geteuid()):
            return True
        return group is not None and (group == self.gid or group in self.groups)


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
