"""``python -m demo``: what vfd does, shown with real frames. Needs root; see ``make demo``."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from demo.host import NIC, DemoError, Host, console, host

SPOOFED_MAC = "02:66:66:66:66:66"
EVERYBODY = "ff:ff:ff:ff:ff:ff"


def step(number: int, title: str) -> None:
    console.print(f"\n[bold cyan]{number}. {title}[/bold cyan]")


def say(text: str) -> None:
    console.print(f"    {text}", soft_wrap=True)


def start(it: Host) -> None:
    step(1, "A software NIC with 8 virtual functions and an uplink, and the daemon that owns it")
    it.start()


def tenants(it: Host) -> None:
    step(2, "Two tenants: blue in VLAN 100, red with a service tag of its own (QinQ)")
    for name, vfid in (("blue0", 0), ("blue1", 1)):
        it.policy(name, vfid=vfid, vlans=[100], strip_ctag=True)
    for name, vfid in (("red0", 2), ("red1", 3)):
        it.policy(name, vfid=vfid, vlans=[200], strip_stag=True)
    it.policy("probe", vfid=4, vlans=[999], strip_ctag=True)
    for number, name in enumerate(("blue0", "blue1", "red0", "red1", "probe")):
        it.iplex("add", name)
        it.guest(name, number, f"10.9.{number // 2}.{number % 2 + 1}")


def talk(it: Host) -> None:
    step(3, "They talk, each tenant among its own")
    out = it.inside("blue0", "ping", "-c", "3", "-i", "0.2", "-q", "10.9.0.2")
    say(next(line for line in out.splitlines() if "received" in line))
    with it.watching("wire", "red1", "blue1") as heard:
        it.inside("red0", sys.executable, "-m", "demo.frames", "send", "eth0", EVERYBODY,
                  it.mac("red0"), "--tag", "8100:7")  # fmt: skip
    say(f"red0 sends one broadcast with its own tag, VID 7. On the wire: {heard['wire']}")
    say(f"red1 receives it as red0 sent it: {heard['red1']}")
    say(f"blue1, another tenant, receives: {heard['blue1']}")


def spoof(it: Host) -> None:
    step(4, "blue1 pretends to be somebody else, and red0 names a foreign service tag")
    with it.watching("wire", "blue0") as heard:
        it.inside("blue1", sys.executable, "-m", "demo.frames", "send", "eth0", it.mac("blue0"),
                  SPOOFED_MAC, "--count", "50")  # fmt: skip
        it.inside("red0", sys.executable, "-m", "demo.frames", "send", "eth0", EVERYBODY,
                  it.mac("red0"), "--tag", "88a8:100", "--count", "20")  # fmt: skip
    say(f"on the wire: {heard['wire']}; at blue0: {heard['blue0']}")
    for name, vfid in (("blue1", 1), ("red0", 2)):
        rows = json.loads(it.iplex("show", f"{NIC}:{vfid}", "--json", quiet=True))
        spoofed = rows["rows"][0]["counters"]["spoofed"]
        say(f"{name}: [bold red]{spoofed} spoofed[/bold red] frames dropped and counted")


def mirror(it: Host) -> None:
    step(5, "The operator mirrors blue0 to a probe, while blue talks")
    it.iplex("mirror", NIC, "0", "all", "4")
    with it.watching("probe") as heard:
        it.inside("blue0", sys.executable, "-m", "demo.frames", "send", "eth0", it.mac("blue1"),
                  it.mac("blue0"), "--count", "5")  # fmt: skip
    say(f"the probe sees: {heard['probe']}")
    it.iplex("mirror", NIC, "0", "off")


def rate(it: Host) -> None:
    step(6, "blue0 gets a limit of 200 Mbit/s, while it sends")
    say(f"before: {_iperf(it):.0f} Mbit/s TCP from blue0 to blue1")
    it.policy("blue0", vfid=0, vlans=[100], strip_ctag=True, rate="200Mbps")
    it.iplex("update", "blue0")
    say(f"after: {_iperf(it):.0f} Mbit/s")


def _iperf(it: Host) -> float:
    server = subprocess.Popen(
        ["ip", "netns", "exec", "vfd-demo-blue1", "iperf3", "-s", "-1", "--forceflush"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if not any("listening" in line for line in server.stdout or ()):
            raise DemoError("iperf3 -s ended before it listened")
        out = it.inside("blue0", "iperf3", "-c", "10.9.0.2", "-t", "2", "-J", quiet=True)
    finally:
        server.terminate()
        server.wait(5)
    return float(json.loads(out)["end"]["sum_received"]["bits_per_second"]) / 1e6


def table(it: Host) -> None:
    step(7, "The operator's table")
    it.show_all()


def cost() -> None:
    step(8, "What it costs: IMIX through the full policy, beside a bare veth pair")
    measured = subprocess.run(
        [sys.executable, "-m", "bench", "--only", "data", "--vfs", "8", "--races", "imix"],
        check=False,
    )  # fmt: skip
    if measured.returncode:
        raise DemoError("the measurement failed")


def main() -> int:
    began = time.monotonic()
    try:
        with host() as it:
            for part in (start, tenants, talk, spoof, mirror, rate, table):
                part(it)
        say("(what the demo made is gone again)")
        cost()
    except DemoError as error:
        console.print(f"\n[bold red]the demo failed:[/bold red] {error}", markup=True)
        return 1
    console.print(f"\n[bold green]Done in {time.monotonic() - began:.0f} s.[/bold green]"
                  " Next: README.md, and `lab/vm shell` for emulated SR-IOV hardware.")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
