"""Random requests at 64 VFs, with the daemon killed now and then: nothing leaks, nothing is left.

With ``--long`` for three minutes.
"""

from __future__ import annotations

import http.client
import json
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vfd.policy.addresses import expand_vlans

from .harness import Vfd

VFS = 64


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(pid: int) -> int:
    """MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 >> 20


def one_request(vfd: Vfd, chance: random.Random) -> None:
    vfid = chance.randrange(VFS)
    name = f"tenant{vfid % 4}/vm{vfid}"
    config = vfd.vf(vfid, vlans=sorted(chance.sample(range(1, 4095), chance.randint(0, 5))))
    match chance.randrange(7):
        case 0 | 1:
            vfd.add(name, config)
        case 2:
            vfd.ask("PUT", f"/v1/vfs/{name}", {"config": config})
        case 3:
            vfd.ask("DELETE", f"/v1/vfs/{name}")
        case 4:
            body = {"direction": chance.choice(["in", "out", "all", "off"])}
            vfd.ask(
                "PUT",
                f"/v1/pfs/{vfd.pf}/vfs/{vfid}/mirror",
                body | {"target": chance.randrange(VFS)},
            )
        case 5:
            vfd.get("/v1/show?extended=true")
        case 6:
            vfd.ask("POST", "/v1/plan", {"name": name, "config": config})


@pytest.mark.parametrize(
    ("seconds", "life"), [(8, 4), pytest.param(180, 6, marks=[pytest.mark.long])]
)
@pytest.mark.timeout(400)
def test_nothing_leaks_and_nothing_is_left(
    make_vfd: Callable[..., Vfd], seconds: int, life: int
) -> None:
    vfd = make_vfd(vfs=VFS)
    chance = random.Random(seconds)
    end = time.monotonic() + seconds
    asked = 0
    while time.monotonic() < end:
        vfd.start()
        assert vfd.process is not None
        pid = vfd.process.pid
        vfd.get("/v1/show?extended=true")
        for _ in range(20):
            one_request(vfd, chance)
        open_before, size_before = descriptors(pid), resident(pid)
        stop = threading.Event()

        def work(stop: threading.Event = stop, seed: int = asked) -> None:
            mine = random.Random(seed)
            while not stop.is_set():
                try:
                    one_request(vfd, mine)
                except (OSError, ValueError, AssertionError, http.client.HTTPException):
                    return  # the daemon was killed meanwhile

        until = time.monotonic() + chance.uniform(life / 2, life)
        while time.monotonic() < until:
            one_request(vfd, chance)
            asked += 1
        assert descriptors(pid) <= open_before + 3
        assert resident(pid) <= size_before + 12
        worker = threading.Thread(target=work)
        worker.start()
        time.sleep(chance.uniform(0, 0.3))
        vfd.stop(signal.SIGKILL)
        stop.set()
        worker.join(20)
    vfd.start()
    health = vfd.get("/v1/health")
    assert health["status"] == "ok", health
    files = {str(p.relative_to(vfd.config_dir)) for p in vfd.config_dir.rglob("*") if p.is_file()}
    names = {vf["name"] for vf in vfd.get("/v1/vfs")["vfs"]}
    assert files == {f"{name}.json" for name in names}
    for name in names:
        asked_for = json.loads((vfd.config_dir / f"{name}.json").read_text())["vlans"]
        in_force = vfd.get(f"/v1/vfs/{name}")["in_force"]["vlans"]
        assert expand_vlans(in_force) == expand_vlans(asked_for)
        assert vfd.ask("DELETE", f"/v1/vfs/{name}")[0] == 200
    assert [p for p in vfd.config_dir.rglob("*") if p.is_file()] == []
    assert asked > seconds
    print(f"{asked} requests")
