"""Rates: a share of the link, or bits per second."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_PERCENT = re.compile(r"^(\d+(?:\.\d+)?)\s*%$")
_BITS = re.compile(r"^(\d+(?:\.\d+)?)\s*([kmgt]?)\s*(?:bps|bit/s|bit)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit or a guarantee. Exactly one of the two is set; a zero of either means none.

    ``share``: of the link speed, 0 … 1. ``bps``: bits per second on the wire's layer 2
    (Ethernet header and payload; no preamble, FCS or gap), ≥ 0.
    """

    share: float | None = None
    bps: int | None = None

    def __post_init__(self) -> None:
        if not self:  # one spelling of "none", so that rates compare by meaning
            object.__setattr__(self, "share", 0.0)
            object.__setattr__(self, "bps", None)

    def __bool__(self) -> bool:
        return bool(self.share or self.bps)

    def on(self, link_bps: int) -> int:
        """Bits per second on a link of ``link_bps``; 0 means no limit or no guarantee."""
        if self.bps is not None:
            return self.bps
        return round((self.share or 0.0) * link_bps)

    def __str__(self) -> str:
        if self.bps is None:
            return f"{(self.share or 0.0) * 100:g}%" if self.share else "0"
        return bps_text(self.bps)


NONE = Rate(share=0.0)
"""No limit, no guarantee."""


def bps_text(bps: int) -> str:
    """``2.5Gbps`` for 2500000000: the largest unit that loses nothing."""
    for unit in ("t", "g", "m", "k"):
        size = _UNITS[unit]
        if bps >= size and (bps * 1000) % size == 0:
            return f"{bps / size:g}{unit.upper() if unit != 'k' else 'k'}bps"
    return f"{bps}bps"


def parse_bps(value: object) -> int:
    """Bits per second from ``"10Gbps"``, ``"300Mbps"`` or a plain number of bits per second."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a speed")
    if isinstance(value, int):
        return value
    if isinstance(value, str) and (found := _BITS.match(value.strip())):
        return round(float(found[1]) * _UNITS[found[2].lower()])
    raise ValueError(f'{value!r} is not a speed: write bits per second, like "10Gbps"')


def parse_rate(value: object) -> Rate:
    """A rate as files write it: 0 … 1 (a share), ``"25%"``, ``"2Gbps"``, ``"300Mbps"``.

    Raises ValueError for anything else, and for shares above 1.
    """
    if isinstance(value, Rate):
        return value
    if isinstance(value, str):
        text = value.strip()
        if found := _PERCENT.match(text):
            return _share(float(found[1]) / 100, value)
        if _BITS.match(text):
            return Rate(bps=parse_bps(text))
        try:
            return _share(float(text), value)
        except ValueError:
            pass
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return _share(float(value), value)
    raise ValueError(
        f'{value!r} is not a rate: write a share of the link (0.25 or "25%") or a'
        ' speed ("2Gbps", "300Mbps")'
    )


def _share(share: float, value: object) -> Rate:
    if not 0 <= share <= 1:
        raise ValueError(
            f"{value!r} is not a share of the link: it lies outside 0 … 1"
            ' (a speed needs its unit, like "2Gbps")'
        )
    return Rate(share=share)


def _serialise(rate: Any) -> float | str:
    if rate.bps is None:
        return float(rate.share or 0.0)
    return bps_text(rate.bps)


RateField = Annotated[
    Rate,
    BeforeValidator(parse_rate),
    PlainSerializer(_serialise, return_type=float | str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1},
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(%|[kKmMgGtT]?(bps|bit/s|bit))?$"},
            ],
            "description": 'a share of the link (0 … 1, "25%") or a speed ("2Gbps", "300Mbps")',
        }
    ),
]

SpeedField = Annotated[
    int,
    BeforeValidator(parse_bps),
    PlainSerializer(bps_text, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s*[kKmMgGtT]?(bps|bit/s|bit)$"},
            ],
            "description": 'bits per second, like "10Gbps"',
        }
    ),
]
"""A link speed: files say ``"10Gbps"``, values hold bits per second."""
