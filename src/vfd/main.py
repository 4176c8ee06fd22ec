"""The ``vfd`` command: puts the parts together, in the order that safety and speed ask for.

The socket is locked first, then all capabilities but the needed ones are dropped, then the NICs are
locked and adopted, then the pid file is written, and only then is the HTTP library imported: what
guests were promised must not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import vfd
from vfd.api.turns import Turns
from vfd.cli import streams
from vfd.config import store
from vfd.config.errors import ConfigError, Problem, shown
from vfd.config.main_file import MainConfig, ParsedMain, parse_main
from vfd.daemon import live, logs, pfs, privileges, sockets
from vfd.daemon.exclusive import InUseError
from vfd.daemon.files import Files
from vfd.daemon.folders import make_folder
from vfd.daemon.journal import Journal
from vfd.daemon.notify import notify
from vfd.daemon.pidfile import PidFile
from vfd.daemon.runner import Daemon
from vfd.daemon.service import Service
from vfd.daemon.sockets import Groups, Sockets
from vfd.daemon.zero import Zero
from vfd.policy.shown import plural, printable

if TYPE_CHECKING:
    from vfd.api.server import Server
    from vfd.cli.checking import Findings
    from vfd.policy.values import PfPolicy

log = logging.getLogger("vfd")

DEFAULT_CONFIG = "/etc/vfd/vfd.cfg"
EXIT_CONFIG = 3
EXIT_IN_USE = 5
EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = 130, 141
"""The shell's for the signals."""


class _Program(click.Command):
    """Whatever goes wrong, its user is told in a line, with an exit code that is documented."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        streams.make_usable()
        try:
            ended = super().main(*args, **{**kwargs, "standalone_mode": False})
            sys.stdout.flush()
            code = ended if isinstance(ended, int) else 0
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            code = EXIT_INTERRUPTED
        except SystemExit as ended:
            if not streams.reader_is_gone():
                raise ended
            code = EXIT_PIPE_CLOSED
        except BrokenPipeError:
            streams.discard_output()
            code = EXIT_PIPE_CLOSED
        except Exception as error:
            if isinstance(error, OSError) and streams.is_of_output(error):
                streams.discard_output()
                told = streams.unwritable(error)
            else:
                told = streams.fault("vfd", error)
            click.echo(f"vfd: {told}", err=True)
            code = streams.FAULT
        sys.exit(code)


def _instead(what: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    """For an option of VFd's that this program has otherwise."""

    def refuse(context: click.Context, param: click.Parameter, given: bool) -> None:
        if given and not context.resilient_parsing:
            raise click.UsageError(f"{param.opts[0]} was VFd's: {what}")

    return refuse


@click.command(cls=_Program, context_settings={"help_option_names": ["-h", "-?", "--help"]})
@click.option(
    "--config",
    "-c",
    "-p",
    default=DEFAULT_CONFIG,
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The main configuration: which PFs, and every path that the daemon uses.",
)
@click.option(
    "--socket",
    "-s",
    "socket_path",
    envvar="VFD_SOCKET",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to serve the API, instead of the configuration's socket.",
)
@click.option(
    "--check", is_flag=True, help="Say what is wrong with the configuration, change nothing, exit."
)
@click.option("--foreground", "-f", is_flag=True, help="Accepted for VFd's sake: vfd never forks.")
@click.option("-H", "no_huge_pages", is_flag=True, hidden=True, expose_value=False)
@click.option("-n", "no_nic", is_flag=True, hidden=True, expose_value=False, callback=_instead(
    "write `vfd --check` to have the files judged, or `iplex plan FILE` to see what a running"
    " daemon would change"))  # fmt: skip
@click.option("-q", "qos", is_flag=True, hidden=True, expose_value=False, callback=_instead(
    'write "enable_qos": true in the main configuration'))  # fmt: skip
@click.option("-F", "flow_control", is_flag=True, hidden=True, expose_value=False,
    callback=_instead("pause frames stay as the NIC has them; `ethtool -A` sets them"))  # fmt: skip
