"""Reading a PF's netdev with all its VFs."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace

from vfd.nic.kernel.vfinfo import RTM_GETLINK, LinkInfo, parse_link, request
from vfd.nic.netlink import Netlink, NetlinkError
from vfd.nic.protocol import Link, NicError, NicGoneError
from vfd.policy.shown import printable

_RESET = 0.5
"""Seconds that VFs in a reset are waited for. Drivers end one within some 0.3 s (i40e:
i40e_reset_vf and the waits in it; ice: ice_reset_vf)."""

LINK_PATIENCE = 5.0
"""Seconds for a link that was up to come back: 1000BASE-T takes two to four to negotiate."""

_LOOPBACK = 1
"""LOOPBACK_IFINDEX: in every network namespace."""


def read_link(netlink: Netlink, index: int, *, vfs: bool = True, stats: bool = False) -> LinkInfo:
    """The PF's netdev, with its VFs in one request; with ``stats`` these are perhaps ``torn``.

    The kernel passes over a VF that the driver can't tell of, as in a reset (rtnl_fill_vfinfo;
    ice_get_vf_cfg: EBUSY): it is asked for again. Raises NicError, NicGoneError."""
    deadline = time.monotonic() + _RESET
    while True:
        link = _read_once(netlink, index, vfs=vfs, stats=stats)
        if link.torn and stats:
            return replace(read_link(netlink, index), torn=True)
        if link.torn:
            raise NicError(
                f"{printable(link.name)} has {link.num_vfs} VFs, more than fit the 65535 bytes that"
                " netlink has for them: make fewer"
            )
        if not vfs or len(link.vfs) >= link.num_vfs:
            return link
        if time.monotonic() > deadline:
            silent = ", ".join(str(vf) for vf in range(link.num_vfs) if vf not in link.vfs)
            raise NicError(
                f"{printable(link.name)}: its driver has told nothing of VF {silent} for"
                f" {_RESET:g} s, as in a reset that does not end: dmesg may say why"
            )
        time.sleep(_RESET / 20)


def await_rtnl(netlink: Netlink) -> None:
    """Returns when what the kernel told of a netdev is done: that one leaves for another namespace
    it tells before sysfs shows it, under a lock that a request waits for
    (net/core/dev.c, __dev_change_net_namespace; rtnetlink_rcv_msg)."""
    with contextlib.suppress(NetlinkError):
        netlink.get(RTM_GETLINK, request(_LOOPBACK, vfs=False), "the loopback device")


def _read_once(netlink: Netlink, index: int, *, vfs: bool, stats: bool) -> LinkInfo:
    try:
        asked = request(index, vfs=vfs, stats=stats)
        return parse_link(netlink.get(RTM_GETLINK, asked, "the PF's VFs"))
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            raise NicGoneError("the PF's netdev is gone") from error
        if error.errno == errno.EMSGSIZE and stats:
            return replace(_read_once(netlink, index, vfs=vfs, stats=False), torn=True)
        if error.errno == errno.EMSGSIZE:
            raise NicError("there are more VFs than fit netlink's answer: make fewer") from error
        raise NicError(f"reading the PF's VFs: {os.strerror(error.errno or 0)}") from error


def await_link(link: Callable[[], Link]) -> None:
    """Creating VFs resets the PF, whose link comes back after some seconds."""
    deadline = time.monotonic() + LINK_PATIENCE
    while not link().up and time.monotonic() < deadline:
        time.sleep(0.02)
