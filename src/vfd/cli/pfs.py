"""``iplex caps``, ``mirror``, ``clear`` and ``pf``: a PF, its mirrors and counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from vfd.cli.changes import change_lines, warning_texts
from vfd.cli.command import Command, Count, Example, LazyGroup, settings
from vfd.cli.completion import complete_pf, complete_port
from vfd.cli.show import resolve_pf, split_port
from vfd.cli.text import paint, printable
from vfd.policy.shown import plural

_SUPPORT = {"enforced": ("yes", "green"), "limited": ("part", "yellow"), "absent": ("no", "red")}


class Direction(click.Choice[str]):
    """VFd took `on` for `all`, and its files have `both`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return "all" if value in ("on", "both") else super().convert(value, param, ctx)


@click.command(
    "caps",
    cls=Command,
    short_help="What a NIC can enforce, with what, and what not and why.",
    examples=[
        Example("iplex caps soft0", "By PF."),
        Example(
            "iplex caps 0000:07:00.1 --json | jq '.vf[] | select(.support==\"absent\")'",
            "What this NIC lacks.",
        ),
    ],
)
@click.argument("pf", shell_complete=complete_pf)
def caps(pf: str) -> None:
    """What a NIC can enforce, with what, and what not and why.

    One line for each attribute of a VF and of the PF: `yes` and by what, `part` and the limit, or
    `no`, the reason and what a guest can therefore do.
    """
    ask = settings()
    client = ask.client()
    answer = client.get(f"/v1/pfs/{resolve_pf(client, pf)}/caps")
    if ask.json:
        ask.out_json(answer)
        return
    limits = ", ".join(
        f"{answer[key]} {text}"
        for key, text in (
            ("max_vfs", "VFs"),
            ("max_vlans", "VLANs"),
            ("max_macs", "further MACs"),
            ("max_groups", "groups per VF"),
            ("max_mirrors", "mirrors per VF"),
        )
        if answer[key] is not None
    )
    colour = ask.painted
    lines = [
        paint(f"{answer['pf']}  {answer['backend']}", "bold cyan", colour),
        f"  at most {limits}",
    ]
    for title, key in (
        ("VF attributes", "vf"),
        ("PF attributes", "pf_attributes"),
        ("Flags and parameters of the device", "device"),
    ):
        if not answer.get(key):
            continue
        lines.append(paint(f"  {title}", "bold", colour))
        size = max((len(c["attribute"]) for c in answer[key]), default=0)
        lines += ["    " + _capability(c, size, colour) for c in answer[key]]
    lines.append(paint("  Counters", "bold", colour))
    lines.append("    " + " ".join(answer["counters"]))
    for limit in dict.fromkeys(answer["counter_limits"].values()):
        names = [name for name, text in answer["counter_limits"].items() if text == limit]
        lines.append(f"    {', '.join(names)}: {limit}")
    if answer["absent_counters"]:
        why = f" ({printable(answer['uncounted'])})" if answer.get("uncounted") else ""
        lines.append("    absent: " + " ".join(answer["absent_counters"]) + why)
    ask.out("\n".join(lines))


def _capability(capability: Mapping[str, Any], size: int, colour: bool) -> str:
    word, style = _SUPPORT[capability["support"]]
    by = f"by {capability['by']}" if capability["by"] else ""
    said = (by, capability["limit"], capability["reason"], capability["consequence"])
    text = "; ".join(printable(part) for part in said if part)
    return f"{capability['attribute']:{size}}  {paint(f'{word:4}', style, colour)}  {text}".rstrip()


