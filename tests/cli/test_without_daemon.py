"""What iplex does where no daemon answers: exit codes, and words that say what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from tests.cli.conftest import IPLEX, Iplex, environment

from vfd.api.client import DEFAULT_SOCKET, BusyError, Client
from vfd.cli import command as commands
from vfd.cli.command import Settings
from vfd.cli.main import run

COMMANDS = [
    ("add", "vm1"),
    ("update", "vm1"),
    ("delete", "vm1"),
    ("status", "vm1"),
    ("get", "vm1"),
    ("export", "vm1"),
    ("plan", "vm1"),
    ("show", "all"),
    ("show", "mirrors"),
    ("caps", "soft0"),
    ("mirror", "soft0", "0", "in", "1"),
    ("clear", "soft0"),
    ("pf", "set", "soft0", "--vfs", "2"),
    ("pf", "remove", "soft0"),
    ("events",),
    ("events", "--follow"),
    ("ping",),
    ("dump",),
    ("verbose", "1"),
    ("cpu_alarm", "15%"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_that_needs_a_daemon_ends_with_6_without_one(
    iplex: Iplex, tmp_path: Path, command: tuple[str, ...]
) -> None:
    path = str(tmp_path / "nobody.sock")
    ended = iplex(*command, "--socket", path)
    assert ended.code == 6
    assert ended.out == ""
    assert path in ended.err
    assert "systemctl start vfd" in ended.err


def test_a_socket_that_nobody_listens_on_is_told_from_none(iplex: Iplex, tmp_path: Path) -> None:
    path = tmp_path / "left.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    ended = iplex("ping", VFD_SOCKET=str(path))
    assert (ended.code, "nobody listens" in ended.err) == (6, True)


OLD_STYLE = """{
    "comment": "as VFd's own examples are written",
    "socket": "%s",
    "pciids": [ {"id": "0000:07:00.0",}, ],
}
"""


def test_a_main_file_in_vfds_own_style_gives_the_socket(iplex: Iplex, tmp_path: Path) -> None:
    conf = tmp_path / "vfd.cfg"
    conf.write_text(OLD_STYLE % "/nonexistent/conf.sock")
    ended = iplex("ping", f"--conf={conf}")
    assert (ended.code, "no daemon at /nonexistent/conf.sock" in ended.err) == (6, True), ended
    conf.write_text("{")
    ended = iplex("ping", f"--conf={conf}")
    assert (ended.code, str(conf) in ended.err) == (2, True)


def test_the_hosts_main_file_is_read_alike_and_warned_of_where_it_can_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "vfd.cfg"
    monkeypatch.setattr("vfd.cli.command.CONFIG_FILE", str(conf))
    monkeypatch.delenv("VFD_SOCKET", raising=False)
    assert Settings().socket_path() == DEFAULT_SOCKET
    conf.write_text(OLD_STYLE % "/run/mine.sock")
    assert Settings().socket_path() == "/run/mine.sock"
    assert capsys.readouterr().err == ""
    conf.write_text('{"socket": "/run/mine.sock"')
    assert Settings().socket_path() == DEFAULT_SOCKET
    assert f"{conf} can't be read" in capsys.readouterr().err


def test_a_full_queue_is_waited_at_and_not_taken_for_no_daemon(tmp_path: Path) -> None:
    path = tmp_path / "full.sock"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as other:
        listening.bind(str(path))
        listening.listen(0)
        other.connect(str(path))
        began = time.monotonic()
        with pytest.raises(BusyError) as error:
            Client(str(path), timeout=1.5).get("/v1/version")
        assert 1.45 < time.monotonic() - began < 2.4, "its time, to the fraction"
        assert "within 1.5 s: others' connections fill its queue" in error.value.detail
        assert "don't start another" in error.value.hint

        def serve() -> None:
            for _ in range(2):
                connection, _ = listening.accept()
                with connection:
                    connection.settimeout(0.2)
                    try:
                        connection.recv(65536)
                    except TimeoutError:
                        continue
                    connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"is": "up"}')

        server = threading.Timer(2, serve)
        server.start()
        assert Client(str(path), timeout=30).get("/v1/version") == {"is": "up"}
        server.join()


@pytest.mark.parametrize(
    ("line", "effect"),
    [
        (["delete", "vm1"], "Whether the request took effect is unknown"),
        (["show", "all"], "Nothing was changed: ask again"),
        (["events", "--follow"], "Nothing was changed: ask again"),
    ],
    ids=["delete", "show", "follow"],
)
def test_a_daemon_that_goes_away_before_it_answers_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    line: list[str],
    effect: str,
) -> None:
    """Where it doesn't come back in time."""
    monkeypatch.setattr(commands, "PATIENCE", 0.5)
    path = tmp_path / "gone.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def hang_up() -> None:
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        assert run([*line, "--socket", str(path)]) == 6
        thread.join()
    said = capfd.readouterr().err
    assert "ended before the answer" in said
    assert effect in said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user who may not ask")
