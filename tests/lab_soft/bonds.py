"""A guest's bond over its VFs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.lab_soft.guests import batch
from tests.soft.world import ip

from vfd.nic.soft import namespace

MIIMON = 50
"""Milliseconds between a bond's looks at its members' links."""


def make_bond(guest: str, members: Iterable[str], address: str, fail_over_mac: str) -> None:
    """``bond0``, active-backup, which looks at its members' links only."""
    batch(
        guest,
        f"link add bond0 type bond mode active-backup miimon {MIIMON}"
        f" fail_over_mac {fail_over_mac}",
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
