"""Changing one field of a file's text, and nothing else in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vfd.config.errors import ConfigError, Problem
from vfd.config.json_text import is_whole, parse_object
from vfd.config.last_commas import blank_last_commas

_BLANK = " \t\n\r"


@dataclass(frozen=True, slots=True)
class _Member:
    """Where one member of the object stands in the text."""

    key: str
    start: int
    value_start: int
    end: int


def with_field(text: str, field: str, value: Any, *, file: str) -> str:
    """``text``, one JSON object, with its field set to ``value``, or without it if that is None.

    All else stays as it was: comments, order, line breaks, numbers as they were written. Raises
    ConfigError where ``text`` is no JSON object.
    """
    text = text.removeprefix("\ufeff")
    before, _ = parse_object(text, file=file)
    mended, _ = blank_last_commas(text)
    changed = _changed(mended, _members(mended), field, value)
    after, _ = parse_object(changed, file=file)
    expected = {key: old for key, old in before.items() if key != field}
    if value is not None:
        expected[field] = json.loads(json.dumps(value))
    if after != expected:
        raise ConfigError([Problem(file, field, "", "this file can't be edited: write it anew")])
    return changed


def _members(text: str) -> list[_Member]:
    decoder = json.JSONDecoder(strict=False)
    at = _skip(text, text.index("{") + 1)
    members = []
    while text[at] != "}":
        start = at
        key, at = decoder.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)  # over the colon
        value_start = at
        _, at = decoder.raw_decode(text, at)
        members.append(_Member(key, start, value_start, at))
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return members


def _skip(text: str, at: int) -> int:
    while text[at] in _BLANK:
        at += 1
    return at


def _changed(text: str, members: list[_Member], field: str, value: Any) -> str:
    written = json.dumps(value, ensure_ascii=False)
    if not is_whole(written):  # a comment may have half a character
        written = json.dumps(value)
    for number, member in enumerate(members):
        if member.key != field:
            continue
        if value is not None:
            return text[: member.value_start] + written + text[member.end :]
        if number + 1 < len(members):
            return text[: member.start] + text[members[number + 1].start :]
        if number:
            return text[: members[number - 1].end] + text[member.end :]
        return text[: member.start] + text[member.end :]
    if value is None:
        return text
    if not members:
        place = text.index("{") + 1
        return f"{text[:place]}{json.dumps(field)}: {written}{text[place:]}"
    last = members[-1]
    before = text[: last.start]
    gap = before[len(before.rstrip(_BLANK)) :]
    return f"{text[: last.end]},{gap}{json.dumps(field)}: {written}{text[last.end :]}"
