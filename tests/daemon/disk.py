"""``python -m tests.daemon.disk MOUNTPOINT``: a disk that a power cut can strike.

What it has then is what POSIX promises, and no more, though most file systems keep more: a file's
content if the file was synced, and a name, or that a name is gone, if its folder was. Whoever
starts it holds its standard input, and tells it of its power by an attribute of its root.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import mfusepy
from lab.models.__main__ import unmount_at_end_of_input

POWER = "user.power"
"""The attribute. ``sync``: all that is on the disk is kept. A number: after so many calls that
change or sync something nothing is kept any more. ``cut``: the power goes, and is there again."""


@dataclass(frozen=True, slots=True)
class _Content:
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    text: bytes = b""
    names: dict[str, _Node] = field(default_factory=dict)

    def copy(self) -> _Content:
        return replace(self, names=dict(self.names))


@dataclass(slots=True, eq=False)
class _Node:
    number: int
    now: _Content
    kept: _Content

    def sync(self) -> None:
        self.kept = self.now.copy()

    def cut(self) -> None:
        self.now = self.kept.copy()

    def below(self) -> Iterator[_Node]:
        yield self
        for node in self.now.names.values():
            yield from node.below()


class _Files(mfusepy.Operations):  # type: ignore[misc]
    use_ns = True

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._root = self._new(stat.S_IFDIR | 0o755)
        self._open: dict[int, _Node] = {}
        self._left: int | None = None
        """Calls that are still kept; None: all."""

    def _new(self, mode: int) -> _Node:
        made = _Content(mode, mtime=time.time_ns())
        return _Node(next(self._numbers), made, made.copy())

    def _at(self, path: str) -> _Node:
        node = self._root
        for name in filter(None, path.split("/")):
            if name not in node.now.names:
                raise mfusepy.FuseOSError(errno.ENOENT)
            node = node.now.names[name]
        return node

    def _place(self, path: str) -> tuple[dict[str, _Node], str]:
        folder, _, name = path.rpartition("/")
        self._count()
        return self._at(folder).now.names, name

    def _count(self) -> bool:
        if self._left:
            self._left -= 1
        return self._left != 0

    def _changed(self, path: str, **what: Any) -> None:
        self._count()
        node = self._at(path)
        node.now = replace(node.now, **what)

    def setxattr(self, path: str, name: str, value: bytes, *_: int) -> int:
        assert (path, name) == ("/", POWER)
        self._left = int(value) if value.isdigit() else None
        if value == b"cut":
            for node in self._root.below():  # each one's names are cut before they are looked at
                node.cut()
        if value == b"sync":
            for node in self._root.below():
                node.sync()
        return 0

    def _synced(self, path: str, datasync: int, fh: int) -> int:  # noqa: ARG002
        if self._count():
            self._open[fh].sync()
        return 0

    fsync = fsyncdir = _synced

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        node = self._open[fh] if fh else self._at(path)
        now = node.now
        times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), now.mtime)
        about = {"st_mode": now.mode, "st_uid": now.uid, "st_gid": now.gid, "st_nlink": 1}
        return {"st_size": len(now.text), **about, **times}

    def readdir(self, path: str, fh: int) -> list[str]:  # noqa: ARG002
        return [".", "..", *self._at(path).now.names]

    def open(self, path: str, flags: int = 0) -> int:
        if flags & os.O_TRUNC:
            self.truncate(path, 0)
        handle = next(self._numbers)
        self._open[handle] = self._at(path)
        return handle

    opendir = open

    def release(self, path: str, fh: int) -> int:  # noqa: ARG002
        del self._open[fh]
        return 0

    releasedir = release

    def create(self, path: str, mode: int, fi: object = None) -> int:  # noqa: ARG002
        names, name = self._place(path)
        names[name] = self._new(stat.S_IFREG | mode)
        return self.open(path)

    def mkdir(self, path: str, mode: int) -> int:
        names, name = self._place(path)
        names[name] = self._new(stat.S_IFDIR | mode)
        return 0

    def rename(self, old: str, new: str) -> int:
        names, name = self._place(old)
        node = names.pop(name)
        names, name = self._place(new)
        names[name] = node
        return 0

    def unlink(self, path: str) -> int:
        names, name = self._place(path)
        del names[name]
        return 0

    def rmdir(self, path: str) -> int:
        if self._at(path).now.names:
            raise mfusepy.FuseOSError(errno.ENOTEMPTY)
        return self.unlink(path)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:  # noqa: ARG002
        return self._open[fh].now.text[offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:  # noqa: ARG002
        self._count()
        node = self._open[fh]
        text = node.now.text
        node.now = replace(node.now, text=text[:offset] + data + text[offset + len(data) :])
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:  # noqa: ARG002
        self._changed(path, text=self._at(path).now.text[:length])
        return 0

    def chmod(self, path: str, mode: int) -> int:
        self._changed(path, mode=mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        now = self._at(path).now
        self._changed(path, uid=now.uid if uid == -1 else uid, gid=now.gid if gid == -1 else gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        self._changed(path, mtime=times[1] if times else time.time_ns())
        return 0


if __name__ == "__main__":
    where = sys.argv[1]
    threading.Thread(target=unmount_at_end_of_input, args=(where,), daemon=True).start()
    options = {"direct_io": True, "remember": -1, "attr_timeout": 0, "entry_timeout": 0}
    mfusepy.FUSE(_Files(), where, foreground=True, nothreads=True, fsname="vfd-disk", **options)
