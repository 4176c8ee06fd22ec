"""What NICs report: guests' requests are decided, drift is repaired, everything is told."""

from __future__ import annotations

import logging
from itertools import groupby
from typing import Any

from vfd.daemon.journal import Level
from vfd.daemon.loading import admit_waiting, judge_again
from vfd.daemon.managed import Condition, Managed
from vfd.daemon.service import Service
from vfd.nic.protocol import Event, EventKind, NicError
from vfd.policy.requests import Decision, Request, RequestKind, decide, granted

log = logging.getLogger("vfd.watch")

_LOOK_AGAIN = frozenset(
    {
        EventKind.LINK,
        EventKind.VF_RESET,
        EventKind.GUEST_COME,
        EventKind.GUEST_GONE,
        EventKind.DRIFT,
        EventKind.OVERRUN,
        EventKind.BACK,
    }
)
"""After these, what the NIC shows may differ from what the daemon last saw."""


def handle(service: Service, managed: Managed) -> int:
    """Deals with all that the NIC has to report. Returns how many repairs it made.

    Requests that came one after the other are answered together.
    """
    nic = managed.nic
    if nic is None:
        return 0
    try:
        events = nic.events()
    except NicError as error:
        service.journal.emit("failed", str(error), level="error", pf=managed.id)
        events = [Event(EventKind.OVERRUN, text=str(error))]
    if not events:
        return 0
    changed: set[int] = set()
    for are_requests, run in groupby(events, key=lambda event: event.request is not None):
        if are_requests:
            if changed:  # what a guest that is gone was granted may be asked for by another
                _look(service, managed, changed)
                changed = set()
            _answer(service, managed, [e.request for e in run if e.request is not None])
            continue
        for event in run:
            _tell(service, managed, event)
            if event.kind in (EventKind.GUEST_GONE, EventKind.VF_RESET) and event.vfid is not None:
                changed.add(event.vfid)
    kinds = {event.kind for event in events}
    if EventKind.LOST in kinds and EventKind.BACK not in kinds:
        return 0
    if EventKind.BACK in kinds:
        return _come_back(service, managed)
    if kinds & _LOOK_AGAIN:
        return _look_again(service, managed, kinds)
    return 0


def _tell(service: Service, managed: Managed, event: Event) -> None:
    kind = event.kind
    if kind in (EventKind.DRIFT, EventKind.OVERRUN):
        log.debug("%s: %s %s", managed.id, kind, event.text)
        return  # told once it is known what differs
    if kind is EventKind.GUEST_GONE and event.vfid is not None and managed.nic is not None:
        try:
            managed.nic.revoke(event.vfid)
        except NicError as error:
            service.journal.emit(
                "failed", str(error), level="error", pf=managed.id, vfid=event.vfid
            )
    if kind is EventKind.LOST:
        managed.condition = Condition.LOST
        managed.detail = event.text or "the PF is gone"
    service.journal.emit(
        str(kind),
        event.text or _WORDS.get(kind, str(kind)),
        level="error" if kind is EventKind.LOST else "info",
        pf=managed.id,
        vfid=event.vfid,
        name=service.name_of(managed, event.vfid),
    )


_WORDS = {
    EventKind.LINK: "the link changed",
    EventKind.VF_RESET: "the VF was reset",
    EventKind.GUEST_COME: "a guest took the VF",
    EventKind.GUEST_GONE: "the guest is gone: what it was granted is taken back",
    EventKind.LOST: "the PF is gone",
    EventKind.BACK: "the PF is there again",
}


def _look_again(service: Service, managed: Managed, kinds: set[EventKind]) -> int:
    if EventKind.DRIFT in kinds:
        found = "somebody else changed what the NIC enforces"
    elif EventKind.OVERRUN in kinds:
        found = "events were lost"
    else:
        found = "what the NIC enforces changed with its guest or its link"
    repair = bool(kinds & {EventKind.DRIFT, EventKind.OVERRUN})
    guests = kinds != {EventKind.DRIFT}  # else nobody came or went
    made = service.converge(managed, found=found, repair=repair, guests=guests)
    return max(made, 1) if repair else made


