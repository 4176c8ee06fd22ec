"""The emulated 82576 under the packet suite: guests in namespaces with igbvf, a wire, real frames.

Like the soft NIC's bench it is also the NIC's daemon, as small as can be: it plans and applies.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.packet.case import VFS, WIRE, Case, Send
from tests.packet.frames import mac
from tests.packet.ports import PacketPort

from vfd.nic import kernel
from vfd.nic.kernel.sriov import find_pf
from vfd.nic.protocol import Counters, Support
from vfd.nic.soft import namespace
from vfd.plan.plan import Observed, plan
from vfd.policy.requests import Request
from vfd.policy.resolve import resolve
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

QUIET = 0.15
"""Seconds without a frame after which none is under way: the emulated NIC runs in QEMU's threads,
besides the guest's CPUs."""
LINK = 10**9


class IgbBench:
    """The PF at ``address``; ``wire`` is the netdev at the other end of its cable."""

    name = "igb, emulated 82576"
    counts_link_down = False

    def __init__(self, address: str, wire: str) -> None:
        self._pf = PfPolicy(id=address, backend="kernel", vfs=VFS)
        self._device = find_pf(address)
        self._cleanup = contextlib.ExitStack()
        self._ports: dict[int, PacketPort] = {}
        self.own_mac: dict[int, str] = {}
        try:
            self._nic = kernel.open(self._pf)
            self._cleanup.callback(self._nic.close)
            self.counted = self._nic.capabilities.counters
            start = tuple(
                VfPolicy(
                    name=f"vf{n}",
                    pciid=address,
                    vfid=n,
                    vlans=(100 + n,),
                    strip_ctag=True,
                    vm_mac=mac(n),
                )
                for n in range(VFS)
            )
            self._apply(NicPolicy(pf=self._pf, vfs=start))
            self._cleanup.callback(self._device.set_num_vfs, 0)
            self._seat("wire", wire, WIRE)
            for vf in self._device.vfs():
                self.own_mac[vf.vfid] = _address(vf.netdev)
                self._seat(f"guest{vf.vfid}", vf.netdev, vf.vfid)
            self._until_frames_pass(start)
        except BaseException:
            self._cleanup.close()
            raise

    # -- what it can ----------------------------------------------------------------------------

    def lacks(self, case: Case) -> str | None:
        features = case.features
        vf_can, pf_can = self._nic.capabilities.vf, self._nic.capabilities.pf
        for trait, why in _TRAITS.items():
            if trait in features:
                return f"{trait}: {why}"
        for name in sorted(features & vf_can.keys()):
            if vf_can[name].support is Support.ABSENT:
                return f"{name}: {vf_can[name].reason}"
        for policy in case.policies:
            for vf in policy.vfs:
                for name, short in self._nic.shortfalls(vf.rules).items():
                    if name in features:
                        return f"{name}: {short.reason or short.limit}"
            if not policy.pf.enable_loopback and len(policy.vfs) > 1:
                return f"enable_loopback: {pf_can['enable_loopback'].limit}"
        if "mtu" in features or "tx.5" in case.proves:
            return f"mtu: {vf_can['mtu'].reason}"
        checked = all(vf.mac_anti_spoof for policy in case.policies for vf in policy.vfs)
        if "tx.2" in case.proves and not checked:
            return "mac_anti_spoof: when it is off, this NIC checks no source address at all"
        sent = [s.frame for s in case.steps if isinstance(s, Send) and s.port != WIRE]
        if any(frame.tags and not frame.tags[0].vid for frame in sent):
            return f"strip_ctag: {vf_can['strip_ctag'].limit}"
        return None

    # -- what it is told ------------------------------------------------------------------------

    def configure(self, nic: NicPolicy) -> None:
        self.become(nic)

    def become(self, nic: NicPolicy) -> None:
        self._apply(NicPolicy(pf=self._pf, vfs=nic.vfs))

    def wire(self, up: bool) -> None:
        raise AssertionError(f"wire({up}): lacks() skips such cases")

    def link_is(self, vfid: int, up: bool) -> bool:
        return self._ports[vfid].is_running() == up

    def ask(self, request: Request) -> bool:
        raise AssertionError(f"{request}: lacks() skips such cases")

    def leave(self, vfid: int) -> None:
        raise AssertionError(f"leave({vfid}): lacks() skips such cases")

    def send(self, port: int, frames: Iterable[bytes]) -> None:
        for raw in frames:
            self._ports[port].send(raw)

    def collect(self, awaited: Mapping[int, int], patience: float) -> dict[int, list[bytes]]:
        arrived: dict[int, list[bytes]] = {port: [] for port in self._ports}
        poll = select.poll()
        by_fd = {port.fileno(): number for number, port in self._ports.items()}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + patience
        while (now := time.monotonic()) < deadline:
            complete = all(len(arrived.get(port, ())) >= n for port, n in awaited.items())
            ready = poll.poll(1000 * (QUIET if complete else deadline - now))
            if not ready and complete:
                break
            for fd, _ in ready:
                while (raw := self._ports[by_fd[fd]].receive()) is not None:
                    arrived[by_fd[fd]].append(raw)
        return arrived

    def counters(self) -> Counters:
        """Without the PF's, which count what the host itself sends, too."""
        return {**self._nic.counters(), WIRE: {}}

    def close(self) -> None:
        self._cleanup.close()

    # -- inside -----------------------------------------------------------------------------------

    def _apply(self, nic: NicPolicy) -> None:
        desired = resolve(nic, LINK).nic
        seen = self._nic.observe()
        observed = Observed(seen.pf, {vfid: vf.rules for vfid, vf in seen.vfs.items()})
        changes = plan(desired, observed, self._nic.expressible, pf_fields={"vfs"})
        self._nic.apply(desired, changes)

    def _seat(self, netns: str, netdev: str, port: int) -> None:
        """Moves a netdev into a namespace of its own, silent and up."""
        netns = f"{netns}-{os.getpid()}"
        namespace.create(netns)
        self._cleanup.callback(namespace.remove, netns)
        with namespace.inside(netns):
            for which in ("all", "default"):
                Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6").write_text("1")
        subprocess.run(["ip", "link", "set", netdev, "netns", netns], check=True)
        # The station at the wire stands for all that is beyond it.
        promisc = "on" if port == WIRE else "off"
        up = ["ip", "-n", netns, "link", "set", netdev, "arp", "off", "promisc", promisc, "up"]
        subprocess.run(up, check=True)
        self._ports[port] = PacketPort(netns, netdev)
        self._cleanup.callback(self._ports[port].close)

    def _until_frames_pass(self, vfs: Iterable[VfPolicy]) -> None:
        """igbvf's link comes a moment after it is set up."""
        deadline = time.monotonic() + 60
        waiting = {vf.vfid for vf in vfs}
        while waiting:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no frame of VF {sorted(waiting)} reached the wire in 60 s")
            for vfid in waiting:
                probe = bytes.fromhex("ffffffffffff" + mac(vfid).replace(":", "") + "88b5")
                self.send(vfid, [probe + bytes(46)])
            for raw in self.collect({WIRE: len(waiting)}, 1)[WIRE]:
                waiting -= {n for n in waiting if raw[6:12].hex(":") == mac(n)}


_TRAITS = {
    "requests": "guests of this NIC ask its driver, which asks nobody",
    "mailbox": "guests of this NIC ask its driver, which asks nobody",
    "wire link": "the link of this NIC's VFs is tested by itself, in test_igb_under_the_daemon.py",
    "no wire": "this NIC has a wire",
    "veiled tags": "this NIC and its driver look at the outer tag alone",
    "MAC control": "this NIC and its driver don't look for MAC control frames",
    "runts": "the NIC pads what is shorter than an Ethernet frame",
}


def _address(netdev: str) -> str:
    return (Path("/sys/class/net") / netdev / "address").read_text().strip()
