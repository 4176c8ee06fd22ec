"""Whoever may ask can't thereby stop others from asking, nor reach what isn't theirs."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.daemon.conftest import make_vfd as make_vfd
from tests.daemon.harness import Vfd, wait_for

from vfd.api.entrance import MAX_PER_USER
from vfd.api.gate import BODY_SECONDS
from vfd.api.schema import MAX_BODY
from vfd.api.server import HEADER_SECONDS

HEAD = b"POST /v1/vfs HTTP/1.1\r\nhost: vfd\r\ncontent-type: application/json\r\n"


@pytest.fixture
def vfd(make_vfd: Callable[..., Vfd]) -> Vfd:
    daemon = make_vfd(pciids=[])
    daemon.start()
    daemon.get("/v1/health")
    return daemon


@pytest.fixture
def dial(vfd: Vfd) -> Iterator[Callable[[], socket.socket]]:
    """Makes connections to the daemon's socket."""
    with ExitStack() as stack:

        def connect() -> socket.socket:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(20)
            sock.connect(str(vfd.socket))
            return sock

        yield connect


def answer(sock: socket.socket) -> bytes:
    """All that comes until the daemon closes the connection."""
    whole = b""
    try:
        while piece := sock.recv(65536):
            whole += piece
    except ConnectionResetError:
        pass
    return whole


def test_requests_that_never_end_are_cut_off(vfd: Vfd, dial: Callable[[], socket.socket]) -> None:
    began = time.monotonic()
    silent, half, again, slow = dial(), dial(), dial(), dial()
    half.sendall(b"GET /v1/health HTTP/1.1\r\nhost: ")
    again.sendall(b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n")
    while not again.recv(4096).endswith(b"}"):
        pass
    again.sendall(b"GET /v1/vers")
    slow.sendall(HEAD + b"content-length: 100\r\n\r\n{")
    assert b" 408 " in answer(slow)
    for sock in (silent, half, again):
        assert b"HTTP" not in answer(sock)  # it ends, and nothing was answered
    assert time.monotonic() - began < max(HEADER_SECONDS, BODY_SECONDS) + 3
    assert vfd.get("/v1/health")["status"] == "ok"


def test_a_stream_of_events_lasts_although_nothing_is_asked(
    vfd: Vfd, dial: Callable[[], socket.socket]
) -> None:
    stream = dial()
    stream.sendall(b"GET /v1/events?follow=true HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b" 200 " in stream.recv(4096)
    half, slow = dial(), dial()
    half.sendall(b"GET /v1/health HTTP/1.1\r\nhost: ")
    slow.sendall(HEAD + b"content-length: 100\r\n\r\n{")
    for sock in (half, slow):  # the time of what is asked too slowly is over
        answer(sock)
    vfd.process.send_signal(1) if vfd.process else None
    heard = b""
    while b"reloaded" not in heard:  # after a warning that no PF is listed
        piece = stream.recv(4096)
        assert piece, heard
        heard += piece


def test_one_users_connections_are_limited(vfd: Vfd, dial: Callable[[], socket.socket]) -> None:
    socks = [dial() for _ in range(MAX_PER_USER + 8)]
    for sock in socks[-8:]:
        assert answer(sock) == b""
    assert "too many connections" in vfd.output()
    for sock in socks[:8]:
        sock.close()
    wait_for(lambda: vfd.ask("GET", "/v1/version")[0] == 200)


@pytest.mark.parametrize(
    "framing",
    [b"content-length: %d\r\n\r\n" % (MAX_BODY + 1), b"transfer-encoding: chunked\r\n\r\n"],
)
def test_a_body_beyond_the_limit_is_refused_and_not_kept(
    dial: Callable[[], socket.socket], framing: bytes
) -> None:
    sock = dial()
    sock.sendall(HEAD + framing)
    if b"chunked" in framing:
        try:
            for _ in range(MAX_BODY // 65536 + 1):
                sock.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert b" 413 " in answer(sock)


NASTY = (
    "../outside",
    "../../etc/vfd-test",
    "a/../../outside",
    "/etc/vfd-test",
    ".hidden",
    "a/.hidden",
    "a//b",
    "a/",
    "a\u202eb",
    "a\x9b2Jb",
    "a\x1b[2Jb",
    "a\nb",
    "a\x00b",
    "x" * 256,
)


@pytest.mark.parametrize("name", NASTY)
def test_no_name_leads_out_of_config_dir_or_garbles_a_terminal(vfd: Vfd, name: str) -> None:
    config = {"pciid": "soft0", "vfid": 0, "vlans": [1]}
    before = sorted(str(p) for p in vfd.folder.rglob("*"))
    for body in (
        {"name": name, "config": config},
        {"config": {**config, "name": name}},
        {"file": name},
    ):
        status, error = vfd.ask("POST", "/v1/vfs", body)
        assert status in (400, 404, 422), error
        assert not {"\x1b", "\x9b", "\n", "\u202e"} & set(error["detail"])
        assert vfd.ask("POST", "/v1/plan", body)[0] in (200, 400, 404, 422)
    assert sorted(str(p) for p in vfd.folder.rglob("*")) == before


@pytest.mark.parametrize(
    "config",
    [
        {"vlans": ["1-4094"] * 90_000},
        {
            "macs": [
                f"02:00:00:{i >> 16:02x}:{i >> 8 & 255:02x}:{i & 255:02x}" for i in range(40_000)
            ]
        },
        {f"vlan_anti_spo{i}": 1 for i in range(40_000)},
        {"mirror": [{"target": 1, "direction": "in", "vlans": ["1-4094"]}] * 12_000},
        {"queues": [{"priority": i, "share": 1} for i in range(30_000)]},
    ],
    ids=lambda config: next(iter(config)),
)
def test_no_configuration_takes_long_to_refuse(vfd: Vfd, config: dict[str, object]) -> None:
    body = {"name": "vm", "config": {"pciid": "soft0", "vfid": 0, "vlans": [1], **config}}
    assert len(json.dumps(body)) < MAX_BODY
    began = time.monotonic()
    status, _ = vfd.ask("POST", "/v1/vfs", body)
    assert status in (400, 422)
    assert time.monotonic() - began < 5  # a busy machine; half a second on a quiet one
