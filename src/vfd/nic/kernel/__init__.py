"""Any SR-IOV NIC whose PF a Linux driver owns."""

from __future__ import annotations

from vfd.nic.protocol import Nic
from vfd.policy.values import PfPolicy


def open(pf: PfPolicy) -> Nic:
    """Opens the PF and finds its control surfaces.

    Raises NicGoneError where there is no such PF, NicError where its driver offers nothing that
    vfd could enforce.
    """
    from vfd.nic.kernel.discovery import open_pf  # most of the backend: only where it is used

    return open_pf(pf)
