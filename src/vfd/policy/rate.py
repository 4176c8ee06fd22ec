"""Rates: a share of the link, or bits per second."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")
_BITS = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:bps|bit/s|bit)", re.IGNORECASE | re.ASCII)


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
    """``2.5Gbps`` for 2500000000: the largest unit that needs at most three decimals."""
    for unit, prefix in (("t", "T"), ("g", "G"), ("m", "M"), ("k", "k")):
        size = _UNITS[unit]
        if bps >= size and bps % (size // 1000) == 0:
            whole, thousandths = divmod(bps // (size // 1000), 1000)
            decimals = f".{thousandths:03}".rstrip("0").rstrip(".")
            return f"{whole}{decimals}{prefix}bps"
    return f"{bps}bps"


def parse_bps(value: object) -> int:
    """Bits per second from ``"10Gbps"``, ``"300Mbps"`` or a plain number of bits per second.

    Raises ValueError for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (found := _BITS.fullmatch(value.strip())):
        bps = Decimal(found[1]) * _UNITS[found[2].lower()]
        return int(bps.to_integral_value(ROUND_HALF_UP))
    raise ValueError(f'{value!r} is not a speed: write bits per second, like "10Gbps"')


def parse_rate(value: object) -> Rate:
    """A rate as files write it: 0 … 1 (a share), ``"25%"``, ``"2Gbps"``, ``"300Mbps"``.

    Raises ValueError for anything else, and for shares above 1.
    """
    if isinstance(value, Rate):
        return value
    if isinstance(value, str):
        text = value.strip()
        if found := _PERCENT.fullmatch(text):
            return _share(float(found[1]) / 100, value)
        if _BITS.fullmatch(text):
            return Rate(bps=parse_bps(text))
        if _NUMBER.fullmatch(text):
            return _share(float(text), value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return _share(float(value), value)
    raise ValueError(
        f'{value!r} is not a rate: write a share of the link (0.25 or "25%") or a'
        ' speed ("2Gbps", "300Mbps")'
    )


def parse_percent(value: object) -> float:
    """Percent of a whole, from a number or from ``"10%"``; 0 … 100.

    Raises ValueError for anything else.
    """
    if isinstance(value, str):
        found = _PERCENT.fullmatch(value.strip()) or _NUMBER.fullmatch(value.strip())
        number = float(found[0].rstrip("% ")) if found else None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    else:
        number = None
    if number is None or not 0 <= number <= 100:
        raise ValueError(f'{value!r} is not a percentage: write 0 … 100, or "10%"')
    return number


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


_DECIMAL = r"[0-9]+(\.[0-9]+)?"
_SPEED_PATTERN = rf"^\s*{_DECIMAL}\s*[kKmMgGtT]?([bB][pP][sS]|[bB][iI][tT](/[sS])?)\s*$"
_PERCENT_PATTERN = r"^\s*0*(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)\s*%\s*$"
_SHARE_PATTERN = r"^\s*(0+(\.[0-9]+)?|0*1(\.0+)?)\s*$"

RateField = Annotated[
    Rate,
    BeforeValidator(parse_rate),
    PlainSerializer(_serialise, return_type=float | str),
    WithJsonSchema(
        {
            "title": "rate",
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1},
                {"type": "string", "pattern": _SPEED_PATTERN},
                {"type": "string", "pattern": _PERCENT_PATTERN},
                {"type": "string", "pattern": _SHARE_PATTERN},
            ],
        }
    ),
]
"""A share of the link (0 … 1, ``"25%"``) or a speed (``"2Gbps"``, ``"300Mbps"``)."""

SpeedField = Annotated[
    int,
    BeforeValidator(parse_bps),
    PlainSerializer(bps_text, return_type=str),
    WithJsonSchema(
        {
            "title": "speed",
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": _SPEED_PATTERN},
            ],
        }
    ),
]
"""A link speed: files say ``"10Gbps"``, values hold bits per second."""

PercentField = Annotated[
    float,
    BeforeValidator(parse_percent),
    WithJsonSchema(
        {
            "title": "percent",
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 100},
                {
                    "type": "string",
                    "pattern": r"^\s*0*(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)\s*%?\s*$",
                },
            ],
        }
    ),
]
"""Percent of a whole: a number, or ``"10%"`` as VFd's files say it."""
