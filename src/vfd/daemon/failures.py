"""Why a request was not done, one exception for each kind of answer."""

from __future__ import annotations

from collections.abc import Iterable

from vfd.config.errors import Problem


class RefusedError(Exception):
    """The request breaks rules: all of them, in ``problems``. Nothing was changed."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class NotFoundError(Exception):
    """No such VF, PF or file."""


class ExistsError(Exception):
    """It is there already."""


class StorageError(Exception):
    """The disk refused to keep the desired state. Nothing was changed."""