def test_who_may_not_ask_is_told_which_group_to_join(tmp_path: Path) -> None:
    path = tmp_path / "vfd.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0o660)
        tmp_path.chmod(0o755)
        # The interpreter may be in root's home: what runs is loaded before root is given up.
        program = (
            "import os, sys; from vfd.cli import daemon, failures; from vfd.cli.main import run;"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
            "sys.exit(run(['ping', '--socket', 'vfd.sock']))"
        )
        ended = subprocess.run(
            [IPLEX.with_name("python"), "-c", program],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            cwd=tmp_path,
            env=environment(USER="nobody"),
        )
    assert ended.returncode == 3, ended.stderr
    assert "permission denied" in ended.stderr
    assert "usermod -aG vfd nobody" in ended.stderr


def test_the_socket_is_the_options_then_the_main_files_then_the_environments(
    iplex: Iplex, tmp_path: Path
) -> None:
    conf = tmp_path / "vfd.cfg"
    conf.write_text('{"socket": "/nonexistent/conf.sock"}')
    options = ("--socket", "/nonexistent/option.sock")
    everything = ("--conf", str(conf), "ping", *options)
    assert "/nonexistent/option.sock" in iplex(*everything, VFD_SOCKET="/nonexistent/env").err
    ended = iplex("ping", f"--conf={conf}", VFD_SOCKET="/nonexistent/env")
    assert "/nonexistent/conf.sock" in ended.err
    assert "/nonexistent/env" in iplex("ping", VFD_SOCKET="/nonexistent/env").err


