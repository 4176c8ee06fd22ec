"""One hostile guest, member or file costs nobody else more than the bench allows (`make abuse`)."""

from __future__ import annotations

import os

import pytest
from bench.abuse import Attack, Waits, attacks, missed, run_all

ATTACKS = attacks(short=True)
TRIES = 3
"""A bound is a multiple of what was measured a moment before: a machine that is slow for a moment
is asked again, with a quiet of its own. An attack that bites does so each time."""

pytestmark = [pytest.mark.root, pytest.mark.measured, pytest.mark.timeout(300)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_nobody_pays_for_what_another_does(attack: Attack) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, BPF")
    for _ in range(TRIES):
        quiet, results = run_all([attack], print, quiet_seconds=1.5)
        broken = missed(quiet, results[attack.name])
        if not broken:
            return
        print(broken)
    pytest.fail("; ".join(broken))


def test_an_attack_that_bites_is_seen() -> None:
    """The bars: ten times the quiet, no frame lost, none escaped, a log that is bounded."""
    quiet = Waits({name: [0.001] for name in Waits().seconds})
    assert missed(quiet, quiet) == []
    slow = Waits({name: [0.011] for name in Waits().seconds}, lost=1, escaped=1, log=161, took=1)
    assert len(missed(quiet, slow)) == len(quiet.seconds) + 3
