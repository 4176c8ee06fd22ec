"""What the daemon knows, as the API's messages. Called in the writing thread."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import vfd
from vfd.api import schema
from vfd.api.differing import differences, scaled
from vfd.config.errors import Problem
from vfd.daemon.aim import Configured
from vfd.daemon.files import BadFile
from vfd.daemon.journal import Happening
from vfd.daemon.managed import Condition, Managed
from vfd.daemon.request import Made
from vfd.daemon.service import Service
from vfd.daemon.spared import spared
from vfd.nic.protocol import BESIDE, COUNTERS, PF_PORT, Capability, NicError, Support, VfState
from vfd.plan.changes import Change, PfChange
from vfd.plan.plan import field_values
from vfd.policy.addresses import vlan_ranges
from vfd.policy.requests import Grants, in_words
from vfd.policy.values import PfPolicy, VfPolicy, VfRules

NOTHING_EDITED: Mapping[str, str] = {}


def problems(found: Iterable[Problem]) -> list[schema.Problem]:
    return [
        schema.Problem(file=p.file, field=p.field, value=p.value, rule=p.rule, other=p.other or "")
        for p in found
    ]


def bad_files(service: Service, pf: str | None = None) -> list[schema.BadFile]:
    found = []
    for bad in list(service.bad.values()):
        home = service.home(bad.device) if bad.device else None
        if pf is None or (home is not None and home.id == pf):
            found.append(_bad_file(bad, home))
    return found


def _bad_file(bad: BadFile, home: Managed | None) -> schema.BadFile:
    return schema.BadFile(
        file=bad.file,
        problems=problems(bad.problems),
        pf=home.id if home else bad.device,
        vfid=bad.vfid,
    )


def health(service: Service, edited: Mapping[str, str] = NOTHING_EDITED) -> schema.Health:
    pfs = _pfs(service)
    bad = bad_files(service)
    well = not bad and all(pf.state is schema.State.OK for pf in pfs)
    return schema.Health(
        status="ok" if well else "degraded",
        version=vfd.__version__,
        pid=os.getpid(),
        uptime=round(time.time() - service.started, 3),
        pfs=pfs,
        bad_files=bad,
        edited=sorted(edited),
    )


def reloaded(service: Service) -> schema.Reloaded:
    count = sum(len(managed.vfs) for managed in service.nics.values())
    return schema.Reloaded(vfs=count, pfs=_pfs(service), bad_files=bad_files(service))


def _pfs(service: Service) -> list[schema.PfHealth]:
    return [
        schema.PfHealth(
            id=m.id,
            state=schema.State(m.condition.value),
            detail=m.detail,
            not_managed=[vfid for vfid in _vfids(m) if m.is_left(vfid)],
        )
        for m in list(service.nics.values())
    ]


# PFs


def pf(service: Service, managed: Managed) -> schema.PfAnswer:
    nic, seen = managed.nic, managed.seen
    identity = nic.identity if nic else None
    policy = managed.aim.desired.pf if managed.aim else managed.pf
    return schema.PfAnswer(
        id=managed.id,
        backend=identity.backend if identity else managed.pf.backend or "",
        address=identity.address if identity else managed.id,
        model=identity.model if identity else "",
        driver=identity.driver if identity else "",
        firmware=identity.firmware if identity else "",
        numa_node=identity.numa_node if identity else None,
        state=schema.State(managed.condition.value),
        detail=managed.detail,
        link_up=bool(seen and seen.link.up),
        speed=seen.link.speed_bps if seen else None,
        vfs=len(seen.vfs) if seen else 0,
        configured=len(managed.vfs),
        counters=_counters(service, managed).get(PF_PORT, {}),
        scale=managed.aim.scale if managed.aim else 1.0,
        class_scale=dict(managed.aim.class_scale) if managed.aim else {},
        mirrors=len(mirrors(managed)),
        policy=policy.model_dump(mode="json"),
        warnings=_warnings(managed, None),
    )


def _counters(service: Service, managed: Managed) -> dict[int, dict[str, int]]:
    """Since the last ``clear``, in the order of listings; empty while the NIC can't be read."""
    if managed.nic is None:
        return {}
    try:
        counters = managed.nic.counters()
    except NicError:
        return {}
    return {
        port: service.zero.shown(managed.id, port, _in_order(values))
        for port, values in counters.items()
    }


