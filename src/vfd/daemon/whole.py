"""The daemon's own small files: who reads one that is replaced sees the old content or the new."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol


class Placed(Protocol):
    """A file of the daemon's own, which a full disk may keep from being written and somebody may
    remove."""

    def is_in_place(self) -> bool: ...

    def put(self) -> None:
        """Writes it, if it can be written. Raises nothing."""
        ...


def write_whole(path: Path, text: str, mode: int | None = None) -> None:
    """Raises OSError with the old content in place, and nothing left beside it."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(text)
        if mode is not None:
            fresh.chmod(mode)
        fresh.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
