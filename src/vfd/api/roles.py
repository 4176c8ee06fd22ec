"""Which operations of the API only ask and which ones change something: all of them, in one place.

A route that isn't listed here doesn't come up: ``role_of`` fails when the application is made.
"""

from __future__ import annotations

from vfd.api.peers import Role

_READ = (
    *("health", "ready", "version", "dump"),
    *("pfs", "pf", "caps", "vfs", "vf", "show", "mirrors", "events"),
    "plan",  # what a change would do
)
_CHANGE = (
    *("add", "update", "delete", "mirror", "clear"),
    *("set_pf", "remove_pf"),
    *("reload", "verbose", "cpu_alarm"),
)
_MAY_WAIT = ("delete", "set_pf", "remove_pf")
"""For a VF's ``stop_cb``."""
_ROLES = {**dict.fromkeys(_READ, Role.READ), **dict.fromkeys(_CHANGE, Role.CHANGE)}


def role_of(operation: str) -> Role:
    """The role that an operation takes, by its id in the description. Raises KeyError."""
    return _ROLES[operation]


def may_wait(operation: str) -> bool:
    """Whether it may take as long as a callback does."""
    return operation in _MAY_WAIT
