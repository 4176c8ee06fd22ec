"""The table in docs/conformance.md: clause by clause, the cases that prove it.

``python -m tests.packet.page`` writes it anew; test_every_clause_is_covered holds it up to date.
"""

from __future__ import annotations

import re
from pathlib import Path

from .case import Case
from .cases import CASES
from .clauses import BESIDES, SECTIONS, Section
from .measured import MEASURED, Measured

ROWS: tuple[Case | Measured, ...] = (*CASES, *MEASURED)
PAGE = Path(__file__).parents[2] / "docs/conformance.md"
BEGIN, END = "<!-- cases: begin -->\n", "<!-- cases: end -->\n"


def table() -> str:
    return "\n".join(_section(section) for section in (*SECTIONS, BESIDES))


def _section(section: Section) -> str:
    lines = [f"### {section.title}", "", "| clause | proven by |", "|---|---|"]
    for clause in section.clauses:
        names = [row.name for row in ROWS if clause.id in row.proves]
        if clause.elsewhere:
            names.append(f"`{clause.elsewhere}`")
        text = re.sub(r"^\d\. ", "", clause.text.strip("|* ")).replace(" | ", ": ")
        lines.append(f"| **{clause.id}** {text} | {'<br>'.join(names)} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """``page`` with the table as it is now."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