@click.option("--verbose", "-v", is_flag=True, help="Log details, whatever log_level says.")
@click.version_option(vfd.__version__, prog_name="vfd")
def main(
    config: Path, socket_path: Path | None, check: bool, foreground: bool, verbose: bool
) -> None:
    """Enforces what each virtual function of this host's NICs may send, receive and ask for.

    Reads the PFs from CONFIG and the VFs' policies from its config_dir, brings the NICs to that
    state, and then serves iplex and other programs on a Unix socket. Runs in the foreground, as
    systemd wants it, and logs to stderr and to log_dir.

    \b
    SIGTERM  stops the daemon; the NICs go on enforcing.
    SIGHUP   reads the configuration again.

    \b
    A first try, on a software NIC, as root:
      mkdir /tmp/vfs
      echo '{"config_dir": "/tmp/vfs", "log_dir": "/tmp",
             "pciids": [{"id": "soft0", "backend": "soft", "vfs": 4}]}' > /tmp/vfd.cfg
      vfd --config /tmp/vfd.cfg --socket /tmp/vfd.sock
      iplex --socket /tmp/vfd.sock show all

    Exit codes: 0 stopped, 1 a fault of vfd itself (the environment's VFD_DEBUG=1 has its traceback
    printed) or output that can't be written, 2 usage, 3 configuration refused or config_dir can't
    be made, 5 socket or NIC in use, or the socket can't be made, 130 ended by Ctrl-C before it
    served, 141 the reader of the output went away.
    """
    del foreground
    for option, given in (("--config", config), ("--socket", socket_path)):
        if given is not None and not str(given).isprintable():
            raise click.UsageError(f"{option} {printable(str(given))}: a path is printable text")
        if given is not None and not given.name:
            raise click.UsageError(f"{option} names no file")
    # Start-up makes objects that stay: looking for garbage among them costs a tenth of the time
    # until guests have what they were promised. ``_serve`` turns it on again.
    gc.disable()
    # A request changes threads some eight times. Beside one that reads twenty thousand files, each
    # change waits for as long as this: an update took 38 ms at Python's 5 ms and takes 10 ms now.
    sys.setswitchinterval(0.0002)
    try:
        parsed = _read(config)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"vfd: {problem}", err=True)
        sys.exit(EXIT_CONFIG)
    if check:
        sys.exit(_check(config, parsed))
    settings = parsed.config

    def log_as(main: MainConfig) -> None:
        logs.set_up(main.log_dir, main.log_keep, 2 if verbose else main.log_level)

    log_as(settings)
    for warning in parsed.warnings:
        log.warning("%s", warning)
    path = socket_path or Path(settings.socket)
    holder = f"pid {os.getpid()}, configuration {config.resolve()}"
    groups = sockets.groups()
    try:
        listening = Sockets(path, groups, holder)
    except (InUseError, OSError) as error:
        # the system's own words don't say what for
        what = f"socket {path} can't be made: " if getattr(error, "filename", None) else ""
        click.echo(f"vfd: {what}{error}", err=True)
        sys.exit(EXIT_IN_USE)
    try:
        made = _make_config_dir(Path(settings.config_dir))
    except OSError as error:
        click.echo(
            f"vfd: config_dir {settings.config_dir} can't be made: {error.strerror}; make it, or"
            f" correct its path in {config}",
            err=True,
        )
        listening.close()
        sys.exit(EXIT_CONFIG)
    if groups.changers is None:
        log.warning("no group %s on this host: only root can use %s", sockets.CHANGERS, path)
    for missing in privileges.drop():
        log.warning("without %s the daemon can't: %s", missing.name, privileges.KEPT[missing])
    files = Files(config.resolve(), settings, path.with_suffix(".files"))
    journal = Journal()
    if made:
        told = f"config_dir {files.folder} was not there: it is made, and empty"
        journal.emit("warning", told, level="warning")
    service = Service(files, settings, journal, Zero(path.with_suffix(".zero")), holder)
    try:
        asyncio.run(_serve(service, journal, listening, groups, config, log_as))
    except InUseError as error:
        click.echo(f"vfd: {error}", err=True)
        sys.exit(EXIT_IN_USE)
    finally:
        listening.close()
    # A NIC call that hangs in the writing thread must not hold up the exit.
    logging.shutdown()
    os._exit(0)


def _make_config_dir(folder: Path) -> bool:
    """Whether it was missing and is made. What else is in its place is the service's to tell, which
    leaves all VFs as they are then."""
    return not os.path.lexists(folder) and make_folder(folder)


def _read(config: Path) -> ParsedMain:
    return parse_main(store.read(config).text, file=str(config))


