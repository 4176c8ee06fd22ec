"""A value in words: as a file's reader would write it, and never more than a line."""

from __future__ import annotations

import json

SHOWN = ("all", "pfs", "extended", "mirrors")
"""What ``iplex show`` takes beside names."""
SHOWN_BY_VFD = {"ex": "extended", "ext": "extended", "mirror": "mirrors"}
"""Words that VFd took, and people type. A VF of that name is shown by its port."""
_SHOWN = 80
STEERING = r"\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
"""Controls, and what hides or turns around the text behind it: a set of a regular expression."""
HALVES = r"\ud800-\udfff"
"""The same of halves of surrogate pairs, which are no characters and which no encoding has."""


def printable(text: str) -> str:
    """Foreign text as it may be shown, logged and written as JSON: what is no printable character
    is escaped, ``\\n`` and ``\\u202e``, and a byte that is no UTF-8 is ``\\xff``."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that Python could not decode: PEP 383
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def shown(value: object) -> str:
    """A value as the file's reader would write it, at most 80 characters of it."""
    if value is None:
        text = ""
    else:
        try:
            text = json.dumps(_start(value), ensure_ascii=False, default=str)
        except (TypeError, ValueError, RecursionError):
            text = _by_name(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def plural(count: int, noun: str) -> str:
    """``1 VF``, ``2 VFs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _start(value: object) -> object:
    """As much of a value as can be shown at all."""
    if isinstance(value, str | list | tuple):
        return value[:_SHOWN]
    return value


def _by_name(value: object) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # an int of more digits than Python writes out
        return f"a very large {type(value).__name__}"
