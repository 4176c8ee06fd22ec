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
    if seen.pf is None:
        return {}
    differing = {
        field: value
        for field in PfPolicy.model_fields.keys() - pf.model_fields_set
        if (value := getattr(seen.pf, field)) != getattr(pf, field)
    }
    can = nic.capabilities
    if not can.host_use and not any(vf.held for vf in seen.vfs.values()):
        return {}
    return {field: value for field, value in differing.items() if field in can.disturbing}


def with_spared(nic: Nic, aim: Aim, seen: NicState) -> NicPolicy:
    """What is aimed at, without what is spared."""
    if not (stays := spared(nic, aim.pf, seen)):
        return aim.desired
    pf = aim.desired.pf.model_copy(update=stays)
    return aim.desired.model_copy(update={"pf": pf})
