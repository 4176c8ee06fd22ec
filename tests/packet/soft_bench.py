"""The soft NIC under the packet suite: guests in namespaces (or behind taps), a wire, real frames.

The bench is also the NIC's daemon, as small as can be: it plans, applies, and decides requests.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

from vfd.nic import soft
from vfd.nic.protocol import Counters, Event, EventKind, Nic
from vfd.nic.soft import namespace
from vfd.plan.plan import Observed, plan
from vfd.policy.requests import Decision, Request, RequestKind, decide
from vfd.policy.resolve import resolve
from vfd.policy.values import NicPolicy, PfPolicy

from .case import VFS, WIRE
from .ports import PacketPort, Port, TapPort

QUIET = 0.004
"""Seconds without a frame after which none is under way: the soft NIC delivers before the
sender's system call returns, but for the time another CPU takes to get to it."""
PATIENCE = 30.0
"""Seconds for the kernel to do what was asked; only a busy host takes more than a moment."""
GUEST_MTU = 9710
"""The guests' netdevs take what the NIC must refuse; asked for and refused, so without effect."""
PF_MTU = 9000
DEFAULT_SPEED = 10 * 10**9


class SoftBench:
    """A soft NIC of its own, with ``guest`` ports, and with a wire or without."""

    def __init__(self, guest: Literal["veth", "tap"] = "veth", *, has_wire: bool = True) -> None:
        self.name = f"soft, {guest} guests, {'a' if has_wire else 'no'} wire"
        self._id = f"b{os.urandom(3).hex()}"
        self._guest = guest
        self.counts_link_down = guest == "tap"  # a veth's own driver keeps such frames back
        self._has_wire = has_wire
        self._undo: dict[int, list[list[str]]] = {}
        self.own_mac: dict[int, str] = {}
        self._ports: dict[int, Port] = {}
        self._namespaces: dict[int, str] = {}
        self._wire_up = True
        self._cleanup = contextlib.ExitStack()
        try:
            if has_wire:
                self._make_wire()
            self._nic: Nic = soft.open(self._pf(PfPolicy(id="x", vfs=VFS, mtu=PF_MTU)))
            self._cleanup.callback(self._remove_nic)
            self._desired = NicPolicy(pf=self._pf(PfPolicy(id="x", vfs=VFS, mtu=PF_MTU)))
            self.counted = self._nic.capabilities.counters
            self._apply(self._desired)
            for vfid in range(VFS):
                self._seat_guest(vfid)
            self._pump(0.05)
            self._learn_own_macs()
        except BaseException:
            self._cleanup.close()
            raise

    # -- what it is told ------------------------------------------------------------------------

    def configure(self, nic: NicPolicy) -> None:
        if not self._wire_up:
            self.wire(True)
        if self._undo:
            # Grants last until the VF is deleted, and what the guest did is the guest's to undo.
            keep = tuple(vf for vf in self._desired.vfs if vf.vfid not in self._undo)
            self._apply(self._desired.model_copy(update={"vfs": keep}))
            for commands in self._undo.values():
                for command in reversed(commands):
                    subprocess.run(command, check=True)
            self._undo = {}
            self._pump(0.02)
        if self._guest == "veth":
            self._wear_own_macs([vf.vfid for vf in nic.vfs if vf.vm_mac is None])
        self.become(nic)
        self._learn_own_macs()

    def _wear_own_macs(self, vfids: list[int]) -> None:
        """These guests start with the NIC's own MAC, whatever theirs was before."""
        if not vfids:
            return
        keep = tuple(vf for vf in self._desired.vfs if vf.vfid not in vfids)
        self._apply(self._desired.model_copy(update={"vfs": keep}))
        self._pump(0.02)
        state = self._nic.observe()
        for vfid in vfids:
            netns, name = self.guest(vfid)
            self._ip("-n", netns, "link", "set", name, "address", str(state.vfs[vfid].mac))
        self._pump(0.02)

    def become(self, nic: NicPolicy) -> None:
        self._apply(nic.model_copy(update={"pf": self._pf(nic.pf)}))
        self._pump(0)
        self._wait_for_links()

    def _wait_for_links(self) -> None:
        """Until every port whose link is up sends."""
        up = [vfid for vfid, state in self._nic.observe().vfs.items() if state.link_up]
        if self._has_wire and self._wire_up:
            up.append(WIRE)
        ports = [self._ports[port] for port in up if port in self._ports]
        self._wait(lambda: all(port.is_running() for port in ports), "all links to run")

    def wire(self, up: bool) -> None:
        self._ip("-n", self._wire_ns, "link", "set", self._wire_name, "up" if up else "down")
        self._wire_up = up
        self._wait(lambda: self._nic.link().up == up, f"the wire's link {up=}")
        self._wait_for_links()

    def link_is(self, vfid: int, up: bool) -> bool:
        deadline = time.monotonic() + PATIENCE
        while self._ports[vfid].is_running() != up and time.monotonic() < deadline:
            self._pump(0.01)
        return self._ports[vfid].is_running() == up

    def ask(self, request: Request) -> bool:
        do, undo = self._deed(request)
        self._undo.setdefault(request.vfid, []).append(undo)
        subprocess.run(do, check=True)
        closed = request.vfid not in self._desired.by_vfid()
        deadline = time.monotonic() + (0.1 if closed else 2)
        while time.monotonic() < deadline:
            for asked, answer in self._pump(0.02):
                if asked == request:
                    return answer
        if closed:
            return False  # a closed VF's guest has no mailbox to ask through
        raise TimeoutError(f"the NIC did not report {request} after {' '.join(do)}")

    def leave(self, vfid: int) -> None:
        self._ports.pop(vfid).close()
        self._undo.pop(vfid, None)
        namespace.remove(self._namespaces.pop(vfid))
        self._wait(lambda: self._present(vfid), f"VF {vfid} back after its guest went")
        self._seat_guest(vfid)
        self._pump(0.05)
        self._learn_own_macs()

    def send(self, port: int, frames: Iterable[bytes]) -> None:
        to = self._ports[port]
        for raw in frames:
            to.send(raw)

    def collect(self, awaited: Mapping[int, int], patience: float) -> dict[int, list[bytes]]:
        arrived: dict[int, list[bytes]] = {port: [] for port in self._ports}
        poll = select.poll()
        by_fd = {}
        for number, port in self._ports.items():
            by_fd[port.fileno()] = number
            poll.register(port, select.POLLIN)
        deadline = time.monotonic() + patience
        while (now := time.monotonic()) < deadline:
            complete = all(len(arrived.get(port, ())) >= n for port, n in awaited.items())
            wait = (QUIET if awaited else patience) if complete else deadline - now
            ready = poll.poll(wait * 1000)
            if not ready and complete:
                break
            for fd, _ in ready:
                number = by_fd[fd]
                while (raw := self._ports[number].receive()) is not None:
                    arrived[number].append(raw)
        return arrived

    def counters(self) -> Counters:
        return self._nic.counters()

    def close(self) -> None:
        self._cleanup.close()

    # -- for loads and TCP (load.py) ------------------------------------------------------------

    @property
    def ports(self) -> Mapping[int, Port]:
        return self._ports

    def guest(self, vfid: int) -> tuple[str, str]:
        """The guest's (namespace, netdev)."""
        return self._namespaces[vfid], f"{self._id}v{vfid}"

    def pump(self) -> None:
        """Answers what guests have asked meanwhile."""
        self._pump(0.02)

    # -- inside -----------------------------------------------------------------------------------

    def _pf(self, pf: PfPolicy) -> PfPolicy:
        """The case's PF as this NIC's."""
        return pf.model_copy(
            update={
                "id": self._id,
                "backend": "soft",
                "guest": self._guest,
                "uplink": self._uplink if self._has_wire else None,
                "link_speed": pf.link_speed or DEFAULT_SPEED,
            }
        )

    @property
    def _uplink(self) -> str:
        return f"{self._id}u"

    @property
    def _wire_name(self) -> str:
        return f"{self._id}w"

    @property
    def _wire_ns(self) -> str:
        return f"{self._id}-wire"

    def _make_wire(self) -> None:
        self._new_namespace(self._wire_ns)
        self._cleanup.callback(_try_ip, "link", "del", self._uplink)
        self._ip(
            *("link", "add", self._uplink, "mtu", "9800", "type", "veth"),
            *("peer", "name", self._wire_name, "mtu", "9800", "netns", self._wire_ns),
        )
        self._ip("-n", self._wire_ns, "link", "set", self._wire_name, "up", "arp", "off")
        self._ports[WIRE] = PacketPort(self._wire_ns, self._wire_name)

    def _seat_guest(self, vfid: int) -> None:
        """Moves the VF into a new guest's namespace, silent and up."""
        name = f"{self._id}v{vfid}"
        if self._guest == "tap":
            self._ports[vfid] = TapPort(name)
            return
        netns = f"{self._id}-g{vfid}"
        self._new_namespace(netns)
        self._namespaces[vfid] = netns
        self._ip("link", "set", name, "netns", netns)
        self._ip("-n", netns, "link", "set", name, "mtu", str(GUEST_MTU), "up")
        self._ports[vfid] = PacketPort(netns, name)

    def _new_namespace(self, name: str) -> None:
        namespace.create(name)
        self._cleanup.callback(namespace.remove, name)
        with namespace.inside(name):
            for which in ("all", "default"):
                Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6").write_text("1")

    def _present(self, vfid: int) -> bool:
        name = f"{self._id}v{vfid}"
        return any(name == there for _, there in socket.if_nameindex())

    def _learn_own_macs(self) -> None:
        open_vfs = self._desired.by_vfid()
        for vfid, state in self._nic.observe().vfs.items():
            vf = open_vfs.get(vfid)
            if state.mac and (vf is None or vf.vm_mac is None):
                self.own_mac[vfid] = state.mac

    def _apply(self, desired: NicPolicy) -> None:
        desired = resolve(desired, desired.pf.link_speed or DEFAULT_SPEED).nic
        state = self._nic.observe()
        observed = Observed(state.pf, {vfid: vf.rules for vfid, vf in state.vfs.items()})
        changes = plan(desired, observed, self._nic.expressible)
        if changes:
            self._nic.apply(desired, changes)
        self._desired = desired

    def _pump(self, seconds: float) -> list[tuple[Request, bool]]:
        """Handles the NIC's events for so long; returns the requests with their answers."""
        answers = []
        deadline = time.monotonic() + seconds
        while True:
            wait = max(0.0, deadline - time.monotonic())
            select.select([self._nic], [], [], wait)
            events = self._nic.events()
            answers += [a for event in events if (a := self._handle(event))]
            if not events and time.monotonic() >= deadline:
                return answers

    def _handle(self, event: Event) -> tuple[Request, bool] | None:
        if event.kind is EventKind.GUEST_GONE and event.vfid is not None:
            self._nic.revoke(event.vfid)
        if event.request is None:
            return None
        if self._guest == "tap":
            # a VM asks by sending; the cases' false sources are no requests
            self._nic.answer([(event.request, Decision(False, "nobody asks here"))])
            return event.request, False
        state = self._nic.observe()
        decision = decide(
            self._desired,
            {vfid: vf.grants for vfid, vf in state.vfs.items()},
            event.request,
            limits=self._nic.capabilities,
            own_macs=self.own_mac,
        )
        self._nic.answer([(event.request, decision)])
        return event.request, decision.granted

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        # the kernel takes namespaces of the whole host apart one after the other
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: waited {PATIENCE:g} s for {what}")
            self._pump(0.01)
        self._pump(0)

    def _deed(self, request: Request) -> tuple[list[str], list[str]]:
        """What a guest does to its interface to ask, and what undoes it."""
        netns, name = self.guest(request.vfid)
        ip = ["ip", "-n", netns, "link", "set", name]
        fdb = ["bridge", "-n", netns, "fdb"]
        entry = [str(request.mac), "dev", name, "self"]
        match request.kind:
            case RequestKind.DEFAULT_MAC:
                with namespace.inside(netns):
                    before = socket_mac(name)
                return [*ip, "address", str(request.mac)], [*ip, "address", before]
            case RequestKind.MTU:
                return [*ip, "mtu", str(request.mtu)], [*ip, "mtu", str(GUEST_MTU)]
            case RequestKind.PROMISC:
                return [*ip, "promisc", "on"], [*ip, "promisc", "off"]
            case RequestKind.ALLMULTI:
                return [*ip, "allmulticast", "on"], [*ip, "allmulticast", "off"]
            case RequestKind.ADD_MAC | RequestKind.JOIN_GROUP:
                return [*fdb, "add", *entry], [*fdb, "del", *entry]
            case RequestKind.REMOVE_MAC | RequestKind.LEAVE_GROUP:
                return [*fdb, "del", *entry], [*fdb, "add", *entry]
        raise AssertionError(f"{request.kind} is no guest's of a soft NIC")

    def _remove_nic(self) -> None:
        """The NIC with all its VFs, as when its PF leaves the configuration."""
        for port in self._ports.values():
            port.close()
        with contextlib.suppress(Exception):  # half made, perhaps: what follows removes the rest
            self._apply(NicPolicy(pf=self._desired.pf.model_copy(update={"vfs": 0})))
        self._nic.close()
        _try_ip("netns", "del", f"vfd-{self._id}")
        _try_ip("link", "del", f"{self._id}-s0")

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)


def socket_mac(name: str) -> str:
    """The MAC of netdev ``name`` in the calling thread's namespace."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as s:
        s.bind((name, 0))
        return bytes(s.getsockname()[4]).hex(":")


def _try_ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=False, capture_output=True)
