"""What test_vm.py has the guest do; plain Python, because pytest takes seconds to start there.

Prints `name: value` lines, and ends with status 7.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab.machine import igb_device
from lab.qmp import Qmp

PF = Path("/sys/bus/pci/devices/0000:01:00.0")
NETDEVSIM = Path("/sys/bus/netdevsim")


def say(name: str, value: object) -> None:
    """One line, at once."""
    print(f"{name}: {value}", flush=True)


def until(what: str, condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for a callable to become true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            say("gave up waiting for", what)
            sys.exit(1)
        time.sleep(0.05)


def run(*command: str) -> str:
    """A command's output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def vfs() -> int:
    """VFs of the PF that are there."""
    return len(list(PF.glob("virtfn*")))


def carrier() -> str:
    """Whether pf0 has a link."""
    return Path("/sys/class/net/pf0/carrier").read_text().strip()


say("first", time.monotonic())
time.sleep(2)  # test_vm sees these two lines two seconds apart, or they were held back
say("second", time.monotonic())
print("to stderr", file=sys.stderr, flush=True)

(PF / "sriov_numvfs").write_text("7")
say("vfs", vfs())

run("modprobe", "netdevsim")
(NETDEVSIM / "new_device").write_text("10 1")
(NETDEVSIM / "devices/netdevsim10/sriov_numvfs").write_text("4")
run("devlink", "dev", "eswitch", "set", "netdevsim/netdevsim10", "mode", "switchdev")
say("pcivf ports", run("devlink", "port").count("flavour pcivf"))
port = next(line for line in run("devlink", "port").splitlines() if "flavour physical" in line)
netdev = port.split("netdev ")[1].split()[0]
run("ethtool", "-K", netdev, "hw-tc-offload", "on")
run("tc", "qdisc", "add", "dev", netdev, "clsact")
flower = ("protocol", "802.1Q", "flower", "skip_sw", "vlan_id", "7", "action", "drop")
run("tc", "filter", "add", "dev", netdev, "ingress", *flower)
say("in_hw", "in_hw in_hw_count 1" in run("tc", "filter", "show", "dev", netdev, "ingress"))

with Qmp() as qmp:
    until("carrier", lambda: carrier() == "1")
    qmp.set_link("igb0", up=False)
    until("no carrier", lambda: carrier() == "0")
    qmp.set_link("igb0", up=True)
    until("carrier again", lambda: carrier() == "1")
    say("cable", "cut and mended")
with Qmp() as qmp:  # a second session on the same monitor
    qmp.unplug("igb0")
    say("after unplugging", PF.exists())
    qmp.plug(igb_device(0))
    until("the card", lambda: any(PF.glob("net/*")))
    say("after plugging", vfs())

sys.exit(7)
