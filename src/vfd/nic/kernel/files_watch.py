"""What others write to the files of a vendor's sysfs interface: netlink tells nothing of it.

inotify tells of writes that programs make, in sysfs too: vfs_write calls fsnotify_modify
(fs/read_write.c). What the driver changes by itself is not told.
"""

from __future__ import annotations

import ctypes
import logging
import os
import struct
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger("vfd.nic")

_LIBC = ctypes.CDLL(None, use_errno=True)
_MODIFY, _OVERFLOW, _ONLYDIR = 0x2, 0x4000, 0x01000000
_EVENT = struct.Struct("=iIII")
_READ = 65536


class FilesWatch:
    """The files of folders, behind one descriptor that can be waited for. Raises OSError."""

    def __init__(self) -> None:
        self._fd = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def fileno(self) -> int:
        return int(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def watch(self, folders: Iterable[Path]) -> None:
        """These too from now on. A folder that is gone is forgotten by the kernel; one that was
        made again is another."""
        for folder in folders:
            if _LIBC.inotify_add_watch(self._fd, os.fsencode(folder), _MODIFY | _ONLYDIR) < 0:
                number = ctypes.get_errno()
                if Path(folder).exists():
                    log.warning("what others write below %s goes by: %s (fs.inotify.*)", folder,
                                os.strerror(number))  # fmt: skip
                    return

    def read(self) -> bool:
        """Whether something was written since the last time."""
        written = False
        while True:
            try:
                data = os.read(self._fd, _READ)
            except BlockingIOError:
                return written
            offset = 0
            while offset < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, offset)
                written = written or bool(mask & (_MODIFY | _OVERFLOW))
                offset += _EVENT.size + length


def folders_below(root: Path) -> list[Path]:
    """``root`` and all folders below it; none where it is not there."""
    return [Path(folder) for folder, _, _ in os.walk(root)]
