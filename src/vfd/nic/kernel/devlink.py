"""devlink: a NIC's ports, the mode of its embedded switch, and the Tx rates of its VFs.

Generic netlink, of which pyroute2 knows the lists only. Source: the kernel's
include/uapi/linux/devlink.h and Documentation/networking/devlink/.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vfd.nic.kernel import genl
from vfd.nic.netlink import (
    NETLINK_GENERIC,
    Attrs,
    Message,
    Netlink,
    NetlinkError,
    attr_text,
    attr_u32,
    attr_u64,
    parse_attrs,
    text,
    u32,
    u64,
)
from vfd.nic.protocol import NicError

_PORT_GET, _ESWITCH_GET, _RATE_GET, _RATE_SET = 5, 29, 74, 75
_BUS, _DEVICE, _PORT, _IFINDEX, _MODE = 1, 2, 3, 6, 25
_FLAVOUR, _PF, _VF, _TYPE, _SHARE, _MAX = 77, 127, 128, 165, 166, 167
_RATE_LEAF, _FLAVOUR_VF = 0, 4


@dataclass(frozen=True, slots=True)
class Port:
    index: int
    ifindex: int | None
    """Its netdev in this namespace: the uplink or a representor."""
    vfid: int | None
    """None: it is no VF's."""


@dataclass(frozen=True, slots=True)
class Rates:
    """A VF's Tx rates in bytes per second; 0: none."""

    share: int
    """The guarantee."""
    maximum: int


class Devlink:
    """One device's devlink instance."""

    def __init__(self, bus: str, device: str) -> None:
        """``bus`` and ``device`` as in ``pci/0000:01:00.0``. Raises NicError where the kernel
        has no devlink."""
        self._handle = attr_text(_BUS, bus) + attr_text(_DEVICE, device)
        self._names = bus, device
        self._netlink = Netlink(NETLINK_GENERIC)
        try:
            self._family = genl.family(self._netlink, "devlink").id
        except NetlinkError as error:
            self.close()
            raise NicError(f"{bus}/{device}: {error.strerror}") from error

    def close(self) -> None:
        self._netlink.close()

    def in_switchdev_mode(self) -> bool:
        """False also where the device has no devlink, or no embedded switch."""
        body = genl.message(_ESWITCH_GET, self._handle)
        try:
            found = parse_attrs(
                self._netlink.get(self._family, body, "the eswitch's mode"), genl.HEADER
            )
        except NetlinkError as error:
            if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
                return False
            raise self._error(error) from error
        return _u16(found, _MODE) == 1

    def ports(self) -> tuple[Port, ...]:
        """The device's ports. Raises NicError."""
        ports = []
        for found in self._list(_PORT_GET, "the ports"):
            flavour, vfid = _u16(found, _FLAVOUR), _u16(found, _VF)
            index = u32(found[_IFINDEX]) if _IFINDEX in found else 0
            ports.append(
                Port(
                    index=u32(found[_PORT]),
                    ifindex=index or None,
                    vfid=vfid if flavour == _FLAVOUR_VF else None,
                )
            )
        return tuple(ports)

    def rates(self) -> Mapping[int, Rates]:
        """The rates of the ports that have any to set (leafs), by port index. Raises NicError."""
        return {
            u32(found[_PORT]): Rates(u64(found[_SHARE]), u64(found[_MAX]))
            for found in self._list(_RATE_GET, "the rates")
            if _u16(found, _TYPE) == _RATE_LEAF and _PORT in found
        }

    def set_rates(self, wanted: Mapping[int, Rates]) -> None:
        """Sets the rates of ports, all in one batch. Raises NicError where one is refused, with
        the others set."""
        messages = [
            Message(
                self._family,
                genl.message(
                    _RATE_SET,
                    self._handle,
                    attr_u32(_PORT, port),
                    attr_u64(_SHARE, rates.share),
                    attr_u64(_MAX, rates.maximum),
                ),
                what=f"the rates of port {port}",
            )
            for port, rates in wanted.items()
        ]
        try:
            self._netlink.send(messages)
        except NetlinkError as error:
            raise self._error(error) from error

    def _list(self, command: int, what: str) -> Iterable[Attrs]:
        """A dump is of all devices: it is sifted here."""
        try:
            answers = self._netlink.dump(self._family, genl.message(command), what)
        except NetlinkError as error:
            raise self._error(error) from error
        for _, body in answers:
            found = parse_attrs(body, genl.HEADER)
            if (text(found[_BUS]), text(found[_DEVICE])) == self._names:
                yield found

    def _error(self, error: NetlinkError) -> NicError:
        return NicError(f"{'/'.join(self._names)}: devlink: {error.strerror}")


def _u16(found: Attrs, kind: int) -> int | None:
    return struct.unpack("=H", found[kind][:2])[0] if kind in found else None