def _check(config: Path, parsed: ParsedMain) -> int:
    """The main file is good; are the VFs' files?"""
    for warning in parsed.warnings:
        click.echo(f"warning: {warning}")
    reading = Files(config, parsed.config).read_all()
    good, bad = reading.good, reading.bad.values()
    if isinstance(reading.error, FileNotFoundError):
        click.echo(f"warning: config_dir {parsed.config.config_dir} is not there: vfd makes it")
    elif reading.error is not None:
        click.echo(
            f"vfd: config_dir {parsed.config.config_dir} can't be read: {reading.error.strerror};"
            " make it, or correct its path",
            err=True,
        )
        return EXIT_CONFIG
    if left := len(live.waiting(reading.folder)):
        where = live.folder_of(reading.folder)
        click.echo(f"warning: {plural(left, 'file')} of VFd's in {where}: a start takes them over")
    # As iplex check judges them, which the daemon itself has no use for.
    from vfd.cli.checking import Findings, between

    found = Findings(vfs={one.file: one.policy for one in good})
    for file in bad:
        found.problems += file.problems
        if file.readable is not None:
            found.vfs[file.file] = file.readable.policy
            found.unknown[file.readable.policy.name] = file.readable.unknown
    between(found, {pf.id: pf for pf in parsed.config.nics}, main_is_known=True)
    _on_this_host(parsed.config.nics, str(config), found)
    for warning in found.warnings:
        click.echo(f"warning: {warning}")
    for problem in found.problems:
        click.echo(f"vfd: {problem}", err=True)
    wrong = len({problem.file for problem in found.problems if problem.file != str(config)})
    files = f"{plural(len(good) + len(bad) - wrong, 'good file')}, {wrong} bad"
    click.echo(f"{config}: {plural(len(parsed.config.nics), 'PF')}; {files}")
    return EXIT_CONFIG if found.problems else 0


def _on_this_host(nics: Sequence[PfPolicy], file: str, found: Findings) -> None:
    """Adds what ``pciids`` names by two names, and what this host doesn't have. A PF or a netdev
    may come later, or the file be another host's, so that is warned of; a backend that isn't
    installed never works."""
    from vfd.nic.discovery import absent, address_of

    first: dict[str, int] = {}
    for number, pf in enumerate(nics):
        twin = first.setdefault(address_of(pf.id), number)
        if twin != number:
            rule = f"a PF is listed once, and pciids[{twin}] ({nics[twin].id}) is this device too"
            found.problems.append(Problem(file, f"pciids[{number}].id", shown(pf.id), rule))
        for one in absent(pf):
            rule = one.rule if one.for_good else f"on this host: {one.rule}"
            problem = Problem(file, f"pciids[{number}].{one.field}", shown(one.value), rule)
            (found.problems if one.for_good else found.warnings).append(problem)


async def _serve(
    service: Service,
    journal: Journal,
    listening: Sockets,
    groups: Groups,
    config: Path,
    log_as: Callable[[MainConfig], None],
) -> None:
    loop = asyncio.get_running_loop()
    daemon = Daemon(service, journal, lambda: _read(config), log_as)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: daemon.later(_reload(daemon)))
    await daemon.start()
    pid_file = PidFile(Path(service.main.pid_fname), service.holder)
    pid_file.put()
    service.placed.append(pid_file)
    try:
        # The NICs enforce and the socket takes connections, which are answered in a moment.
        notify(READY="1", STATUS=daemon.status())
        await _answer(daemon, listening, groups, stop)
    finally:
        pid_file.remove()


async def _reload(daemon: Daemon) -> None:
    with contextlib.suppress(Exception):  # it is told where it happens, and nobody waits
        await daemon.reload()


async def _answer(daemon: Daemon, listening: Sockets, groups: Groups, stop: asyncio.Event) -> None:
    """Serves the API until ``stop``."""
    # In another thread: guests are answered meanwhile.
    loop = asyncio.get_running_loop()
    server = await loop.run_in_executor(None, _server, daemon, groups, Turns())

    def made_again() -> None:
        daemon.later(daemon.call(pfs.hold, daemon.service))

    serving = asyncio.create_task(server.run_on(listening, daemon.journal, made_again, daemon.mind))
    gc.freeze()
    gc.enable()
    daemon.journal.emit("ready", f"vfd {vfd.__version__}: {daemon.status()}")
    ending = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
    await daemon.stop()
    server.finish()
    try:
        async with asyncio.timeout(0.4):
            await serving
    except TimeoutError:
        pass  # a client that doesn't read: its connection ends with the process


def _server(daemon: Daemon, groups: Groups, turns: Turns) -> Server:
    """The HTTP library takes longer to load than all NICs to adopt: it is loaded here."""
    from vfd.api.app import make_app
    from vfd.api.server import Server

    return Server(make_app(daemon, groups, turns), turns)


if __name__ == "__main__":
    main()
