"""Ends of a NIC's ports: a packet socket on a netdev, or a tap's descriptor.

Frames are bytes with all their tags in them, whatever the kernel made of the tags on the way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from typing import Protocol

from vfd.nic.soft import namespace

_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_AUXDATA, _PACKET_IGNORE_OUTGOING = 8, 23
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_VLAN_VALID, _VLAN_TPID_VALID = 1 << 4, 1 << 6
_AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata, linux/if_packet.h
_SIOCGIFFLAGS, _IFF_RUNNING = 0x8913, 0x40
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_VNET_HDR = bytes(10)  # struct virtio_net_hdr: no offload
_LONGEST = 70_000


class Port(Protocol):
    def fileno(self) -> int: ...
    def send(self, raw: bytes) -> None: ...
    def receive(self) -> bytes | None:
        """The next frame, or None if none waits."""
        ...

    def is_running(self) -> bool: ...

    def close(self) -> None: ...


class PacketPort:
    """A packet socket on netdev ``name`` of the namespace; it stays there. Sees what arrives."""

    def __init__(self, netns: str, name: str) -> None:
        with namespace.inside(netns):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        # what waits in the NIC's queues is the sender's: it must not be held back by its own
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            self._socket.setsockopt(socket.SOL_SOCKET, option, 32 << 20)
        self._name = name
        self._socket.bind((name, _ETH_P_ALL))
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, raw: bytes) -> None:
        """A frame that the kernel says at once is lost is lost: until its link watch has seen that
        the carrier went, a veth says so, and later nothing does. Whoever awaits it misses it."""
        try:
            self._socket.send(raw)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise

    def receive(self) -> bytes | None:
        try:
            raw, ancillary, _, _ = self._socket.recvmsg(_LONGEST, 64)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENETDOWN:  # said once, when the netdev is set down
                return None
            raise
        for level, kind, data in ancillary:
            if level == _SOL_PACKET and kind == _PACKET_AUXDATA:
                status, _, _, _, _, tci, tpid = _AUXDATA.unpack(data[: _AUXDATA.size])
                if status & _VLAN_VALID:
                    tpid = tpid if status & _VLAN_TPID_VALID else 0x8100
                    raw = raw[:12] + struct.pack("!HH", tpid, tci) + raw[12:]
        return raw

    def is_running(self) -> bool:
        """Whether frames go out: a netdev whose carrier came sends only once the kernel's link
        watch has seen it, up to a second later; until then they are lost in it."""
        asked = struct.pack("16sH14x", self._name.encode(), 0)
        answer = fcntl.ioctl(self._socket, _SIOCGIFFLAGS, asked)
        return bool(struct.unpack_from("16xH", answer)[0] & _IFF_RUNNING)

    def close(self) -> None:
        self._socket.close()


class TapPort:
    """The side of a tap that a virtual machine holds, opened by name as QEMU opens it."""

    def __init__(self, name: str) -> None:
        self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("=16sH22x", name.encode(), flags))

    def fileno(self) -> int:
        return self._fd

    def send(self, raw: bytes) -> None:
        os.write(self._fd, _VNET_HDR + raw)

    def receive(self) -> bytes | None:
        try:
            return os.read(self._fd, _LONGEST)[len(_VNET_HDR) :]
        except BlockingIOError:
            return None

    def is_running(self) -> bool:
        return True

    def close(self) -> None:
        os.close(self._fd)