def _come_back(service: Service, managed: Managed) -> int:
    """The PF is there again, perhaps as new: everything is read and made again."""
    managed.condition, managed.detail = Condition.OK, ""
    _look(service, managed)
    if managed.aim is None:
        service.load()
        return 0
    made = judge_again(service, managed, "the PF came back without its policies")
    if managed.condition is not Condition.FAILED:  # else when it can be read again: see converge
        admit_waiting(service, managed)  # what it could not enforce as it was before, it may now
    return made


def _look(service: Service, managed: Managed, only: set[int] | None = None) -> None:
    try:
        managed.look(only)
    except NicError as error:
        managed.fail(error)
        service.journal.emit("failed", str(error), level="error", pf=managed.id)


def _answer(service: Service, managed: Managed, requests: list[Request]) -> None:
    """Decides requests in their order, each with what the ones before it were granted, and
    answers them at once: a guest that joins 60 groups costs one change of the NIC."""
    nic = managed.nic
    assert nic is not None
    answers = [*zip(requests, _decided(managed, requests), strict=True)]
    try:
        nic.answer(answers)
    except NicError as error:
        for request in requests:
            _say(
                service,
                managed,
                request,
                "failed",
                f"the guest's {_asked(request)} could not be answered: {error}",
                level="error",
            )
        return
    for request, decision in answers:
        word = "granted" if decision.granted else "refused"
        _say(
            service,
            managed,
            request,
            word,
            f"{_asked(request)} {word}: {decision.reason}",
            level="info" if decision.granted else "warning",
            request=str(request.kind),
            mac=request.mac,
            vid=request.vid,
            mtu=request.mtu,
            on=request.on,
            reason=decision.reason,
        )
    if got := {request.vfid for request, decision in answers if decision.granted}:
        _look(service, managed, got)


def _decided(managed: Managed, requests: list[Request]) -> list[Decision]:
    nic, seen = managed.nic, managed.seen
    if nic is None or managed.aim is None or seen is None:
        refused = Decision(False, f"{managed.id} isn't working: {managed.detail}")
        return [refused] * len(requests)
    grants = {vfid: vf.grants for vfid, vf in seen.vfs.items()}
    own_macs = {vfid: vf.mac for vfid, vf in seen.vfs.items() if vf.mac}
    limits = nic.capabilities
    decisions = []
    for request in requests:
        decision = decide(managed.aim.desired, grants, request, limits=limits, own_macs=own_macs)
        if decision.granted and request.vfid in grants:
            grants[request.vfid] = granted(grants[request.vfid], request)
        decisions.append(decision)
    return decisions


def _say(
    service: Service,
    managed: Managed,
    asked: Request,
    kind: str,
    text: str,
    *,
    level: Level,
    **more: Any,
) -> None:
    """Tells how a request was decided; of a guest that asks without end, only now and then."""
    untold = service.flood.untold((managed.id, asked.vfid))
    if untold is None:
        return
    if untold:
        text += f" (and {untold} more were decided and not told: this guest asks without end)"
        more["untold"] = untold
    service.journal.emit(
        kind,
        text,
        level=level,
        pf=managed.id,
        vfid=asked.vfid,
        name=service.name_of(managed, asked.vfid),
        **more,
    )


def _asked(request: Request) -> str:
    """The request in a few words: ``add-mac 02:00:00:00:00:05``."""
    match request.kind:
        case RequestKind.VLAN:
            return f"{request.kind} {request.vid}"
        case RequestKind.MTU:
            return f"{request.kind} {request.mtu}"
        case RequestKind.PROMISC | RequestKind.ALLMULTI:
            return f"{request.kind} {'on' if request.on else 'off'}"
    return f"{request.kind} {request.mac}"
