"""Nobody but root can have the log written without end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.daemon.conftest import make_vfd as make_vfd
from tests.daemon.harness import Vfd, wait_for

from vfd.api import entrance, gate
from vfd.daemon import flood

from .members import CHANGERS, READERS, run_as, started_with_groups

pytestmark = pytest.mark.root


@pytest.fixture
def vfd(make_vfd: Callable[..., Vfd], tmp_path: Path) -> Iterator[Vfd]:
    with started_with_groups(make_vfd(vfs=2), tmp_path) as vfd:
        yield vfd


ASK = """
for n in range(int(sys.argv[4])):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    body = sys.argv[3].replace("NUMBER", str(n % 2 + 1)).encode()
    s.sendall(f"{sys.argv[2]} HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n"
              "content-type: application/json\\r\\n"
              f"content-length: {len(body)}\\r\\n\\r\\n".encode() + body)
    answer = s.makefile("rb").read()
print(answer.decode().split()[1])
"""


def asks(
    vfd: Vfd, uid: int, gid: int, what: str, body: object, times: int, suffix: str = ""
) -> str:
    """The status of the last answer."""
    arguments = (f"{vfd.socket}{suffix}", what, json.dumps(body), str(times))
    return run_as(uid, gid, ASK, *arguments).communicate(timeout=60)[0].strip()


def lines(vfd: Vfd, containing: str) -> list[str]:
    return [line for line in vfd.output().splitlines() if containing in line]


def test_requests_that_are_refused(vfd: Vfd) -> None:
    for uid, gid, status in ((64500, READERS, "403"), (64501, 64997, "403")):
        socket = Path(f"{vfd.socket}.read")
        socket.chmod(0o666)  # as nobody should
        body = {"level": "info"}
        assert asks(vfd, uid, gid, "PUT /v1/verbose", body, 300, ".read") == status
        told = lines(vfd, f"uid={uid}")
        assert gate.TOLD <= len(told) <= gate.TOLD + 3
        assert all(line.split()[1] == "warning" for line in told)


def test_changes_of_a_member_and_what_they_do(vfd: Vfd) -> None:
    vfd.add("vm0", vfd.vf(0))
    body = {"name": "vm0", "config": {**vfd.vf(0), "vlans": [1], "rate": "NUMBERMbps"}}
    assert asks(vfd, 64502, CHANGERS, "PUT /v1/vfs/vm0", body, 300) == "200"
    for some in (lines(vfd, "uid=64502"), lines(vfd, "event=updated")):
        assert flood.BURST <= len(some) <= flood.BURST + 10


def test_the_number_of_those_that_were_not_told_is_told() -> None:
    now = 0.0
    asked = flood.Flood(2, clock=lambda: now)
    assert [asked.fields("a") for _ in range(5)] == [{}, {}, None, None, None]
    assert asked.fields("b") == {}
    now = flood.EVERY
    assert asked.fields("a") == {"untold": 3}


CONNECT = """
held = []
for n in range(1000):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    held.append(s)
assert held[-1].recv(1) == b""
"""


def test_connections_that_are_closed(vfd: Vfd) -> None:
    run_as(64503, CHANGERS, CONNECT, str(vfd.socket)).communicate(timeout=60)
    told = lines(vfd, "uid 64503 (pid")
    assert entrance.TOLD <= len(told) <= entrance.TOLD + 3


NO_HTTP = """
for n in range(300):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    upgrade = (b"GET / HTTP/1.1\\r\\nhost: x\\r\\nupgrade: x\\r\\n"
               b"connection: upgrade, close\\r\\n\\r\\n")
    s.sendall(b"\\x00\\r\\n\\r\\n" if n % 2 else upgrade)
    print(s.makefile("rb").read().decode().split()[1])
"""


def test_what_is_no_http(vfd: Vfd) -> None:
    wait_for(lambda: lines(vfd, "event=ready"))
    before = vfd.output()
    answers = run_as(64504, CHANGERS, NO_HTTP, str(vfd.socket)).communicate(timeout=60)[0].split()
    assert answers == ["404", "400"] * 150, "each was answered before the next one"
    assert vfd.output() == before
