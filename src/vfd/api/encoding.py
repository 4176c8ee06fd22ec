"""Answers and events as JSON text. Names and values in them may be anybody's: what JSON can't carry
is escaped, and no text of theirs keeps an answer from being written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from vfd.policy.shown import printable, shown


def encoded(message: BaseModel) -> str:
    """``message`` as JSON. Half surrogates, which stand for bytes that are no UTF-8 or come from a
    file's ``\\ud800``, and what is of no JSON type are shown as text."""
    try:
        return message.model_dump_json()
    except PydanticSerializationError:
        return json.dumps(_carried(message.model_dump()), ensure_ascii=False)


def _carried(value: Any) -> Any:
    match value:
        case None | bool() | int():
            return value
        case str():
            return _text(value)
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {_text(str(key)): _carried(one) for key, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_carried(one) for one in value]
        case bytes():
            return printable(value.decode(errors="surrogateescape"))
    return _text(shown(value))


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return printable(text)
    return text
