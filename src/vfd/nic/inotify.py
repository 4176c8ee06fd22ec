"""What happens in folders, as inotify(7) tells it. Of sysfs too: vfs_write calls fsnotify_modify
(fs/read_write.c); what a driver changes there by itself is not told."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

MODIFY, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF = 0x400, 0x800
CLOSE = 0x18  # whoever had it open, to write or not
_OVERFLOW, _ONLYDIR = 0x4000, 0x01000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("=iIII")
_READ = 65536


class Inotify:
    """Folders, behind one descriptor that can be read once one of ``events`` has happened in them.
    Raises OSError."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._fd = _checked(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def watch(self, folder: Path) -> None:
        """This one (for CLOSE also a file) too from now on. One that is gone is forgotten by the
        kernel; one that was made again is another. Raises OSError."""
        mask = self._events | (0 if self._events == CLOSE else _ONLYDIR)
        _checked(_LIBC.inotify_add_watch(self._fd, os.fsencode(folder), mask))

    def read(self) -> bool:
        """Whether something happened since the last time."""
        happened = False
        while True:
            try:
                data = os.read(self._fd, _READ)
            except BlockingIOError:
                return happened
            offset = 0
            while offset < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, offset)
                happened = happened or bool(mask & (self._events | _OVERFLOW))
                offset += _EVENT.size + length


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
