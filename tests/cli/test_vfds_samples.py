"""Files as VFd's manuals, samples and OpenStack have them go through everything that reads files:
no traceback, no wrong reason, and nothing that is passed over in silence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Ended, run_program
from tests.cli.daemon import Daemon, running

from vfd.config.json_text import parse_object

CORPUS = Path(__file__).parents[1] / "config" / "corpus"
VFS = sorted((CORPUS / "vf").iterdir())
MAINS = sorted((CORPUS / "main").iterdir())
BAD = sorted((CORPUS / "bad").iterdir())


def run(program: str, *line: str | Path, text: str | None = None, **more: str) -> Ended:
    ended = run_program(program, *line, text=text, env=more)
    assert "Traceback" not in ended.err + ended.out
    assert "is a fault of" not in ended.err + ended.out
    return ended


def test_good_ones_are_good_and_bad_ones_are_bad_by_name() -> None:
    good = run("iplex", "check", "--json", *VFS, *MAINS)
    assert (good.code, json.loads(good.out)["problems"]) == (0, []), good.out
    bad = json.loads(run("iplex", "check", "--json", *BAD).out)
    assert {one["file"] for one in bad["problems"]} == set(map(str, BAD))


@pytest.mark.parametrize("sample", MAINS, ids=lambda path: path.name)
def test_vfd_check_takes_every_main_file(sample: Path, tmp_path: Path) -> None:
    """With its folders here, and the PFs that this host doesn't have."""
    config, _ = parse_object(sample.read_bytes(), file=sample.name)
    (tmp_path / "vfs").mkdir()
    config |= {"config_dir": str(tmp_path / "vfs"), "log_dir": str(tmp_path)}
    (tmp_path / "vfd.cfg").write_text(json.dumps(config))
    ended = run("vfd", "--check", "-p", tmp_path / "vfd.cfg")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("on this host: ") == len(config["pciids"])


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """What VFd's main files have, but for the PFs, which are software here."""
    main: dict[str, Any] = {}
    pf: dict[str, Any] = {}
    for sample in MAINS:
        config, _ = parse_object(sample.read_bytes(), file=sample.name)
        for entry in config.pop("pciids"):
            pf |= {} if isinstance(entry, str) else entry
        main |= config
    for own in ("log_dir", "config_dir", "pid_fname", "stats_path", "mtu"):
        main.pop(own, None)
    for own in ("id", "vfs_count"):
        pf.pop(own)
    with running(tmp_path_factory.mktemp("vfd"), vfs=32, main=main, pf=pf) as daemon:
        yield daemon


@pytest.mark.root
def test_a_daemon_takes_all_that_main_files_have_and_tells_what_has_no_effect(
    daemon: Daemon,
) -> None:
    told = daemon.output.read_text()
    for field in ("fifo", "init_log_level", "cpu_mask", "numa_mem", "dpdk_log_level", "pf_driver",
                  "vf_driver", "hw_strip_crc", "huge"):  # fmt: skip
        assert field in told, field


@pytest.mark.root
@pytest.mark.parametrize("sample", VFS, ids=lambda path: path.name)
def test_a_daemon_takes_every_vfs_file(daemon: Daemon, sample: Path) -> None:
    config, _ = parse_object(sample.read_bytes(), file=sample.name)
    config["pciid"] = daemon.pf
    how = {"VFD_SOCKET": str(daemon.socket)}
    daemon.write(sample.stem, config)
    planned = run("iplex", "plan", sample.stem, **how)
    added = run("iplex", "add", sample.stem, **how)
    assert (planned.code, added.code, added.err) == (0, 0, "")
    try:
        name = config.get("name", sample.stem)
        assert json.loads(run("iplex", "status", name, "--json", **how).out)["state"] == "ok"
        exported = run("iplex", "export", name, **how)
        assert run("iplex", "update", "-", text=exported.out, **how).code in (0, 2)
        shown = run("iplex", "get", name, **how).out
        for field in config.keys() - {"insert_stag", "mac", "antispoof_mac", "comment", "comments"}:
            if field in ("pciid", "vfid", "name", "start_cb", "stop_cb") or not config[field]:
                continue
            assert f"= {field}:" in shown or f"≠ {field}:" in shown or field == "mirror", field
    finally:
        assert run("iplex", "delete", config.get("name", sample.stem), **how).code == 0
