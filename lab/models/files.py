"""A tree of sysfs-like files, served through FUSE.

As in sysfs, one write(2) is one command: it succeeds whole or fails with an errno, and a read
begins with what holds when the file is opened. Beside the model's own files there is ``.model``:

* ``log``: every write so far, a line each: path, text, errno (0: taken), as JSON;
* ``state``: what the device does, including what no file of the vendor shows, as JSON;
* ``fail``: write ``N ERRNO`` and the Nth write from now on fails with that errno, once;
* ``kill``: write ``N`` and who makes the Nth write from now on is killed at it, once;
* whatever the model adds, to stand for those who act beside the interface (guests, ``ip link``).
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import mfusepy


@dataclass(frozen=True, slots=True)
class File:
    """One attribute. A missing ``show`` or ``store`` is a file that can't be read or written."""

    show: Callable[[], str] | None = None
    store: Callable[[str], None] | None = None
    """Takes the text of one write without its final newline; raises OSError to refuse it."""

    @property
    def mode(self) -> int:
        return (0o444 if self.show else 0) | (0o200 if self.store else 0)


Tree = Mapping[str, "File | Tree"]


def refuse(number: int, why: str = "") -> OSError:
    """The error to raise for a command that the device does not take."""
    return OSError(number, why or errno.errorcode[number])


@dataclass(slots=True)
class Recorder:
    """Every write that the model saw, and the faults that are to come."""

    seen: list[tuple[str, str, int]] = field(default_factory=list)
    fail_in: int = 0
    fail_with: int = 0
    kill_in: int = 0

    def store(self, path: str, file: File, text: str) -> None:
        number = 0
        try:
            self.fault()
            if file.store is None:
                raise refuse(errno.EACCES)
            file.store(text)
        except OSError as error:
            number = error.errno or errno.EIO
            raise
        finally:
            self.seen.append((path, text, number))

    def fault(self) -> None:
        if self.fail_in:
            self.fail_in -= 1
            if not self.fail_in:
                raise refuse(self.fail_with)
        if self.kill_in:
            self.kill_in -= 1
            if not self.kill_in:
                os.kill(mfusepy.fuse_get_context()[2], signal.SIGKILL)
                raise refuse(errno.EINTR)

    def plan_fault(self, text: str) -> None:
        self.fail_in, self.fail_with = map(int, text.split())

    def plan_kill(self, text: str) -> None:
        self.kill_in = int(text)

    def log(self) -> str:
        return "".join(json.dumps(entry) + "\n" for entry in self.seen)


class ModelFiles(mfusepy.Operations):  # type: ignore[misc]
    """The file system. ``tree``: the vendor's files as they are now; ``extra``: the model's own
    control files below ``.model``."""

    use_ns = True

    def __init__(self, tree: Callable[[], Tree], state: Callable[[], Any], extra: Tree) -> None:
        self._recorder = Recorder()
        control: Tree = {
            "log": File(show=self._recorder.log),
            "state": File(show=lambda: json.dumps(state())),
            "fail": File(store=self._recorder.plan_fault),
            "kill": File(store=self._recorder.plan_kill),
            **extra,
        }
        self._tree = tree
        self._control = control
        self._born = time.time_ns()
        self._open: dict[int, bytes] = {}
        self._handles = self._numbers()

    @staticmethod
    def _numbers() -> Iterator[int]:
        number = 0
        while True:
            number += 1
            yield number

    def _at(self, path: str) -> File | Tree:
        node: File | Tree = {**self._tree(), ".model": self._control}
        for name in filter(None, path.split("/")):
            if isinstance(node, File) or name not in node:
                raise mfusepy.FuseOSError(errno.ENOENT)
            node = node[name]
        return node

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:  # noqa: ARG002
        node = self._at(path)
        kind = stat.S_IFREG | node.mode if isinstance(node, File) else stat.S_IFDIR | 0o755
        size = 4096 if isinstance(node, File) else 0
        times = {"st_atime": self._born, "st_mtime": self._born, "st_ctime": self._born}
        return {"st_mode": kind, "st_size": size, "st_nlink": 1, **times}

    def readdir(self, path: str, fh: int) -> list[str]:  # noqa: ARG002
        node = self._at(path)
        if isinstance(node, File):
            raise mfusepy.FuseOSError(errno.ENOTDIR)
        return [".", "..", *node]

    def open(self, path: str, flags: int) -> int:  # noqa: ARG002
        self._at(path)
        return next(self._handles)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        node = self._at(path)
        if not isinstance(node, File) or node.show is None:
            raise mfusepy.FuseOSError(errno.EACCES)
        if offset == 0 or fh not in self._open:
            try:
                self._open[fh] = node.show().encode()
            except OSError as error:
                raise mfusepy.FuseOSError(error.errno or errno.EIO) from error
        return self._open[fh][offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:  # noqa: ARG002
        node = self._at(path)
        if not isinstance(node, File):
            raise mfusepy.FuseOSError(errno.EISDIR)
        text = data.decode().removesuffix("\n")
        try:
            if path.startswith("/.model/"):
                (node.store or (lambda _: None))(text)
            else:
                self._recorder.store(path, node, text)
        except OSError as error:
            raise mfusepy.FuseOSError(error.errno or errno.EIO) from error
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        """Shells open for writing with O_TRUNC; sysfs takes no notice, nor does this."""

    def release(self, path: str, fh: int) -> int:  # noqa: ARG002
        self._open.pop(fh, None)
        return 0


def serve(files: ModelFiles, mountpoint: str) -> None:
    """Mounts and serves until it is unmounted."""
    mfusepy.FUSE(
        files, mountpoint, foreground=True, nothreads=True, direct_io=True, fsname="vfd-model"
    )
