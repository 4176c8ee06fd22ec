"""Standard streams that can be used, whatever they were given as, and what a fault of ours says.

A program may be started with closed streams (``>&-``, an old cron, a container's hook), with one
that is full, or in a locale without our characters. None of that is a reason to fail.
"""

from __future__ import annotations

import errno
import io
import os
import sys

DEBUG = "VFD_DEBUG"
"""Set to anything, it has a fault's traceback printed."""
_OF_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EAGAIN)
FAULT = 1
"""The exit code of a program that stumbles over itself."""


class Unfailing(io.TextIOWrapper):
    """Standard error. What can't be written there is lost: there is nobody left to be told."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except (OSError, ValueError):
            pass


def make_usable() -> None:
    """Opens streams that are closed, as /dev/null: a file that is opened later would get their
    numbers, and what a library says on standard error would be written into it."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(null, True)
    os.close(null)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A locale without our arrows, or a name that is no UTF-8.
        sys.stdout.reconfigure(errors="replace")
    # Always its number: whatever was put there instead stays as it is.
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = Unfailing(
            io.BufferedWriter(io.FileIO(2, "w", closefd=False)),
            encoding=getattr(sys.stderr, "encoding", None),
            errors="replace",
            line_buffering=True,
        )


def discard_output() -> None:
    """Python writes what is left of standard output at its end: let it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def reader_is_gone() -> bool:
    """Whether click ended the program because nobody reads its output any more."""
    return type(sys.stdout).__name__.endswith("PacifyFlushWrapper")


def fault(program: str, error: BaseException) -> str:
    """One line on a fault of ``program`` itself; the traceback goes before it if asked for."""
    if os.environ.get(DEBUG):
        # Imported where needed: it hardly ever is.
        import traceback

        traceback.print_exception(error)
        where = "the traceback is above"
    else:
        where = f"{DEBUG}=1 in the environment shows where"
    text = " ".join(str(error).split())
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"this is a fault of {program} itself, please report it: {told[:300]} ({where})"


def unwritable(error: OSError) -> str:
    return f"the output can't be written: {error.strerror or error}"


def is_of_output(error: OSError) -> bool:
    """Of a stream, and not of a file that somebody named nor of a folder that is gone."""
    return error.filename is None and error.errno in _OF_OUTPUT
