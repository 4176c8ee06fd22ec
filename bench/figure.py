"""A figure and the bar that it is held to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure; smaller is better. ``bar`` None: for information."""

    what: str
    measured: float
    bar: float | None
    unit: str
    """× what it is a multiple of, which was measured in the same run; or the figure's own."""
    beside: str = ""
    """Of a ratio: what was measured, of both."""
    sure: bool = True
    """Whether the machine was quiet enough to say so."""

    @property
    def shown(self) -> str:
        """No reader sees more digits, and no verdict goes by more."""
        return f"{self.measured:.4g}"

    @property
    def measured_text(self) -> str:
        return f"{self.shown} {self.unit}"

    @property
    def bar_text(self) -> str:
        return f"≤ {self.bar:g}" if self.bar is not None else ""

    @property
    def verdict(self) -> str:
        if self.bar is None:
            return ""
        if not self.sure:
            return "not quiet"
        return "reached" if float(self.shown) <= self.bar else "MISSED"
