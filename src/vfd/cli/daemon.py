"""``iplex ping``, ``dump``, ``verbose`` and ``cpu_alarm``: the daemon itself."""

from __future__ import annotations

import re
import time

import click

from vfd.cli.command import MOST_DIGITS, Command, Example, settings

LEVELS = ("debug", "info", "warning", "error", "critical")
NUMBERED = ("warning", "info", "debug")
"""VFd's numbers: 0 only what matters, 1 what happens, 2 and more everything."""

_SHARE = re.compile(r"^\d?\.\d+$", re.ASCII)


@click.command(
    "ping",
    cls=Command,
    short_help="Does the daemon answer?",
    examples=[Example("iplex ping || systemctl restart vfd", "In a script.")],
)
def ping() -> None:
    """Does the daemon answer? The exit code is 6 if not."""
    ask = settings()
    client = ask.client(timeout=5.0)
    begin = time.monotonic()
    answer = client.get("/v1/version")
    took = (time.monotonic() - begin) * 1000
    if ask.json:
        ask.out_json(answer)
    else:
        ask.out(f"{answer['name']} {answer['version']} answers at {client.path} in {took:.1f} ms")


@click.command(
    "reload",
    cls=Command,
    short_help="Have the daemon read vfd.cfg and all files again.",
    examples=[
        Example("iplex reload", "What `systemctl reload vfd` does, with an answer."),
        Example("iplex reload --confirm-gone", "The files that are gone were deleted on purpose."),
    ],
)
@click.option(
    "--confirm-gone",
    is_flag=True,
    help="Files that are gone were deleted on purpose: close their VFs.",
)
def reload(confirm_gone: bool) -> None:
    """Have the daemon read vfd.cfg and every file of config_dir again, and say which files are not
    in force and which PFs are in trouble.

    Where all files of a folder are gone at once, or another folder is in its place, a mount may be
    missing: their VFs stay as they are, until the files are back or `--confirm-gone` says that they
    were deleted. The exit code is 3 if vfd.cfg is refused; nothing has changed then.
    """
    ask = settings()
    answer = ask.client().post("/v1/reload", {"confirm_gone": confirm_gone})
    if ask.json:
        ask.out_json(answer)
        return
    # Imported where needed: no other command of this module tells of files.
    from vfd.cli.rows import trouble_lines
    from vfd.policy.shown import plural

    told = f"read again: {plural(answer['vfs'], 'VF')} configured"
    ask.out("\n".join([told, *trouble_lines(answer, ask.width, ask.painted)]))


@click.command(
    "dump",
    cls=Command,
    short_help="Everything the daemon knows, for a bug report.",
    examples=[Example("iplex dump > vfd-dump.json", "JSON, always.")],
)
def dump() -> None:
    """Everything the daemon knows, as JSON: its configuration, what each NIC is asked and found
    to enforce, and the latest events. Made to be attached to a bug report.
    """
    ask = settings()
    ask.out_json(ask.client().get("/v1/dump"))


@click.command(
    "verbose",
    cls=Command,
    short_help="Set how much the daemon logs.",
    examples=[
        Example("iplex verbose debug", "Everything."),
        Example("iplex verbose --loglevel=2", "The same, as VFd's iplex had it."),
    ],
)
@click.argument("level", required=False, shell_complete=lambda *_: list(LEVELS))
def verbose(level: str | None) -> None:
    """Set how much the daemon logs, until it restarts; vfd.cfg has the lasting level.

    LEVEL is `debug`, `info`, `warning`, `error` or `critical`, or VFd's number: 0 is `warning`,
    1 `info`, 2 and more `debug`. Without one it is 0, as VFd's iplex had it.
    """
    ask = settings()
    answer = ask.client().put("/v1/verbose", {"level": log_level(level or ask.loglevel or "0")})
    ask.out_json(answer) if ask.json else ask.out(answer["detail"])


def log_level(text: str) -> str:
    """A level's name, from itself or from VFd's number."""
    if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS:
        return NUMBERED[min(int(text), len(NUMBERED) - 1)]
    if text.lower() in LEVELS:
        return text.lower()
    raise click.BadParameter(f"{text!r} is none of {', '.join(LEVELS)}, nor a number from 0")


@click.command(
    "cpu_alarm",
    cls=Command,
    short_help="Set the CPU use above which the daemon warns.",
    examples=[
        Example("iplex cpu_alarm 15%", "Warn above 15 percent of one CPU."),
        Example("iplex cpu_alarm 0", "Never warn."),
    ],
)
@click.argument("percent")
def cpu_alarm(percent: str) -> None:
    """Set the CPU use above which the daemon warns, in percent of one CPU, until it restarts;
    vfd.cfg has the lasting value. 0: never; 1 to 4 are 5. VFd's `0.15` is `15%`.
    """
    ask = settings()
    answer = ask.client().put("/v1/cpu_alarm", {"percent": as_percent(percent)})
    ask.out_json(answer) if ask.json else ask.out(answer["detail"])


def as_percent(text: str) -> int:
    """15 for ``15``, ``15%`` and, as vfd.cfg may have it, ``0.15``."""
    digits = text.strip().removesuffix("%").strip()
    few = digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS
    if few and int(digits) <= 1000:
        return int(digits)
    if digits == text.strip() and _SHARE.match(digits):
        return round(float(digits) * 100)
    raise click.BadParameter(f"{text!r} is not a percentage from 0 to 1000, like 15%")
