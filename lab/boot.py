"""Boot a guest, run one job in it, and leave nothing behind.

No file is made: the job travels in the initial RAM disk, which is memory, and every channel to the
guest is a socket pair.  QEMU is killed when the job ends, and by the kernel if this process dies.
"""

import contextlib
import ctypes
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from lab import cache, cpio, parts
from lab.errors import LabError
from lab.machine import Channels, Machine, arguments

# exit statuses of the launcher itself, as timeout(1) and podman use them
TIMED_OUT = 124
FAILED = 125

_CONSOLE_LINES = 40
_PR_SET_PDEATHSIG = 1
_ESCAPE = b"\x1d"  # Ctrl-], telnet's


@dataclass(frozen=True)
class Job:
    """What the guest is to do.

    Seconds: `boot_timeouts` to the start of the command, one for each try, since now and then an
    emulated machine stands still while it boots; `timeout` from there; None: no limit.
    """

    command: str | None  # a bash script; None: an interactive shell
    cwd: Path
    path: Sequence[Path] = ()  # put before PATH
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = 300
    boot_timeouts: Sequence[float] = (60, 120, 180)
    show_console: bool = False


class _NotBootedError(LabError):
    """The machine is there, and its command did not begin in time."""


class _EndedError(Exception):
    """A signal asks the launcher to end."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


def run(machine: Machine, job: Job, accelerator: str) -> int:
    """Boot, run the job with its output on this process's own, and return its exit status.

    Errors: LabError when the laboratory isn't built, or the guest doesn't boot, dies, or takes
    longer than the job's `timeout`.
    """
    missing = parts.missing()
    if missing:
        raise LabError(
            f"the laboratory isn't built: {cache.folder()} lacks {', '.join(missing)}; "
            "run `make lab` (about a minute, once)"
        )
    with cache.in_use(), _signals():
        try:
            *tries, last = job.boot_timeouts
            for limit in tries:
                try:
                    return _boot(machine, job, accelerator, limit)
                except _NotBootedError as error:
                    print(f"lab/vm: {error}\nlab/vm: trying again", file=sys.stderr)
            return _boot(machine, job, accelerator, last)
        except _EndedError as end:
            return 128 + end.signum


def _boot(machine: Machine, job: Job, accelerator: str, limit: float) -> int:
    """One try. Raises _NotBootedError where the command hasn't begun by then."""
    with contextlib.ExitStack() as stack:
        guest = stack.enter_context(_start(machine, job, accelerator, limit))
        if job.command is None:
            stack.enter_context(_raw_terminal())
        return guest.follow()


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Have every signal that ends a process unwind it instead."""

    def end(signum: int, _frame: FrameType | None) -> NoReturn:
        raise _EndedError(signum)

    before = {n: signal.signal(n, end) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


@contextlib.contextmanager
def _start(machine: Machine, job: Job, accelerator: str, boot_timeout: float) -> Iterator["_Guest"]:
    with contextlib.ExitStack() as stack:

        def pair() -> tuple[socket.socket, socket.socket]:
            ours, theirs = socket.socketpair()
            return stack.enter_context(ours), stack.enter_context(theirs)

        console, control, stdout, stderr, terminal, qmp = (pair() for _ in range(6))
        initrd = stack.enter_context(_initrd(machine, job))
        channels = Channels(
            console=console[1].fileno(),
            control=control[1].fileno(),
            stdout=stdout[1].fileno(),
            stderr=stderr[1].fileno(),
            terminal=terminal[1].fileno() if job.command is None else None,
            qmp_monitor=qmp[0].fileno(),
            qmp_guest=qmp[1].fileno(),
            initrd=initrd.fileno(),
        )
        kernel = parts.kernel(machine.kernel) / "vmlinux"
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        process = subprocess.Popen(
            qemu_command() + arguments(machine, str(kernel), channels, accelerator),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C on the terminal is the launcher's, not QEMU's
            start_new_session=True,
            preexec_fn=_die_with_parent(),
            pass_fds=[fd for fd in vars(channels).values() if fd is not None],
        )
        try:
            for theirs in (console, control, stdout, stderr, terminal, qmp):
                theirs[1].close()
            qmp[0].close()
            yield _Guest(
                process,
                log,
                job,
                boot_timeout,
                console[0],
                control[0],
                stdout[0],
                stderr[0],
                terminal[0],
            )
        finally:
            process.kill()
            process.wait()


def qemu_command() -> list[str]:
    """QEMU by its own loader and libraries, with its firmware, which Debian keeps in two places."""
    tools = parts.tools()
    command = parts.run_in(tools, "usr/bin/qemu-system-x86_64")
    for folder in ("qemu", "seabios"):
        command += ["-L", str(tools / "usr/share" / folder)]
    return command


def _die_with_parent() -> Callable[[], None]:
    # looked up before the fork; between fork and exec as little as possible is done
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def set_up() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before: no signal comes any more
            os._exit(1)

    return set_up


def _initrd(machine: Machine, job: Job) -> IO[bytes]:
    """The initial RAM disk with the job in it, in memory."""
    size = _window()
    lab = {
        "LAB_TOOLS": str(parts.tools()),
        "LAB_KERNEL": str(parts.kernel(machine.kernel)),
        "LAB_PATH": ":".join(map(str, job.path)),
        "LAB_IGB": str(machine.igb),
        "LAB_VFS": str(machine.vfs),
        "LAB_PLAIN": str(int(machine.plain_nic)),
        "LAB_MODE": "shell" if job.command is None else "run",
        "LAB_MERGE": str(int(_same_file(1, 2))),
    }
    exported = {"TERM": os.environ.get("TERM", "dumb"), **job.environment}
    if sys.stdout.isatty() and job.command is not None:
        exported["COLUMNS"] = str(size.columns)
    environment = [f"{name}={shlex.quote(value)}\n" for name, value in lab.items()]
    environment += [f"export {name}={shlex.quote(value)}\n" for name, value in exported.items()]
    here = Path(__file__).resolve().parent
    nodes = [
        cpio.file("init", (here / "initrd_init.sh").read_bytes(), executable=True),
        cpio.file("job/init", (here / "guest_init.sh").read_bytes()),
        cpio.file("job/environment", "".join(environment).encode()),
        cpio.file("job/cwd", f"{job.cwd}\n".encode()),
    ]
    if job.command is None:
        rows, columns = size.lines, size.columns
        rc = (here / "guest_bashrc.sh").read_text()
        nodes.append(cpio.file("job/bashrc", f"stty rows {rows} cols {columns}\n{rc}".encode()))
    else:
        nodes.append(cpio.file("job/command", f"{job.command}\n".encode()))
    base = (parts.kernel(machine.kernel) / "initrd").read_bytes()
    memory = os.fdopen(os.memfd_create("lab-initrd"), "wb")
    memory.write(base + cpio.archive(nodes))
    memory.flush()
    return memory


def _window() -> os.terminal_size:
    """The terminal's own size: COLUMNS and LINES, which shutil prefers, may be stale."""
    try:
        return os.get_terminal_size(1)
    except OSError:
        return os.terminal_size((80, 24))


