"""rtnetlink's VF operations, ``IFLA_VFINFO_LIST``: the surface that every SR-IOV driver has.

One RTM_SETLINK carries the settings of all VFs of a PF; the kernel makes them one by one in the
message's order (net/core/rtnetlink.c, do_setlink and do_setvfinfo) and stops at the first that the
driver refuses. A refused message is therefore undone by one with the old settings.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vfd.nic.kernel.drivers import Driver
from vfd.nic.kernel.surface import Assignment, Shown
from vfd.nic.protocol import Capability, NicError, NicGoneError, Support
from vfd.policy.rate import Rate
from vfd.policy.values import C_TAG, S_TAG, LinkStatus, VfRules

ZERO_MAC = "00:00:00:00:00:00"
MBPS = 10**6
_LINK_STATES = {LinkStatus.AUTO: 0, LinkStatus.ON: 1, LinkStatus.OFF: 2}
_LINK_STATUS = {number: status for status, number in _LINK_STATES.items()}
_UNKNOWN = 0xFFFFFFFF
"""What the kernel reports for spoof check and trust where the driver says nothing."""
RTEXT_FILTER_VF = 1
RTEXT_FILTER_SKIP_STATS = 8


@dataclass(frozen=True, slots=True)
class VfSettings:
    """One VF's settings in rtnetlink's own terms. None: the driver has no such operation."""

    mac: str | None = None
    """None: left as it is, the guest's own choice."""
    vlan: int = 0
    qos: int = 0
    tpid: int = C_TAG
    spoofchk: bool | None = None
    trust: bool | None = None
    max_tx_mbps: int = 0
    min_tx_mbps: int = 0
    link_state: int | None = None


