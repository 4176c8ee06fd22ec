"""The laboratory's own promises, kept from the host: three boots and two that never get far."""

import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import parts

CHECKOUT = Path(__file__).resolve().parents[2]
VM = CHECKOUT / "lab/vm"
CHECKS = Path(__file__).with_name("guest_checks.py")

pytestmark = [
    pytest.mark.skipif(
        bool(parts.missing()), reason=f"`make lab` was not run: no {', '.join(parts.missing())}"
    ),
    pytest.mark.timeout(480),
]


class Launched:
    """A launcher under test, and a way to find every process it has started."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.mark = f"VFD_LAB_TEST={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, VM, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment, name: value},
        )

    def family(self) -> list[int]:
        """Processes that carry the mark in their environment: the launcher's and its children."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:
                continue  # it has just ended
        return found

    def finish(self) -> tuple[int, str, str]:
        """Exit status, the rest of stdout, stderr."""
        out, err = self.process.communicate(timeout=420)
        return self.process.returncode, out, err

    def wait_for_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def nothing_is_left(launched: Launched, files_before: set[str]) -> bool:
    """No process, no file."""
    end = time.monotonic() + 5
    while launched.family() and time.monotonic() < end:
        time.sleep(0.05)
    return not launched.family() and files() <= files_before


def files() -> set[str]:
    """Where a launcher could leave something: only names with lab in them, others work here too."""
    folders = [Path("/tmp"), Path("/run"), parts.tools().parent]
    return {str(path) for folder in folders for path in folder.glob("*lab*")} | {
        str(path) for path in parts.tools().parent.iterdir()
    }


@dataclass(frozen=True)
class Run:
    """What a guest's run gave."""

    status: int
    values: dict[str, str]
    seconds_between: float  # between the arrival of the first and the second line
    stderr: str
    left_nothing: bool


@pytest.fixture(scope="module")
def checks() -> Run:
    """One boot for all that can be seen in one."""
    before = files()
    launched = Launched("run", "--igb", "1", "--", "python3", str(CHECKS))
    first = launched.wait_for_line()
    arrived = time.monotonic()
    second = launched.wait_for_line()
    between = time.monotonic() - arrived
    status, rest, stderr = launched.finish()
    lines = [first, second, *rest.splitlines()]
    values = dict(line.strip().split(": ", 1) for line in lines if ": " in line)
    return Run(status, values, between, stderr, nothing_is_left(launched, before))


def test_the_exit_status_of_the_command_is_the_launchers(checks: Run) -> None:
    assert checks.status == 7, checks


def test_output_arrives_while_the_command_runs(checks: Run) -> None:
    assert checks.seconds_between > 1.5


def test_stdout_and_stderr_stay_apart(checks: Run) -> None:
    assert checks.stderr.strip() == "to stderr"


def test_an_igb_makes_seven_vfs(checks: Run) -> None:
    assert checks.values["vfs"] == "7"


def test_netdevsim_has_a_switchdev_mode_with_vf_ports(checks: Run) -> None:
    assert checks.values["pcivf ports"] == "4"


def test_netdevsim_acknowledges_a_flower_rule(checks: Run) -> None:
    assert checks.values["in_hw"] == "True"


def test_the_guest_can_cut_and_mend_a_cable(checks: Run) -> None:
    assert checks.values["cable"] == "cut and mended"


def test_the_guest_can_pull_a_card_with_vfs_and_put_it_back(checks: Run) -> None:
    assert checks.values["after unplugging"] == "False"
    assert checks.values["after plugging"] == "0"


def test_nothing_is_left_after_a_run(checks: Run) -> None:
    assert checks.left_nothing


def test_a_timeout_ends_the_guest_on_the_older_kernel_too() -> None:
    before = files()
    launched = Launched(
        *("run", "--kernel", "6.1", "--igb", "0", "--timeout", "2"),
        *("--", "uname -r; sleep 1000 & sleep 1000"),
    )
    status, out, err = launched.finish()
    assert status == 124, err
    assert out.startswith("6.1.")
    assert "2 s (--timeout)" in err
    assert nothing_is_left(launched, before)


def test_sigterm_ends_the_guest() -> None:
    before = files()
    launched = Launched("run", "--igb", "0", "--", "echo up; sleep 1000")
    assert launched.wait_for_line() == "up\n"
    assert len(launched.family()) == 2
    launched.process.send_signal(signal.SIGTERM)
    assert launched.finish()[0] == 128 + signal.SIGTERM
    assert nothing_is_left(launched, before)


def test_a_launcher_killed_at_any_instant_takes_the_guest_with_it() -> None:
    for after in (0, 0, 0, 0.002, 0.01, 0.5):
        before = files()
        launched = Launched("run", "--igb", "0", "--", "sleep 1000")
        while len(launched.family()) < 2:
            pass  # it has hardly been forked when it is seen
        time.sleep(after)
        launched.process.kill()
        launched.finish()
        assert nothing_is_left(launched, before), f"killed {after} s after QEMU was started"


def damaged_laboratory(folder: Path) -> Path:
    """The real laboratory, but the initial RAM disk of the newest kernel is empty."""
    newest = parts.kernel(parts.NEWEST)
    for part in [parts.tools(), *map(parts.kernel, parts.KERNELS)]:
        if part != newest:
            (folder / part.name).symlink_to(part)
    damaged = folder / newest.name
    damaged.mkdir()
    for file in newest.iterdir():
        (damaged / file.name).symlink_to(file)
    (damaged / "initrd").unlink()
    (damaged / "initrd").touch()
    return folder


def test_a_machine_that_cannot_boot_says_what_its_console_said(tmp_path: Path) -> None:
    cache = damaged_laboratory(tmp_path)
    launched = Launched("run", "--igb", "0", "--", "true", VFD_LAB_CACHE=str(cache))
    status, _, err = launched.finish()
    assert status == 125
    assert "the guest died while it booted" in err
    assert "Kernel panic" in err


IMPATIENT = """
import sys
from pathlib import Path
from lab import accel, boot
from lab.machine import Machine
job = boot.Job("echo $((40 + 2))", Path("/"), boot_timeouts=(0.5, 180))
sys.exit(boot.run(Machine(cpus=1), job, accel.choose()))
"""


def test_a_machine_that_stands_still_while_it_boots_is_started_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT], cwd=CHECKOUT, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stdout) == (0, "42\n")
    assert "did not boot within 0.5 s" in done.stderr
    assert "trying again" in done.stderr


def test_a_laboratory_that_is_not_built_says_how_to_build_it(tmp_path: Path) -> None:
    status, _, err = Launched("run", "--", "true", VFD_LAB_CACHE=str(tmp_path)).finish()
    assert status == 125
    assert "make lab" in err
    assert str(tmp_path) in err
    assert not list(tmp_path.iterdir())
