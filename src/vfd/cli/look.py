"""``iplex status``, ``get`` and ``export``: one VF, as it is and as it was asked to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from vfd.api.client import ApiError, Client
from vfd.cli.blocks import wishes_text
from vfd.cli.changes import warning_texts
from vfd.cli.command import NOT_FOUND, Command, Example, IplexError, not_found, settings
from vfd.cli.completion import complete_vf
from vfd.cli.failures import of_field
from vfd.cli.source import stem
from vfd.cli.text import paint, printable


def fetch(client: Client, name: str) -> dict[str, Any]:
    """The VF of that name, or of that file in ``config_dir``."""
    try:
        vf = client.get(f"/v1/vfs/{name}")
    except ApiError as error:
        if not not_found(error):
            raise
        raise not_in_force(client, name) or error from None
    assert isinstance(vf, dict)
    return vf


def not_in_force(client: Client, name: str, hint: str = "") -> IplexError | None:
    """Why a VF isn't there although there is a file of that name. ``hint``: what to do then."""
    for bad in client.get("/v1/health")["bad_files"]:
        if stem(bad["file"]) == stem(name):
            told = f"{bad['file']} is not in force"
            return IplexError(told, NOT_FOUND, bad["problems"], hint)
    return None


@click.command(
    "status",
    cls=Command,
    short_help="Is a VF in force, who holds it, what was it granted?",
    examples=[
        Example("iplex status vm1", "One VF."),
        Example("iplex status vm1 --json | jq -r .state", "ok, closed, drifted, failed or lost."),
    ],
)
@click.argument("name", shell_complete=complete_vf)
def status(name: str) -> None:
    """Is a VF in force, who holds it, what was it granted?

    The exit code is 4 if no VF of that name is configured.
    """
    ask = settings()
    vf = fetch(ask.client(), name)
    if ask.json:
        ask.out_json(vf)
        return
    colour = ask.painted
    state = vf["state"]
    grants = vf["grants"]
    granted = [
        " ".join([key.replace("_", " "), *_words(value)])
        for key, value in grants.items()
        if value not in (None, [], False)
    ]
    facts = {
        "port": f"{vf['pf']}:{vf['vfid']} ({vf['address']})",
        "link": paint(*(("up", "green") if vf["link_up"] else ("down", "red")), colour),
        "mac": vf["mac"] or "-",
        "mtu": str(vf["mtu"] or "-"),
        "guest": vf["guest"] or ("holds it" if vf["held"] else "none seen"),
        "granted": ", ".join(granted) or "nothing",
        "file": f"{vf['file']} (uid {vf['owner']})",
    }
    lines = [
        f"{paint(printable(vf['name']), 'bold', colour)}  "
        + paint(state, "green" if state == "ok" else "bold red", colour)
    ]
    lines += [f"  {key:9}{value}" for key, value in facts.items()]
    lines += [f"  {'wishes':9}{printable(text)}" for text in wishes_text(vf["wishes"])]
    lines += [
        f"  {paint('differs', 'yellow', colour)}  {printable(text)}"
        for text in map(_difference, vf["differences"])
    ]
    lines += ["  " + text for text in warning_texts(vf["warnings"], colour)]
    ask.out("\n".join(lines))


def _words(granted: object) -> list[str]:
    if granted is True:
        return []
    return [str(one) for one in (granted if isinstance(granted, list) else [granted])]


def _difference(difference: dict[str, Any]) -> str:
    field = difference["field"]
    asked, got = of_field(field, difference["asked"]), of_field(field, difference["in_force"])
    return f"{field}: asked {asked}, in force {got}: {difference['why']}"


@click.command(
    "get",
    cls=Command,
    short_help="The policy in force on a VF, and where it differs from what was asked.",
    examples=[
        Example("iplex get vm1", "Every attribute, as read back from the NIC."),
        Example("iplex get vm1 --json | jq .in_force.vlans", "For programs."),
    ],
)
@click.argument("name", shell_complete=complete_vf)
def get(name: str) -> None:
    """The policy in force on a VF, and where it differs from what was asked.

    Rates and all else are as a file may have them. Attributes that the file states are marked
    with `=`, those whose value in force is another one than asked with `≠` and the reason.
    """
    ask = settings()
    vf = fetch(ask.client(), name)
    if ask.json:
        ask.out_json(vf)
        return
    colour = ask.painted
    in_force = vf["in_force"]
    lines = [paint(f"{printable(vf['name'])}  {vf['pf']}:{vf['vfid']}", "bold", colour)]
    if in_force is None:
        lines.append(paint("  closed: nothing passes", "red", colour))
    differing = {d["field"]: d for d in vf["differences"]}
    for field, value in (in_force or {}).items():
        mark = "≠" if field in differing else "=" if field in vf["asked"] else " "
        text = printable(f"  {mark} {field}: {of_field(field, value)}")
        if field in differing:
            asked = of_field(field, differing[field]["asked"])
            text = paint(text + f"  (asked {asked}: {differing[field]['why']})", "yellow", colour)
        lines.append(text)
    lines += [
        paint(f"  ≠ {_difference(d)}", "yellow", colour)
        for field, d in differing.items()
        if field not in (in_force or {})
    ]
    lines += [
        paint(f"  ≠ its guest wishes {printable(text)}", "yellow", colour)
        for text in wishes_text(vf["wishes"])
    ]
    lines += ["  " + text for text in warning_texts(vf["warnings"], colour)]
    ask.out("\n".join(lines))


@click.command(
    "export",
    cls=Command,
    short_help="Write a VF's configuration as a file that `add` takes.",
    examples=[
        Example("iplex export vm1 > vm1.json", "The configuration that vm1 was added with."),
        Example("iplex export --to backup/", "Every VF's, a file each."),
    ],
)
@click.argument("name", required=False, shell_complete=complete_vf)
@click.option(
    "--to",
    "folder",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="Write NAME.json there instead of to standard output; folders are made as needed.",
)
def export(name: str | None, folder: str | None) -> None:
    """Write a VF's configuration as a file that `add` takes.

    Without NAME, those of all VFs: with --to a file for each, else one JSON object by name.
    """
    ask = settings()
    client = ask.client()
    vfs = [fetch(client, name)] if name else client.get("/v1/vfs")["vfs"]
    configs = {vf["name"]: vf["asked"] for vf in vfs}
    if folder is None:
        ask.out_json(configs[vfs[0]["name"]] if name else configs)
        return
    written = [_write(Path(folder), vf_name, config) for vf_name, config in configs.items()]
    if ask.json:
        ask.out_json({"written": [str(path) for path in written]})
    else:
        ask.out("\n".join(f"wrote {path}" for path in written) or "no VF has a configuration")


def _write(folder: Path, name: str, config: dict[str, Any]) -> Path:
    path = folder / f"{name}.json"
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise IplexError(f"the VF's name {name!r} leads out of {folder}", NOT_FOUND)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    except (OSError, RuntimeError) as error:  # a loop of links
        why = getattr(error, "strerror", None) or error
        raise IplexError(f"{path} can't be written: {why}", NOT_FOUND) from None
    return path