def _in_order(values: Mapping[str, int]) -> dict[str, int]:
    return {name: values[name] for name in COUNTERS if name in values}


def _warnings(managed: Managed, vfid: int | None) -> list[str]:
    found = list(managed.aim.warnings.get(vfid, ())) if managed.aim else []
    if (why := managed.unmet.get(vfid)) is not None:
        found.append(f"not as asked: {why}")
    if vfid is None and managed.seen and managed.seen.link.why:
        found.append(managed.seen.link.why)
    if vfid is None and managed.nic is not None and (use := managed.nic.capabilities.host_use):
        found.append(
            f"this host's own network hangs on it ({use}): a change of its VFs or its switch may"
            " cut that off for seconds"
        )
    if vfid is None and managed.nic is not None and managed.aim and managed.seen:
        found += [
            f"{field} is {json.dumps(value)} as it was found: nobody states it, and a change would"
            " disturb guests that hold VFs, or this host's own network; state it to have it changed"
            for field, value in spared(managed.nic, managed.aim.pf, managed.seen).items()
        ]
    if vfid is not None and (wished := _ungranted(managed, vfid)):
        found.append(wished)
    if vfid is not None and vfid in managed.kept:
        found.append("open although no configuration of it can be read: left as it was found")
    if vfid is not None and vfid in managed.vfs:
        found += _shared_with_others(managed, managed.vfs[vfid].policy)
    if vfid is not None and managed.nic is not None and _is_shut(managed, vfid):
        closed = managed.nic.capabilities.closed
        if closed.support is not Support.ENFORCED:
            found.append(f"not wholly closed: {closed.consequence} ({closed.limit})")
    return found


def _shared_with_others(managed: Managed, policy: VfPolicy) -> list[str]:
    """MACs of a VF that VFs which another manager has wear, too."""
    ours = managed.aim.ours() if managed.aim else None
    if ours is None or managed.seen is None:
        return []
    mine = {policy.vm_mac, *policy.macs} - {None}
    return [
        f"VF {vfid}, which is not managed here, has the MAC {state.mac} of this VF, too"
        for vfid, state in managed.seen.vfs.items()
        if state.mac in mine and vfid not in ours
    ]


def _is_shut(managed: Managed, vfid: int) -> bool:
    """Whether vfd closed the VF."""
    return managed.is_closed(vfid) and not managed.is_left(vfid)


def caps(managed: Managed) -> schema.CapsAnswer:
    known = managed.working().capabilities
    return schema.CapsAnswer(
        pf=managed.id,
        backend=managed.working().identity.backend,
        vf=[
            *(_capability(f, known.vf.get(f)) for f in VfRules.model_fields),
            _capability("closed", known.closed),
            *(_capability(rule, known.beside.get(rule)) for rule in BESIDE),
        ],
        pf_attributes=[
            _capability(f, known.pf.get(f))
            for f in PfPolicy.model_fields
            if f not in ("id", "backend", "strict", "default_mtu")
        ],
        device=[_capability(name, found) for name, found in sorted(known.device.items())],
        counters=[c for c in COUNTERS if c in known.counters],
        absent_counters=[c for c in COUNTERS if c not in known.counters],
        counter_limits={c: known.counter_limits[c] for c in COUNTERS if c in known.counter_limits},
        uncounted=known.uncounted,
        max_vfs=known.max_vfs,
        max_vlans=known.max_vlans,
        max_macs=known.max_macs,
        max_groups=known.max_groups,
        max_mirrors=known.max_mirrors,
    )


