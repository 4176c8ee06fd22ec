"""What all of iplex's commands share: their options, their examples, and how they fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from vfd.api.client import ANSWER_TIMEOUT, DEFAULT_SOCKET, ApiError, Client
from vfd.cli.text import as_json, paint, wants_colour
from vfd.policy.shown import printable

PATIENCE = 20.0
"""Seconds for which a daemon that ends amid a change is waited for: systemd starts it again after
one, and a host full of NICs takes some more."""
CONFIG_FILE = "/etc/vfd/vfd.cfg"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

MOST = 1 << 20
"""Bytes of a configuration, as the daemon has it."""
OK, USAGE, REFUSED, NOT_FOUND, NIC_FAILED, NO_DAEMON = 0, 2, 3, 4, 5, 6
"""Exit codes. NIC_FAILED is a full disk's, too. INTERRUPTED and PIPE_CLOSED are the shell's for the
signals."""
INTERRUPTED, PIPE_CLOSED = 130, 141
MOST_DIGITS = 9
"""Of a number on the command line: Python refuses to read thousands of them."""


class IplexError(Exception):
    """A command ends here: what went wrong in the manner of the API's errors, and the exit code."""

    def __init__(
        self,
        detail: str,
        exit_code: int,
        problems: Sequence[Mapping[str, Any]] = (),
        hint: str = "",
    ) -> None:
        super().__init__(detail)
        self.exit_code = exit_code
        self.problems = problems
        self.hint = hint


@dataclass
class Settings:
    """The options that every command takes, wherever on the line they stand."""

    socket: str | None = None
    conf: str | None = None
    json: bool = False
    colour: str = "auto"
    loglevel: str | None = None
    debug: bool = False

    @property
    def painted(self) -> bool:
        return wants_colour(self.colour, sys.stdout.isatty())

    @property
    def exact(self) -> bool:
        """Exact numbers: whoever reads a pipe can shorten them, not the other way round."""
        return not sys.stdout.isatty()

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None in a pipe. COLUMNS overrides."""
        if not sys.stdout.isatty():
            return None
        return shutil.get_terminal_size((80, 24)).columns

    def socket_path(self) -> str:
        """``--socket``, ``--conf``'s, ``VFD_SOCKET``, ``/etc/vfd/vfd.cfg``'s, the default."""
        if self.socket:
            return self.socket
        if self.conf:
            return _socket_of(self.conf, must_read=True) or DEFAULT_SOCKET
        return os.environ.get("VFD_SOCKET") or _socket_of(CONFIG_FILE) or DEFAULT_SOCKET

    def client(self, timeout: float = ANSWER_TIMEOUT) -> Client:
        return Client(self.socket_path(), timeout, _trace if self.debug else None, PATIENCE)

    def out(self, text: str) -> None:
        click.echo(text, color=True)

    def out_json(self, answer: object) -> None:
        unicode = sys.stdout.encoding.lower().replace("-", "").startswith("utf")
        self.out(as_json(answer, indent=2, ascii_only=not unicode))

    def paint(self, text: str, style: str) -> str:
        return paint(text, style, self.painted)


def _trace(line: str) -> None:
    click.echo(line, err=True)


def _socket_of(conf: str, must_read: bool = False) -> str | None:
    """The ``socket`` that a main configuration states, read without judging the rest of it."""
    try:
        kind = stat.S_IFMT(Path(conf).stat().st_mode)
        if kind in (stat.S_IFIFO, stat.S_IFSOCK):
            # VFd's vreq had the path of its fifo in this place
            raise ValueError("it is no file: --socket PATH names a socket, and there is no fifo")
        with open(conf, "rb") as file:
            raw = file.read(MOST + 1)
        if len(raw) > MOST:
            raise ValueError("it is above 1 MiB")
        found = _read(raw)
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        if must_read:
            raise click.UsageError(f"--conf {conf} can't be read: {why}") from None
        absent = isinstance(error, FileNotFoundError | NotADirectoryError)
        if not absent and "_IPLEX_COMPLETE" not in os.environ:
            told = f"iplex: {conf} can't be read ({why}): asking at {DEFAULT_SOCKET}"
            click.echo(told, err=True)
        return None
    path = found.get("socket") if isinstance(found, dict) else None
    return path.strip() if isinstance(path, str) and path.strip() else None


def _read(raw: bytes) -> Any:
    """What the daemon reads in such a text, without its words about what is wrong with it."""
    text = raw.decode().removeprefix("\ufeff")
    try:
        return json.loads(text, strict=False)
    except json.JSONDecodeError:
        # Few files need this.
        from vfd.config.last_commas import blank_last_commas

        return json.loads(blank_last_commas(text)[0], strict=False)


def settings() -> Settings:
    """The settings of the command that runs."""
    return click.get_current_context().ensure_object(Settings)


def _remember(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, param: click.Parameter, value: Any) -> None:
        _not_empty(context, param, value)
        if value not in (None, False):
            setattr(context.ensure_object(Settings), field, value)

    return callback


class Count(click.ParamType[int]):
    """A whole number from 0 to ``most``; what is none is told so."""

    name = "number"

    def __init__(self, most: int) -> None:
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip()
        if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) > self.most:
            self.fail(f"{text!r} is no number from 0 to {self.most}", param, ctx)
        return int(text)


def _not_empty(context: click.Context, param: click.Parameter, value: Any) -> None:
    """An empty text is an unset variable of somebody's script. It means no VF, and not the default
    either: ``--socket "$X"`` would ask another daemon, ``export "$X"`` give all VFs."""
    if context.resilient_parsing:
        return
    for one in value if isinstance(value, tuple) else (value,):
        if one == "":
            raise click.BadParameter("it is empty: an unset variable?", context, param)
        if isinstance(one, str) and _CONTROL.search(one):
            told = f"{one!r} has a line break or another control character, as no name here has"
            raise click.BadParameter(told, context, param)


def common_options(hidden: bool) -> list[click.Option]:
    """``hidden``: not in a command's own help, where only ``--json`` is shown."""

    def option(name: str, field: str, **more: Any) -> click.Option:
        return click.Option(
            name.split(), callback=_remember(field), expose_value=False, is_eager=True, **more
        )

    return [
        option("--json", "json", is_flag=True, help="Print the daemon's answer as JSON."),
        option(
            "--socket",
            "socket",
            metavar="PATH",
            hidden=hidden,
            type=FILE,
            help=f"The daemon's socket. Default: VFD_SOCKET, then the main configuration's"
            f" `socket`, then {DEFAULT_SOCKET}.",
        ),
        option(
            "-c --conf --config",
            "conf",
            metavar="FILE",
            hidden=hidden,
            type=FILE,
            help=f"Take the socket from this main configuration instead of {CONFIG_FILE}.",
        ),
        option(
            "--color --colour",
            "colour",
            metavar="WHEN",
            hidden=hidden,
            type=click.Choice(["auto", "always", "never"]),
            help="auto (the default): colours on a terminal, none in a pipe or with NO_COLOR.",
        ),
        option(
            "--loglevel",
            "loglevel",
            metavar="LEVEL",
            hidden=hidden,
            help="VFd's spelling: the level for `verbose`; other commands accept it and need none.",
        ),
        option("--debug", "debug", is_flag=True, hidden=hidden, help="Show requests and answers."),
    ]


