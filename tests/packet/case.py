"""What a case is: policies, frames in, frames out, counters that move. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vfd.nic.protocol import PF_PORT
from vfd.policy.requests import Request
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy, VfRules

from .frames import Frame, mac

WIRE = PF_PORT
"""The port that is the PF's uplink."""

VFS = 4
"""VFs of the NIC that every case is written for; those that a case does not name are closed."""

BENCH_PF = "bench"
"""The PF's name in cases; a bench puts its own in its place."""


def vf(vfid: int, **rules: Any) -> VfPolicy:
    """A VF's policy; its MAC is ``mac(vfid)`` unless ``vm_mac`` says otherwise."""
    rules.setdefault("vm_mac", mac(vfid))
    return VfPolicy(name=f"vf{vfid}", pciid=BENCH_PF, vfid=vfid, **rules)


def nic(*vfs: VfPolicy, **pf: Any) -> NicPolicy:
    """The NIC's policy: 10 Gbit/s, VFs' MTU 1500, the PF's up to 9000, loopback off."""
    settings = {"mtu": 9000, "default_mtu": 1500, "link_speed": "10Gbps"} | pf
    return NicPolicy(pf=PfPolicy(id=BENCH_PF, vfs=VFS, **settings), vfs=vfs)


Moves = Mapping[tuple[int, str], int]
"""(port, counter) → by how much it moves; every other counter must stand still. Packets, bytes
and totals of drops are not stated, they follow from the frames: ``expect.traffic``."""


@dataclass(frozen=True, slots=True)
class Send:
    """One frame in at a port, and all that comes of it."""

    port: int
    frame: Frame
    out: Mapping[int, tuple[Frame, ...]] = field(default_factory=dict)
    """Exactly these frames at these ports, in any order; nothing at any other port."""
    moves: Moves = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ask:
    """The guest of ``request.vfid`` asks; the answer must be this one."""

    request: Request
    granted: bool


@dataclass(frozen=True, slots=True)
class Become:
    """From here on the NIC has this policy; changed while it runs."""

    nic: NicPolicy


@dataclass(frozen=True, slots=True)
class Wire:
    """The wire's link comes up or goes down."""

    up: bool


@dataclass(frozen=True, slots=True)
class Leave:
    """The guest of the VF is gone (its namespace deleted, its VM stopped), and another comes."""

    vfid: int


@dataclass(frozen=True, slots=True)
class Link:
    """The guest of the VF sees this link: what its own interface says."""

    vfid: int
    up: bool


Step = Send | Ask | Become | Wire | Leave | Link


@dataclass(frozen=True, slots=True)
class Case:
    """A sentence of the contract, shown by frames.

    ``needs`` names what a backend must have for the case, besides the attributes that its
    policies set to other than the default: attributes whose default is what is being shown
    (``mac_anti_spoof``), and the traits ``wire``, ``wire link``, ``no wire``, ``runts``,
    ``requests``, ``guest link``, ``veiled tags``, ``MAC control``.
    """

    name: str
    proves: tuple[str, ...]
    """Ids of clauses.CLAUSES."""
    nic: NicPolicy
    steps: tuple[Step, ...]
    needs: frozenset[str] = frozenset()

    @property
    def policies(self) -> tuple[NicPolicy, ...]:
        return (self.nic, *(step.nic for step in self.steps if isinstance(step, Become)))

    @property
    def features(self) -> frozenset[str]:
        """Everything that a backend must have for this case."""
        found = set(self.needs)
        for policy in self.policies:
            for each in policy.vfs:
                found |= stated(each)
            if policy.pf.enable_loopback:
                found.add("enable_loopback")
            if policy.pf.tpid != PfPolicy.model_fields["tpid"].default:
                found.add("tpid")
        for step in self.steps:
            if isinstance(step, Ask | Leave):
                found.add("requests")
            if isinstance(step, Wire):
                found.add("wire link")
            if isinstance(step, Link):
                found.add("guest link")
            if isinstance(step, Send) and (step.port == WIRE or WIRE in step.out):
                found.add("wire")
        return frozenset(found)


def stated(vf: VfPolicy) -> set[str]:
    """The attributes that are not at their defaults, which may follow from each other."""
    fields = VfRules.model_fields.items()
    return {
        name
        for name, info in fields
        if getattr(vf, name)
        != info.get_default(call_default_factory=True, validated_data=vf.__dict__)
    }


def case(name: str, proves: str, policy: NicPolicy, *steps: Step, needs: str = "") -> Case:
    """A case; ``proves`` and ``needs`` are comma-separated."""
    return Case(name, _split(proves), policy, steps, frozenset(_split(needs)))


def sends(
    port: int,
    sent: Frame,
    out: Mapping[int, Frame | tuple[Frame, ...]] | None = None,
    at: Moves | None = None,
    **counts: int,
) -> Send:
    """``port`` sends; ``counts`` move at that port, ``at`` elsewhere."""
    frames = {
        number: (got,) if isinstance(got, Frame) else got for number, got in (out or {}).items()
    }
    return Send(
        port, sent, frames, {(port, name): n for name, n in counts.items()} | dict(at or {})
    )


def passes(port: int, sent: Frame, *to: int) -> Send:
    """``port`` sends, and the frame arrives unchanged at ``to`` and nowhere else."""
    return sends(port, sent, dict.fromkeys(to, sent))


def _split(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
