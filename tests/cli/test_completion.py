"""Completion scripts, in the shells that they are for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.cli.conftest import IPLEX, Iplex, environment

FOLDER = Path(__file__).parents[2] / "completions"


def needs(shell: str) -> str:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed: tools/deps.sh installs it")
    return found


@pytest.mark.parametrize(
    ("shell", "name"), [("bash", "iplex"), ("zsh", "_iplex"), ("fish", "iplex.fish")]
)
def test_each_shell_takes_its_script_which_is_the_shipped_one(
    iplex: Iplex, shell: str, name: str
) -> None:
    printed = iplex("completion", shell)
    assert printed.code == 0
    assert printed.out == (FOLDER / name).read_text()
    ended = subprocess.run(
        [needs(shell), "-n", FOLDER / name],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment(),
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def in_bash(line: str, words: list[str], **more: str) -> list[str]:
    """What a TAB at the end of ``line`` offers; ``words`` is how bash splits it."""
    program = """
        compopt() { local IFS=" "; echo "compopt $*"; }
        source "$1"; shift
        COMP_LINE=$1; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_POINT=${#COMP_LINE}
        _iplex_completion iplex
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    ended = subprocess.run(
        [needs("bash"), "-c", program, "bash", FOLDER / "iplex", line, *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env=environment(**more) | {"PATH": f"{IPLEX.parent}:/usr/bin:/bin"},
    )
    return [word for word in ended.stdout.splitlines() if word]


def test_commands_and_choices_are_completed_without_a_daemon() -> None:
    assert in_bash("iplex sho", ["iplex", "sho"]) == ["show"]
    assert in_bash("iplex mirror s 1 ", ["iplex", "mirror", "s", "1", ""]) == [
        "in",
        "out",
        "all",
        "off",
    ]
    nobody = "/nonexistent/vfd.sock"
    assert in_bash("iplex status ", ["iplex", "status", ""], VFD_SOCKET=nobody) == []
    assert in_bash("iplex add ", ["iplex", "add", ""], VFD_SOCKET=nobody) == ["compopt -o default"]
