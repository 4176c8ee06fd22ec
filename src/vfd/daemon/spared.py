"""What of a PF stays as it was found, because guests hold its VFs, or this host's own network hangs
on it, and nobody stated it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vfd.daemon.aim import Aim
from vfd.nic.protocol import Nic, NicState
from vfd.policy.values import NicPolicy, PfPolicy


def spared(nic: Nic, pf: PfPolicy, seen: NicState) -> Mapping[str, Any]:
    """The PF's attributes that stay as they are found, with these values: nobody stated them,
    and a change would disturb guests that hold VFs now, or the host's own network."""
    can = nic.capabilities
    if seen.pf is None or not (can.host_use or any(vf.held for vf in seen.vfs.values())):
        return {}
    return {
        field: value
        for field in can.disturbing - pf.model_fields_set
        if (value := getattr(seen.pf, field)) != getattr(pf, field)
    }


def with_spared(nic: Nic, aim: Aim, seen: NicState) -> NicPolicy:
    """What is aimed at, without what is spared."""
    if not (stays := spared(nic, aim.pf, seen)):
        return aim.desired
    pf = aim.desired.pf.model_copy(update=stays)
    return aim.desired.model_copy(update={"pf": pf})