def _capability(attribute: str, found: Capability | None) -> schema.CapabilityAnswer:
    if found is None:
        found = Capability(Support.ABSENT, reason="nothing on this NIC provides it")
    return schema.CapabilityAnswer(
        attribute=attribute,
        support=found.support.value,
        by=found.by,
        limit=found.limit,
        reason=found.reason,
        consequence=found.consequence,
    )


# The operator's table


def show(
    service: Service,
    pf: str | None,
    vf: int | None,
    extended: bool,
    edited: Mapping[str, str] = NOTHING_EDITED,
) -> schema.Show:
    """A row for each PF and below it one for each of its VFs."""
    nics = [service.nic(pf)] if pf is not None else list(service.nics.values())
    rows: list[schema.Row] = []
    for managed in nics:
        counters = _counters(service, managed)
        copies = mirrors(managed) if extended else None
        if vf is None:
            rows.append(_pf_row(managed, counters.get(PF_PORT, {}), extended))
        for vfid in _vfids(managed):
            if vf is None or vf == vfid:
                rows.append(_vf_row(managed, vfid, counters.get(vfid, {}), copies, edited))
    return schema.Show.model_construct(rows=rows)


def _vfids(managed: Managed) -> list[int]:
    seen = managed.seen.vfs.keys() if managed.seen else set()
    return sorted(seen | managed.vfs.keys())


def _pf_row(managed: Managed, counters: dict[str, int], extended: bool) -> schema.Row:
    identity = managed.nic.identity if managed.nic else None
    seen = managed.seen
    more = None
    if extended:
        more = schema.Extended(
            backend=identity.backend if identity else managed.pf.backend,
            model=identity.model if identity else None,
            driver=identity.driver if identity else None,
            firmware=identity.firmware if identity else None,
            numa_node=identity.numa_node if identity else None,
            mtu=managed.pf.mtu,
            vfs=len(seen.vfs) if seen else 0,
            msix=identity.vf_total_msix if identity else None,
            scale=managed.aim.scale if managed.aim else 1.0,
            class_scale=dict(managed.aim.class_scale) if managed.aim else {},
        )
    return schema.Row.model_construct(
        kind="pf",
        pf=managed.id,
        vfid=None,
        name=managed.id,
        address=identity.address if identity else managed.id,
        state=schema.State(managed.condition.value),
        link="up" if seen and seen.link.up else "down",
        speed=seen.link.speed_bps if seen else None,
        mac=None,
        counters=counters,
        warnings=_warnings(managed, None),
        scale=managed.aim.scale if managed.aim else 1.0,
        class_scale=dict(managed.aim.class_scale) if managed.aim else {},
        extended=more,
    )


def vf_condition(managed: Managed, vfid: int) -> schema.State:
    if managed.condition in (Condition.FAILED, Condition.LOST):
        return schema.State(managed.condition.value)
    if managed.is_left(vfid):
        return schema.State.NOT_MANAGED
    if vfid in managed.unmet:
        return schema.State.DRIFTED
    return schema.State.CLOSED if managed.is_closed(vfid) else schema.State.OK


def _vf_row(
    managed: Managed,
    vfid: int,
    counters: dict[str, int],
    copies: list[schema.MirrorRow] | None,
    edited: Mapping[str, str],
) -> schema.Row:
    """``copies``: the PF's mirrors, where the row is to be extended."""
    state, one = managed.vf_state(vfid), managed.vfs.get(vfid)
    scale, class_scale = scaled(managed, one)
    return schema.Row.model_construct(
        kind="vf",
        pf=managed.id,
        vfid=vfid,
        name=one.policy.name if one else "",
        address=state.address if state else "",
        state=vf_condition(managed, vfid),
        link="up" if state and state.link_up else "down",
        speed=managed.seen.link.speed_bps if managed.seen else None,
        mac=state.mac if state else None,
        counters=counters,
        warnings=[*_warnings(managed, vfid), *_edited(one, edited)],
        scale=scale,
        class_scale=class_scale,
        extended=_extended(managed, vfid, state, copies) if copies is not None else None,
    )


