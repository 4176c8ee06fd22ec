"""The one table of the packet suite."""

from __future__ import annotations

from . import cases_mirroring, cases_requests, cases_rx, cases_switching, cases_tagging, cases_tx
from .case import Case

CASES: tuple[Case, ...] = (
    *cases_tx.CASES,
    *cases_rx.CASES,
    *cases_tagging.CASES,
    *cases_switching.CASES,
    *cases_mirroring.CASES,
    *cases_requests.CASES,
)
