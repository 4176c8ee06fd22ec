"""What the kernel tells of a PF and its VFs: netlink for links, uevents for devices, inotify for
vendors' files. No polling."""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from vfd.nic.inotify import MODIFY, Inotify
from vfd.nic.kernel import genl, health
from vfd.nic.kernel.health import Health
from vfd.nic.kernel.vfinfo import RTM_DELLINK, RTM_NEWLINK, link_head
from vfd.nic.netlink import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_GENERIC,
    SOL_NETLINK,
    Netlink,
    NetlinkError,
    parse_attrs,
    split,
    text,
)

log = logging.getLogger("vfd.nic")

NETLINK_KOBJECT_UEVENT = 15
RTMGRP_LINK = 1
_RTNLGRP_TC = 4
_RULES = (37, 44, 45)
"""RTM_DELQDISC, which takes all rules along, RTM_NEWTFILTER, RTM_DELTFILTER."""
_DEVLINK = (3, 4, 7, 8, 76, 77)
"""DEVLINK_CMD_NEW, DEL, PORT_NEW, PORT_DEL, RATE_NEW, RATE_DEL: a change is told as NEW. The
mode of the eswitch has no notice of its own, but its ports come and go with it."""
_DEVICE_NAME = 2
_BUFFER = 1 << 20


class Heard(Enum):
    LINK = "link"
    """A netdev changed or went: name, link, flags, or somebody's ``ip link set … vf``."""
    RULES = "rules"
    """Somebody's tc rules changed, on whichever netdev."""
    DEVLINK = "devlink"
    """A port, a Tx rate or the whole of a devlink instance came, changed or went."""
    DEVICE = "device"
    """A uevent of the PF or one of its VFs."""
    HEALTH = "health"
    """A driver noticed a failure of its device, or recovered from it."""
    FILES = "files"
    """Somebody wrote to a vendor's files."""
    OVERRUN = "overrun"


@dataclass(frozen=True, slots=True)
class Notice:
    heard: Heard
    action: str = ""
    """DEVICE: ``add``, ``remove``, ``bind``, ``unbind``, ``change``. LINK: ``remove``, or ''."""
    address: str = ""
    """DEVICE: the PCI address. DEVLINK: the device's name on its bus, which is the same."""
    driver: str = ""
    """DEVICE: the driver that binds or unbinds."""
    health: Health | None = None
    error: str = ""
    """DEVICE: how far the recovery from a PCI error is (``ERROR_EVENT`` of pci_uevent_ers)."""
    index: int = 0
    """LINK: the netdev's ifindex, name now and IFF_ flags."""
    name: str = ""
    flags: int = 0


class EventSource:
    """The sockets, behind one descriptor that can be waited for."""

    def __init__(self) -> None:
        self._links = _socket(socket.NETLINK_ROUTE, RTMGRP_LINK)
        self._devices = _socket(NETLINK_KOBJECT_UEVENT, 1)
        self._devlink = _devlink_socket()
        self._files: Inotify | None = None
        self._epoll = select.epoll()
        for source in filter(None, (self._links, self._devices, self._devlink)):
            self._epoll.register(source, select.EPOLLIN)

    def hear_rules(self) -> None:
        """From now on hears of tc rules too."""
        self._links.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, _RTNLGRP_TC)

    def hear_files(self, folders: Iterable[Path]) -> None:
        """From now on hears of writes to the files in these folders too."""
        if self._files is None:
            try:
                self._files = Inotify(MODIFY)
            except OSError as error:
                log.warning("what others write to vendors' files goes by: inotify: %s", error)
                return
            self._epoll.register(self._files, select.EPOLLIN)
        for folder in folders:
            try:
                self._files.watch(folder)
            except OSError as error:
                if folder.exists():
                    log.warning("what others write below %s goes by: %s (fs.inotify.*)", folder,
                                error.strerror)  # fmt: skip
                    return

    def fileno(self) -> int:
        return self._epoll.fileno()

    def close(self) -> None:
        self._epoll.close()
        self._links.close()
        self._devices.close()
        for source in (self._devlink, self._files):
            if source is not None:
                source.close()

    def read(self) -> list[Notice]:
        """All that has come, without waiting."""
        notices: list[Notice] = []
        for data in _drain(self._links, notices):
            notices += _links(data)
        for data in _drain(self._devices, notices):
            notices += _uevent(data)
        if self._devlink is not None:
            for data in _drain(self._devlink, notices):
                notices += _devlink(data)
        if self._files is not None and self._files.read():
            notices.append(Notice(Heard.FILES))
        return notices


def _socket(protocol: int, groups: int) -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    made.setblocking(False)
    with contextlib.suppress(OSError):  # beyond rmem_max: needs CAP_NET_ADMIN
        made.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), _BUFFER)
    made.bind((0, groups))
    return made


def _devlink_socket() -> socket.socket | None:
    """None where the kernel has no devlink."""
    with contextlib.closing(Netlink(NETLINK_GENERIC)) as asking:
        try:
            family = genl.family(asking, "devlink")
        except NetlinkError:
            return None
    made = _socket(NETLINK_GENERIC, 0)
    made.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, family.groups["config"])
    return made


def _drain(source: socket.socket, notices: list[Notice]) -> list[bytes]:
    messages = []
    while True:
        try:
            messages.append(source.recv(65536))
        except BlockingIOError:
            return messages
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            notices.append(Notice(Heard.OVERRUN))


def _links(data: bytes) -> list[Notice]:
    found = []
    for kind, _, _, body in split(data):
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            index, name, flags = link_head(body)
            action = "remove" if kind == RTM_DELLINK else ""
            found.append(Notice(Heard.LINK, action, index=index, name=name, flags=flags))
        elif kind in _RULES:
            found.append(Notice(Heard.RULES))
    return found


def _devlink(data: bytes) -> list[Notice]:
    """Of what happens to VFs, and of failures. Statistics and the like are none of ours."""
    changes = [
        Notice(Heard.DEVLINK, address=text(parse_attrs(body, genl.HEADER).get(_DEVICE_NAME, b"")))
        for _, _, _, body in split(data)
        if body[:1] and body[0] in _DEVLINK
    ]
    return changes + [Notice(Heard.HEALTH, health=each) for each in health.news(data)]


def _uevent(data: bytes) -> list[Notice]:
    """A kernel uevent: ``action@path`` and KEY=VALUE pairs, separated by NUL
    (lib/kobject_uevent.c). What udev re-sends in its own format is not ours."""
    if data.startswith(b"libudev"):
        return []
    pairs = dict(
        part.split("=", 1) for part in data.decode("utf-8", "replace").split("\0") if "=" in part
    )
    if pairs.get("SUBSYSTEM") != "pci":
        return []
    address = pairs.get("PCI_SLOT_NAME") or pairs.get("DEVPATH", "").rpartition("/")[2]
    return [
        Notice(
            Heard.DEVICE,
            action=pairs.get("ACTION", ""),
            address=address,
            driver=pairs.get("DRIVER", ""),
            error=pairs.get("ERROR_EVENT", ""),
        )
    ]
