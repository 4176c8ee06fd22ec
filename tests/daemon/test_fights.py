"""Two programs that fight over a NIC: the repairs are slowed down, and nothing else is."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from .harness import Vfd, run, wait_for


@pytest.mark.measured
def test_guests_are_answered_at_once_while_somebody_undoes_every_repair(
    vfd: Vfd, seat: Callable[[int], str]
) -> None:
    for vfid in (0, 1):
        vfd.add(f"vm{vfid}", vfd.vf(vfid))
    guest = seat(0)
    over = threading.Event()

    def fight() -> None:
        while not over.is_set():
            down = ("ip", "-n", f"vfd-{vfd.pf}", "link", "set", "v1", "down")
            subprocess.run(down, check=False)
            over.wait(0.05)

    fighter = threading.Thread(target=fight)
    fighter.start()
    try:
        wait_for(lambda: len(vfd.events("drift")) >= 20, timeout=20)
        waits = []
        for turn in range(6):
            mac = f"02:00:00:00:01:{turn:02x}"
            began = time.monotonic()
            run("ip", "-n", guest, "link", "set", "eth0", "address", mac)
            wait_for(lambda: vfd.row(0)["mac"] == mac)  # noqa: B023
            waits.append(time.monotonic() - began)
        assert sorted(waits)[3] < 0.4, "with all that NIC's news held back it is a second"
    finally:
        over.set()
        fighter.join()
    wait_for(lambda: vfd.row(1)["link"] == "up")
    wait_for(lambda: vfd.row(1)["state"] == "ok")
    times = [event["time"] for event in vfd.events("drift")]
    slowed = [t for t in times if t < times[0] + 10][19:]
    waits = [later - earlier for earlier, later in pairwise(slowed)]
    assert waits, "no more than 20 in 10 s: the fight was none"
    assert min(waits) > 0.9, waits
