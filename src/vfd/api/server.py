"""uvicorn in the daemon's own event loop: no lifespan, no signal handlers, no ticking."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vfd.api.peers import peer_of


class _Connection(H11Protocol):
    """Tells the application who is at the other end."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        try:
            self.app_state = {**self.app_state, "peer": peer_of(sock)}
        except OSError:
            transport.abort()  # nobody that the kernel can name


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
