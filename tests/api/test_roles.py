"""Who may ask, who may change, and who may not even connect."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.daemon.conftest import make_vfd as make_vfd
from tests.daemon.harness import Vfd

from vfd.cli import daemon, failures, vfs
from vfd.cli.main import run

from .members import CHANGERS, READERS, run_as, started_with_groups

pytestmark = pytest.mark.root

LOADED = (daemon, failures, vfs)
"""A process of another user can't read Python's files any more."""
READER = 64500
DESCRIPTION = Path(__file__).parents[2] / "src/vfd/api/openapi.json"
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in json.loads(DESCRIPTION.read_text())["paths"].items()
    for method, operation in methods.items()
]


@pytest.fixture
def vfd(make_vfd: Callable[..., Vfd], tmp_path: Path) -> Iterator[Vfd]:
    with started_with_groups(make_vfd(vfs=2), tmp_path) as vfd:
        yield vfd


ASK = """
for method, path, body in json.loads(sys.argv[2]):
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(sys.argv[1])
    except PermissionError:
        print(json.dumps([0, "the kernel refuses"]))
        continue
    data = json.dumps(body).encode()
    s.sendall(f"{method} {path} HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n"
              "content-type: application/json\\r\\n"
              f"content-length: {len(data)}\\r\\n\\r\\n".encode() + data)
    head, _, text = s.makefile("rb").read().partition(b"\\r\\n\\r\\n")
    print(json.dumps([int(head.split()[1]), text.decode()]))
"""


def ask_as(
    uid: int, gid: int, socket: Path | str, *requests: tuple[str, str, Any]
) -> list[tuple[int, str]]:
    """What a user of this group gets."""
    said = run_as(uid, gid, ASK, str(socket), json.dumps(requests)).communicate(timeout=30)[0]
    return [tuple(json.loads(line)) for line in said.splitlines()]


def bodies(vfd: Vfd) -> dict[str, Any]:
    """A body for each operation that wants one, good enough to change something."""
    vm = {"name": "vm1", "config": vfd.vf(1)}
    return {
        "add": vm,
        "update": {"name": "vm0", "config": vfd.vf(0, vlans=[7])},
        "plan": vm,
        "mirror": {"direction": "all", "target": 1},
        "clear": {"pf": vfd.pf},
        "set_pf": {"vfs": 4},
        "verbose": {"level": "debug"},
        "cpu_alarm": {"percent": 1},
    }


def test_every_operation_answers_a_reader_or_refuses_it_and_says_who_may(vfd: Vfd) -> None:
    vfd.add("vm0", vfd.vf(0))
    body = bodies(vfd)
    asked = [
        (
            method,
            path.replace("{pf}", vfd.pf).replace("{vfid}", "0").replace("{name}", "vm0"),
            body.get(operation["operationId"]),
        )
        for method, path, operation in OPERATIONS
    ]
    before = vfd.get("/v1/show?extended=true"), sorted(vfd.config_dir.iterdir())
    told = ask_as(READER, READERS, f"{vfd.socket}.read", *asked)
    assert len(told) == len(OPERATIONS) > 15
    for (method, path, operation), (status, text) in zip(OPERATIONS, told, strict=True):
        if operation["x-vfd-role"] == "read":
            assert status == 200, (method, path, text)
        else:
            error = json.loads(text)
            assert (status, error["exit"]) == (403, 3), (method, path, text)
            assert (
                f"uid {READER} may ask only: root and the members of the group vfd may change"
                in (error["detail"])
            )
    after = vfd.get("/v1/show?extended=true"), sorted(vfd.config_dir.iterdir())
    assert before == after


def test_every_method_that_is_no_get_changes_something_but_plan() -> None:
    """So that an operation isn't put among those for readers by mistake."""
    for method, _, operation in OPERATIONS:
        only_asks = method == "GET" or operation["operationId"] == "plan"
        assert operation["x-vfd-role"] == ("read" if only_asks else "change")


def test_what_is_sent_by_who_may_not_is_not_even_read(vfd: Vfd) -> None:
    ((status, _),) = ask_as(
        READER, READERS, f"{vfd.socket}.read", ("POST", "/v1/vfs?x=1", {"no": "such"})
    )
    assert status == 403


def test_each_kind_of_user_has_a_socket_and_others_none(vfd: Vfd) -> None:
    ask = ("GET", "/v1/version", None)
    change = ("PUT", "/v1/verbose", {"level": "info"})
    sockets = [f"{vfd.socket}{suffix}" for suffix in ("", ".read", ".root")]
    answers = {
        who: [[status for status, _ in ask_as(uid, gid, socket, ask, change)] for socket in sockets]
        for who, uid, gid in (
            ("member", 64501, CHANGERS),
            ("reader", 64502, READERS),
            ("other", 64503, 64997),
            ("root", 0, 0),
        )
    }
    assert answers == {
        "member": [[200, 200], [0, 0], [0, 0]],
        "reader": [[0, 0], [200, 403], [0, 0]],
        "other": [[0, 0]] * 3,
        "root": [[200, 200]] * 3,
    }


def test_without_a_group_for_readers_there_is_no_socket_for_them(
    make_vfd: Callable[..., Vfd],
) -> None:
    if "vfd-read:" in Path("/etc/group").read_text():
        pytest.skip("this host has a group vfd-read")
    vfd = make_vfd(pciids=[])
    vfd.start()
    assert {p.name for p in vfd.folder.glob("s*") if p.is_socket()} == {"s", "s.root"}
    vfd.stop()
    assert [p for p in vfd.folder.glob("s*") if p.is_socket()] == []


def iplex_as(uid: int, gid: int, capfd: pytest.CaptureFixture[str], *line: str) -> tuple[int, str]:
    """iplex, run by a user of this group: its exit code and what it says."""
    capfd.readouterr()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        code = 99
        try:
            code = run(list(line))
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), "".join(capfd.readouterr())


def test_iplex_finds_the_readers_socket_and_says_who_may_change(
    vfd: Vfd, capfd: pytest.CaptureFixture[str]
) -> None:
    at = ("--socket", str(vfd.socket))
    code, said = iplex_as(READER, READERS, capfd, "ping", *at)
    assert code == 0, said
    code, said = iplex_as(READER, READERS, capfd, "delete", "vm0", *at)
    assert code == 3
    assert f"uid {READER} may ask only: root and the members of the group vfd may change" in said
    code, said = iplex_as(64503, 64997, capfd, "ping", *at)
    assert code == 3
    assert "root and the members of the groups vfd and vfd-read may ask" in said
    code, said = iplex_as(64501, CHANGERS, capfd, "verbose", "info", *at)
    assert code == 0, said


def test_a_reader_has_nothing_written(vfd: Vfd) -> None:
    """A plan says what a change would do, and makes no file for that, not for a moment either."""
    plan = ("POST", "/v1/plan", {"name": "deep/vm1", "config": vfd.vf(1)})
    changed = vfd.config_dir.stat().st_mtime_ns
    ((status, text),) = ask_as(READER, READERS, f"{vfd.socket}.read", plan)
    assert (status, json.loads(text)["action"]) == (200, "add")
    assert vfd.config_dir.stat().st_mtime_ns == changed
