"""Where a soft NIC lives: its network namespace, ports, shaper and uplink, as netdevs.

A NIC with veth guests has a namespace of its own, ``vfd-<id>``, with the VFs' host ends, the
uplink and the shaper in it; the guest ends ``<id>v<N>`` start in the daemon's namespace. A tap can
only be opened in the namespace that it is in, and a frame can only be redirected within one, so a
NIC with tap guests lives in the daemon's namespace as a whole.

A port without its ingress hook, or whose hook finds no filter, reaches nothing: in the own
namespace nobody answers or forwards, and a tap stays down until its hook is there. So whatever a
crash leaves half made is closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import socket
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vfd.nic.inotify import Inotify
from vfd.nic.netlink import Message, Netlink, NetlinkError
from vfd.nic.protocol import NicError
from vfd.nic.soft import layout, namespace, nsids, rtnl, tap, uplink
from vfd.nic.soft.rtnl import IFF_NOARP, IFF_PROMISC, Link
from vfd.policy.values import MAX_VFS

log = logging.getLogger("vfd.soft")

_LOOPBACK = 1
"""Its index in every network namespace: LOOPBACK_IFINDEX, include/net/flow.h."""
_NEAR, _FAR, _FIRST_VF = 0x80, 0x81, layout.HOST_ENDS
"""Fixed interface indexes in the NIC's own namespace, so that a VF made anew keeps its index."""
_UPLINKS = range(0x90, 0xA0)
"""An uplink's there: the first that is free, for the former one is there until the new one is in
force. What has one of them was brought there as an uplink."""
HOST_MTU = 65535
"""The host ends': no frame is too large to reach the program, which judges and counts it."""
TAP_MTU = HOST_MTU - 30
"""A tap's: it takes a little less (drivers/net/tun.c, tun_net_init)."""
XDP_MTU = 3072
"""The host ends' while neither VF nor guest has a larger one. A guest's veth takes a native XDP
program only if what comes fits a page (drivers/net/veth.c, veth_xdp_set; 3506 bytes on x86)."""


class NoUplinkError(NicError):
    """The uplink is no netdev of this host, which it may become at any time."""


@dataclass(slots=True)
class Vf:
    """A VF's netdevs as found. ``guest`` is its guest end: (namespace id, index)."""

    host: int
    up: bool
    hooked: bool
    guest: tuple[int | None, int] | None
    carrier: bool
    """Of a tap: that a process holds it, and says no other."""
    losses: int
    """How often that ended, when it was looked at last."""
    mtu: int
    """The host end's."""
    max_mtu: int
    """The largest that the host end takes: less than HOST_MTU while its guest has native XDP."""
    held: bool = False
    """Of a tap, as was told last: a process holds it."""
    tcx: bool = False
    """Its TCX hook was seen to since the VF was made or looked at."""

    @property
    def has_xdp(self) -> bool:
        """The guest has a native XDP program on its end of a veth."""
        return 0 < self.max_mtu < HOST_MTU


