"""What vfd.cfg names and isn't there yet: it is made, or one line says what can't be."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import Vfd, wait_for


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_that_are_missing_are_made(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd()
    new = vfd.folder / "new"
    vfd.socket = new / "run/s"
    vfd.main |= {
        "config_dir": str(new / "deep/vfs"),
        "log_dir": str(new / "log"),
        "pid_fname": str(new / "pids/vfd.pid"),
        "stats_path": str(new / "stats/counters"),
        "socket": str(vfd.socket),
    }
    vfd.write_main()
    vfd.wrap = ("sh", "-c", 'umask 077; exec "$@"', "sh")
    vfd.look_every(0.2)
    vfd.start()
    assert mode_of(new / "deep") == mode_of(new / "deep/vfs") == mode_of(new / "run") == 0o755
    assert mode_of(new / "log") == 0o750
    assert (new / "log/vfd.log").exists()
    assert (new / "pids/vfd.pid").exists()
    wait_for(lambda: (new / "stats/counters").exists())
    [told] = [e["text"] for e in vfd.events("warning")]
    assert "was not there: it is made, and empty" in told
    assert vfd.add("vm1", vfd.vf(0))[0] == 201


def test_a_config_dir_that_can_not_be_made_is_one_line(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd()
    (vfd.folder / "file").write_text("")
    vfd.main["config_dir"] = str(vfd.folder / "file/vfs")
    vfd.write_main()
    assert vfd.spawn().wait(20) == 3
    [line] = [line for line in vfd.output().splitlines() if "config_dir" in line]
    assert "can't be made: Not a directory; make it, or correct its path" in line
    assert "Traceback" not in vfd.output()
    assert not vfd.socket.exists()


def test_a_check_makes_nothing_and_says_that_it_would_be_made(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd()
    vfd.config_dir.rmdir()
    before = sorted(vfd.folder.iterdir())
    command = [sys.executable, "-m", "vfd.main", "--check", "--config", str(vfd.config)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"config_dir {vfd.config_dir} is not there: vfd makes it" in done.stdout
    assert sorted(vfd.folder.iterdir()) == before


@pytest.mark.parametrize("level", [0, 3, 4])
def test_the_log_goes_to_standard_error_alone_as_vfd_took_it(
    make_vfd: Callable[..., Vfd], level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vfd = make_vfd(log_dir="stderr", log_level=level)
    monkeypatch.chdir(vfd.folder)
    vfd.start()
    vfd.stop()
    assert not (vfd.folder / "stderr").exists()
    assert ("1 NIC, 0 VFs configured" in vfd.output()) is (level > 0)
