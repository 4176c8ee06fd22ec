"""Before any route: who may ask, how much may be sent, and a line in the log for every request."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from vfd.api import schema
from vfd.api.peers import Peer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("vfd.api")


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, group: int | None) -> None:
        self.app = app
        self.group = group

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
            if not peer.may_use(self.group):
                who = f"uid {peer.uid} is neither root nor a member of the group vfd"
                await _refuse(noting, 403, "forbidden", f"{who}: ask root to add it", 3)
            elif _declared(scope) > schema.MAX_BODY:
                await _too_large(noting)
            else:
                await self.app(scope, _Limited(receive), noting)
        except _TooLargeError:
            await _too_large(noting)
        finally:
            log.log(
                _level(scope["method"], status),
                "%s %s %d",
                scope["method"],
                scope["path"],
                status,
                extra={
                    "fields": {
                        "uid": peer.uid,
                        "gid": peer.gid,
                        "pid": peer.pid,
                        "ms": round((time.perf_counter() - began) * 1000, 1),
                    }
                },
            )


def _level(method: str, status: int) -> int:
    if status in (403, 500):
        return logging.WARNING
    return logging.DEBUG if method in ("GET", "HEAD") else logging.INFO


class _TooLargeError(Exception):
    pass


class _Limited:
    """``receive`` that counts."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._seen = 0

    async def __call__(self) -> Any:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen > schema.MAX_BODY:
            raise _TooLargeError
        return message


def _declared(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


async def _too_large(send: Send) -> None:
    told = f"a request's body has at most {schema.MAX_BODY} bytes"
    await _refuse(send, 413, "too-large", told, 2)


async def _refuse(send: Send, status: int, kind: str, detail: str, exit_code: int) -> None:
    error = schema.Error(type=kind, title=kind, status=status, detail=detail, exit=exit_code)
    body = error.model_dump_json().encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