@pytest.mark.parametrize(
    "line",
    [
        ("nosuch",),
        ("show", "--nosuch"),
        ("add",),
        ("check",),
        ("mirror", "soft0", "0", "sideways", "1"),
        ("mirror", "soft0", "0", "in"),
        ("mirror", "soft0", "zero", "in", "1"),
        ("pf", "set", "soft0"),
        ("pf", "set", "soft0", "--vfs", "257"),
        ("verbose", "loud"),
        ("cpu_alarm", "much"),
        ("events", "--since", "yesterday"),
        ("events", "--kind", "refusd"),
        ("completion", "tcsh"),
        ("ping", "--conf", "/nonexistent/vfd.cfg"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_before_any_daemon_is_asked(
    iplex: Iplex, line: tuple[str, ...]
) -> None:
    ended = iplex(*line, VFD_SOCKET="/nonexistent/vfd.sock")
    assert (ended.code, ended.out) == (2, "")
    assert "/nonexistent/vfd.sock" not in ended.err
    assert not ended.err.rstrip().endswith("Error:"), "it says what is wrong"


def test_the_root_folder_is_told_to_be_one(iplex: Iplex) -> None:
    ended = iplex("add", "/", "--name", "z", VFD_SOCKET="/nonexistent/vfd.sock")
    assert (ended.code, ended.err) == (4, "iplex: / is a folder\n")


@pytest.mark.parametrize(
    "line",
    [
        ("add", ""),
        ("delete", ""),
        ("status", ""),
        ("export", ""),
        ("show", ""),
        ("check", ""),
        ("caps", ""),
        ("mirror", "", "0", "in", "1"),
        ("clear", ""),
        ("pf", "set", "", "--vfs", "2"),
        ("pf", "remove", ""),
        ("events", "--name", ""),
        ("ping", "--socket", ""),
        ("--conf", "", "ping"),
    ],
    ids=repr,
)
def test_an_unset_variable_of_a_script_means_neither_all_nor_the_default(
    iplex: Iplex, line: tuple[str, ...]
) -> None:
    ended = iplex(*line, VFD_SOCKET="/nonexistent/vfd.sock")
    assert (ended.code, ended.out) == (2, "")
    assert "it is empty" in ended.err


@pytest.mark.parametrize("number", ["zero", "-1", "257", "9" * 5000, "1.0", "²"])
def test_what_is_no_number_of_vfs_is_told_which_there_are(iplex: Iplex, number: str) -> None:
    ended = iplex("pf", "set", "soft0", "--vfs", number)
    assert (ended.code, "is no number from 0 to 256" in ended.err) == (2, True)


def test_a_full_disk_under_the_answer_is_told(tmp_path: Path) -> None:
    (tmp_path / "vm1.json").write_text('{"pciid": "soft0", "vfid": 0, "vlans": [1]}')
    with open("/dev/full", "w") as full:
        for line in (["check", "vm1.json"], ["completion", "bash"]):
            ended = subprocess.run(
                [IPLEX, *line],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
                env=environment(),
            )
            told = "iplex: the output can't be written: No space left on device\n"
            assert (ended.returncode, ended.stderr) == (5, told)


def test_a_misspelt_command_is_answered_with_the_nearest(iplex: Iplex) -> None:
    assert "Did you mean 'status'?" in iplex("statsu", "vm1").err


def test_failures_are_json_too_when_json_is_asked_for(iplex: Iplex) -> None:
    for line in (("show", "all"), ("show", "--nosuch"), ("nosuch",)):
        ended = iplex(*line, "--json", VFD_SOCKET="/nonexistent/vfd.sock")
        assert json.loads(ended.err)["exit"] == ended.code
        assert ended.out == ""


@pytest.mark.parametrize(
    "line",
    [
        ("--loglevel=2", "verbose"),
        ("verbose", "--loglevel=2"),
        ("add", "vm1", "--loglevel=0"),
        ("--conf=/nonexistent/vfd.cfg", "--socket=/nonexistent/vfd.sock", "show", "all"),
        ("mirror", "0", "3", "in", "4", "--loglevel=1"),
        ("show", "0:3", "--loglevel", "1"),
        ("export", "vm1.json"),
    ],
    ids=" ".join,
)
def test_vfds_own_command_lines_are_understood(iplex: Iplex, line: tuple[str, ...]) -> None:
    ended = iplex(*line, VFD_SOCKET="/nonexistent/vfd.sock")
    assert ended.code == 6, ended.err


def test_help_teaches_every_command_with_an_example(iplex: Iplex) -> None:
    overview = iplex("--help")
    assert overview.code == 0
    for command in ("add", "show", "events", "pf", "check"):
        assert f"\n  {command} " in overview.out
    for line in dict.fromkeys(("pf set" if c[0] == "pf" else c[0]) for c in COMMANDS):
        told = iplex(*line.split(), "--help")
        assert told.code == 0
        assert "Examples:" in told.out
        assert f"iplex {line}" in told.out.split("Examples:")[1]


def test_a_locale_without_our_characters_is_no_reason_to_fail(iplex: Iplex) -> None:
    ended = iplex("get", "--help", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (ended.code, ended.err) == (0, "")
    assert "Traceback" not in ended.out


def test_the_version_is_the_packages(iplex: Iplex) -> None:
    from vfd import __version__

    assert iplex("--version").out == f"iplex {__version__}\n"


def test_a_path_that_is_not_there_ends_with_4_and_asks_nobody(iplex: Iplex) -> None:
    for path in ("./vm1.json", "/nonexistent/vm1", "../vm1", "~/no such vm1.json"):
        ended = iplex("add", path, VFD_SOCKET="/nonexistent/vfd.sock")
        assert (ended.code, "does not exist" in ended.err) == (4, True), ended.err


def test_help_needs_neither_rich_nor_pydantic_nor_an_http_framework() -> None:
    """What iplex imports is what its user waits for."""
    probe = (
        "import sys; from vfd.cli.main import run;"
        "sys.argv=['iplex']; run(['show', 'all', '--socket', '/nonexistent']);"
        "heavy = {'rich', 'pydantic', 'fastapi', 'uvicorn', 'pyroute2', 'httpx'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run(
        [IPLEX.with_name("python"), "-c", probe],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env=environment(),
    )
    assert ended.stdout == "[]\n"


def test_who_follows_events_too_slowly_misses_none(iplex: Iplex, tmp_path: Path) -> None:
    """A daemon drops such a reader and says with which event to go on."""
    path = tmp_path / "vfd.sock"
    asked: list[str] = []

    def event(seq: int, kind: str) -> bytes:
        more = {"time": 0, "level": "info", "pf": None, "vfid": None, "name": None, "data": {}}
        return json.dumps({"seq": seq, "kind": kind, "text": f"number {seq}", **more}).encode()

    def serve(listening: socket.socket) -> None:
        for events in ([(7, "link"), (8, "link"), (8, "dropped")], [(9, "link")]):
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(65536).decode().split()[1])
                lines = b"".join(event(*one) + b"\n" for one in events)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n"
                    b"connection: close\r\n\r\n" + lines
                )

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        server = threading.Thread(target=serve, args=(listening,))
        server.start()
        ended = iplex("events", "--follow", "--json", VFD_SOCKET=str(path))
        server.join(10)
    assert [json.loads(line)["seq"] for line in ended.out.splitlines()] == [7, 8, 9], ended.err
    assert "since=8" in asked[1]
