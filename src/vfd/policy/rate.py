"""Rates: a share of the link, or bits per second."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from vfd.policy.shown import shown

MOST_BPS = 10**13
"""The fastest speed that a file may state, 10 Tbit/s. The bursts that go with twice as much still
fit the 32 bits that tc has for them (TCA_TBF_BURST, linux/pkt_sched.h)."""
LEAST_BPS = 8_000
"""The least limit, 8 kbit/s: less would hold a full frame for more than a second."""
_LONGEST = 64
"""Characters of a number with its unit: nobody writes more, and long ones take long to read."""

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

    Raises ValueError for anything else, and for more than 10 Tbit/s.
    """
    bps: int | None = None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        bps = value
    elif isinstance(value, str) and (found := _BITS.fullmatch(_text(value))):
        exactly = Decimal(found[1]) * _UNITS[found[2].lower()]
        # a limit that is stated is none that rounds to no limit
        bps = max(int(exactly.to_integral_value(ROUND_HALF_UP)), 1 if exactly else 0)
    if bps is None:
        raise ValueError(f'{shown(value)} is not a speed: write bits per second, like "10Gbps"')
    if bps > MOST_BPS:
        raise ValueError(f"{shown(value)} is faster than any link: at most {bps_text(MOST_BPS)}")
    return bps


def parse_rate(value: object) -> Rate:
    """A rate as files write it: 0 … 1 (a share), ``"25%"``, ``"2Gbps"``, ``"300Mbps"``.

    Raises ValueError for anything else, for shares above 1, and for more than 10 Tbit/s.
    """
    if isinstance(value, Rate):
        return value
    if isinstance(value, str):
        text = _text(value)
        if found := _PERCENT.fullmatch(text):
            return _share(float(found[1]) / 100, value)
        if _BITS.fullmatch(text):
            return Rate(bps=parse_bps(text))
        if _NUMBER.fullmatch(text):
            return _share(float(text), value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return _share(value, value)
    raise ValueError(
        f'{shown(value)} is not a rate: write a share of the link (0.25 or "25%") or a'
        ' speed ("2Gbps", "300Mbps")'
    )


def parse_percent(value: object) -> float:
    """Percent of a whole, from a number or from ``"10%"``; 0 … 100.

    Raises ValueError for anything else.
    """
    number: float | None = None
    if isinstance(value, str):
        text = _text(value)
        if found := _PERCENT.fullmatch(text) or _NUMBER.fullmatch(text):
            number = float(found[0].rstrip("% "))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = value
    if number is None or not 0 <= number <= 100:
        raise ValueError(f'{shown(value)} is not a percentage: write 0 … 100, or "10%"')
    return float(number)


def _text(value: str) -> str:
    """A number with its unit, without blanks around it; '' for what is too long to be one."""
    return value.strip() if len(value) <= _LONGEST else ""


def _share(share: float, value: object) -> Rate:
    if not 0 <= share <= 1:  # before float(), which an int of 400 digits overflows
        raise ValueError(
            f"{shown(value)} is not a share of the link: it lies outside 0 … 1"
            ' (a speed needs its unit, like "2Gbps")'
        )
    return Rate(share=float(share))


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
                {"type": "integer", "minimum": 0, "maximum": MOST_BPS},
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
