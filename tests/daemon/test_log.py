"""The log is kept as long as was asked, a line is a line, counters and CPU use are reported."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from .harness import Vfd, wait_for


@pytest.mark.parametrize(("keep", "kept"), [(3, {1, 2, 3}), (0, set()), (30, {1, 2, 3, 4, 9})])
def test_log_files_are_kept_for_log_keep_days(
    make_vfd: Callable[..., Vfd], keep: int, kept: set[int]
) -> None:
    vfd = make_vfd(log_keep=keep, pciids=[])
    folder = vfd.folder / "log"
    folder.mkdir()
    today = datetime.now(UTC).date()
    day = {age: (today - timedelta(days=age)).isoformat() for age in (1, 2, 3, 4, 9, 100)}
    for age in (2, 3, 4, 9, 100):
        (folder / f"vfd.log.{day[age]}").write_text("{}\n")
    (folder / "vfd.log.mine").write_text("not a file of the log")
    (folder / "vfd.log").write_text('{"text": "of yesterday"}\n')
    yesterday = time.time() - 86400
    os.utime(folder / "vfd.log", (yesterday, yesterday))
    vfd.start()
    assert {p.name for p in folder.iterdir()} == {
        "vfd.log",
        "vfd.log.mine",
        *(f"vfd.log.{day[age]}" for age in kept),
    }
    if 1 in kept:
        assert "of yesterday" in (folder / f"vfd.log.{day[1]}").read_text()
    assert "of yesterday" not in (folder / "vfd.log").read_text()


def test_nobody_can_write_a_line_of_their_own_into_the_log(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd(pciids=[])
    vfd.start(JOURNAL_STREAM="1:1")
    forged = "%0A%3C3%3Eforged%1B%5B2J%C2%9B2J%E2%80%AE"
    assert vfd.ask("DELETE", f"/v1/vfs/a{forged}")[0] in (400, 404)
    assert vfd.ask("PUT", f"/v1/{forged}", {})[0] == 404
    told = wait_for(lambda: [line for line in vfd.output().splitlines() if "forged" in line])
    assert all(line.startswith("<6>") for line in told)
    assert "\\u001b[2J" in told[0]
    written = (vfd.folder / "log/vfd.log").read_text() + vfd.output()
    assert not {"\x1b", "\x9b", "\u202e"} & set(written)
    for line in (vfd.folder / "log/vfd.log").read_text().splitlines():
        json.loads(line)


@pytest.mark.measured
def test_a_daemon_that_uses_more_cpu_than_cpu_alarm_says_so(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd(pciids=[], cpu_alarm="5%", cpu_alarm_type="CRI:")
    vfd.look_every(0.5)
    vfd.start()
    vfd.get("/v1/health")

    def busy() -> bool:
        for _ in range(50):
            vfd.get("/v1/dump")
        return bool(vfd.events("cpu-alarm"))

    wait_for(busy, 20)
    [told, *_] = vfd.events("cpu-alarm")
    assert told["level"] == "warning"
    assert told["text"].startswith("CRI: the daemon used ")
    assert told["data"]["used"] > 0.05
    assert "above 5%" in vfd.ask("PUT", "/v1/cpu_alarm", {"percent": 1})[1]["detail"]
    assert vfd.ask("PUT", "/v1/cpu_alarm", {"percent": 0})[0] == 200
    vfd.looks()
    before = len(vfd.events("cpu-alarm"))
    busy()
    vfd.looks()
    assert len(vfd.events("cpu-alarm")) == before


def test_counters_are_in_stats_path_while_it_is_named(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd()
    path = vfd.folder / "deep/stats"
    vfd.main["stats_path"] = str(path)
    vfd.write_main()
    vfd.look_every(0.3)
    vfd.start()
    vfd.add("vm1", vfd.vf(2))

    def named() -> list[dict[str, object]]:
        if not path.exists():
            return []
        return [p for p in json.loads(path.read_text())["ports"] if p["name"] == "vm1"]

    [port] = wait_for(named)
    assert (port["pf"], port["vfid"]) == (vfd.pf, 2)
    assert port["counters"] == vfd.row(2)["counters"]
    assert sorted(p.name for p in path.parent.iterdir()) == ["stats"]
    del vfd.main["stats_path"]
    vfd.write_main()
    vfd.reload()
    vfd.looks()
    path.unlink()
    vfd.looks()
    assert not path.exists()


def test_what_a_log_is_kept_as_follows_the_main_file_at_a_reload(vfd: Vfd) -> None:
    def lines(folder: str) -> list[dict[str, str]]:
        path = vfd.folder / folder / "vfd.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    vfd.main.update(log_level=2, log_dir=str(vfd.folder / "elsewhere"))
    vfd.write_main()
    vfd.reload()
    before = len(lines("log"))
    vfd.get("/v1/vfs")
    wait_for(lambda: "GET /v1/vfs 200" in [line["text"] for line in lines("elsewhere")])
    assert len(lines("log")) == before
    vfd.main.update(log_level=0)
    vfd.write_main()
    vfd.reload()
    vfd.add("quiet", vfd.vf(0, guest_macs="listed"))
    vfd.get("/v1/vfs")
    assert not [line for line in lines("elsewhere") if "quiet" in str(line)]


def test_a_level_set_by_hand_outlives_a_reload_that_does_not_change_it(vfd: Vfd) -> None:
    vfd.ask("PUT", "/v1/verbose", {"level": "debug"})
    vfd.main.update(delete_keep=True)
    vfd.write_main()
    vfd.reload()
    vfd.get("/v1/mirrors")
    wait_for(lambda: "GET /v1/mirrors 200" in (vfd.folder / "log/vfd.log").read_text())
