"""Opening a soft NIC that can't be opened, or taking over another version, leaves nothing open."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from tests.bpf.test_load import REFUSED, compiled
from tests.soft.world import World, world

import vfd.nic.soft as soft
from vfd.nic.protocol import NicError
from vfd.nic.soft import datapath, layout, namespace, vebmaps
from vfd.nic.soft.vebmaps import Veb

OTHER_VERSION = "veb-00000000"


def open_files() -> list[str]:
    gc.collect()
    return sorted(
        f"{fd.name} {fd.readlink()}" for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()
    )


def opens_nothing(w: World, error: str) -> None:
    """The NIC can't be opened, three times, and each time says why."""
    w.nic.close()
    before = open_files()
    for _ in range(3):
        with pytest.raises(NicError, match=error):
            soft.open(w.pf)
    assert open_files() == before


def test_a_program_that_the_verifier_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = compiled(tmp_path, REFUSED)
    with world() as w:
        with monkeypatch.context() as other:
            other.setattr(datapath, "program_version", lambda: OTHER_VERSION)
            other.setattr(vebmaps, "object_file", lambda: refused)
            opens_nothing(w, "invalid access to packet")
        w.reopen()


def test_maps_of_another_layout_and_a_program_that_the_verifier_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = compiled(tmp_path, REFUSED)
    with world() as w:
        with monkeypatch.context() as other:
            other.setattr(layout, "LAYOUT", layout.LAYOUT + 1)
            other.setattr(vebmaps, "object_file", lambda: refused)
            opens_nothing(w, "invalid access to packet")
        w.reopen()


def test_maps_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with world() as w:
        with monkeypatch.context() as other:
            other.setattr(Veb, "read", unreadable)
            opens_nothing(w, "unreadable")
        w.reopen()


def unreadable(_: Veb) -> None:
    raise NicError("unreadable")


def test_a_namespace_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "none"
    fake.touch()
    with world() as w:
        with monkeypatch.context() as other:
            other.setattr(namespace, "path", lambda _: fake)
            other.setattr(namespace, "exists", lambda _: True)
            opens_nothing(w, "can't be opened")
        w.reopen()


def test_another_version_that_is_taken_over_leaves_no_more_open_than_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with world() as w:
        w.reopen()
        before = len(open_files())
        for number in range(3):
            monkeypatch.setattr(datapath, "program_version", lambda n=number: f"veb-0000000{n}")
            w.reopen()
            assert len(open_files()) <= before
        w.nic.close()
        monkeypatch.setattr(layout, "LAYOUT", layout.LAYOUT + 1)
        w.nic = soft.open(w.pf)
        w.apply()
        assert len(open_files()) <= before