FILE = click.Path(readable=False)
"""Completed as a file; whether it can be read is found when it is, and told in our words."""


@dataclass(frozen=True, slots=True)
class Example:
    line: str
    what: str


class Command(click.Command):
    """A command with iplex's common options, and examples under its help."""

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params.extend(common_options(hidden=True))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for param in self.params:
            _not_empty(ctx, param, ctx.params.get(param.name or ""))
        return rest

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(self.examples, formatter)
        super().format_epilog(ctx, formatter)


def write_examples(examples: Sequence[Example], formatter: click.HelpFormatter) -> None:
    if examples:
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"{'':{formatter.current_indent}}{example.line}\n")
                formatter.indent()
                formatter.write_text(example.what)
                formatter.dedent()


class LazyGroup(click.Group):
    """A group whose commands are imported when one of them is asked for.

    ``homes``: heading → command → ``module:attribute``.
    """

    def __init__(
        self,
        *args: Any,
        homes: Mapping[str, Mapping[str, str]],
        examples: Sequence[Example] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.homes = homes
        self.examples = tuple(examples)
        self.params.extend(common_options(hidden=False))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name for commands in self.homes.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        for commands in self.homes.values():
            if cmd_name in commands:
                module, _, attribute = commands[cmd_name].partition(":")
                found = getattr(import_module(module), attribute)
                assert isinstance(found, click.Command)
                return found
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and args[0] not in self.list_commands(ctx):
            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"There is no command '{printable(args[0])}'.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, commands in self.homes.items():
            with formatter.section(heading):
                rows = []
                for name in commands:
                    command = self.get_command(ctx, name)
                    assert command is not None
                    rows.append((name, command.get_short_help_str(limit=formatter.width - 16)))
                formatter.write_dl(rows)
        write_examples(self.examples, formatter)


def not_found(error: Exception) -> bool:
    return isinstance(error, ApiError) and error.exit_code == NOT_FOUND
