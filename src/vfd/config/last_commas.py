"""Commas before closing brackets, which VFd took: JSON with them is read as without.

Without pydantic and our own types, because ``iplex`` reads ``vfd.cfg`` at each start.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r'"(?:[^"\\]+|\\.)*+(?:"|\\?\Z)|,(?=\s*[}\]])', re.DOTALL)
"""A text, also one that does not end, and a comma before a closing bracket. ``*+`` never goes back,
so that a file full of quotation marks costs no more than another."""


def blank_last_commas(text: str) -> tuple[str, int]:
    """``text`` with a blank for each comma before a closing bracket, so that every place in it
    stays where it was; and the place of the first, or -1."""
    places: list[int] = []

    def blank(found: re.Match[str]) -> str:
        if found[0] != "," or _before(text, found.start()) in "[{,":
            return found[0]
        places.append(found.start())
        return " "

    return _TOKEN.sub(blank, text), places[0] if places else -1


def _before(text: str, place: int) -> str:
    """The last character before ``place`` that is not white space."""
    place -= 1
    while place >= 0 and text[place].isspace():
        place -= 1
    return text[place] if place >= 0 else "["
