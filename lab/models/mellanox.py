"""A model of NVIDIA/Mellanox OFED's VF interface, ``…/device/sriov/N/``.

Sources: NVIDIA's MLNX_OFED documentation, "Single Root IO Virtualization (SR-IOV)", sections on
ConnectX-4's sysfs, VST and VGT+ (D), and what the driver does where that is silent: mlx5's
sriov_sysfs.c as MLNX_OFED ships it (S) and the VGT+ patches as sent to netdev on 2019-10-30 (N).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from lab.models.files import File, Tree, refuse
from lab.models.text import VLANS, parse_mac

LINKS = ("Follow", "Up", "Down")
"""In the order of IFLA_VF_LINK_STATE."""


@dataclass(slots=True)
class Vf:
    number: int
    mac: str = "00:00:00:00:00:00"
    vlan: int = 0
    qos: int = 0
    proto: str = "802.1Q"
    spoofcheck: bool = False
    trust: bool = False
    link_state: str = "Follow"
    min_tx_rate: int = 0
    max_tx_rate: int = 0
    trunk: set[int] = field(default_factory=set)
    counters: dict[str, int] = field(default_factory=dict)


class MellanoxModel:
    """The eswitch in legacy mode."""

    def __init__(self, vfs: int) -> None:
        self._make(vfs)

    def _make(self, vfs: int) -> None:
        self.vfs = [Vf(number) for number in range(vfs)]
        self._tree = {str(vf.number): self._files(vf) for vf in self.vfs}

    def state(self) -> Any:
        return {"vfs": [{**asdict(vf), "trunk": sorted(vf.trunk)} for vf in self.vfs]}

    def tree(self) -> Tree:
        """The files as they are now: a VF's folder comes and goes with it."""
        return self._tree

    def control(self) -> Tree:
        """What others do: ``ip`` takes ``VF WORD VALUE…``, as ``ip link set PF vf`` would set it,
        ``port_vlan`` takes ``VF VID``; ``numvfs`` is the device's ``sriov_numvfs``."""
        return {
            "ip": File(store=self._ip),
            "port_vlan": File(store=self._port_vlan),
            "numvfs": File(lambda: f"{len(self.vfs)}\n", self._store_numvfs),
        }

    def _port_vlan(self, text: str) -> None:
        number, vid = text.split()
        _store_vlan(self.vfs[int(number)], f"{vid}:0")

    def _ip(self, text: str) -> None:
        number, *words = text.split()
        if not 0 <= int(number) < len(self.vfs):
            raise refuse(errno.EINVAL)
        _ip_link_set(self.vfs[int(number)], words)

    def _store_numvfs(self, text: str) -> None:
        """``sriov_numvfs_store``: from one number to another by way of 0 only."""
        count = int(text)
        if count and self.vfs and count != len(self.vfs):
            raise refuse(errno.EBUSY)
        if count != len(self.vfs):
            self._make(count)

    def _files(self, vf: Vf) -> Tree:
        return {
            "mac": _write_only(lambda text: setattr(vf, "mac", parse_mac(text)), "VF Mac Address"),
            "vlan": _write_only(lambda text: _store_vlan(vf, text), "VF Vlan"),
            "spoofcheck": _switch(vf, "spoofcheck"),
            "trust": _switch(vf, "trust"),
            "link_state": _write_only(lambda text: _store_link(vf, text), "VF State"),
            "min_tx_rate": _rate(vf, "min_tx_rate"),
            "max_tx_rate": _rate(vf, "max_tx_rate"),
            "config": File(lambda: _config(vf), _read_only),
            "trunk": File(lambda: _show_trunk(vf), lambda text: _store_trunk(vf, text)),
            "stats": File(lambda: _stats(vf), _read_only),
        }


