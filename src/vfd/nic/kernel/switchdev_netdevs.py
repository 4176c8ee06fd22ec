"""What a switch's netdevs must be for rules to hold: up, and willing to offload.

A representor's admin state is its VF's link with some drivers (``switchdev_find``), and mirred
drops what it sends to a netdev that is down (net/sched/act_mirred.c, tcf_mirred_to_dev). Drivers
refuse rules with ``skip_sw`` while ``hw-tc-offload`` is off (net/pkt_cls.h, tc_can_offload; kernel
6.12: mlx5e_tc_add_flow, ice_add_cls_flower, bnxt_setup_tc_block_cb), which it is on a fresh netdev.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from vfd.nic.kernel import genl
from vfd.nic.kernel.vfinfo import RTM_GETLINK, RTM_SETLINK, link_head, set_link
from vfd.nic.netlink import (
    NETLINK_GENERIC,
    Message,
    Netlink,
    NetlinkError,
    attr,
    attr_text,
    attr_u32,
    nest,
    parse_attrs,
    u32,
)

FEATURE = "hw-tc-offload"
_IFF_UP = 1
_FEATURES_GET, _FEATURES_SET = 11, 12
_HEADER, _WANTED, _ACTIVE = 1, 3, 4
_DEV_INDEX, _FLAGS, _OMIT_REPLY = 1, 3, 2
_BITS, _BIT, _BIT_NAME, _BIT_VALUE = 3, 1, 2, 3


class Netdevs:
    """The netdevs, by ifindex. Raises NetlinkError throughout."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    def up(self, ifindexes: Collection[int]) -> frozenset[int]:
        """Those that somebody set up, whatever their link."""
        heads = (
            link_head(body) for _, body in self._netlink.dump(RTM_GETLINK, set_link(0), "netdevs")
        )
        return frozenset(
            index for index, _, flags in heads if index in ifindexes and flags & _IFF_UP
        )

    def set_up(self, wanted: Mapping[int, bool]) -> None:
        """Sets netdevs up or down."""
        self._netlink.send(
            [
                Message(
                    RTM_SETLINK,
                    set_link(index, flags=_IFF_UP if up else 0, change=_IFF_UP),
                    what=f"setting interface {index} {'up' if up else 'down'}",
                )
                for index, up in sorted(wanted.items())
            ]
        )

    def offload(self, ifindexes: frozenset[int]) -> frozenset[int]:
        """Turns the feature on where it is off; those on which it stays off.

        The kernel says nothing where a driver has no such feature (net/ethtool/features.c), so it
        is read again."""
        ethtool = Netlink(NETLINK_GENERIC)
        try:
            family = genl.family(ethtool, "ethtool").id
            if off := ifindexes - _offloading(ethtool, family):
                ethtool.send_all([_turn_on(family, index) for index in sorted(off)])
                off = ifindexes - _offloading(ethtool, family)
        except NetlinkError:
            return frozenset()  # a kernel without ethtool's netlink: the rules will show
        finally:
            ethtool.close()
        return off


def _offloading(ethtool: Netlink, family: int) -> frozenset[int]:
    """The netdevs that have the feature on."""
    answers = ethtool.dump(family, genl.message(_FEATURES_GET), "features")
    found = (parse_attrs(body, genl.HEADER) for _, body in answers)
    name = FEATURE.encode() + b"\0"
    return frozenset(
        u32(parse_attrs(features[_HEADER])[_DEV_INDEX])
        for features in found
        if name in features.get(_ACTIVE, b"")
    )


def _turn_on(family: int, index: int) -> Message:
    body = genl.message(
        _FEATURES_SET,
        nest(_HEADER, attr_u32(_DEV_INDEX, index), attr_u32(_FLAGS, _OMIT_REPLY)),
        nest(
            _WANTED, nest(_BITS, nest(_BIT, attr_text(_BIT_NAME, FEATURE), attr(_BIT_VALUE, b"")))
        ),
    )
    return Message(family, body, what=f"{FEATURE} of interface {index}")
