"""rtnetlink's VF operations, ``IFLA_VFINFO_LIST``: the surface that every SR-IOV driver has.

One RTM_SETLINK carries the settings of all VFs of a PF; the kernel makes them one by one in the
message's order (net/core/rtnetlink.c, do_setlink and do_setvfinfo) and stops at the first that the
driver refuses. A refused message is therefore undone by one with the old settings.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from vfd.nic.kernel.drivers import Driver
from vfd.nic.kernel.link import read_link
from vfd.nic.kernel.rtnl_order import in_order
from vfd.nic.kernel.surface import Assignment, Shown
from vfd.nic.kernel.vfinfo import (
    NO_MAC,
    RTM_SETLINK,
    VfSettings,
    set_vfs,
)
from vfd.nic.netlink import Message, Netlink, NetlinkError
from vfd.nic.protocol import Capability, NicError, NicGoneError, Support
from vfd.policy.rate import NONE, Rate
from vfd.policy.values import C_TAG, S_TAG, GuestMacs, LinkStatus, PfPolicy, VfRules

MBPS = 10**6
_C_TAGS_ONLY = "this driver inserts 802.1Q tags only (EPROTONOSUPPORT for 802.1ad)"
_AS_CUSTOMER = "the VLAN's tag is a customer tag, and the guest can't send tags of its own"
_MOST_KNOWN = 1024
_LINK_STATES = {LinkStatus.AUTO: 0, LinkStatus.ON: 1, LinkStatus.OFF: 2}
_LINK_STATUS = {number: status for status, number in _LINK_STATES.items()}


class Rtnetlink:
    """The surface. ``index`` is the PF's netdev, in the namespace of the socket; ``pf_tpid`` the
    PF's ``tpid``; ``shown_tpid`` tells the TPID of a VF's port VLAN where netlink doesn't."""

    name = "rtnetlink"

    def __init__(
        self,
        netlink: Netlink,
        index: int,
        driver: Driver,
        *,
        pf_tpid: int = C_TAG,
        shown_tpid: Callable[[int], int] | None = None,
    ) -> None:
        self._netlink = netlink
        self._index = index
        self._driver = self._facts = driver
        self._untold: frozenset[str] | None = None
        """What of spoof check and trust the driver told of no VF; None: there was none."""
        self._pf_tpid = pf_tpid
        self._shown_tpid = shown_tpid
        self._known: dict[VfSettings, Shown] = {}
        self._forced: dict[int, str | None] = {}
        """The MAC that was forced on each VF, None where none was. A MAC that a guest chose looks
        the same in IFLA_VF_MAC as one that was forced; where nobody has said what was (``adopt``)
        and this process has not yet written to a VF, what is shown counts as forced."""

    def adopt(self, forced: Mapping[int, Collection[str]]) -> None:
        """See ``MacSurface``."""
        theirs = frozenset[str]().union(*forced.values())
        for vfid, settings in self.settings().items():
            if vfid in forced and vfid not in self._forced:
                self._forced[vfid] = settings.mac if settings.mac in theirs else None

    def look(self) -> None:
        """What a driver takes is known beforehand, but for what it doesn't tell of its VFs: that
        can't be read back, and it may have no such operation (ndo_get_vf_config leaves it out)."""
        if self._untold is None:
            with contextlib.suppress(NicError):  # whoever reads the VFs meets it, too
                self.settings()
        untold = self._untold or ()
        driver = replace(
            self._facts,
            spoofchk=self._facts.spoofchk and "spoofchk" not in untold,
            trust=self._facts.trust and "trust" not in untold,
        )
        if driver != self._driver:
            self._driver, self._known = driver, {}

    def capabilities(self) -> Mapping[str, Capability]:
        return _offers(self._driver)

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:
        short: dict[str, Capability] = {}

        def lacks(attribute: str, reason: str, consequence: str = "") -> None:
            short[attribute] = Capability(Support.ABSENT, reason=reason, consequence=consequence)

        if rules.access_vid is None:
            trunk = (
                "rtnetlink offers one VLAN per VF, inserted and stripped by the NIC: set strip_ctag"
                " and one VLAN"
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
            lacks("pcp", trunk)
        elif rules.strip_stag and S_TAG not in self._driver.vlan_tpids:
            lacks("strip_stag", _C_TAGS_ONLY, _AS_CUSTOMER)
        elif rules.strip_stag and self._pf_tpid != S_TAG:
            lacks(
                "strip_stag",
                "the PF's tpid is 0x8100, and a port VLAN of that kind is customer-tag access, for"
                " guests that send no tags: set the PF's tpid to 0x88a8",
                _AS_CUSTOMER,
            )
        if self._no_check(rules):
            lacks("mac_anti_spoof", "this driver checks against a forced MAC only: set vm_mac")
        if reason := _no_unknown_unicast(rules, self._driver):
            lacks("allow_un_ucast", reason)
        if self._driver.keeps_macs and not (rules.vm_mac and not rules.trust):
            lacks(
                "guest_macs",
                "this driver keeps guests from further MACs only where vm_mac is forced and trust"
                " is false",
            )
        least = self._driver.rates.least
        for attribute in ("rate", "min_rate"):
            rate: Rate = getattr(rules, attribute)
            if rate.bps and rate.bps < least * MBPS and least > 1:
                lacks(attribute, f"this driver enforces no less than {least} Mbit/s")
        return short

    def express(self, assigned: Assignment) -> Shown:
        return self._shown(self._settings(None, assigned))

    def read(self) -> Mapping[int, Shown]:
        return {
            vfid: self._shown(self._as_forced(vfid, settings))
            for vfid, settings in self.settings().items()
        }

    def _shown(self, settings: VfSettings) -> Shown:
        """Nearly all VFs show what they did when they were read last."""
        if settings not in self._known:
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            self._known[settings] = _shown(settings, self._driver)
        return self._known[settings]

    def _as_forced(self, vfid: int, settings: VfSettings) -> VfSettings:
        """Without the MAC that the guest itself chose."""
        chosen = vfid in self._forced and self._forced[vfid] is None
        return replace(settings, mac=None) if chosen else settings

    def settings(self) -> Mapping[int, VfSettings]:
        """Every VF's settings, read from the kernel. Raises NicError, NicGoneError."""
        has = self._driver
        hidden: dict[str, Any] = {
            name: None for name in ("spoofchk", "trust", "link_state") if not getattr(has, name)
        }
        # Not ours where another surface sets the same rates (devlink).
        hidden |= {} if has.max_tx_rate else {"max_tx_mbps": 0}
        hidden |= {} if has.min_tx_rate else {"min_tx_mbps": 0}

        def seen(vfid: int, settings: VfSettings) -> VfSettings:
            if self._shown_tpid and settings.vlan:
                settings = replace(settings, tpid=self._shown_tpid(vfid))
            return replace(settings, **hidden) if hidden else settings

        told = read_link(self._netlink, self._index).vfs
        if told:
            self._untold = frozenset(
                name
                for name in ("spoofchk", "trust")
                if all(getattr(settings, name) is None for settings in told.values())
            )
        return {vfid: seen(vfid, settings) for vfid, settings in told.items()}

    def pf_capabilities(self) -> Mapping[str, Capability]:
        if S_TAG in self._driver.vlan_tpids:
            return {}
        reason = f"{_C_TAGS_ONLY}; switchdev mode, ice, bnxt_en or a software NIC has others"
        consequence = "service tags are 0x8100"
        return {"tpid": Capability(Support.ABSENT, reason=reason, consequence=consequence)}

    def observe_pf(self, wanted: PfPolicy) -> Shown:  # noqa: ARG002
        return {}  # it is a setting of each VF

    def write_pf(self, now: PfPolicy, after: PfPolicy) -> None:  # noqa: ARG002
        self._pf_tpid = after.tpid

    def write(self, wanted: Mapping[int, Assignment]) -> None:
        before = self.settings()
        after = {vfid: self._settings(vfid, assigned) for vfid, assigned in wanted.items()}
        if missing := sorted(after.keys() - before.keys()):
            raise NicError(f"no VF {', '.join(map(str, missing))}: the PF has {len(before)} VFs")
        try:
            self._send({vfid: (before[vfid], settings) for vfid, settings in after.items()})
        except NicGoneError:
            raise
        except NicError as error:
            if failed := self._put_back(before, after):
                raise NicError(f"{error}. Undoing it failed: {'; '.join(failed)}") from error
            raise
        for vfid, settings in after.items():
            if _keeps_mac(wanted[vfid]):
                continue
            self._forced[vfid] = None if settings.mac in (None, NO_MAC) else settings.mac

    def _put_back(self, before: Mapping[int, VfSettings], vfids: Collection[int]) -> list[str]:
        """The kernel stops at the first VF whose setting is refused. One that can't be put back
        keeps no other from it: why not, for each such VF."""

        def back(vfids: Collection[int]) -> None:
            now = self.settings()
            self._send(
                {v: (now[v], self._as_before(v, now[v], before[v])) for v in vfids if v in now}
            )

        try:
            back(vfids)
        except NicGoneError:
            raise
        except NicError:
            failed = []
            for vfid in sorted(vfids):
                try:
                    back([vfid])
                except NicGoneError:
                    raise
                except NicError as error:
                    failed.append(str(error))
            return failed
        return []

    def _as_before(self, vfid: int, now: VfSettings, before: VfSettings) -> VfSettings:
        """What to put back. A MAC that the guest chose is not forced on it: igb would then let it
        choose no other (IGB_VF_FLAG_PF_SET_MAC). It is free to choose again."""
        if vfid not in self._forced or self._forced[vfid] is not None:
            return before
        return replace(before, mac=None if now.mac == before.mac else NO_MAC)

    def _settings(self, vfid: int | None, assigned: Assignment) -> VfSettings:
        """What is assigned, in rtnetlink's terms; neutral where nothing is."""
        has, rules, mine = self._driver, assigned.rules, assigned.attributes
        # A closed VF loses whatever MAC it had; an open one keeps what its guest chose.
        taken = vfid is not None and (rules is None or self._forced.get(vfid) is not None)
        mac = NO_MAC if taken and not _keeps_mac(assigned) else None
        vlan, qos, tpid, on, trust, status = 0, 0, C_TAG, True, False, LinkStatus.AUTO
        maximum = minimum = NONE
        if rules is None:
            status = LinkStatus.OFF
        else:
            if "vm_mac" in mine and rules.vm_mac:
                mac = rules.vm_mac
            if "vlans" in mine and rules.access_vid is not None:
                service = rules.strip_stag and "strip_stag" in mine
                vlan, tpid = rules.access_vid, S_TAG if service else C_TAG
                qos = rules.pcp
            on = rules.mac_anti_spoof if "mac_anti_spoof" in mine else not self._no_check(rules)
            trust = rules.trust if "trust" in mine else False
            maximum = rules.rate if "rate" in mine else NONE
            minimum = rules.min_rate if "min_rate" in mine else NONE
            status = rules.link_status if "link_status" in mine else LinkStatus.AUTO
        return VfSettings(
            mac=mac,
            vlan=vlan,
            qos=qos,
            tpid=tpid,
            spoofchk=on if has.spoofchk else None,
            trust=trust if has.trust else None,
            max_tx_mbps=_mbps(maximum, has.rates.step),
            min_tx_mbps=_mbps(minimum, has.rates.step),
            link_state=_LINK_STATES[status] if has.link_state else None,
        )

    def _no_check(self, rules: VfRules) -> bool:
        """Whether spoof check would cut the guest off."""
        return self._driver.spoofchk_needs_mac and rules.vm_mac is None

    def _send(self, changes: Mapping[int, tuple[VfSettings, VfSettings]]) -> None:
        """All the changes in one message, or as few as they fit."""
        bodies = set_vfs(self._index, in_order(changes))
        if not bodies:
            return
        try:
            self._netlink.send([Message(RTM_SETLINK, body) for body in bodies])
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                raise NicGoneError("the PF's netdev is gone") from error
            vfs = ", ".join(str(vfid) for vfid, (old, new) in sorted(changes.items()) if old != new)
            asked, why = _asked(changes), error.why
            if "max_tx_mbps" in asked and (when := self._driver.rates.when):
                why += f"; it takes a rate only {when}"
            raise NicError(
                f"the driver refused the settings of VF {vfs} ({', '.join(asked)}): {why}"
            ) from error


def _keeps_mac(assigned: Assignment) -> bool:
    return assigned.rules is None and "vm_mac" in assigned.attributes


@cache
def _offers(has: Driver) -> Mapping[str, Capability]:
    enforced = Capability(Support.ENFORCED, by=Rtnetlink.name)
    access = Capability(
        Support.LIMITED,
        by=Rtnetlink.name,
        limit="one VLAN that the NIC inserts and strips, with the priority that pcp says whatever"
        " the guest asks for",
    )
    offers = {
        "vm_mac": enforced,
        "vlans": access,
        "strip_ctag": access,
        "pcp": access,
        "allow_untagged": Capability(
            Support.LIMITED, by=Rtnetlink.name, limit="refused in access modes only"
        ),
        "vlan_anti_spoof": access,
    }
    if S_TAG in has.vlan_tpids:
        offers["strip_stag"] = access
    if has.spoofchk:
        offers["mac_anti_spoof"] = (
            Capability(Support.LIMITED, by=Rtnetlink.name, limit="only where vm_mac is forced")
            if has.spoofchk_needs_mac
            else enforced
        )
    if has.trust:
        offers["trust"] = enforced
        offers["allow_un_ucast"] = Capability(
            Support.LIMITED,
            by=Rtnetlink.name,
            limit="as the driver has it: unknown unicast is given to a trusted guest that asks for"
            " promiscuous mode"
            if has.unicast_promisc
            else "as the driver has it: no guest is given unknown unicast",
        )
    if has.keeps_macs:
        offers["guest_macs"] = Capability(
            Support.LIMITED,
            by=Rtnetlink.name,
            limit="where vm_mac is forced and trust is false the driver grants none, else any"
            f" ({has.keeps_macs})",
        )
    if has.max_tx_rate:
        offers["rate"] = Capability(Support.LIMITED, by=Rtnetlink.name, limit=str(has.rates))
    if has.min_tx_rate:
        offers["min_rate"] = offers["rate"]
    if has.link_state:
        offers["link_status"] = enforced
    return offers


def _asked(changes: Mapping[int, tuple[VfSettings, VfSettings]]) -> tuple[str, ...]:
    """The kinds of settings that a message changes."""
    return tuple(
        name
        for name in VfSettings.__dataclass_fields__
        if any(
            getattr(new, name) is not None and getattr(old, name) != getattr(new, name)
            for old, new in changes.values()
        )
    )


def _no_unknown_unicast(rules: VfRules, driver: Driver) -> str:
    """Why ``allow_un_ucast`` doesn't hold: what a driver gives a VF follows from its trust."""
    if rules.allow_un_ucast and not driver.unicast_promisc:
        return "this driver gives no VF unicast that nobody owns"
    if rules.allow_un_ucast and not rules.trust:
        return "a driver gives unicast that nobody owns to a trusted guest only: set trust"
    if rules.trust and not rules.allow_un_ucast and driver.unicast_promisc:
        return "a trusted guest that asks for promiscuous mode is given unicast that nobody owns"
    return ""


def _mbps(rate: Rate, step: int) -> int:
    """Mbit/s in whole steps, at least one where there is a rate at all (0: none to the kernel)."""
    bps = rate.bps or 0
    return max(step, round(bps / MBPS) // step * step) if bps else 0


def _shown(settings: VfSettings, driver: Driver) -> Shown:
    """Settings as attributes of VfRules; a closed VF (link off) as such."""
    shown: dict[str, Any] = {
        "vm_mac": None if settings.mac in (None, NO_MAC) else settings.mac,
        "vlans": (settings.vlan,) if settings.vlan else (),
        "strip_stag": bool(settings.vlan) and settings.tpid == S_TAG,
        "strip_ctag": bool(settings.vlan) and settings.tpid == C_TAG,
        "pcp": settings.qos if settings.vlan else 0,
        "rate": Rate(bps=settings.max_tx_mbps * MBPS),
        "min_rate": Rate(bps=settings.min_tx_mbps * MBPS),
    }
    if settings.spoofchk is not None:
        shown["mac_anti_spoof"] = settings.spoofchk
    if settings.trust is not None:
        shown["trust"] = settings.trust
    if driver.keeps_macs and shown["vm_mac"] and not settings.trust:
        shown["guest_macs"] = GuestMacs.LISTED
    if driver.link_state and settings.link_state is not None:
        shown["link_status"] = _LINK_STATUS.get(settings.link_state, LinkStatus.AUTO)
    return shown
