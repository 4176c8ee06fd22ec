"""What guests ask for: decided at once, and what was refused again whenever that may be gone."""

from __future__ import annotations

from typing import Any

from vfd.daemon.journal import Level
from vfd.daemon.managed import Managed
from vfd.daemon.service import Service
from vfd.nic.protocol import NicError
from vfd.policy.requests import Decision, Request, RequestKind, in_words
from vfd.policy.wishes import Judge, grantable


def answer(service: Service, managed: Managed, requests: list[Request]) -> None:
    """Decides requests in their order, each with what the ones before it were granted, and
    answers them at once: a guest that joins 60 groups costs one change of the NIC."""
    nic = managed.nic
    assert nic is not None
    judge = _judge(managed)
    answers: list[tuple[Request, Decision]] = []
    moved: list[bool] = []
    """Whether each of them changes what its guest has."""
    for request in requests:
        if judge is None:
            decision = Decision(False, f"{managed.id} isn't working: {managed.detail}")
        else:
            has = judge.grants.get(request.vfid)
            decision = judge.decide(request)
            moved.append(has is None or has != judge.grants[request.vfid])
        answers.append((request, decision))
    try:
        nic.answer(answers)
    except NicError as error:
        for request in requests:
            managed.wishes.note(request, Decision(False, f"it could not be answered: {error}"))
            _failed(service, managed, request, error)
        return
    for n, (request, decision) in enumerate(answers):
        basis = judge.basis(request) if judge and not decision.granted else None
        news = managed.wishes.note(request, decision, basis)
        if decision.granted:
            news = news or moved[n] or request.kind is RequestKind.VLAN
        elif not managed.wishes.are_listed and request.vfid not in managed.vfs:
            news = False  # a guest that holds a closed VF as the daemon starts: nothing happened
        if news:
            _tell(service, managed, request, decision)
    if got := {request.vfid for request, decision in answers if decision.granted}:
        look(service, managed, got)


def decide_again(service: Service) -> None:
    """Grants what was refused before and no longer is. To be called after everything that may
    have given something back or changed a policy: it sees for itself whether that is so."""
    for managed in list(service.nics.values()):
        if managed.aim and managed.wishes.are_due(managed.aim.desired, managed.seen):
            _decide_again(service, managed)


def _decide_again(service: Service, managed: Managed) -> None:
    nic, judge = managed.nic, _judge(managed)
    if nic is None or judge is None or managed.seen is None or managed.aim is None:
        return
    managed.wishes.keep(managed.seen.vfs)
    found = list(grantable(managed.wishes, judge))
    if answers := [(wish.request, decision) for wish, decision in found if decision.granted]:
        try:
            nic.answer(answers)
        except NicError as error:
            for request, _ in answers:
                _failed(service, managed, request, error)
            return
        look(service, managed, {request.vfid for request, _ in answers})
    for wish, decision in found:
        if decision.granted:
            managed.wishes.note(wish.request, decision)
        if decision.granted or wish.request.vfid in managed.vfs:
            _tell(service, managed, wish.request, decision, wished=True)
    managed.wishes.decided(managed.aim.desired, managed.seen)


def _judge(managed: Managed) -> Judge | None:
    nic, seen = managed.nic, managed.seen
    if nic is None or managed.aim is None or seen is None:
        return None
    return Judge(
        managed.aim.desired,
        {vfid: vf.grants for vfid, vf in seen.vfs.items()},
        {vfid: vf.mac for vfid, vf in seen.vfs.items() if vf.mac},
        nic.capabilities,
    )


def look(service: Service, managed: Managed, only: set[int] | None = None) -> None:
    """Looks at the NIC, or at these VFs of it; that it can't be read is told."""
    try:
        managed.look(only)
    except NicError as error:
        managed.fail(error)
        service.journal.emit("failed", str(error), level="error", pf=managed.id)


def _tell(
    service: Service,
    managed: Managed,
    request: Request,
    decision: Decision,
    *,
    wished: bool = False,
) -> None:
    word = "granted" if decision.granted else "refused"
    since = ", which was refused before" if wished and decision.granted else ""
    _say(
        service,
        managed,
        request,
        word,
        f"{in_words(request)} {word}{since}: {decision.reason}",
        level="info" if decision.granted else "warning",
        request=str(request.kind),
        mac=request.mac,
        vid=request.vid,
        mtu=request.mtu,
        on=request.on,
        reason=decision.reason,
    )


def _failed(service: Service, managed: Managed, request: Request, error: NicError) -> None:
    text = f"the guest's {in_words(request)} could not be answered: {error}"
    _say(service, managed, request, "failed", text, level="error")


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
