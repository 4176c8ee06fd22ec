"""systemd's unit is well-formed, and gives the service no mount namespace of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vfd.daemon.exclusive import GROUP
from vfd.daemon.privileges import KEPT

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd/vfd.service"
MOUNT_NAMESPACE = re.compile(
    r"^(Protect(System|Home|Proc|Kernel\w+|ControlGroups)|ProcSubset|Private(Tmp|Devices|Mounts|IPC"
    r"|Users)|MountFlags|Mount\w+|\w+Paths|TemporaryFileSystem|Root\w+|Extension\w+|DynamicUser"
    r"|LogNamespace)="
)
"""systemd.exec(5): with any of these, a mount of the service doesn't reach the host."""


def lines() -> list[str]:
    return [line for line in UNIT.read_text().splitlines() if line and line[0] not in "#["]


def test_a_soft_nics_namespace_is_the_hosts_and_outlives_the_service() -> None:
    assert [line for line in lines() if MOUNT_NAMESPACE.match(line)] == []


def test_the_unit_leaves_the_capabilities_that_the_daemon_keeps_and_one_to_drop_others() -> None:
    sets = [line.split("=")[1].split() for line in lines() if line.startswith("CapabilityBound")]
    named = {name for one in sets for name in one}
    assert named == {f"CAP_{cap.name}" for cap in KEPT} | {"CAP_SETPCAP"}


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, of Debian's package systemd")
    text = re.sub("^ExecStart=.*", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    unit = tmp_path / "vfd-test.service"
    unit.write_text(re.sub("^Documentation=.*", "", text, flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_group_of_the_socket_is_what_sysusers_makes(tmp_path: Path) -> None:
    """The file that is shipped, run by systemd's own program for a host in a folder."""
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("needs systemd-sysusers")
    (tmp_path / "etc").mkdir()
    command = ["systemd-sysusers", f"--root={tmp_path}", ROOT / "systemd/vfd.sysusers"]
    subprocess.run(command, check=True, capture_output=True)
    made = (tmp_path / "etc/group").read_text().splitlines()
    assert [line.split(":")[0] for line in made] == [GROUP]
