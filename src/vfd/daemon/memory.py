"""Which files were in force, for the daemon that comes next.

The files say what is to be in force and the NICs show what is. Neither tells a file that was
deleted from one whose folder isn't mounted: that takes knowing that it was there. It is kept beside
the socket, under /run, and ends with the host, as what NICs enforce does.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vfd.config.beneath import Identity
from vfd.daemon.whole import write_whole

log = logging.getLogger("vfd.files")


@dataclass(frozen=True, slots=True)
class Known:
    """The VF that a file was in force for, or kept open."""

    pf: str
    vfid: int
    name: str


@dataclass(frozen=True, slots=True)
class Kept:
    """All that is remembered. Names of files and folders are relative to ``config_dir``, which is
    ''."""

    files: dict[str, Known] = field(default_factory=dict)
    folders: dict[str, Identity] = field(default_factory=dict)
    made: dict[str, Identity] = field(default_factory=dict)
    """Folders that vfd made for VFs."""
    removing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Software NICs that are being removed, with the kinds of their guests."""
    vanished: tuple[str, ...] = ()
    """Of ``files`` those that are gone without having been deleted."""


class Memory:
    """A file that can't be read or written costs what it remembers, no more. Whoever looks after
    the daemon asks whether it ``is_in_place``, and has it ``put`` there again."""

    def __init__(self, path: Path | None = None) -> None:
        """Without a path it is remembered until the daemon ends."""
        self._path = path
        self.kept = Kept()
        self._is_written = True
        if path is None:
            return
        try:
            self.kept = _read(json.loads(path.read_bytes()))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s can't be read, which files were in force isn't known: %s", path, error)

    def keep(self, kept: Kept) -> None:
        known, self.kept = kept == self.kept, kept
        if not (known and self.is_in_place()):
            self.put()

    def is_in_place(self) -> bool:
        """Whether the daemon that comes next finds it: a disk may be full, and somebody may empty
        /run/vfd."""
        return self._path is None or (self._is_written and self._path.exists())

    def put(self) -> None:
        if self._path is None:
            return
        try:
            write_whole(self._path, json.dumps(asdict(self.kept)))
            self._is_written = True
        except OSError as error:
            if self._is_written:  # told once, not at every attempt
                log.warning("%s can't be written, which is tried again: %s", self._path, error)
            self._is_written = False


def _read(raw: dict[str, Any]) -> Kept:
    return Kept(
        {
            file: Known(str(k["pf"]), int(k["vfid"]), str(k["name"]))
            for file, k in raw["files"].items()
        },
        {folder: (int(dev), int(ino)) for folder, (dev, ino) in raw["folders"].items()},
        {folder: (int(dev), int(ino)) for folder, (dev, ino) in raw["made"].items()},
        {str(pf): tuple(map(str, guests)) for pf, guests in raw.get("removing", {}).items()},
        tuple(map(str, raw.get("vanished", ()))),
    )
