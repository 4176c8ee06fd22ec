"""What a soft NIC's abilities are worked out from is known: whoever asks calls nobody."""

from __future__ import annotations

import pytest
from tests.os_calls import os_calls
from tests.soft.world import World, world

import vfd.nic.soft as soft
from vfd.policy.rate import Rate
from vfd.policy.values import VfRules

RULES = VfRules(vlans=(5, 6), rate=Rate(share=0.5), min_rate=Rate(share=0.1))


def asked(w: World) -> tuple[object, list[str]]:
    with os_calls() as made:
        w.nic.capabilities  # noqa: B018
        w.nic.shortfalls(RULES)
        shown = w.nic.expressible(0, RULES)
        w.nic.expressible(0, None)
    return shown, made


@pytest.mark.parametrize("uplink", [False, True])
def test_abilities_are_asked_for_without_a_call_into_the_system(uplink: bool) -> None:
    """A share of the link is one of the uplink's speed."""
    with world() as w:
        if uplink:
            w.apply(w.vf(0), pf=w.pf.model_copy(update={"uplink": w.wire()[0]}))
        shown, made = asked(w)
        assert made == []
        assert shown is not None
        w.nic.close()
        w.nic = soft.open(w.pf)
        assert asked(w) == (shown, [])


def test_a_link_speed_that_is_set_is_what_shares_are_of() -> None:
    with world() as w:
        w.apply(w.vf(0), pf=w.pf.model_copy(update={"link_speed": 10**9}))
        rules = w.nic.expressible(0, RULES)
        assert rules is not None
        assert (rules.rate.bps or 0) // 10**6 == 500
