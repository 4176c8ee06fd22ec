"""The demo's host: a daemon with a software NIC, namespaces for guests, all gone at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from vfd.nic import soft
from vfd.policy.values import PfPolicy

NIC = "demo0"
WIRE = "vfd-demo-wire"
UPLINK = "demowire"
BIN = Path(sys.executable).parent

console = Console(highlight=False, emoji=False)  # ":cd:" in a MAC is none


class DemoError(Exception):
    """A step failed; says which command and what it answered."""


def run(*command: str, quiet: bool = False) -> str:
    """A command's output. Raises DemoError."""
    if not quiet:
        console.print(f"    [bold]$ {' '.join(command)}[/bold]", soft_wrap=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise DemoError(
            f"{' '.join(command)} (exit {done.returncode}): {done.stderr or done.stdout}"
        )
    return done.stdout


class Host:
    """What the demo set up. Guests are namespaces ``vfd-demo-NAME`` that hold one VF as eth0."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policies = folder / "vfs"
        self._guests: list[str] = []
        self._daemon: subprocess.Popen[bytes] | None = None
        os.environ["VFD_SOCKET"] = str(folder / "vfd.sock")

    def start(self) -> None:
        """The daemon, with a software NIC of 8 VFs whose uplink is a veth into the "wire"."""
        self.policies.mkdir()
        run("ip", "netns", "add", WIRE)
        run("ip", "link", "add", UPLINK, "type", "veth", "peer", "name", "wire", "netns", WIRE)
        run("ip", "-n", WIRE, "link", "set", "wire", "up")
        config = self.folder / "vfd.cfg"
        config.write_text(
            json.dumps(
                {
                    "config_dir": str(self.policies),
                    "log_dir": str(self.folder),
                    "pid_fname": str(self.folder / "vfd.pid"),
                    "socket": str(self.folder / "vfd.sock"),
                    "pciids": [
                        {"id": NIC, "backend": "soft", "vfs": 8, "uplink": UPLINK,
                         "enable_loopback": True, "tpid": 0x88A8, "link_speed": "10Gbps"}
                    ],
                },
                indent=2,
            )
        )  # fmt: skip
        console.print(f"    [bold]$ vfd --config {config}[/bold]", soft_wrap=True)
        self._daemon = subprocess.Popen(
            [str(BIN / "vfd"), "--config", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "stderr").open("wb"),
        )
        for _ in range(200):
            ping = [str(BIN / "iplex"), "ping"]
            if subprocess.run(ping, capture_output=True).returncode == 0:
                return
            if self._daemon.poll() is not None:
                break
            time.sleep(0.05)
        raise DemoError(f"the daemon did not start: {(self.folder / 'stderr').read_text()}")

    def iplex(self, *words: str, quiet: bool = False) -> str:
        if not quiet:
            console.print(f"    [bold]$ iplex {' '.join(words)}[/bold]", soft_wrap=True)
        return run(str(BIN / "iplex"), *words, quiet=True)

    def show_all(self) -> None:
        """The operator's table, straight to the reader's terminal."""
        console.print("    [bold]$ iplex show all[/bold]")
        sys.stdout.flush()
        subprocess.run([str(BIN / "iplex"), "show", "all"], check=True)

    def policy(self, name: str, **fields: object) -> None:
        """Writes a VF's file, as an orchestrator does before it calls iplex."""
        text = json.dumps({"pciid": NIC, "vm_mac": f"02:00:00:00:00:0{fields['vfid']}", **fields})
        console.print(f"    [dim]{name}.json: {text}[/dim]", soft_wrap=True)
        (self.policies / f"{name}.json").write_text(text)

    def guest(self, name: str, vfid: int, address: str) -> None:
        """Hands a VF to a guest: moves it into the guest's namespace."""
        netns = f"vfd-demo-{name}"
        run("ip", "netns", "add", netns, quiet=True)
        self._guests.append(netns)
        run("ip", "link", "set", f"{NIC}v{vfid}", "netns", netns, "name", "eth0")
        for command in ("link set eth0 up", f"addr add {address}/24 dev eth0"):
            run("ip", "-n", netns, *command.split(), quiet=True)

    def inside(self, name: str, *command: str, quiet: bool = False) -> str:
        netns = WIRE if name == "wire" else f"vfd-demo-{name}"
        if not quiet:
            shown = " ".join(word if word != sys.executable else "python" for word in command)
            console.print(f"    [bold]{name}$ {shown}[/bold]", soft_wrap=True)
        return run("ip", "netns", "exec", netns, *command, quiet=True)

    def mac(self, name: str) -> str:
        return self.inside(name, "cat", "/sys/class/net/eth0/address", quiet=True).strip()

    @contextlib.contextmanager
    def watching(self, *names: str) -> Iterator[dict[str, str]]:
        """What arrives at these guests (or at the wire) while the block runs, by name."""
        heard: dict[str, str] = {}
        watchers = {}
        for name in names:
            netns = WIRE if name == "wire" else f"vfd-demo-{name}"
            netdev = "wire" if name == "wire" else "eth0"
            watchers[name] = subprocess.Popen(
                ["ip", "netns", "exec", netns, sys.executable, "-m", "demo.frames", "watch",
                 netdev, "1.5"],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        for watcher in watchers.values():
            assert watcher.stdout is not None
            watcher.stdout.readline()
        yield heard
        for name, watcher in watchers.items():
            heard[name] = watcher.communicate(timeout=10)[0].strip().replace("\n", "; ")

    def stop(self) -> None:
        """Ends the daemon and takes away everything that the demo made."""
        if self._daemon and self._daemon.poll() is None:
            self._daemon.send_signal(signal.SIGTERM)
            self._daemon.wait(10)
        with contextlib.suppress(Exception):
            soft.destroy(PfPolicy(id=NIC, backend="soft", vfs=8, uplink=UPLINK))
        for netns in [*self._guests, WIRE]:
            subprocess.run(["ip", "netns", "del", netns], capture_output=True)
        subprocess.run(["ip", "link", "del", UPLINK], capture_output=True)


@contextlib.contextmanager
def host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="vfd-demo-") as folder:
        made = Host(Path(folder))
        try:
            yield made
        finally:
            made.stop()
