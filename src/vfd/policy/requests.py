"""What a guest may ask for, and the table that decides: SEMANTICS, "What a guest may ask for"."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RequestKind(StrEnum):
    DEFAULT_MAC = "default-mac"
    ADD_MAC = "add-mac"
    REMOVE_MAC = "remove-mac"
    VLAN = "vlan-filter"
    JOIN_GROUP = "join-group"
    LEAVE_GROUP = "leave-group"
    MTU = "mtu"
    PROMISC = "promiscuous"
    ALLMULTI = "all-multicast"


@dataclass(frozen=True, slots=True)
class Request:
    """What a guest asks for through the NIC's mailbox."""

    vfid: int
    kind: RequestKind
    mac: str | None = None
    """DEFAULT_MAC, ADD_MAC, REMOVE_MAC: the MAC; JOIN_GROUP, LEAVE_GROUP: the group."""
    vid: int | None = None
    mtu: int | None = None
    on: bool = True
    """PROMISC, ALLMULTI: on or off."""


@dataclass(frozen=True, slots=True)
class Decision:
    granted: bool
    reason: str
    """For the log and the event: why, in words that name the rule."""


@dataclass(frozen=True, slots=True)
class Grants:
    """What a guest was granted, until its VF is deleted or it is gone."""

    default_mac: str | None = None
    macs: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    mtu: int | None = None
    promisc: bool = False
    allmulti: bool = False
