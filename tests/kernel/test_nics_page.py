"""docs/nics.md says what the code does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools import gen_nics

from vfd.nic.kernel.drivers import DRIVERS
from vfd.policy.values import VfRules

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_current_whatever_the_order_of_sets() -> None:
    for seed in ("1", "2"):
        check = [sys.executable, str(ROOT / "tools/gen_nics.py"), "--check"]
        run = subprocess.run(
            check, check=False, capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        )
        assert run.returncode == 0, run.stderr


def test_every_driver_that_the_code_knows_has_a_column() -> None:
    assert {family.driver for family in gen_nics.FAMILIES} == set(DRIVERS)


def test_every_attribute_of_a_policy_has_a_row() -> None:
    rows = [line.split("|")[1].strip() for line in gen_nics.table()]
    assert {f"`{attribute}`" for attribute in VfRules.model_fields} <= set(rows)
