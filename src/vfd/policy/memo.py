"""Results remembered by the value that they were worked out from."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

V = TypeVar("V")
P = ParamSpec("P")
R = TypeVar("R")


def by_identity(
    function: Callable[Concatenate[V, P], R],
) -> Callable[Concatenate[V, P], R]:
    """Remembers the last result for each object that is the first argument, as long as it lives.

    For immutable values: of 256 VFs' policies one changes, and to hash or compare all the
    others in every field would cost more than what is asked of them. Further arguments are
    compared as a tuple is, so the same objects as last time cost nothing.
    """
    kept: dict[int, tuple[weakref.ref[Any], tuple[Any, ...], R]] = {}

    @wraps(function)
    def remembered(value: V, /, *args: P.args, **kwargs: P.kwargs) -> R:
        key = id(value)
        found = kept.get(key)
        if found is not None and found[1] == args and found[0]() is value:
            return found[2]
        result = function(value, *args, **kwargs)
        if not kwargs:
            kept[key] = (weakref.ref(value, lambda _: kept.pop(key, None)), args, result)
        return result

    return remembered
