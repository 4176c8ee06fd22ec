"""The table covers the contract: every clause from "From the guest" to "Counters"."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from vfd.policy.rules import check

from .case import Ask, Case, Link, Send
from .cases import CASES
from .clauses import BESIDES, CLAUSES, SECTIONS
from .measured import MEASURED, Measured
from .page import PAGE, with_table

ROWS: tuple[Case | Measured, ...] = (*CASES, *MEASURED)
LINK_BPS = 10 * 10**9
ROOT = Path(__file__).parents[2]
CONTRACT = (ROOT / "docs/semantics.md").read_text()


def _words(text: str) -> str:
    return " ".join(text.split())


def _section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", CONTRACT, re.S | re.M)
    assert found, f"docs/semantics.md has no section {title!r}"
    return found[1]


def test_the_clauses_are_the_contract_word_for_word() -> None:
    for section in SECTIONS:
        text = _section(section.title).replace("| request | granted when |\n|---|---|\n", "")
        assert _words(" ".join(clause.text for clause in section.clauses)) == _words(text)


def test_the_sections_are_all_from_the_first_step_of_tx_to_the_counters() -> None:
    titles = re.findall(r"^## (.*)$", CONTRACT, re.M)
    first, last = titles.index(SECTIONS[0].title), titles.index(SECTIONS[-1].title)
    assert [section.title for section in SECTIONS] == titles[first : last + 1]


def test_clauses_from_elsewhere_stand_in_the_contract() -> None:
    for clause in BESIDES.clauses:
        assert _words(clause.text) in _words(CONTRACT), clause.id


def test_every_clause_is_proven_by_a_case_or_says_where_else() -> None:
    proven = Counter(clause for row in ROWS for clause in row.proves)
    assert set(proven) <= set(CLAUSES), "cases cite clauses that are not there"
    bare = [
        clause.id for clause in CLAUSES.values() if not proven[clause.id] and not clause.elsewhere
    ]
    assert bare == []


def test_the_tests_that_prove_a_clause_elsewhere_are_there() -> None:
    for clause in CLAUSES.values():
        if clause.elsewhere:
            file, _, function = clause.elsewhere.partition("::")
            assert f"def {function}(" in (ROOT / file).read_text(), clause.id


def test_every_case_has_its_own_name() -> None:
    names = Counter(row.name for row in ROWS)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_case_is_a_policy_that_the_rules_allow() -> None:
    for case in CASES:
        for policy in case.policies:
            assert check(policy, link_bps=LINK_BPS) == (), case.name
    for row in MEASURED:
        assert check(row.nic, link_bps=row.nic.pf.link_speed or LINK_BPS) == (), row.name


def test_cases_can_fail() -> None:
    """Every case sends, asks or looks; and what is only ever refused would be proven by a NIC that
    is dead, so wherever a case sends, something passes or a counter says why it doesn't."""
    for case in CASES:
        assert case.proves, case.name
        assert any(isinstance(step, Send | Ask | Link) for step in case.steps), case.name
        sent = [step for step in case.steps if isinstance(step, Send)]
        assert not sent or any(step.out or step.moves for step in sent), case.name


def test_the_page_lists_the_cases_as_they_are() -> None:
    page = PAGE.read_text()
    assert page == with_table(page), "write it anew: python -m tests.packet.page"
