"""A daemon on a host whose /etc/group has the two groups, and processes of other users."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.daemon.harness import Vfd

CHANGERS, READERS = 64999, 64998
"""Gids that no host gives to anybody."""


def with_groups(vfd: Vfd, folder: Path, *members: str) -> None:
    """Has the daemon see ``vfd``, with these members, and ``vfd-read`` in an /etc/group of its own,
    in a mount namespace that ends with it. To be called before it starts."""
    group = folder / "group"
    host = [line for line in Path("/etc/group").read_text().splitlines() if line[:3] != "vfd"]
    ours = [f"vfd:x:{CHANGERS}:{','.join(members)}", f"vfd-read:x:{READERS}:", ""]
    group.write_text("\n".join([*host, *ours]))
    vfd.wrap = (
        "setsid",  # a service and its users have CPU shares of their own (autogroups, as cgroups)
        # a slave lets go of what is unmounted outside, as by the test that runs beside it
        *("unshare", "--mount", "--propagation", "slave", "sh", "-c"),
        *('mount --bind "$1" /etc/group && shift && exec "$@"', "sh", str(group)),
    )


@contextlib.contextmanager
def started_with_groups(vfd: Vfd, folder: Path) -> Iterator[Vfd]:
    """Starts the daemon ``with_groups``, its sockets in a folder that other users reach."""
    with tempfile.TemporaryDirectory(prefix="vfd-test-") as reached:
        Path(reached).chmod(0o755)
        vfd.socket = Path(reached) / "s"
        vfd.main["socket"] = str(vfd.socket)
        vfd.write_main()
        with_groups(vfd, folder)
        vfd.start()
        yield vfd
        vfd.clean_up()


def run_as(uid: int, gid: int, code: str, *arguments: str, many: int = 1) -> subprocess.Popen[str]:
    """Python code in processes of this user and the next ones, in a session of theirs: they share
    the CPUs with others as the users of a host do."""
    become = f"""
import json, os, socket, sys, time
os.setgroups([])
os.setgid({gid})
for number in range({many}):
    if os.fork() == 0:
        os.setuid({uid} + number)
        break
else:
    for _ in range({many}):
        os.wait()
    sys.exit()
"""
    return subprocess.Popen(
        [sys.executable, "-S", "-c", become + code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(processes: subprocess.Popen[str]) -> str:
    """Kills them; what they printed."""
    os.killpg(processes.pid, signal.SIGKILL)
    return processes.communicate()[0]
