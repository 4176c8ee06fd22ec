"""The daemon killed again and again while it configures: it ends where its files say."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from tests.lab.daemon import LabDaemon
from tests.lab_netdevsim.simulated import Simulated, mac

VFS = 16
KILLS = 4


def test_killed_at_random_instants_the_daemon_ends_where_its_files_say(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    seed = random.randrange(2**32)
    print(f"\nseed {seed}")
    rng = random.Random(seed)
    with Simulated(vfs=VFS) as nic:
        daemon = LabDaemon(
            tmp_path_factory.mktemp("vfd"), {"id": nic.name, "backend": "kernel", "strict": False}
        )
        try:
            wanted = write(daemon, nic, rng, 0)
            daemon.start()
            assert shown(nic) == wanted
            for turn in range(KILLS):
                wanted = write(daemon, nic, rng, 1 + turn)
                assert daemon.process
                daemon.process.send_signal(signal.SIGHUP)
                time.sleep(rng.uniform(0, 1.5))
                daemon.kill()
                if rng.random() < 0.5:  # and while it adopts what it finds
                    daemon.spawn()
                    time.sleep(rng.uniform(2, 8))
                    daemon.kill()
                daemon.start()
                assert shown(nic) == wanted, f"after kill {turn}, seed {seed}"
        finally:
            daemon.kill()


def write(daemon: LabDaemon, nic: Simulated, rng: random.Random, turn: int) -> dict[int, object]:
    """Other files for other VFs; what the NIC is to show of each, None: closed."""
    wanted: dict[int, object] = {}
    for vfid in range(VFS):
        path: Path = daemon.config_dir / f"vf{vfid}.json"
        wanted[vfid] = None
        if vfid and rng.random() < 0.3:  # one stays: all gone at once would be a missing mount
            path.unlink(missing_ok=True)
            continue
        vlan = 1 + (turn * VFS + vfid) % 4094
        rules = {"vlans": [vlan], "strip_ctag": True, "vm_mac": mac(vfid)}
        daemon.write(f"vf{vfid}", {"name": f"vf{vfid}", "pciid": nic.name, "vfid": vfid, **rules})
        wanted[vfid] = (vlan,), mac(vfid)
    return wanted


def shown(nic: Simulated) -> dict[int, object]:
    return {
        vfid: (rules.vlans, rules.vm_mac) if rules is not None else None
        for vfid, rules in nic.observed().items()
    }
