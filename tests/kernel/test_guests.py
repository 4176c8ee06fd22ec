"""Who has a device node open."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vfd.nic.kernel.guests import Guest, guests_of, openers_of, state_of
from vfd.nic.kernel.sriov import VfDevice


def test_all_nodes_are_found_in_one_pass_with_every_process_that_has_them_open(
    tmp_path: Path,
) -> None:
    nodes = [tmp_path / name for name in ("12", "13", "14")]
    for node in nodes:
        node.touch()
    code = "import sys; files = [open(p) for p in sys.argv[1:]]; print(flush=True); input()"
    command = [sys.executable, "-c", code, *map(str, nodes[:2])]
    with (
        nodes[1].open(),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other,
    ):
        assert other.stdout
        other.stdout.readline()
        found = openers_of({str(node) for node in nodes})
        other.communicate(b"\n")
    mine, its = f"[{os.getpid()}]", f"[{other.pid}]"
    assert {
        Path(node).name: {who[who.index("[") :] for who in whom} for node, whom in found.items()
    } == {
        "12": {its},
        "13": {mine, its},
    }


def test_a_vf_on_a_driver_of_uios_is_held_while_its_node_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A DPDK process on an older host: igb_uio."""
    vfs = [VfDevice(n, f"0000:01:02.{n}", "igb_uio", "", None, None, None) for n in (0, 1)]
    for vf in vfs:
        (tmp_path / vf.address / "uio" / f"uio{vf.vfid}").mkdir(parents=True)
    monkeypatch.setattr("vfd.nic.kernel.guests.PCI_DEVICES", tmp_path)
    opened = {"/dev/uio1": ["dpdk-testpmd[7]"]}
    monkeypatch.setattr("vfd.nic.kernel.guests.openers_of", lambda _: opened)
    assert guests_of(vfs) == {
        0: Guest("igb_uio", held=False),
        1: Guest("igb_uio: dpdk-testpmd[7]", held=True),
    }


def test_a_holder_and_a_netdev_whose_names_are_no_text_are_shown_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process calls itself what it likes, and a netdev's name is bytes without '/' and blanks."""
    node = tmp_path / "uio0"
    node.touch()
    code = (
        "import sys; open('/proc/self/comm', 'wb').write(b'\\xff\\x1bqemu')\n"
        "held = open(sys.argv[1]); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(node)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        [who] = openers_of({str(node)})[str(node)]
        other.communicate(b"\n")
    odd = os.fsdecode(b"net\xff")
    (tmp_path / odd).mkdir()
    (tmp_path / odd / "flags").write_text("0x1003\n")
    monkeypatch.setattr("vfd.nic.kernel.guests.NETDEVS", tmp_path)
    vf = VfDevice(0, "0000:01:02.0", "igbvf", odd, None, None, None)
    for text in (who, guests_of([vf])[0].text):
        state = state_of(vf, Guest(text, held=True))
        assert state.guest.encode()
        assert state.guest.isprintable()
    assert who.startswith("\\xff")
    assert state.guest == "igbvf: net\\xff"


def test_a_vf_of_connectx_is_held_while_its_verbs_device_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DPDK drives it by that, beside a netdev that may be down."""
    vfs = [VfDevice(n, f"0000:01:02.{n}", "mlx5_core", f"n{n}", None, None, None) for n in (0, 1)]
    for vf in vfs:
        (tmp_path / vf.address / f"infiniband_verbs/uverbs{vf.vfid}").mkdir(parents=True)
    monkeypatch.setattr("vfd.nic.kernel.guests.PCI_DEVICES", tmp_path)
    monkeypatch.setattr("vfd.nic.kernel.guests.NETDEVS", tmp_path)
    opened = {"/dev/infiniband/uverbs1": ["dpdk-testpmd[7]"]}
    monkeypatch.setattr("vfd.nic.kernel.guests.openers_of", lambda _: opened)
    assert guests_of(vfs) == {
        0: Guest("mlx5_core: n0 (down)", held=False),
        1: Guest("mlx5_core: n1 (down), dpdk-testpmd[7]", held=True),
    }
