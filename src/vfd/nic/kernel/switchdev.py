"""A NIC in switchdev mode: policies as tc flower rules at its representors.

The switch enforces what the rules say and nothing else, so this surface takes all that a frame can
be judged by; the MAC that a guest is given, its link and its rates are others'. What is enforced
is read back from the kernel's own rules. Each rule is asked for with ``skip_sw``: it is
in hardware or refused. Where the NIC refuses one, the CPU runs all rules of that port, none of them
in the NIC (``skip_hw``): rules come one after the other, and a NIC that had taken those alone which
it can would give frames to the wrong ones. The capabilities name such ports.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vfd.nic.kernel.flower import Rules
from vfd.nic.kernel.flower_netlink import SKIP_HW, SKIP_SW, Found, Tc
from vfd.nic.kernel.parts import DEFAULTS
from vfd.nic.kernel.representors import Representors
from vfd.nic.kernel.surface import Assignment, Shown
from vfd.nic.kernel.switchdev_compile import Eswitch, compile_rules
from vfd.nic.kernel.switchdev_netdevs import FEATURE, Netdevs
from vfd.nic.kernel.switchdev_record import RECORD, record, recorded
from vfd.nic.kernel.switchdev_steps import Put, Step, gate_of, software_ports, steps, to_software
from vfd.nic.netlink import NetlinkError
from vfd.nic.protocol import PF_PORT, Capability, NicError, Support
from vfd.policy.requests import owners
from vfd.policy.values import LinkStatus, NicPolicy, PfPolicy, VfPolicy, VfRules

NAME = "switchdev"
MAX_VLANS = 512
"""Of one VF. Flower and most NICs would take more, but a VLAN of a VF is at least six rules, each
of which is set by itself: 512 take about a second."""
_OFFERS = (
    "vlans", "strip_stag", "strip_ctag", "allow_untagged", "pcp", "vlan_anti_spoof",
    "macs", "mac_anti_spoof", "allow_bcast", "allow_mcast", "allow_un_ucast",
    "mirror", "storm_limit", "max_rx_rate",
)  # fmt: skip
_NOTED = {*_OFFERS, "vm_mac", "link_status"}
"""What is noted of a policy with its rules; the rest is others', and may follow from these."""
_BROKEN = {"vlans": (), "allow_untagged": False, "mac_anti_spoof": False, "vlan_anti_spoof": False}
"""What is shown of a VF whose rules are not those of any policy: no policy is like this."""
_SOFTWARE = "enforced by the CPU for {}: the NIC did not take the rules"
_UNTRIED = "in hardware if the NIC takes the rules, else by the CPU: known once some are set"
_POLICED = "policed, not shaped: frames to the VF's MACs above it are dropped, floods don't count"
_MOST_NAMES = 4
_GATE_HANDLE = 1
"""Gates come and go in one go, and so are known without having been read."""


@dataclass(frozen=True, slots=True)
class _State:
    """What was read: the rules, and the policies that they were made of."""

    ports: Representors
    found: Found
    pf: Mapping[str, Any]
    vfs: Mapping[int, VfRules]
    """The VFs with a note, as noted."""
    up: frozenset[int]
    """The VFs whose representor is up."""


_ALL_ARE_OURS = Capability(
    Support.ABSENT,
    reason="in switchdev mode the rules of the whole switch are vfd's, and drop what no"
    " configuration lets pass; legacy mode leaves VFs alone",
    consequence="VFs without a configuration are closed",
)


