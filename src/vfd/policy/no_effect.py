"""Settings that only one kind of NIC has. On another they are read, told, and have no effect.

VFd's sample files state the drivers of a PF and its VFs whatever the NIC is, and files are moved
between hosts. Such a setting leaves no hole open, so it is warned of and never refused: that is for
what a NIC should enforce and can't (docs/semantics.md, "What a NIC can't enforce").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vfd.policy.values import PfPolicy


@dataclass(frozen=True, slots=True)
class OneKind:
    """Whose a setting is, and what other NICs have in its place."""

    backend: str
    whose: str
    others: str


OF_ONE_KIND: Mapping[str, OneKind] = {
    "link_speed": OneKind("soft", "a software NIC", "this one's link says its speed itself"),
    "uplink": OneKind("soft", "a software NIC", "this one's wire is its own port"),
    "guest": OneKind("soft", "a software NIC", "this one's VFs are PCI functions"),
    "vf_driver": OneKind(
        "kernel",
        "a NIC that a Linux driver owns",
        "this one's VFs keep what they have, or have no drivers",
    ),
}
"""Settings of a PF."""
OF_DPDK = ("huge_pages", "cpu_mask", "numa_mem", "dpdk_log_level", "dpdk_init_log_level")
"""Settings of the main file that no other backend has."""


def without_effect(pf: PfPolicy, backend: str | None) -> Iterator[tuple[str, Any, str]]:
    """(field, value, rule) of the PF's settings that are another kind of NIC's. ``backend`` None:
    which kind it is, is not known yet."""
    values = pf.model_dump(mode="json", include=set(OF_ONE_KIND))
    for field, of in OF_ONE_KIND.items():
        stated = field in pf.model_fields_set and values[field] is not None
        if stated and backend is not None and backend != of.backend:
            yield field, values[field], f"has no effect here: it is for {of.whose}; {of.others}"
