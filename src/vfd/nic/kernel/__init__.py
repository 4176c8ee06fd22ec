"""Any SR-IOV NIC whose PF a Linux driver owns."""

from __future__ import annotations

from collections.abc import Iterator

from vfd.nic.protocol import Nic, NicError
from vfd.policy.values import PfPolicy


def open(pf: PfPolicy) -> Nic:
    """Opens the PF and finds its control surfaces.

    Raises NicGoneError where there is no such PF, NicError where its driver offers nothing that
    vfd could enforce.
    """
    from vfd.nic.kernel.discovery import open_pf  # most of the backend: only where it is used

    return open_pf(pf)


def missing(pf: PfPolicy) -> Iterator[tuple[str, str, str]]:
    """(field, value, rule) of what of ``pf`` is not on this host. Opens nothing."""
    from vfd.nic.kernel import netdevsim
    from vfd.nic.kernel.sriov import find_pf

    if netdevsim.find(pf.id) is None:
        try:
            find_pf(pf.id)
        except NicError as error:
            yield "id", pf.id, str(error).removeprefix(f"{pf.id}: ")
