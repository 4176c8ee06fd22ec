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
from dataclasses import dataclass
from typing import Literal

log = logging.getLogger("vfd.callback")

TIME_LIMIT = 30.0
"""Seconds. A VF that is to be deleted waits for its ``stop_cb`` this long at most."""
OUTPUT_LIMIT = 64 * 1024
"""Bytes of output that are read and logged."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns a configuration file, and who may write to it: ``st_mode`` of its inode."""

    uid: int
    gid: int
    mode: int = 0o100600

    def written_by_others(self) -> bool:
        """Whether somebody but the owner (and root) may have written the file."""
        if self.mode & 0o002:
            return True
        return bool(self.mode & 0o020) and self.gid != _primary_group(self.uid, -1)


@dataclass(frozen=True, slots=True)
class Outcome:
    ok: bool
    text: str


def _account(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def _primary_group(uid: int, otherwise: int) -> int:
    account = _account(uid)
    return account.pw_gid if account else otherwise


async def run(
    which: Literal["start_cb", "stop_cb"],
    command: str,
    owner: Owner,
    vf: tuple[str, str, int],
    *,
    time_limit: float = TIME_LIMIT,
) -> Outcome:
    """Runs ``command`` for the VF (name, PF, vfid) and logs what it printed.

    Its environment is PATH, HOME, USER, LANG and VFD_EVENT, VFD_NAME, VFD_PF, VFD_VFID.
    """
    if owner.written_by_others():
        return Outcome(
            False,
            f"{which} was not run: others than uid {owner.uid} may write the VF's file"
            " (chmod go-w the file to allow it)",
        )
    account = _account(owner.uid)
    gid = account.pw_gid if account else owner.gid
    groups = os.getgrouplist(account.pw_name, gid) if account else []
    name, pf, vfid = vf
    environment = {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": account.pw_dir if account else "/",
        "USER": account.pw_name if account else str(owner.uid),
        "VFD_EVENT": which,
        "VFD_NAME": name,
        "VFD_PF": pf,
        "VFD_VFID": str(vfid),
    }
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",
            env=environment,
            user=owner.uid,
            group=gid,
            extra_groups=groups,
            umask=0o077,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Outcome(False, f"{which} could not be run as uid {owner.uid}: {error}")
    return await _finish(process, which, owner, time_limit)


async def _finish(
    process: asyncio.subprocess.Process, which: str, owner: Owner, time_limit: float
) -> Outcome:
    assert process.stdout is not None
    output = b""
    try:
        async with asyncio.timeout(time_limit):
            while piece := await process.stdout.read(4096):
                output = (output + piece)[:OUTPUT_LIMIT]
            status = await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        outcome = Outcome(False, f"{which} was ended: it took longer than {time_limit:g} s")
    else:
        outcome = (
            Outcome(True, f"{which} ran as uid {owner.uid}")
            if status == 0
            else Outcome(False, f"{which} ended with status {status} (as uid {owner.uid})")
        )
    finally:
        for line in output.decode(errors="replace").splitlines():
            log.info("%s: %s", which, line, extra={"fields": {"uid": owner.uid}})
    return outcome
