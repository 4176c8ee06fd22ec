"""The netdevs of a NIC in switchdev mode: the uplink, and one representor for each VF.

devlink names them where it has ports for them; elsewhere ``phys_port_name`` does, which is
``pf0vf3`` for a VF and ``p0`` for the uplink, among netdevs of one ``phys_switch_id``
(Documentation/networking/switchdev.rst).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vfd.nic.kernel.devlink import Port
from vfd.nic.protocol import PF_PORT, NicGoneError

_NETS = Path("/sys/class/net")
_VF_NAME = re.compile(r"(?:c\d+)?(?:pf(\d+))?vf(\d+)")


@dataclass(frozen=True, slots=True)
class Representors:
    """Interface indexes by port: a vfid, or PF_PORT for the uplink."""

    ifindexes: Mapping[int, int]

    @property
    def vfids(self) -> tuple[int, ...]:
        return tuple(sorted(port for port in self.ifindexes if port != PF_PORT))


def find(uplink: int, ports: tuple[Port, ...]) -> Representors:
    """The representors beside ``uplink``, the PF's netdev. Raises NicGoneError."""
    of_devlink = {port.vfid: port.ifindex for port in ports if port.vfid is not None}
    found = {vfid: index for vfid, index in of_devlink.items() if index is not None}
    return Representors({PF_PORT: uplink, **(found or _by_name(uplink))})


def _by_name(index: int) -> dict[int, int]:
    try:
        uplink = socket.if_indextoname(index)
    except OSError as error:
        raise NicGoneError("the PF's netdev is gone") from error
    switch = _text(uplink, "phys_switch_id")
    if not switch:
        return {}
    pf = re.fullmatch(r"p(\d+)", _text(uplink, "phys_port_name"))
    found = {}
    for path in _NETS.iterdir():
        named = _VF_NAME.fullmatch(_text(path.name, "phys_port_name"))
        if named is None or _text(path.name, "phys_switch_id") != switch:
            continue
        if pf is not None and named[1] not in (None, pf[1]):
            continue
        if (ifindex := _number(path.name, "ifindex")) is not None:
            found[int(named[2])] = ifindex
    return found


def _text(netdev: str, name: str) -> str:
    try:
        return (_NETS / netdev / name).read_text(errors="replace").strip()
    except OSError:
        return ""  # EOPNOTSUPP where the driver has none


def _number(netdev: str, name: str) -> int | None:
    found = _text(netdev, name)
    return int(found) if found.isdigit() else None
