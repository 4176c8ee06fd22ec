"""The command line, `lab/vm`."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from lab import accel, boot, parts
from lab.errors import LabError
from lab.machine import MAX_IGB, Machine

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"

_DESCRIPTION = """Machines with SR-IOV NICs, on this host's file system; nothing is left behind.
docs/lab.md says what in them is real."""

# Seconds after which a single test is taken to hang: in the guest, beside another one, Python is
# some fifty times slower.
_TEST_TIMEOUT = 900


def main(argv: list[str] | None = None) -> int:
    """Parse and run; the exit status is the guest's, 124 after a timeout, 125 for a failed boot."""
    arguments = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        status: int = arguments.act(arguments)
    except LabError as error:
        print(f"lab/vm: {error}", file=sys.stderr)
        return boot.FAILED
    except BrokenPipeError:
        return 141  # 128 + SIGPIPE, as if the guest's command had met it
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab/vm", description=_DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run a command as root in a fresh machine",
        description="Run a command as root, in the current directory, in a fresh machine on this "
        "host's file system (writes go to memory).  One word is a line of bash, several are a "
        "command and its arguments.  Exit status: the command's; 124 after --timeout; 125 when "
        "the machine fails.",
    )
    _machine_options(run, igb=2)
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    run.set_defaults(act=_run)

    pytest = commands.add_parser(
        "pytest",
        help="run pytest in a fresh machine",
        description="Run the checkout's pytest in a fresh machine.  Plugins are not loaded by "
        "themselves, which would take twenty seconds under emulation: only pytest-timeout is, "
        "and what `-p` names.",
    )
    _machine_options(pytest, igb=2)
    pytest.add_argument("words", nargs=argparse.REMAINDER, metavar="-- ARGUMENTS OF PYTEST")
    pytest.set_defaults(act=_pytest, timeout=3600)

    shell = commands.add_parser("shell", help="a prompt in a machine with two SR-IOV NICs")
    _machine_options(shell, igb=2)
    shell.set_defaults(act=_shell, timeout=0)
    return parser


def _machine_options(parser: argparse.ArgumentParser, *, igb: int) -> None:
    add = parser.add_argument
    add(
        "--kernel",
        choices=list(parts.KERNELS),
        default=parts.NEWEST,
        help="which Linux (%(default)s)",
    )
    add(
        "--igb", type=_count(0, MAX_IGB), default=igb, metavar="N", help="SR-IOV NICs (%(default)s)"
    )
    add("--vfs", type=_count(0, 7), default=0, metavar="N", help="VFs to make on each first (0)")
    add("--iommu", action="store_true", help="an IOMMU, for vfio-pci")
    add("--plain-nic", action="store_true", help="add plain0, a virtio-net without VFs")
    add("--mem", type=_count(128, 1 << 16), default=1024, metavar="MB", help="memory (%(default)s)")
    add("--smp", type=_count(1, 16), default=2, metavar="N", help="processors (%(default)s)")
    add("--timeout", type=float, default=300, metavar="S", help="0: none (%(default)s)")
    add("--env", action="append", default=[], metavar="NAME[=VALUE]", help="pass a variable")
    add("--console", action="store_true", help="show the kernel's messages")


def _count(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return number


def _machine(arguments: argparse.Namespace) -> Machine:
    return Machine(
        kernel=arguments.kernel,
        igb=arguments.igb,
        vfs=arguments.vfs,
        iommu=arguments.iommu,
        plain_nic=arguments.plain_nic,
        memory=arguments.mem,
        cpus=arguments.smp,
    )


def _job(arguments: argparse.Namespace, command: str | None) -> boot.Job:
    environment = {}
    for assignment in arguments.env:
        name, given, value = assignment.partition("=")
        environment[name] = value if given else os.environ.get(name, "")
    return boot.Job(
        command=command,
        cwd=Path.cwd(),
        path=[VENV / "bin"],
        environment=environment,
        timeout=arguments.timeout or None,
        show_console=arguments.console,
    )


def _words(arguments: argparse.Namespace) -> list[str]:
    words: list[str] = arguments.words
    return words[1:] if words[:1] == ["--"] else words


def _run(arguments: argparse.Namespace) -> int:
    words = _words(arguments)
    if not words:
        raise LabError("no command to run: lab/vm run [OPTIONS] -- COMMAND ...")
    command = words[0] if len(words) == 1 else shlex.join(words)
    return boot.run(_machine(arguments), _job(arguments, command), accel.choose())


def _pytest(arguments: argparse.Namespace) -> int:
    python = VENV / "bin/python"
    if not python.exists():
        raise LabError(f"no {python}: run `make venv`")
    # compiling is some twenty times faster here than in the guest
    folders = [folder for folder in ("src", "lab", "tests") if (CHECKOUT / folder).exists()]
    subprocess.run(
        [python, "-m", "compileall", "-q", *folders],
        cwd=CHECKOUT,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    command = [str(python), "-m", "pytest", "-p", "pytest_timeout", "-p", "no:cacheprovider"]
    command += ["-o", f"timeout={_TEST_TIMEOUT}"]
    command += ["--color=yes"] if sys.stdout.isatty() else []
    arguments.env.append("PYTEST_DISABLE_PLUGIN_AUTOLOAD=1")
    job = _job(arguments, shlex.join([*command, *_words(arguments)]))
    return boot.run(_machine(arguments), job, accel.choose())


def _shell(arguments: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise LabError("shell needs a terminal; use `lab/vm run -- COMMAND` in scripts")
    if not (VENV / "bin/vfd").exists():
        print("lab/vm: no vfd in it: `make venv` builds one in .venv", file=sys.stderr)
    print("lab/vm: booting, about ten seconds ...", file=sys.stderr)
    return boot.run(_machine(arguments), _job(arguments, None), accel.choose())
