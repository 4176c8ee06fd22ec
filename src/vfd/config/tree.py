"""Every file below a folder whose sub-folders may be others' own: found without following a link
into a folder, and within bounds, so that no owner of a folder can keep the reader busy.

Each owner has bounds of its own: what one puts into its folders is at no other's cost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vfd.config.beneath import Identity, identity_of, open_folder

MAX_DEPTH = 16
"""Folders above a file, below the root."""
MAX_FILES = 4096
"""Files and folders of one owner that are looked at: as many as 16 PFs have VFs."""
MAX_ENTRIES = 1 << 16
"""Names of one owner that are listed: files with other names too, such as deleted ones."""


@dataclass(frozen=True, slots=True)
class File:
    path: Path
    """Below the root."""
    owner: int
    """The uid of its folder's owner."""
    may_be_read: bool
    """It is a file, or a link to who knows what; no device, socket or FIFO."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A folder that is not read, or not all of it."""

    path: Path
    why: str
    """Empty where it was said of another folder of the same owner."""


@dataclass(frozen=True, slots=True)
class Folder:
    path: Path
    identity: Identity


@dataclass(slots=True)
class _Owner:
    files: int = 0
    entries: int = 0
    told: bool = False


@dataclass(slots=True)
class _Walk:
    suffixes: tuple[str, ...]
    owners: dict[int, _Owner] = field(default_factory=dict)

    def folder(self, path: Path, fd: int) -> Iterator[File | Unread | Folder | list[Path]]:
        """What is in one folder; at last, as a list, the folders in it."""
        about = os.fstat(fd)
        yield Folder(path, identity_of(fd))
        owner = self.owners.setdefault(about.st_uid, _Owner())
        names, folders = [], []
        whole = True
        with os.scandir(fd) as entries:
            for entry in entries:
                owner.entries += 1
                is_folder = entry.is_dir(follow_symlinks=False)
                if entry.name.startswith(".") and is_folder:
                    continue
                if is_folder or entry.name.endswith(self.suffixes):
                    owner.files += 1
                if owner.files > MAX_FILES or owner.entries > MAX_ENTRIES:
                    whole = False
                    break
                if is_folder:
                    folders.append(path / entry.name)
                elif entry.name.endswith(self.suffixes):
                    ordinary = entry.is_symlink() or entry.is_file(follow_symlinks=False)
                    names.append((entry.name, ordinary))
        for name, ordinary in sorted(names):
            yield File(path / name, about.st_uid, ordinary)
        if not whole:
            yield self.beyond(path, about.st_uid, owner)
        yield sorted(folders)

    def beyond(self, path: Path, uid: int, owner: _Owner) -> Unread:
        why = (
            f"the folders of uid {uid} have more than {MAX_FILES} files and folders for VFs, or"
            f" {MAX_ENTRIES} others: what is beyond is not read, and its VFs stay as they are"
        )
        first, owner.told = not owner.told, True
        return Unread(path, why if first else "")


def walk(root: Path, suffixes: tuple[str, ...]) -> Iterator[File | Unread | Folder]:
    """The files below ``root`` whose names end in one of ``suffixes``, folder by folder and in
    order. Folders whose names begin with a dot are passed over, and so are links to folders.

    Raises OSError where ``root`` itself can't be read.
    """
    state = _Walk(suffixes)
    there = [Path()]
    while there:
        path = there.pop()
        if len(path.parts) > MAX_DEPTH:
            yield Unread(path, f"folders are nested more than {MAX_DEPTH} deep: it is not read")
            continue
        try:
            fd = open_folder(root, path)
        except OSError as error:
            if not path.parts:
                raise
            yield Unread(path, f"this folder can't be read: {error.strerror}")
            continue
        try:
            for found in state.folder(path, fd):
                if isinstance(found, list):
                    there += found[::-1]
                else:
                    yield found
        except OSError as error:
            if not path.parts:
                raise
            yield Unread(path, f"this folder can't be read: {error.strerror}")
        finally:
            os.close(fd)
