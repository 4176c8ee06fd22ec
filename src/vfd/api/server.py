"""uvicorn in the daemon's own event loop: no lifespan, no signal handlers, no ticking, and its own
way of letting connections in."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vfd.api import errors
from vfd.api.entrance import Entrance
from vfd.api.minding import Minding
from vfd.api.peers import Peer
from vfd.api.turns import Turns
from vfd.daemon.journal import Journal
from vfd.daemon.sockets import Sockets

HEADER_SECONDS = 10.0
"""From a request's first byte, or the connection's begin, to the end of its header."""


class _Connection(H11Protocol):
    """Tells the application who is at the other end, reads when it is that user's turn, and lasts
    only while that one is at it."""

    def __init__(self, peer: Peer, entrance: Entrance, turns: Turns, **more: Any) -> None:
        super().__init__(**more)
        self._peer = peer
        self._entrance = entrance
        self._turns = turns
        self._deadline: asyncio.TimerHandle | None = None
        self._last = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app_state = {"peer": self._peer}
        self._mind_the_time()

    def data_received(self, data: bytes) -> None:
        if not self._peer.trusted:
            self.transport.pause_reading()
            self._turns.take(self._peer.uid, self._read_on)
        super().data_received(data)
        self._mind_the_time()

    def _read_on(self) -> None:
        if not self.transport.is_closing() and not self.flow.read_paused:
            self.transport.resume_reading()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Who has sent a whole request and shut down that direction still waits for the answer."""
        waits = self.cycle is not None and not (
            self.cycle.response_complete or self.cycle.more_body
        )
        self._last = waits and not _is_gone(self.transport.get_extra_info("socket"))
        return self._last

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._last:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._entrance.left(self._peer)
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP at all gets the same kind of answer as all else that is wrong."""
        answer = errors.answer(
            400, f"{msg} It is no request of HTTP/1.1, or its header is too long"
        )
        headers = [*answer.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _mind_the_time(self) -> None:
        """A header that doesn't end holds a connection no longer than HEADER_SECONDS."""
        if self.conn.their_state is not h11.IDLE:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.abort)


def _is_gone(sock: Any) -> bool:
    """Whether the other end is closed, and not only for what it would send."""
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


class Server(uvicorn.Server):
    """Serves until ``finish``. uvicorn's own loop wakes ten times a second; this one never does."""

    def __init__(self, app: Any, turns: Turns) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                # who sends what is no HTTP is answered; a line for each would be theirs to write
                log_level="error",
                server_header=False,
                date_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=64 * 1024,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=1,
            )
        )
        self._turns = turns
        self._finish = asyncio.Event()
        self._beginning: set[asyncio.Task[Any]] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        del sockets  # connections come from the entrance
        self.servers = []
        self.started = True

    async def main_loop(self) -> None:
        self.server_state.default_headers = self.config.encoded_headers
        await self._finish.wait()

    def finish(self) -> None:
        self.should_exit = True
        self._finish.set()

    async def run_on(
        self,
        sockets: Sockets,
        journal: Journal,
        made_again: Callable[[], object],
        stirred: Callable[[], object],
    ) -> None:
        """On these sockets; what becomes of them is told as events. ``made_again`` is called when
        some had been removed, ``stirred`` when something else has happened where they are."""
        entrance = Entrance(lambda sock, peer: self._begin(sock, peer, entrance), self._turns)
        minding = Minding(sockets, entrance, journal, made_again, stirred)
        try:
            await self.serve()
        finally:
            minding.end()

    def _begin(self, sock: socket.socket, peer: Peer, entrance: Entrance) -> None:
        loop = asyncio.get_running_loop()

        def connection() -> _Connection:
            return _Connection(
                peer,
                entrance,
                self._turns,
                config=self.config,
                server_state=self.server_state,
                app_state={},
                _loop=loop,
            )

        task = loop.create_task(loop.connect_accepted_socket(connection, sock))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)