class Rtnetlink:
    """The surface. ``netdev`` is the PF's, in the namespace of the socket."""

    name = "rtnetlink"

    def __init__(self, ip: IPRoute, netdev: str, driver: Driver) -> None:
        self._ip = ip
        self._netdev = netdev
        self._driver = driver
        self._forced: dict[int, str | None] = {}
        """The MAC that was forced on each VF, None where none was. A MAC that a guest chose looks
        the same in IFLA_VF_MAC as one that was forced; where this process has not yet written to
        a VF, what is shown counts as forced."""

    def capabilities(self) -> Mapping[str, Capability]:
        has = self._driver
        enforced = Capability(Support.ENFORCED, by=self.name)
        access = Capability(
            Support.LIMITED, by=self.name, limit="one VLAN that the NIC inserts and strips"
        )
        offers = {
            "vm_mac": enforced,
            "vlans": access,
            "strip_ctag": access,
            "allow_untagged": Capability(
                Support.LIMITED, by=self.name, limit="refused in access modes only"
            ),
            "vlan_anti_spoof": access,
            "mtu": Capability(
                Support.LIMITED, by=self.name, limit="the PF's MTU is the most that a VF gets"
            ),
        }
        if S_TAG in has.vlan_tpids:
            offers["strip_stag"] = access
        if has.spoofchk:
            offers["mac_anti_spoof"] = enforced
        if has.trust:
            offers["trust"] = enforced
            offers["allow_un_ucast"] = Capability(
                Support.LIMITED,
                by=self.name,
                limit="refused: without trust the driver gives a VF no unknown unicast",
            )
        if has.max_tx_rate:
            offers["rate"] = Capability(Support.LIMITED, by=self.name, limit="steps of 1 Mbit/s")
        if has.min_tx_rate:
            offers["min_rate"] = offers["rate"]
        if has.link_state:
            offers["link_status"] = enforced
        return offers

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:
        short: dict[str, Capability] = {}

        def lacks(attribute: str, reason: str, consequence: str = "") -> None:
            short[attribute] = Capability(Support.ABSENT, reason=reason, consequence=consequence)

        if rules.access_vid is None:
            trunk = (
                "rtnetlink offers one VLAN per VF, inserted and stripped by the NIC: set strip_ctag"
                " and one VLAN, or use a NIC with a VLAN list (i40e's sysfs, VGT+, switchdev)"
            )
            if rules.vlans:
                lacks("vlans", trunk)
                lacks("vlan_anti_spoof", trunk)
            else:
                lacks("vlans", "rtnetlink can't keep a guest from tagging")
                lacks("vlan_anti_spoof", "rtnetlink can't keep a guest from tagging")
            for attribute in ("strip_ctag", "strip_stag"):
                if getattr(rules, attribute):
                    lacks(attribute, "stripping without inserting is not offered: name one VLAN")
            lacks("allow_untagged", trunk)
        elif rules.strip_stag and S_TAG not in self._driver.vlan_tpids:
            lacks(
                "strip_stag",
                "this driver inserts 802.1Q tags only (EPROTONOSUPPORT for 802.1ad)",
            )
        return short

    def express(self, assigned: Assignment) -> Shown:
        return _shown(self._settings(None, assigned), self._driver)

    def read(self) -> Mapping[int, Shown]:
        return {
            vfid: _shown(self._as_forced(vfid, settings), self._driver)
            for vfid, settings in self.settings().items()
        }

    def _as_forced(self, vfid: int, settings: VfSettings) -> VfSettings:
        """Without the MAC that the guest itself chose."""
        chosen = vfid in self._forced and self._forced[vfid] is None
        return replace(settings, mac=None) if chosen else settings

    def settings(self) -> Mapping[int, VfSettings]:
        """Every VF's settings, read from the kernel. Raises NicError, NicGoneError."""
        link = self._link()
        infos = link.get_attr("IFLA_VFINFO_LIST")
        found = {}
        for info in infos.get_attrs("IFLA_VF_INFO") if infos else ():
            vfid, settings = _parse(info, self._driver)
            found[vfid] = settings
        return found

    def write(self, wanted: Mapping[int, Assignment]) -> None:
        before = self.settings()
        after = {vfid: self._settings(vfid, assigned) for vfid, assigned in wanted.items()}
        missing = after.keys() - before.keys()
        if missing:
            raise NicError(
                f"{self._netdev}: no VF {', '.join(map(str, sorted(missing)))};"
                f" the PF has {len(before)}"
            )
        changes = {
            vfid: (before[vfid], settings)
            for vfid, settings in after.items()
            if _spec(vfid, before[vfid], settings).keys() != {"vf"}
        }
        if changes:
            try:
                self._send(changes)
            except NicError:
                self._send({vfid: (new, old) for vfid, (old, new) in changes.items()})
                raise
        for vfid, settings in after.items():
            self._forced[vfid] = None if settings.mac in (None, ZERO_MAC) else settings.mac

    def _settings(self, vfid: int | None, assigned: Assignment) -> VfSettings:
        """What is assigned, in rtnetlink's terms; neutral where nothing is."""
        has, rules, mine = self._driver, assigned.rules, assigned.attributes
        neutral = VfSettings(
            mac=ZERO_MAC if vfid is not None and self._forced.get(vfid) else None,
            spoofchk=has.spoofchk or None,
            trust=False if has.trust else None,
            link_state=_LINK_STATES[LinkStatus.AUTO] if has.link_state else None,
        )
        if rules is None:
            return replace(
                neutral, link_state=_LINK_STATES[LinkStatus.OFF] if has.link_state else None
            )
        settings = neutral
        if "vm_mac" in mine and rules.vm_mac:
            settings = replace(settings, mac=rules.vm_mac)
        if "vlans" in mine and rules.access_vid is not None:
            tpid = S_TAG if rules.strip_stag else C_TAG
            settings = replace(settings, vlan=rules.access_vid, tpid=tpid)
        if has.spoofchk:
            on = rules.mac_anti_spoof if "mac_anti_spoof" in mine else True
            settings = replace(settings, spoofchk=on)
        if "trust" in mine:
            settings = replace(settings, trust=rules.trust)
        if "rate" in mine:
            settings = replace(settings, max_tx_mbps=_mbps(rules.rate))
        if "min_rate" in mine:
            settings = replace(settings, min_tx_mbps=_mbps(rules.min_rate))
        if "link_status" in mine:
            settings = replace(settings, link_state=_LINK_STATES[rules.link_status])
        return settings

    def _send(self, changes: Mapping[int, tuple[VfSettings, VfSettings]]) -> None:
        """All the changes in one message."""
        index = self._link()["index"]
        spec = [_spec(vfid, before, after) for vfid, (before, after) in sorted(changes.items())]
        try:
            self._ip.link("set", index=index, vf=spec)
        except NetlinkError as error:
            raise NicError(
                f"{self._netdev}: the driver refused the settings of"
                f" VF {', '.join(map(str, sorted(changes)))}: {os.strerror(error.code)}"
            ) from error

    def _link(self) -> Any:
        try:
            links = self._ip.get_links(
                ifname=self._netdev, ext_mask=RTEXT_FILTER_VF | RTEXT_FILTER_SKIP_STATS
            )
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                raise NicGoneError(f"{self._netdev}: the PF's netdev is gone") from error
            raise NicError(f"{self._netdev}: {os.strerror(error.code)}") from error
        for link in links:
            return link
        raise NicGoneError(f"{self._netdev}: the PF's netdev is gone")


