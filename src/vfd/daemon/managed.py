"""One NIC under management: what is asked of it, what it shows, and the way between the two.

Everything here runs in the daemon's one writing thread and may block on the NIC.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from vfd.config.errors import Problem, shown
from vfd.config.fields import as_files_have_it
from vfd.daemon import steps
from vfd.daemon.aim import Aim, Configured
from vfd.daemon.door import admit, admit_pf, told_of_vfs
from vfd.daemon.exclusive import InUseError, Lock, lock_nic
from vfd.daemon.failures import RefusedError
from vfd.daemon.spared import with_spared
from vfd.nic.discovery import address_of, open_nic, remove_nic
from vfd.nic.protocol import Nic, NicError, NicGoneError, NicState, Support, VfState
from vfd.plan.changes import Change, PfChange
from vfd.plan.plan import PF_FIELDS, Observed, plan
from vfd.policy.remarks import remarks
from vfd.policy.resolve import resolve
from vfd.policy.rules import NOTHING_UNKNOWN, Broken, check
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy, VfRules
from vfd.policy.wishes import Wishes

log = logging.getLogger("vfd.nic")

DEFAULT_LINK = 10_000_000_000
"""Bits per second, for shares of a link whose speed nobody knows."""


class Condition(StrEnum):
    """How a PF is; the API's ``State`` has the same words."""

    OK = "ok"
    DRIFTED = "drifted"
    FAILED = "failed"
    LOST = "lost"


