"""Runs in the laboratory's machine: sets all VFs of real drivers three ways, and counts.

Prints a JSON object a line, of which ``bench/kernel.py`` makes figures.

Every change is of every setting of every VF, to values that it had never before. The
``ip`` contestants are given the least work that does the job, one line for all settings of a VF.
They neither read what was there before nor look whether it holds; vfd does both, and both are in
its figure. Not in it: starting Python and importing vfd, as the daemon runs already, and planning,
as the lines for ``ip`` are written beforehand too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from vfd.nic.kernel import open as open_kernel
from vfd.nic.kernel.link import read_link
from vfd.nic.kernel.vfinfo import RTM_SETLINK, Step, set_vfs
from vfd.nic.netlink import Message, Netlink
from vfd.nic.protocol import Nic
from vfd.plan.changes import VfChange
from vfd.policy.resolve import resolve
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

NETDEVSIM = Path("/sys/bus/netdevsim")
ROUNDS = 5
SAMPLE = 7
_MARK = 2**22 - 7
"""A process that there is not: a signal to it marks a place in strace's output."""


class Card:
    """A PF with VFs, and sets of policies for them, one for each ``turn``."""

    def __init__(self, name: str, netdev: str, pf: str, vfs: int, *, simulated: bool) -> None:
        self.name = name
        self.netdev = netdev
        self.pf = PfPolicy(id=pf, backend="kernel")
        self.vfs = vfs
        self.simulated = simulated

    def policies(self, turn: int) -> NicPolicy:
        def vf(vfid: int) -> VfPolicy:
            wanted: dict[str, object] = {
                "name": f"vf{vfid}", "pciid": self.pf.id, "vfid": vfid,
                "vm_mac": mac(turn, vfid), "vlans": [vlan(turn, vfid)], "strip_ctag": True,
                "rate": f"{100 + turn}Mbps", "trust": bool(turn % 2),
            }  # fmt: skip
            if self.simulated:
                wanted |= {"min_rate": f"{10 + turn}Mbps", "link_status": ("on", "auto")[turn % 2]}
            return VfPolicy.model_validate(wanted)

        nic = NicPolicy(pf=self.pf, vfs=tuple(vf(vfid) for vfid in range(self.vfs)))
        return resolve(nic, 10**9).nic

    def lines(self, turn: int) -> list[str]:
        """The same for ``ip``."""
        more = (
            f" min_tx_rate {10 + turn} state {('enable', 'auto')[turn % 2]}"
            if self.simulated
            else ""
        )
        return [
            f"link set dev {self.netdev} vf {vfid} mac {mac(turn, vfid)} vlan {vlan(turn, vfid)}"
            f" spoofchk on trust {('off', 'on')[turn % 2]} max_tx_rate {100 + turn}{more}"
            for vfid in range(self.vfs)
        ]

    def apply(self, nic: Nic, before: int, after: int) -> Callable[[], None]:
        old, new = self.policies(before).by_vfid(), self.policies(after)
        changes = [VfChange(vf.vfid, old[vf.vfid].rules, vf.rules) for vf in new.vfs]
        nic.observe(guests=False)  # as the daemon does when it hears of a change
        for vf in new.vfs:  # as it plans
            nic.expressible(vf.vfid, vf.rules)

        def work() -> None:
            nic.apply(new, changes)
            nic.observe(guests=False)

        return work


def mac(turn: int, vfid: int) -> str:
    return f"02:be:{turn:02x}:00:{vfid >> 8:02x}:{vfid & 255:02x}"


def vlan(turn: int, vfid: int) -> int:
    return 100 + 1000 * (turn % 3) + vfid


def loop(card: Card, turn: int, *prefix: str) -> None:
    """Under strace a sample: each VF is a process of its own that makes the same calls."""
    for line in card.lines(turn)[: SAMPLE if prefix else None]:
        subprocess.run([*prefix, "ip", *line.split()], check=True)