class Switch:
    """The netdevs of one soft NIC. Opening it makes nothing; ``build`` does."""

    def __init__(self, nic_id: str, guest: str) -> None:
        self.id = nic_id
        self.tap = guest == "tap"
        self.root_netlink = Netlink()
        self.netlink = self.root_netlink
        """Of the namespace of the host ends, once that is entered."""
        self.root = namespace.own()
        self._inside: int | None = None
        self.names: Inotify | None = None
        """Tells when names of namespaces are taken away."""
        self.near = self.far = 0
        self.shaper_ready = False
        """Both ends of the shaper are there, up, and take their frames to the program."""
        self.ports: dict[int, Vf] = {}
        self.unmade: dict[int, str] = {}
        """VFs that could not be made when they were to be, with the reasons."""
        # blocks are numbered by whoever makes them; in the own namespace nobody else does
        salt = zlib.crc32(nic_id.encode()) & 0xFFFF
        self.block = 0x76660000 | (salt & 0x7FFF) << 1 if self.tap else 2

    @property
    def namespace(self) -> str:
        return f"vfd-{self.id}"

    @property
    def shaper_block(self) -> int:
        return self.block + 1

    def guest_name(self, vfid: int) -> str:
        return f"{self.id}v{vfid}"

    def _host_name(self, vfid: int) -> str:
        return self.guest_name(vfid) if self.tap else f"v{vfid}"

    @property
    def _shaper_names(self) -> tuple[str, str]:
        return (f"{self.id}-s0", f"{self.id}-s1") if self.tap else ("shaper0", "shaper1")

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """The calling thread is where the host ends are."""
        if self._inside is None:
            return contextlib.nullcontext()
        return namespace.inside(self._inside)

    @property
    def fd(self) -> int:
        """A descriptor of the namespace of the host ends."""
        return self.root if self._inside is None else self._inside

    def exists(self) -> bool:
        """Whether there is a namespace to enter; a NIC of taps needs none of its own."""
        return self.tap or namespace.exists(self.namespace)

    def enter(self) -> None:
        """Makes the NIC's namespace where it isn't there, and silences it."""
        if self.tap:
            return
        if not namespace.exists(self.namespace):
            namespace.create(self.namespace)
        self._inside = os.open(namespace.path(self.namespace), os.O_RDONLY | os.O_CLOEXEC)
        self.names = namespace.watch_names()
        with self.inside():
            self.netlink = Netlink()
            for which in ("all", "default"):
                setting = Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6")
                with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                    setting.write_text("1")
        nsids.give_nsid(self.netlink, self.root)

    def keep_name(self) -> None:
        """The NIC outlives the daemon by its namespace's name: puts it back if somebody took it
        away."""
        if self.names is None or self._inside is None or not self.names.read():
            return
        try:
            if namespace.name_again(self._inside, self.namespace):
                log.warning("namespace %s had lost its name: put back", self.namespace)
        except OSError as e:
            log.error("namespace %s lost its name, and the NIC goes with the daemon: %s",
                      self.namespace, e)  # fmt: skip

    def close(self) -> None:
        self.netlink.close()
        if self._inside is not None:
            os.close(self._inside)
        if self.names is not None:
            self.names.close()
        self.root_netlink.close()
        os.close(self.root)

    def look(self) -> dict[str, Link]:
        """Reads the NIC's netdevs; returns all links of its namespace by name."""
        links = {link.name: link for link in rtnl.links(self.netlink)}
        hooked = self._hooked()
        ends = [links.get(name) for name in self._shaper_names]
        self.near, self.far = (end.index if end else 0 for end in ends)
        whole = all(end and end.up for end in ends)
        self.shaper_ready = whole and self._own_hooks().items() <= hooked.items()
        known, self.ports = self.ports, {}
        for vfid in range(MAX_VFS):
            link = links.get(self._host_name(vfid))
            if link and link.kind == ("tun" if self.tap else "veth"):
                # that a tap's guest went is told by the watch, which compares
                old = known.get(vfid)
                same = old if old and old.host == link.index else link
                self.ports[vfid] = Vf(
                    host=link.index,
                    up=link.up,
                    hooked=hooked.get(link.index) == self.block,
                    guest=self.guest_place(link),
                    carrier=same.carrier,
                    losses=same.losses,
                    mtu=link.mtu,
                    max_mtu=link.max_mtu,
                    held=old.held if old is same else link.carrier,
                )
        return links

    def _hooked(self) -> dict[int, int | None]:
        """The block of every ingress hook, by its netdev's index."""
        qdiscs = rtnl.qdiscs(self.netlink)
        return {q.index: q.block for q in qdiscs if q.handle == rtnl.CLSACT_HANDLE}

    def is_hooked(self, index: int) -> bool:
        """Whether a netdev's frames come to the program."""
        return self._hooked().get(index) == self.block

    def _own_hooks(self) -> dict[int, int]:
        """The shaper's ends, where the program takes limited frames on. And in a namespace of its
        own the NIC's loopback device: no frame passes it, but its hook keeps the ports' block, and
        with it the program and all its maps. The kernel destroys a block with its last hook, and
        VFs come and go."""
        hooks = {self.near: self.shaper_block, self.far: self.shaper_block}
        return hooks if self.tap else {**hooks, _LOOPBACK: self.block}

    def guest_place(self, host: Link) -> tuple[int | None, int] | None:
        """Where a host end says that its guest end is; None: nowhere any more."""
        if self.tap:
            return (None, host.index)
        if host.link is None or host.link_nsid == -1:
            return None  # -1: the namespace is being taken apart, and the pair goes with it
        return host.link_nsid, host.link

    def root_nsid(self) -> int | None:
        """The id of the daemon's namespace where the host ends are; None: it is the same."""
        return None if self.tap else nsids.nsid_of(self.netlink, self.root)

    def build_shaper(self) -> None:
        """The shaper's veth pair and the NIC's own hooks, as far as they aren't there."""
        near, far = self._shaper_names
        links = [rtnl.link(self.netlink, name=name) for name in (near, far)]
        if not all(links):
            self.netlink.send(
                [
                    rtnl.new_veth(
                        near,
                        0 if self.tap else _NEAR,
                        far,
                        mtu=HOST_MTU,
                        peer_mtu=HOST_MTU,
                        peer_index=0 if self.tap else _FAR,
                    )
                ]
            )
            links = [rtnl.link(self.netlink, name=name) for name in (near, far)]
        if not links[0] or not links[1]:
            raise NicError(f"{self.id}: the shaper {near}–{far} vanished while it was made")
        self.near, self.far = links[0].index, links[1].index
        hooked = self._hooked()
        for index, block in self._own_hooks().items():
            if hooked.get(index) != block:
                self.hook({"the shaper": index}, block)
        ends = (self.near, self.far)
        quiet = [rtnl.set_link(end, what="silencing the shaper", silent=True) for end in ends]
        _but(self.netlink.send_all(quiet), errno.EOPNOTSUPP, errno.EAFNOSUPPORT)
        self.netlink.send([rtnl.set_link(end, what="raising the shaper", up=True) for end in ends])
        self.shaper_ready = True

    def make(self, vfs: Mapping[int, tuple[str, int]]) -> None:
        """Makes VFs that aren't there, down and hooked: vfid → (MAC, MTU) of the guest end.

        Those that can't be made are left out, in ``unmade``. Raises OSError."""
        self.unmade = {}
        if vfs:
            (self._make_taps if self.tap else self._make_veths)(vfs)

    def _not_made(self, vfid: int, error: OSError) -> None:
        why = f"VF {vfid} could not be made: {error.strerror or error}"
        if error.errno in (errno.EEXIST, errno.EBUSY):
            name = self.guest_name(vfid)
            why += f". A netdev {name} exists already and is not this NIC's: rename it"
        self.unmade[vfid] = why

    def _make_veths(self, vfs: Mapping[int, tuple[str, int]]) -> None:
        wanted = list(vfs)
        failed = self.netlink.send_all(
            [
                rtnl.new_veth(
                    self._host_name(vfid),
                    _FIRST_VF + vfid,
                    self.guest_name(vfid),
                    mtu=host_mtu(mtu),
                    peer_mtu=mtu,
                    peer_mac=mac,
                    peer_ns=self.root,
                )
                for vfid, (mac, mtu) in vfs.items()
            ]
        )
        for error in failed:
            self._not_made(wanted[error.index], error)
        made = [vfid for vfid in vfs if vfid not in self.unmade]
        self.hook_vfs({vfid: _FIRST_VF + vfid for vfid in made})
        for link in self._links_of(made):
            vfid = link.index - _FIRST_VF
            place = self.guest_place(link)
            self.ports[vfid] = Vf(
                link.index, link.up, True, place, link.carrier, link.losses, link.mtu, link.max_mtu
            )

    def _links_of(self, vfids: Iterable[int]) -> list[Link]:
        wanted = {_FIRST_VF + vfid for vfid in vfids}
        if len(wanted) > 8:
            return [link for link in rtnl.links(self.netlink) if link.index in wanted]
        found = [rtnl.link(self.netlink, index=index) for index in wanted]
        return [link for link in found if link]

    def _make_taps(self, vfs: Mapping[int, tuple[str, int]]) -> None:
        for vfid in vfs:
            try:
                tap.create(self.guest_name(vfid))
            except OSError as e:
                self._not_made(vfid, e)
        links = {link.name: link for link in rtnl.links(self.netlink)}
        found = {v: links[self.guest_name(v)] for v in vfs if v not in self.unmade}
        quiet = [
            rtnl.set_link(
                link.index,
                what=f"preparing {link.name}",
                flags=IFF_NOARP,
                flags_mask=IFF_NOARP,
                mac=vfs[vfid][0],
                mtu=TAP_MTU,
            )
            for vfid, link in found.items()
        ]
        self.netlink.send(quiet)
        silent = [
            rtnl.set_link(link.index, what=f"silencing {link.name}", silent=True)
            for link in found.values()
        ]
        _but(self.netlink.send_all(silent), errno.EOPNOTSUPP, errno.EAFNOSUPPORT)
        self.hook_vfs({vfid: link.index for vfid, link in found.items()})
        for vfid, link in found.items():
            self.ports[vfid] = Vf(
                link.index, False, True, (None, link.index), False, link.losses, TAP_MTU, 0
            )

    def hook_vfs(self, hosts: Mapping[int, int]) -> None:
        """Host ends, by vfid, take their frames to the program."""
        self.hook({f"VF {vfid}": index for vfid, index in hosts.items()}, self.block)

    def hook(self, netdevs: Mapping[str, int], block: int) -> None:
        """An ingress hook on a shared block for netdevs that have none there: what → index."""
        messages = [
            rtnl.new_clsact(index, block, f"hooking {what}") for what, index in netdevs.items()
        ]
        for failed in self.netlink.send_all(messages):
            if failed.errno != errno.EEXIST:
                raise failed
            # one is there, of another block or somebody else's
            index = list(netdevs.values())[failed.index]
            self.netlink.send(
                [rtnl.del_clsact(index, "taking a foreign hook away"), messages[failed.index]]
            )

    def raise_ports(self, states: Mapping[int, bool]) -> None:
        """Sets host ends up or down; down is NO-CARRIER in the guest. A tap, which has no way to
        tell its guest, is up once it is hooked."""
        messages: list[Message] = []
        for vfid, up in states.items():
            port = self.ports.get(vfid)
            up = up or (self.tap and port is not None and port.hooked)
            if port is not None and port.up != up:
                word = "raising" if up else "lowering"
                messages.append(rtnl.set_link(port.host, what=f"{word} VF {vfid}", up=up))
                port.up = up
        # a port that is gone is none to lower: its DELLINK follows
        _but(self.netlink.send_all(messages), errno.ENODEV)

    def make_room(self, mtus: Mapping[int, int], *, only_more: bool = False) -> None:
        """Host ends of veths take the frames of VFs or guests with these MTUs, as far as a guest's
        native XDP lets them. ``only_more``: none takes smaller ones than before."""
        if self.tap:
            return
        changed: dict[int, int] = {}
        for vfid, mtu in mtus.items():
            port = self.ports.get(vfid)
            if port is not None:
                room = min(host_mtu(mtu), port.max_mtu or HOST_MTU)
                if room > port.mtu or (room < port.mtu and not only_more):
                    changed[vfid] = room
        what = "making room for VF {}'s frames"
        messages = [
            rtnl.set_link(self.ports[vfid].host, what=what.format(vfid), mtu=room)
            for vfid, room in changed.items()
        ]
        # EINVAL: the guest attached XDP just now; ENODEV: the port is gone. Both are being told.
        _but(self.netlink.send_all(messages), errno.EINVAL, errno.ENODEV)
        for vfid, room in changed.items():
            self.ports[vfid].mtu = room

    def remove(self, vfids: Iterable[int]) -> None:
        """Takes VFs away, from their guests too."""
        messages = [
            rtnl.del_link(port.host, f"removing VF {vfid}")
            for vfid in vfids
            if (port := self.ports.pop(vfid, None))
        ]
        _but(self.netlink.send_all(messages), errno.ENODEV)

    def take_uplink(self, name: str) -> Link:
        """Brings the uplink to the host ends, hooks it and raises it.

        Raises NoUplinkError where there is no such netdev, NicError where it is no wire."""
        link = rtnl.link(self.netlink, name=name)
        own = {*self._own_hooks(), *(port.host for port in self.ports.values())}
        if link is not None and link.index in own and not self.tap:
            why = self.no_uplink(name) or "is called like a netdev of the NIC's own: rename it"
            raise NicError(f"{self.id}: the uplink {name}: {why}")
        if link is None or (self.tap and not self.is_hooked(link.index)):
            link = self._take_from_host(name)
        quiet = rtnl.set_link(link.index, what=f"silencing the uplink {name}", silent=True)
        _but(self.netlink.send_all([quiet]), errno.EOPNOTSUPP, errno.EAFNOSUPPORT)
        if not self.is_hooked(link.index):
            self.hook({f"the uplink {name}": link.index}, self.block)
        # promiscuous: the VFs' MACs are not the uplink's own
        raised = rtnl.set_link(
            link.index,
            what=f"raising the uplink {name}",
            up=True,
            flags=IFF_NOARP | IFF_PROMISC,
            flags_mask=IFF_NOARP | IFF_PROMISC,
        )
        self.netlink.send([raised])
        return rtnl.link(self.netlink, index=link.index) or link

    def no_uplink(self, name: str) -> str | None:
        """Why a netdev can't be this NIC's uplink; None: it can, or is one. Touches nothing."""
        there = rtnl.link(self.root_netlink, name=name)
        if there is None:
            if not self.tap and namespace.may_hold(self.namespace, name):
                return None
            return "no netdev of this host: the NIC has no wire until there is one"
        if self.tap and self.is_hooked(there.index):
            return None
        why = uplink.objection(self.root_netlink, there, name, moves=not self.tap)
        return why and f"it {why}"

    def _take_from_host(self, name: str) -> Link:
        """A netdev that the host has. What is wrong with it is told before anything is touched."""
        try:
            there = rtnl.link(self.root_netlink, name=name)
            why = there and uplink.objection(self.root_netlink, there, name, moves=not self.tap)
            if there and not why:
                noted = uplink.note(self.root_netlink, there, self.id)
                if self.tap:
                    self.root_netlink.send(uplink.noting(there.index, name, noted))
                    return there
                free = next(i for i in _UPLINKS if not rtnl.link(self.netlink, index=i))
                self.root_netlink.send([uplink.take(there.index, name, noted, self.fd, free)])
        except NetlinkError as e:
            if e.errno != errno.ENODEV:
                why = uplink.HELD_THERE if e.errno == errno.EINVAL else f"can't be taken: {e}"
                raise NicError(f"{self.id}: the uplink {name} {why}") from e
            there = None
        if there is None:
            raise NoUplinkError(
                f"{self.id}: the uplink {name} is no netdev of this host: create it, or name"
                " another one in uplink"
            )
        if why:
            raise NicError(f"{self.id}: the uplink {name} {why}")
        link = rtnl.link(self.netlink, name=name)
        if link is None:
            raise NoUplinkError(f"{self.id}: the uplink {name} vanished while it was taken")
        return link

    def release_uplinks(self, but: int) -> None:
        """Gives every uplink but the one of this index back to the daemon's namespace: the former
        one, and what a failed change or a killed daemon left."""
        hooked = self._hooked()
        known = {but, *self._own_hooks(), *(port.host for port in self.ports.values())}
        for link in rtnl.links(self.netlink):
            brought = not self.tap and link.index in _UPLINKS
            if link.index not in known and (brought or hooked.get(link.index) == self.block):
                self._release(link)

    def _release(self, link: Link) -> None:
        """Gives an uplink back as it was found."""
        was = uplink.before(self.netlink, link)
        messages = [
            rtnl.set_link(
                link.index,
                what=f"lowering the uplink {link.name}",
                up=False,
                flags_mask=IFF_NOARP | IFF_PROMISC,
            ),
            rtnl.del_clsact(link.index, f"unhooking the uplink {link.name}"),
        ]
        _but(self.netlink.send_all(messages), errno.ENOENT, errno.EINVAL, errno.ENODEV)
        if not self.tap:
            back = rtnl.set_link(
                link.index, what=f"giving the uplink {link.name} back", namespace=self.root
            )
            _but(self.netlink.send_all([back]), errno.ENODEV)
        home = rtnl.link(self.root_netlink, name=link.name)
        if home is not None:
            given = uplink.as_before(home.index, link.name, was)
            unknown = errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.ENODEV
            _but(self.root_netlink.send_all(given), *unknown)

    def demolish(self) -> None:
        """Removes every netdev of the NIC and its namespace; the uplink is given back."""
        self.look()
        self.release_uplinks(but=0)
        self.remove(list(self.ports))
        if self.near:
            gone = rtnl.del_link(self.near, "removing the shaper")
            _but(self.netlink.send_all([gone]), errno.ENODEV)
        if not self.tap:
            namespace.remove(self.namespace)


def host_mtu(mtu: int) -> int:
    """A host end's MTU where the VF or its guest has ``mtu``."""
    return XDP_MTU if mtu <= XDP_MTU else HOST_MTU


def _but(errors: Iterable[NetlinkError], *harmless: int) -> None:
    """Raises the first error that is not one of the harmless."""
    for e in errors:
        if e.errno not in harmless:
            raise e


def speed_of(name: str) -> int | None:
    """The link speed of a netdev of the calling thread's namespace, bits per second; None where
    the driver knows none (ETHTOOL_GSET, include/uapi/linux/ethtool.h)."""
    command = bytearray(44)
    struct.pack_into("=I", command, 0, 1)
    buffer = (ctypes.c_char * len(command)).from_buffer(command)
    request = struct.pack("@16sP16x", name.encode(), ctypes.addressof(buffer))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            fcntl.ioctl(s, 0x8946, request)  # SIOCETHTOOL
        except OSError:
            return None
    low, high = struct.unpack_from("=H", command, 12)[0], struct.unpack_from("=H", command, 28)[0]
    mbps = high << 16 | low
    return None if mbps in (0, 0xFFFF, 0xFFFFFFFF) else int(mbps) * 1_000_000