def _extended(
    managed: Managed, vfid: int, state: VfState | None, copies: list[schema.MirrorRow]
) -> schema.Extended:
    rules = state.rules if state else None
    grants = state.grants if state else Grants()
    more = schema.Extended(
        guest=state.guest if state else None,
        held=state.held if state else None,
        mtu=state.mtu if state else None,
        driver=(state.driver or None) if state else None,
        numa_node=state.numa_node if state else None,
        iommu_group=state.iommu_group if state else None,
        msix=state.msix if state else None,
        groups=sorted(grants.groups),
        promisc=grants.promisc,
        allmulti=grants.allmulti,
        wishes=wishes(managed, vfid),
        mirrors=[m for m in copies if m.vfid == vfid],
        mirror_target_of=sorted({m.vfid for m in copies if m.target == vfid}),
    )
    if rules is None or managed.is_closed(vfid):
        return more
    return more.model_copy(
        update={
            "vlans": vlan_ranges(rules.vlans),
            "tagging": _tagging(rules),
            "allow_untagged": rules.allow_untagged,
            "pcp": rules.pcp,
            "macs": sorted(set(rules.macs) | grants.macs),
            "link_status": rules.link_status.value,
            "rate": rules.rate.bps or 0,
            "min_rate": rules.min_rate.bps or 0,
            "max_rx_rate": rules.max_rx_rate.bps or 0,
            "storm_limit": rules.storm_limit,
            "trust": rules.trust,
        }
    )


def _tagging(rules: VfRules) -> str:
    if rules.access_vid is not None:
        return "service-access" if rules.strip_stag else "access"
    return "strip" if rules.strip_stag or rules.strip_ctag else "trunk"


def mirrors(managed: Managed) -> list[schema.MirrorRow]:
    """The mirrors in force on a PF, as read back."""
    name = {vfid: one.policy.name for vfid, one in managed.vfs.items()}
    return [
        schema.MirrorRow(
            pf=managed.id,
            vfid=vfid,
            name=name.get(vfid, ""),
            direction=mirror.direction.value,
            target=mirror.target,
            target_name=name.get(mirror.target, ""),
            vlans=vlan_ranges(mirror.vlans),
        )
        for vfid, state in sorted(managed.seen.vfs.items() if managed.seen else ())
        for mirror in (state.rules.mirror if state.rules else ())
    ]


# VFs


def _edited(one: Configured | None, edited: Mapping[str, str]) -> list[str]:
    return [edited[one.file]] if one is not None and one.file in edited else []


def vf(
    managed: Managed, one: Configured, edited: Mapping[str, str] = NOTHING_EDITED
) -> schema.VfAnswer:
    policy = one.policy
    state = managed.vf_state(policy.vfid)
    rules = state.rules if state else None
    grants = state.grants if state else Grants()
    return schema.VfAnswer(
        name=policy.name,
        file=one.file,
        owner=one.owner.uid,
        pf=managed.id,
        vfid=policy.vfid,
        address=state.address if state else "",
        state=vf_condition(managed, policy.vfid),
        link_up=bool(state and state.link_up),
        mac=state.mac if state else None,
        mtu=state.mtu if state else None,
        guest=state.guest if state else "",
        held=bool(state and state.held),
        asked=policy.model_dump(mode="json", include=set(one.stated)),
        in_force=rules.model_dump(mode="json") if rules else None,
        differences=differences(managed, one, rules),
        grants=schema.GrantsAnswer(
            default_mac=grants.default_mac,
            macs=sorted(grants.macs),
            groups=sorted(grants.groups),
            mtu=grants.mtu,
            promisc=grants.promisc,
            allmulti=grants.allmulti,
        ),
        wishes=wishes(managed, policy.vfid),
        warnings=[*_warnings(managed, policy.vfid), *_edited(one, edited)],
    )


