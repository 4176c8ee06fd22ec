"""Who asked for a change learns what became of it, whenever the daemon was killed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.daemon.conftest import make_vfd as make_vfd
from tests.daemon.harness import Vfd

from vfd.api.client import Client, CutOffError, NotDoneError

pytestmark = pytest.mark.root

KILLED = """
import os, signal
from pathlib import Path
from vfd.config import store
from vfd.daemon import service

flag = Path({flag!r})

def killed(function, when):
    def run(*args, **more):
        if when == "before" and flag.exists():
            die()
        made = function(*args, **more)
        if when == "after" and flag.exists():
            die()
        return made
    return run

def die():
    flag.unlink()
    os.kill(os.getpid(), signal.SIGKILL)

store.Staged.commit = killed(store.Staged.commit, {when!r})
store.Retired.finish = killed(store.Retired.finish, "before")
from vfd.main import main
main()
"""
"""A daemon that dies right before or after a file is put in its place, or once one is out of it."""


@pytest.fixture
def again() -> Callable[[Vfd], threading.Thread]:
    """Starts a daemon again once it has died, as systemd would."""

    def watch(vfd: Vfd) -> threading.Thread:
        def run() -> None:
            assert vfd.process is not None
            vfd.process.wait()
            vfd.start()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    return watch


def ask(vfd: Vfd, method: str, path: str, body: Any = None) -> Any:
    return Client(str(vfd.socket), patience=20).call(method, path, body)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_the_commit_of_each_change_is_answered(
    make_vfd: Callable[..., Vfd],
    tmp_path: Path,
    again: Callable[[Vfd], threading.Thread],
    when: str,
) -> None:
    flag = tmp_path / "flag"
    vfd = make_vfd(vfs=3)
    vfd.program = ("-c", KILLED.format(flag=str(flag), when=when))
    vfd.start()
    vfd.add("vm0", vfd.vf(0))
    changes: list[tuple[str, str, dict[str, Any] | None]] = [
        ("POST", "/v1/vfs", {"name": "vm1", "config": vfd.vf(1)}),
        ("PUT", "/v1/vfs/vm0", {"name": "vm0", "config": vfd.vf(0, vlans=[7])}),
        ("PUT", f"/v1/pfs/{vfd.pf}/vfs/0/mirror", {"direction": "in", "target": 2}),
        ("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 4, "force": False}),
        ("DELETE", "/v1/vfs/vm0", None),
    ]
    for method, path, body in changes:
        before = state(vfd)
        flag.touch()
        back = again(vfd)
        done = when == "after" or method == "DELETE"
        if done:
            assert ask(vfd, method, path, body)["resumed"] is True
        else:
            with pytest.raises(NotDoneError, match="ended amid the request"):
                ask(vfd, method, path, body)
        back.join()
        assert not flag.exists()
        assert (state(vfd) != before) is done, (method, path)


def state(vfd: Vfd) -> Any:
    rows = vfd.get("/v1/show?extended=true")["rows"]
    wanted = ("vlans", "vfs", "tagging")
    vfs = [(row["name"], row["vfid"], [row["extended"][key] for key in wanted]) for row in rows]
    return vfs, vfd.get("/v1/mirrors")


REMOVING = KILLED.replace(
    "from vfd.main import main\n",
    "from vfd.daemon import managed\n"
    "managed.remove_nic = killed(managed.remove_nic, {when!r})\n"
    "from vfd.main import main\n",
).replace("store.Staged.commit, {when!r}", "store.Staged.commit, {commit!r}")
"""The same, and it dies as it takes a software NIC away."""


@pytest.mark.parametrize(
    ("commit", "when", "done"),
    [("before", "never", False), ("never", "before", True), ("never", "after", True)],
)
def test_a_software_nic_is_there_whole_or_gone_whole_whenever_its_removal_was_killed(
    make_vfd: Callable[..., Vfd],
    tmp_path: Path,
    again: Callable[[Vfd], threading.Thread],
    commit: str,
    when: str,
    done: bool,
) -> None:
    flag = tmp_path / "flag"
    vfd = make_vfd()
    vfd.program = ("-c", REMOVING.format(flag=str(flag), when=when, commit=commit))
    vfd.start()
    before = netdevs(vfd)
    flag.touch()
    back = again(vfd)
    client = Client(str(vfd.socket), patience=20)
    if done:
        assert client.delete(f"/v1/pfs/{vfd.pf}", force=True)["resumed"] is True
    else:
        with pytest.raises(NotDoneError):
            client.delete(f"/v1/pfs/{vfd.pf}", force=True)
    back.join()
    assert netdevs(vfd) == (set() if done else before)
    if not done:
        vfd.stop()
        vfd.start()
        assert netdevs(vfd) == before


def netdevs(vfd: Vfd) -> set[str]:
    """Those of its NIC, with their indexes, and the namespace that the NIC is in."""
    shown = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    names = {line.split("@")[0] for line in shown.splitlines()}
    spaces = {path.name for path in Path("/run/netns").iterdir()}
    return {name for name in names | spaces if vfd.pf in name}


def test_what_is_answered_after_a_kill_at_any_instant_is_true(
    make_vfd: Callable[..., Vfd], again: Callable[[Vfd], threading.Thread]
) -> None:
    vfd = make_vfd()
    vfd.start()
    vfd.add("vm0", vfd.vf(0, vlans=[100]))
    now, early, late = 100, 0.0, 0.2
    for vlan in range(101, 107):
        assert vfd.process is not None
        back = again(vfd)
        delay = (early + late) / 2  # ever nearer to the instant from which on it is done
        threading.Timer(delay, vfd.process.kill).start()
        body = {"name": "vm0", "config": vfd.vf(0, vlans=[vlan])}
        try:
            ask(vfd, "PUT", "/v1/vfs/vm0", body)
            now, late = vlan, delay
        except NotDoneError:
            early = delay
        back.join()
        assert vfd.row(0)["extended"]["vlans"] == [now]
    assert 0 < early < late < 0.2, "all kills came before it was done, or all after"


def test_a_daemon_that_does_not_come_back_leaves_it_unknown(
    make_vfd: Callable[..., Vfd], tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    vfd = make_vfd()
    vfd.program = ("-c", KILLED.format(flag=str(flag), when="after"))
    vfd.start()
    flag.touch()
    began = time.monotonic()
    with pytest.raises(CutOffError) as error:
        Client(str(vfd.socket), patience=1).post("/v1/vfs", {"name": "a", "config": vfd.vf(0)})
    assert "unknown" in error.value.hint
    assert time.monotonic() - began < 8


def test_iplex_says_what_became_of_it(
    make_vfd: Callable[..., Vfd], tmp_path: Path, again: Callable[[Vfd], threading.Thread]
) -> None:
    iplex = str(Path(sys.executable).with_name("iplex"))
    for when, code, told in (
        ("after", 0, "asked again when it was back, this is in force"),
        ("before", 6, "what is in force now is not what was asked for"),
    ):
        flag = tmp_path / when
        vfd = make_vfd()
        vfd.program = ("-c", KILLED.format(flag=str(flag), when=when))
        vfd.start()
        file = tmp_path / "vm1.json"
        file.write_text(json.dumps(vfd.vf(1)))
        flag.touch()
        back = again(vfd)
        command = [iplex, "add", str(file), "--socket", str(vfd.socket)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        back.join()
        assert (ended.returncode, told in ended.stdout + ended.stderr) == (code, True), ended
