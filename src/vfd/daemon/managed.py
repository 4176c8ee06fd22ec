"""One NIC under management: what is asked of it, what it shows, and the way between the two.

Everything here runs in the daemon's one writing thread and may block on the NIC.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from vfd.config.errors import Problem, shown
from vfd.daemon.callbacks import Owner
from vfd.daemon.door import admit, pf_shortfalls
from vfd.daemon.exclusive import Lock, lock_nic
from vfd.daemon.failures import RefusedError
from vfd.nic.discovery import address_of, open_nic
from vfd.nic.protocol import Link, Nic, NicError, NicGoneError, NicState, Support, VfState
from vfd.plan.changes import Change, PfChange, VfChange
from vfd.plan.plan import PF_FIELDS, Observed, plan
from vfd.policy.remarks import remarks
from vfd.policy.resolve import resolve
from vfd.policy.rules import Broken, check
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy, VfRules

log = logging.getLogger("vfd.nic")

DEFAULT_LINK = 10_000_000_000
"""Bits per second, for shares of a link whose speed nobody knows."""


class Condition(StrEnum):
    """How a PF is; the API's ``State`` has the same words."""

    OK = "ok"
    DRIFTED = "drifted"
    FAILED = "failed"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Configured:
    """A VF's configuration and the file that it is from."""

    policy: VfPolicy
    file: str
    """Below ``config_dir``."""
    owner: Owner
    remarks: tuple[str, ...] = ()
    """What reading the file warned of."""

    @property
    def stated(self) -> frozenset[str]:
        return frozenset(self.policy.model_fields_set)


@dataclass(frozen=True, slots=True)
class Aim:
    """What a NIC is to enforce, checked and worked out."""

    pf: PfPolicy
    vfs: Mapping[int, Configured]
    desired: NicPolicy
    scale: float
    warnings: Mapping[int | None, tuple[str, ...]]
    """By vfid; None: of the PF."""
    short: Mapping[int, tuple[str, ...]]
    """Those of the warnings that say what the NIC can't enforce."""