class SwitchdevSurface:
    """The surface.

    ``ports``: finds the representors; VFs come and go with their number.
    ``own_macs``: the MACs that VFs have now, by vfid, for those on which none is forced.
    ``link_limit``: nobody else takes a VF's link down; how well this does it. None: others do.
    """

    name = NAME

    def __init__(
        self,
        tc: Tc,
        netdevs: Netdevs,
        pf: PfPolicy,
        ports: Callable[[], Representors],
        own_macs: Callable[[], Mapping[int, str]],
        *,
        link_limit: str | None,
    ) -> None:
        self._tc = tc
        self._netdevs = netdevs
        self._pf = pf
        self._ports = ports
        self._own_macs = own_macs
        self._link_limit = link_limit
        self._offers = _OFFERS if link_limit is None else (*_OFFERS, "link_status")
        self._software: frozenset[int] | None = None
        """The ports whose rules the CPU runs; None: not known, as no VF was open yet."""
        self._compiled: tuple[object, Rules] = (None, {})
        """What was compiled last, and from what: nothing but time is saved by it."""
        self._offloads: frozenset[int] = frozenset()
        """Netdevs on which the feature was turned on, as far as they have it."""
        self._unable: tuple[str, ...] = ()
        """Those of them that don't, by name."""
        self.watched: frozenset[int] = frozenset()
        """The netdevs last seen, whose admin state is part of what is enforced."""

    # -- As a surface ---------------------------------------------------------------------------

    def look(self) -> None:
        """Whether the NIC does it or the CPU shows when rules are read."""

    def capabilities(self) -> Mapping[str, Capability]:
        if self._software is None:
            can = Capability(Support.LIMITED, by=self.name, limit=_UNTRIED)
        elif self._software:
            limit = _SOFTWARE.format(_ports(self._software)) + self._no_offload()
            can = Capability(Support.LIMITED, by=self.name, limit=limit)
        else:
            can = Capability(Support.ENFORCED, by=self.name)
        offers = dict.fromkeys(self._offers, can)
        limit = "; ".join(filter(None, (_POLICED, can.limit)))
        offers["max_rx_rate"] = Capability(Support.LIMITED, by=self.name, limit=limit)
        if self._link_limit is not None:
            offers["link_status"] = Capability(
                Support.LIMITED, by=self.name, limit=self._link_limit
            )
        return offers

    def _no_offload(self) -> str:
        return f" ({FEATURE} is off and stays off at {_some(self._unable)})" if self._unable else ""

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:  # noqa: ARG002
        return {}

    def express(self, assigned: Assignment) -> Shown:
        return self._shown(self._noted(assigned))

    def read(self) -> Mapping[int, Shown]:
        """Raises NicError."""
        state = self._read()
        if state.vfs:
            self._software = software_ports(state.found.rules, state.found.offloaded)
        broken = self._broken(state)
        return {
            vfid: _BROKEN if vfid in broken else self._shown(state.vfs.get(vfid))
            for vfid in state.ports.vfids
        }

    def write(self, wanted: Mapping[int, Assignment]) -> None:
        state = self._read()
        if missing := sorted(wanted.keys() - set(state.ports.vfids)):
            raise NicError(f"no representor of VF {', '.join(map(str, missing))}")
        asked = {vfid: self._noted(assigned) for vfid, assigned in wanted.items()}
        vfs = {**state.vfs, **{vfid: rules for vfid, rules in asked.items() if rules is not None}}
        for vfid, rules in asked.items():
            if rules is None:
                vfs.pop(vfid, None)
        new = self._rules(state.ports, state.pf, vfs, _forced(state.vfs))
        self._go(state, new, _to_be_up(state.ports, vfs))

    # -- As a surface of the PF -----------------------------------------------------------------

    def pf_capabilities(self) -> Mapping[str, Capability]:
        can = next(iter(self.capabilities().values()))
        return {"enable_loopback": can, "tpid": can, "unconfigured": _ALL_ARE_OURS}

    def observe_pf(self, wanted: PfPolicy) -> Shown:  # noqa: ARG002
        uplink = {PF_PORT: self._ports().ifindexes[PF_PORT]}
        try:
            noted = recorded(PF_PORT, self._tc.read(uplink, RECORD).rules)
        except NetlinkError as error:
            raise _unread(error) from error
        return noted or _pf_part(self._pf)

    def write_pf(self, now: PfPolicy, after: PfPolicy) -> None:  # noqa: ARG002
        self._pf = after
        state = self._read()
        new = self._rules(state.ports, _pf_part(after), state.vfs, _forced(state.vfs))
        self._go(state, new, state.up)

    # -- Reading --------------------------------------------------------------------------------

    def _read(self) -> _State:
        ports = self._ports()
        try:
            found = self._tc.read(ports.ifindexes)
            up = self._netdevs.up(frozenset(ports.ifindexes.values()))
        except NetlinkError as error:
            raise _unread(error) from error
        vf_of = {index: port for port, index in ports.ifindexes.items() if port != PF_PORT}
        self.watched = frozenset(vf_of)
        noted = {vfid: recorded(vfid, found.rules) for vfid in ports.vfids}
        return _State(
            ports,
            found,
            pf=recorded(PF_PORT, found.rules) or _pf_part(self._pf),
            vfs={
                vfid: VfRules.model_validate(content)
                for vfid, content in noted.items()
                if content is not None
            },
            up=frozenset(vf_of[index] for index in up & vf_of.keys()),
        )

    def _broken(self, state: _State) -> frozenset[int]:
        """The VFs whose rules are not all there, or not alone, or whose representor is not up or
        down as it should be."""
        wanted = self._rules(state.ports, state.pf, state.vfs, {})
        found = state.found.rules
        places = {place for place in wanted.keys() | found.keys()
                  if wanted.get(place) != found.get(place)}  # fmt: skip
        ports = {place.port for place in places}
        ports |= {foreign.port for foreign in state.found.foreign}
        ports |= state.up ^ _to_be_up(state.ports, state.vfs)
        if PF_PORT in ports:  # the rules of the wire are everybody's
            return frozenset(state.ports.vfids)
        return frozenset(ports)

    def _rules(
        self,
        ports: Representors,
        pf: Mapping[str, Any],
        vfs: Mapping[int, VfRules],
        forced: Mapping[int, str],
    ) -> Rules:
        """All rules, notes included, of these policies. ``forced``: MACs that are forced now."""
        here = {vfid: rules for vfid, rules in vfs.items() if vfid in ports.vfids}
        own = {vfid: mac for vfid, mac in self._own_macs().items() if forced.get(vfid) != mac}
        made_of = (ports, dict(pf), here, own)
        if self._compiled[0] != made_of:
            self._compiled = made_of, self._compile(ports, pf, here, own)
        return self._compiled[1]

    def _compile(
        self,
        ports: Representors,
        pf: Mapping[str, Any],
        vfs: Mapping[int, VfRules],
        own: Mapping[int, str],
    ) -> Rules:
        eswitch = Eswitch(
            loopback=pf["enable_loopback"],
            tpid=pf["tpid"],
            vfs=vfs,
            closed=frozenset(ports.vfids) - vfs.keys(),
            owners=owners(_nic(self._pf, vfs), {}, own),
            id=ports.ifindexes[PF_PORT],
        )
        rules = compile_rules(eswitch) | record(PF_PORT, pf)
        for vfid, policy in vfs.items():
            content = policy.model_dump(mode="json", include=_NOTED, exclude_defaults=True)
            rules |= record(vfid, content)
        return rules

    def _noted(self, assigned: Assignment) -> VfRules | None:
        """What this surface is to do, and the MAC that another forces; the rest at its default."""
        rules = assigned.rules
        if rules is None:
            return None
        mine = assigned.attributes & set(self._offers)
        kept = {name: getattr(rules, name) for name in (*sorted(mine), "vm_mac", "link_status")}
        return VfRules.model_construct(**{**DEFAULTS, **kept})

    def _shown(self, rules: VfRules | None) -> Shown:
        if rules is None:
            closed = {**DEFAULTS, "link_status": LinkStatus.OFF}
            return {name: closed[name] for name in self._offers}
        return {name: getattr(rules, name) for name in self._offers}

    # -- Writing --------------------------------------------------------------------------------

    def _go(self, state: _State, new: Rules, up: frozenset[int]) -> None:
        """From the rules that are there to ``new``, and to these representors being up; all or
        none. What others put among the rules goes first, as it may stand before ours."""
        way = steps(state.found.rules, new)
        if not way and not state.found.foreign and up == state.up:
            return
        indexes = state.ports.ifindexes
        try:
            self._netdevs.set_up({indexes[vfid]: False for vfid in state.up - up})
            self._tc.prepare(indexes.values())
            self._offload(frozenset(indexes.values()))
            self._tc.evict(state.found.foreign, indexes)
            self._change(state, way)
            self._netdevs.set_up({indexes[vfid]: True for vfid in up - state.up})
        except NetlinkError as error:
            why = f"the kernel refused a rule: {error.strerror}"
            try:
                self._back(state)
                self._netdevs.set_up({indexes[vfid]: vfid in state.up for vfid in up ^ state.up})
            except NetlinkError as second:
                raise NicError(f"{why}. Putting back what was failed: {second.strerror}") from error
            raise NicError(f"{why}. All is as before") from error

    def _offload(self, ifindexes: frozenset[int]) -> None:
        if not ifindexes <= self._offloads:
            self._unable = _names(self._netdevs.offload(ifindexes))
            self._offloads = ifindexes

    def _change(self, state: _State, way: list[Step]) -> None:
        """All steps, or none. A port at which the NIC refuses a rule is the CPU's from then on."""
        software = software_ports(state.found.rules, state.found.offloaded)
        while True:
            self._to_software(state, software)  # one with both kinds was left half done
            refused, errors = self._run(state, way, software)
            if not errors:
                break
            if not refused - software:
                raise errors[0]
            software |= refused
            self._back(state)
            state = self._read()

    def _to_software(self, state: _State, ports: frozenset[int]) -> None:
        found = state.found
        rules = to_software(found.rules, found.offloaded, ports)
        messages = [
            self._tc.put(rule, state.ports.ifindexes, found.handles[rule.place], SKIP_HW)
            for rule in rules
        ]
        for error in self._tc.send(messages):
            raise error

    def _back(self, state: _State) -> None:
        """To the rules that were there."""
        now = self._read()
        software = software_ports(now.found.rules, now.found.offloaded)
        _, errors = self._run(now, steps(now.found.rules, state.found.rules), software)
        for error in errors:
            raise error

    def _run(
        self, state: _State, way: list[Step], software: frozenset[int]
    ) -> tuple[frozenset[int], Sequence[NetlinkError]]:
        """All that is added, and if that went well all that goes. Returns the ports at which the
        kernel refused something, and the errors."""
        ports = state.ports.ifindexes
        puts = [step.rule for step in way if isinstance(step, Put)]
        gone = [step.place for step in way if not isinstance(step, Put)]
        handles = state.found.handles
        messages = [
            self._tc.put(
                rule,
                ports,
                handles.get(rule.place),
                SKIP_HW if rule.place.chain == RECORD or rule.place.port in software else SKIP_SW,
                _GATE_HANDLE if rule.place == gate_of(rule.place.port) else 0,
            )
            for rule in puts
        ]
        if errors := self._tc.send(messages):
            return frozenset(puts[error.index].place.port for error in errors), errors
        removals = [
            self._tc.remove(place, ports, handles.get(place, _GATE_HANDLE)) for place in gone
        ]
        for error in self._tc.send(removals):
            raise error
        return frozenset(), ()


