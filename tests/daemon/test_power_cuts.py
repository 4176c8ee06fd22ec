"""What was answered as done outlives a power cut, and a cut amid it leaves the old or the new."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.kernel.modelled import mounted

from vfd.daemon import pfs
from vfd.daemon.failures import RefusedError
from vfd.daemon.folders import make_folder
from vfd.daemon.request import Source
from vfd.daemon.service import Service

from .conftest import served
from .disk import POWER
from .harness import run
from .plain_nic import PlainNic, add, config, restarted

pytestmark = pytest.mark.root


@dataclass(frozen=True, slots=True)
class Host:
    """A daemon's service, and all of its files, on a disk that a power cut can strike."""

    disk: Path
    folder: Path
    service: Service

    def files(self) -> dict[str, str]:
        there = [path for path in self.folder.rglob("*") if path.is_file()]
        named = {str(path.relative_to(self.folder)): path for path in there}
        return {name: path.read_text() for name, path in named.items() if "/." not in f"/{name}"}

    def power(self, how: str) -> None:
        os.setxattr(self.disk, POWER, how.encode())


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    with mounted("tests.daemon.disk") as root:
        yield root


@pytest.fixture
def host(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    name = f"t{secrets.token_hex(3)}"
    folder = disk / name
    folder.mkdir()
    with served(folder, name, PlainNic, monkeypatch) as service:
        made = Host(disk, folder, service)
        add(service, "old", 0)
        made.power("sync")
        yield made


def added(service: Service) -> None:
    add(service, "tenant/new", 1)


def updated(service: Service) -> None:
    service.update("old", Source(name="old", config=config(service, 0, vlans=[7])), 0, 0)


def mirrored(service: Service) -> None:
    service.mirror(next(iter(service.nics)), 0, "all", 1)


def deleted(service: Service) -> None:
    service.delete("old")


def deleted_but_kept(service: Service) -> None:
    service.files.delete_keep = True
    service.delete("old")


def recounted(service: Service) -> None:
    pfs.set_vfs(service, next(iter(service.nics)), 2, force=False)


CHANGES = (added, updated, mirrored, deleted, deleted_but_kept, recounted)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_was_answered_outlives_a_power_cut(
    host: Host, change: Callable[[Service], None]
) -> None:
    before = host.files()
    change(host.service)
    after = host.files()
    assert after != before
    host.power("cut")
    assert host.files() == after


@pytest.mark.parametrize("change", [updated, mirrored, recounted])
def test_a_power_cut_at_any_instant_of_a_change_leaves_the_old_file_or_the_new(
    host: Host, change: Callable[[Service], None]
) -> None:
    before = host.files()
    change(host.service)
    after = host.files()
    found, calls = [before], 0
    while found[-1] != after:
        calls += 1
        for name, text in before.items():
            (host.folder / name).write_text(text)
        host.service.reload(host.service.main)
        host.power("sync")
        host.power(str(calls))
        change(host.service)
        host.power("cut")
        found.append(host.files())
        assert found[-1] in (before, after)
        assert calls < 50
    assert calls > 3


def test_a_file_that_was_refused_is_out_of_the_way_after_a_power_cut_too(host: Host) -> None:
    file = host.folder / "vfs/bad.json"
    file.write_text(json.dumps(config(host.service, 0, vlans=[9])))
    host.power("sync")
    with pytest.raises(RefusedError):
        host.service.add(Source(file="bad"), 0, 0)
    after = host.files()
    assert "vfs/bad.json.error" in after
    host.power("cut")
    assert host.files() == after


def test_a_file_that_was_taken_over_stays_so_after_a_power_cut(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = host.folder / "vfs_live/tenant"
    live.mkdir(parents=True)
    (live / "vfds.json").write_text(json.dumps(config(host.service, 2)))
    host.power("sync")
    again = restarted(host.service, monkeypatch)
    again.start()
    after = host.files()
    assert "vfs/tenant/vfds.json" in after
    host.power("cut")
    assert host.files() == after
    again.stop()


def test_a_main_file_that_is_a_mount_keeps_what_was_written_over_it(host: Host) -> None:
    file = host.folder / "vfd.cfg"
    run("mount", "--bind", str(file), str(file))
    try:
        recounted(host.service)
        after = file.read_text()
        assert '"vfs": 2' in after
        host.power("cut")
        assert file.read_text() == after
    finally:
        run("umount", str(file))


def test_a_folder_that_was_made_is_there_after_a_power_cut(host: Host) -> None:
    made = host.folder / "var/lib"
    assert make_folder(made)
    host.power("cut")
    assert made.is_dir()
