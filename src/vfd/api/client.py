"""A client of the daemon's API over its Unix socket, in the standard library only.

``iplex`` starts for every command, so what it imports is what its user waits for: no pydantic, no
HTTP library. Answers are the plain JSON objects that ``vfd.api.schema`` describes.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    IncompleteRead,
    RemoteDisconnected,
)
from typing import Any
from urllib.parse import quote, urlencode

DEFAULT_SOCKET = "/run/vfd/vfd.sock"
ROOTS, READERS = ".root", ".read"
"""What the path of root's own socket ends in, and that of those who may only ask."""
ANSWER_TIMEOUT = 120.0
"""Seconds. Generous: a NIC may take its time to create VFs, and giving up changes nothing."""

_QUOTED = 80
"""Bytes of a strange answer that are shown."""


class ApiError(Exception):
    """The daemon refused or failed; ``problem`` is its answer, as RFC 9457 writes them."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or f"HTTP {status}"))
        self.status = status
        self.problem = problem

    @property
    def exit_code(self) -> int:
        """What ``iplex`` ends with: 3 refused by policy, 4 not found, 5 NIC failed."""
        given = self.problem.get("exit")
        if isinstance(given, int) and 0 < given < 128:
            return given
        if self.status == 404:
            return 4
        return 3 if self.status < 500 else 5


class NoDaemonError(Exception):
    """Nothing that speaks the API answers at ``path``."""

    what = "no daemon"

    def __init__(self, path: str, reason: str, hint: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.hint = hint

    @property
    def detail(self) -> str:
        return f"{self.what} at {self.path}: {self.reason}"


class BusyError(NoDaemonError):
    """The daemon runs, and took no connection."""

    what = "no answer"


class CutOffError(NoDaemonError):
    """The connection ended before the answer."""

    what = "no answer"


class NotDoneError(NoDaemonError):
    """The daemon ended amid a change, and the next one has it not."""

    what = "not done"

    def __init__(self, path: str) -> None:
        super().__init__(
            path,
            "the daemon ended amid the request, and what is in force now is not what was asked for",
            "Ask again.",
        )


class _Object(dict[str, Any]):
    """An object of an answer. What should be in it and isn't is no fault of who looks for it."""

    def __missing__(self, key: str) -> Any:
        raise StrangeAnswerError(f"an answer without {key!r}")


class StrangeAnswerError(Exception):
    """An answer that isn't as the API describes it: another version's, or another program's."""


