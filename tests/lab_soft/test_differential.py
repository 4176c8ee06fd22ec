"""The program against the model on this kernel: its verifier, its JIT, its helpers."""

from tests.bpf.test_differential import (
    rig,
    test_plain_unicast_is_decided_alike_by_the_short_way_and_the_long_one,
    test_the_program_decides_as_the_model,
)

__all__ = [
    "rig",
    "test_plain_unicast_is_decided_alike_by_the_short_way_and_the_long_one",
    "test_the_program_decides_as_the_model",
]
