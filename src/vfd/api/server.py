"""uvicorn in the daemon's own event loop: no lifespan, no signal handlers, no ticking."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vfd.api.peers import peer_of

log = logging.getLogger("vfd.api")


MAX_CONNECTIONS = 256
"""Open at once, but for root's. Clients of the API are an operator and a handful of programs."""
MAX_PER_USER = 64
"""Of them one user's, so that no member of the group can keep root out."""
HEADER_SECONDS = 10.0
"""From a request's first byte, or the connection's begin, to the end of its header."""


class _Connection(H11Protocol):
    """Tells the application who is at the other end, and lasts only while that one is at it."""

    _uid: int | None = None
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        open_now = self.server_state.connections
        try:
            peer = peer_of(transport.get_extra_info("socket"))
        except OSError:
            transport.abort()  # nobody that the kernel can name
            return
        self._uid = peer.uid
        theirs = sum(1 for c in open_now if isinstance(c, _Connection) and c._uid == peer.uid)
        if theirs > MAX_PER_USER or (peer.uid and len(open_now) > MAX_CONNECTIONS):
            log.warning("uid %d (pid %d) has too many connections", peer.uid, peer.pid)
            transport.abort()
            return
        self.app_state = {**self.app_state, "peer": peer}
        self._mind_the_time()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._mind_the_time()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _mind_the_time(self) -> None:
        """A header that doesn't end holds a connection no longer than HEADER_SECONDS."""
        if self.conn.their_state is not h11.IDLE:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.abort)


class Server(uvicorn.Server):
    """Serves until ``finish``. uvicorn's own loop wakes ten times a second; this one never does."""

    def __init__(self, app: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                log_level="warning",
                server_header=False,
                date_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=64 * 1024,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=1,
            )
        )
        self._finish = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        self.server_state.default_headers = self.config.encoded_headers
        await self._finish.wait()

    def finish(self) -> None:
        self.should_exit = True
        self._finish.set()

    async def run_on(self, sock: socket.socket) -> None:
        await self.serve(sockets=[sock])
