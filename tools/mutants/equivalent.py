"""Mutants that change nothing that anybody could see, each with the reason: they lived, and may."""

from __future__ import annotations

EQUIVALENT: dict[str, str] = {
    "ecaf7ef2": "no VF takes a MAC that it lets go, nor mirrors to itself: it can't block itself",
}
