"""Route netlink in batches: many messages per system call, in a chosen network namespace.

pyroute2 encodes a message in about 200 µs and needs 0.1 s to be imported; a NIC of 256 VFs takes
some 2000 messages to make and must be adopted in less than 0.5 s, imports included. So the few
messages that the NICs need are packed here with ``struct``. The layout is that of
``include/uapi/linux/netlink.h``; everything is in host byte order.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

NETLINK_ROUTE = 0
NETLINK_GENERIC = 16
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_LISTEN_ALL_NSID = 8
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300
NLM_F_DUMP_INTR = 0x10
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSGERR_ATTR_MSG = 1

_HEADER = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")
_U8, _U16, _U32, _U64 = (struct.Struct(f"={c}") for c in "BHIQ")
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_NESTED = 0x8000
_BATCH_BYTES = 48 * 1024
_RECEIVE = 256 * 1024
_ROOM = 4 << 20
"""Bytes of notifications that may wait: see ``Listener``."""
TRIES = 30
"""How often a list is read that changes meanwhile."""

Attrs = dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Message:
    """A request without its netlink header. ``what`` names it in errors."""

    type: int
    body: bytes
    flags: int = 0
    what: str = ""


class NetlinkError(OSError):
    """The kernel refused a message. Says which one and, where the kernel says so, why."""

    def __init__(self, code: int, message: Message, why: str, index: int) -> None:
        self.why = why or os.strerror(code)
        """The kernel's own words, where it has some."""
        super().__init__(code, f"{message.what or 'netlink request'}: {self.why}")
        self.index = index
        """Which message of the batch."""


class TornError(NetlinkError):
    """A list changed each time that it was read."""


def attr(kind: int, payload: bytes) -> bytes:
    pad = -len(payload) & 3
    return _ATTR.pack(len(payload) + 4, kind) + payload + b"\0" * pad


def attr_u8(kind: int, value: int) -> bytes:
    return attr(kind, _U8.pack(value))


def attr_u32(kind: int, value: int) -> bytes:
    return attr(kind, _U32.pack(value))


def attr_u64(kind: int, value: int) -> bytes:
    return attr(kind, _U64.pack(value))


def attr_text(kind: int, value: str) -> bytes:
    return attr(kind, value.encode() + b"\0")


def nest(kind: int, *attrs: bytes) -> bytes:
    return attr(kind | _NESTED, b"".join(attrs))


def parse_attrs(data: bytes, offset: int = 0) -> Attrs:
    """The attributes from ``offset`` to the end of ``data``; of a repeated one, the last."""
    found: Attrs = {}
    end = len(data)
    while offset + 4 <= end:
        size, kind = _ATTR.unpack_from(data, offset)
        if size < 4 or offset + size > end:
            break
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return found


def u32(raw: bytes) -> int:
    return int(_U32.unpack_from(raw)[0])


def u64(raw: bytes) -> int:
    return int(_U64.unpack_from(raw)[0])


def text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


class Netlink:
    """A request socket in the network namespace that its maker was in when making it."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        # 6.1 knows it; without it the kernel ignores the filters of a dump
        with contextlib.suppress(OSError):
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 << 20)
        self._socket.bind((0, 0))
        self.portid: int = self._socket.getsockname()[0]
        """What notifications of this socket's own requests carry as their sender."""
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def namespace_cookie(self) -> int:
        """A number that the socket's namespace alone has, until the host is booted again. Raises
        OSError."""
        return u64(self._socket.getsockopt(socket.SOL_SOCKET, 71, 8))  # SO_NETNS_COOKIE

    def send(self, messages: Sequence[Message]) -> None:
        """Sends all ``messages`` in as few system calls as fit; the kernel does them in order.

        Raises the first NetlinkError, after all have been tried."""
        for failed in self.send_all(messages):
            raise failed

    def send_all(self, messages: Sequence[Message]) -> list[NetlinkError]:
        """Like ``send``, but returns the errors of all messages, in their order."""
        errors: list[NetlinkError] = []
        start = 0
        while start < len(messages):
            size, stop = 0, start
            while stop < len(messages) and (
                stop == start or size + len(messages[stop].body) + 16 <= _BATCH_BYTES
            ):
                size += (len(messages[stop].body) + 16 + 3) & ~3
                stop += 1
            errors += self._batch(messages, start, stop)
            start = stop
        return errors

    def _batch(self, messages: Sequence[Message], start: int, stop: int) -> list[NetlinkError]:
        # Only the last message asks for an acknowledgement: errors are always told, and fewer
        # answers fit the receive buffer.
        first = self._sequence + 1
        out = bytearray()
        for n in range(start, stop):
            message = messages[n]
            self._sequence += 1
            flags = NLM_F_REQUEST | message.flags | (NLM_F_ACK if n == stop - 1 else 0)
            size = len(message.body) + 16
            out += _HEADER.pack(size, message.type, flags, self._sequence, 0)
            out += message.body
            out += b"\0" * (-size & 3)
        self._socket.send(out)
        errors: list[NetlinkError] = []
        while True:
            for kind, flags, sequence, body in split(self._socket.recv(_RECEIVE)):
                if kind != NLMSG_ERROR or not first <= sequence <= self._sequence:
                    continue
                index = start + sequence - first
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    errors.append(
                        NetlinkError(code, messages[index], _extended(flags, body), index)
                    )
                if sequence == self._sequence:
                    return errors

    def dump(
        self, kind: int, body: bytes, what: str = "", *, tries: int = TRIES
    ) -> list[tuple[int, bytes]]:
        """All answers to a dump request as (type, body); repeated while the kernel says that
        the list changed under it, ``tries`` times at most.

        Raises TornError, NetlinkError."""
        message = Message(kind, body, NLM_F_DUMP, what)
        for _ in range(tries):
            answers, torn = self._dump(message)
            if not torn:
                return answers
        raise TornError(errno.EAGAIN, message, f"it changed {tries} times while it was read", 0)

    def get(self, kind: int, body: bytes, what: str = "") -> bytes:
        """The one answer to a request for one object. Raises NetlinkError."""
        message = Message(kind, body, 0, what)
        self._sequence += 1
        self._socket.send(
            _HEADER.pack(len(body) + 16, kind, NLM_F_REQUEST, self._sequence, 0) + body
        )
        while True:
            for found, flags, sequence, answer in split(self._socket.recv(_RECEIVE)):
                if sequence != self._sequence:
                    continue
                if found == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", answer)[0]
                    raise NetlinkError(code or errno.EIO, message, _extended(flags, answer), 0)
                return answer

    def _dump(self, message: Message) -> tuple[list[tuple[int, bytes]], bool]:
        self._sequence += 1
        size = len(message.body) + 16
        flags = NLM_F_REQUEST | message.flags
        self._socket.send(_HEADER.pack(size, message.type, flags, self._sequence, 0) + message.body)
        answers: list[tuple[int, bytes]] = []
        torn = False
        while True:
            for kind, found, sequence, body in split(self._socket.recv(_RECEIVE)):
                if sequence != self._sequence:
                    continue
                torn = torn or bool(found & NLM_F_DUMP_INTR)
                if kind == NLMSG_DONE:
                    code = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if code > 0:
                        raise NetlinkError(code, message, "", 0)
                    return answers, torn
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise NetlinkError(code, message, _extended(found, body), 0)
                answers.append((kind, body))


