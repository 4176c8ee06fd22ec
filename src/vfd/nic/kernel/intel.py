"""Intel's SR-IOV hypervisor management interface: ``/sys/class/net/PF/device/sriov/``.

Offered by Intel's out-of-tree i40e. This surface takes what rtnetlink has no words for: VLAN
lists, further MACs, mirrors, broadcast, multicast and unknown unicast, shares of traffic classes
and rates within them, and a VF that is truly off. The default MAC, spoof check, trust, the rate
without classes and link state stay rtnetlink's: the same functions of the driver stand behind both,
rtnetlink sets all VFs in one message, and the ``link_state`` file does not tell ``auto`` from
``enable``. docs/decisions.md says why other files are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vfd.nic.kernel.attributes import Write, folders_below, read, run, vf_numbers
from vfd.nic.kernel.intel_files import COUNTERS, VfFiles, changes, read_counters, read_vf
from vfd.nic.kernel.intel_macs import ListedMacs
from vfd.nic.kernel.intel_qos import (
    STEP_MBPS,
    are_as_asked,
    class_map,
    classes_in_use,
    restrictions,
)
from vfd.nic.kernel.surface import TAGGING, Assignment, Shown
from vfd.nic.protocol import Capability, NicError, NicGoneError, Support
from vfd.policy.rate import Rate
from vfd.policy.values import (
    C_TAG,
    S_TAG,
    Direction,
    LinkStatus,
    Mirror,
    PfPolicy,
    QueueShare,
    VfRules,
)

NAME = "sysfs:i40e"
MBPS = 10**6
_LINK = {LinkStatus.AUTO: "auto", LinkStatus.ON: "enable", LinkStatus.OFF: "disable"}
_NEUTRAL = VfFiles(promisc=frozenset({"mcast"}))
"""An open VF of which nothing is asked: it gets the multicast that policies allow by default."""


_PF_CLASSES = ("enable_qos", "tclasses")
_NOT_YET = Capability(
    Support.LIMITED,
    by=NAME,
    limit="known once the PF has VFs, and in force with them: Intel's driver shows its interface"
    " only then",
)

_NO_GUARANTEES = Capability(
    Support.ABSENT,
    reason="this driver's traffic classes have pri, lsp and max_bw, but neither min_bw nor bsp; a"
    " software NIC's have",
    consequence="no class has a guarantee or goes first in its group",
)

OPTIONAL_FILES = ("vlan_anti_spoof", "allow_bcast")
"""Files, named as the attributes, that older versions of the driver lack."""


RATE_IN_CLASSES = Capability(
    Support.LIMITED,
    by=NAME,
    limit=f"holds in each traffic class; steps of {STEP_MBPS} Mbit/s, at least {STEP_MBPS}",
)
"""``rate`` under ``enable_qos``: README: with classes ``max_tx_rate`` is ignored, and a VF has a
``max_tc_tx_rate`` in each."""
_MIXED = Rate(bps=1)
"""Shown where the classes' rates differ, which is no policy's."""


def offers(files: Iterable[str] = OPTIONAL_FILES) -> Mapping[str, Capability]:
    """What the interface enforces with these of the optional files."""
    enforced = Capability(Support.ENFORCED, by=NAME)
    trunk = Capability(Support.LIMITED, by=NAME, limit="at least one VLAN, none inserted")
    found = dict.fromkeys(TAGGING - {"vlan_anti_spoof", "pcp"}, trunk)
    found |= dict.fromkeys(("macs", "allow_mcast", "allow_un_ucast"), enforced)
    found["mirror"] = Capability(
        Support.LIMITED, by=NAME, limit="one target for each direction, all VLANs"
    )
    found["queues"] = Capability(
        Support.LIMITED,
        by=NAME,
        limit="whole percents, at least 1; a change restarts all VFs of the PF",
    )
    for name in files:
        found[name] = trunk if name in TAGGING else enforced
    return found


class IntelSysfs:
    """The surface. ``root``: the PF's ``device/sriov``, which exists while the PF has VFs."""

    name = NAME

    def __init__(self, root: Path, pf: PfPolicy) -> None:
        self._root = root
        self._pf = pf
        self._macs = ListedMacs()
        self.look()

    def look(self) -> None:
        self._is_there, self._may_come = self.present(), self._has_no_vfs()
        self._sets_tpid = self._has_tpid()
        first = self._root / "".join(str(vfid) for vfid in vf_numbers(self._root)[:1])
        files = [name for name in OPTIONAL_FILES if (first / name).exists()]
        self._offers = offers(files) if self._is_there else {}

    def present(self) -> bool:
        """Whether the driver offers the interface now."""
        return any((self._root / f"{vfid}/trunk").exists() for vfid in vf_numbers(self._root)[:1])

    def folders(self) -> list[Path]:
        return folders_below(self._root)

    def _has_no_vfs(self) -> bool:
        """There are no VFs, with which the interface would be there."""
        try:
            return read(self._root.parent / "sriov_numvfs") == "0"
        except OSError:
            return False

    def capabilities(self) -> Mapping[str, Capability]:
        if self._offers and self._pf.enable_qos:
            return {**self._offers, "rate": RATE_IN_CLASSES}
        return self._offers

    def counter_names(self) -> frozenset[str]:
        return COUNTERS if self._is_there else frozenset()

    def counters(self) -> Mapping[int, Mapping[str, int]]:
        try:
            return {v: read_counters(self._root / str(v)) for v in vf_numbers(self._root)}
        except (OSError, ValueError) as error:
            raise NicError(f"{self._root}: {error}") from error

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:
        short: dict[str, Capability] = {}
        if reason := self._no_trunk(rules):
            short = dict.fromkeys(TAGGING, Capability(Support.ABSENT, reason=reason))
        if reason := _no_mirror(rules):
            short["mirror"] = Capability(Support.ABSENT, reason=reason)
        if self._pf.enable_qos and 0 < (rules.rate.bps or 0) < STEP_MBPS * MBPS:
            reason = f"i40e enforces no less than {STEP_MBPS} Mbit/s"
            short["rate"] = Capability(Support.ABSENT, reason=reason)
        if rules.trust and not rules.allow_un_ucast:
            reason = "i40e gives it to a trusted guest that asks for promiscuous mode"
            short["allow_un_ucast"] = Capability(Support.ABSENT, reason=reason)
        return short

    def express(self, assigned: Assignment) -> Shown:
        files = self._target(_NEUTRAL, assigned)
        service = assigned.rules is not None and assigned.rules.strip_stag
        return self._shown(files, self._wanted_tpid() if service else C_TAG)

    def read(self) -> Mapping[int, Shown]:
        outer = self._outer_tpid()
        found = self._files()
        self._macs.find(found)
        return {v: self._shown(self._macs.own(v, files), outer) for v, files in found.items()}

    def write(self, wanted: Mapping[int, Assignment]) -> None:
        if not self.present():
            return  # the kernel's own i40e: nothing was assigned to this surface
        before = self._files()
        if missing := wanted.keys() - before.keys():
            raise NicError(
                f"{self._root}: no VF {', '.join(map(str, sorted(missing)))};"
                f" the driver shows {len(before)}"
            )
        self._macs.find(before)
        ours = self._macs.of(wanted)
        self._macs.leave_to_guests(before, {v: to.rules for v, to in wanted.items()})
        after = {vfid: self._target(before[vfid], assigned) for vfid, assigned in wanted.items()}
        macs = {vfid: files.macs for vfid, files in after.items()}
        links = {
            vfid: _LINK[assigned.rules.link_status] if assigned.rules else "disable"
            for vfid, assigned in wanted.items()
        }
        self._macs.list(macs)
        try:
            self._converge(after, links)
        except NicError:
            self._converge({vfid: before[vfid] for vfid in after}, dict.fromkeys(after, "auto"))
            self._macs.undo(ours)
            raise
        self._macs.listed(macs)

    def _converge(self, after: Mapping[int, VfFiles], links: Mapping[int, str]) -> None:
        """Writes what differs, and looks whether it holds: the driver drops some commands with a
        line in its log only (a MAC too many), and resets VFs that it enables."""
        for attempt in (1, 2):
            now = self._files()
            writes = [
                write
                for vfid, want in after.items()
                for write in self._vf_writes(vfid, now[vfid], want, links[vfid])
            ]
            writes += self._share_writes(now, after)
            if not writes:
                return
            if attempt == 1:
                run(writes)
        refused = "; ".join(f"{write.path}: {write.text}" for write in writes)
        raise NicError(f"the driver took these without effect: {refused}")

    def _vf_writes(self, vfid: int, now: VfFiles, want: VfFiles, link: str) -> Iterator[Write]:
        own = self._macs.own(vfid, now, want.macs)
        return changes(self._root / str(vfid), own, want, link)

    def _files(self) -> Mapping[int, VfFiles]:
        classes = classes_in_use(self._root)
        try:
            return {
                vfid: read_vf(self._root / str(vfid), classes) for vfid in vf_numbers(self._root)
            }
        except FileNotFoundError as error:
            raise NicGoneError(f"{error.filename}: it is not there any more") from error
        except (OSError, ValueError) as error:
            raise NicError(f"{self._root}: {error}") from error

    def _target(self, now: VfFiles, assigned: Assignment) -> VfFiles:
        """What the files are to say; what is not this surface's stays as it is."""
        rules, mine = assigned.rules, assigned.attributes
        neutral = replace(
            now,
            macs=frozenset(),
            promisc=_NEUTRAL.promisc,
            ingress_mirror=None,
            egress_mirror=None,
            vlan_mirror=frozenset(),
            rates=tuple((tc, 0) for tc, _ in now.rates),
            allow_bcast=None if now.allow_bcast is None else True,
        )
        if rules is None:
            return replace(
                neutral,
                enable=False,
                trunk=frozenset(),
                allow_untagged=True,
                promisc=frozenset(),
            )
        want = replace(neutral, enable=True)
        if self._pf.enable_qos and "rate" in mine:
            mbps = (rules.rate.bps or 0) // (STEP_MBPS * MBPS) * STEP_MBPS
            want = replace(want, rates=tuple((tc, mbps) for tc in range(self._pf.classes)))
        if "vlans" in mine:
            want = replace(
                want,
                trunk=frozenset(rules.vlans),
                allow_untagged=rules.allow_untagged,
                vlan_strip=rules.strip_stag or rules.strip_ctag,
                vlan_anti_spoof=rules.vlan_anti_spoof if "vlan_anti_spoof" in mine else None,
            )
        modes = {"mcast"} if "allow_mcast" not in mine or rules.allow_mcast else set()
        if "allow_un_ucast" in mine and rules.allow_un_ucast:
            modes.add("ucast")
        want = replace(want, promisc=frozenset(modes))
        if "allow_bcast" in mine:
            want = replace(want, allow_bcast=rules.allow_bcast)
        if "macs" in mine:
            want = replace(want, macs=frozenset(rules.macs))
        if "mirror" in mine:
            targets = _mirror_targets(rules)
            want = replace(
                want,
                ingress_mirror=targets.get(Direction.IN),
                egress_mirror=targets.get(Direction.OUT),
            )
        if "queues" in mine and self._pf.enable_qos and rules.queues:
            want = replace(want, shares=_whole_shares(rules))
        return want

    def _share_writes(
        self, now: Mapping[int, VfFiles], after: Mapping[int, VfFiles]
    ) -> list[Write]:
        """Shares that differ and the one write that applies them. A share can't go back to 0, so a
        VF that is closed keeps the least, 1 %, from the next change on."""
        if not self._pf.enable_qos:
            return []
        wanted = {vfid: after.get(vfid, files) for vfid, files in now.items()}
        changed = [
            Write(self._root / f"{vfid}/qos/{tc}/share", str(share))
            for vfid, files in wanted.items()
            for tc, share in files.shares
            if files.enable and dict(now[vfid].shares).get(tc) not in (None, share)
        ]
        if not changed:
            return []
        spared = [
            Write(self._root / f"{vfid}/qos/{tc}/share", "1")
            for vfid, files in wanted.items()
            for tc, share in now[vfid].shares
            if not files.enable and share > 1
        ]
        return [*spared, *changed, Write(self._root / "qos/apply", "1")]

    def _shown(self, files: VfFiles, outer: int) -> Shown:
        """Files as attributes of VfRules. A list of S-tags that are not stripped is no policy's."""
        if not files.enable:
            return {"link_status": LinkStatus.OFF}
        shown: dict[str, Any] = {
            "macs": tuple(sorted(files.macs)),
            "mirror": _mirrors(files),
            "allow_mcast": "mcast" in files.promisc,
            "allow_un_ucast": "ucast" in files.promisc,
        }
        if files.trunk and (files.vlan_strip or outer == C_TAG):
            shown["vlans"] = tuple(sorted(files.trunk - {0}))
            shown["allow_untagged"] = files.allow_untagged
            shown["strip_stag"] = files.vlan_strip and outer == S_TAG
            shown["strip_ctag"] = files.vlan_strip and outer == C_TAG
            if files.vlan_anti_spoof is not None:
                shown["vlan_anti_spoof"] = files.vlan_anti_spoof
        if files.allow_bcast is not None:
            shown["allow_bcast"] = files.allow_bcast
        if self._pf.enable_qos:
            rates = {mbps for _, mbps in files.rates}
            shown["rate"] = Rate(bps=max(rates, default=0) * MBPS) if len(rates) < 2 else _MIXED
            shown["queues"] = tuple(
                QueueShare.model_construct(priority=tc, share=share)
                for tc, share in files.shares
                if share
            )
        return shown

    def _no_trunk(self, rules: VfRules) -> str:
        if rules.access_vid is not None:
            return "i40e's sysfs strips tags but inserts none: that is rtnetlink's port VLAN"
        if not rules.vlans:
            return "i40e's trunk without a VLAN lets every VLAN pass: name at least one"
        outer = self._wanted_tpid()
        if not rules.strip_stag and outer != C_TAG:
            return (
                f"the PF's tpid is {outer:#x}, and i40e has one TPID for the lists of all its VFs"
            )
        return ""

    def _has_tpid(self) -> bool:
        try:
            return bool(read(self._root / "tpid"))
        except OSError:
            return False

    def _wanted_tpid(self) -> int:
        """What VLAN lists will be about once the PF is as its policy says."""
        return self._pf.tpid if self._sets_tpid else C_TAG

    def _outer_tpid(self) -> int:
        """The TPID that VLAN lists are about. Where the device has none to set: 0x8100."""
        try:
            return int(read(self._root / "tpid"), 16)
        except (OSError, ValueError):
            return C_TAG

    # -- the PF's own settings: see PfSurface ------------------------------------------------

    def pf_capabilities(self) -> Mapping[str, Capability]:
        if not self._is_there:
            return dict.fromkeys((*_PF_CLASSES, "tpid"), _NOT_YET) if self._may_come else {}
        classes = Capability(
            Support.LIMITED,
            by=self.name,
            limit="pri, lsp and max_bw in steps of 50 Mbit/s; not min_bw, bsp or bw_grps;"
            " a change restarts all VFs of the PF, and classes stay until the driver is loaded"
            " anew",
        )
        offers = {
            "enable_loopback": Capability(Support.ENFORCED, by=self.name),
            **dict.fromkeys(_PF_CLASSES, classes),
        }
        if any(tc.min_bw or tc.bsp for tc in self._pf.tclasses):
            offers["tclasses"] = _NO_GUARANTEES
        if self._sets_tpid:
            offers["tpid"] = Capability(
                Support.LIMITED,
                by=self.name,
                limit="of the whole device; a change restarts all VFs",
            )
        else:
            reason = (
                "this device's outer TPID can't be set (X722); an X710's or a software NIC's can"
            )
            offers["tpid"] = Capability(
                Support.ABSENT, reason=reason, consequence="service tags are 0x8100"
            )
        return offers

    def observe_pf(self, wanted: PfPolicy) -> Mapping[str, Any]:
        if not self.present():
            return {}
        shown: dict[str, Any] = {"enable_loopback": any(self._loopback().values())}
        if wanted.tpid != self._outer_tpid():
            shown["tpid"] = self._outer_tpid()
        if wanted.enable_qos and not are_as_asked(class_map(self._root), wanted, self._link_mbps()):
            shown["enable_qos"] = False
        return shown

    def write_pf(self, now: PfPolicy, after: PfPolicy) -> None:  # noqa: ARG002
        """Raises NicError; the caller then writes the old policy again."""
        self._pf = after
        if not self.present():
            return
        on = "on" if after.enable_loopback else "off"
        writes = [
            Write(self._root / f"{vfid}/loopback", on)
            for vfid, is_on in self._loopback().items()
            if is_on != after.enable_loopback
        ]
        if after.tpid != self._outer_tpid() and self._has_tpid():
            writes.append(Write(self._root / "tpid", f"{after.tpid:x}"))
        if after.enable_qos:
            wanted = restrictions(after, self._link_mbps())
            have = class_map(self._root)
            classes = [tc for tc in wanted if have.get(tc) != wanted[tc]]
            for tc in classes:
                folder = self._root / f"qos/{tc}"
                writes.append(Write(folder / "priority", ",".join(map(str, wanted[tc].pcps))))
                writes.append(Write(folder / "lsp", "on" if wanted[tc].lsp else "off"))
                writes.append(Write(folder / "max_bw", str(wanted[tc].max_mbps)))
            if classes:
                writes.append(Write(self._root / "qos/apply", "1"))
        run(writes)
        if after.enable_qos and class_map(self._root) != restrictions(after, self._link_mbps()):
            raise NicError(
                f"{self._root}/qos: the driver did not take the traffic classes: it can't go back"
                " to fewer until it is loaded anew"
            )

    def _loopback(self) -> Mapping[int, bool]:
        try:
            return {
                vfid: read(self._root / f"{vfid}/loopback") == "on"
                for vfid in vf_numbers(self._root)
            }
        except OSError as error:
            raise NicError(f"{self._root}: {error}") from error

    def _link_mbps(self) -> int:
        """The PF's speed; 0 while its link is down."""
        for netdev in sorted((self._root.parent / "net").glob("*")):
            try:
                return max(0, int(read(netdev / "speed")))
            except (OSError, ValueError):
                continue
        return 0