@dataclass(slots=True)
class Managed:
    """A PF of the main configuration. ``nic`` is None while it could not be opened."""

    pf: PfPolicy
    main_file: str
    condition: Condition = Condition.FAILED
    detail: str = "not opened yet"
    nic: Nic | None = None
    lock: Lock | None = None
    seen: NicState | None = None
    aim: Aim | None = None
    kept: dict[int, VfRules] = field(default_factory=dict)
    """VFs that stay open as they were found, because the file that may be theirs is bad."""
    unmet: dict[int | None, str] = field(default_factory=dict)
    """What the NIC doesn't enforce as asked although it was told to, with the reason."""

    @property
    def id(self) -> str:
        return self.pf.id

    @property
    def vfs(self) -> Mapping[int, Configured]:
        """The VFs that have a configuration in force, or asked for while the NIC fails."""
        return self.aim.vfs if self.aim else {}

    def is_called(self, device: str) -> bool:
        """Whether a VF file's ``pciid`` means this PF."""
        if device in (self.pf.id, self.nic.identity.address if self.nic else None):
            return True
        return address_of(device).lower() == address_of(self.pf.id).lower()

    # Opening and closing

    def open(self, holder: str) -> None:
        """Takes the NIC for this daemon and looks at it. Raises InUseError, NicError."""
        if self.lock is None:
            self.lock = lock_nic(address_of(self.pf.id), holder)
        try:
            self.nic = open_nic(self.pf)
            self.seen = self.nic.observe()
        except (NicError, OSError) as error:
            self._let_go_of_nic()
            self.fail(error)
            if isinstance(error, NicError):
                raise
            raise NicError(f"{self.pf.id} can't be opened: {error}") from error
        self.condition, self.detail = Condition.OK, ""

    def close(self) -> None:
        """Lets go of the NIC, which goes on enforcing."""
        self._let_go_of_nic()
        if self.lock is not None:
            self.lock.close()
            self.lock = None

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

    def working(self) -> Nic:
        """The NIC, or NicError with the reason why there is none."""
        if self.nic is None:
            raise NicError(f"{self.pf.id} isn't working: {self.detail}")
        return self.nic

    # What is asked

    def link_bps(self) -> int | None:
        """The link's speed; the last one known while it is down."""
        link: Link | None = self.seen.link if self.seen else None
        return (link.speed_bps if link else None) or self.pf.link_speed

    def aim_at(self, pf: PfPolicy, vfs: Mapping[int, Configured] | Sequence[Configured]) -> Aim:
        """Checks the whole state that is asked for, by every rule and against the NIC.

        A sequence may hold two configurations for one VF, which is then what it is refused for.
        Raises RefusedError; changes nothing.
        """
        nic = self.working()
        everyone = list(vfs.values() if isinstance(vfs, Mapping) else vfs)
        files = {c.policy.name: c.file for c in everyone}
        kept = self._kept_policies(pf)
        asked = NicPolicy.model_construct(
            pf=self._counted(pf), vfs=(*kept, *(c.policy for c in everyone))
        )
        capabilities, link_bps = nic.capabilities, self.link_bps()
        broken = [*check(asked, link_bps=link_bps, limits=capabilities)]
        # A VF that is kept stays as it is, whatever rule it breaks; others come after it.
        unasked = {vf.name for vf in kept} - files.keys()
        problems = [self._problem(one, files) for one in broken if one.vf not in unasked]
        warnings: dict[int | None, list[str]] = {None: []}
        for one in everyone:
            warnings.setdefault(one.policy.vfid, []).extend(one.remarks)
        for pf_shortfall in admit(
            pf, pf.model_fields_set, pf_shortfalls(pf, capabilities.pf), pf.strict
        ).refused:
            problems.append(
                Problem(
                    self.main_file, pf_shortfall.field, shown(pf_shortfall.value), pf_shortfall.rule
                )
            )
        resolved = resolve(asked, link_bps or DEFAULT_LINK)
        rules = {vf.vfid: vf for vf in resolved.nic.vfs}
        short = dict(self.aim.short) if self.aim else {}
        admitted = self._admitted_before(pf, resolved.nic)
        for one in everyone:
            if admitted.get(one.policy.vfid) is one:
                continue
            verdict = admit(
                one.policy, one.stated, nic.shortfalls(rules[one.policy.vfid].rules), pf.strict
            )
            short[one.policy.vfid] = verdict.warnings
            problems += [
                Problem(one.file, s.field, shown(s.value), s.rule) for s in verdict.refused
            ]
        if problems:
            raise RefusedError(problems)
        vfid_of = {c.policy.name: c.policy.vfid for c in everyone}
        for one in everyone:
            warnings[one.policy.vfid] += short.get(one.policy.vfid, ())
        for remark in remarks(asked, link_bps=link_bps):
            if (vfid := vfid_of.get(remark.vf)) is not None or not remark.vf:
                warnings[vfid].append(f"{remark.field}: {remark.rule}")
        return Aim(
            pf,
            {c.policy.vfid: c for c in everyone},
            resolved.nic,
            resolved.scale,
            {
                vfid: tuple(dict.fromkeys(texts)) if texts else ()
                for vfid, texts in warnings.items()
            },
            {one.policy.vfid: short.get(one.policy.vfid, ()) for one in everyone},
        )

    def _admitted_before(self, pf: PfPolicy, desired: NicPolicy) -> Mapping[int, Configured]:
        """VFs that passed the door as they are: what a NIC can enforce was not asked twice."""
        if self.aim is None or self.aim.pf != pf:
            return {}
        old = self.aim.desired.by_vfid()
        return {
            vf.vfid: self.aim.vfs[vf.vfid]
            for vf in desired.vfs
            if vf.vfid in self.aim.vfs and _same(old.get(vf.vfid), vf)
        }

    def _counted(self, pf: PfPolicy) -> PfPolicy:
        """With the number of VFs that the NIC has, where the configuration leaves it open."""
        if pf.vfs is None and self.seen is not None:
            return pf.model_copy(update={"vfs": len(self.seen.vfs)})
        return pf

    def _kept_policies(self, pf: PfPolicy) -> list[VfPolicy]:
        """Those of VFs that stay as they are; a VF that ``pf`` no longer has goes."""
        return [
            VfPolicy.model_construct(
                **{name: getattr(rules, name) for name in VfRules.model_fields},
                name=f"{self.pf.id}:{vfid}",
                pciid=self.pf.id,
                vfid=vfid,
            )
            for vfid, rules in self.kept.items()
            if pf.vfs is None or vfid < pf.vfs
        ]

    def _problem(self, broken: Broken, files: Mapping[str, str]) -> Problem:
        file = files.get(broken.vf, self.main_file if not broken.vf else broken.vf)
        return Problem(file, broken.field, shown(broken.value), broken.rule, broken.other_vf)

    # The way there

    def pf_fields(self) -> frozenset[str]:
        """The PF's attributes that this NIC has and that can be read back."""
        known = self.working().capabilities.pf
        return frozenset(
            f for f in PF_FIELDS if f in known and known[f].support is not Support.ABSENT
        ) | {"vfs"}

    def changes(
        self, aim: Aim, seen: NicState, only: Collection[int] | None = None
    ) -> tuple[Change, ...]:
        nic = self.working()
        return plan(
            aim.desired,
            Observed(seen.pf, {vfid: vf.rules for vfid, vf in seen.vfs.items()}),
            nic.expressible,
            pf_fields=self.pf_fields(),
            only=only,
        )

    def go(self, aim: Aim, *, force: bool = False) -> tuple[Change, ...]:
        """Makes ``aim`` true, wholly or not at all, and reads it back.

        ``force``: VFs may be taken from guests that hold them.
        Raises NicError with everything as it was (or says what could not be undone).
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
            nic.apply(aim.desired, changes)
            try:
                self.look(None if any(isinstance(c, PfChange) for c in changes) else only)
                left = self.changes(aim, self.seen, only)
                if left:
                    raise NicError(
                        f"{self.pf.id} took the change but shows something else: "
                        + differences(left)
                    )
            except NicError as error:
                self._undo(nic, before, changes, error)
        self.aim, self.pf = aim, aim.pf
        return changes

    def go_or_aim(self, aim: Aim) -> tuple[Change, ...]:
        """Makes ``aim`` true, or keeps it for when the NIC is back, if it is gone or fails.

        Raises NicError where a working NIC refuses.
        """
        try:
            if self.condition is not Condition.LOST:
                return self.go(aim)
        except NicGoneError as error:
            self.fail(error)
        except NicError:
            if self.condition is not Condition.FAILED:
                raise
        self.aim = aim
        return ()

    def _touched(self, aim: Aim) -> set[int] | None:
        """The VFs whose rules differ from those aimed at before; None: look at all of them."""
        if self.aim is None or self.condition is not Condition.OK:
            return None
        old, new = self.aim.desired.by_vfid(), aim.desired.by_vfid()
        return {v for v in old.keys() | new.keys() if not _same(old.get(v), new.get(v))}

    def _undo(
        self, nic: Nic, before: Aim | None, changes: Sequence[Change], error: NicError
    ) -> None:
        """Leads back to ``before`` and raises what went wrong."""
        inverses = [c.inverse() for c in reversed(changes)]
        back = [c for c in inverses if c is not None]
        try:
            if before is None:
                raise NicError("there is no earlier state")
            nic.apply(before.desired, back)
            self.seen = nic.observe()
        except NicError as second:
            self.condition, self.detail = Condition.DRIFTED, f"{error}; undoing it failed: {second}"
            raise NicError(f"{error}. It could not be undone: {second}") from error
        raise NicError(f"{error}. It was undone") from error

    def converge(
        self, *, repair: bool = False
    ) -> tuple[tuple[Change, ...], tuple[tuple[Change, str], ...]]:
        """Looks at the NIC and makes it what is aimed at, as far as it goes.

        ``repair``: the NIC knows of damage that ``observe`` may not show, and mends it in ``apply``
        even where no VF differs. Returns what was changed and what could not be, each with the
        reason. Raises NicError where the NIC can't be read.
        """
        nic = self.working()
        assert self.aim is not None
        try:
            self.seen = nic.observe()
        except NicError as error:
            self.fail(error)
            raise
        changes = self.changes(self.aim, self.seen)
        if not changes and not repair:
            self.condition, self.detail, self.unmet = Condition.OK, "", {}
            return (), ()
        failed: list[tuple[Change, str]] = []
        try:
            nic.apply(self.aim.desired, changes)
        except NicGoneError as error:
            self.fail(error)
            raise
        except NicError as error:
            # One bad change must not keep the others from being made.
            log.warning("%s refused all changes at once, trying one by one: %s", self.id, error)
            for change in changes:
                try:
                    nic.apply(self.aim.desired, [change])
                except NicError as reason:
                    failed.append((change, str(reason)))
        self.seen = nic.observe()
        left = self.changes(self.aim, self.seen)
        reasons = {_key(change): why for change, why in failed}
        failed = [
            (c, reasons.get(_key(c), "the NIC took it but shows something else")) for c in left
        ]
        self.unmet = {_key(change): why for change, why in failed}
        if failed:
            self.condition = Condition.DRIFTED
            self.detail = "; ".join(f"{_whose(c)}: {why}" for c, why in failed[:5])
        else:
            self.condition, self.detail = Condition.OK, ""
        done = tuple(c for c in changes if _key(c) not in {_key(f) for f, _ in failed})
        return done, tuple(failed)

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


def _same(one: VfPolicy | None, other: VfPolicy | None) -> bool:
    return one is other or one == other


def _key(change: Change) -> int | None:
    return change.vfid if isinstance(change, VfChange) else None


def _whose(change: Change) -> str:
    return f"VF {change.vfid}" if isinstance(change, VfChange) else "the PF"


def differences(changes: Sequence[Change]) -> str:
    """What is shown against what was asked, of the first few changes that were not made."""
    texts = []
    for change in changes[:3]:
        fields = ", ".join(
            f"{f} is {_shown_value(change.before, f)} and not {_shown_value(change.after, f)}"
            for f in change.fields[:4]
        )
        texts.append(f"{_whose(change)}: {fields}")
    return "; ".join(texts)


def _shown_value(rules: VfRules | PfPolicy | None, name: str) -> str:
    if rules is None:
        return "closed"
    return shown(rules.model_dump(mode="json", include={name}).get(name))
