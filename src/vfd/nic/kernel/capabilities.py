"""What a PF's control surfaces can enforce together: of each attribute, the strongest's word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vfd.nic.kernel import switchdev
from vfd.nic.kernel.drivers import Driver
from vfd.nic.kernel.surface import Surface, absent
from vfd.nic.protocol import Capability, Support
from vfd.policy.values import VfRules

_RANK = {Support.ENFORCED: 2, Support.LIMITED: 1, Support.ABSENT: 0}


def of_vfs(surfaces: Sequence[Surface]) -> Mapping[str, Capability]:
    """By attribute of VfRules; what no surface offers is absent."""
    offers = _strongest(surface.capabilities() for surface in surfaces)
    return {name: offers.get(name) or absent(name) for name in VfRules.model_fields}


def of_closing(vf: Mapping[str, Capability]) -> Capability:
    """How well a VF is closed: by rules that drop all it sends, else by its link."""
    if vf["vlans"].by == switchdev.NAME:
        return Capability(Support.ENFORCED, by=switchdev.NAME)
    link_status = vf["link_status"]
    if link_status.support is Support.ENFORCED:
        return Capability(Support.ENFORCED, by=link_status.by)
    return Capability(
        Support.LIMITED,
        by="rtnetlink",
        limit="its MAC, VLAN and trust are taken away, but its driver can't set its link down",
        consequence="a guest that holds this closed VF may choose a MAC, and send and receive",
    )


def of_frames(vf: Mapping[str, Capability], driver: Driver) -> Mapping[str, Capability]:
    """What is known of the rules that no attribute names: ``protocol.BESIDE``."""
    rules = vf["vlans"]
    if rules.by == switchdev.NAME:
        depth = "behind a third tag they are not looked for"
        limit = "; ".join(filter(None, (rules.limit, depth)))
        control = Capability(Support.LIMITED, by=rules.by, limit=limit)
        return {"mac_control": control, "veiled_tags": rules}
    if driver.mac_control:
        control = Capability(Support.LIMITED, by="the driver", limit=driver.mac_control)
    else:
        control = Capability(
            Support.ABSENT,
            reason="it isn't known that this driver or its NIC drops them; i40e, ice, ixgbe's X550,"
            " switchdev mode and a software NIC do",
            consequence="this guest may send PAUSE, which can stop whoever is beyond the wire",
        )
    veiled = Capability(
        Support.ABSENT,
        reason="no driver says what its NIC does with a tag behind a priority tag; switchdev mode"
        " and a software NIC refuse it",
        consequence="a tag behind a priority tag may pass, and receivers act on it",
    )
    return {"mac_control": control, "veiled_tags": veiled}


def _strongest(all_offers: Iterable[Mapping[str, Capability]]) -> Mapping[str, Capability]:
    best: dict[str, Capability] = {}
    for offers in all_offers:
        for attribute, capability in offers.items():
            if attribute not in best or _RANK[capability.support] > _RANK[best[attribute].support]:
                best[attribute] = capability
    return best