def _unread(error: NetlinkError) -> NicError:
    return NicError(f"reading the flower rules: {error.strerror}")


def _to_be_up(ports: Representors, vfs: Mapping[int, VfRules]) -> frozenset[int]:
    """A closed VF's representor is down: see ``switchdev_netdevs``."""
    return frozenset(
        vfid for vfid in ports.vfids if vfid in vfs and vfs[vfid].link_status is not LinkStatus.OFF
    )


def _ports(ports: Collection[int]) -> str:
    """``VF 1, 3 and the wire``."""
    vfids = [str(port) for port in sorted(ports) if port != PF_PORT]
    shown = ", ".join(vfids[:_MOST_NAMES]) + (" …" if len(vfids) > _MOST_NAMES else "")
    return " and ".join([f"VF {shown}"] * bool(vfids) + ["the wire"] * (PF_PORT in ports))


def _names(ifindexes: Collection[int]) -> tuple[str, ...]:
    names = []
    for index in sorted(ifindexes):
        with contextlib.suppress(OSError):
            names.append(socket.if_indextoname(index))
    return tuple(names)


def _some(names: Sequence[str]) -> str:
    """The first few."""
    return ", ".join(names[:_MOST_NAMES]) + (" …" if len(names) > _MOST_NAMES else "")


def _pf_part(pf: PfPolicy) -> Mapping[str, Any]:
    return {"enable_loopback": pf.enable_loopback, "tpid": pf.tpid}


def _forced(vfs: Mapping[int, VfRules]) -> Mapping[int, str]:
    return {vfid: rules.vm_mac for vfid, rules in vfs.items() if rules.vm_mac is not None}


def _nic(pf: PfPolicy, vfs: Mapping[int, VfRules]) -> NicPolicy:
    return NicPolicy.model_construct(
        pf=pf,
        vfs=tuple(
            VfPolicy.model_construct(
                name=f"vf{vfid}", pciid=pf.id, vfid=vfid,
                **{name: getattr(rules, name) for name in VfRules.model_fields},
            )
            for vfid, rules in sorted(vfs.items())
        ),
    )  # fmt: skip
