"""`lab/vm shell` is a terminal that one can work in."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import parts

VM = Path(__file__).resolve().parents[2] / "lab/vm"

pytestmark = [
    pytest.mark.skipif(
        bool(parts.missing()), reason=f"`make lab` was not run: no {', '.join(parts.missing())}"
    ),
    pytest.mark.timeout(480),
]


class Terminal:
    """The launcher on a terminal of 41 rows and 111 columns."""

    def __init__(self) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 111, 0, 0))
            os.execv(sys.executable, [sys.executable, str(VM), "shell"])

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def read_until(self, text: str, seconds: float = 380) -> str:
        """What is shown up to and with `text`."""
        shown = ""
        end = time.monotonic() + seconds
        while text not in shown:
            ready = select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]
            assert ready, f"waited {seconds} s for {text!r}, got {shown!r}"
            shown += os.read(self.fd, 4096).decode()
        return shown

    def status(self) -> int:
        """The launcher's exit status, once it has ended."""
        try:
            while os.read(self.fd, 4096):
                pass
        except OSError:
            pass  # the terminal's other end is closed
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    os.close(terminal.fd)  # hangs up, which ends a launcher that still runs


def test_a_shell_has_the_windows_size_passes_ctrl_c_and_ends_with_exit(terminal: Terminal) -> None:
    assert "SR-IOV" in terminal.read_until(" # ")
    terminal.type("stty size\n")
    terminal.read_until("41 111")
    terminal.type("sleep 1000; echo slept=$?\n")
    time.sleep(1)
    terminal.type("\x03")
    terminal.type("echo status=$?\n")
    terminal.read_until("status=130")
    fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 77, 0, 0))
    terminal.type(
        "until [ \"$(stty size)\" = '20 77' ]; do sleep 0.2; done; echo size=$((20))x77\n"
    )
    terminal.read_until("size=20x77")
    terminal.type("exit 5\n")
    assert terminal.status() == 5


def test_the_prompt_is_in_a_machine_with_two_sr_iov_nics_and_iplex(terminal: Terminal) -> None:
    """What is typed is shown, too: so what is waited for is only in the answers."""
    terminal.read_until(" # ")
    terminal.type("echo nics=$(ls -d /sys/class/net/pf*/device/sriov_numvfs | wc -l)\n")
    terminal.read_until("nics=2")
    terminal.type("echo 3 > /sys/class/net/pf1/device/sriov_numvfs\n")
    terminal.type("echo vfs=$(ip link show pf1 | grep -c '^ *vf ')\n")
    terminal.read_until("vfs=3")
    if (VM.parent.parent / ".venv/bin/iplex").exists():
        terminal.type("iplex --help; echo status=$?\n")
        assert "Usage" in terminal.read_until("status=0")
    terminal.type("exit\n")
    assert terminal.status() == 0
