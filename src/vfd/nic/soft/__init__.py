"""The software NIC: veth or tap ports and an eBPF VEB. See docs/soft-nic.md."""

from __future__ import annotations

from collections.abc import Iterator

from vfd.nic.soft import namespace
from vfd.nic.soft.nic import SoftNic
from vfd.nic.soft.switch import Switch
from vfd.policy.values import PfPolicy

__all__ = ["SoftNic", "destroy", "missing", "open"]


def open(pf: PfPolicy) -> SoftNic:
    """Opens the soft NIC ``pf.id``: adopts what is enforced, or makes an empty NIC, closed.

    Needs CAP_NET_ADMIN, CAP_BPF and CAP_SYS_ADMIN (for namespaces). Raises NicError."""
    return SoftNic(pf)


def destroy(pf: PfPolicy) -> None:
    """Removes everything of the soft NIC ``pf.id``: its VFs (from their guests too), shaper,
    programs, counters and namespace. The uplink goes back to the daemon's namespace. Harmless
    where there is nothing. Close the NIC first. Raises OSError."""
    switch = Switch(pf.id, pf.guest)
    try:
        if switch.exists():
            switch.enter()
            switch.demolish()
        else:  # a kill may have left the file that the namespace was to be named by
            namespace.remove(switch.namespace)
    finally:
        switch.close()


def missing(pf: PfPolicy) -> Iterator[tuple[str, str, str]]:
    """(field, value, rule) of what of ``pf`` is not on this host. Opens no NIC.

    The wire of one that is there already is in the NIC's own namespace."""
    if pf.uplink is None:
        return
    switch = Switch(pf.id, pf.guest)
    try:
        why = switch.no_uplink(pf.uplink)
    finally:
        switch.close()
    if why:
        yield "uplink", pf.uplink, why
