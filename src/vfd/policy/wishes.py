"""Wishes: what guests asked for and were refused, until they have it or give it up.

docs/semantics.md, "What a guest may ask for": a refused request is decided again, unasked, whenever
the reason of its refusal may be gone, on whichever VF of the PF that was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vfd.policy.requests import (
    Decision,
    Grants,
    Request,
    RequestKind,
    Room,
    decide,
    granted,
    owners,
)
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

MOST = 256
"""Wishes of one kind of one VF. A guest that has more loses the oldest: four times as many as a NIC
without a limit of its own grants."""

Key = tuple[RequestKind, str | int | None]
"""Which wish of a VF: one for each MAC, group and VLAN, one for the VF of every other kind."""

_GIVEN_UP = {
    RequestKind.REMOVE_MAC: RequestKind.ADD_MAC,
    RequestKind.LEAVE_GROUP: RequestKind.JOIN_GROUP,
}


@dataclass(frozen=True, slots=True)
class Wish:
    request: Request
    reason: str
    """Why it is refused, as decided last."""
    order: int
    """Who asked first gets what several wish."""
    basis: _Basis | None = None
    """What that was decided on: the same again needs no new decision."""


class Judge:
    """Decides requests one after the other, each on what the ones before it were granted. What
    hangs on all VFs is worked out once, not for each request."""

    def __init__(
        self,
        nic: NicPolicy,
        grants: Mapping[int, Grants],
        own_macs: Mapping[int, str],
        limits: Room,
    ) -> None:
        self._nic = nic
        self._vfs = nic.by_vfid()
        self.grants = dict(grants)
        self._own_macs = own_macs
        self._limits = limits
        self._closed = {own_macs[v]: v for v in sorted(own_macs.keys() - self._vfs, reverse=True)}
        self._owned: Mapping[str, int] | None = None

    def decide(self, request: Request) -> Decision:
        decision = decide(
            self._nic,
            self.grants,
            request,
            limits=self._limits,
            own_macs=self._own_macs,
            owned=self._owners(),
        )
        has = self.grants.get(request.vfid)
        if decision.granted and has is not None:
            self.grants[request.vfid] = now = granted(has, request)
            if (has.macs, has.default_mac) != (now.macs, now.default_mac):
                self._owned = None
        return decision

    def basis(self, request: Request) -> _Basis:
        """All that the decision depends on, to be compared with that of another time."""
        owner = self._owners().get(request.mac) if request.mac else None
        if owner is None and request.mac:
            owner = self._closed.get(request.mac)
        vf, has = self._vfs.get(request.vfid), self.grants.get(request.vfid)
        return _Basis(self._nic.pf, vf, has, owner)

    def _owners(self) -> Mapping[str, int]:
        if self._owned is None:
            self._owned = owners(self._nic, self.grants, self._own_macs)
        return self._owned


class _Basis:
    """Policies are compared as the objects that they are: to compare all their fields would cost
    more than a decision."""

    __slots__ = ("_has", "_objects", "_owner")

    def __init__(
        self, pf: PfPolicy, vf: VfPolicy | None, has: Grants | None, owner: int | None
    ) -> None:
        self._objects, self._has, self._owner = (pf, vf), has, owner

    def is_that_of(self, wish: Wish) -> bool:
        other = wish.basis
        return (
            other is not None
            and self._owner == other._owner
            and all(a is b for a, b in zip(self._objects, other._objects, strict=True))
            and self._has == other._has
        )


class Wishes:
    """Those of one PF's guests, in the order in which they were asked."""

    def __init__(self) -> None:
        self._of: dict[int, dict[Key, Wish]] = {}
        self._next = 0
        self.are_listed = False
        """What guests wished before all this began was asked."""
        self._decided_on: tuple[object, ...] = ()

    def are_due(self, *on: object) -> bool:
        """Whether what decides about them (values: what changed is a new one) is another than when
        they were ``decided``."""
        return bool(self._of) and not (
            len(on) == len(self._decided_on)
            and all(a is b for a, b in zip(on, self._decided_on, strict=True))
        )

    def decided(self, *on: object) -> None:
        self._decided_on = on

    def of(self, vfid: int) -> tuple[Wish, ...]:
        return tuple(self._of.get(vfid, {}).values())

    def all(self) -> list[Wish]:
        """First those that were asked first."""
        return sorted((w for of in self._of.values() for w in of.values()), key=lambda w: w.order)

    def note(self, request: Request, decision: Decision, basis: _Basis | None = None) -> bool:
        """What became of a request. Returns whether that is news of a wish: one that is new, is
        refused for another reason than before, or is no wish any more."""
        key = _key(request)
        of = self._of.setdefault(request.vfid, {})
        before = of.get(key)
        if decision.granted:
            of.pop(key, None)
        elif before is not None and before.request == request:
            of[key] = Wish(request, decision.reason, before.order, basis)
        else:
            of.pop(key, None)  # it wishes something else now, and asked for that later
            _make_room(of, request.kind)
            self._next += 1
            of[key] = Wish(request, decision.reason, self._next, basis)
        if not of:
            del self._of[request.vfid]
        if decision.granted:
            return before is not None
        return before is None or before.request != request or before.reason != decision.reason

    def forget(self, vfid: int) -> None:
        """The guest that wished is gone."""
        self._of.pop(vfid, None)

    def keep(self, vfids: Mapping[int, object]) -> None:
        """VFs that are no longer there wish nothing."""
        for vfid in self._of.keys() - vfids.keys():
            del self._of[vfid]


def _key(request: Request) -> Key:
    kind = _GIVEN_UP.get(request.kind, request.kind)
    if kind in (RequestKind.ADD_MAC, RequestKind.JOIN_GROUP):
        return kind, request.mac
    return kind, request.vid if kind is RequestKind.VLAN else None


def _make_room(of: dict[Key, Wish], kind: RequestKind) -> None:
    same = [key for key in of if key[0] is kind]
    if len(same) >= MOST:
        del of[same[0]]


def grantable(wishes: Wishes, judge: Judge) -> Iterator[tuple[Wish, Decision]]:
    """Decides again what may be decided otherwise now, until nothing changes any more: what one
    guest gives up by what it is granted may be another's wish. Those granted come out once, and
    those that are refused for another reason than before; the basis of the others is noted."""
    left, progress = wishes.all(), True
    while progress:
        progress = False
        for wish in tuple(left):
            basis = judge.basis(wish.request)
            if basis.is_that_of(wish):
                continue
            decision = judge.decide(wish.request)
            if decision.granted:
                left.remove(wish)
                progress = True
                yield wish, decision
            elif wishes.note(wish.request, decision, basis):
                yield wish, decision
