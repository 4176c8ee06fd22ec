"""What is judged by a NIC's abilities asks nobody: they change with an event or an apply."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.kernel.modelled_nic import ADDRESS, ModelledPf, modelled_pf, plain_pf
from tests.kernel.vf_operations import PlainVfs, VfSeen
from tests.os_calls import os_calls

from vfd.policy.rate import Rate
from vfd.policy.values import Mirror, PfPolicy, VfRules

RULES = (
    VfRules(vlans=(5, 6), allow_bcast=False),
    VfRules(vlans=(7,), strip_ctag=True, vm_mac="02:00:00:00:00:07"),
    VfRules(vlans=(8,), strip_stag=True, rate=Rate(bps=10**8), trust=True),
    VfRules(allow_untagged=True, mirror=(Mirror(target=1),), macs=("02:00:00:00:00:08",)),
)


@contextmanager
def some_pf(kind: str) -> Iterator[ModelledPf]:
    if kind in ("intel", "mellanox"):
        with modelled_pf(kind) as (device, _):
            yield device
    else:
        with plain_pf(kind, PlainVfs([VfSeen() for _ in range(4)])) as device:
            yield device


@pytest.mark.root
@pytest.mark.parametrize("kind", ["intel", "mellanox", "igb", "ice", "i40e", "mlx5_core"])
def test_abilities_are_asked_for_without_a_call_into_the_system(kind: str) -> None:
    with some_pf(kind) as device:
        nic = device.open(PfPolicy(id=ADDRESS))
        try:
            nic.observe()
            with os_calls() as made:
                assert nic.capabilities.max_vfs
                for rules in RULES:
                    nic.shortfalls(rules)
                    nic.expressible(0, rules)
                nic.expressible(0, None)
            assert made == []
        finally:
            nic.close()


def test_a_call_into_the_system_is_noticed() -> None:
    with os_calls() as made:
        Path("/").stat()
        Path(os.devnull).open().close()
    assert {"posix.stat", "io.open"} <= {call.replace("_io", "io") for call in made}
