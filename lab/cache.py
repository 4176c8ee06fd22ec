"""The cache folder: what was fetched and built, each part complete or not there at all.

A part is a folder named after what went into it: `kernel-6.12-1a2b3c4d`, where the last piece is
a digest of the part's recipe.  It is put together under another name and renamed when it is
complete, so a part that exists can be used, and a changed recipe makes a new part.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.errors import LabError


def folder() -> Path:
    """`$VFD_LAB_CACHE`, or `vfd-lab` in the user's cache folder."""
    named = os.environ.get("VFD_LAB_CACHE")
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vfd-lab"


def digest(recipe: object) -> str:
    """What tells one recipe from another: names, lists and scripts as a JSON value."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]


def build(part: Path, make: Callable[[Path], None]) -> None:
    """Make `part` unless it is there; a failure leaves nothing."""
    if part.exists():
        return
    work = part.with_name(f".{part.name}.partial")
    # what a killed run left; no other run is at work, the caller holds the lock
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        make(work)
        work.rename(part)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def exclusive(waiting: Callable[[], None]) -> Iterator[None]:
    """Only one run builds; another one waits, after calling `waiting`."""
    root = folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = os.fdopen(os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644))
    except OSError as error:
        raise LabError(
            f"can't write the laboratory's cache folder {root}: {error.strerror}; "
            "VFD_LAB_CACHE names another"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def in_use() -> Iterator[None]:
    """Held by a running guest: old parts are not removed under it."""
    # for reading, so that a cache that another user has built can be shared
    descriptor = os.open(folder() / "in-use", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def prune(keep: set[Path]) -> None:
    """Remove parts of older recipes, unless a guest is running."""
    with open(folder() / "in-use", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        for entry in folder().iterdir():
            if entry.is_dir() and entry not in keep:
                shutil.rmtree(entry, ignore_errors=True)
