"""Why a request was not done, one exception for each kind of answer."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

from vfd.config.errors import Problem


class RefusedError(Exception):
    """The request breaks rules: all of them, in ``problems``. Nothing was changed."""

    def __init__(self, problems: Iterable[Problem], aside: str = "") -> None:
        self.problems = tuple(problems)
        self.aside = aside
        """What became of the file that is refused, if anything."""
        super().__init__("; ".join(map(str, self.problems)))


class NotFoundError(Exception):
    """No such VF, PF or file."""


class ExistsError(Exception):
    """It is there already."""


class ConflictError(Exception):
    """Another request is changing it, or has just changed it. Nothing was changed by this one."""


class StorageError(Exception):
    """The disk refused to keep the desired state. Nothing was changed."""


_TO_DO = {
    errno.ENOENT: "put that folder back, or make it",
    errno.ENOSPC: "make room on its file system",
    errno.EDQUOT: "raise the quota of its file system",
    errno.EROFS: "its file system is read-only",
    errno.EACCES: "the daemon may not write there",
    errno.EPERM: "is it immutable (lsattr)?",
    errno.EBUSY: "something is mounted there",
}


def not_stored(path: Path | str, error: OSError) -> StorageError:
    """The answer where a file could not be written and so nothing was done."""
    why = error.strerror or str(error)
    to_do = _TO_DO.get(error.errno or 0, "see the daemon's log")
    return StorageError(f"{path} can't be written: {why}. Nothing was changed: {to_do}")
