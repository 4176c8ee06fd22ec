"""What a tenant puts into its own folder of config_dir costs nobody else."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vfd.config.tree import MAX_DEPTH, MAX_FILES
from vfd.daemon.reading import MAX_BAD

from .harness import Vfd

TENANT = 4242
BOUNDS = ((MAX_BAD, "bad files"), (MAX_FILES, "files and folders"))


def tenants_folder(vfd: Vfd) -> Path:
    folder = vfd.config_dir / "tenant"
    folder.mkdir()
    os.chown(folder, TENANT, TENANT)
    return folder


def bad_files(vfd: Vfd) -> dict[str, list[str]]:
    found = vfd.get("/v1/health")["bad_files"]
    return {b["file"]: [p["rule"] for p in b["problems"]] for b in found}


def test_folders_that_are_nested_without_end_are_one_bad_entry(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd()
    vfd.put_file("vm1", vfd.vf(0))
    deep = os.open(tenants_folder(vfd), os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=deep)
        inner = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)
    vfd.start()
    for _ in range(2):
        [(file, [rule])] = bad_files(vfd).items()
        assert file == "tenant" + "/d" * MAX_DEPTH
        assert "nested more than 16 deep" in rule
        assert vfd.row(0)["name"] == "vm1"
        vfd.reload()
    # shutil.rmtree, which pytest cleans up with, goes by recursion
    subprocess.run(["rm", "-rf", str(vfd.config_dir / "tenant")], check=True)


def test_odd_things_in_a_folder_are_bad_entries_and_opened_by_nobody(vfd: Vfd) -> None:
    folder = tenants_folder(vfd)
    (folder / "one.json").symlink_to("two.json")
    (folder / "two.json").symlink_to("one.json")
    (folder / "up.json").symlink_to("../tenant/../vm1.json")
    os.mkfifo(folder / "pipe.json")
    os.mknod(folder / "null.json", 0o20666, os.makedev(1, 3))
    with (folder / "huge.json").open("wb") as huge:
        huge.truncate(1 << 40)
    vfd.reload()
    told = bad_files(vfd)
    assert told.keys() == {f"tenant/{n}.json" for n in ("one", "two", "up", "pipe", "null", "huge")}
    assert told["tenant/null.json"] == ["can't be read: not a regular file"]
    assert "1 MiB" in told["tenant/huge.json"][0]


def crowd(folder: Path, count: int, text: str) -> None:
    for number in range(count):
        (folder / f"f{number:05}.json").write_text(text)


@pytest.mark.measured
@pytest.mark.parametrize("kind", ["torn", "wrong", "good"])
def test_twenty_thousand_files_of_a_tenant_hold_up_nobody(vfd: Vfd, kind: str) -> None:
    vfd.add("vm1", vfd.vf(0))
    vfd.add("tenant/own", vfd.vf(1))
    folder = vfd.config_dir / "tenant"
    os.chown(folder, TENANT, TENANT)
    texts = {
        "torn": "{",
        "wrong": json.dumps({**vfd.vf(2), **{f"field{n}": n for n in range(20)}}),
        "good": json.dumps(vfd.vf(2)),
    }
    flip = [0]

    def update() -> None:
        flip[0] += 1
        config = vfd.vf(0, vlans=[100 + flip[0] % 2])
        assert vfd.ask("PUT", "/v1/vfs/vm1", {"config": config})[0] == 200

    def ping() -> None:
        vfd.get("/v1/version")

    def times(until: Callable[[], bool], at_least: int) -> tuple[list[float], list[float]]:
        took: tuple[list[float], list[float]] = ([], [])
        while len(took[0]) < at_least or not until():
            for ask, those in zip((update, ping), took, strict=True):
                began = time.perf_counter()
                ask()
                those.append(time.perf_counter() - began)
        return took

    baseline = times(lambda: True, 20)
    crowd(folder, 20_000, texts[kind])
    assert vfd.process is not None
    before = len(vfd.events("reloaded"))
    began = time.perf_counter()
    vfd.process.send_signal(signal.SIGHUP)
    meanwhile = times(lambda: len(vfd.events("reloaded")) > before, 5)
    took = time.perf_counter() - began
    print(f"\n{kind}: reload {took:.2f} s")
    for what, alone, beside in zip(("update", "ping"), baseline, meanwhile, strict=True):
        usual, mean, worst = (
            1e3 * of for of in (statistics.median(alone), statistics.fmean(beside), max(beside))
        )
        print(f"  {what}: {usual:.1f} ms alone, {mean:.1f} ms meanwhile, at worst {worst:.1f} ms")
        assert mean < 7 * usual
        assert worst < 1e3 * took / 2, "one wait for all of the reload is what a user remembers"
    told = bad_files(vfd)
    assert len(told) <= MAX_BAD + 2
    rules = [rule for rules in told.values() for rule in rules]
    assert any(f"more than {n} {what}" in r for r in rules for n, what in BOUNDS)
    assert vfd.row(1)["state"] == "ok"