def wishes(managed: Managed, vfid: int) -> list[schema.WishAnswer]:
    return [
        schema.WishAnswer(
            request=str(wish.request.kind),
            value=wish.request.mac or wish.request.vid or wish.request.mtu,
            reason=wish.reason,
        )
        for wish in managed.wishes.of(vfid)
    ]


def _ungranted(managed: Managed, vfid: int) -> str:
    """The guest's wishes in one line, '' where it has none or the VF is closed to all of them."""
    wished = managed.wishes.of(vfid)
    if not wished or vfid not in managed.vfs:
        return ""
    first, others = wished[0], len(wished) - 1
    text = f"not granted to its guest: {in_words(first.request)}: {first.reason}"
    return text + (f"; and {others} more" if others else "")


# Changes and events


def changes(pf_id: str, made: Iterable[Change]) -> list[schema.ChangeAnswer]:
    return [_change(pf_id, change) for change in made]


def _change(pf_id: str, change: Change) -> schema.ChangeAnswer:
    fields = [
        schema.FieldChange(field=field, before=before, after=after)
        for field, before, after in field_values(change)
    ]
    if isinstance(change, PfChange):
        return schema.ChangeAnswer(pf=pf_id, vfid=None, kind="pf", fields=fields)
    kind = "close" if change.after is None else "open" if change.before is None else "update"
    return schema.ChangeAnswer.model_validate(
        {"pf": pf_id, "vfid": change.vfid, "kind": kind, "fields": fields}
    )


def of_vf(made: Made) -> list[schema.ChangeAnswer]:
    """What a request changes: at the NIC, and the callbacks, which are the daemon's own."""
    found = changes(made.pf, made.changes)
    if made.callbacks:
        own = [schema.FieldChange(field=f, before=b, after=a) for f, b, a in made.callbacks]
        at_nic = next((c for c in found if c.vfid == made.vfid), None)
        if at_nic is not None:
            at_nic.fields.extend(own)
        else:
            found.append(schema.ChangeAnswer(pf=made.pf, vfid=made.vfid, kind="update", fields=own))
    return found


def applied(made: Made) -> schema.Applied:
    return schema.Applied(
        name=made.name,
        pf=made.pf,
        vfid=made.vfid,
        changes=of_vf(made),
        warnings=list(made.warnings),
    )


def event(happening: Happening) -> schema.EventAnswer:
    return schema.EventAnswer(
        seq=happening.seq,
        time=happening.time,
        kind=happening.kind,
        level=happening.level,
        pf=happening.pf,
        vfid=happening.vfid,
        name=happening.name,
        text=happening.text,
        data={k: v for k, v in happening.data.items() if v is not None},
    )


def dump(service: Service, events: list[Happening]) -> schema.Dump:
    """Everything, for a bug report."""
    return schema.Dump(
        version=vfd.__version__,
        config_file=str(service.files.main_file),
        config=service.main.model_dump(mode="json"),
        pfs=[_dump_of(service, managed) for managed in service.nics.values()],
        events=[event(one) for one in events],
    )


def _dump_of(service: Service, managed: Managed) -> dict[str, Any]:
    seen = managed.seen
    return {
        "pf": pf(service, managed).model_dump(mode="json"),
        "caps": caps(managed).model_dump(mode="json") if managed.nic else None,
        "vfs": [vf(managed, one).model_dump(mode="json") for one in managed.vfs.values()],
        "wishes": {
            str(vfid): [wish.model_dump(mode="json") for wish in wishes(managed, vfid)]
            for vfid in _vfids(managed)
            if managed.wishes.of(vfid)
        },
        "kept": sorted(managed.kept),
        "seen": {
            str(vfid): {
                **asdict(state),
                "rules": state.rules.model_dump(mode="json") if state.rules else None,
                "grants": {k: _plain(v) for k, v in asdict(state.grants).items()},
            }
            for vfid, state in (seen.vfs.items() if seen else ())
        },
    }


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value
