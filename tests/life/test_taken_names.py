"""Something else has the name of a VF's netdev: that VF alone is closed, and says why."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.life.daemon import Daemon
from tests.life.host import wait_for
from tests.soft.world import ip

import vfd.nic.soft as soft
from vfd.nic.soft import namespace
from vfd.policy.values import PfPolicy


class Nic:
    """A daemon with a soft NIC of three VFs, which all have a file."""

    def __init__(self, folder: Path, guest: str) -> None:
        self.id = f"t{secrets.token_hex(3)}"
        self.pf = {"id": self.id, "backend": "soft", "vfs": 3, "guest": guest}
        self.daemon = Daemon(folder, self.pf)
        for vfid in range(3):
            self.daemon.write(f"vf{vfid}", self.config(vfid))

    def config(self, vfid: int, **more: object) -> dict[str, object]:
        return {"pciid": self.id, "vfid": vfid, "allow_untagged": True, **more}

    def take(self, vfid: int) -> None:
        name = f"{self.id}v{vfid}"
        ip("link", "add", name, "type", "veth", "peer", "name", f"{name}x")

    def states(self) -> dict[str, Any]:
        return {vf["name"]: vf for vf in self.daemon.must("GET", "/v1/vfs")["vfs"]}

    def close(self) -> None:
        self.daemon.kill()
        soft.destroy(PfPolicy.model_validate(self.pf))
        for vfid in range(3):
            subprocess.run(["ip", "link", "del", f"{self.id}v{vfid}"], capture_output=True)


@pytest.fixture(params=["veth", "tap"])
def nic(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Nic]:
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, BPF")
    nic = Nic(tmp_path, request.param)
    yield nic
    nic.close()


def holds_but_for_vf_1(nic: Nic) -> None:
    found = nic.states()
    assert {n: vf["state"] for n, vf in found.items() if n != "vf1"} == {"vf0": "ok", "vf2": "ok"}
    assert found["vf1"]["state"] not in ("ok", "in force")
    assert f"{nic.id}v1 exists already" in str(found["vf1"]), found["vf1"]
    nic.daemon.must("PUT", nic.daemon.vf("vf2"), {"config": nic.config(2, vlans=[7])})
    nic.daemon.must("DELETE", nic.daemon.vf("vf0"))
    nic.daemon.must("POST", "/v1/vfs", {"name": "vf0", "config": nic.config(0)})
    status, answer = nic.daemon.ask("PUT", nic.daemon.vf("vf1"), {"config": nic.config(1, mtu=900)})
    assert status >= 400
    assert f"{nic.id}v1 exists already" in str(answer)


def comes_when_the_name_is_free(nic: Nic) -> None:
    ip("link", "set", f"{nic.id}v1", "name", f"{nic.id}y")
    try:
        wait_for(lambda: nic.states()["vf1"]["state"] == "ok", "VF 1, whose name is free now")
        assert {vf["state"] for vf in nic.states().values()} == {"ok"}
    finally:
        ip("link", "del", f"{nic.id}y")


def test_on_a_fresh_nic(nic: Nic) -> None:
    nic.take(1)
    nic.daemon.start()
    holds_but_for_vf_1(nic)
    comes_when_the_name_is_free(nic)


def test_on_a_nic_that_lost_the_vf_while_no_daemon_lived(nic: Nic) -> None:
    nic.daemon.start()
    nic.daemon.stop()
    ip("link", "del", f"{nic.id}v1")
    nic.take(1)
    nic.daemon.start()
    holds_but_for_vf_1(nic)
    comes_when_the_name_is_free(nic)


@pytest.mark.parametrize("nic", ["veth"], indirect=True)  # a tap is in no guest's namespace
def test_on_a_nic_that_loses_the_vf_with_its_guest(nic: Nic) -> None:
    nic.daemon.start()
    name = f"{nic.id}g"
    namespace.create(name)
    ip("link", "set", f"{nic.id}v1", "netns", name)
    nic.take(1)
    namespace.remove(name)
    wait_for(lambda: nic.states()["vf1"]["state"] != "ok", "the loss noticed")
    holds_but_for_vf_1(nic)
    comes_when_the_name_is_free(nic)
