"""A model of Intel's SR-IOV hypervisor management interface, ``…/device/sriov/``.

Sources, for Intel's out-of-tree i40e 2.28.16: its README, section "SR-IOV Hypervisor Management
Interface" (R), and what its driver does where the README is silent, src/kcompat_vfd.c (K) and the
operations in src/i40e_virtchnl_pf.c (V). The X700's switch itself is not modelled: no frames.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from lab.models.files import File, Tree, refuse
from lab.models.text import (
    parse_edit,
    parse_flag,
    parse_list,
    parse_mac,
    parse_macs,
    parse_number,
    show_flag,
    show_list,
)

CLASSES = 8
MAC_FILTERS = 227
"""PAGE_SIZE / 18 MAC filters fit a VF; further ones are dropped with a line in the log only (V)."""
STEP_MBPS = 50
EBADPARAM = 5
"""I40E_ERR_PARAM, which reaches the writer as errno 5 (V)."""
EBADMAC = 10
"""I40E_ERR_INVALID_MAC_ADDR, likewise errno 10 (V)."""
BROADCAST = "ff:ff:ff:ff:ff:ff"


@dataclass(slots=True)
class Vf:
    """What the driver holds of one VF; the defaults are those of a VF just created (V)."""

    number: int
    mac: str
    trunk: set[int] = field(default_factory=set)
    vlan_mirror: set[int] = field(default_factory=set)
    egress_mirror: int | None = None
    ingress_mirror: int | None = None
    mirror_rules: list[tuple[str, int]] = field(default_factory=list)
    """The rules in the switch. Adding a target over another leaves the old rule there (V)."""
    mac_anti_spoof: bool = True
    vlan_anti_spoof: bool = False
    allow_untagged: bool = True
    allow_bcast: bool = True
    loopback: bool = True
    macs: list[str] = field(default_factory=list)
    promisc: set[str] = field(default_factory=set)
    vlan_strip: bool = True
    strips: bool = True
    """Whether the hardware strips: writing a trunk turns it on behind ``vlan_strip`` (V)."""
    enable: bool = True
    link: str = "auto"
    max_tx_rate: int = 0
    trust: bool = False
    num_queues: int = 4
    port_vlan: int = 0
    resets: int = 0
    exposed: int = 0
    """Commands after which the VF was on without a trunk or a port VLAN: every VLAN passed."""
    requested_share: list[int] = field(default_factory=lambda: [0] * CLASSES)
    applied_share: list[int] = field(default_factory=lambda: [0] * CLASSES)
    tc_rate: list[int] = field(default_factory=lambda: [0] * CLASSES)
    counters: dict[str, int] = field(default_factory=dict)

    def reset(self) -> None:
        """A VF reset: the driver puts its own settings back, so only the guest notices (V)."""
        self.resets += 1
        self.strips = self.vlan_strip


class IntelModel:
    """The device. ``no_tpid``: as on the X722, whose ``tpid`` can't be set (R)."""

    def __init__(self, vfs: int, *, link_mbps: int = 10_000, no_tpid: bool = False) -> None:
        self.vfs = [Vf(n, f"02:00:00:00:00:{n:02x}") for n in range(vfs)]
        for vf in self.vfs:
            vf.macs = [BROADCAST, vf.mac]
        self.link_mbps = link_mbps
        self.no_tpid = no_tpid
        self.tpid = 0x8100
        self.mirrors: dict[str, int | None] = {"egress_mirror": None, "ingress_mirror": None}
        self.classes: dict[int, int] = {}
        """PCP → traffic class, as the user mapped them."""
        self.lsp = [False] * CLASSES
        self.max_bw = [0] * CLASSES
        self.dcb = False
        self.to_reconfigure = False

    def state(self) -> Any:
        """Everything, for ``.model/state``."""
        vfs = [
            {**asdict(vf), "trunk": sorted(vf.trunk), "vlan_mirror": sorted(vf.vlan_mirror)}
            | {"promisc": sorted(vf.promisc)}
            for vf in self.vfs
        ]
        return {"tpid": self.tpid, "dcb": self.dcb, "classes": self.classes, "vfs": vfs}

    def tree(self) -> Tree:
        """The files below ``sriov``."""
        pf: dict[str, File | Tree] = {
            name: File(self._show_pf_mirror(name), self._store_pf_mirror(name))
            for name in self.mirrors
        }
        pf["tpid"] = File(self._show_tpid, self._store_tpid)
        pf["qos"] = {
            "apply": File(store=self._apply),
            **{str(tc): self._class_files(tc) for tc in range(CLASSES)},
        }
        return {**pf, **{str(vf.number): _watched(vf, self._vf_files(vf)) for vf in self.vfs}}

    def control(self) -> Tree:
        """What others do: ``port_vlan`` takes ``VF VID`` as ``ip link set … vf … vlan`` would;
        ``guest_mac`` takes ``VF MAC``, a filter that a guest asks for."""
        return {
            "port_vlan": File(store=self._port_vlan),
            "guest_mac": File(store=self._guest_mac),
        }

    def _vf_files(self, vf: Vf) -> Tree:
        def flag(name: str, after: Callable[[Vf], None] = lambda _: None) -> File:
            def store(text: str) -> None:
                value = parse_flag(text)
                if value != getattr(vf, name):  # unchanged values never reach the device (K)
                    setattr(vf, name, value)
                    after(vf)

            return File(lambda: show_flag(getattr(vf, name)), store)

        def strip_follows(changed: Vf) -> None:
            changed.strips = changed.vlan_strip

        classes: Tree = {str(tc): self._vf_class_files(vf, tc) for tc in range(CLASSES)}
        return {
            "trunk": File(lambda: show_list(vf.trunk), lambda text: self._store_trunk(vf, text)),
            "vlan_mirror": File(
                lambda: show_list(vf.vlan_mirror), lambda text: self._store_vlan_mirror(vf, text)
            ),
            "egress_mirror": self._mirror_file(vf, "egress_mirror"),
            "ingress_mirror": self._mirror_file(vf, "ingress_mirror"),
            "mac_anti_spoof": flag("mac_anti_spoof"),
            "vlan_anti_spoof": flag("vlan_anti_spoof"),
            "allow_untagged": flag("allow_untagged"),
            "allow_bcast": flag("allow_bcast", _broadcast_filter),
            "loopback": flag("loopback"),
            "mac": File(lambda: vf.mac + "\n", lambda text: _store_mac(vf, text)),
            "mac_list": File(lambda: _show_macs(vf), lambda text: _store_macs(vf, text)),
            "promisc": File(lambda: _show_promisc(vf), lambda text: _store_promisc(vf, text)),
            "vlan_strip": flag("vlan_strip", strip_follows),
            "enable": flag("enable", _enabled_or_disabled),
            "link_state": File(lambda: self._show_link(vf), lambda text: _store_link(vf, text)),
            "max_tx_rate": File(
                lambda: f"{vf.max_tx_rate}\n", lambda text: self._store_rate(vf, text)
            ),
            "min_tx_rate": File(_unsupported, _unsupported_store),
            "trust": flag("trust"),
            "queue_type": File(lambda: "0\n", _unsupported_store),
            "num_queues": File(lambda: f"{vf.num_queues}\n", lambda text: _store_queues(vf, text)),
            "stats": {
                name: File(lambda name=name: f"{vf.counters.get(name, 0)}\n")  # type: ignore[misc]
                for name in (
                    "rx_bytes",
                    "rx_packets",
                    "rx_dropped",
                    "tx_bytes",
                    "tx_packets",
                    "tx_dropped",
                    "tx_errors",
                )
            }
            | {"tx_spoofed": File(_unsupported)},
            "reset_stats": File(store=lambda text: _reset_stats(vf, text)),
            "qos": classes,
        }

    # -- VLANs and mirrors ------------------------------------------------------------------

    def _store_trunk(self, vf: Vf, text: str) -> None:
        """R: VLANs to be removed that are not there are ignored. V: writing a trunk ends a port
        VLAN, turns stripping on, and the first VLAN shuts untagged frames out; an empty trunk lets
        everything pass."""
        adding, rest = parse_edit(text)
        vlans = parse_list(rest)
        before, after = vf.trunk, vf.trunk | vlans if adding else vf.trunk - vlans
        if after == before:
            return
        if vf.port_vlan:
            after = after - {vf.port_vlan, 0} if not adding else after
            vf.port_vlan = 0
        vf.strips = True
        if after and not before:
            vf.allow_untagged = False
        if not after:
            vf.allow_untagged = True
        vf.trunk = after

    def _store_vlan_mirror(self, vf: Vf, text: str) -> None:
        adding, rest = parse_edit(text)
        vlans = parse_list(rest)
        after = vf.vlan_mirror | vlans if adding else vf.vlan_mirror - vlans
        if len(after) > 192:  # V: "Maximum limit of mirrored VLANs is 192"
            raise refuse(errno.EINVAL)
        vf.vlan_mirror = after

    def _mirror_file(self, vf: Vf, name: str) -> File:
        def show() -> str:
            target = getattr(vf, name)
            return "off\n" if target is None else f"{target}\n"

        def store(text: str) -> None:
            adding, rest = parse_edit(text)
            target = parse_number(rest)
            now = getattr(vf, name)
            if not adding and target != now:
                raise refuse(errno.EINVAL)  # K: "input doesn't match current value"
            if adding and target == vf.number:
                raise refuse(errno.EINVAL)  # K: "Setting … to itself is not allowed"
            if adding and target == now:
                return
            if not 0 <= target < len(self.vfs):
                raise refuse(errno.EINVAL)
            if adding:
                vf.mirror_rules.append((name, target))
                setattr(vf, name, target)
            else:
                vf.mirror_rules.remove((name, target))
                setattr(vf, name, None)

        return File(show, store)

    def _show_pf_mirror(self, name: str) -> Callable[[], str]:
        def show() -> str:
            target = self.mirrors[name]
            return "off\n" if target is None else f"{target}\n"

        return show

    def _store_pf_mirror(self, name: str) -> Callable[[str], None]:
        def store(text: str) -> None:
            adding, rest = parse_edit(text)
            target = parse_number(rest)
            if not 0 <= target < len(self.vfs) or (not adding and target != self.mirrors[name]):
                raise refuse(errno.EINVAL)
            self.mirrors[name] = target if adding else None

        return store

    def _port_vlan(self, text: str) -> None:
        """V, i40e_ndo_set_vf_port_vlan: the port VLAN replaces the trunk; ending it empties it."""
        number, vid = map(int, text.split())
        vf = self.vfs[number]
        if vid == vf.port_vlan:
            return
        vf.port_vlan = vid
        vf.trunk = {vid} if vid else set()
        vf.allow_untagged = not vid

    def _guest_mac(self, text: str) -> None:
        number, mac = text.split()
        self.vfs[int(number)].macs.append(parse_mac(mac))

    # -- PF: TPID and traffic classes -------------------------------------------------------

    def _show_tpid(self) -> str:
        if self.no_tpid:
            raise refuse(errno.EOPNOTSUPP)
        return f"{self.tpid:x}\n"

    def _store_tpid(self, text: str) -> None:
        """R: changing the TPID restarts all VFs."""
        if self.no_tpid:
            raise refuse(errno.EOPNOTSUPP)
        tpid = parse_number(text, 16)
        if tpid not in (0x8100, 0x88A8):
            raise refuse(errno.EINVAL)
        if tpid != self.tpid:
            self.tpid = tpid
            for vf in self.vfs:
                vf.reset()

    def _enabled_classes(self) -> set[int]:
        return set(self.classes.values()) if self.dcb else {0}

    def _class_files(self, tc: int) -> Tree:
        def needs_class() -> None:
            if tc not in self._enabled_classes():
                raise refuse(errno.EINVAL)

        def show_priority() -> str:
            if not self.dcb:
                raise refuse(errno.EPERM)
            mine = sorted(pcp for pcp, of in self.classes.items() if of == tc)
            return "".join(f"{pcp}," for pcp in mine) + "\n" if mine else ""

        def store_priority(text: str) -> None:
            """A PCP that another class has: refused in the log only, the write succeeds (K, V)."""
            pcps = {parse_number(word.strip()) for word in text.split(",")}
            if not pcps <= set(range(CLASSES)):
                raise refuse(errno.EINVAL)
            if any(self.classes.get(pcp, tc) != tc for pcp in pcps):
                return
            self.classes = {p: of for p, of in self.classes.items() if of != tc}
            self.classes |= dict.fromkeys(pcps, tc)
            self.to_reconfigure = True

        def show_lsp() -> str:
            if not self.dcb:
                raise refuse(errno.EPERM)
            needs_class()
            return show_flag(self.lsp[tc])

        def store_lsp(text: str) -> None:
            self.lsp[tc] = parse_flag(text)
            self.to_reconfigure = True

        def show_bw() -> str:
            needs_class()
            return f"{self.max_bw[tc]}\n"

        def store_bw(text: str) -> None:
            self.max_bw[tc] = self._stepped(parse_number(text))
            self.to_reconfigure = True

        return {
            "priority": File(show_priority, store_priority),
            "lsp": File(show_lsp, store_lsp),
            "max_bw": File(show_bw, store_bw),
        }

    def _stepped(self, mbps: int) -> int:
        """K: rounded up to steps of 50 Mbit/s; V: at most the link's speed."""
        stepped = -(-mbps // STEP_MBPS) * STEP_MBPS
        if not 0 <= stepped <= self.link_mbps:
            raise refuse(errno.EINVAL)
        return stepped

    def _vf_class_files(self, vf: Vf, tc: int) -> Tree:
        def needs_class() -> None:
            if tc not in self._enabled_classes():
                raise refuse(errno.EINVAL)

        def show_share() -> str:
            needs_class()
            return f"{vf.applied_share[tc]}\n"

        def store_share(text: str) -> None:
            """R: "You cannot revert the share back to 0 once it has been set." """
            share = parse_number(text)
            if not 0 <= share <= 100 or (vf.requested_share[tc] and not share):
                raise refuse(errno.EINVAL)
            vf.requested_share[tc] = share
            self.to_reconfigure = True

        def show_rate() -> str:
            needs_class()
            return f"{vf.tc_rate[tc]}\n"

        def store_rate(text: str) -> None:
            rate = self._stepped(parse_number(text))
            needs_class()
            vf.tc_rate[tc] = rate

        return {
            "share": File(show_share, store_share),
            "max_tc_tx_rate": File(show_rate, store_rate),
        }

    def _apply(self, text: str) -> None:
        """V, i40e_set_pf_qos_apply: nothing of qos holds before it. It quiesces and resets every VF
        where something was changed, and hands what is left of a class to VFs without a share."""
        if parse_number(text) != 1:
            raise refuse(errno.EINVAL)
        sums = [sum(vf.requested_share[tc] for vf in self.vfs) for tc in range(CLASSES)]
        if any(total > 100 for total in sums):
            raise refuse(EBADPARAM)
        if self.to_reconfigure:
            self.dcb = self.dcb or bool(self.classes)
            for vf in self.vfs:
                vf.resets += 1
                vf.link = "auto" if vf.enable else "disable"
            self.to_reconfigure = False
        enabled = self._enabled_classes()
        for tc in range(CLASSES):
            without = [vf for vf in self.vfs if not vf.requested_share[tc]]
            for vf in self.vfs:
                if tc not in enabled:
                    vf.requested_share[tc] = 0
                elif vf in without:
                    vf.requested_share[tc] = (100 - sums[tc]) // len(without)
                vf.applied_share[tc] = vf.requested_share[tc]

    # -- rates and links --------------------------------------------------------------------

    def _store_rate(self, vf: Vf, text: str) -> None:
        mbps = parse_number(text)
        if not 0 <= mbps <= self.link_mbps:
            raise refuse(errno.EINVAL)
        vf.max_tx_rate = mbps

    def _show_link(self, vf: Vf) -> str:
        """K: whether the link is up and its speed; ``auto`` is not told from ``enable``."""
        return "down\n" if vf.link == "disable" else "up, 10 Gbps\n"


def _watched(vf: Vf, files: Tree) -> Tree:
    """The files, with an eye on what the VF can do after each command."""

    def watched(file: File | Tree) -> File | Tree:
        if not isinstance(file, File) or file.store is None:
            return file
        taken = file.store

        def store(text: str) -> None:
            taken(text)
            if vf.enable and vf.link != "disable" and not vf.trunk and not vf.port_vlan:
                vf.exposed += 1

        return File(file.show, store)

    return {name: watched(file) for name, file in files.items()}


def _unsupported() -> str:
    raise refuse(errno.EOPNOTSUPP)


def _unsupported_store(_: str) -> None:
    raise refuse(errno.EOPNOTSUPP)


def _enabled_or_disabled(vf: Vf) -> None:
    """R: enabling resets the VF. V: disabling forces its link down, enabling makes it ``auto``."""
    vf.link = "auto" if vf.enable else "disable"
    if vf.enable:
        vf.reset()


def _broadcast_filter(vf: Vf) -> None:
    if vf.allow_bcast:
        vf.macs.append(BROADCAST)
    else:
        vf.macs.remove(BROADCAST)


def _store_mac(vf: Vf, text: str) -> None:
    mac = parse_mac(text)
    if mac != vf.mac:
        vf.macs = [mac if known == vf.mac else known for known in vf.macs]
        vf.mac = mac


def _show_macs(vf: Vf) -> str:
    """V: every MAC filter of the VF: broadcast, its default MAC, its guest's, in no order."""
    return ",".join(vf.macs) + "\n" if vf.macs else ""


def _store_macs(vf: Vf, text: str) -> None:
    adding, rest = parse_edit(text)
    for mac in parse_macs(rest):
        if adding and mac not in vf.macs:
            if len(vf.macs) < MAC_FILTERS:
                vf.macs.append(mac)
        elif not adding:
            if mac not in vf.macs:
                raise refuse(EBADMAC)
            vf.macs.remove(mac)


def _show_promisc(vf: Vf) -> str:
    return (", ".join(mode for mode in ("ucast", "mcast") if mode in vf.promisc) or "off") + "\n"


def _store_promisc(vf: Vf, text: str) -> None:
    adding, mode = parse_edit(text)
    if mode.strip() not in ("ucast", "mcast"):
        raise refuse(errno.EINVAL)
    vf.promisc = vf.promisc | {mode.strip()} if adding else vf.promisc - {mode.strip()}


def _store_link(vf: Vf, text: str) -> None:
    if text not in ("auto", "enable", "disable"):
        raise refuse(errno.EINVAL)
    vf.link = text


def _store_queues(vf: Vf, text: str) -> None:
    queues = parse_number(text)
    if not 1 <= queues <= 16:
        raise refuse(errno.EINVAL)
    vf.num_queues = queues
    vf.resets += 1


def _reset_stats(vf: Vf, text: str) -> None:
    if parse_number(text) != 1:
        raise refuse(errno.EINVAL)
    vf.counters.clear()
