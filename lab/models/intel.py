"""A model of Intel's SR-IOV hypervisor management interface, ``…/device/sriov/``.

Sources, for Intel's out-of-tree i40e 2.28.16: its README, section "SR-IOV Hypervisor Management
Interface" (R), and what its driver does where the README is silent, src/kcompat_vfd.c (K) and the
operations in src/i40e_virtchnl_pf.c (V). The X700's switch itself is not modelled: no frames.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from lab.models.files import File, Tree, refuse
from lab.models.intel_vf import (
    BROADCAST,
    CLASSES,
    Vf,
    ip_link_set,
    own_files,
    set_port_vlan,
    watched,
)
from lab.models.text import (
    parse_edit,
    parse_flag,
    parse_list,
    parse_mac,
    parse_number,
    show_flag,
    show_list,
)

STEP_MBPS = 50
EBADPARAM = 5
"""I40E_ERR_PARAM, which reaches the writer as errno 5 (V)."""
TOTAL_VFS = 64


class IntelModel:
    """The device. ``no_tpid``: as on the X722, whose ``tpid`` can't be set (R)."""

    def __init__(self, vfs: int, *, link_mbps: int = 10_000, no_tpid: bool = False) -> None:
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
        self._make(vfs)

    def _make(self, vfs: int) -> None:
        """As many VFs as new, and the files as they then are."""
        self.vfs = [Vf(n, f"02:00:00:00:00:{n:02x}") for n in range(vfs)]
        for vf in self.vfs:
            vf.macs = [BROADCAST, vf.mac]
        self._tree = self._files()

    def state(self) -> Any:
        """Everything, for ``.model/state``."""
        vfs = [
            {**asdict(vf), "trunk": sorted(vf.trunk), "vlan_mirror": sorted(vf.vlan_mirror)}
            | {"promisc": sorted(vf.promisc)}
            for vf in self.vfs
        ]
        return {"tpid": self.tpid, "dcb": self.dcb, "classes": self.classes, "vfs": vfs}

    def tree(self) -> Tree:
        """The files below ``sriov``, as they are now."""
        return self._tree

    def _files(self) -> Tree:
        if not self.vfs:
            return {}
        pf: dict[str, File | Tree] = {
            name: File(self._show_pf_mirror(name), self._store_pf_mirror(name))
            for name in self.mirrors
        }
        pf["tpid"] = File(self._show_tpid, self._store_tpid)
        pf["qos"] = {
            "apply": File(store=self._apply),
            **{str(tc): self._class_files(tc) for tc in range(CLASSES)},
        }
        return {**pf, **{str(vf.number): watched(vf, self._vf_files(vf)) for vf in self.vfs}}

    def control(self) -> Tree:
        """What others do: ``ip`` takes ``VF WORD VALUE…``, as ``ip link set PF vf`` would set it,
        ``port_vlan`` takes ``VF VID``; ``guest_mac`` takes ``VF MAC``, a filter that a guest asks
        for; ``count`` takes ``VF COUNTER NUMBER``; ``numvfs`` is the device's ``sriov_numvfs``."""
        return {
            "ip": File(store=self._ip),
            "port_vlan": File(store=self._port_vlan),
            "guest_mac": File(store=self._guest_mac),
            "count": File(store=self._count),
            "numvfs": File(lambda: f"{len(self.vfs)}\n", self._store_numvfs),
        }

    def _count(self, text: str) -> None:
        number, name, value = text.split()
        self.vfs[int(number)].counters[name] = int(value)

    def _vf_files(self, vf: Vf) -> Tree:
        return {
            **own_files(vf),
            "trunk": File(lambda: show_list(vf.trunk), lambda text: self._store_trunk(vf, text)),
            "vlan_mirror": File(
                lambda: show_list(vf.vlan_mirror), lambda text: self._store_vlan_mirror(vf, text)
            ),
            "egress_mirror": self._mirror_file(vf, "egress_mirror"),
            "ingress_mirror": self._mirror_file(vf, "ingress_mirror"),
            "max_tx_rate": File(
                lambda: f"{vf.max_tx_rate}\n", lambda text: self._store_rate(vf, text)
            ),
            "qos": {
                "share": File(lambda: _show_share(vf), lambda text: _store_share(vf, text)),
                **{str(tc): self._vf_class_files(vf, tc) for tc in range(CLASSES)},
            },
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
        number, vid = map(int, text.split())
        set_port_vlan(self.vfs[number], vid)

    def _ip(self, text: str) -> None:
        number, *words = text.split()
        if not 0 <= int(number) < len(self.vfs):
            raise refuse(errno.EINVAL)
        ip_link_set(self.vfs[int(number)], words)

    def _store_numvfs(self, text: str) -> None:
        """``sriov_numvfs_store``: from one number to another by way of 0 only. The driver makes
        its folder with the VFs and takes it away with them (K, create_vfd_sysfs)."""
        count = parse_number(text)
        if not 0 <= count <= TOTAL_VFS:
            raise refuse(errno.ERANGE)
        if count and self.vfs and count != len(self.vfs):
            raise refuse(errno.EBUSY)
        if count != len(self.vfs):
            self._make(count)

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
        if any(total > 100 for total in sums) or sum(vf.bw_share for vf in self.vfs) > 100:
            raise refuse(EBADPARAM)
        for vf in self.vfs:
            vf.bw_share_applied |= bool(vf.bw_share) and not any(vf.requested_share)
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

    # -- rates ------------------------------------------------------------------------------

    def _store_rate(self, vf: Vf, text: str) -> None:
        mbps = parse_number(text)
        if not 0 <= mbps <= self.link_mbps:
            raise refuse(errno.EINVAL)
        vf.max_tx_rate = mbps


def _show_share(vf: Vf) -> str:
    """V: not to be read before ``qos/apply``, nor where a class has a share of its own."""
    if any(vf.requested_share):
        raise refuse(errno.EPERM)
    if not vf.bw_share_applied:
        raise refuse(errno.EINVAL)
    return f"{vf.bw_share}\n"


def _store_share(vf: Vf, text: str) -> None:
    share = parse_number(text)
    if not 1 <= share <= 100:  # K
        raise refuse(errno.EINVAL)
    vf.bw_share = share
