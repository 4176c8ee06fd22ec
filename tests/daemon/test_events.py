"""What happens is told: guests' requests with reasons, drift with its repair."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import subprocess
from typing import Any

import pytest

from vfd.daemon.journal import BACKLOG, Journal

from .harness import Vfd, wait_for


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def macs_asked_for(vfd: Vfd, decision: str) -> list[dict[str, Any]]:
    """Without the groups that every netdev joins."""
    return [e for e in vfd.events(decision) if e["data"]["request"] == "default-mac"]


def test_a_guests_request_is_decided_by_policy_and_told_with_the_reason(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0, vm_mac="02:00:00:00:00:01"))
    vfd.add("vm2", vfd.vf(1))
    run("ip", "link", "set", f"{vfd.pf}v0", "address", "02:00:00:00:00:77")
    [told] = wait_for(lambda: macs_asked_for(vfd, "refused"))
    assert (told["name"], told["vfid"], told["level"]) == ("vm1", 0, "warning")
    assert "(vm_mac, or the first of macs) forces 02:00:00:00:00:01" in told["text"]
    assert vfd.row(0)["mac"] == "02:00:00:00:00:01"
    run("ip", "link", "set", f"{vfd.pf}v1", "address", "02:00:00:00:00:77")
    [told] = wait_for(lambda: macs_asked_for(vfd, "granted"))
    assert (told["name"], told["data"]["mac"]) == ("vm2", "02:00:00:00:00:77")
    wait_for(lambda: vfd.row(1)["mac"] == "02:00:00:00:00:77")


def test_drift_is_repaired_and_told(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0, allow_untagged=True))
    namespace = f"vfd-{vfd.pf}"
    port = "v0"
    run("tc", "-n", namespace, "qdisc", "del", "dev", port, "clsact")
    wait_for(lambda: vfd.events("drift"))
    wait_for(lambda: vfd.row(0)["state"] == "ok")
    qdiscs = subprocess.run(
        ["tc", "-n", namespace, "qdisc", "show", "dev", port],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "clsact" in qdiscs


def test_a_stream_tells_what_happens_from_now_on(vfd: Vfd) -> None:
    connection = http.client.HTTPConnection("vfd", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    connection.sock.connect(str(vfd.socket))
    connection.request("GET", "/v1/events?follow=true")
    response = connection.getresponse()
    assert response.headers["content-type"].startswith("application/x-ndjson")
    vfd.add("vm1", vfd.vf(0))
    told = json.loads(response.readline())
    while told["kind"] in ("granted", "refused"):  # the groups that every netdev joins
        told = json.loads(response.readline())
    assert (told["kind"], told["name"]) == ("added", "vm1")
    connection.close()


@pytest.mark.parametrize("over", [0, 1, 500])
def test_a_slow_reader_is_dropped_with_a_notice_and_holds_up_nobody(over: int) -> None:
    async def read() -> list[str]:
        journal = Journal()
        slow, quick = journal.listen(), journal.listen()
        for number in range(BACKLOG + over):
            journal.emit("tick", str(number))
            quick.queue.clear()
        journal.emit("tock", "")
        journal.close()
        assert [e.kind async for some in quick.events() for e in some] == ["tock"]
        return [e.kind async for some in slow.events() for e in some]

    kinds = asyncio.run(read())
    assert kinds == ["tick"] * BACKLOG + ["dropped"]
