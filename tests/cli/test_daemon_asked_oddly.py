"""What operators ask a daemon that isn't the plain case: pipes, moves, names that look like files,
callbacks alone, more guarantees than the link has."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Ended, Iplex, run_program
from tests.cli.daemon import Daemon, running

from vfd.api.client import ApiError, Client

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    qos = {"enable_qos": True}
    pf = {"vf_oversubscription": True, "link_speed": "1Gbps"}
    with running(tmp_path_factory.mktemp("vfd"), vfs=4, main=qos, pf=pf) as daemon:
        yield daemon


@pytest.fixture
def ask(daemon: Daemon, iplex: Iplex) -> Iterator[Iplex]:
    """iplex with this daemon's socket; the VFs are closed again afterwards."""

    def run(*arguments: str, **more: str | Path) -> Ended:
        return iplex(*arguments, VFD_SOCKET=str(daemon.socket), **more)

    yield run
    for name in json.loads(run("export").out):
        assert run("delete", name).code == 0


def piped(daemon: Daemon, text: str, *arguments: str) -> Ended:
    where = {"VFD_SOCKET": str(daemon.socket)}
    return run_program("iplex", *arguments, text=text, timeout=30, env=where)


def test_a_configuration_comes_through_a_pipe(daemon: Daemon, ask: Iplex) -> None:
    for source in ("-", "/dev/stdin", "/proc/self/fd/0"):
        added = piped(daemon, json.dumps(daemon.vf(1)), "add", source, "--name", "piped")
        assert (added.code, added.err) == (0, "")
        assert "added piped" in added.out
        changed = json.dumps(daemon.vf(1, vlans=[7], name="piped"))
        assert "[101] → [7]" in piped(daemon, changed, "plan", source).out
        assert piped(daemon, changed, "update", source).code == 0
        assert ask("delete", "piped").code == 0


def test_a_named_pipe_and_a_path_without_its_suffix_are_taken(
    daemon: Daemon, ask: Iplex, tmp_path: Path
) -> None:
    (tmp_path / "vm1.json").write_text(json.dumps(daemon.vf(1)))
    for spelling in ("./vm1", str(tmp_path / "vm1")):
        assert "added vm1 " in ask("add", spelling).out
        assert ask("delete", "vm1").code == 0
    inside = daemon.write("Instance_x/port-1", daemon.vf(2))
    assert "added Instance_x/port-1 " in ask("add", str(inside.with_suffix(""))).out


def test_a_vf_that_is_called_like_a_file_is_planned_updated_and_deleted(
    daemon: Daemon, ask: Iplex
) -> None:
    daemon.write("x.json", daemon.vf(1))
    daemon.write("y", daemon.vf(2, name="another"))
    assert "added x.json on" in ask("add", "x.json").out
    assert ask("add", "y").code == 0
    for name, file, vfid in (("x.json", "x.json", 1), ("another", "y", 2)):
        daemon.write(file, daemon.vf(vfid, vlans=[9], **({} if file == name else {"name": name})))
        assert f"[{100 + vfid}] → [9]" in ask("plan", name).out
        assert f"updated {name} on" in ask("update", name).out
        assert ask("delete", name).code == 0


def test_an_update_moves_a_policy_to_another_guest_only_where_that_is_said(
    daemon: Daemon, ask: Iplex
) -> None:
    daemon.write("vm1", daemon.vf(1))
    assert ask("add", "vm1").code == 0
    daemon.write("vm1", daemon.vf(2))
    for command in ("update", "plan"):
        refused = ask(command, "vm1")
        said = refused.err + refused.out
        assert (refused.code, "vm1 is VF 1" in said, "--move" in said) == (3, True, True), said
    with pytest.raises(ApiError) as told:
        Client(str(daemon.socket)).put("/v1/vfs/vm1", {"file": "vm1"})
    assert '"move": true' in str(told.value)
    assert json.loads(ask("status", "vm1", "--json").out)["vfid"] == 1
    planned = ask("plan", "vm1", "--move")
    assert (planned.code, f"- {daemon.pf}:1 closes" in planned.out) == (0, True)
    moved = ask("update", "vm1", "--move")
    assert (moved.code, f"+ {daemon.pf}:2 opens" in moved.out) == (0, True), moved
    assert json.loads(ask("status", "vm1", "--json").out)["vfid"] == 2


