"""``iplex events``: what happened at the NICs and in the daemon."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import click

from vfd.cli.command import Command, Example, Settings, settings
from vfd.cli.completion import complete_pf, complete_vf
from vfd.cli.show import resolve_pf
from vfd.cli.text import as_json, printable

_AGO = re.compile(r"^(\d+(?:\.\d+)?)\s*([smhd])$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
KINDS = (
    *("ready", "reloaded", "released"),
    *("added", "updated", "deleted", "pf", "cleared"),
    *("granted", "refused"),
    *("guest-come", "guest-gone", "vf-reset", "link"),
    *("drift", "warning", "bad-file", "refused-file", "taken-over", "kept", "callback"),
    *("failed", "lost", "back", "cpu-alarm"),
)
"""As docs/operating.md explains them."""
_LEVELS = ("info", "warning", "error")
_STYLES = {"warning": "yellow", "error": "bold red"}


class Since(click.ParamType[float]):
    """A moment: ``10m`` ago, or an ISO 8601 time (local without a zone)."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value).strip()
        if found := _AGO.match(text):
            return time.time() - float(found[1]) * _SECONDS[found[2]]
        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            self.fail(
                f"{text!r} is no moment: write 30s, 10m, 2h or 1d ago, or 2024-05-01T12:00",
                param,
                ctx,
            )


@click.command(
    "events",
    cls=Command,
    short_help="What happened: guests' requests, links, drift, changes.",
    examples=[
        Example("iplex events --follow", "What comes, until Ctrl-C."),
        Example("iplex events --since 10m --level warning", "Warnings and errors of ten minutes."),
        Example("iplex events -f --kind refused --pf soft0", "What guests are refused on one PF."),
        Example("iplex events -f --json | jq -r .text", "One JSON object per line."),
    ],
)
@click.option("-f", "--follow", is_flag=True, help="Wait for events as they come.")
@click.option("--since", metavar="TIME", type=Since(), help="From then: `10m` ago, or ISO 8601.")
@click.option(
    "--pf", metavar="PF", shell_complete=complete_pf, help="Of this PF only, by its id or number."
)
@click.option("--name", metavar="NAME", shell_complete=complete_vf, help="Of this VF only.")
@click.option("--kind", multiple=True, metavar="KIND", type=click.Choice(KINDS),
              help="Of this kind only; may be repeated.")  # fmt: skip
@click.option("--level", type=click.Choice(_LEVELS), default="info", help="This level and above.")
def events(
    follow: bool,
    since: float | None,
    pf: str | None,
    name: str | None,
    kind: tuple[str, ...],
    level: str,
) -> None:
    """What happened: guests' requests granted and refused, links, drift and its repair, changes.

    The daemon keeps the latest events in memory; its log has the older ones. With --follow those
    that come are shown, and before them those since --since, if that is given. With --json each
    event is one line.
    """
    ask = settings()
    if pf is not None:
        pf = resolve_pf(ask.client(), pf)

    def wanted(event: Mapping[str, Any]) -> bool:
        return (
            (since is None or event["time"] >= since)
            and (pf is None or event["pf"] == pf)
            and (name is None or event["name"] == name)
            and (not kind or event["kind"] in kind)
            and _LEVELS.index(event["level"]) >= _LEVELS.index(level)
        )

    for event in _events(ask, follow, since is not None):
        if wanted(event):
            shown = as_json(event) if ask.json else _line(event, ask)
            ask.out(shown)


def _events(ask: Settings, follow: bool, past: bool) -> Iterator[Mapping[str, Any]]:
    client = ask.client()
    if not follow:
        yield from client.get("/v1/events")["events"]
        return
    since, dropped = 0 if past else None, True
    while dropped:
        dropped = False
        for event in client.stream("/v1/events", {"follow": True, "since": since}):
            if dropped := event["kind"] == "dropped":  # too slow: what waited is still kept
                since = event["seq"]
            else:
                yield event


def _line(event: Mapping[str, Any], ask: Settings) -> str:
    when = datetime.fromtimestamp(event["time"]).isoformat(" ", "milliseconds")
    port = event["pf"] or ""
    if event["vfid"] is not None:
        port += f":{event['vfid']}"
    who = " ".join(part for part in (port, event["name"]) if part)
    kind = f"{event['kind']:12}"
    return "  ".join(
        part
        for part in (
            ask.paint(when, "dim"),
            ask.paint(kind, _STYLES.get(event["level"], "cyan")),
            ask.paint(printable(who), "bold") if who else "",
            printable(event["text"]),
        )
        if part
    )
