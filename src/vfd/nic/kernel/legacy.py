"""Older ways by which a driver lets the behaviour of its VFs be set, where it has them.

* The mode of the NIC's own bridge, ``IFLA_BRIDGE_MODE``: VEB switches between VFs, VEPA sends all
  to the wire (``bridge link set dev PF hwmode veb``). Offered by ixgbe, i40e, ice, mlx5 and bnxt;
  i40e resets the whole PF to change it (i40e_ndo_bridge_setlink, kernel 6.12).
* ethtool's private flags. ``vf-vlan-pruning`` (i40e, ice) makes a VF's VLAN filters hold on Rx even
  while its guest has asked for none; without ``vf-true-promisc-support`` (i40e, ice) a promiscuous
  VF is given unicast that nobody owns, with it every VF's. Neither can be changed while VFs
  are active (ice_set_priv_flags, i40e_set_priv_flags).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

from vfd.nic.netlink import Message, Netlink, NetlinkError, attr, nest, parse_attrs
from vfd.nic.protocol import Capability, NicError, Support
from vfd.policy.values import PfPolicy

AF_BRIDGE = 7
RTM_SETLINK = 19
RTM_GETLINK = 18
IFLA_AF_SPEC = 26
IFLA_BRIDGE_MODE = 1
VEB, VEPA = 0, 1
_IFINFO = struct.Struct("=BxHiII")

SIOCETHTOOL = 0x8946
ETHTOOL_GSTRINGS = 0x1B
ETHTOOL_GPFLAGS = 0x27
ETHTOOL_SPFLAGS = 0x28
ETHTOOL_GSSET_INFO = 0x37
ETH_SS_PRIV_FLAGS = 2
_NAME_BYTES = 32
_IFNAMSIZ = 16

WANTED_FLAGS: Mapping[str, bool] = {"vf-vlan-pruning": True, "vf-true-promisc-support": False}
"""What policies need of each flag. True promiscuity is never wanted: ``allow_un_ucast`` is about
unicast that no port owns (docs/semantics.md, the VF configuration)."""


class BridgeMode:
    """The NIC's bridge as a surface of the PF, whose netdev has ``index`` in the namespace of the
    socket. ``gives_way``: whether another surface switches between the VFs now."""

    BY = "rtnetlink:hwmode"

    def __init__(
        self, netlink: Netlink, index: int, gives_way: Callable[[], bool] = lambda: False
    ) -> None:
        self._netlink = netlink
        self._index = index
        self._gives_way = gives_way

    def pf_capabilities(self) -> Mapping[str, Capability]:
        if self._mode() is None:
            return {}
        return {"enable_loopback": Capability(Support.ENFORCED, by=self.BY)}

    def observe_pf(self, wanted: PfPolicy) -> Mapping[str, Any]:  # noqa: ARG002
        mode = self._mode()
        return {} if mode is None else {"enable_loopback": mode == VEB}

    def write_pf(self, now: PfPolicy, after: PfPolicy) -> None:  # noqa: ARG002
        wanted = VEB if after.enable_loopback else VEPA
        if self._mode() in (None, wanted):
            return
        body = _IFINFO.pack(AF_BRIDGE, 0, self._index, 0, 0)
        body += nest(IFLA_AF_SPEC, attr(IFLA_BRIDGE_MODE, struct.pack("=H", wanted)))
        what = f"the NIC's bridge mode {'veb' if wanted == VEB else 'vepa'}"
        try:
            self._netlink.send([Message(RTM_SETLINK, body, what=what)])
        except NetlinkError as error:
            raise NicError(str(error.strerror)) from error

    def _mode(self) -> int | None:
        """The mode; None where the driver has none, or another surface is in charge."""
        if self._gives_way():
            return None
        try:
            answers = self._netlink.dump(RTM_GETLINK, _IFINFO.pack(AF_BRIDGE, 0, 0, 0, 0))
        except NetlinkError:
            return None
        for _, body in answers:
            if _IFINFO.unpack_from(body)[2] != self._index:
                continue
            spec = parse_attrs(body, _IFINFO.size).get(IFLA_AF_SPEC)
            mode = parse_attrs(spec).get(IFLA_BRIDGE_MODE) if spec else None
            if mode is not None:
                return int(struct.unpack("=H", mode[:2])[0])
        return None


def private_flags(index: int) -> Mapping[str, bool]:
    """The driver's private flags; none where it has none."""
    names = _flag_names(index)
    if not names:
        return {}
    try:
        bits = struct.unpack("=II", _ethtool(index, struct.pack("=II", ETHTOOL_GPFLAGS, 0)))[1]
    except OSError:
        return {}
    return {name: bool(bits >> number & 1) for number, name in enumerate(names)}