def batch(card: Card, turn: int, *prefix: str) -> None:
    text = "\n".join(card.lines(turn)) + "\n"
    subprocess.run([*prefix, "ip", "-batch", "-"], input=text, text=True, check=True)


def measure(card: Card) -> Iterator[dict[str, object]]:
    """Times in turn within each round, then the system calls of one more round under strace."""
    nic = open_kernel(card.pf)
    batch(card, 1)
    for vfid, state in nic.observe().vfs.items():
        assert state.rules is not None, f"VF {vfid} is closed"
        assert state.rules.vlans == (vlan(1, vfid),)
    times: dict[str, list[float]] = {"vfd": [], "ip loop": [], "ip -batch": []}
    turn = 1
    for number in range(ROUNDS):
        if not number or card.vfs < 100:  # it takes half a minute under emulation
            times["ip loop"].append(timed(partial(loop, card, turn + 1)))
        else:
            batch(card, turn + 1)
        times["ip -batch"].append(timed(partial(batch, card, turn + 2)))
        times["vfd"].append(timed(card.apply(nic, turn + 2, turn + 3)))
        turn += 3
    reads = [timed(nic.observe) for _ in range(ROUNDS)]
    nic.close()
    calls = {
        "ip loop": traced(lambda *strace: loop(card, 1, *strace), times=card.vfs / SAMPLE),
        "ip -batch": traced(lambda *strace: batch(card, 0, *strace)),  # vfd starts from it
        "vfd": traced(
            lambda *strace: subprocess.run(
                [*strace, sys.executable, "-m", "bench.kernel_guest", "one", *of(card)], check=True
            ),
            marked=True,
        ),
    }
    for way, seconds in times.items():
        yield {"card": card.name, "way": way, "vfs": card.vfs,
               "seconds": statistics.median(seconds), **calls[way]}  # fmt: skip
    yield {"card": card.name, "way": "observe", "seconds": statistics.median(reads)}


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def traced(
    work: Callable[..., object], *, marked: bool = False, times: float = 1
) -> dict[str, int]:
    """System calls, those of them that send to the kernel by netlink, and the messages in these;
    ``marked``: between marks; ``times``: the work was a sample of that much more."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "strace"
        work("strace", "-f", "-v", "-A", "-qq", "-e", "signal=none", "-o", str(log))
        lines = log.read_text(errors="replace").splitlines()
    if marked:
        marks = [at for at, line in enumerate(lines) if f"kill({_MARK}, 0)" in line]
        lines = lines[marks[0] + 1 : marks[1]]
    calls = [line for line in lines if re.match(r"\d+\s+\w+\(", line)]
    sends = [line for line in calls if re.match(r"\d+\s+send(to|msg)\(", line)]
    messages = sum(line.count("nlmsg_len=") for line in sends)
    counted = {"calls": len(calls), "sends": len(sends), "messages": messages}
    return {what: round(number * times) for what, number in counted.items()}


def of(card: Card) -> list[str]:
    return [card.name, card.netdev, card.pf.id, str(card.vfs), str(int(card.simulated))]


def one(name: str, netdev: str, pf: str, vfs: str, simulated: str) -> None:
    """One apply between two marks, for strace."""
    card = Card(name, netdev, pf, int(vfs), simulated=simulated == "1")
    nic = open_kernel(card.pf)
    work = card.apply(nic, 0, 1)
    nic.observe()
    mark()
    work()
    mark()


def mark() -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(_MARK, 0)


def emulated() -> Card:
    """VFs without a driver, as those of virtual machines are before they start: else the igb's
    apply has VF drivers bind anew, so that new MACs take effect, which ``ip`` leaves undone."""
    device = Path("/sys/bus/pci/devices/0000:01:00.0")
    (device / "sriov_drivers_autoprobe").write_text("0")
    (device / "sriov_numvfs").write_text("7")
    operstate = Path("/sys/class/net/pf0/operstate")
    deadline = time.monotonic() + 20  # creating VFs resets the PF
    while operstate.read_text().strip() != "up" and time.monotonic() < deadline:
        time.sleep(0.1)
    return Card("7 igb VFs", "pf0", device.name, 7, simulated=False)


def simulated(number: int, vfs: int) -> Card:
    name = f"netdevsim{number}"
    (NETDEVSIM / "new_device").write_text(f"{number} 1")
    device = NETDEVSIM / "devices" / name
    netdev = next((device / "net").iterdir()).name
    (Path("/sys/kernel/debug/netdevsim") / name / "max_vfs").write_text(str(vfs))
    (device / "sriov_numvfs").write_text(str(vfs))
    subprocess.run(["ip", "link", "set", netdev, "up"], check=True)
    return Card(f"{vfs} netdevsim VFs", netdev, name, vfs, simulated=True)


def repairs(card: Card) -> Iterator[dict[str, object]]:
    """A daemon with the card; what ``ip link set … vf`` does; how long until it is undone."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "vfs").mkdir()
        for vf in card.policies(0).vfs:
            config = {"pciid": card.pf.id, "vfid": vf.vfid, "vm_mac": vf.vm_mac,
                      "vlans": list(vf.vlans), "strip_ctag": True}  # fmt: skip
            (place / "vfs" / f"{vf.name}.json").write_text(json.dumps(config))
        main = {
            "config_dir": str(place / "vfs"), "log_dir": folder, "socket": f"{folder}/socket",
            "pid_fname": f"{folder}/pid",
            "pciids": [{"id": card.pf.id, "backend": "kernel", "strict": False}],
        }  # fmt: skip
        (place / "vfd.cfg").write_text(json.dumps(main))
        with (place / "log").open("wb") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "vfd.main", "--config", f"{folder}/vfd.cfg"],
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            netlink = Netlink()
            index = int((Path("/sys/class/net") / card.netdev / "ifindex").read_text())
            yield from drift(card, netlink, index, daemon, place / "log")
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)


