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
        self.vfs = [Vf(number) for number in range(vfs)]

    def state(self) -> Any:
        return {"vfs": [{**asdict(vf), "trunk": sorted(vf.trunk)} for vf in self.vfs]}

    def tree(self) -> Tree:
        return {str(vf.number): self._files(vf) for vf in self.vfs}

    def control(self) -> Tree:
        """``port_vlan`` takes ``VF VID`` as ``ip link set … vf … vlan`` would."""
        return {"port_vlan": File(store=self._port_vlan)}

    def _port_vlan(self, text: str) -> None:
        number, vid = text.split()
        _store_vlan(self.vfs[int(number)], f"{vid}:0")

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
    if text not in ("Up", "Down", "Follow"):
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
