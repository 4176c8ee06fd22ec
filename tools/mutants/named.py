"""Mutants that live here and may, by id."""

from __future__ import annotations

_LONG_WAY = "such frames go the long way, which decides alike"

EQUIVALENT = {
    "ecaf7ef2": "no VF takes a MAC that it lets go, nor mirrors to itself: it can't block itself",
    "14299a11": f"14 bytes: {_LONG_WAY}",
    "0c44cc3c": f"as long as the MTU: {_LONG_WAY}",
    "c3cbbac0": f"28 bytes below the MTU: {_LONG_WAY}",
    "4c58e707": "a tag can't be inserted only where the kernel has no memory for it",
    "d227a769": "0 is nobody's port: its policy is empty, and in no VLAN",
}
"""Nobody can see them: the reason."""

ELSEWHERE = {
    "ce832cd8": "tests/kernel/test_patience.py::"
    "test_a_write_that_blocks_is_given_up_and_not_begun_twice",
    "f9c1fe06": "tests/soft/test_rates.py::test_what_a_limit_drops_is_counted_and_stays_counted",
}
"""They die in a test that measures, or in the laboratory: in which."""
