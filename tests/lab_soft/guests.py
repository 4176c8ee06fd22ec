"""Guests with a network stack: addresses, VLAN sub-interfaces, bonds, pings."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable

from tests.soft.world import World

ANSWER, SILENCE = 5, 1
"""Seconds in which a ping is answered on an emulated machine, and for which none is awaited
where none may come."""


def batch(netns: str, *commands: str) -> None:
    """Several ``ip`` commands in a namespace by one process."""
    done = subprocess.run(
        ["ip", "-n", netns, "-batch", "-"],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{commands} in {netns}: {done.stderr}"


def vlan(netns: str, vid: int, address: str, *, below: str = "eth0", proto: str = "802.1Q") -> str:
    """A VLAN sub-interface with an address, up; its name."""
    name = f"{below}.{vid}"
    batch(
        netns,
        f"link add link {below} name {name} type vlan proto {proto} id {vid}",
        f"link set {name} up",
        *([f"addr add {address}/24 dev {name}"] if address else []),
    )
    return name


def address(netns: str, value: str, netdev: str = "eth0") -> None:
    batch(netns, f"addr add {value}/24 dev {netdev}")


def pings(netns: str, target: str, *worlds: World, size: int = 56, wait: int = ANSWER) -> bool:
    """Whether one of the pings is answered, one a second for ``wait`` seconds; the NICs' events
    are handled meanwhile."""
    command = ["ip", "netns", "exec", netns]
    command += ["ping", "-q", "-n", "-c", "1", "-w", str(wait), "-s", str(size), target]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as ping:
        while ping.poll() is None:
            settle(*worlds)
        return ping.returncode == 0


def settle(*worlds: World, seconds: float = 0.05) -> None:
    """Handles the NICs' events, as a daemon does; without a NIC, waits."""
    if not worlds:
        time.sleep(seconds)
    for w in worlds:
        w.settle(seconds / len(worlds))


def until(what: str, condition: Callable[[], bool], *worlds: World, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        settle(*worlds)


class Pinging:
    """Pings at a steady pace in the background; ``stop`` says how many were sent and answered."""

    def __init__(self, netns: str, target: str, interval: float) -> None:
        self._process = subprocess.Popen(
            [*("ip", "netns", "exec", netns, "ping", "-q", "-n"), "-i", f"{interval:g}", target],
            stdout=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> tuple[int, int]:
        self._process.send_signal(2)  # SIGINT: ping tells its figures
        output, _ = self._process.communicate(timeout=20)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        assert found, output
        return int(found[1]), int(found[2])
