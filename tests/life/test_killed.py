"""Crash-only: killed at any instant, the daemon leaves what is enforced, and starts from files."""

from __future__ import annotations

import random
import threading
import time

import pytest
from tests.life.host import Host

KILLS = 50
SEED = 20260701


@pytest.mark.timeout(300)
def test_killed_fifty_times_amid_requests_no_frame_is_lost_and_the_files_win(host: Host) -> None:
    rng = random.Random(SEED)
    traffic = host.traffic()
    last: dict[int | None, dict[str, int]] = {}
    target = host.vf(6, vlans=[999])
    host.daemon.must("POST", "/v1/vfs", {"name": "target", "config": target})
    host.daemon.kill()
    with traffic.running():
        for number in range(KILLS):
            if number % 2:
                # killed while it starts
                host.daemon.spawn()
                time.sleep(rng.uniform(0, 1.2))
            else:
                # killed while it works
                host.daemon.start()
                assert host.converged() == [], f"after {number} kills"
                last = _forward(last, host.counters(), number)
                worker = threading.Thread(target=_requests, args=(host, random.Random(number)))
                worker.start()
                time.sleep(rng.uniform(0, 0.12))
            host.daemon.kill()
            if not number % 2:
                worker.join()
        host.daemon.start()
        assert host.converged() == []
        _forward(last, host.counters(), KILLS)
    assert traffic.faults() == []


def _forward(
    before: dict[int | None, dict[str, int]], now: dict[int | None, dict[str, int]], kills: int
) -> dict[int | None, dict[str, int]]:
    for vfid in (0, 1, 2, None):
        for name, value in before.get(vfid, {}).items():
            assert now[vfid][name] >= value, f"VF {vfid}: {name} went back after {kills} kills"
    return now


def _requests(host: Host, rng: random.Random) -> None:
    """Requests about VFs 3 … 5, of all kinds, until nobody answers."""
    while True:
        vfid = rng.choice((3, 4, 5))
        name = f"other{vfid}"
        config = host.vf(vfid, vlans=sorted(rng.sample(range(300, 400), rng.randint(1, 5))))
        if rng.random() < 0.3:
            config["mirror"] = {"target": 6, "direction": "all"}
        try:
            match rng.randrange(4):
                case 0:
                    host.daemon.ask("POST", "/v1/vfs", {"name": name, "config": config})
                case 1:
                    host.daemon.ask("PUT", host.daemon.vf(name), {"config": config})
                case 2:
                    host.daemon.ask("DELETE", host.daemon.vf(name))
                case 3:
                    body = {"direction": rng.choice(("in", "out", "all")), "target": 6}
                    host.daemon.ask("PUT", f"/v1/pfs/{host.id}/vfs/{vfid}/mirror", body)
        except OSError:
            return
