"""The ``iplex`` command: which commands there are, and the exit code of each ending."""

from __future__ import annotations

import sys

import click

from vfd.api.client import ApiError, NoDaemonError, StrangeAnswerError, strange
from vfd.cli import streams
from vfd.cli.command import (
    INTERRUPTED,
    NIC_FAILED,
    OK,
    PIPE_CLOSED,
    USAGE,
    Example,
    IplexError,
    LazyGroup,
    Settings,
)
from vfd.cli.text import line

HOMES = {
    "Virtual functions": {
        "add": "vfd.cli.vfs:add",
        "update": "vfd.cli.vfs:update",
        "delete": "vfd.cli.vfs:delete",
        "status": "vfd.cli.look:status",
        "get": "vfd.cli.look:get",
        "export": "vfd.cli.look:export",
        "plan": "vfd.cli.vfs:plan",
        "check": "vfd.cli.check:check",
    },
    "The NIC": {
        "show": "vfd.cli.show:show",
        "caps": "vfd.cli.pfs:caps",
        "mirror": "vfd.cli.pfs:mirror",
        "clear": "vfd.cli.pfs:clear",
        "pf": "vfd.cli.pfs:pf",
    },
    "The daemon": {
        "events": "vfd.cli.events:events",
        "ping": "vfd.cli.daemon:ping",
        "reload": "vfd.cli.daemon:reload",
        "dump": "vfd.cli.daemon:dump",
        "verbose": "vfd.cli.daemon:verbose",
        "cpu_alarm": "vfd.cli.daemon:cpu_alarm",
        "completion": "vfd.cli.completion:completion",
    },
}


def _version(context: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        from vfd import __version__

        click.echo(f"iplex {__version__}")
        context.exit()


@click.group(
    "iplex",
    cls=LazyGroup,
    homes=HOMES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    subcommand_metavar="COMMAND [ARGS]...",
    examples=[
        Example("iplex check vm1.json", "Is this file good? No daemon needed."),
        Example("iplex plan vm1.json", "What would it change?"),
        Example("iplex add ./vm1.json", "Put it in force, now and after every restart."),
        Example("iplex show all", "What passes, what is dropped."),
        Example("iplex events --follow", "What guests ask for, and what they are refused."),
    ],
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
              help="Print the version and exit.")  # fmt: skip
def iplex() -> None:
    """Ask vfd, the NIC hypervisor, what this host's virtual functions may send and receive, and
    say what they may.

    `iplex COMMAND --help` explains a command and shows examples of it. Options may stand before
    or after the command.

    Exit codes: 0 done, 2 wrong usage, 3 refused by policy or configuration, 4 not found, 5 the
    NIC or the disk failed, 6 no daemon that answers as vfd does, 1 a fault of iplex itself (the
    environment's VFD_DEBUG=1 has its traceback printed), 130 ended by Ctrl-C, 141 the reader of
    the output went away.
    """


def run(args: list[str] | None = None) -> int:
    """Runs one command line; the exit code."""
    settings = Settings()
    try:
        ended = iplex.main(args, prog_name="iplex", standalone_mode=False, obj=settings)
        sys.stdout.flush()
        return ended if isinstance(ended, int) else OK
    except click.ClickException as error:
        # A line that can't be parsed may not have reached its --json.
        if settings.json or "--json" in (sys.argv[1:] if args is None else args):
            return _tell(IplexError(error.format_message(), USAGE), Settings(json=True))
        shown = click.UsageError(line(error.message or error.format_message()))
        shown.ctx = getattr(error, "ctx", None)
        shown.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit as ended:
        if streams.reader_is_gone():
            return PIPE_CLOSED
        raise ended
    except BrokenPipeError:
        # The reader has seen enough (`iplex show all | head`).
        streams.discard_output()
        return PIPE_CLOSED
    except (ApiError, NoDaemonError, IplexError) as error:
        return _tell(error, settings)
    except StrangeAnswerError as error:
        return _tell(strange(settings.socket_path(), error), settings)
    except Exception as error:
        if isinstance(error, OSError) and streams.is_of_output(error):
            # `iplex dump > FILE` on a full disk
            streams.discard_output()
            return _tell(IplexError(streams.unwritable(error), NIC_FAILED), settings)
        return _tell(IplexError(streams.fault("iplex", error), streams.FAULT), settings)


def _tell(error: ApiError | NoDaemonError | IplexError, settings: Settings) -> int:
    # Only a failure needs this module.
    from vfd.cli.failures import tell

    return tell(error, settings)


def main() -> None:
    streams.make_usable()
    sys.exit(run())
