"""What NICs report: guests' requests are decided, drift is repaired, everything is told."""

from __future__ import annotations

import logging
from dataclasses import replace

from vfd.daemon.managed import Condition, Managed
from vfd.daemon.service import Service
from vfd.nic.protocol import Event, EventKind, NicError
from vfd.policy.requests import Decision, Grants, Request, RequestKind, decide, granted

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

    The requests of one batch are decided in their order, each with what the ones before it were
    granted; then the NIC is looked at once.
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
    asked = False
    for event in events:
        if event.kind is EventKind.REQUEST and event.request is not None:
            asked |= _answer(service, managed, event.request)
        else:
            _tell(service, managed, event)
    kinds = {event.kind for event in events}
    if EventKind.LOST in kinds and EventKind.BACK not in kinds:
        return 0
    if EventKind.BACK in kinds:
        return _come_back(service, managed)
    if kinds & _LOOK_AGAIN:
        return _look_again(service, managed, kinds)
    if asked:
        _look(service, managed)
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
    if EventKind.LINK in kinds:
        _follow_speed(managed)
    if EventKind.DRIFT in kinds:
        found = "somebody else changed what the NIC enforces"
    elif EventKind.OVERRUN in kinds:
        found = "events were lost"
    else:
        found = "what the NIC enforces changed with its guest or its link"
    repair = bool(kinds & {EventKind.DRIFT, EventKind.OVERRUN})
    made = service.converge(managed, found=found, repair=repair)
    return max(made, 1) if repair else made


def _follow_speed(managed: Managed) -> None:
    """Shares of the link follow its speed."""
    if managed.nic is None or managed.aim is None or managed.seen is None:
        return
    link = managed.nic.link()
    if link.speed_bps not in (None, managed.link_bps()):
        managed.seen = managed.nic.observe()
        managed.aim = managed.aim_at(managed.aim.pf, managed.aim.vfs)


def _come_back(service: Service, managed: Managed) -> int:
    """The PF is there again, perhaps as new: everything is read and made again."""
    managed.condition, managed.detail = Condition.OK, ""
    _look(service, managed)
    if managed.aim is None:
        service.load(starting=True)
        return 0
    return service.converge(managed, found="the PF came back without its policies")


def _look(service: Service, managed: Managed) -> None:
    assert managed.nic is not None
    try:
        managed.seen = managed.nic.observe()
    except NicError as error:
        managed.fail(error)
        service.journal.emit("failed", str(error), level="error", pf=managed.id)


def _answer(service: Service, managed: Managed, request: Request) -> bool:
    """Decides and answers one request. True: something was granted."""
    nic, seen = managed.nic, managed.seen
    assert nic is not None
    if managed.aim is None or seen is None:
        decision = Decision(False, f"{managed.id} isn't working: {managed.detail}")
    else:
        grants = {vfid: vf.grants for vfid, vf in seen.vfs.items()}
        own_macs = {vfid: vf.mac for vfid, vf in seen.vfs.items() if vf.mac}
        decision = decide(
            managed.aim.desired, grants, request, limits=nic.capabilities, own_macs=own_macs
        )
    try:
        nic.answer(request, decision)
    except NicError as error:
        service.journal.emit(
            "failed",
            f"the guest's {_asked(request)} could not be answered: {error}",
            level="error",
            pf=managed.id,
            vfid=request.vfid,
            name=service.name_of(managed, request.vfid),
        )
        return False
    word = "granted" if decision.granted else "refused"
    service.journal.emit(
        word,
        f"{_asked(request)} {word}: {decision.reason}",
        level="info" if decision.granted else "warning",
        pf=managed.id,
        vfid=request.vfid,
        name=service.name_of(managed, request.vfid),
        request=str(request.kind),
        mac=request.mac,
        vid=request.vid,
        mtu=request.mtu,
        on=request.on,
        reason=decision.reason,
    )
    if decision.granted and seen is not None and (state := seen.vfs.get(request.vfid)):
        _remember(managed, request, state.grants)
    return decision.granted


def _remember(managed: Managed, request: Request, grants: Grants) -> None:
    """So that the next request of the same batch is decided with this one granted."""
    assert managed.seen is not None
    state = managed.seen.vfs[request.vfid]
    state = replace(state, grants=granted(grants, request))
    managed.seen = replace(managed.seen, vfs={**managed.seen.vfs, request.vfid: state})


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
