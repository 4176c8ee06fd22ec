"""docs/nics.md says what the code does, and marks what tests did."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tools import gen_nics
from tools.nics_proofs import MODELLED_BY, PROVEN_BY

from vfd.nic.kernel.drivers import DRIVERS
from vfd.policy.values import VfRules

ROOT = Path(__file__).resolve().parents[2]
PROOFS = {(short, attribute): test for (short, attribute, _), test in MODELLED_BY.items()}


def test_the_page_is_current_whatever_the_order_of_sets() -> None:
    for seed in ("1", "2"):
        check = [sys.executable, str(ROOT / "tools/gen_nics.py"), "--check"]
        run = subprocess.run(
            check,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert run.returncode == 0, run.stderr


def test_every_driver_that_the_code_knows_has_a_column() -> None:
    assert {family.driver for family in gen_nics.FAMILIES} == {*DRIVERS, gen_nics.VIRTIO}


def test_every_attribute_of_a_policy_has_a_row() -> None:
    rows = [line.split("|")[1].strip() for line in gen_nics.table()]
    assert {f"`{attribute}`" for attribute in VfRules.model_fields} <= set(rows)


@pytest.mark.parametrize(("of", "test"), [*PROVEN_BY.items(), *PROOFS.items()], ids=str)
def test_a_mark_names_a_test_that_is_there_and_about_the_attribute(
    of: tuple[str, str], test: str
) -> None:
    column, attribute = of
    assert column in {family.short for family in gen_nics.FAMILIES}
    file, name = test.split("::")
    source = (ROOT / file).read_text()
    found = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    assert found, f"no {name} in {file}"
    # netdevsim's tests give VLANs by their place
    assert attribute in source or (attribute == "vlans" and ".vf(0, 5" in source)


def test_only_what_is_enforced_is_marked() -> None:
    for family in gen_nics.FAMILIES:
        offered = {*gen_nics.offers(family), *gen_nics.pf_offers(family), "counters"}
        marked = {
            attribute for column, attribute in (*PROVEN_BY, *PROOFS) if column == family.short
        }
        assert marked <= offered, family.short
