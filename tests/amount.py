"""How much a test draws at random."""

from __future__ import annotations

import os

FEW = not {"VFD_FEW", "VFD_LAB"}.isdisjoint(os.environ)
"""Where time is short: ``make quick``, and the laboratory's emulated processors."""


def drawn(cases: int) -> int:
    """So many, a twelfth of them where time is short."""
    return max(1, cases // 12) if FEW else cases