def _mirror_targets(rules: VfRules) -> Mapping[Direction, int]:
    targets = {}
    for mirror in rules.mirror:
        for direction in (Direction.IN, Direction.OUT):
            if mirror.direction in (direction, Direction.ALL):
                targets[direction] = mirror.target
    return targets


def _mirrors(files: VfFiles) -> tuple[Mirror, ...]:
    into, out = files.ingress_mirror, files.egress_mirror
    if into is not None and into == out:
        return (Mirror(target=into, direction=Direction.ALL),)
    pairs = ((into, Direction.IN), (out, Direction.OUT))
    return tuple(
        Mirror(target=target, direction=direction)
        for target, direction in pairs
        if target is not None
    )


def _no_mirror(rules: VfRules) -> str:
    if any(mirror.vlans for mirror in rules.mirror):
        return (
            "by VLAN, i40e copies the frames of every VF in that VLAN (vlan_mirror), not this VF's:"
            " mirror all of this VF's VLANs"
        )
    directions = [
        direction
        for mirror in rules.mirror
        for direction in (Direction.IN, Direction.OUT)
        if mirror.direction in (direction, Direction.ALL)
    ]
    if len(directions) != len(set(directions)):
        return "i40e has one mirror target for each direction of a VF"
    return ""


def _whole_shares(rules: VfRules) -> tuple[tuple[int, int], ...]:
    return tuple(sorted((queue.priority, max(1, int(queue.share))) for queue in rules.queues))
