"""Who is let in: connections are taken from the kernel's queues, counted by user, begun in turn.

Nothing of HTTP happens before that: a client that has hung up already costs three system calls.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable

from vfd.api.peers import Peer, peer_of
from vfd.api.turns import Turns
from vfd.daemon.flood import Flood

log = logging.getLogger("vfd.api")

MAX_CONNECTIONS = 256
"""Open at once, but for root's. Clients of the API are an operator and a handful of programs."""
MAX_PER_USER = 64
"""Of them one user's, or an equal part where there are many users."""
BATCH, PAUSE = 64, 0.02
"""Connections that are taken from a queue at once, and the seconds until the next look where there
were more: to accept and to close them, some 25 us each, must not take a whole CPU."""
TOLD = 10
"""Refused connections of one user that the log tells one by one, at once."""
NO_DESCRIPTORS = 1.0
"""Seconds until a connection is tried again that couldn't be accepted at all."""


class Entrance:
    """Calls ``begin`` with each connection that is let in. ``left`` is to be called when that has
    ended."""

    def __init__(self, begin: Callable[[socket.socket, Peer], None], turns: Turns) -> None:
        self._begin = begin
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._open: Counter[int] = Counter()
        """Connections by uid, those that wait for their turn too."""
        self._flood = Flood(TOLD)
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}

    def open(self, sock: socket.socket) -> None:
        """Listens to this socket from now on."""
        self._loop.add_reader(sock, self._accept, sock)

    def close(self, sock: socket.socket) -> None:
        """Takes what has come on it, and listens no more."""
        self._loop.remove_reader(sock)
        self._accept(sock, last=True)
        if pause := self._pauses.pop(sock, None):
            pause.cancel()
        sock.close()

    def left(self, peer: Peer) -> None:
        self._open[peer.uid] -= 1
        if not self._open[peer.uid]:
            del self._open[peer.uid]

    def _accept(self, sock: socket.socket, *, last: bool = False) -> None:
        wait = PAUSE
        for _ in range(BATCH):
            try:
                connection, _ = sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors, no memory
                if self._flood.untold("accept") is not None:
                    log.error("no connection can be accepted: %s", error)
                wait = NO_DESCRIPTORS
                break
            self._let_in(connection)
        if not last:
            self._loop.remove_reader(sock)
            self._pauses[sock] = self._loop.call_later(wait, self._go_on, sock)

    def _go_on(self, sock: socket.socket) -> None:
        del self._pauses[sock]
        self.open(sock)

    def _let_in(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if _has_hung_up(connection):
            connection.close()
            return
        try:
            peer = peer_of(connection)
        except OSError:
            connection.close()  # nobody that the kernel can name
            return
        if self._has_room(peer):
            self._admit(connection, peer)
        else:  # that others of theirs have ended may be what the loop looks at next
            self._loop.call_later(PAUSE, self._admit_or_refuse, connection, peer)

    def _admit_or_refuse(self, connection: socket.socket, peer: Peer) -> None:
        if self._has_room(peer):
            self._admit(connection, peer)
        else:
            connection.close()
            self._tell(peer)

    def _admit(self, connection: socket.socket, peer: Peer) -> None:
        self._open[peer.uid] += 1
        if peer.trusted:
            self._begin(connection, peer)
        else:
            self._turns.take(peer.uid, lambda: self._begin_if_there(connection, peer))

    def _begin_if_there(self, connection: socket.socket, peer: Peer) -> None:
        if _has_hung_up(connection):
            connection.close()
            self.left(peer)
        else:
            self._begin(connection, peer)

    def _has_room(self, peer: Peer) -> bool:
        """Whether this user may have one more."""
        room = MAX_PER_USER
        if not peer.trusted:
            users = len((self._open.keys() | {peer.uid}) - {0})
            room = max(1, min(MAX_PER_USER, MAX_CONNECTIONS // users))
        return self._open[peer.uid] < room

    def _tell(self, peer: Peer) -> None:
        if (more := self._flood.fields(peer.uid)) is not None:
            log.warning(
                "uid %d (pid %d) has too many connections",
                peer.uid,
                peer.pid,
                extra={"fields": more},
            )


def _has_hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
