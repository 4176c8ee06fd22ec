"""``iplex check``: whether files are good, without a daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vfd.cli.command import (
    FILE,
    NOT_FOUND,
    REFUSED,
    Command,
    Example,
    IplexError,
    Settings,
    settings,
)

if TYPE_CHECKING:
    from vfd.cli.checking import Findings


@click.command(
    "check",
    cls=Command,
    short_help="Say what is wrong with configuration files; no daemon needed.",
    examples=[
        Example("iplex check vm1.json", "One VF's file, by itself."),
        Example("iplex check /etc/vfd/vfd.cfg", "The main file and all of its config_dir."),
        Example("iplex check /var/lib/vfd/config", "Every VF's file there, and their conflicts."),
        Example("iplex check --conf vfd.cfg vm1.json", "One VF's file, with the PFs of vfd.cfg."),
    ],
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
def check(files: tuple[str, ...]) -> int:
    """Say what is wrong with configuration files; no daemon needed.

    FILE is a VF's file, a main configuration (with which all files of its config_dir are
    checked), or a folder of VFs' files. Several VFs' files are also checked for conflicts among
    each other. With --conf they are held against the PFs of that main configuration; without,
    what depends on the PF is not judged. What a NIC can enforce only its daemon knows: `plan`.

    Every broken rule is told with file, field, value and the VF it conflicts with. The exit code
    is 3 if there is one, 4 if a file is not there. Warnings leave it at 0.
    """
    ask = settings()
    # The configuration's types cost more than iplex's other commands take: only here.
    from vfd.cli.checking import checked

    found = checked(files, ask.conf)
    if ask.json and (found.files or not found.missing):
        ask.out_json(found.as_json())
    if not ask.json:
        _tell(found, ask)
    if found.missing:
        raise IplexError("; ".join(found.missing), NOT_FOUND)
    return REFUSED if found.problems else 0


def _tell(found: Findings, ask: Settings) -> None:
    from vfd.cli.failures import problem_lines

    lines: list[str] = []
    for problem in problem_lines(map(_plain, found.problems), ask.painted):
        lines.append(ask.paint("error", "bold red") + problem[1:])
    for warning in problem_lines(map(_plain, found.warnings), ask.painted):
        lines.append(ask.paint("warning", "yellow") + warning[1:])
    if found.files or not found.missing:
        ask.out("\n".join([*lines, found.summary()]))


def _plain(problem: Any) -> dict[str, Any]:
    keys = ("file", "field", "value", "rule", "other")
    return {key: getattr(problem, key) for key in keys}
