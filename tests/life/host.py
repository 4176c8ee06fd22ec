"""A host for one daemon: a wire, guests in namespaces, the NIC's VFs moved into them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.life.daemon import Daemon
from tests.life.stream import Stream, Traffic
from tests.packet.frames import ALL, STRANGER, WORLD, c, frame, from_vf, mac
from tests.packet.ports import PacketPort, Port, TapPort

from vfd.nic.soft import destroy, namespace
from vfd.policy.addresses import expand_vlans
from vfd.policy.values import PfPolicy

WIRE = -1
VFS = 8
TENANTS = (0, 1, 2)
PPS = 400
"""Frames a second of each stream."""


class Host:
    """VFs 0 and 1 are tenants of VLAN 100, VF 2 one of VLAN 200: nobody touches these.
    VFs 3 … are there to be changed."""

    def __init__(self, folder: Path, guest: str = "veth") -> None:
        self.id = f"l{os.urandom(3).hex()}"
        self.guest_kind = guest
        self.ports: dict[int, Port] = {}
        self._namespaces: dict[int, str] = {}
        self.cleanup = contextlib.ExitStack()
        self.wire_ns = f"{self.id}-wire"
        self._new_namespace(self.wire_ns)
        self.uplink, self.wire_name = f"{self.id}u", f"{self.id}w"
        ip("link", "add", self.uplink, "type", "veth", "peer", "name", self.wire_name)
        self.cleanup.callback(quietly, "ip", "link", "del", self.uplink)
        self.cleanup.callback(destroy, PfPolicy.model_validate(self.pf()))
        ip("link", "set", self.wire_name, "netns", self.wire_ns)
        ip("-n", self.wire_ns, "link", "set", self.wire_name, "up", "arp", "off")
        self.ports[WIRE] = PacketPort(self.wire_ns, self.wire_name)
        self.daemon = Daemon(folder, self.pf())
        self.cleanup.callback(self.daemon.kill)
        self._files = {f"tenant{vfid}.json": self.untouched(vfid) for vfid in TENANTS}
        self._write_files()

    def pf(self, **changes: object) -> dict[str, object]:
        return {
            "id": self.id,
            "backend": "soft",
            "guest": self.guest_kind,
            "vfs": VFS,
            "link_speed": "10Gbps",
            "uplink": self.uplink,
            "enable_loopback": True,
        } | changes

    def untouched(self, vfid: int) -> dict[str, object]:
        return self.vf(vfid, vlans=[200 if vfid == 2 else 100], strip_ctag=True, link_status="on")

    def vf(self, vfid: int, **config: object) -> dict[str, object]:
        """A VF's configuration."""
        return {"pciid": self.id, "vfid": vfid, "vm_mac": mac(vfid), "vlans": [300]} | config

    def start(self) -> None:
        """Starts the daemon for the first time and seats the untouched guests."""
        self.daemon.start()
        for vfid in TENANTS:
            self.seat(vfid)

    def restore(self) -> None:
        """Brings it back to the untouched tenants alone, with the wire up, and a daemon of this
        version and configuration that runs: by a new daemon, if anything is otherwise."""
        for vfid in self._namespaces.keys() - TENANTS:
            if vfid in self.ports:
                self.ports.pop(vfid).close()
            self.unseat(vfid)
        ip("-n", self.wire_ns, "link", "set", self.wire_name, "up")
        if not self._is_as_started():
            self.daemon.kill()
            self.daemon.socket.unlink(missing_ok=True)
            self._write_files()
            self.daemon.write_main(self.pf())
            self.daemon.environment.clear()
            self.daemon.start()
        wait_for(lambda: all(map(self.is_there, range(len(TENANTS), VFS))), "all VFs nobody's")
        assert not self.is_there(VFS)
        wait_for(lambda: all(port.is_running() for port in self.ports.values()), "all links up")
        assert self.converged() == []

    def _is_as_started(self) -> bool:
        """Whether the daemon that runs and its files are those of the start."""
        folder = self.daemon.config_dir
        return (
            not self.daemon.environment
            and self.daemon.is_ready()
            and {path.name for path in folder.iterdir()} == self._files.keys()
            and all((folder / n).read_text() == json.dumps(c) for n, c in self._files.items())
            and self.daemon.must("GET", f"/v1/pfs/{self.id}")["vfs"] == VFS
            and self.converged() == []
        )

    def _write_files(self) -> None:
        for path in self.daemon.config_dir.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, config in self._files.items():
            self.daemon.write(name.removesuffix(".json"), config)

    def netdev(self, vfid: int) -> str:
        return f"{self.id}v{vfid}"

    def seat(self, vfid: int, *, listen: bool = True) -> None:
        """Gives a VF to a new guest: a namespace of its own, or the process that holds the tap."""
        if self.guest_kind == "tap":
            self.ports[vfid] = TapPort(self.netdev(vfid))
            return
        netns, name = f"{self.id}-g{vfid}", self.netdev(vfid)
        self._new_namespace(netns)
        self._namespaces[vfid] = netns
        ip("link", "set", name, "netns", netns)
        ip("-n", netns, "link", "set", name, "up", "arp", "off")
        if listen:
            self.ports[vfid] = PacketPort(netns, name)

    def unseat(self, vfid: int) -> None:
        """Deletes the guest's namespace, and its VF with it."""
        namespace.remove(self._namespaces.pop(vfid))

    def guest(self, vfid: int, *command: str) -> None:
        """``ip`` in the guest's namespace."""
        ip("-n", self._namespaces[vfid], *command)

    def guest_batch(self, vfid: int, commands: list[str]) -> None:
        subprocess.run(
            ["ip", "-n", self._namespaces[vfid], "-force", "-batch", "-"],
            input="\n".join(commands),
            text=True,
            check=False,
            capture_output=True,
        )

    def is_there(self, vfid: int) -> bool:
        return is_netdev(self.netdev(vfid))

    def traffic(self) -> Traffic:
        """The untouched tenants' streams, and the tell-tales."""
        a_to_b, b_to_a = from_vf(0, mac(1)), from_vf(1, mac(0))
        out, back = from_vf(0, WORLD), frame(mac(1), WORLD, c(100))
        alone = from_vf(2, WORLD)
        streams = (
            Stream("VF 0 to VF 1", 0, a_to_b, {1: a_to_b}),
            Stream("VF 1 to VF 0", 1, b_to_a, {0: b_to_a}),
            Stream("VF 0 to the wire", 0, out, {WIRE: out.tagged(c(100))}),
            Stream("VF 2 to the wire", 2, alone, {WIRE: alone.tagged(c(200))}),
            Stream("the wire to VF 1", WIRE, back, {1: back.tagged()}, over_wire=True),
            Stream(
                "VF 1's broadcast",
                1,
                from_vf(1, ALL),
                {0: from_vf(1, ALL), WIRE: from_vf(1, ALL, c(100))},
            ),
            Stream("TELL-TALE a false source at VF 0", 0, frame(mac(1), STRANGER)),
            Stream("TELL-TALE VF 2 as VF 0", 2, from_vf(0, mac(1))),
            Stream("TELL-TALE VF 2's tag of VLAN 100", 2, from_vf(2, mac(1), c(100))),
            Stream("TELL-TALE VLAN 200 to VF 1", WIRE, frame(mac(1), WORLD, c(200))),
            Stream("TELL-TALE an untagged frame to VF 0", WIRE, frame(mac(0), WORLD)),
            Stream("TELL-TALE a nobody from the wire", WIRE, frame(STRANGER, WORLD, c(100))),
        )
        return Traffic(streams, {port: self.ports[port] for port in (WIRE, 0, 1, 2)}, PPS)

    def counters(self) -> dict[int | None, dict[str, int]]:
        """vfid (None: the PF) → counters, as the operator's table shows them."""
        rows = self.daemon.must("GET", f"/v1/show?pf={self.id}")["rows"]
        return {row["vfid"]: row["counters"] for row in rows}

    def converged(self) -> list[str]:
        """What differs between the files in config_dir and what the NIC enforces."""
        files = {
            path.stem: json.loads(path.read_text())
            for path in self.daemon.config_dir.glob("*.json")
        }
        answer = self.daemon.must("GET", "/v1/vfs")
        in_force = {vf["name"]: vf for vf in answer["vfs"]}
        found = [f"{bad['file']}: {bad['problems']}" for bad in answer["bad_files"]]
        if files.keys() != in_force.keys():
            found.append(f"files {sorted(files)}, in force {sorted(in_force)}")
        for name in files.keys() & in_force.keys():
            found += [f"{name}: {d}" for d in _differences(files[name], in_force[name])]
        rows = self.daemon.must("GET", f"/v1/show?pf={self.id}")["rows"]
        open_vfs = {row["vfid"] for row in rows if row["vfid"] is not None and row["name"]}
        named = {config["vfid"] for config in files.values()}
        if open_vfs != named:
            found.append(f"VFs {sorted(open_vfs)} are open, files name {sorted(named)}")
        return found

    def close(self) -> None:
        for port in self.ports.values():
            port.close()
        self.cleanup.close()

    def _new_namespace(self, name: str) -> None:
        namespace.create(name)
        self.cleanup.callback(namespace.remove, name)
        with namespace.inside(name):
            for which in ("all", "default"):
                Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6").write_text("1")


def _differences(file: dict[str, Any], answer: dict[str, Any]) -> Iterator[str]:
    yield from (str(difference) for difference in answer["differences"])
    if answer["in_force"] is None:
        yield "closed"
        return
    for attribute in ("vlans", "strip_ctag", "vm_mac", "allow_untagged", "macs"):
        asked, shown = file.get(attribute), answer["in_force"][attribute]
        if attribute == "vlans":
            asked, shown = expand_vlans(asked), expand_vlans(shown)  # ranges in the one or other
        if attribute in file and shown != asked:
            yield f"{attribute}: {shown}, the file says {asked}"
    mirrors = [m["target"] for m in answer["in_force"]["mirror"]]
    wanted = file.get("mirror") or []
    wanted = [m["target"] for m in (wanted if isinstance(wanted, list) else [wanted])]
    if mirrors != wanted:
        yield f"mirrors to {mirrors}, the file says {wanted}"


def is_netdev(name: str) -> bool:
    """Whether there is such a netdev here. /sys/class/net may be about the namespace of who mounted
    /sys."""
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def quietly(*command: str) -> None:
    subprocess.run(command, check=False, capture_output=True)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)
