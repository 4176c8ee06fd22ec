"""Before any route: who may ask, how much may be sent, and a line in the log for every request."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from vfd.api import schema
from vfd.api.encoding import encoded
from vfd.api.peers import Peer, Role, who_may
from vfd.daemon.flood import Flood
from vfd.daemon.sockets import Groups

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("vfd.api")

BODY_SECONDS = 10.0
"""In which a request's body must have come."""
TOLD = 20
"""Refused requests of one user that are logged one by one, at once."""
LONGEST = 300
"""Characters of a path in the log."""
_TOO_LARGE = f"a request's body has at most {schema.MAX_BODY} bytes"


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, groups: Groups) -> None:
        self.app = app
        self.groups = groups
        self._flood = Flood()
        self._refused = Flood(TOLD)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        peer: Peer = scope["state"]["peer"]
        began = time.perf_counter()
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            role = scope["state"]["role"] = peer.role(self.groups)
            if role is Role.NONE:
                told = f"uid {peer.uid} may not: {who_may(Role.READ)}. Ask root to add it to one"
                await _refuse(noting, 403, "forbidden", told, 3)
            elif _declared(scope) > schema.MAX_BODY:
                await _refuse(noting, 413, "too-large", _TOO_LARGE, 2)
            else:
                await self.app(scope, _Limited(receive), noting)
        finally:
            self._note(scope, peer, status, time.perf_counter() - began)

    def _note(self, scope: Scope, peer: Peer, status: int, seconds: float) -> None:
        """A line for the log; of a user who asks without end 200, then one in 5 s, and of requests
        that are refused 20."""
        level = _level(scope["method"], status)
        if not log.isEnabledFor(level):
            return
        flood = self._refused if status >= 400 else self._flood
        more = {} if peer.trusted else flood.fields(peer.uid)
        if more is None:
            return
        fields = {
            "uid": peer.uid,
            "gid": peer.gid,
            "pid": peer.pid,
            "ms": round(seconds * 1000, 1),
            **more,
        }
        path = scope["path"] if len(scope["path"]) <= LONGEST else f"{scope['path'][:LONGEST]}…"
        log.log(level, "%s %s %d", scope["method"], path, status, extra={"fields": fields})


def _level(method: str, status: int) -> int:
    if status in (403, 500):
        return logging.WARNING
    return logging.DEBUG if method in ("GET", "HEAD") else logging.INFO


def _enough(status: int, told: str) -> HTTPException:
    """Of all exceptions, only these pass through the framework as they are."""
    return HTTPException(status, told, {"connection": "close"})


class _Limited:
    """``receive`` that counts bytes and seconds until the body is whole."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._seen = 0
        self._whole = False
        self._end = asyncio.get_running_loop().time() + BODY_SECONDS

    async def __call__(self) -> Any:
        if self._whole:
            return await self._receive()  # waits for the other end to go: for as long as it likes
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            raise _enough(408, f"a request's body comes within {BODY_SECONDS:g} s") from None
        self._seen += len(message.get("body", b""))
        if self._seen > schema.MAX_BODY:
            raise _enough(413, _TOO_LARGE)
        self._whole = not message.get("more_body", False)
        return message


def _declared(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


async def _refuse(send: Send, status: int, kind: str, detail: str, exit_code: int) -> None:
    error = schema.Error(type=kind, title=kind, status=status, detail=detail, exit=exit_code)
    body = encoded(error).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
