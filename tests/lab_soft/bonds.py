"""A guest's bond over its VFs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.lab_soft.guests import batch
from tests.soft.world import ip

from vfd.nic.soft import namespace

BY_LINK = "miimon 50"
"""A bond that looks at its members' links, every 50 ms, and at nothing else."""


def by_arp(target: str) -> str:
    """A bond that looks whether ``target`` answers through the member in use, every half second."""
    return f"arp_interval 500 arp_ip_target {target} arp_validate active"


def make_bond(
    guest: str, members: Iterable[str], address: str, *, fail_over_mac: str, monitor: str = BY_LINK
) -> None:
    """``bond0``, active-backup."""
    batch(
        guest,
        f"link add bond0 type bond mode active-backup {monitor} fail_over_mac {fail_over_mac}",
        *(f"link set {member} down" for member in members),
        *(f"link set {member} master bond0" for member in members),
        "link set bond0 up",
        f"addr add {address} dev bond0",
    )


def active(guest: str) -> str:
    """The member that the bond sends through."""
    with namespace.inside(guest):
        text = Path("/proc/thread-self/net/bonding/bond0").read_text()
    return text.split("Currently Active Slave: ")[1].split("\n")[0]


def running(guest: str, member: str) -> bool:
    """Whether the member has a link."""
    return "LOWER_UP" in ip("-n", guest, "-br", "link", "show", "dev", member)
