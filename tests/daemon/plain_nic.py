"""A NIC made of a dictionary: it goes away, comes back and disobeys as a test asks."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest

from vfd.daemon.journal import Journal
from vfd.daemon.request import Source
from vfd.daemon.service import Service
from vfd.nic.protocol import (
    Capabilities,
    Capability,
    Event,
    EventKind,
    Identity,
    Link,
    NicError,
    NicGoneError,
    NicState,
    Support,
    VfState,
)
from vfd.plan.changes import Change, VfChange
from vfd.plan.plan import PF_FIELDS
from vfd.policy.requests import Decision, Grants, Request, granted
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy, VfRules

VFS = 4


class PlainNic:
    """Enforces everything, in memory."""

    def __init__(self, pf: PfPolicy) -> None:
        self.pf = pf
        self.rules: dict[int, VfRules | None] = dict.fromkeys(range(VFS))
        self.grants = dict.fromkeys(range(VFS), Grants())
        self.address = pf.id
        self.gone = False
        self.speed: int | None = 10**10
        """Of its link, in bits per second; None: it is down."""
        self.refuses = ""
        """What it answers to a change instead of making it."""
        self.refuses_vfs: frozenset[int] = frozenset()
        """VFs that it can't open. It enforces the whole of what is desired, as a soft NIC does, so
        a desired state with one of them is refused whatever the change is."""
        self.unreadable = ""
        """Why it can't be observed."""
        self.bug: Exception | None = None
        """What looking at it or at its counters ends in."""
        self.looked = 0
        self.refused = 0
        """How often it has refused a change."""
        self.telling = threading.Event()
        """It was asked for its events, which it tells when it ``may_tell``."""
        self.may_tell = threading.Event()
        self.may_tell.set()
        self.forgets = False
        """It takes a change of a VF that opens and doesn't make it."""
        self.lacks: frozenset[str] = frozenset()
        """Attributes that it can't enforce."""
        self.max_vfs = VFS
        self.held = False
        """Guests hold its VFs."""
        self.told: list[Event] = []
        self.answered = 0
        self._fd = os.eventfd(0, os.EFD_NONBLOCK)

    @property
    def identity(self) -> Identity:
        return Identity(self.pf.id, "plain", self.address)

    @property
    def capabilities(self) -> Capabilities:
        everything = Capability(Support.ENFORCED, "memory")
        return Capabilities(
            dict.fromkeys(VfRules.model_fields, everything),
            dict.fromkeys(PF_FIELDS, everything),
            frozenset(),
            self.max_vfs,
            64,
            64,
            64,
            disturbing=frozenset({"enable_loopback"}),
        )

    def link(self) -> Link:
        return Link(not self.gone and self.speed is not None, self.speed)

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:  # noqa: ARG002
        return dict.fromkeys(self.lacks, Capability(Support.ABSENT, reason="not this driver"))

    def expressible(self, vfid: int, rules: VfRules | None) -> VfRules | None:  # noqa: ARG002
        if rules is None or not self.lacks:
            return rules
        neutral = {name: VfRules.model_fields[name].default for name in self.lacks}
        return rules.model_copy(update=neutral)

    def observe(self, only: object = None, *, guests: bool = True) -> NicState:  # noqa: ARG002
        if self.gone:
            raise NicGoneError("it is unplugged")
        self.looked += 1
        if self.bug is not None:
            raise self.bug
        if self.unreadable:
            raise NicError(self.unreadable)
        vfs = {
            v: VfState(v, r, True, None, 1500, held=self.held, grants=self.grants[v])
            for v, r in self.rules.items()
        }
        return NicState(self.pf, self.link(), vfs)

    def adopt(self, policies: Collection[VfPolicy]) -> None:
        pass

    def manage(self, vfids: Collection[int] | None) -> None:
        pass

    def apply(self, desired: NicPolicy, changes: Sequence[Change]) -> None:
        if self.gone:
            raise NicGoneError("it is unplugged")
        if self.refuses:
            self.refused += 1
            raise NicError(self.refuses)
        if bad := self.refuses_vfs & desired.by_vfid().keys():
            raise NicError(f"no room for VF {min(bad)}")
        self.pf = desired.pf
        for change in changes:
            if isinstance(change, VfChange) and not (self.forgets and change.before is None):
                self.rules[change.vfid] = change.after

    def answer(self, answers: Sequence[tuple[Request, Decision]]) -> None:
        self.answered += len(answers)
        for request, decision in answers:
            if decision.granted:
                self.grants[request.vfid] = granted(self.grants[request.vfid], request)

    def revoke(self, vfid: int) -> None:
        self.grants[vfid] = Grants()

    def counters(self) -> dict[int, dict[str, int]]:
        if self.bug is not None:
            raise self.bug
        return {}

    def events(self) -> list[Event]:
        self.telling.set()
        assert self.may_tell.wait(10)
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        told, self.told = self.told, []
        return told

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nobody is expected to ask a plain NIC for {name}")

    # What tests do to it

    def link_is(self, speed: int | None) -> None:
        self.speed = speed
        self.told.append(Event(EventKind.LINK))

    def reopen(self) -> None:
        """Its next daemon takes it, as it is."""
        self._fd = os.eventfd(0, os.EFD_NONBLOCK)

    def ring(self) -> None:
        """Has the daemon's loop ask for its events."""
        os.eventfd_write(self._fd, 1)

    def unplug(self) -> None:
        self.gone = True
        self.told.append(Event(EventKind.LOST))

    def plug_in(self) -> None:
        self.gone = False
        self.told.append(Event(EventKind.BACK))


def nic_of(service: Service) -> PlainNic:
    [managed] = service.nics.values()
    assert isinstance(managed.nic, PlainNic)
    return managed.nic


def restarted(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Another daemon in its place, which adopts the NIC as it is. Not started yet."""
    nic = nic_of(service)
    service.stop()
    nic.reopen()
    monkeypatch.setattr("vfd.daemon.managed.open_nic", lambda _: nic)
    return Service(service.files, service.main, Journal(), service.zero, "test")


def tried_again(service: Service) -> None:
    """What NICs could not do, or could not be opened for, as the daemon tries it after a while."""
    if service.reopen():
        service.load(service.files.read_all())
    service.mend()


def config(service: Service, vfid: int, **fields: Any) -> dict[str, Any]:
    """A VF's configuration on the service's one NIC."""
    return {"pciid": next(iter(service.nics)), "vfid": vfid, "vlans": [100 + vfid], **fields}


def add(service: Service, name: str, vfid: int, **fields: Any) -> None:
    service.add(Source(name=name, config=config(service, vfid, **fields)), 0, 0)
