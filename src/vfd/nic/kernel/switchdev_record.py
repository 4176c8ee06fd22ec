"""What the flower rules of a port were made from, kept beside them in the kernel.

Rules say what happens to frames, and different policies can come to the same: a VF whose MAC is not
known yet has no rule that would show whether it strips. So the policy itself is noted, in the
cookies of rules that stand in a chain which no frame reaches. A note is believed only if the rules
that it should have led to are there, all of them and no others (``switchdev.SwitchdevSurface``).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from vfd.nic.kernel.flower import MOST_ACTIONS, Match, Note, Place, Rules

RECORD = 0x0FFFFFFF
"""The chain: the last that there is (TC_ACT_EXT_VAL_MASK)."""
_COOKIE = 16
_LENGTH = 2
"""Bytes before the text that say how long it is: the last cookie may be filled up."""


def record(port: int, content: Mapping[str, Any]) -> Rules:
    """The rules that note ``content``, which is JSON, at ``port``."""
    text = zlib.compress(json.dumps(content, sort_keys=True, separators=(",", ":")).encode(), 9)
    data = len(text).to_bytes(_LENGTH, "big") + text
    cookies = [data[at : at + _COOKIE].ljust(_COOKIE, b"\0") for at in range(0, len(data), _COOKIE)]
    return {
        Place(port, RECORD, number + 1, Match()): tuple(
            Note(cookie) for cookie in cookies[at : at + MOST_ACTIONS]
        )
        for number, at in enumerate(range(0, len(cookies), MOST_ACTIONS))
    }


def recorded(port: int, rules: Rules) -> Mapping[str, Any] | None:
    """What is noted at ``port``; None where nothing is that can be read."""
    found = sorted(
        (place.pref, actions)
        for place, actions in rules.items()
        if place.port == port and place.chain == RECORD
    )
    data = b"".join(
        action.text for _, actions in found for action in actions if isinstance(action, Note)
    )
    try:
        length = int.from_bytes(data[:_LENGTH], "big")
        content = json.loads(zlib.decompress(data[_LENGTH : _LENGTH + length]))
    except (ValueError, zlib.error):
        return None
    return content if isinstance(content, dict) else None
