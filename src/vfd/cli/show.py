"""``iplex show``: the operator's view of PFs and VFs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import click

from vfd.api.client import Client
from vfd.cli.blocks import block_lines
from vfd.cli.command import (
    MOST_DIGITS,
    NOT_FOUND,
    Command,
    Example,
    IplexError,
    Settings,
    not_found,
    settings,
)
from vfd.cli.completion import complete_what
from vfd.cli.rows import mirror_table, port_table, scale_lines, trouble_lines, warning_lines
from vfd.policy.shown import SHOWN, SHOWN_BY_VFD, plural

MAX_VFS = 256


@click.command(
    "show",
    cls=Command,
    short_help="Show PFs and VFs with their links and counters.",
    examples=[
        Example("iplex show all", "Every PF and VF of this host."),
        Example("iplex show pfs", "The PFs alone."),
        Example("iplex show extended", "Every attribute and counter of each."),
        Example("iplex show mirrors", "Who copies what to whom."),
        Example("iplex show 0", "The first PF of vfd.cfg and its VFs."),
        Example("iplex show soft0:3", "One VF, with everything known of it."),
        Example("iplex show all | grep soft0", "Exact counters, every column, no colours."),
        Example("iplex show all --json | jq '.rows[].counters.spoofed'", "For programs."),
    ],
)
@click.argument("what", default="all", metavar="[WHAT]", shell_complete=complete_what)
def show(what: str) -> None:
    """Show PFs and VFs with their links and counters.

    WHAT is `all` (the default), `pfs`, `extended` (`ex`), `mirrors`, a PF (its id, or N for the
    Nth of vfd.cfg, from 0), a VF of a PF (PF:VF or N:M), or a VF's name.

    Directions are the guest's: RX is what it was given, TX what it sent. On a PF they are the
    wire's: RX came from the wire, TX went to it. `-` stands where the NIC can't count; a VF
    without a configuration is `closed`, or `not managed` where its PF leaves such VFs alone. `!`
    marks what a note under the table explains. Files in config_dir that are not in force are told
    there too.

    On a terminal numbers are shortened and columns that find no room are left out, the least
    important first, and named below. In a pipe every column is there and counters are exact; a
    speed is written `10G` there too, and --json has its bits per second.
    """
    ask = settings()
    client = ask.client()
    what = SHOWN_BY_VFD.get(what, what)
    if what == "mirrors":
        _mirrors(ask, client)
        return
    answer, blocks = _rows(client, what)
    if ask.json:
        ask.out_json(answer)
        return
    rows = answer["rows"]
    if blocks:
        how: dict[str, Any] = {"exact": ask.exact, "colour": ask.painted, "width": ask.width}
        lines = [line for row in rows for line in block_lines(row, **how)]
    else:
        lines = _table(rows, ask)
    if what in SHOWN:
        lines += trouble_lines(client.get("/v1/health"), ask.width, ask.painted)
    ask.out("\n".join(lines))


def _table(rows: Sequence[Mapping[str, Any]], ask: Settings) -> list[str]:
    made = port_table(rows, exact=ask.exact, width=ask.width, colour=ask.painted)
    lines = [
        *made.lines,
        *warning_lines(rows, ask.width, ask.painted),
        *scale_lines([row for row in rows if row["kind"] == "vf"], ask.width, ask.painted),
    ]
    if made.hidden:
        count = plural(len(made.hidden), "column")
        note = f"{count} hidden for want of width: {', '.join(made.hidden)}"
        lines += [ask.paint(line, "dim") for line in textwrap.wrap(note, ask.width or 80)]
    if not rows:
        lines = ["no PFs: `pciids` in vfd.cfg lists none"]
    return lines


def _mirrors(ask: Settings, client: Client) -> None:
    answer = client.get("/v1/mirrors")
    if ask.json:
        ask.out_json(answer)
    elif not answer["mirrors"]:
        ask.out("no mirrors")
    else:
        made = mirror_table(answer["mirrors"], width=ask.width, colour=ask.painted)
        ask.out("\n".join(made.lines))


def _rows(client: Client, what: str) -> tuple[dict[str, Any], bool]:
    """The answer, and whether its rows are to be shown as blocks, all attributes of each."""
    if what == "all":
        return client.get("/v1/show"), False
    if what == "extended":
        return client.get("/v1/show", extended=True), True
    if what == "pfs":
        answer = client.get("/v1/show")
        answer["rows"] = [row for row in answer["rows"] if row["kind"] == "pf"]
        return answer, False
    pf, vf = split_port(what)
    try:
        pf = resolve_pf(client, pf)
        if vf is None:
            return client.get("/v1/show", pf=pf), False
        answer = client.get("/v1/show", pf=pf, vf=vf, extended=True)
    except Exception as error:
        if not not_found(error):
            raise
        answer = _by_name(client, what)
    rows = answer["rows"] = [row for row in answer["rows"] if row["kind"] == "vf"]
    if not rows:
        count = client.get(f"/v1/pfs/{pf}")["vfs"]
        raise IplexError(
            f"there is no {what}: {pf} has {plural(count, 'VF')}, counted from 0", NOT_FOUND
        )
    return answer, True


def _by_name(client: Client, name: str) -> dict[str, Any]:
    """The one VF of that name: VFd's first iplex showed VFs so, and people try it."""
    try:
        vf = client.get(f"/v1/vfs/{name}")
    except Exception as error:
        if not not_found(error):
            raise
        raise IplexError(
            f"there is no PF, no PF:VF and no VF's name {name!r}",
            NOT_FOUND,
            hint=f"Beside those, `show` takes {', '.join(SHOWN)}. `iplex show all` lists them.",
        ) from None
    answer = client.get("/v1/show", pf=vf["pf"], vf=vf["vfid"], extended=True)
    assert isinstance(answer, dict)
    return answer


def split_port(text: str) -> tuple[str, int | None]:
    """``soft0:3`` → soft0, 3; ``0000:07:00.1`` → itself, None: that colon is the address's.

    So is ``soft0:256`` itself, and no port: no NIC has that VF.
    """
    pf, colon, vf = text.rpartition(":")
    if colon and vf.isascii() and vf.isdigit() and len(vf) <= 3 and int(vf) < MAX_VFS:
        return pf, int(vf)
    return text, None


def resolve_pf(client: Client, pf: str) -> str:
    """A PF's id for itself, or for its place in vfd.cfg counted from 0."""
    if not (pf.isascii() and pf.isdigit() and len(pf) <= MOST_DIGITS):
        return pf
    ids = [entry["id"] for entry in client.get("/v1/pfs")["pfs"]]
    if pf in ids:
        return pf
    if int(pf) < len(ids):
        return str(ids[int(pf)])
    raise IplexError(
        f"there is no PF number {pf}: vfd.cfg has {plural(len(ids), 'PF')}, counted from 0",
        NOT_FOUND,
    )