def _mbps(rate: Rate) -> int:
    """Whole Mbit/s, at least 1 where there is a rate at all (0 means none to the kernel)."""
    bps = rate.bps or 0
    return max(1, round(bps / MBPS)) if bps else 0


def _spec(vfid: int, before: VfSettings, after: VfSettings) -> dict[str, Any]:
    """pyroute2's form of what differs."""
    spec: dict[str, Any] = {"vf": vfid}
    if after.mac is not None and before.mac != after.mac:
        spec["mac"] = after.mac
    if (before.vlan, before.qos, before.tpid) != (after.vlan, after.qos, after.tpid):
        spec["vlan"] = (
            {"vlan": after.vlan, "qos": after.qos}
            if after.tpid == C_TAG
            else [{"vlan": after.vlan, "qos": after.qos, "proto": after.tpid}]
        )
    rates = after.min_tx_mbps, after.max_tx_mbps
    if (before.min_tx_mbps, before.max_tx_mbps) != rates:
        spec["rate"] = {"min_tx_rate": after.min_tx_mbps, "max_tx_rate": after.max_tx_mbps}
    for key in ("spoofchk", "trust", "link_state"):
        value = getattr(after, key)
        if value is not None and getattr(before, key) != value:
            spec[key] = int(value)
    return spec


def _parse(info: Any, driver: Driver) -> tuple[int, VfSettings]:
    mac = info.get_attr("IFLA_VF_MAC")
    vlan = info.get_attr("IFLA_VF_VLAN") or {"vlan": 0, "qos": 0}
    tagged = _vlan_info(info)
    rate = info.get_attr("IFLA_VF_RATE") or {"min_tx_rate": 0, "max_tx_rate": 0}

    def flag(name: str, key: str, offered: bool) -> bool | None:
        found = info.get_attr(name)
        if not offered or found is None or found[key] in (_UNKNOWN, -1):
            return None
        return bool(found[key])

    state = info.get_attr("IFLA_VF_LINK_STATE")
    return mac["vf"], VfSettings(
        mac=mac["mac"][:17],
        vlan=vlan["vlan"],
        qos=vlan["qos"],
        tpid=tagged if vlan["vlan"] and tagged else C_TAG,
        spoofchk=flag("IFLA_VF_SPOOFCHK", "spoofchk", driver.spoofchk),
        trust=flag("IFLA_VF_TRUST", "trust", driver.trust),
        max_tx_mbps=rate["max_tx_rate"],
        min_tx_mbps=rate["min_tx_rate"],
        link_state=state["link_state"] if state and driver.link_state else None,
    )


def _vlan_info(info: Any) -> int | None:
    """The TPID of the VF's port VLAN, from IFLA_VF_VLAN_LIST."""
    listed = info.get_attr("IFLA_VF_VLAN_LIST")
    first = listed.get_attr("IFLA_VF_VLAN_INFO") if listed else None
    return int(first["proto"]) if first else None


def _shown(settings: VfSettings, driver: Driver) -> Shown:
    """Settings as attributes of VfRules; a closed VF (link off) as such."""
    shown: dict[str, Any] = {
        "vm_mac": None if settings.mac in (None, ZERO_MAC) else settings.mac,
        "vlans": (settings.vlan,) if settings.vlan else (),
        "strip_stag": bool(settings.vlan) and settings.tpid == S_TAG,
        "strip_ctag": bool(settings.vlan) and settings.tpid == C_TAG,
        "rate": Rate(bps=settings.max_tx_mbps * MBPS),
        "min_rate": Rate(bps=settings.min_tx_mbps * MBPS),
    }
    if settings.spoofchk is not None:
        shown["mac_anti_spoof"] = settings.spoofchk
    if settings.trust is not None:
        shown["trust"] = settings.trust
    if driver.link_state and settings.link_state is not None:
        shown["link_status"] = _LINK_STATUS.get(settings.link_state, LinkStatus.AUTO)
    return shown
