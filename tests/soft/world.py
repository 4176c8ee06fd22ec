"""A soft NIC and guests in namespaces of their own, with real frames between them."""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import vfd.nic.soft as soft
from vfd.nic.protocol import Event, EventKind
from vfd.nic.soft import namespace
from vfd.plan.changes import Change, PfChange, VfChange
from vfd.policy.addresses import mac_bytes
from vfd.policy.requests import Decision
from vfd.policy.resolve import resolve
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy
from vfd.policy.wishes import Judge, Wishes, grantable

BROADCAST = "ff:ff:ff:ff:ff:ff"
_AUXDATA, _SOL_PACKET = 8, 263


def ip(*arguments: str) -> str:
    """Runs ``ip``; its errors are the test's."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def frame(dst: str, src: str, payload: bytes = b"", *, vid: int | None = None) -> bytes:
    """An Ethernet frame of an experimental ethertype (0x88b5), tagged or not."""
    tag = b"" if vid is None else struct.pack("!HH", 0x8100, vid)
    return mac_bytes(dst) + mac_bytes(src) + tag + b"\x88\xb5" + payload.ljust(46, b"\0")


class Tap:
    """A packet socket on a netdev: sends and hears whole frames, tags included."""

    def __init__(self, netdev: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        self._socket.bind((netdev, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, 32, 64 << 20)  # SO_SNDBUFFORCE: never wait
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE: miss nothing

    def close(self) -> None:
        self._socket.close()

    def send(self, raw: bytes) -> None:
        self._socket.send(raw)

    def heard(self, wait: float = 0.1, *, count: int = 1 << 30) -> list[bytes]:
        """The test's frames (ethertype 0x88b5) that arrive until nothing comes for ``wait``
        seconds, or ``count`` have come."""
        found: list[bytes] = []
        while len(found) < count and select.select([self._socket], [], [], wait)[0]:
            data, ancillary, _, address = self._socket.recvmsg(70000, 256, socket.MSG_DONTWAIT)
            if address[2] == socket.PACKET_OUTGOING:
                continue
            for _, kind, value in ancillary:
                if kind == _AUXDATA:
                    status, *_, tci, tpid = struct.unpack("=IIIHHHH", value[:20])
                    if status & 0x10:
                        data = data[:12] + struct.pack("!HH", tpid or 0x8100, tci) + data[12:]
            if b"\x88\xb5" in data[12:22]:
                found.append(data)
        return found


@dataclass
class World:
    """One soft NIC under test, removed with all that belongs to it at the end."""

    id: str
    pf: PfPolicy
    nic: soft.SoftNic
    vfs: dict[int, VfPolicy] = field(default_factory=dict)
    guests: dict[int, str] = field(default_factory=dict)
    wishes: Wishes = field(default_factory=Wishes)
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """What goes with the world."""

    def vf(self, vfid: int, **fields: object) -> VfPolicy:
        """A policy that lets untagged frames pass, unless it says otherwise."""
        plain = {"allow_untagged": True, "link_status": "auto"}
        return VfPolicy.model_validate(
            {"name": f"{self.id}-{vfid}", "pciid": self.id, "vfid": vfid, **plain, **fields}
        )

    def apply(
        self, *vfs: VfPolicy, pf: PfPolicy | None = None, without: tuple[int, ...] = ()
    ) -> None:
        """Adds or updates these VFs, closes those ``without``."""
        after = {**self.vfs, **{vf.vfid: vf for vf in vfs}}
        after = {vfid: vf for vfid, vf in after.items() if vfid not in without}
        seen = self.nic.observe()
        new_pf = pf or self.pf
        desired = resolve(
            NicPolicy(pf=new_pf, vfs=tuple(after.values())), new_pf.link_speed or 10**10
        ).nic
        changes: list[Change] = []
        if seen.pf != new_pf:
            changes.append(PfChange(seen.pf, new_pf))
        for vf in desired.vfs:
            before = seen.vfs[vf.vfid].rules if vf.vfid in seen.vfs else None
            rules = self.nic.expressible(vf.vfid, vf.rules)
            if before != rules:
                changes.append(VfChange(vf.vfid, before, rules))
        changes += [VfChange(v, seen.vfs[v].rules, None) for v in without]
        self.nic.apply(desired, changes)
        self.pf, self.vfs = new_pf, after
        self._grant_wishes()

    def guest(self, vfid: int, *, up: bool = True, silent: bool = False) -> str:
        """Gives the VF to a new namespace as ``eth0``; returns the namespace's name. ``silent``: it
        sends nothing of its own accord, as IPv6 does when an interface comes up."""
        name = self.guests[vfid] = self.home(f"{self.id}g{vfid}")
        if silent:
            with namespace.inside(name):
                for which in ("all", "default"):
                    Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6").write_text("1")
        ip("link", "set", f"{self.id}v{vfid}", "netns", name, "name", "eth0")
        if up:
            ip("-n", name, "link", "set", "eth0", "up")
        return name

    def home(self, name: str) -> str:
        """A namespace for guests, removed at the end; returns its name."""
        if not namespace.exists(name):
            namespace.create(name)
            self.held.callback(namespace.remove, name)
        return name

    def port(self, vfid: int, netdev: str = "eth0") -> Tap:
        return self.port_in(self.guests[vfid], netdev)

    def port_in(self, name: str, netdev: str) -> Tap:
        with namespace.inside(name):
            port = Tap(netdev)
        self.held.callback(port.close)
        return port

    def mac(self, vfid: int) -> str:
        mac = self.nic.observe().vfs[vfid].mac
        assert mac is not None
        return mac

    def wire(self) -> tuple[str, str]:
        """A veth pair whose one end can be the uplink: (uplink, the far end in a namespace)."""
        name, uplink = f"{self.id}w", f"{self.id}up"
        namespace.create(name)
        self.held.callback(namespace.remove, name)
        ip("link", "add", uplink, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("-n", name, "link", "set", "eth0", "up")
        return uplink, name

    def until(
        self,
        wanted: Callable[[Event], bool],
        *,
        seconds: float = 30.0,
        answer: bool = True,
    ) -> list[Event]:
        """Events up to one that is ``wanted``; requests are decided by policy meanwhile."""
        found: list[Event] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            select.select([self.nic.fileno()], [], [], max(0.0, end - time.monotonic()))
            batch = self.nic.events()
            if answer:
                for event in batch:
                    self.answer(event)
            found += batch
            if any(wanted(event) for event in batch):
                return found
        raise AssertionError(f"no such event within {seconds} s; there were {found}")

    def settle(self, seconds: float = 0.15) -> list[Event]:
        """Events until there were none for so long, requests decided by policy.

        What else there is to read is no event: of news of other devices there may be no end.
        """
        found: list[Event] = []
        end = time.monotonic() + seconds
        while select.select([self.nic.fileno()], [], [], max(0.0, end - time.monotonic()))[0]:
            if batch := self.nic.events():
                end = time.monotonic() + seconds
            for event in batch:
                self.answer(event)
            found += batch
        return found

    def answer(self, event: Event) -> Decision | None:
        """As a daemon does: what is refused stays a wish."""
        if event.kind is EventKind.GUEST_GONE and event.vfid is not None:
            self.nic.revoke(event.vfid)
            self.wishes.forget(event.vfid)
        if event.request is None:
            return None
        decision = self._judge().decide(event.request)
        self.wishes.note(event.request, decision)
        self.nic.answer([(event.request, decision)])
        self._grant_wishes()
        return decision

    def _grant_wishes(self) -> None:
        found = list(grantable(self.wishes, self._judge()))
        if answers := [(wish.request, decision) for wish, decision in found if decision.granted]:
            self.nic.answer(answers)
            for request, decision in answers:
                self.wishes.note(request, decision)

    def _judge(self) -> Judge:
        seen = self.nic.observe()
        return Judge(
            NicPolicy(pf=self.pf, vfs=tuple(self.vfs.values())),
            {v: s.grants for v, s in seen.vfs.items()},
            {v: s.mac for v, s in seen.vfs.items() if s.mac},
            self.nic.capabilities,
        )

    def reopen(self) -> None:
        """Closes the NIC and opens it again, as a new daemon does."""
        self.nic.close()
        self.open_again()

    def open_again(self) -> None:
        """A new daemon takes the NIC that the former one closed."""
        self.nic = soft.open(self.pf)
        self.wishes = Wishes()


@contextlib.contextmanager
def world(**fields: object) -> Iterator[World]:
    """A soft NIC of 2 VFs, or as ``fields`` of its PF say, with nothing configured."""
    nic_id = f"t{secrets.token_hex(3)}"
    pf = PfPolicy.model_validate(
        {"id": nic_id, "backend": "soft", "vfs": 2, "enable_loopback": True, **fields}
    )
    nic = soft.open(pf)
    w = World(nic_id, pf, nic)
    try:
        w.apply()
        yield w
    finally:
        w.nic.close()
        w.held.close()
        soft.destroy(w.pf)


def lose_unheard(w: World, *vfids: int) -> None:
    """Deletes the VFs' guests and returns when their netdevs are gone; nobody hears of it yet."""
    for vfid in vfids:
        namespace.remove(w.guests[vfid])
    for _ in range(250):
        left = ip("-n", f"vfd-{w.id}", "-o", "link")
        if not any(f" v{vfid}@" in left for vfid in vfids):
            return
        time.sleep(0.02)
    raise AssertionError(f"the kernel keeps {left}")


def deafen(netdev: str, *, netns: str | None = None) -> None:
    """So much happens to the netdev that the kernel drops notifications of it and of others.

    The kernel counts more than 1500 bytes of each against 8 MB, twice what the listener asks for.
    """
    where = ("-n", netns) if netns else ()
    flood = "".join(f"link set {netdev} txqlen {1000 + n % 9}\n" for n in range(15000))
    subprocess.run(["ip", *where, "-batch", "-"], input=flood, text=True, check=True)


def until_shown(word: str, *link: str, netns: str | None = None) -> None:
    """Waits until ``ip link show`` says it of a link: the kernel gets round to it when it likes."""
    where = ("-n", netns) if netns else ()
    end = time.monotonic() + 10
    while word not in (shown := ip(*where, "link", "show", *link)):
        assert time.monotonic() < end, f"no {word} in {shown}"
        time.sleep(0.02)