def _extended(flags: int, body: bytes) -> str:
    """The kernel's own words in an extended acknowledgement, '' if it has none."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    offset = 4 + 16
    if not flags & NLM_F_CAPPED:
        offset = 4 + ((u32(body[4:8]) + 3) & ~3)
    code = os.strerror(-struct.unpack_from("=i", body)[0])
    words = parse_attrs(body, offset).get(NLMSGERR_ATTR_MSG)
    return f"{text(words)} ({code})" if words else ""


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages in one datagram as (type, flags, sequence, body)."""
    for kind, flags, sequence, _, body in _messages(memoryview(data)):
        yield kind, flags, sequence, bytes(body)


def _messages(data: memoryview) -> Iterator[tuple[int, int, int, int, memoryview]]:
    """The same with the sender's port id before the body, nothing of which is copied."""
    offset = 0
    while offset + 16 <= len(data):
        size, kind, flags, sequence, sender = _HEADER.unpack_from(data, offset)
        if size < 16:
            return
        yield kind, flags, sequence, sender, data[offset + 16 : offset + size]
        offset += (size + 3) & ~3


Notification = tuple[int | None, int, int, bytes]
"""(id of the namespace, or None for the listener's own; type; sender's port id; body)."""


class Listener:
    """A socket that hears notifications of its own namespace and of every namespace that has
    an id in it (``NETLINK_LISTEN_ALL_NSID``)."""

    def __init__(self, groups: Iterable[int], optional: Iterable[int] = ()) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            NETLINK_ROUTE,
        )
        self._socket.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
        # Room for what happens at once, and no more: one guest can be told of 160 000 times a
        # second, as fast as they are read, and others' news waits behind its own in the same
        # queue. What finds no room is told as ENOBUFS, and everything is looked at instead.
        # Without CAP_NET_ADMIN over the first namespace the system's limit holds.
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, 33, _ROOM)  # SO_RCVBUFFORCE
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
        self._buffer = bytearray(_RECEIVE)
        _attach_filter(self._socket)
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        for group in optional:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self, most: int) -> tuple[list[Notification], bool]:
        """What has arrived, possibly nothing, and about ``most`` at once; and whether the kernel
        had to drop messages before (ENOBUFS)."""
        heard: list[Notification] = []
        lost = False
        view = memoryview(self._buffer)
        while len(heard) < most:
            try:
                size, ancillary, _, _ = self._socket.recvmsg_into([self._buffer], 64)
            except BlockingIOError:
                break
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            nsid: int | None = None
            for level, kind, value in ancillary:
                if level == SOL_NETLINK and kind == NETLINK_LISTEN_ALL_NSID:
                    nsid = struct.unpack_from("=i", value)[0]
            for message, _, _, sender, body in _messages(view[:size]):
                heard.append((nsid, message, sender, bytes(body)))
        return heard, lost


def _attach_filter(listener: socket.socket) -> None:
    """Keeps neighbour notifications other than of a bridge's or device's own address lists from
    waking the daemon: traffic alone makes ARP and ND entries change all the time. Classic BPF;
    the type of a message (28, 29: RTM_NEWNEIGH, RTM_DELNEIGH) is in host byte order."""
    added, removed = (int.from_bytes(struct.pack("=H", kind), "big") for kind in (28, 29))
    program = b"".join(
        struct.pack("=HBBI", code, yes, no, value)
        for code, yes, no, value in (
            (0x28, 0, 0, 4),  # ldh [4]: nlmsg_type
            (0x15, 1, 0, added),  # jeq
            (0x15, 0, 2, removed),  # jeq, else accept
            (0x30, 0, 0, 16),  # ldb [16]: ndm_family
            (0x15, 0, 1, 7),  # jeq AF_BRIDGE, else drop
            (0x06, 0, 0, 0xFFFFFFFF),  # accept
            (0x06, 0, 0, 0),  # drop
        )
    )
    buffer = ctypes.create_string_buffer(program, len(program))
    bound = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    listener.setsockopt(socket.SOL_SOCKET, 26, bound)  # SO_ATTACH_FILTER
