"""``start_cb`` and ``stop_cb``: a guest's own commands, run as whoever owns its file.

Never through a shell, never as anyone but the owner, never for longer than ``TIME_LIMIT``, and not
at all where somebody else could have written the file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

log = logging.getLogger("vfd.callback")

TIME_LIMIT = 30.0
"""Seconds. A VF that is to be deleted waits for its ``stop_cb`` this long at most."""
OUTPUT_LIMIT = 64 * 1024
"""Bytes of output that are read and logged."""
LAST_WORDS = 0.5
"""Seconds in which output is still read after the command has ended: what it started and left
running may hold its output for ever."""
_OOM_SCORE = Path("/proc/self/oom_score_adj")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns a configuration file, and who may write to it: ``st_mode`` of its inode."""

    uid: int
    gid: int
    mode: int = 0o100600

    def written_by_others(self) -> bool:
        """Whether somebody but the owner (and root) may have written the file.

        A group counts as others, the owner's own too: nobody can tell who else is in it.
        """
        return bool(self.mode & 0o022)


@dataclass(frozen=True, slots=True)
class Outcome:
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class _Account:
    """Who the owner is on this host, as far as it knows."""

    user: str
    home: str
    gid: int
    groups: tuple[int, ...]


def _account(owner: Owner) -> _Account:
    """Asks the host's name services, which may be a server somewhere: this may block."""
    try:
        known = pwd.getpwuid(owner.uid)
    except KeyError:
        return _Account(str(owner.uid), "/", owner.gid, ())
    groups = tuple(os.getgrouplist(known.pw_name, known.pw_gid))
    return _Account(known.pw_name, known.pw_dir, known.pw_gid, groups)


@contextmanager
def _not_spared() -> Iterator[None]:
    """What is started in here isn't spared when memory runs out, as the daemon itself is.

    The kernel lets a process raise its own score and take that back (which a callback can do, too,
    if it means to). Set from outside afterwards, the child might have had children by then.
    """
    own = _OOM_SCORE.read_text()
    if int(own) >= 0:
        yield
        return
    _OOM_SCORE.write_text("0")
    try:
        yield
    finally:
        try:
            _OOM_SCORE.write_text(own)
        except OSError as error:
            log.warning("the daemon is no longer spared when memory runs out: %s", error)


async def run(
    which: Literal["start_cb", "stop_cb"],
    command: str,
    owner: Owner,
    vf: tuple[str, str, int],
    *,
    time_limit: float = TIME_LIMIT,
    quiet: bool = False,
) -> Outcome:
    """Runs ``command`` for the VF (name, PF, vfid) and logs what it printed, unless ``quiet``.

    Its environment is PATH, HOME, USER, LANG and VFD_EVENT, VFD_NAME, VFD_PF, VFD_VFID.
    """
    if owner.written_by_others():
        return Outcome(
            False,
            f"{which} was not run: others than uid {owner.uid} may write the VF's file"
            " (chmod go-w the file to allow it)",
        )
    account = await asyncio.get_running_loop().run_in_executor(None, _account, owner)
    name, pf, vfid = vf
    environment = {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": account.home,
        "USER": account.user,
        "VFD_EVENT": which,
        "VFD_NAME": name,
        "VFD_PF": pf,
        "VFD_VFID": str(vfid),
    }
    # A pipe of our own: asyncio's would make its wait() last until everybody has closed it.
    readable, writable = os.pipe()
    try:
        with _not_spared():
            process = await asyncio.create_subprocess_exec(
                *shlex.split(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writable,
                stderr=writable,
                cwd="/",
                env=environment,
                user=owner.uid,
                group=account.gid,
                extra_groups=account.groups,
                umask=0o077,
                start_new_session=True,
            )
    except (OSError, ValueError) as error:
        os.close(readable)
        return Outcome(False, f"{which} could not be run as uid {owner.uid}: {error}")
    finally:
        os.close(writable)
    with open(readable, "rb", buffering=0) as pipe:
        outcome, printed = await _finish(process, pipe, which, owner, time_limit)
    for line in [] if quiet else printed.splitlines():
        log.info("%s: %s", which, line, extra={"fields": {"uid": owner.uid}})
    return outcome


async def _finish(
    process: asyncio.subprocess.Process,
    pipe: FileIO,
    which: str,
    owner: Owner,
    time_limit: float,
) -> tuple[Outcome, str]:
    """How it ended, and the beginning of what it printed."""
    output = asyncio.StreamReader(limit=OUTPUT_LIMIT)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), pipe
    )
    printed = bytearray()
    reading = asyncio.create_task(_read(output, printed))
    try:
        async with asyncio.timeout(time_limit):
            status = await process.wait()
    except TimeoutError:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # its own session, so its own group
        except ProcessLookupError:
            pass  # it ended at this moment
        await process.wait()
        outcome = Outcome(False, f"{which} was ended: it took longer than {time_limit:g} s")
    else:
        outcome = (
            Outcome(True, f"{which} ran as uid {owner.uid}")
            if status == 0
            else Outcome(False, f"{which} ended with status {status} (as uid {owner.uid})")
        )
    await asyncio.wait([reading], timeout=LAST_WORDS)
    reading.cancel()
    transport.close()
    return outcome, printed.decode(errors="replace")


async def _read(output: asyncio.StreamReader, printed: bytearray) -> None:
    """Takes all that comes, so that the command never waits, and keeps the beginning."""
    while piece := await output.read(4096):
        printed += piece[: OUTPUT_LIMIT - len(printed)]