@dataclass(slots=True)
class Managed:
    """A PF of the main configuration. ``nic`` is None while it could not be opened."""

    pf: PfPolicy
    main_file: str
    condition: Condition = Condition.FAILED
    detail: str = "not opened yet"
    nic: Nic | None = None
    lock: Lock | None = None
    _locked: str = ""
    seen: NicState | None = None
    aim: Aim | None = None
    kept: dict[int, VfRules] = field(default_factory=dict)
    """VFs that stay open as they were found, because the file that may be theirs is bad."""
    unmet: dict[int | None, str] = field(default_factory=dict)
    """What the NIC doesn't enforce as asked although it was told to, with the reason."""
    refused: str = ""
    """Why the PF's own configuration is not in force."""
    unfollowed: str = ""
    """Why rates stay as they were for the link's last speed."""
    wishes: Wishes = field(default_factory=Wishes)
    """What guests asked for and were refused."""

    @property
    def id(self) -> str:
        return self.pf.id

    @property
    def vfs(self) -> Mapping[int, Configured]:
        """The VFs that have a configuration in force, or asked for while the NIC fails."""
        return self.aim.vfs if self.aim else {}

    def is_called(self, device: str) -> bool:
        """Whether a VF file's ``pciid`` means this PF."""
        nic = self.nic
        if device in (self.pf.id, nic.identity.address if nic else None):
            return True
        return address_of(device).lower() == address_of(self.pf.id).lower()

    # Opening and closing

    def open(self, holder: str) -> None:
        """Takes the NIC for this daemon and looks at it. Raises InUseError, NicError."""
        self._lock(address_of(self.pf.id), holder)
        try:
            self.nic = open_nic(self.pf)
            self._lock(self.nic.identity.address, holder)
            self.seen = self.nic.observe()
            self.wishes = Wishes()  # a NIC that is opened asks for all again
        except InUseError:
            self._let_go_of_nic()
            raise
        except (NicError, OSError) as error:
            self._let_go_of_nic()
            self.fail(error)
            if isinstance(error, NicError):
                raise
            raise NicError(f"{self.pf.id} can't be opened: {error}") from error
        self.condition, self.detail = Condition.OK, ""

    def hold(self, holder: str) -> None:
        """Holds its lock again where somebody removed the file. Raises InUseError."""
        if self.lock is not None and not self.lock.is_in_place():
            lock = lock_nic(self._locked, holder)
            self.lock.close()
            self.lock = lock

    def _lock(self, address: str, holder: str) -> None:
        """Locked is the device: while its driver is away, a netdev's name doesn't lead to it."""
        if self.lock is None or self._locked != address:
            lock = lock_nic(address, holder)
            if self.lock is not None:
                self.lock.close(remove=True)
            self.lock, self._locked = lock, address

    def close(self, *, for_good: bool = False) -> None:
        """Lets go of the NIC, which goes on enforcing. ``for_good``: it is no longer this daemon's,
        and its lock's file goes."""
        self._let_go_of_nic()
        if self.lock is not None:
            self.lock.close(remove=for_good)
            self.lock = None

    def remove(self) -> None:
        """Takes the software NIC away, with its VFs and counters. Raises NicError."""
        self._let_go_of_nic()
        self.fail(NicError("it is being removed"))
        for guest in self.guests():
            remove_nic(self.pf.model_copy(update={"guest": guest}))
        self.close(for_good=True)

    def guests(self) -> list[str]:
        """The kinds that its VFs may be for: its configuration may state another than it has."""
        shown = self.seen.pf if self.seen else None
        return sorted({self.pf.guest, "veth", *([shown.guest] if shown else [])})

    def _let_go_of_nic(self) -> None:
        if self.nic is not None:
            try:
                self.nic.close()
            except (NicError, OSError) as error:
                log.warning("closing %s: %s", self.pf.id, error)
            self.nic = None

    def fail(self, error: Exception) -> None:
        gone = isinstance(error, NicGoneError)
        self.condition = Condition.LOST if gone else Condition.FAILED
        self.detail = str(error)

    def doubt(self, why: str) -> None:
        """What it enforces is to be looked at again."""
        if self.condition is Condition.OK:
            self.condition, self.detail = Condition.DRIFTED, why

    def working(self) -> Nic:
        """The NIC, or NicError with the reason why there is none."""
        if self.nic is None:
            raise NicError(f"{self.pf.id} isn't working: {self.detail}")
        return self.nic

    # What is asked

    def link_bps(self) -> int | None:
        """The link's speed; the last one known while it is down."""
        now = self.seen.link.speed_bps if self.seen else None
        return now or (self.aim.link_bps if self.aim else None) or self.pf.link_speed

    def _speed_for(self, pf: PfPolicy) -> int | None:
        """What shares of the link are worked out for."""
        return pf.link_speed or self.link_bps()

    def aim_at(
        self,
        pf: PfPolicy,
        vfs: Mapping[int, Configured] | Sequence[Configured],
        *,
        unknown: Mapping[str, frozenset[str]] = NOTHING_UNKNOWN,
        anew: bool = False,
    ) -> Aim:
        """Checks the whole state that is asked for, by every rule and against the NIC.

        A sequence may hold two configurations for one VF, which is then what it is refused for.
        ``unknown``: by the VF's name, fields that could not be read, about which no rule is judged.
        ``anew``: what the NIC can enforce may have changed since it was last asked.
        Raises RefusedError; changes nothing.
        """
        nic = self.working()
        everyone = list(vfs.values() if isinstance(vfs, Mapping) else vfs)
        files = {c.policy.name: c.file for c in everyone}
        kept = self._kept_policies(pf, everyone)
        asked = NicPolicy.model_construct(
            pf=self._counted(pf), vfs=(*kept, *(c.policy for c in everyone))
        )
        capabilities, link_bps = nic.capabilities, self._speed_for(pf)
        in_force = self._in_force(everyone)
        broken = check(
            asked, link_bps=link_bps, limits=capabilities, in_force=in_force, unknown=unknown
        )
        # A VF that is kept stays as it is, whatever rule it breaks; others come after it.
        unasked = {vf.name for vf in kept} - files.keys()
        problems = [self._problem(one, files) for one in broken if one.vf not in unasked]
        warnings: dict[int | None, list[str]] = {None: []}
        for one in everyone:
            warnings.setdefault(one.policy.vfid, []).extend(one.remarks)
        verdict = admit_pf(pf, capabilities.pf, nic.identity.backend)
        problems += [
            Problem(self.main_file, s.field, shown(s.value), s.rule) for s in verdict.refused
        ]
        warnings[None] += verdict.warnings
        resolved = resolve(asked, link_bps or DEFAULT_LINK)
        rules = {vf.vfid: vf for vf in resolved.nic.vfs}
        short = dict(self.aim.short) if self.aim else {}
        admitted = {} if anew else self._admitted_before(pf, resolved.nic)
        for one in everyone:
            if admitted.get(one.policy.vfid) is one:
                continue
            verdict = admit(
                one.policy, one.stated, nic.shortfalls(rules[one.policy.vfid].rules), pf.strict
            )
            short[one.policy.vfid] = verdict.warnings
            problems += [
                Problem(one.file, s.field, shown(s.value), s.rule)
                for s in verdict.refused
                if s.field not in unknown.get(one.policy.name, ())
            ]
        if problems:
            raise RefusedError(as_files_have_it(problems, {c.file: c.written for c in everyone}))
        for one in everyone:
            warnings[one.policy.vfid] += short.get(one.policy.vfid, ())
        about = remarks(asked, link_bps=link_bps, backend=nic.identity.backend)
        for vfid, text in told_of_vfs(about, everyone):
            warnings[vfid].append(text)
        return Aim(
            pf,
            {c.policy.vfid: c for c in everyone},
            resolved.nic,
            resolved.scale,
            resolved.class_scale,
            link_bps,
            {
                vfid: tuple(dict.fromkeys(texts)) if texts else ()
                for vfid, texts in warnings.items()
            },
            {one.policy.vfid: short.get(one.policy.vfid, ()) for one in everyone},
            self.aim.to_close(resolved.nic, self.is_closed) if self.aim else frozenset(),
        )

    def _settle(self, nic: Nic, aim: Aim) -> None:
        """VFs that closed are closed: where those without a configuration are left, so are they."""
        self.aim = aim.settled(self.is_closed)
        nic.manage(self.aim.ours())

    def is_left(self, vfid: int) -> bool:
        """Whether the VF is another manager's: it has no configuration, and such VFs are left."""
        ours = self.aim.ours() if self.aim else None
        return ours is not None and vfid not in ours

    def _admitted_before(self, pf: PfPolicy, desired: NicPolicy) -> Mapping[int, Configured]:
        """VFs that passed the door as they are: what a NIC can enforce was not asked twice."""
        if self.aim is None or self.aim.pf != pf:
            return {}
        old = self.aim.desired.by_vfid()
        return {
            vf.vfid: self.aim.vfs[vf.vfid]
            for vf in desired.vfs
            if vf.vfid in self.aim.vfs and steps.same(old.get(vf.vfid), vf)
        }

    def _in_force(self, asked: Sequence[Configured]) -> list[VfPolicy]:
        """The VFs' policies until now: at start, those of the VFs that are open already."""
        known = list(self.vfs.values())
        if self.aim is None:
            known = [one for one in asked if not self.is_closed(one.policy.vfid)]
        return [*self._kept_policies(self.pf, known), *(one.policy for one in known)]

    def _counted(self, pf: PfPolicy) -> PfPolicy:
        """With the number of VFs that the NIC has, where the configuration leaves it open."""
        if pf.vfs is None and self.seen is not None:
            return pf.model_copy(update={"vfs": len(self.seen.vfs)})
        return pf

    def _kept_policies(self, pf: PfPolicy, configured: Collection[Configured]) -> list[VfPolicy]:
        """Those of VFs that stay as they are. One that is configured now is no longer kept, and one
        that ``pf`` no longer has goes."""
        claimed = {one.policy.vfid for one in configured}
        return [
            steps.without_file(self.pf, vfid, rules)
            for vfid, rules in self.kept.items()
            if vfid not in claimed and (pf.vfs is None or vfid < pf.vfs)
        ]

    def _problem(self, broken: Broken, files: Mapping[str, str]) -> Problem:
        file = files.get(broken.vf, self.main_file if not broken.vf else broken.vf)
        return Problem(file, broken.field, shown(broken.value), broken.rule, broken.other_vf)

    # The way there

    def make_vfs(self, pf: PfPolicy) -> None:
        """Makes the VFs that ``pf`` asks for, closed, where the NIC shows only with VFs what it can
        enforce on them. Raises NicError; there are then none, as before."""
        nic = self.working()
        has = nic.capabilities
        if self.seen is None or self.seen.pf is None or not has.more_with_vfs:
            return
        if pf.vfs and pf.vfs <= has.max_vfs:
            more = self.seen.pf.model_copy(update={"vfs": pf.vfs, "vf_driver": pf.vf_driver})
            nic.apply(NicPolicy(pf=more), (PfChange(self.seen.pf, more),))
            self.seen = nic.observe()

    def pf_fields(self) -> frozenset[str]:
        """The PF's attributes that something on this NIC has, and that can be read back."""
        known = self.working().capabilities.pf
        return frozenset(
            f
            for f in PF_FIELDS
            if f in known and known[f].support is not Support.ABSENT and known[f].by
        ) | {"vfs"}

    def changes(
        self, aim: Aim, seen: NicState, only: Collection[int] | None = None
    ) -> tuple[Change, ...]:
        nic = self.working()
        return plan(
            with_spared(nic, aim, seen),
            Observed(seen.pf, {vfid: vf.rules for vfid, vf in seen.vfs.items()}),
            nic.expressible,
            pf_fields=self.pf_fields(),
            only=only,
            ours=aim.ours(),
        )

    def go(self, aim: Aim, *, force: bool = False) -> tuple[Change, ...]:
        """Makes ``aim`` true, wholly or not at all, and reads it back.

        ``force``: VFs may be taken from guests that hold them.
        Raises NicError with everything as it was (or says what could not be undone); RefusedError,
        likewise, where the NIC can't enforce a VF's policy now that its PF is another.
        """
        nic = self.working()
        assert self.seen is not None
        only = self._touched(aim)
        before, seen_before = self.aim, self.seen
        changes = self.changes(aim, seen_before, only)
        if force:
            changes = tuple(
                replace(c, force=True) if isinstance(c, PfChange) else c for c in changes
            )
        if changes:
            nic.manage(aim.ours())
            nic.apply(with_spared(nic, aim, seen_before), changes)
            pf_changed = any(isinstance(c, PfChange) for c in changes)
            if pf_changed:
                only = None  # every VF may show something else now
            try:
                self.look(only)
                if pf_changed:
                    aim = self.aim_at(aim.pf, aim.vfs, anew=True)
                left = self.changes(aim, self.seen, only)
                if left:
                    raise NicError(
                        f"{self.pf.id} took the change but shows something else: "
                        + steps.differences(left)
                    )
            except (NicError, RefusedError) as error:
                self._undo(nic, before, changes, error)
            self._met(only)
        self.pf = aim.pf
        self._settle(nic, aim)
        return changes

    def go_or_aim(self, aim: Aim) -> tuple[Change, ...]:
        """Makes ``aim`` true, or keeps it for when the NIC is back, if it is gone or fails.

        Raises NicError where a working NIC refuses.
        """
        failed = self.condition is Condition.FAILED
        try:
            if failed:
                self.look()  # what can't be read back is better not written
            if self.condition is not Condition.LOST:
                return self.go(aim)
        except NicGoneError as error:
            self.fail(error)
        except NicError as error:
            if not failed:
                raise
            self.fail(error)
        self.aim = aim
        return ()

    def _touched(self, aim: Aim) -> set[int] | None:
        """The VFs whose rules differ from those aimed at before; None: look at all of them.

        A VF that the NIC can't serve as asked must not fail what is asked of others."""
        known = self.unmet and None not in self.unmet
        if self.aim is None or not (
            self.condition is Condition.OK or (self.condition is Condition.DRIFTED and known)
        ):
            return None
        old, new = self.aim.desired.by_vfid(), aim.desired.by_vfid()
        return {v for v in old.keys() | new.keys() if not steps.same(old.get(v), new.get(v))}

    def _met(self, only: Collection[int] | None) -> None:
        """These VFs (None: all, and the PF) were read back as asked."""
        self.unmet = {} if only is None else {v: w for v, w in self.unmet.items() if v not in only}
        if self.condition is Condition.DRIFTED and not self.unmet:
            self.condition, self.detail = Condition.OK, ""

    def _undo(
        self,
        nic: Nic,
        before: Aim | None,
        changes: Sequence[Change],
        error: NicError | RefusedError,
    ) -> None:
        """Leads back to ``before`` and raises what went wrong."""
        inverses = [c.inverse() for c in reversed(changes)]
        back = [c for c in inverses if c is not None]
        try:
            if before is None:
                raise NicError("there is no earlier state")
            nic.apply(before.desired, back)
            nic.manage(before.ours())
            self.seen = nic.observe()
            touched = {steps.vfid_of(change) for change in changes}
            left = [c for c in self.changes(before, self.seen) if steps.vfid_of(c) in touched]
            if left:
                raise NicError(steps.differences(left))
        except NicError as second:
            self.condition, self.detail = Condition.DRIFTED, f"{error}; undoing it failed: {second}"
            raise NicError(f"{error}. It could not be undone: {second}") from error
        if isinstance(error, RefusedError):
            raise error
        raise NicError(f"{error}. It was undone") from error

    def converge(
        self, *, repair: bool = False, guests: bool = True
    ) -> tuple[tuple[Change, ...], tuple[tuple[Change, str], ...]]:
        """Looks at the NIC and makes it what is aimed at, as far as it goes.

        ``repair``: the NIC knows of damage that ``observe`` may not show, and mends it in ``apply``
        even where no VF differs. Who holds the VFs is then not looked at before that is done, and
        with ``guests`` false not afterwards either. Returns what was changed and what could not be,
        each with the reason. Raises NicError where the NIC can't be read.
        """
        nic = self.working()
        assert self.aim is not None
        nic.manage(self.aim.ours())
        self.seen = self._observed(nic, guests=not repair)
        self.aim = self._recounted(self._followed(self.aim), self.seen)
        changes, desired = self.changes(self.aim, self.seen), with_spared(nic, self.aim, self.seen)
        if not changes and not repair:
            self.condition, self.detail, self.unmet = Condition.OK, "", {}
            self._settle(nic, self.aim)
            return (), ()
        failed: list[tuple[Change, str]] = []
        try:
            nic.apply(desired, changes)
        except NicGoneError as error:
            self.fail(error)
            raise
        except NicError as error:
            # One bad change must not keep the others from being made.
            log.warning("%s refused all changes at once, trying one by one: %s", self.id, error)
            failed = steps.one_by_one(nic, desired, changes)
        self.seen = self._observed(nic, guests=guests)
        left = self.changes(self.aim, self.seen)
        self._settle(nic, self.aim)
        reasons = {steps.vfid_of(change): why for change, why in failed}
        failed = [
            (c, reasons.get(steps.vfid_of(c), "the NIC took it but shows something else"))
            for c in left
        ]
        self.unmet = {steps.vfid_of(change): why for change, why in failed}
        if failed:
            self.condition = Condition.DRIFTED
            self.detail = "; ".join(f"{steps.whose(c)}: {why}" for c, why in failed[:5])
        else:
            self.condition, self.detail = Condition.OK, ""
        done = tuple(
            c for c in changes if steps.vfid_of(c) not in {steps.vfid_of(f) for f, _ in failed}
        )
        return done, tuple(failed)

    def _observed(self, nic: Nic, *, guests: bool) -> NicState:
        try:
            return nic.observe(guests=guests)
        except NicError as error:
            self.fail(error)
            raise

    def _followed(self, aim: Aim) -> Aim:
        """Shares of the link follow its speed, and guarantees that no longer fit are scaled. Every
        look is asked, for the event of a speed that changed may be lost."""
        self.unfollowed = ""
        if self.refused or self._speed_for(aim.pf) == aim.link_bps:
            return aim
        counted = aim.pf.model_copy(update={"vfs": aim.desired.pf.vfs})
        try:
            return replace(self.aim_at(counted, aim.vfs), pf=aim.pf)
        except (NicError, RefusedError) as error:
            self.unfollowed = str(error)
            return aim

    def _recounted(self, aim: Aim, seen: NicState) -> Aim:
        """Where the configuration leaves the number of VFs open it is the NIC's, as long as all
        that are configured are among them."""
        count = len(seen.vfs)
        if aim.pf.vfs is not None or not all(vfid < count for vfid in aim.vfs):
            return aim
        pf = aim.desired.pf.model_copy(update={"vfs": count})
        return replace(aim, desired=aim.desired.model_copy(update={"pf": pf}))

    # What it shows

    def look(self, only: Collection[int] | None = None) -> None:
        """Looks at the NIC again, or at these VFs of it. Raises NicError."""
        seen = self.working().observe(only)
        if only is not None and self.seen is not None:
            others = {v: state for v, state in self.seen.vfs.items() if v not in only}
            seen = replace(seen, vfs=dict(sorted({**others, **seen.vfs}.items())))
        self.seen = seen

    def vf_state(self, vfid: int) -> VfState | None:
        return self.seen.vfs.get(vfid) if self.seen else None

    def is_closed(self, vfid: int) -> bool:
        state = self.vf_state(vfid)
        if state is None or state.rules is None:
            return True
        return self.nic is not None and state.rules == self.nic.expressible(vfid, None)

    def shows(self, policy: VfPolicy) -> bool:
        """Whether the NIC enforces this policy now, as far as that doesn't hang on other VFs."""
        state = self.vf_state(policy.vfid)
        if self.nic is None or state is None or state.rules is None:
            return False
        alone = NicPolicy.model_construct(pf=self._counted(self.pf), vfs=(policy,))
        wanted = resolve(alone, self.link_bps() or DEFAULT_LINK).nic.vfs[0].rules
        expected = self.nic.expressible(policy.vfid, wanted)
        shared = {name: getattr(state.rules, name) for name in ("min_rate", "queues")}
        return expected is not None and expected.model_copy(update=shared) == state.rules
