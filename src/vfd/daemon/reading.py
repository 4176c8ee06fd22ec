"""Reading every file of ``config_dir``, in whatever thread, so that NICs don't wait for it.

Folders there may be tenants' own. What one of them puts there costs no other: how much is read of
an owner's folders is bounded (config/tree.py), and so is how many of his bad files are told, for
the operator's table is no place for twenty thousand of them.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from vfd.config import store
from vfd.config.beneath import Identity
from vfd.config.errors import ConfigError, Problem, Readable
from vfd.config.tree import File, Folder, Unread, walk
from vfd.config.vf_file import parse_vf
from vfd.daemon.aim import Configured
from vfd.daemon.callbacks import Owner
from vfd.policy.shown import printable

log = logging.getLogger("vfd.files")

MAX_BAD = 256
"""Bad files of one owner of folders that are told, and, but for root, read."""
MAX_BYTES = 32 << 20
"""Bytes that are read of one owner's files: 8 KiB for each of as many files as may be."""

_REST = "no more of them is read, and their VFs stay as they are"

_PCIID = re.compile(r'"pciid"\s*:\s*"([^"]+)"')
_VFID = re.compile(r'"vfid"\s*:\s*"?(\d{1,3})\b')


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that is not in force as it stands."""

    file: str
    problems: tuple[Problem, ...]
    device: str | None = None
    """The ``pciid`` and ``vfid`` that can be made out in it, if any."""
    vfid: int | None = None
    name: str | None = None
    """The VF's name, where the file as such is good."""
    readable: Readable | None = None
    on_disk: str = ""
    """Its name below ``config_dir`` where that isn't ``file``, which is made to be shown."""
    vanished: bool = False
    """It is a folder whose files are gone: see ``vanished``."""

    def __post_init__(self) -> None:
        """Whoever may write a file may call it and what is in it as he likes."""
        if not self.file.isprintable():
            object.__setattr__(self, "on_disk", self.on_disk or self.file)
            object.__setattr__(self, "file", printable(self.file))
        if self.device and not self.device.isprintable():
            object.__setattr__(self, "device", printable(self.device))


@dataclass(slots=True, eq=False, weakref_slot=True)
class Reading:
    """What the files of a folder said. File names are relative to it."""

    folder: Path
    good: list[Configured] = field(default_factory=list)
    """The oldest first."""
    bad: dict[str, BadFile] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    """Folders of which not all was read."""
    folders: dict[str, Identity] = field(default_factory=dict)
    error: OSError | None = None
    """Why the folder itself can't be read. All else is empty then."""
    changed: set[str] = field(default_factory=set)
    """Files that the daemon itself changed after this was begun."""
    ages: dict[str, int] = field(default_factory=dict)

    def may_have(self, file: str) -> bool:
        """Whether a file that was not found may be there, in a folder that was not read."""
        for folder in folders_of(file):
            if folder in self.unread:
                return True
            if folder in self.folders:
                return False
        return False


@dataclass(slots=True)
class _Read:
    """How much was read of one owner's folders."""

    size: int = 0
    bad: int = 0
    is_over: bool = False


def read_all(reading: Reading) -> None:
    """Reads every VF file. What can't be read or used is in ``bad``, with the reasons."""
    owners: dict[int, _Read] = {}
    try:
        for found in walk(reading.folder, (".json",)):
            if isinstance(found, Folder):
                reading.folders[_text(found.path)] = found.identity
            elif isinstance(found, Unread):
                _leave(reading, found.path, found.why)
            elif not found.path.name.startswith("."):
                _read_bounded(reading, found, owners.setdefault(found.owner, _Read()))
    except OSError as error:
        reading.error = error
    _sort(reading)


def _read_bounded(reading: Reading, found: File, owner: _Read) -> None:
    folder, whose = found.path.parent, f"the folders of uid {found.owner}"
    if owner.is_over:
        _leave(reading, folder, "")
        return
    size, is_bad = _read(reading, str(found.path), found.may_be_read)
    owner.size += size
    owner.bad += is_bad
    if owner.size > MAX_BYTES:
        owner.is_over = True
        _leave(reading, folder, f"{whose} have more than {MAX_BYTES >> 20} MiB of files: {_REST}")
    elif is_bad and owner.bad > MAX_BAD:
        del reading.bad[printable(str(found.path))]
        owner.is_over = found.owner != 0
        rest = _REST if owner.is_over else "the others are not told"
        is_first = owner.bad == MAX_BAD + 1
        _leave(reading, folder, f"{whose} have more than {MAX_BAD} bad files: {rest}" * is_first)


def _leave(reading: Reading, folder: Path, why: str) -> None:
    """Not all of a folder is read."""
    reading.unread.add(_text(folder))
    if why:
        name = _text(folder) or str(reading.folder)
        reading.bad[printable(name)] = BadFile(name, (Problem(name, "", "", why),))


def folders_of(file: str) -> list[str]:
    """The folders that a file is in, the root last, as ''."""
    return [_text(folder) for folder in Path(file).parents]


def _text(folder: Path) -> str:
    """A folder's name below the root; of the root ''."""
    return str(folder) if folder.parts else ""


def reread(reading: Reading, file: str) -> None:
    """Reads one file once more."""
    if reading.error is None:
        reading.good = [one for one in reading.good if one.file != file]
        reading.bad.pop(printable(file), None)
        _read(reading, file, True)
        _sort(reading)


def _sort(reading: Reading) -> None:
    reading.good.sort(key=lambda one: (reading.ages.get(one.file, 0), one.file))


def _read(reading: Reading, file: str, may_be_read: bool) -> tuple[int, bool]:
    """Reads one file: how many bytes that were, and whether it is bad."""
    path, text = reading.folder / file, b""
    try:
        if not file.isprintable():
            rule = "a file's name is UTF-8 text without control characters: rename it"
            raise ConfigError([Problem(file, "", "", rule)])
        if not may_be_read:
            raise ConfigError([Problem(file, "", "", "can't be read: not a regular file")])
        stored = store.read(path, inside=reading.folder)
        text = stored.text
        reading.ages[file] = stored.mtime_ns
        reading.good.append(parsed(file, stored))
        return len(text), False
    except ConfigError as error:
        if not store.is_there(path, inside=reading.folder):
            return 0, False  # deleted while we looked
        bad = BadFile(file, error.problems, *_identity(text), readable=error.readable)
    except FileNotFoundError:
        return 0, False
    except Exception as error:
        # Whoever may write a file here must not be able to stop the daemon with it.
        log.exception("reading %s", path)
        rule = f"can't be read, by a fault of vfd's own: {type(error).__name__}"
        bad = BadFile(file, (Problem(file, "", "", rule),), *_identity(text))
    reading.bad[bad.file] = bad
    return len(text), True


def parsed(file: str, stored: store.Stored) -> Configured:
    """Raises ConfigError."""
    made = parse_vf(stored.text, file=file, name=file.removesuffix(".json"))
    return Configured(
        made.policy,
        file,
        Owner(stored.uid, stored.gid, stored.mode),
        tuple(words(w) for w in made.warnings),
        made.written,
    )


def words(warning: Problem) -> str:
    return f"{warning.field}: {warning.rule}" if warning.field else warning.rule


def _identity(text: bytes) -> tuple[str | None, int | None]:
    """Which VF a damaged file is for, as far as it can be made out."""
    decoded = text.decode(errors="replace")
    pciid, vfid = _PCIID.search(decoded), _VFID.search(decoded)
    return (pciid[1] if pciid else None), (int(vfid[1]) if vfid else None)
