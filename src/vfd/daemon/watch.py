"""What NICs report: guests' requests are decided, drift is repaired, everything is told."""

from __future__ import annotations

import logging
from itertools import groupby
from typing import Any

from vfd.daemon.guests import answer, look
from vfd.daemon.loading import admit_waiting, judge_again
from vfd.daemon.managed import Condition, Managed
from vfd.daemon.service import Service
from vfd.nic.protocol import Event, EventKind, NicError

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


def handle(service: Service, managed: Managed, *, repair: bool = True) -> int:
    """Deals with all that the NIC has to report. Returns how many repairs it made.

    Requests that came one after the other are answered together. ``repair`` false: what somebody
    changed stays so until NICs in trouble are tried again.
    """
    nic = managed.nic
    if nic is None:
        return 0
    try:
        events = nic.events()
    except NicError as error:
        service.journal.emit("failed", str(error), level="error", pf=managed.id)
        events = [Event(EventKind.OVERRUN, text=str(error))]
    ours = [event for event in events if not _is_anothers(managed, event)]
    if len(ours) < len(events):
        events = ours
        look(service, managed)
    if not events:
        return 0
    changed: set[int] = set()
    for are_requests, run in groupby(events, key=lambda event: event.request is not None):
        if are_requests:
            if changed:  # what a guest that is gone was granted may be asked for by another
                look(service, managed, changed)
                changed = set()
            answer(service, managed, [e.request for e in run if e.request is not None])
            continue
        for event in run:
            _tell(service, managed, event)
            if event.kind in (EventKind.GUEST_GONE, EventKind.VF_RESET) and event.vfid is not None:
                changed.add(event.vfid)
    managed.wishes.are_listed = True
    kinds = {event.kind for event in events}
    if EventKind.DRIFT in kinds and not repair:
        kinds.remove(EventKind.DRIFT)
        managed.doubt("somebody else changes it again and again: repaired once a second")
    if EventKind.LOST in kinds and EventKind.BACK not in kinds:
        return 0
    if EventKind.BACK in kinds:
        return _come_back(service, managed)
    if kinds & _LOOK_AGAIN:
        return _look_again(service, managed, kinds)
    return 0


def _is_anothers(managed: Managed, event: Event) -> bool:
    """What another manager does to its VFs is no drift, and its guests are not answered."""
    vfid = event.request.vfid if event.request else event.vfid
    about_settings = event.kind in (EventKind.DRIFT, EventKind.REQUEST)
    return about_settings and vfid is not None and managed.is_left(vfid)


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
    if kind in (EventKind.GUEST_GONE, EventKind.VF_RESET) and event.vfid is not None:
        managed.wishes.forget(event.vfid)
    if kind is EventKind.LOST:
        managed.condition = Condition.LOST
        managed.detail = event.text or "the PF is gone"
    more: dict[str, Any] | None = {}
    if event.vfid is not None:  # its guest may come, go and reset it without end
        more = service.flood.fields((kind, managed.id, event.vfid))
    if more is None:
        return
    service.journal.emit(
        str(kind),
        event.text or _WORDS.get(kind, str(kind)),
        level="error" if kind is EventKind.LOST else "info",
        pf=managed.id,
        vfid=event.vfid,
        name=service.name_of(managed, event.vfid),
        **more,
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
    look(service, managed)
    if managed.aim is None:
        service.load()
        return 0
    made = judge_again(service, managed, "the PF came back without its policies")
    if managed.condition is not Condition.FAILED:  # else when it can be read again: see converge
        admit_waiting(service, managed)  # what it could not enforce as it was before, it may now
    return made