def test_a_callback_that_changes_is_told_although_no_nic_has_it(daemon: Daemon, ask: Iplex) -> None:
    daemon.write("vm1", daemon.vf(1, start_cb="/bin/true"))
    assert ask("add", "vm1").code == 0
    daemon.write("vm1", daemon.vf(1, stop_cb="/bin/true --last"))
    planned = ask("plan", "vm1")
    assert planned.out.startswith("would update:\n")
    for out in (planned.out, ask("update", "vm1").out):
        assert "start_cb: /bin/true → null" in out
        assert "stop_cb: null → /bin/true --last" in out
    assert "would change nothing" in ask("plan", "vm1").out
    daemon.write("vm1", daemon.vf(1, vlans=[3], stop_cb="/bin/false"))
    told = ask("plan", "vm1").out
    assert (told.count("changes"), "[101] → [3]" in told, "/bin/false" in told) == (1, True, True)


def test_shares_are_shown_whole_and_as_people_read_them(daemon: Daemon, ask: Iplex) -> None:
    shares = [{"priority": n, "share": 12.5} for n in range(4)]
    daemon.write("vm1", daemon.vf(1, queues=shares))
    assert ask("add", "vm1").code == 0
    shown = ask("get", "vm1").out
    each = "class 0: 12.5 %, class 1: 12.5 %, class 2: 12.5 %, class 3: 12.5 %"
    assert f"= queues: {each}\n" in shown
    assert "…" not in shown


def test_what_was_scaled_says_so_wherever_the_vf_is_shown(daemon: Daemon, ask: Iplex) -> None:
    for vfid in (1, 2):
        shares = [{"priority": 0, "share": 80}]
        daemon.write(f"vm{vfid}", daemon.vf(vfid, min_rate="800Mbps", queues=shares))
        assert ask("add", f"vm{vfid}").code == 0
    daemon.write("vm3", daemon.vf(3))
    assert ask("add", "vm3").code == 0
    for command in ("get", "status"):
        shown = ask(command, "vm1").out
        assert "scaled by 0.625, as the PF's guarantees add up to more than its link" in shown
        assert "class 0 by 0.625" in shown
        assert "own steps" not in shown
        assert "scaled" not in ask(command, "vm3").out.split("queues")[0]
    for what in ("show all", f"show {daemon.pf}:1", "show vm2", "show extended"):
        shown = ask(*what.split()).out
        assert "guarantee scaled by 0.625" in shown, what
        assert "share of class 0 scaled by 0.625" in shown, what
    table = ask("show", "all").out
    assert f"{daemon.pf}:1-2 (2 VFs): guarantee scaled by 0.625" in table
    rows = json.loads(ask("show", "all", "--json").out)["rows"]
    assert [row["scale"] for row in rows if row["kind"] == "vf"] == [1, 0.625, 0.625, 1]
    assert rows[0]["speed"] == 1_000_000_000
    assert " 1G " in table.splitlines()[1]


def test_a_name_that_is_no_text_is_one_that_nobody_has(ask: Iplex) -> None:
    for command in ("status", "delete", "get", "show", "add"):
        ended = ask(command, os.fsdecode(b"\xff"))
        assert ended.code in (2, 3, 4), (command, ended)
        assert "Traceback" not in ended.err
        assert "fault" not in ended.err, ended


def test_a_warning_is_told_once_by_the_name_that_the_file_uses(daemon: Daemon, ask: Iplex) -> None:
    daemon.write("vm1", daemon.vf(1, mirror={"target": 2, "vlans": [5]}))
    told = ask("plan", "vm1").out
    assert told.count("no frame of it will be copied") == 1
    assert told.count("VF 2 has no configuration") == 1
    assert "mirror[0]" not in told


def test_numbers_names_and_folders_without_end_are_told_in_a_line(
    daemon: Daemon, ask: Iplex
) -> None:
    daemon.write("vm1", daemon.vf(1))
    assert ask("add", "vm1").code == 0
    nines = "9" * 5000
    for line, code in (
        (("show", nines), 2),
        (("clear", f"{nines}:1"), 2),
        (("mirror", nines, "0", "in", "1"), 2),
        (("events", "--pf", nines), 0),
        (("cpu_alarm", nines), 2),
        (("verbose", nines), 2),
        (("status", nines), 2),
        (("status", "a\nb"), 2),
        (("export", "--to", nines), 4),
        (("export", "--to", "/proc/nosuch"), 4),
        (("plan", os.fsdecode(b"\xff")), 4),
        (("update", os.fsdecode(b"\xff")), 4),
    ):
        ended = ask(*line)
        assert ended.code == code, (line[0], ended)
        assert "is a fault of" not in ended.err
        assert len(ended.err) < 1500
