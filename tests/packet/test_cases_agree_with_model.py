"""The table says what the reference model says: two readings of one contract."""

from __future__ import annotations

import pytest

from .case import Case
from .cases import CASES
from .model_bench import ModelBench
from .runner import Runner, say


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_model_does_as_the_case_says(case: Case) -> None:
    bench = ModelBench(has_wire="no wire" not in case.needs)
    say(Runner(bench).run(case))
