"""The real daemon in the laboratory's machine, where everything takes twenty times as long."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.life import daemon as life

life.START = 180.0


class LabDaemon(life.Daemon):
    """A daemon whose clients have patience."""

    def ask(
        self, method: str, path: str, body: object = None, timeout: float = 90
    ) -> tuple[int, Any]:
        return super().ask(method, path, body, timeout)

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """What the daemon has told after the event of that number."""
        return list(self.must("GET", f"/v1/events?since={since}")["events"])

    def last_event(self) -> int:
        return max((event["seq"] for event in self.events()), default=0)

    def told(self, since: int, kind: str, vfid: int | None = None, seconds: float = 60) -> str:
        """Waits for an event of a kind; its words."""

        def find() -> str | None:
            for event in self.events(since):
                if event["kind"] == kind and event.get("vfid") == vfid:
                    return str(event["text"])
            return None

        return str(until(f"the event {kind}", find, seconds))

    def add(self, name: str, config: Mapping[str, Any]) -> tuple[int, Any]:
        return self.ask("POST", "/v1/vfs", {"name": name, "config": {"name": name, **config}})

    def row(self, pf: str, vfid: int | None) -> dict[str, Any]:
        """A line of ``iplex show extended``."""
        rows = self.must("GET", f"/v1/show?extended=1&pf={pf}")["rows"]
        return dict(next(row for row in rows if row["vfid"] == vfid))


def until(what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Waits for a condition; what it returned when it held."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)
    return found


def ip(*arguments: str) -> str:
    command = ["ip", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def kernel_shows(netdev: str, vfid: int) -> dict[str, Any]:
    """A VF as iproute2 reads it from the kernel: nobody's word but the driver's."""
    link = json.loads(ip("-j", "link", "show", netdev))[0]
    info = dict(link["vfinfo_list"][vfid])
    vlans = info.get("vlan_list") or [{"vlan": info.get("vlan", 0)}]
    return {
        "mac": info["address"],
        "vlan": vlans[0].get("vlan", 0),
        "rate": info.get("rate", {}).get("max_tx", 0),
        "spoofchk": info.get("spoofchk"),
        "trust": info.get("trust"),
    }


def netdev_of(address: str) -> str:
    """The netdev of a PCI function; '' where it has none here."""
    found = [entry.name for entry in Path(f"/sys/bus/pci/devices/{address}/net").glob("*")]
    return found[0] if found else ""