def drift(
    card: Card, netlink: Netlink, index: int, daemon: subprocess.Popen[bytes], log: Path
) -> Iterator[dict[str, object]]:
    last = card.vfs - 1

    def asked() -> bool:
        found = read_link(netlink, index).vfs
        return all(found[vfid].vlan == vlan(0, vfid) for vfid in range(card.vfs))

    deadline = time.monotonic() + 120
    while not asked():
        if time.monotonic() > deadline or daemon.poll() is not None:
            raise SystemExit(f"the daemon did not set up {card.name}: {log.read_text()[-2000:]}")
        time.sleep(0.5)
    time.sleep(5)  # it comes to rest
    times = []
    right = read_link(netlink, index).vfs[last]
    for turn in range(5):
        wrong = replace(right, vlan=4000 + turn)
        message = Message(RTM_SETLINK, set_vfs(index, [Step(last, right, wrong)])[0])
        began = time.perf_counter()
        netlink.send([message])  # not ip, which takes as long to end as the daemon to repair
        while read_link(netlink, index).vfs[last].vlan != right.vlan:
            if time.perf_counter() - began > 30:
                raise SystemExit(f"drift was not repaired in 30 s: {log.read_text()[-2000:]}")
            time.sleep(0.005)
        times.append(time.perf_counter() - began)
        time.sleep(1)
    yield {"card": card.name, "way": "repair", "seconds": statistics.median(times)}


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        one(*sys.argv[2:])
        return
    subprocess.run(["modprobe", "netdevsim"], check=True)
    if not Path("/sys/kernel/debug/netdevsim").exists():
        subprocess.run(["mount", "-t", "debugfs", "none", "/sys/kernel/debug"], check=True)
    igb, few, many = emulated(), simulated(64, 64), simulated(256, 256)
    for card in (igb, few, many):
        for row in measure(card):
            print(json.dumps(row), flush=True)
    for card in (igb, many):
        for row in repairs(card):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
