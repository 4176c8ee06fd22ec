"""``iplex add``, ``update``, ``delete`` and ``plan``: what a VF may do, now and after a restart."""

from __future__ import annotations

from typing import Any

import click

from vfd.api.client import ApiError
from vfd.cli.changes import change_lines, warning_texts
from vfd.cli.command import FILE, REFUSED, Command, Example, Settings, not_found, settings
from vfd.cli.completion import complete_new, complete_vf, complete_vf_or_file
from vfd.cli.look import not_in_force
from vfd.cli.source import request

named = click.option(
    "--name",
    "called",
    metavar="NAME",
    help="What to call the VF, where its configuration has no `name`.",
)
moving = click.option(
    "--move", is_flag=True, help="The policy may go to another VF, and so to another guest."
)


@click.command(
    "add",
    cls=Command,
    short_help="Put a VF's configuration in force.",
    examples=[
        Example("iplex add vm1", "config_dir/vm1.json, which is there already."),
        Example("iplex add ./vm1.json", "A file from here; the daemon keeps its own copy."),
        Example("iplex add Instance_admin-vm1/fbf55cdd", "config_dir has subfolders."),
        Example("make-config vm1 | iplex add - --name vm1", "Made by a program, in no file."),
    ],
)
@click.argument("name", metavar="NAME|PATH|-", type=FILE, shell_complete=complete_new)
@named
def add(name: str, called: str | None) -> None:
    """Put a VF's configuration in force.

    NAME is a file in the daemon's config_dir, with or without `.json`. PATH is any file: what
    begins with `/`, `./`, `../` or `~/`, and else what contains a `/` or ends in `.json` if there
    is such a file from here; it is read by iplex, so the daemon needs no access to it, and
    kept in config_dir. A NAME that could be a PATH is made certain by leaving `.json` off, a
    PATH by writing `./` before it. `-` is standard input.

    The VF is called as the file's `name` says, else as --name does, else as the file without
    `.json`; what comes through a pipe needs one of the first two. It stays in
    force over restarts of the daemon and the host until it is deleted. A configuration that
    breaks a rule changes nothing, and every broken rule is told. A file of config_dir that is
    refused is renamed to `NAME.json.error`, so that no later start puts it in force; once it is
    right, `iplex add NAME` takes it again.
    """
    ask = settings()
    client = ask.client()
    source = request(client, name, called, new=True)
    _applied(ask, "added", client.post("/v1/vfs", source.body))


@click.command(
    "update",
    cls=Command,
    short_help="Change a VF to what its file says now.",
    examples=[
        Example("iplex update vm1", "After config_dir/vm1.json was edited."),
        Example("iplex update ./vm1.json", "From a file of your own."),
        Example("iplex plan ./vm1.json && iplex update ./vm1.json", "Look first."),
    ],
)
@click.argument("name", metavar="NAME|PATH|-", type=FILE, shell_complete=complete_vf_or_file)
@named
@moving
def update(name: str, called: str | None, move: bool) -> None:
    """Change a VF to what its file says now, while traffic runs.

    Only the attributes that differ are changed; all else, and every other VF, is left alone.
    NAME, PATH and `-` are those of `iplex add`. A file with another `vfid` than before takes the
    policy from one guest and gives it to another: that is refused without --move.
    """
    ask = settings()
    client = ask.client()
    source = request(client, name, called)
    try:
        answer = client.put(f"/v1/vfs/{source.name}", source.body | _moved(move))
    except ApiError as error:
        if not not_found(error):
            raise
        raise (
            not_in_force(client, source.name, f"`iplex add {name}` puts it in force.") or error
        ) from None
    _applied(ask, "updated", answer)


@click.command(
    "delete",
    cls=Command,
    short_help="Take a VF's configuration away; the VF closes.",
    examples=[Example("iplex delete vm1", "Nothing passes that VF any more.")],
)
@click.argument("name", shell_complete=complete_vf)
def delete(name: str) -> None:
    """Take a VF's configuration away; the VF closes. NAME is the VF's, or its file's in config_dir.

    Nothing passes either way, its link goes down, its MACs, groups and mirrors are gone, and it
    stays so over restarts. The file is removed from config_dir, or renamed to end in `-` where
    vfd.cfg has `delete_keep`.
    """
    ask = settings()
    answer = ask.client().delete(f"/v1/vfs/{name}")
    ask.out_json(answer) if ask.json else ask.out(answer["detail"])


def _moved(move: bool) -> dict[str, bool]:
    """Said only where it is meant: daemons that don't know this word yet take all else."""
    return {"move": True} if move else {}


def _applied(ask: Settings, verb: str, answer: dict[str, Any]) -> None:
    if ask.json:
        ask.out_json(answer)
        return
    lines = [f"{verb} {answer['name']} on {answer['pf']}:{answer['vfid']}"]
    if verb == "updated":
        changes = change_lines(answer["changes"], ask.painted)
        lines += changes or ([] if answer.get("resumed") else ["  nothing differed"])
    lines += warning_texts(answer["warnings"], ask.painted)
    ask.out("\n".join(lines))


@click.command(
    "plan",
    cls=Command,
    short_help="Say what a configuration would change, and change nothing.",
    examples=[
        Example("iplex plan ./vm1.json", "Before add or update."),
        Example("iplex plan vm1", "What an edited file in config_dir would change."),
    ],
)
@click.argument("file", metavar="NAME|PATH|-", type=FILE, shell_complete=complete_vf_or_file)
@named
@moving
def plan(file: str, called: str | None, move: bool) -> int:
    """Say what a configuration would change, and change nothing.

    It is judged by the running daemon, so conflicts with other VFs and what the NIC can't
    enforce are told too. The exit code is 3 if the configuration would be refused.
    """
    ask = settings()
    client = ask.client()
    source = request(client, file, called)
    answer = client.post("/v1/plan", source.body | _moved(move))
    refused = bool(answer["problems"])
    if ask.json:
        ask.out_json(answer)
        return REFUSED if refused else 0
    # Imported where needed: a plan that is refused is the exception.
    from vfd.cli.failures import problem_lines

    if refused:
        lines = ["would be refused:", *problem_lines(answer["problems"], ask.painted)]
    elif not answer["changes"]:
        lines = ["would change nothing: all of this is in force already"]
    else:
        lines = [f"would {answer['action']}:", *change_lines(answer["changes"], ask.painted)]
    lines += warning_texts(answer["warnings"], ask.painted)
    ask.out("\n".join(lines))
    return REFUSED if refused else 0
