"""Makes a software NIC and is its daemon until its guests have come.

``bench/contestants.py`` runs it with the ``src`` folder of the vfd that is measured, this one or
another version's, in PYTHONPATH. It reads a JSON object {"pf": …, "vfs": […]}, says ``made``, and
serves the NIC until its input ends. The NIC lives on: nothing depends on a daemon.
"""

from __future__ import annotations

import json
import select
import sys

from vfd.nic import soft
from vfd.plan.changes import Change, PfChange, VfChange
from vfd.policy.resolve import resolve
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    pf = PfPolicy.model_validate(asked["pf"])
    vfs = tuple(VfPolicy.model_validate(vf) for vf in asked["vfs"])
    nic = soft.open(pf)
    desired = resolve(NicPolicy(pf=pf, vfs=vfs), nic.link().speed_bps or 10**10).nic
    changes: list[Change] = [PfChange(None, desired.pf)]
    changes += [VfChange(vf.vfid, None, vf.rules) for vf in desired.vfs]
    nic.apply(desired, changes)
    print("made", flush=True)
    while True:
        ready = select.select([nic, sys.stdin], [], [])[0]
        if nic in ready:
            nic.events()  # the guests have come: direct delivery is set up
        elif sys.stdin in ready:
            break
    nic.close()


if __name__ == "__main__":
    main()
