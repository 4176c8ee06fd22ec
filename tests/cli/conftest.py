"""The real ``iplex`` executable, run as its users run it."""

from __future__ import annotations

import os
import pty
import select
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest

IPLEX = Path(sys.executable).with_name("iplex")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str = ""


Iplex = Callable[..., Ended]


def environment(**more: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("VFD_SOCKET", "NO_COLOR", "COLUMNS")}
    return clean | {"LC_ALL": "C.UTF-8", "TERM": "xterm"} | more


def run_program(
    name: str,
    *arguments: str | Path,
    text: str | None = None,
    cwd: Path | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """``iplex`` or ``vfd`` with its output in pipes, and ``text`` in one to its input; ``env`` is
    what its environment has beside the usual."""
    ended = subprocess.run(
        [IPLEX.with_name(name), *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=cwd,
        env=environment(**(env or {})),
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture
def iplex(tmp_path: Path) -> Iplex:
    """``iplex(*arguments, cwd=…, **environment)`` with its output in pipes."""

    def run(*arguments: str, cwd: Path | None = None, **more: str) -> Ended:
        return run_program("iplex", *arguments, cwd=cwd or tmp_path, timeout=30, env=more)

    return run


@pytest.fixture
def iplex_on_terminal(tmp_path: Path) -> Iplex:
    """The same on a terminal of ``width`` columns; ``out`` is all that it showed."""

    def run(*arguments: str, width: int = 120, **more: str) -> Ended:
        ours, theirs = pty.openpty()
        ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        process = subprocess.Popen(
            [IPLEX, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=tmp_path,
            env=environment(**more),
        )
        os.close(theirs)
        shown = b""
        try:
            while select.select([ours], [], [], 30)[0]:
                part = os.read(ours, 65536)
                if not part:
                    break
                shown += part
        except OSError:
            pass  # Linux says EIO when the last writer has closed its end.
        finally:
            os.close(ours)
        return Ended(process.wait(30), shown.decode().replace("\r\n", "\n"))

    return run
