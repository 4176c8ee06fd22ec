"""tc flower rules as values: what is matched, what is done, and where a rule stands.

Ports are a VF's number, or WIRE for the uplink: which netdev that is, is the netlink side's affair
(``flower_netlink``). A rule stands at the ingress of its port's representor, that is, it sees what
the VF sends, and at the uplink what the wire brings. Sources: tc-flower(8), net/sched/cls_flower.c,
net/sched/act_api.c, net/sched/cls_api.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfd.nic.protocol import PF_PORT

WIRE = PF_PORT
ANY = 0x0003
"""ETH_P_ALL: frames of any type, tagged or not."""
EVERY_BIT = "ff:ff:ff:ff:ff:ff"
GROUP_BIT = "01:00:00:00:00:00"
HOST_PREF = 1000
"""At the uplink, filters with this pref and later ones are the host's own: they stand behind ours,
and meet only frames that no rule of ours is about."""
MOST_ACTIONS = 32
"""TCA_ACT_MAX_PRIO: actions of one rule."""


@dataclass(frozen=True, slots=True, order=True)
class Match:
    """What a frame must be. Empty texts and None: anything."""

    protocol: int = ANY
    """The frame's first type: the outer tag's TPID of a tagged frame."""
    vid: int | None = None
    """The outer tag's, with ``protocol`` one of the TPIDs."""
    dst: str = ""
    dst_mask: str = ""
    src: str = ""
    src_mask: str = ""
    second: int | None = None
    """The type behind the outer tag, with ``protocol`` one of the TPIDs."""
    third: int | None = None
    """The type behind the second tag, with ``second`` one of the TPIDs."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy of the frame, as it now is, out of ``port``."""

    port: int


@dataclass(frozen=True, slots=True)
class Redirect:
    """The frame out of ``port``; the end."""

    port: int


@dataclass(frozen=True, slots=True)
class Push:
    tpid: int
    vid: int
    pcp: int = 0


@dataclass(frozen=True, slots=True)
class Retag:
    """The outer tag with another TPID and VID; PCP and DEI stay (act_vlan.c, MODIFY)."""

    tpid: int
    vid: int


@dataclass(frozen=True, slots=True)
class Pop:
    """The frame without its outer tag."""


@dataclass(frozen=True, slots=True)
class Police:
    """On while frames come no faster than ``pps``; else the frame is dropped."""

    index: int
    """The policer: rules of one index share it."""
    pps: int


@dataclass(frozen=True, slots=True)
class PoliceBytes:
    """On while bytes come no faster than ``rate`` a second; else the frame is dropped."""

    index: int
    """As with ``Police``."""
    rate: int


@dataclass(frozen=True, slots=True)
class Goto:
    chain: int


@dataclass(frozen=True, slots=True)
class Drop:
    """The end."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The end: the frame goes on to the host, as if there were no rules."""


@dataclass(frozen=True, slots=True)
class Note:
    """Nothing is done; ``text``, at most 16 bytes (TC_COOKIE_MAX_SIZE), is kept with the rule."""

    text: bytes


Action = Mirror | Redirect | Push | Retag | Pop | Police | PoliceBytes | Goto | Drop | Pass | Note


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rule stands. No two rules have one place, so writing a rule replaces the one there.

    Chains begin with the lowest ``pref``; the first rule that matches has it. Rules of one
    ``pref`` have one protocol (tcf_chain_tp_find) and never match the same frame.
    """

    port: int
    chain: int
    pref: int
    match: Match


@dataclass(frozen=True, slots=True)
class Rule:
    place: Place
    actions: tuple[Action, ...]


Rules = dict[Place, tuple[Action, ...]]
"""A whole table."""
