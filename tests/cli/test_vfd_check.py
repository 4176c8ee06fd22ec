"""``vfd --check`` says what is wrong with the files, and what they name that this host lacks."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Ended, run_program
from tests.cli.daemon import ip

from vfd.policy.shown import SHOWN, SHOWN_BY_VFD


def checked(folder: Path, *pfs: Mapping[str, Any] | str, **main: Any) -> Ended:
    (folder / "vfs").mkdir(exist_ok=True)
    (folder / "vfd.cfg").write_text(
        json.dumps({"config_dir": str(folder / "vfs"), "pciids": list(pfs)} | main)
    )
    return run_program("vfd", "--check", "--config", folder / "vfd.cfg")


def test_a_host_that_has_all_of_it_is_not_warned(tmp_path: Path) -> None:
    ended = checked(tmp_path, {"id": "soft0", "backend": "soft", "vfs": 2})
    assert (ended.code, ended.err) == (0, "")
    assert "on this host" not in ended.out


@pytest.mark.parametrize("option", ["--socket", "--config"])
def test_a_path_that_is_empty_is_told_and_read_as_no_folder(option: str) -> None:
    ended = run_program("vfd", "--check", option, "")
    assert (ended.code, f"{option} names no file" in ended.err) == (2, True), ended.err


@pytest.mark.parametrize(
    ("pf", "field", "words"),
    [
        ("ffff:1f:00.0", "id", "no PCI device"),
        ("nosuch0", "id", "no PCI device and no netdev"),
        ({"id": "nosuch0", "backend": "kernel"}, "id", "no netdev of that name"),
        ({"id": "ffff:1f:00.0", "backend": "kernel"}, "id", "no PCI device at that address"),
        ({"id": "lo", "backend": "kernel"}, "id", "no netdev of that name with a device"),
        (
            {"id": "check0", "backend": "soft", "vfs": 2, "uplink": "nosuch0"},
            "uplink",
            "no netdev of this host",
        ),
        (
            {"id": "check0", "backend": "soft", "vfs": 2, "uplink": "lo"},
            "uplink",
            "it is no Ethernet device",
        ),
    ],
)
def test_a_pf_or_an_uplink_that_is_not_on_this_host_is_warned_of(
    tmp_path: Path, pf: Any, field: str, words: str
) -> None:
    """It may come later, and the file may be another host's."""
    ended = checked(tmp_path, {"id": "soft1", "backend": "soft", "vfs": 1}, pf)
    assert (ended.code, ended.err) == (0, "")
    (line,) = [line for line in ended.out.splitlines() if "on this host: " in line]
    assert line.startswith(f"warning: {tmp_path}/vfd.cfg: pciids[1].{field} = ")
    assert words in line


def test_a_software_nic_has_no_name_that_the_kernel_a_shell_or_iplex_reads_otherwise(
    tmp_path: Path,
) -> None:
    words = (*SHOWN, *SHOWN_BY_VFD, "lo", "default", "on", "off")
    signs = ("-x", ".x", "_x", "a+b", "a$b", "a*")
    good = ("soft7", "a.b_c-d", "mirrors0", "0")
    ended = checked(
        tmp_path, *({"id": name, "backend": "soft", "vfs": 1} for name in (*words, *signs, *good))
    )
    assert ended.code == 3
    told = re.findall(r'pciids\[\d+\]\.id = "(.*?)": (.*)', ended.err)
    assert [name for name, rule in told if "means something else" in rule] == [*words]
    assert [name for name, rule in told if "begins with a letter or digit" in rule] == [*signs]
    assert len(told) == len(words) + len(signs)


@pytest.mark.root
def test_of_a_software_nic_that_is_there_an_uplink_is_missing_that_it_does_not_have(
    tmp_path: Path,
) -> None:
    nic = f"check{secrets.token_hex(2)}"
    ip("netns", "add", f"vfd-{nic}")
    try:
        ip("-n", f"vfd-{nic}", "link", "add", "wire0", "type", "veth", "peer", "name", "far0")
        for uplink, is_told in (("wire0", False), ("wire1", True)):
            ended = checked(tmp_path, {"id": nic, "backend": "soft", "vfs": 2, "uplink": uplink})
            assert (ended.code, ended.err) == (0, "")
            assert ("no netdev of this host" in ended.out) == is_told, ended
    finally:
        ip("netns", "delete", f"vfd-{nic}")


def test_a_backend_that_is_not_installed_is_an_error(tmp_path: Path) -> None:
    try:
        import vfd.nic.dpdk  # type: ignore  # noqa: F401
    except ImportError:
        ended = checked(tmp_path, {"id": "ffff:1f:00.0", "backend": "dpdk"})
        assert ended.code == 3
        assert 'pciids[0].backend = "dpdk": this vfd has no such backend' in ended.err
    else:
        pytest.skip("the DPDK backend is installed: no backend is missing")
