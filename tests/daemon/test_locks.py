"""A lock's file goes with what was locked, and no two daemons ever have the same lock."""

from __future__ import annotations

import fcntl
import secrets
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from vfd.daemon import exclusive
from vfd.daemon.exclusive import LOCKS, InUseError, lock_nic

from .harness import Vfd


def test_a_lock_that_is_removed_while_another_waits_for_it_has_one_holder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other has opened the file already when its holder removes it."""
    name = f"t{secrets.token_hex(3)}"
    first = [lock_nic(name, "first")]

    def flock(fd: int, how: int) -> None:
        if first:
            first.pop().close(remove=True)
        fcntl.flock(fd, how)

    monkeypatch.setattr(exclusive, "fcntl", SimpleNamespace(**{**vars(fcntl), "flock": flock}))
    second = lock_nic(name, "second")
    with pytest.raises(InUseError, match="second"):
        lock_nic(name, "third")
    second.close(remove=True)
    assert not (LOCKS / f"{name}.lock").exists()
    lock_nic(name, "third").close(remove=True)


def test_no_lock_of_a_nic_that_was_removed_or_let_go_stays(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd()
    other = f"{vfd.pf}b"
    vfd.main["pciids"].append({"id": other, "backend": "soft", "vfs": 1})
    vfd.write_main()
    vfd.start()
    assert len([*LOCKS.glob(f"{vfd.pf}*")]) == 2
    assert vfd.ask("DELETE", f"/v1/pfs/{other}")[0] == 200
    assert [lock.name for lock in LOCKS.glob(f"{vfd.pf}*")] == [f"{vfd.pf}.lock"]
    pfs, vfd.main["pciids"] = vfd.main["pciids"][:1], []
    vfd.write_main()
    vfd.reload()
    assert [*LOCKS.glob(f"{vfd.pf}*")] == []
    vfd.main["pciids"] = pfs
