"""From a file's text to one JSON object, or to a problem with its line and column."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from vfd.config.errors import ConfigError, Problem, shown
from vfd.config.last_commas import blank_last_commas

_LEVELS = 8
"""Deeper than any configuration is."""
_DIGITS = 1000
"""Of one number: rules for fields refuse far smaller ones, in better words."""
_TOLD = 100
"""Problems of one file."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON spells half of a character beyond U+FFFF. Two of them that fit are one character."""


def parse_object(text: str | bytes, *, file: str) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """The object that ``text`` states, and warnings about how it is written.

    A comma before a closing bracket is taken, with a warning, because VFd took it and its own
    examples have it. Whole numbers may be written as ``1.0``. Raises ConfigError for anything
    that is not one JSON object in UTF-8, and for keys that an object has twice.
    """
    decoded = _decoded(text, file)
    if not decoded.strip():
        raise _error(file, "", "the file is empty: a configuration is one JSON object")
    repeated: _Repeated = []
    warnings: tuple[Problem, ...] = ()
    try:
        data = _load(decoded, repeated)
    except json.JSONDecodeError:
        repeated.clear()
        data, warnings = _without_last_commas(decoded, file, repeated)
    except (ValueError, RecursionError) as error:
        raise _error(file, "", _unreadable(error)) from None
    if not isinstance(data, dict):
        raise _error(file, shown(data), "a configuration is one JSON object, in braces")
    found = list(_each_key_once(data, repeated, file)) if repeated else []
    if _HALF.search(decoded):
        found += _whole_characters(data, file)
    if found:
        raise ConfigError(found[:_TOLD])
    return data, warnings


def without_comments(data: Any, levels: int = _LEVELS) -> Any:
    """``data`` without the keys that end in ``comment`` or ``comments``, at every level where a
    configuration can have one."""
    if levels == 0:
        return data
    below = levels - 1
    if isinstance(data, dict):
        return {
            key: without_comments(value, below)
            for key, value in data.items()
            if not is_comment(key)
        }
    if isinstance(data, list):
        return [without_comments(value, below) for value in data]
    return data


def is_comment(key: str) -> bool:
    """docs/semantics.md: a key that ends in ``comment``; VFd's manual has ``comments`` as well."""
    return key.endswith(("comment", "comments"))


def _decoded(text: str | bytes, file: str) -> str:
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            rule = f"not UTF-8 text: byte {error.start} is 0x{text[error.start]:02x}"
            raise _error(file, "", rule) from None
    return text.removeprefix("\ufeff")


_Repeated = list[tuple[dict[str, Any], dict[str, list[Any]]]]
"""Objects that have a key more than once, each with those keys' values."""


def _load(text: str, repeated: _Repeated) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            values: dict[str, list[Any]] = {}
            for key, value in pairs:
                values.setdefault(key, []).append(value)
            repeated.append((found, {key: all for key, all in values.items() if len(all) > 1}))
        return found

    return json.loads(
        text,
        strict=False,  # a tab inside a text, which VFd took
        object_pairs_hook=once,
        parse_int=_whole_number,
        parse_float=_number,
        parse_constant=_no_constant,
    )


def _each_key_once(data: dict[str, Any], repeated: _Repeated, file: str) -> Iterator[Problem]:
    """A problem for each key that an object of ``data`` has twice, comments aside."""
    rule = "an object has each key once: which of them counts would be a guess"
    twice = {id(found): values for found, values in repeated}
    for path, node in _nodes(data):
        prefix = f"{path}." if path else ""
        for key, values in twice.get(id(node), {}).items():
            if not is_comment(key):
                yield Problem(file, prefix + key, ", then ".join(map(shown, values[:2])), rule)


def _whole_characters(data: dict[str, Any], file: str) -> Iterator[Problem]:
    """A problem for each text with half a character, which no answer and no log could tell,
    comments aside."""
    rule = "half of a surrogate pair is no character"
    for path, node in _nodes(data):
        if isinstance(node, str) and not is_whole(node):
            yield Problem(file, path, shown(node), rule)
        if isinstance(node, dict):
            for key in node:
                if not is_comment(key) and not is_whole(key):
                    yield Problem(file, f"{path}.{key}" if path else key, "", rule)


def is_whole(text: str) -> bool:
    """Whether ``text`` can be written: has no half of a surrogate pair, and no byte that was none
    of UTF-8 (PEP 383)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _nodes(data: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Everything in ``data`` with its path, in the file's order, comments aside."""
    there: list[tuple[str, Any]] = [("", data)]
    while there:
        path, node = there.pop()
        yield path, node
        if isinstance(node, list):
            there += [(f"{path}[{number}]", value) for number, value in enumerate(node)][::-1]
        elif isinstance(node, dict):
            prefix = f"{path}." if path else ""
            inner = [(prefix + key, value) for key, value in node.items() if not is_comment(key)]
            there += inner[::-1]


def _whole_number(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"the number {text[:40]}… has {len(text)} digits")
    return int(text)


def _number(text: str) -> int | float:
    """JSON has one kind of number: ``3.0`` is the whole number 3."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return int(number) if number.is_integer() else number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def _without_last_commas(
    text: str, file: str, repeated: _Repeated
) -> tuple[Any, tuple[Problem, ...]]:
    """Another try, without the commas before closing brackets."""
    mended, first = blank_last_commas(text)
    try:
        data = _load(mended, repeated)
    except json.JSONDecodeError as error:
        found = error.msg.removesuffix(" at")  # "Unterminated string starting at"
        rule = f"not JSON: {found} at line {error.lineno}, column {error.colno}"
        raise _error(file, _around(text, error.pos), rule) from None
    except (ValueError, RecursionError) as trouble:
        raise _error(file, "", _unreadable(trouble)) from None
    line = text.count("\n", 0, first) + 1
    rule = f"a comma before a closing bracket (line {line}) is not JSON: read as VFd read it"
    return data, (Problem(file, "", "", rule),)


def _around(text: str, position: int) -> str:
    return shown(text[position : position + 20].split("\n")[0]) if text[position:].strip() else ""


def _unreadable(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "not a configuration: brackets are nested too deeply"
    return f"not a configuration: {error}"


def _error(file: str, value: str, rule: str) -> ConfigError:
    return ConfigError([Problem(file, "", value, rule)])
