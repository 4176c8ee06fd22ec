"""Whatever a program is started with, it says in a line what is wrong and ends with a code that is
documented: closed and full streams, odd arguments, a folder that is gone, answers of no vfd."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.cli.conftest import IPLEX, Ended, Iplex, environment

VFD = IPLEX.with_name("vfd")
NOBODY = "/nonexistent/vfd.sock"


def in_shell(line: str, folder: Path, **more: str) -> Ended:
    """A command line with its redirections; ``out`` is what is left of its standard output."""
    ended = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        timeout=30,
        check=False,
        cwd=folder,
        env=environment(PATH=f"{IPLEX.parent}:{os.environ['PATH']}", **more),
    )
    out, err = (text.decode(errors="surrogateescape") for text in (ended.stdout, ended.stderr))
    return Ended(ended.returncode, out, err)


def test_a_closed_output_is_no_failure_of_what_was_asked(tmp_path: Path) -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n" + VERSION, tmp_path) as path:
        ended = in_shell(f"iplex ping --socket {path} >&-", tmp_path)
        assert (ended.code, ended.err) == (0, "")
    for line in ("iplex --version", "iplex --help", "iplex completion bash", "vfd --version"):
        ended = in_shell(f"{line} >&-", tmp_path)
        assert (ended.code, ended.err) == (0, ""), line


@pytest.mark.parametrize("broken", ["2>&-", "2>/dev/full", ">&- 2>&- <&-"])
def test_an_error_output_that_takes_nothing_leaves_the_exit_code(
    tmp_path: Path, broken: str
) -> None:
    for line, code in (
        ("iplex nosuch", 2),
        (f"iplex ping --socket {NOBODY}", 6),
        (f"iplex ping --debug --socket {NOBODY}", 6),
        ("iplex check /nonexistent.json", 4),
        ("vfd --nosuch", 2),
        ("vfd --check --config /nonexistent", 3),
    ):
        ended = in_shell(f"{line} {broken}", tmp_path)
        assert (ended.code, ended.out, ended.err) == (code, "", ""), line


def test_a_full_output_is_told(tmp_path: Path) -> None:
    (tmp_path / "vfs").mkdir()
    (tmp_path / "vfd.cfg").write_text('{"config_dir": "%s"}' % (tmp_path / "vfs"))
    for line in ("vfd --version", "vfd --help", "vfd --check --config vfd.cfg"):
        told = "vfd: the output can't be written: No space left on device\n"
        for debug in ({}, {"VFD_DEBUG": "1"}):
            ended = in_shell(f"{line} >/dev/full", tmp_path, **debug)
            assert (ended.code, ended.err) == (1, told), line


def test_a_reader_who_has_seen_enough_is_no_failure() -> None:
    for name in ("iplex", "vfd"):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb") as nobody_reads:
            command = (IPLEX.with_name(name), "--help")
            ended = subprocess.run(command, stdout=nobody_reads, stderr=subprocess.PIPE)
        assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b""), name


def test_nothing_is_written_into_a_file_that_got_the_number_of_a_closed_stream(
    tmp_path: Path,
) -> None:
    ended = in_shell(f"{IPLEX} ping --debug --socket {NOBODY} >&- 2>&-; ls -A", tmp_path)
    assert ended.out == ""
    program = (
        "from vfd.cli import streams; streams.make_usable(); print(open('/etc/hostname').fileno())"
    )
    ended = in_shell(f'python -c "{program}" <&- 2>&- | cat', tmp_path)
    assert int(ended.out) > 2, ended


LONG = "a" * 5000


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f"iplex add ./{LONG}", 4),
        (f"iplex add {'b' * 300}.json --socket {NOBODY}", 4),
        (f"iplex add ~nobody-has-this-name/x --socket {NOBODY}", 4),
        (f"iplex check {LONG}", 4),
        (f"iplex ping --conf {LONG}", 2),
        ("iplex ping --conf /dev/zero", 2),
        ("iplex ping --conf /", 2),
        (f"iplex ping --socket {LONG}", 6),
        (f"iplex {LONG}", 2),
        (f"iplex delete {LONG} --socket {NOBODY}", 6),
        (r"iplex add ./$'\xff'", 4),
        (r"iplex ping --socket $'\xff'", 6),
        (r"iplex check $'\xff\xed\xa0\x80'", 4),
        (r"iplex $'\xff'", 2),
        (r"iplex export --to $'\xff' x --socket /nonexistent", 6),
        ("mkdir gone; cd gone; rmdir ../gone; iplex add ./x.json", 4),
        ("mkdir gone; cd gone; rmdir ../gone; iplex check x.json .", 4),
        ("mkdir gone; cd gone; rmdir ../gone; vfd --check -c vfd.cfg", 3),
        (f"env -u HOME iplex add ~/nosuch --socket {NOBODY}", 4),
        (f"COLUMNS=-3 iplex --help; COLUMNS=x iplex ping --socket {NOBODY}", 6),
        ("vfd --check --config /dev/zero", 3),
        (f"vfd --check --config {LONG}", 3),
        (r"vfd --check --config $'\xff'", 2),
    ],
)
def test_an_odd_argument_is_told_in_few_words(tmp_path: Path, line: str, code: int) -> None:
    ended = in_shell(line, tmp_path)
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert ended.err
    assert len(ended.err) < (len(line) + 100 if line.startswith("vfd") else 2000)
    assert ("…" in ended.err) == (LONG in line and line.startswith("iplex") and NOBODY not in line)
    assert ended.err.replace("…", "").isascii()
    assert (r"\xff" in ended.err) == ("xff" in line and "export" not in line)


def test_a_terminal_without_our_letters_shows_what_it_can(tmp_path: Path) -> None:
    for how in ({"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}):
        ended = in_shell("iplex get --help && iplex add ./ü→", tmp_path, **how)
        assert ended.code == 4, ended.err
        assert "Traceback" not in ended.err


def test_ctrl_c_ends_a_command_without_a_word_of_python(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s" / "s"))
        listening.listen()
        waiting = subprocess.Popen(
            [IPLEX, "ping", "--socket", tmp_path / "s" / "s"],
            stderr=subprocess.PIPE,
            env=environment(),
        )
        asking, _ = listening.accept()
        with asking:
            waiting.send_signal(signal.SIGINT)
            _, err = waiting.communicate(timeout=10)
    assert (waiting.returncode, err.strip()) == (130, b"")


class answering:  # noqa: N801
    """A socket at which every question gets ``text``, and then the end."""

    def __init__(self, text: bytes, folder: Path) -> None:
        self.text, self.path = text, folder / "a.sock"

    def __enter__(self) -> Path:
        self.path.unlink(missing_ok=True)
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(self.path))
        self.listening.listen()
        threading.Thread(target=self._serve, daemon=True).start()
        return self.path

    def _serve(self) -> None:
        try:
            while True:
                connection, _ = self.listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(self.text)
        except OSError:
            return

    def __exit__(self, *_: object) -> None:
        self.listening.close()


VERSION = b'{"name": "vfd", "version": "0", "config_dir": "/c"}'
OK = b"HTTP/1.1 200 OK\r\n\r\n"
RUBBISH: Mapping[str, bytes] = {
    "nothing": b"",
    "noise": bytes(range(256)) * 300,
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a page": OK + b"<html>",
    "a list": OK + b"[]",
    "null": OK + b"null",
    "an empty object": OK + b"{}",
    "half an object": OK + b'{"name": ',
    "no UTF-8": OK + b'"\xff"',
    "deep": OK + b"[" * 100_000,
    "cut off": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}",
    "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\n\n\r\nzz\r\n",
    "long headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n{}",
    "no status": b"HTTP/1.1 abc\r\n\r\n",
    "an error that is none": b"HTTP/1.1 500 no\r\n\r\n[1, 2]",
    "an error with odd parts": b'HTTP/1.1 422 no\r\n\r\n{"detail": 5, "exit": 9999, "hint": {}}',
}
CODES = {"an error that is none": 5, "an error with odd parts": 3}
"""The others come from no daemon."""


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_in_place_of_an_answer_is_told_as_that(
    iplex: Iplex, tmp_path: Path, kind: str
) -> None:
    with answering(RUBBISH[kind], tmp_path) as path:
        lines: tuple[tuple[str, ...], ...] = (("status", "vm1"), ("events", "--follow"))
        for line in lines:
            if kind == "nothing" and line[0] == "events":
                continue
            ended = iplex(*line, "--socket", str(path))
            assert ended.code == CODES.get(kind, 6), (line, ended)
            assert "Traceback" not in ended.err
            assert ended.err.startswith("iplex: ")
            assert len(ended.err) < 1500
            assert "fault of iplex" not in ended.err, ended.err


@pytest.mark.parametrize("line", ["status ", "caps ", "add "])
def test_a_key_press_says_nothing_of_an_answer_that_is_none(tmp_path: Path, line: str) -> None:
    with answering(RUBBISH["an empty object"], tmp_path) as path:
        ended = in_shell(
            f"COMP_WORDS='iplex {line}' COMP_CWORD=2 _IPLEX_COMPLETE=bash_complete iplex",
            tmp_path,
            VFD_SOCKET=str(path),
        )
    assert (ended.code, ended.err) == (0, "")


def test_a_daemon_of_another_version_is_named_as_the_likely_cause(
    iplex: Iplex, tmp_path: Path
) -> None:
    with answering(OK + b'{"version": "0"}', tmp_path) as path:
        ended = iplex("ping", "--socket", str(path))
    assert ended.code == 6
    assert "an answer without 'name'" in ended.err
    assert "systemctl restart vfd" in ended.err


@pytest.fixture
def stumbling(tmp_path: Path) -> dict[str, str]:
    """An environment in which both programs stumble over a fault that nobody thought of."""
    (tmp_path / "sitecustomize.py").write_text(
        "import vfd.api.client, vfd.config.store\n"
        "def stumble(*_, **__): raise ZeroDivisionError('by a fault\\nthat nobody thought of')\n"
        "vfd.api.client.Client.get = stumble\n"
        "vfd.config.store.read = stumble\n"
    )
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize("program", ["iplex show", "vfd --check"])
def test_a_fault_that_nobody_thought_of_is_a_line_and_its_traceback_is_there_on_demand(
    tmp_path: Path, stumbling: dict[str, str], program: str
) -> None:
    name = program.split()[0]
    ended = in_shell(program, tmp_path, **stumbling)
    assert (ended.code, ended.out) == (1, "")
    told = (
        f"{name}: this is a fault of {name} itself, please report it: ZeroDivisionError: by a"
        " fault that nobody thought of (VFD_DEBUG=1 in the environment shows where)\n"
    )
    assert ended.err == told
    ended = in_shell(program, tmp_path, VFD_DEBUG="1", **stumbling)
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-1].startswith(f"{name}: this is a fault of {name}")


def test_a_file_comes_from_standard_input_or_a_pipe_and_needs_a_name(tmp_path: Path) -> None:
    text = '{\\"pciid\\": \\"s0\\", \\"vfid\\": 0, \\"vlans\\": [1]}'
    with answering(OK + VERSION, tmp_path) as path:
        for source in ("-", "/dev/stdin", f"<(echo '{text}')"):
            line = f'echo "{text}" | iplex plan {source} --socket {path}'.replace("'", '"')
            ended = in_shell(line, tmp_path)
            assert (ended.code, "--name NAME" in ended.err) == (2, True), ended
        ended = in_shell(f"iplex add - --socket {path} </dev/null", tmp_path)
        assert (ended.code, "the file is empty" in ended.err) == (3, True)
        ended = in_shell(f"iplex add - --socket {path} </dev/zero", tmp_path)
        assert (ended.code, "above 1 MiB" in ended.err) == (3, True)
        named = text.replace("s0", 's0\\\\", \\\\"name\\\\": \\\\"mine')
        line = f"""echo '{named.replace(chr(92), "")}' | iplex add - --name other --socket {path}"""
        ended = in_shell(line, tmp_path)
        assert (ended.code, "calls the VF mine itself" in ended.err) == (2, True), ended
