"""Network namespaces with names, as ``ip netns`` keeps them, and being in another for a moment."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from vfd.nic.inotify import DELETE, MOVED_FROM, Inotify

NAMES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 1 << 20
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def own() -> int:
    """A descriptor of the calling thread's network namespace. The caller closes it."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def path(name: str) -> Path:
    return NAMES / name


def exists(name: str) -> bool:
    """Whether the name holds a namespace (a left-over empty file doesn't)."""
    try:
        return path(name).stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except FileNotFoundError:
        return False


def may_hold(name: str, netdev: str) -> bool:
    """Whether the namespace of this name has a netdev of that one; true where we may not look."""
    if not exists(name):
        return False
    try:
        with inside(name):
            socket.if_nametoindex(netdev)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def create(name: str) -> None:
    """Makes a named network namespace. Killed anywhere inside, it leaves at most an empty file,
    which the next call uses."""
    NAMES.mkdir(mode=0o755, exist_ok=True)
    # so that the name is seen in every mount namespace that got /run from this one; a bind of a
    # folder on itself looks like no mount point to stat(2), so only mount(2) can tell
    share = (b"", os.fsencode(NAMES), b"none", _MS_SHARED | _MS_REC, None)
    try:
        _call("mount", *share)
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        _call("mount", os.fsencode(NAMES), os.fsencode(NAMES), b"none", _MS_BIND | _MS_REC, None)
        _call("mount", *share)
    path(name).touch(mode=0o444)
    here = own()
    try:
        _call("unshare", _CLONE_NEWNET)
        try:
            _name_own(name)
        finally:
            _call("setns", here, _CLONE_NEWNET)
    finally:
        os.close(here)


def _name_own(name: str) -> None:
    source = b"/proc/thread-self/ns/net"
    _call("mount", source, os.fsencode(path(name)), b"none", _MS_BIND, None)


def name_again(namespace: int, name: str) -> bool:
    """Puts a name back that somebody took away (``ip netns delete``): without it, the namespace of
    that descriptor lives no longer than this process. False: the name is there."""
    if exists(name):
        return False
    path(name).touch(mode=0o444)
    with inside(namespace):
        _name_own(name)
    return True


def watch_names() -> Inotify | None:
    """Tells when somebody takes a name away. The caller closes it. None: there are too many such
    descriptors on this host."""
    try:
        names = Inotify(MOVED_FROM | DELETE)
    except OSError:
        return None
    try:
        names.watch(NAMES)
    except OSError:
        names.close()
        return None
    return names


def remove(name: str) -> None:
    """Takes the name away; the namespace and its virtual devices go with its last user."""
    if exists(name):
        _call("umount2", os.fsencode(path(name)), _MNT_DETACH)
    with contextlib.suppress(FileNotFoundError):
        path(name).unlink()


@contextlib.contextmanager
def inside(namespace: int | str) -> Iterator[None]:
    """The calling thread is in the namespace of a descriptor or a name."""
    with contextlib.ExitStack() as opened:
        here = own()
        opened.callback(os.close, here)
        if isinstance(namespace, int):
            there = namespace
        else:
            there = os.open(path(namespace), os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, there)
        _call("setns", there, _CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", here, _CLONE_NEWNET)


def seen() -> Iterator[tuple[str, Path]]:
    """The namespaces that can be reached, each once: (name, path). The named ones first, then
    those that only processes hold, as ``pid N``."""
    inodes = set()
    if NAMES.is_dir():
        for entry in sorted(NAMES.iterdir()):
            with contextlib.suppress(OSError):
                inode = entry.stat().st_ino
                if inode not in inodes:
                    inodes.add(inode)
                    yield entry.name, entry
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                held = process / "ns/net"
                inode = held.stat().st_ino
                if inode not in inodes:
                    inodes.add(inode)
                    yield f"pid {process.name}", held
