"""Names of VFs and their callback commands, as checked strings."""

from __future__ import annotations

import shlex
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from vfd.policy.shown import shown

MAX_NAME = 255
"""Longest name of a VF, in characters."""
MAX_COMMAND = 4096
"""Longest command line, in characters; taking a much longer one apart takes minutes."""
MAX_COMPONENT = 200
"""Longest part of a name between slashes, in bytes: with a file's suffixes it stays below
NAME_MAX (255, linux/include/uapi/linux/limits.h)."""


def checked_name(name: str) -> str:
    """A VF's name that is safe as a path below the configuration folder and on a terminal.

    It may contain ``/``, as Nova's do. Raises ValueError for one that could leave the folder
    (``..``, a leading ``/``), hide in it (a part that starts with a dot), or garble a table
    (control characters, blanks at an end).
    """
    if not name.isprintable():
        raise ValueError("a name has no control characters, line breaks or unprintable characters")
    if name != name.strip():
        raise ValueError("a name does not begin or end with a blank")
    for part in name.split("/"):
        if not part:
            raise ValueError("a name does not begin or end with '/' and has no '//'")
        if part.startswith("."):
            raise ValueError(f"no part of a name begins with a dot, as {shown(part)} does")
        if len(part.encode()) > MAX_COMPONENT:
            raise ValueError(f"each part of a name has at most {MAX_COMPONENT} bytes")
    return name


def checked_command(command: str) -> str:
    """A callback's command line, which is split as a shell would split it but never run by one.

    Raises ValueError where it has no first word or a quote that does not end, or is too long.
    """
    if len(command) > MAX_COMMAND:
        raise ValueError(f"a command line has at most {MAX_COMMAND} characters")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"not a command line: {error}") from None
    if not words or "\0" in command:
        raise ValueError("not a command line: it names no command")
    return command.strip()


Name = Annotated[
    str,
    AfterValidator(checked_name),
    Field(min_length=1, max_length=MAX_NAME),
    WithJsonSchema(
        {
            "title": "name",
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_NAME,
            "pattern": r"^[^./\s\x00-\x1f\x7f-\x9f][^/\x00-\x1f\x7f-\x9f]*"
            r"(/[^./\x00-\x1f\x7f-\x9f][^/\x00-\x1f\x7f-\x9f]*)*$",
        }
    ),
]

Command = Annotated[
    str,
    AfterValidator(checked_command),
    WithJsonSchema(
        {"title": "command line", "type": "string", "maxLength": MAX_COMMAND, "pattern": r"\S"}
    ),
]
