"""Things go wrong around the daemon: it says so clearly, and what was enforced stays enforced."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

from tests.life.host import Host, wait_for
from tests.life.test_changes_under_traffic import untouched

import vfd

BPF = Path("nic/soft/bpf")


def test_bad_files_are_reported_and_leave_their_vfs_as_they_were(host: Host) -> None:
    good = json.dumps(host.untouched(0))
    with untouched(host):
        host.daemon.stop()
        host.daemon.write("tenant0", good[: len(good) // 2])  # torn
        host.daemon.write("tenant1", "")  # empty
        host.daemon.write("binary", "\0\1\2\3")
        host.daemon.write("list", "[1, 2]")
        host.daemon.write("foreign", json.dumps(host.vf(3) | {"pciid": "0000:ff:00.0"}))
        host.daemon.write("conflict", json.dumps(host.vf(2)))
        (host.daemon.config_dir / "notes.txt").write_text("not a configuration")
        (host.daemon.config_dir / "folder.json").mkdir()
        (host.daemon.config_dir / "dangling.json").symlink_to("/nonexistent/x")
        host.daemon.write("fine", host.vf(4))
        host.daemon.start()
        health = host.daemon.must("GET", "/v1/health")
    assert health["status"] == "degraded"
    bad = {
        Path(b["file"]).name: " ".join(p["rule"] for p in b["problems"])
        for b in health["bad_files"]
    }
    for name in ("tenant0", "tenant1", "binary", "list", "foreign", "conflict", "dangling"):
        assert bad.get(f"{name}.json"), f"{name}.json is not reported: {bad}"
    assert "notes.txt" not in bad
    names = {vf["name"] for vf in host.daemon.must("GET", "/v1/vfs")["vfs"]}
    assert {"tenant2", "fine"} <= names


def test_a_file_that_becomes_bad_while_the_daemon_runs_leaves_its_vf_as_it_was(
    host: Host,
) -> None:
    assert host.daemon.process
    with untouched(host):
        host.daemon.write("tenant0", '{"pciid": "')
        host.daemon.process.send_signal(signal.SIGHUP)
        wait_for(
            lambda: bool(host.daemon.must("GET", "/v1/health")["bad_files"]), "the bad file noticed"
        )
        status, answer = host.daemon.ask("PUT", host.daemon.vf("tenant1"), {"config": {"vlans": 5}})
        assert status == 422
        assert answer["problems"]


def test_a_full_disk_refuses_the_request_and_changes_nothing(host: Host, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], check=True)
    config_dir = host.daemon.config_dir
    try:
        for path in config_dir.glob("*.json"):
            shutil.copy(path, small)
        with untouched(host):
            host.daemon.stop()
            host.daemon.config_dir = small
            host.daemon.write_main(host.pf())
            host.daemon.start()
            _fill(small)
            body = {"name": "late", "config": host.vf(3)}
            status, answer = host.daemon.ask("POST", "/v1/vfs", body)
            assert status >= 500, answer
            assert "space" in answer["detail"].lower(), answer
            body = {"config": host.untouched(0) | {"vlans": [777]}}
            status, answer = host.daemon.ask("PUT", host.daemon.vf("tenant0"), body)
            assert status >= 500, answer
            assert host.converged() == []
            (small / "filler").unlink()
            host.daemon.must("POST", "/v1/vfs", {"name": "late", "config": host.vf(3)})
            host.daemon.must("DELETE", host.daemon.vf("late"))
    finally:
        host.daemon.kill()
        host.daemon.config_dir = config_dir
        subprocess.run(["umount", "-l", str(small)], check=True)


def _fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass


def test_a_socket_path_that_is_something_else_is_left_alone_and_named(host: Host) -> None:
    with untouched(host):
        host.daemon.stop()
        host.daemon.socket.unlink(missing_ok=True)
        host.daemon.socket.write_text("somebody's notes")
        status, said = host.daemon.refuses_to_start()
        assert status not in (0, -signal.SIGKILL)
        assert str(host.daemon.socket) in said
        assert host.daemon.socket.read_text() == "somebody's notes"
        host.daemon.socket.unlink()
        host.daemon.start()
    assert host.converged() == []


def test_a_dead_daemons_socket_is_replaced(host: Host) -> None:
    with untouched(host):
        host.daemon.kill()
        assert host.daemon.socket.exists()
        host.daemon.start()


SMALL_BUFFERS = """
import socket

_set = socket.socket.setsockopt


def setsockopt(self, level, option, *value):
    if self.family == socket.AF_NETLINK and option in (socket.SO_RCVBUF, 33):
        value = (4096,)
    return _set(self, level, option, *value)


socket.socket.setsockopt = setsockopt
"""
"""Receive buffers of netlink sockets that hold two or three events, for a daemon's process."""