def _same_file(one: int, other: int) -> bool:
    """Whether two descriptors go to one place, so that the order of what is written matters."""
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key is the guest's, Ctrl-C too."""
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


class _Guest:
    """A running guest, from the launcher's side: one loop that waits for all its channels."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        log: IO[str],
        job: Job,
        boot_timeout: float,
        console: socket.socket,
        control: socket.socket,
        stdout: socket.socket,
        stderr: socket.socket,
        terminal: socket.socket,
    ) -> None:
        self.process = process
        self.log = log
        self.job = job
        self.boot_timeout = boot_timeout
        self.control = control
        self.terminal = terminal
        self.started = time.monotonic()
        self.up = False
        self.status: int | None = None
        self.alive = True
        self.console: deque[str] = deque([""], maxlen=_CONSOLE_LINES)
        self.selector = selectors.DefaultSelector()
        self.outputs = {stdout: 1, stderr: 2}
        if job.command is None:
            self.outputs = {terminal: 1}
            self.selector.register(0, selectors.EVENT_READ, self._from_keyboard)
        for channel, target in self.outputs.items():
            self.selector.register(channel, selectors.EVENT_READ, self._copier(channel, target))
        self.selector.register(console, selectors.EVENT_READ, lambda: self._from_console(console))
        self.selector.register(control, selectors.EVENT_READ, self._from_control)

    def follow(self) -> int:
        """Carry output until the guest reports a status; say what happened when it doesn't."""
        previous = signal.signal(signal.SIGWINCH, lambda *_: self._resize())
        try:
            while self.status is None:
                for key, _ in self.selector.select(self._wait()):
                    key.data()
                if self.status is None and self.process.poll() is not None:
                    self._drain()
                    if self.status is None:
                        self._fail_dead()
            self._drain()
            return self.status
        finally:
            signal.signal(signal.SIGWINCH, previous)

    def _wait(self) -> float:
        """Seconds to the next limit, at most one; raises when a limit is passed."""
        limit = self.job.timeout if self.up else self.boot_timeout
        if limit is None:
            return 1
        left = self.started + limit - time.monotonic()
        if left > 0:
            return min(left, 1)
        if not self.up:
            raise _NotBootedError(f"the guest did not boot within {limit:g} s{self._last_words()}")
        print(
            f"lab/vm: ended after {limit:.0f} s (--timeout) with the command still running"
            f"{self._last_words()}",
            file=sys.stderr,
        )
        self.status = TIMED_OUT
        return 0

    def _fail_dead(self) -> NoReturn:
        when = "while the command ran" if self.up else "while it booted"
        raise LabError(f"the guest died {when}{self._last_words()}")

    def _last_words(self) -> str:
        """The end of the console and what QEMU said, for an error message."""
        self.log.seek(0)
        # hubs are meant to end in the guest
        said = [line for line in self.log if "not connected to host network" not in line]
        console = [line for line in self.console if line.strip()]
        text = "".join(f"\n  console: {line}" for line in console)
        text += "".join(f"\n  qemu: {line.rstrip()}" for line in said[-5:])
        return f"; last it said:{text}" if text else "; it said nothing"

    def _drain(self) -> None:
        """Carry what is still under way in the sockets."""
        while events := self.selector.select(0):
            for key, _ in events:
                if key.fileobj == 0:
                    return
                key.data()

    def _receive(self, channel: socket.socket) -> bytes:
        try:
            data = channel.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self.selector.unregister(channel)
        return data

    def _copier(self, channel: socket.socket, target: int) -> Callable[[], None]:
        def copy() -> None:
            data = memoryview(self._receive(channel))
            while data:
                data = data[os.write(target, data) :]

        return copy

    def _from_console(self, channel: socket.socket) -> None:
        text = self._receive(channel).decode(errors="replace").replace("\r", "")
        if self.job.show_console:
            sys.stderr.write(text)
            sys.stderr.flush()
        first, *rest = text.split("\n")
        self.console[-1] += first
        self.console.extend(rest)

    def _from_control(self) -> None:
        for line in self._receive(self.control).decode().splitlines():
            word, _, value = line.partition(" ")
            if word == "up":
                self.up = True
                self.started = time.monotonic()  # the command's time starts now
                self._resize()
            elif word == "exit":
                self.status = int(value)

    def _from_keyboard(self) -> None:
        data = os.read(0, 4096)
        if not data or _ESCAPE in data:
            self.status = 0
            return
        self.terminal.sendall(data)

    def _resize(self) -> None:
        if self.job.command is None and self.up:
            size = _window()
            self.control.sendall(f"winsize {size.lines} {size.columns}\n".encode())
