"""``make mutants``: what it changes, and that it sees tests fail and leaves the checkout alone."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest
from tools.mutants import c_source, python_source, sandbox
from tools.mutants.by_hand import BY_HAND
from tools.mutants.mutant import Mutant, in_order
from tools.mutants.parts import PARTS

ROOT = Path(__file__).parent.parent
PYTHON = '''
def limit(asked: int, most: int) -> int:
    """Texts > 1 stay."""
    if asked > most and most != 0:
        raise ValueError(f"{asked + 1} is too much")
    return asked
'''
C = """
/* a > b stays */
static __always_inline int takes(const struct port *vf, __u32 size)
{
\tif (vf->flags && (size > 64 || !size))
\t\treturn 0;
\tcount(vf);
\treturn 1;
}
"""


def changes(found: list[Mutant]) -> set[tuple[str, str]]:
    return {(mutant.old, mutant.new) for mutant in found}


def test_a_python_file_is_changed_where_it_decides_and_nowhere_else() -> None:
    assert changes(python_source.mutants_of("a.py", PYTHON)) == {
        ("and", "or"),
        ("asked > most", "True"),
        ("most != 0", "True"),
        (">", ">="),
        ("!=", "=="),
        ("0", "1"),
        ('raise ValueError(f"{asked + 1} is too much")', "pass"),
        ("asked", "most"),
        ("most", "asked"),
    }


def test_a_c_file_is_changed_where_it_decides_and_nowhere_else() -> None:
    assert changes(c_source.mutants_of("a.h", C)) == {
        ("&&", "||"),
        ("||", "&&"),
        (">", ">="),
        ("64", "65"),
        ("!", ""),
        ("vf->flags && (size > 64 || !size)", "!(vf->flags && (size > 64 || !size))"),
        ("vf->flags", "1"),
        ("(size > 64 || !size)", "1"),
        ("size > 64", "0"),
        ("!size", "0"),
        ("0", "1"),
        ("1", "0"),
        ("1", "2"),
        ("count(vf);", ";"),
        ("return 0;", ";"),
        ("return 1;", ";"),
    }


def test_each_mutant_of_python_is_python_and_has_an_id_of_its_own() -> None:
    ids: list[str] = []
    for path in PARTS[0].files(ROOT):
        text = (ROOT / path).read_text()
        found = python_source.mutants_of(path, text)
        for mutant in in_order(found, seed=1)[:20]:
            ast.parse(mutant.applied(text))
        ids += [mutant.id for mutant in found]
    assert len(set(ids)) == len(ids)


def test_a_change_elsewhere_in_a_file_draws_the_same_mutants() -> None:
    found = python_source.mutants_of("a.py", PYTHON)
    moved = python_source.mutants_of("a.py", "A = 7 < 8\n" + PYTHON)
    order = [m.id for m in in_order(moved, seed=3) if m.where != "module"]
    assert order == [m.id for m in in_order(found, seed=3)]


def test_each_mutant_by_hand_has_its_place_in_the_source() -> None:
    for mutant in BY_HAND:
        mutant.applied((ROOT / mutant.path).read_text())
    assert len({mutant.name for mutant in BY_HAND}) == len(BY_HAND)


def test_each_part_has_sources_and_tests() -> None:
    for part in PARTS:
        assert [*part.files(ROOT)]
        assert all((ROOT / "tests" / test).exists() for test in part.tests), part.name


@pytest.mark.root
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare, of util-linux")
def test_a_run_sees_a_test_fail_and_leaves_the_checkout_as_it_is() -> None:
    tests, memo = ["tests/policy/test_memo.py"], "src/vfd/policy/memo.py"
    text = (ROOT / memo).read_text()
    broken, endless = text.replace("not kwargs", "kwargs"), text + "\nwhile True: pass\n"
    assert not sandbox.sound(ROOT, tests).failed
    assert sandbox.run(ROOT, tests, memo, text + "\n", limit=60).verdict == "lived"
    died = sandbox.run(ROOT, tests, memo, broken, limit=60)
    assert (died.verdict, died.by[:28]) == ("died", "tests/policy/test_memo.py::t")
    assert sandbox.run(ROOT, tests, memo, endless, limit=1).verdict == "timed out"
    assert (ROOT / memo).read_text() == text
