"""How a failure is told: every broken rule, and what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from vfd.api.client import ApiError, NoDaemonError
from vfd.cli.command import NO_DAEMON, IplexError, Settings
from vfd.cli.text import as_json, line, paint, printable, ranges, wants_colour


def tell(error: ApiError | NoDaemonError | IplexError, settings: Settings) -> int:
    """Prints the failure to standard error; the exit code."""
    answer = as_answer(error)
    if settings.json:
        click.echo(as_json(answer, indent=2), err=True)
    else:
        colour = wants_colour(settings.colour, sys.stderr.isatty())
        first, *rest = map(line, answer["detail"].splitlines() or [""])
        lines = [paint("iplex: ", "bold red", colour) + first, *rest]
        problems = answer["problems"]
        if len(problems) != 1 or problems[0]["rule"] not in answer["detail"]:
            lines += problem_lines(problems, colour)
        if hint := answer.get("hint"):
            lines.append(line(str(hint)))
        click.echo("\n".join(lines), err=True, color=True)
    return int(answer["exit"])


def as_answer(error: ApiError | NoDaemonError | IplexError) -> dict[str, Any]:
    """The failure as the API's own errors are written, whoever noticed it."""
    if isinstance(error, ApiError):
        # Whoever answered may be no vfd: what is shown below has to be there, and of its kind.
        told = error.problem.get("problems")
        problems = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
        known = {"detail": str(error), "problems": problems, "exit": error.exit_code}
        return {**error.problem, **known}
    if isinstance(error, NoDaemonError):
        return {
            "type": "no-daemon",
            "title": error.what,
            "detail": error.detail,
            "hint": error.hint,
            "problems": [],
            "exit": NO_DAEMON,
        }
    answer = {
        "type": "failed",
        "title": "failed",
        "detail": str(error),
        "problems": list(error.problems),
        "exit": error.exit_code,
    }
    return answer | ({"hint": error.hint} if error.hint else {})


def problem_lines(problems: Iterable[Mapping[str, Any]], colour: bool) -> list[str]:
    """One line for each broken rule: ``file: field = value: rule (VF other)``."""
    lines = []
    for problem in problems:
        head = f"{problem['file']}: " if problem.get("file") else ""
        if problem.get("field"):
            head += problem["field"]
            if problem.get("value") not in (None, ""):
                head += f" = {shown_value(problem['value'])}"
            head += ": "
        rule = problem.get("rule") or "not allowed"
        other = problem.get("other")
        if other and other not in rule.replace(",", " ").split():
            rule += f" (VF {other})"
        lines.append("  " + paint(printable(head), "yellow", colour) + printable(rule))
    return lines


def of_field(field: str, value: object) -> str:
    """A value of a policy, whole and in one line: shares as ``class 0: 50 %``, VLANs as ranges."""
    if field == "queues" and isinstance(value, list):
        return ", ".join(f"class {q['priority']}: {q['share']:.4g} %" for q in value) or "[]"
    if field == "vlans" and isinstance(value, list) and all(isinstance(v, int) for v in value):
        value = [int(one) if one.isdigit() else one for one in ranges(value).split(",") if one]
    return full_value(value)


def shown_value(value: object) -> str:
    """A value as the files write it, shortened where it is long."""
    text = full_value(value)
    return text if len(text) <= 60 else text[:59] + "…"


def full_value(value: object) -> str:
    """A value as the files write it: JSON, but a text without its quotes, and 0 for 0.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
