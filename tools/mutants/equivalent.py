"""Mutants that change nothing that anybody could see, each with the reason: they lived, and may."""

from __future__ import annotations

EQUIVALENT: dict[str, str] = {}