@click.command(
    "mirror",
    cls=Command,
    short_help="Copy a VF's frames to another VF of the PF, or stop that.",
    examples=[
        Example("iplex mirror soft0 3 all 7", "VF 7 gets what VF 3 sends and is given."),
        Example("iplex mirror soft0 3 in 7", "Only what VF 3 is given."),
        Example("iplex mirror 0 3 off", "No more copies; PF 0 is the first of vfd.cfg."),
    ],
)
@click.argument("pf", shell_complete=complete_pf)
@click.argument("vf", type=Count(255))
@click.argument("direction", type=Direction(["in", "out", "all", "off"], case_sensitive=False))
@click.argument("target", type=Count(255), required=False)
def mirror(pf: str, vf: int, direction: str, target: int | None) -> None:
    """Copy a VF's frames to another VF of the PF, or stop that.

    The direction is the guest's: `in` is what it is given, `out` what it sends, `all` (or `on`)
    both, `off` ends the mirror to TARGET, or without one every mirror of the VF. TARGET is the VF
    that gets the copies; a VF may have several. Its other settings stay as they are, traffic goes
    on, and the mirror is kept in the VF's file.
    """
    if direction != "off" and target is None:
        raise click.UsageError("TARGET is missing: which VF is to get the copies?")
    ask = settings()
    client = ask.client()
    pf = resolve_pf(client, pf)
    answer = client.put(f"/v1/pfs/{pf}/vfs/{vf}/mirror", {"direction": direction, "target": target})
    if ask.json:
        ask.out_json(answer)
        return
    where = "" if target is None else f" to {pf}:{target}"
    how = f"is mirrored ({direction})"
    if direction == "off":
        how = "is no longer mirrored" if answer["changes"] else "was not mirrored"
    done = f"{pf}:{vf} {how}{where}"
    ask.out("\n".join([done, *warning_texts(answer.get("warnings", []), ask.painted)]))


@click.command(
    "clear",
    cls=Command,
    short_help="Let the shown counters start from zero.",
    examples=[
        Example("iplex clear soft0", "The PF and all its VFs."),
        Example("iplex clear soft0:3", "One VF."),
    ],
)
@click.argument("port", metavar="PF[:VF]", shell_complete=complete_port)
def clear(port: str) -> None:
    """Let the shown counters start from zero. The NIC's own counters, behind what is shown, go on
    as they were.
    """
    ask = settings()
    client = ask.client()
    pf, vf = split_port(port)
    answer = client.post("/v1/clear", {"pf": resolve_pf(client, pf), "vf": vf})
    ask.out_json(answer) if ask.json else ask.out(answer["detail"])


@click.group(
    "pf",
    cls=LazyGroup,
    homes={"Commands": {"set": "vfd.cli.pfs:pf_set", "remove": "vfd.cli.pfs:pf_remove"}},
    short_help="Change a PF: how many VFs it has. Remove a software NIC.",
)
def pf() -> None:
    """Change a PF, or remove a software NIC."""


@click.command(
    "set",
    cls=Command,
    short_help="Set how many VFs a PF has.",
    examples=[
        Example("iplex pf set soft0 --vfs 16", "Refused while a guest holds a VF that would go."),
        Example("iplex pf set soft0 --vfs 4 --force", "Even so."),
    ],
)
@click.argument("pf", shell_complete=complete_pf)
@click.option(
    "--vfs",
    metavar="N",
    type=Count(256),
    required=True,
    help="How many VFs there are to be, 0 to 256.",
)
@click.option("--force", is_flag=True, help="Take VFs away although guests hold them.")
def pf_set(pf: str, vfs: int, force: bool) -> None:
    """Set how many VFs a PF has, and keep the number in vfd.cfg.

    Refused (exit code 3) while guests hold VFs that would go, or files configure them, unless
    forced. VFs that stay are not disturbed where the NIC allows that.
    """
    ask = settings()
    client = ask.client()
    answer = client.patch(f"/v1/pfs/{resolve_pf(client, pf)}", {"vfs": vfs, "force": force})
    if ask.json:
        ask.out_json(answer)
        return
    lines = [
        f"{answer['pf']} has {plural(vfs, 'VF')}",
        *change_lines(answer["changes"], ask.painted),
    ]
    ask.out("\n".join(lines + warning_texts(answer["warnings"], ask.painted)))


@click.command(
    "remove",
    cls=Command,
    short_help="Remove a software NIC from this host.",
    examples=[
        Example("iplex pf remove soft0", "Refused while a guest holds a VF, or a file has one."),
        Example("iplex pf remove soft0 --force", "Even so; the files stay."),
    ],
)
@click.argument("pf", shell_complete=complete_pf)
@click.option("--force", is_flag=True, help="Although guests hold its VFs or files configure them.")
def pf_remove(pf: str, force: bool) -> None:
    """Remove a software NIC from this host, with its VFs and counters, and from vfd.cfg. Its uplink
    is an ordinary netdev again.

    Refused (exit code 3) while guests hold VFs of it or files configure them, unless forced;
    those files stay in config_dir, and come into force again if vfd.cfg lists such a NIC again. A
    NIC that is hardware is let go by taking it out of vfd.cfg and a reload.
    """
    ask = settings()
    client = ask.client()
    answer = client.delete(f"/v1/pfs/{resolve_pf(client, pf)}", force=force)
    ask.out_json(answer) if ask.json else ask.out(answer["detail"])
