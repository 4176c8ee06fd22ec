"""A NIC goes from one version of vfd to another and back under traffic, and loses nothing.

``version_before.tar.xz`` is the last version without TCX and without the map of hints, the daemon
as it was, so that a clone without history has it. A later one is packed likewise, with
``git archive COMMIT src/vfd | xz -9e``, less the backends other than the software NIC.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.life.host import PPS, VFS, WIRE, Host, wait_for
from tests.life.stream import Stream, Traffic
from tests.life.test_changes_under_traffic import untouched
from tests.packet.frames import Frame, c, from_vf, mac
from tests.soft.tcx_hooks import clsact_program, hooks, wanted
from tools.compile_bpf import compile_one

import vfd

pytestmark = pytest.mark.measured
GUESTS = pytest.mark.parametrize("guest", ["veth", "tap"])
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the version before is, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(HERE / "version_before.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    program = folder / "src/vfd/nic/soft/bpf/veb.bpf.c"
    compile_one(program, program.with_suffix(".o"))
    return str(folder / "src")


def another(folder: Path, number: int) -> str:
    """Where another version is: this one, with another program that does the same."""
    copy = folder / str(number)
    shutil.copytree(Path(vfd.__file__).parent, copy / "vfd")
    with (copy / "vfd/nic/soft/bpf/veb.bpf.o").open("ab") as program:
        program.write(b"\0" * (number + 1))
    return str(copy)


@contextmanager
def running(folder: Path, guest: str, version: str | None) -> Iterator[Host]:
    """A host whose NIC was made by this version's daemon; None: by today's."""
    host = Host(folder, guest)
    try:
        host.daemon.environment = {"PYTHONPATH": version} if version else {}
        host.start()
        yield host
    finally:
        host.close()


def change(host: Host, version: str | None) -> None:
    """The daemon ends, and one of another version takes the NIC: its program is another, too."""
    program = clsact_program(host.id)
    assert host.daemon.stop() == 0
    host.daemon.environment = {"PYTHONPATH": version} if version else {}
    host.daemon.start()
    assert clsact_program(host.id) != program


def until_hooked(host: Host) -> None:
    wait_for(lambda: hooks(host.id) == wanted(host.id, range(VFS)), "TCX at all VFs")


def goes(host: Host, sender: int, sent: Frame, to: Mapping[int, Frame]) -> None:
    """Some of these frames come to these ports as stated, and to no other."""
    traffic = Traffic((Stream("the frame", sender, sent, to),), host.ports, PPS)
    with traffic.running():
        pass
    assert traffic.faults() == []


@GUESTS
def test_a_newer_daemon_takes_a_nic_over_and_no_frame_is_lost(guest: str, tmp_path: Path) -> None:
    with running(tmp_path / "host", guest, None) as host:
        until_hooked(host)
        with untouched(host):
            for number in range(3):
                change(host, another(tmp_path, number))
                assert hooks(host.id) == wanted(host.id, range(VFS))
        assert host.converged() == []


@GUESTS
def test_a_nic_of_the_version_before_is_taken_over_and_no_frame_is_lost(
    guest: str, tmp_path: Path, before: str
) -> None:
    with running(tmp_path / "host", guest, before) as host:
        assert hooks(host.id) == {}
        with untouched(host):
            change(host, None)
            until_hooked(host)
        assert host.converged() == []


@GUESTS
def test_the_version_before_takes_a_nic_back_and_what_it_changes_holds(
    guest: str, tmp_path: Path, before: str
) -> None:
    with running(tmp_path / "host", guest, None) as host:
        until_hooked(host)
        for vfid in (3, 4):
            config = host.vf(vfid, vlans=[100], strip_ctag=True, link_status="on")
            host.daemon.must("POST", "/v1/vfs", {"name": f"other{vfid}", "config": config})
            host.seat(vfid)
        newer = hooks(host.id)
        one, other = from_vf(0, mac(3)), from_vf(0, mac(5))
        goes(host, 0, one, {3: one})
        with untouched(host):
            change(host, before)
        assert hooks(host.id) == newer, "an older version knows nothing of TCX"
        # VF 4 gets VF 3's MAC, VF 3 another one, and then leaves the VLAN
        update(host, 3, vm_mac=mac(5))
        update(host, 4, vm_mac=mac(3))
        goes(host, 0, one, {4: one})
        goes(host, 0, other, {3: other})
        goes(host, 3, from_vf(3, mac(0)), {})
        update(host, 3, vm_mac=mac(5), vlans=[200])
        goes(host, 0, other, {WIRE: other.tagged(c(100))})
        with untouched(host):
            change(host, None)
            until_hooked(host)
        goes(host, 0, one, {4: one})
        goes(host, 0, other, {WIRE: other.tagged(c(100))})
        assert host.converged() == []


def update(host: Host, vfid: int, **config: object) -> None:
    plain = {"vlans": [100], "strip_ctag": True, "link_status": "on"}
    body = {"config": host.vf(vfid, **plain | config)}
    host.daemon.must("PUT", host.daemon.vf(f"other{vfid}"), body)
