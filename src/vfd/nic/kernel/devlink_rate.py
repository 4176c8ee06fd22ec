"""devlink rate: the Tx guarantee and limit of each VF's port, where the driver makes leafs.

``tx_share`` and ``tx_max`` of a leaf, Documentation/networking/devlink/devlink-port.rst. In bytes
per second to the kernel; drivers take whole Mbit/s only (ice, mlx5, netdevsim's
nsim_rate_bytes_to_units), so that is what is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vfd.nic.kernel.devlink import Devlink, Port, Rates
from vfd.nic.kernel.surface import Assignment, Shown
from vfd.nic.protocol import Capability, NicError, Support
from vfd.policy.rate import Rate
from vfd.policy.values import VfRules

_MBPS = 10**6
_NONE = Rates(0, 0)


class DevlinkRate:
    """The surface, of a device whose VF ports are rate leafs."""

    name = "devlink"

    def __init__(self, devlink: Devlink, ports: Callable[[], tuple[Port, ...]]) -> None:
        self._devlink = devlink
        self._ports = ports

    def look(self) -> None:
        """It is the same for all leafs."""

    def capabilities(self) -> Mapping[str, Capability]:
        can = Capability(Support.LIMITED, by=self.name, limit="steps of 1 Mbit/s")
        return {"rate": can, "min_rate": can}

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:
        if rules.rate and rules.min_rate and _mbps(rules.min_rate) > _mbps(rules.rate):
            reason = "the guarantee is more than the limit: the kernel refuses such a leaf"
            return {"min_rate": Capability(Support.ABSENT, reason=reason)}
        return {}

    def express(self, assigned: Assignment) -> Shown:
        return _shown(_rates(assigned))

    def read(self) -> Mapping[int, Shown]:
        """Raises NicError."""
        rates = self._devlink.rates()
        return {
            vfid: _shown(rates[index]) for vfid, index in self._indexes().items() if index in rates
        }

    def write(self, wanted: Mapping[int, Assignment]) -> None:
        indexes, before = self._indexes(), self._devlink.rates()
        if missing := sorted(vfid for vfid in wanted if indexes.get(vfid) not in before):
            raise NicError(f"no devlink rate leaf of VF {', '.join(map(str, missing))}")
        after = {indexes[vfid]: _rates(assigned) for vfid, assigned in wanted.items()}
        changes = {index: rates for index, rates in after.items() if before[index] != rates}
        try:
            self._devlink.set_rates(changes)
        except NicError:
            self._devlink.set_rates({index: before[index] for index in changes})
            raise

    def _indexes(self) -> Mapping[int, int]:
        return {port.vfid: port.index for port in self._ports() if port.vfid is not None}


def _rates(assigned: Assignment) -> Rates:
    rules, mine = assigned.rules, assigned.attributes
    if rules is None:
        return _NONE
    return Rates(
        share=_mbps(rules.min_rate) * _MBPS // 8 if "min_rate" in mine else 0,
        maximum=_mbps(rules.rate) * _MBPS // 8 if "rate" in mine else 0,
    )


def _shown(rates: Rates) -> Shown:
    return {"rate": Rate(bps=rates.maximum * 8), "min_rate": Rate(bps=rates.share * 8)}


def _mbps(rate: Rate) -> int:
    """Whole Mbit/s, at least 1 where there is a rate at all (0 means none to the kernel)."""
    bps = rate.bps or 0
    return max(1, round(bps / _MBPS)) if bps else 0
