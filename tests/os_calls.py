"""Which calls into the operating system a piece of code makes: tests of what is to make none."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_OF_THE_SYSTEM = frozenset({"posix", "io", "_io", "_socket", "fcntl", "select", "_ctypes"})

_PURE = ("fspath", "_path_normpath")


@contextmanager
def os_calls() -> Iterator[list[str]]:
    """The C functions of these modules that are called within, by name."""
    made: list[str] = []

    def note(_: FrameType, event: str, argument: Any) -> None:
        if event != "c_call":
            return
        of = getattr(argument, "__self__", None)
        module = argument.__module__ or getattr(of, "__name__", "")
        is_one = module in _OF_THE_SYSTEM or isinstance(of, socket.socket)
        if is_one and argument.__name__ not in _PURE:
            made.append(f"{module}.{argument.__name__}")

    sys.setprofile(note)
    try:
        yield made
    finally:
        sys.setprofile(None)