class Client:
    """One daemon. Each call is one connection: a command makes one or two of them."""

    def __init__(
        self,
        path: str = DEFAULT_SOCKET,
        timeout: float = ANSWER_TIMEOUT,
        trace: Callable[[str], None] | None = None,
        patience: float = 0.0,
    ) -> None:
        """``patience``: seconds for which a daemon that ends amid a change is waited for, to say
        what became of it."""
        self.path = path
        self.timeout = timeout
        self.patience = patience
        self.trace = trace
        """Told of every request and answer, a line each."""

    def get(self, path: str, **query: Any) -> Any:
        return self.call("GET", path, query=query)

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        return self.call("PUT", path, body)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self.call("POST", path, body)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        return self.call("PATCH", path, body)

    def delete(self, path: str, **query: Any) -> Any:
        return self.call("DELETE", path, query=query)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Any:
        """The JSON answer, or None for an empty one. Raises ApiError, NoDaemonError."""
        try:
            return self._call(method, path, body, query)
        except CutOffError as cut:
            if not self.patience or not _is_change(method, path):
                raise
            # Imported where needed: it hardly ever is.
            from vfd.api.afterwards import what_became

            if self.trace:
                self.trace(f"! {cut.reason}: waiting for the daemon, to ask what became of it")
            return what_became(self.path, self.patience, cut, (method, path, body or {}))

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, Any] | None,
    ) -> Any:
        connection = self._connect(self.timeout)
        try:
            response = self._send(connection, method, path, body, query)
            raw = self._read(response, method, path)
            if self.trace:
                self.trace(f"< {response.status} {raw.decode(errors='replace').strip()}")
            return self._decoded(response.status, raw)
        finally:
            connection.close()

    def stream(self, path: str, query: Mapping[str, Any]) -> Iterator[Any]:
        """The objects of an NDJSON stream as they come, until the daemon ends it."""
        connection = self._connect(self.timeout)
        try:
            response = self._send(connection, "GET", path, None, query)
            if response.status >= 400:
                self._decoded(response.status, self._read(response, "GET", path))
            if connection.sock is not None:
                connection.sock.settimeout(None)
            while line := self._readline(response):
                if line.strip():
                    yield self._object(line)
            if response.chunked and response.chunk_left is not None:
                # the library takes a stream that is cut off for its end
                raise self._cut_off(IncompleteRead(b""), "GET", path)
        finally:
            connection.close()

    def _connect(self, timeout: float) -> HTTPConnection:
        connection = HTTPConnection("localhost", timeout=timeout)
        connection.sock = self._dial(time.monotonic() + timeout)
        connection.sock.settimeout(timeout)
        return connection

    def _dial(self, until: float) -> socket.socket:
        """At the socket that is for this user: root and readers have their own, where nobody
        else's connections wait before theirs. A daemon may have the one for all only."""
        if os.geteuid() == 0:
            try:
                return _connected(self.path + ROOTS, until)
            except OSError:
                pass
        try:
            return _connected(self.path, until)
        except PermissionError:
            try:
                return _connected(self.path + READERS, until)
            except OSError:
                raise _forbidden(self.path) from None
        except BlockingIOError:
            raise BusyError(
                self.path,
                f"it took no connection within {self.timeout:g} s: others' connections fill its"
                " queue, or it hangs",
                "It runs: don't start another. Its log (`journalctl -u vfd`) says who asks without"
                " end, or what it waits for; try again, or as root.",
            ) from None
        except OSError as error:
            raise _no_daemon(self.path, error) from None

    def _send(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, Any] | None,
    ) -> HTTPResponse:
        headers = {"Accept": "application/json, application/x-ndjson", "Connection": "close"}
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        if self.trace:
            self.trace(f"> {method} {target(path, query)} {(payload or b'').decode()}".rstrip())
        try:
            connection.request(method, target(path, query), payload, headers)
            return connection.getresponse()
        except (OSError, HTTPException) as error:
            raise self._cut_off(error, method, path) from None

    def _read(self, response: HTTPResponse, method: str, path: str) -> bytes:
        try:
            return response.read()
        except (OSError, HTTPException) as error:
            raise self._cut_off(error, method, path) from None

    def _readline(self, response: HTTPResponse) -> bytes:
        try:
            return response.readline()
        except (OSError, HTTPException) as error:
            raise self._cut_off(error, "GET", "") from None

    def _decoded(self, status: int, raw: bytes) -> Any:
        if status < 300:
            return self._object(raw) if raw.strip() else None
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            answer = {"detail": raw[:_QUOTED].decode(errors="replace").strip()}
        raise ApiError(status, answer if isinstance(answer, dict) else {"detail": str(answer)})

    def _object(self, raw: bytes) -> Any:
        """Every answer of vfd is an object."""
        try:
            answer = json.loads(raw, object_hook=_Object)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, _Object):
            start = " ".join(raw[:_QUOTED].decode(errors="replace").split())
            raise self.strange(StrangeAnswerError(f"an answer that begins with {start!r}"))
        return answer

    def strange(self, error: StrangeAnswerError) -> NoDaemonError:
        """The same for whoever asked at this socket."""
        return strange(self.path, error)

    def _cut_off(self, error: Exception, method: str, path: str) -> NoDaemonError:
        kind = NoDaemonError
        if isinstance(error, TimeoutError):
            reason = f"no answer within {self.timeout:g} s"
        elif isinstance(error, HTTPException) and not isinstance(
            error, IncompleteRead | RemoteDisconnected
        ):
            text = " ".join(str(error).split())[:_QUOTED]
            return self.strange(StrangeAnswerError(f"no HTTP ({type(error).__name__}: {text})"))
        else:
            reason, kind = "the connection ended before the answer", CutOffError
        effect = (
            "Whether the request took effect is unknown: look with `iplex show all`."
            if _is_change(method, path)
            else "Nothing was changed: ask again."
        )
        return kind(self.path, reason, f"{effect} The daemon's log (`journalctl -u vfd`) says why.")


def _is_change(method: str, path: str) -> bool:
    """Whether the request is more than a question."""
    return method != "GET" and path != "/v1/plan"


def _connected(path: str, until: float) -> socket.socket:
    """Waits in the kernel while the daemon's queue is full. Raises OSError, and BlockingIOError
    where it still is after that time: a socket with a time-out of Python's own would not wait."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        left = max(until - time.monotonic(), 0.001)
        wait = struct.pack("ll", int(left), int(left % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def target(path: str, query: Mapping[str, Any] | None = None) -> str:
    """The request target: ``path`` quoted but for its slashes, and the query without Nones."""
    pairs = {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in (query or {}).items()
        if value is not None
    }
    # A name that is no Unicode text goes as the bytes it is: the daemon says that nobody has it.
    query_text = urlencode(pairs, errors="surrogateescape") if pairs else ""
    return quote(path, safe="/:", errors="surrogateescape") + (f"?{query_text}" if pairs else "")


def strange(path: str, error: StrangeAnswerError) -> NoDaemonError:
    return NoDaemonError(
        path,
        f"what answers there gives {error}",
        "Is it vfd, and of the same version as this program? After an upgrade: `systemctl restart"
        " vfd`, which disturbs no guest.",
    )


def _forbidden(path: str) -> ApiError:
    """What the daemon itself would answer, had the kernel let us ask it."""
    problem = {
        "type": "forbidden",
        "title": "this user may not use the API",
        "status": 403,
        "detail": f"{path}: permission denied: root and the members of the groups vfd and"
        " vfd-read may ask",
        "hint": f"Join the group with `usermod -aG vfd {os.environ.get('USER') or 'USER'}` (or"
        " vfd-read, whose members may not change anything) and log in again, or use sudo.",
        "problems": [],
        "exit": 3,
    }
    return ApiError(403, problem)


def _no_daemon(path: str, error: OSError) -> NoDaemonError:
    if isinstance(error, FileNotFoundError):
        reason = "there is no such socket"
    elif isinstance(error, ConnectionRefusedError):
        reason = "nobody listens on this socket"
    else:
        reason = error.strerror or str(error)
    return NoDaemonError(
        path,
        reason,
        "Start the daemon with `systemctl start vfd` (or `vfd --config FILE`). If it listens on"
        " another socket, name that with --socket PATH or VFD_SOCKET.",
    )