def _ip_link_set(vf: Vf, words: list[str]) -> None:
    """The VF operations of rtnetlink, which set the same values as the files (S)."""
    match words:
        case ["mac", mac]:
            vf.mac = parse_mac(mac)
        case ["vlan", vid, qos, proto]:
            _store_vlan(vf, f"{vid}:{qos}:{proto}")
        case ["rate", minimum, maximum]:
            vf.min_tx_rate, vf.max_tx_rate = int(minimum), int(maximum)
        case ["spoofchk", on]:
            vf.spoofcheck = on == "1"
        case ["trust", on]:
            vf.trust = on == "1"
        case ["state", number]:
            vf.link_state = LINKS[int(number)]
        case _:
            raise refuse(errno.EINVAL)


def _write_only(store: Callable[[str], None], what: str) -> File:
    """S: reading tells how to write, not what is set: that is in ``config``."""
    return File(lambda: f"usage: write to set {what}\n", store)


def _read_only(_: str) -> None:
    raise refuse(errno.EOPNOTSUPP)


def _switch(vf: Vf, name: str) -> File:
    def store(text: str) -> None:
        if text not in ("ON", "OFF"):
            raise refuse(errno.EINVAL)
        setattr(vf, name, text == "ON")

    return _write_only(store, name)


def _rate(vf: Vf, name: str) -> File:
    def store(text: str) -> None:
        if not text.isdigit():
            raise refuse(errno.EINVAL)
        setattr(vf, name, int(text))

    return _write_only(store, name)


def _store_link(vf: Vf, text: str) -> None:
    if text not in LINKS:
        raise refuse(errno.EINVAL)
    vf.link_state = text


def _store_vlan(vf: Vf, text: str) -> None:
    """D: ``VLAN:QOS[:PROTO]``; N: refused while the VF has a trunk."""
    found = re.fullmatch(r"(\d+):(\d+)(?::(802\.1(?:ad|AD|q|Q)))?", text)
    if not found or int(found[1]) >= VLANS or int(found[2]) > 7:
        raise refuse(errno.EINVAL)
    if vf.trunk and (int(found[1]) or int(found[2])):
        raise refuse(errno.EPERM)
    vf.vlan, vf.qos = int(found[1]), int(found[2])
    vf.proto = "802.1ad" if (found[3] or "").lower() == "802.1ad" else "802.1Q"


def _store_trunk(vf: Vf, text: str) -> None:
    """D: ``add START END``, ``rem START END``; N: refused while the VF has a port VLAN (VST)."""
    found = re.fullmatch(r"(\S+)\s+(\d+)\s+(\d+)\s*", text)
    if not found or found[1] not in ("add", "rem"):
        raise refuse(errno.EINVAL)
    start, end = int(found[2]), int(found[3])
    if end >= VLANS or start > end:
        raise refuse(errno.EINVAL)
    if found[1] == "add" and (vf.vlan or vf.qos):
        raise refuse(errno.EPERM)
    vlans = set(range(start, end + 1))
    vf.trunk = vf.trunk | vlans if found[1] == "add" else vf.trunk - vlans


def _show_trunk(vf: Vf) -> str:
    if not vf.trunk:
        return ""
    return "Allowed 802.1Q VLANs:" + "".join(f" {vid}" for vid in sorted(vf.trunk)) + "\n"


def _config(vf: Vf) -> str:
    proto = vf.proto if vf.vlan or vf.qos else "N/A"
    lines = {
        "VF         ": vf.number,
        "MAC        ": vf.mac,
        "VLAN       ": vf.vlan,
        "QoS        ": vf.qos,
        "VLAN Proto ": proto,
        "SpoofCheck ": "ON" if vf.spoofcheck else "OFF",
        "Trust      ": "ON" if vf.trust else "OFF",
        "LinkState  ": vf.link_state,
        "MinTxRate  ": vf.min_tx_rate,
        "MaxTxRate  ": vf.max_tx_rate,
        "VGT+       ": "ON" if vf.trunk else "OFF",
    }
    return "".join(f"{name}: {value}\n" for name, value in lines.items())


def _stats(vf: Vf) -> str:
    names = ("tx_packets", "tx_bytes", "tx_dropped", "rx_packets", "rx_bytes", "rx_dropped")
    return "".join(f"{name:<14}: {vf.counters.get(name, 0)}\n" for name in names)