def set_private_flags(index: int, wanted: Mapping[str, bool]) -> None:
    """Sets those of the flags that the driver has and that differ, in one call. Raises NicError."""
    now = private_flags(index)
    after = {name: wanted.get(name, on) for name, on in now.items()}
    if after == now:
        return
    bits = sum(1 << number for number, on in enumerate(after.values()) if on)
    changed = ", ".join(
        f"{name} {'on' if on else 'off'}" for name, on in after.items() if on != now[name]
    )
    try:
        _ethtool(index, struct.pack("=II", ETHTOOL_SPFLAGS, bits))
    except OSError as error:
        hint = (
            ": it can be changed while no VF is active"
            if error.errno in (errno.EOPNOTSUPP, errno.EBUSY)
            else ""
        )
        raise NicError(f"private flags {changed}: {os.strerror(error.errno or 0)}{hint}") from error


def flag_capabilities(index: int) -> Mapping[str, Capability]:
    """The flags that policies need, as listings show them; flags the driver lacks are left out."""
    offers = {}
    for name, on in private_flags(index).items():
        if name not in WANTED_FLAGS:
            continue
        if on == WANTED_FLAGS[name]:
            offers[name] = Capability(Support.ENFORCED, by="ethtool")
        else:
            offers[name] = Capability(
                Support.ABSENT,
                reason=f"the flag is {'on' if on else 'off'}, and can be changed while the PF has"
                " no VFs: set vfs to 0 and back",
                consequence=_CONSEQUENCES[name],
            )
    return offers


_CONSEQUENCES = {
    "vf-vlan-pruning": "a guest without VLAN filters of its own receives every VLAN",
    "vf-true-promisc-support": "a promiscuous guest receives other guests' unicast",
}


def _flag_names(index: int) -> list[str]:
    """The names of the private flags, in the order of their bits (ethtool_gstrings)."""
    request = struct.pack("=IIQI", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_PRIV_FLAGS, 0)
    try:
        _, _, mask, count = struct.unpack("=IIQI", _ethtool(index, request))
        if not mask or not count:
            return []
        head = struct.pack("=III", ETHTOOL_GSTRINGS, ETH_SS_PRIV_FLAGS, count)
        answer = _ethtool(index, head + bytes(count * _NAME_BYTES))
    except OSError:
        return []
    texts = answer[len(head) :]
    return [
        texts[start : start + _NAME_BYTES].split(b"\0")[0].decode(errors="replace")
        for start in range(0, len(texts), _NAME_BYTES)
    ]


def _ethtool(index: int, request: bytes) -> bytes:
    """One SIOCETHTOOL: struct ifreq with a pointer to the command. Raises OSError."""
    buffer = ctypes.create_string_buffer(request, len(request))
    netdev = socket.if_indextoname(index).encode()
    ifreq = struct.pack(f"={_IFNAMSIZ}sQ16x", netdev, ctypes.addressof(buffer))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ip:
        fcntl.ioctl(ip, SIOCETHTOOL, ifreq)
    return buffer.raw