def test_events_that_overflow_are_made_up_for_by_looking_again(host: Host, tmp_path: Path) -> None:
    """ENOBUFS: the kernel drops events when nobody takes them."""
    (tmp_path / "sitecustomize.py").write_text(SMALL_BUFFERS)
    host.daemon.environment["PYTHONPATH"] = str(tmp_path)
    host.daemon.stop()
    host.daemon.start()
    host.daemon.must("POST", "/v1/vfs", {"name": "noisy", "config": host.vf(3, vm_mac=None)})
    host.seat(3, listen=False)
    assert host.daemon.process
    name, last = host.netdev(3), "02:99:00:00:00:77"
    dropped = _dropped_notifications(host)
    with untouched(host):
        host.daemon.process.send_signal(signal.SIGSTOP)
        host.guest_batch(
            3,
            [f"link set {name} mtu {1400 + n}" for n in range(60)]
            + [f"link set {name} address {last}"],
        )
        host.daemon.process.send_signal(signal.SIGCONT)
        wait_for(
            lambda: host.daemon.must("GET", host.daemon.vf("noisy"))["mac"] == last,
            "the last of the guest's requests, after the overflow",
        )
    assert _dropped_notifications(host) > dropped, "nothing overflowed"
    host.unseat(3)
    wait_for(lambda: host.is_there(3), "VF 3 back")
    host.daemon.must("DELETE", host.daemon.vf("noisy"))
    assert host.converged() == []


def _dropped_notifications(host: Host) -> int:
    """What the kernel dropped so far, of all that sockets in the NIC's namespace were to hear."""
    command = ["ip", "netns", "exec", f"vfd-{host.id}", "cat", "/proc/net/netlink"]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    header, *sockets = (line.split() for line in table.splitlines())
    return sum(int(fields[header.index("Drops")]) for fields in sockets)


# -- another version of the programs -----------------------------------------------------------


def _copy(tmp_path: Path) -> Path:
    """The package in a folder of its own, to be made another version."""
    copy = tmp_path / "other/vfd"
    shutil.copytree(Path(vfd.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def _compile(folder: Path) -> None:
    """Builds the programs as tools/hatch_build.py does."""
    subprocess.run(
        [
            *("clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3"),
            f"-I/usr/include/{os.uname().machine}-linux-gnu",
            *("-c", "veb.bpf.c", "-o", "veb.bpf.o"),
        ],
        cwd=folder / BPF,
        check=True,
    )


def test_a_new_version_takes_over_the_maps_and_replaces_the_programs(
    host: Host, tmp_path: Path
) -> None:
    copy = _copy(tmp_path)
    source = copy / BPF / "veb.bpf.c"
    # another program to the kernel (its tag differs), of the same meaning
    text = source.read_text()
    source.write_text(_with_a_harmless_difference(text))
    _compile(copy)
    with untouched(host):
        host.daemon.stop()
        host.daemon.environment["PYTHONPATH"] = str(copy.parent)
        host.daemon.start()
        assert host.converged() == []
    host.daemon.must("POST", "/v1/vfs", {"name": "late", "config": host.vf(3)})
    host.daemon.must("DELETE", host.daemon.vf("late"))


REFUSAL = re.compile(
    r"the kernel refused the soft NIC's BPF program: Permission denied\. .*invalid access to packet"
)


def test_programs_that_the_verifier_refuses_leave_the_old_ones_in_force(
    host: Host, tmp_path: Path
) -> None:
    copy = _copy(tmp_path)
    source = copy / BPF / "veb.bpf.c"
    source.write_text(_with_a_wild_read(source.read_text()))
    _compile(copy)
    with untouched(host):
        host.daemon.stop()
        host.daemon.environment["PYTHONPATH"] = str(copy.parent)
        before = len(host.daemon.said())
        host.daemon.spawn()
        wait_for(
            lambda: REFUSAL.search(host.daemon.said()[before:]) is not None,
            "the verifier's words about the program",
            15,
        )
        assert host.daemon.must("GET", f"/v1/pfs/{host.id}")["state"] == "failed"
        host.daemon.kill()
        host.daemon.environment.clear()
        host.daemon.start()
    assert host.converged() == []


def _with_a_harmless_difference(text: str) -> str:
    return _at_the_start_of_the_program(text, 'asm volatile("r0 = 0" ::: "r0");')


def _with_a_wild_read(text: str) -> str:
    """Reads the packet without having looked whether it is that long."""
    read = "(void)*(volatile char *)(long)skb->data;"
    return _at_the_start_of_the_program(text, read)


def _at_the_start_of_the_program(text: str, statement: str) -> str:
    head = "int veb(struct __sk_buff *skb)\n{\n"
    assert text.count(head) == 1
    return text.replace(head, f"{head}\t{statement}\n")
