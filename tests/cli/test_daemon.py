"""iplex against a real daemon with a real software NIC: every command, as its users type it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import IPLEX, Ended, Iplex, environment
from tests.cli.daemon import Daemon, running
from tests.cli.test_completion import in_bash

pytestmark = pytest.mark.root

SPOOFED = bytes.fromhex("ffffffffffff" + "0200000bad00" + "0800") + bytes(50)


@pytest.fixture(scope="module")
def used_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("vfd"), vfs=8) as daemon:
        yield daemon


@pytest.fixture
def daemon(used_daemon: Daemon) -> Daemon:
    """With eight VFs that are closed and nobody's, and no file, whatever the test before did."""
    used_daemon.empty()
    return used_daemon


@pytest.fixture
def ask(daemon: Daemon, iplex: Iplex) -> Iplex:
    """iplex with this daemon's socket."""

    def run(*arguments: str, **more: str | Path) -> Ended:
        return iplex(*arguments, VFD_SOCKET=str(daemon.socket), **more)

    return run


@pytest.fixture
def vm1(daemon: Daemon, ask: Iplex) -> str:
    """A configured VF: 1 of the PF."""
    daemon.write("vm1", daemon.vf(1, vm_mac="02:00:00:00:00:01"))
    assert ask("add", "vm1").code == 0
    return "vm1"


def closed(ask: Iplex, daemon: Daemon, vfid: int) -> bool:
    rows = json.loads(ask("show", f"{daemon.pf}:{vfid}", "--json").out)["rows"]
    return [row["state"] for row in rows] == ["closed"]


def test_add_takes_a_name_in_config_dir_with_or_without_json(daemon: Daemon, ask: Iplex) -> None:
    daemon.write("Instance_a/vm-2", daemon.vf(2))
    for name in ("Instance_a/vm-2", "Instance_a/vm-2.json"):
        added = ask("add", name)
        assert (added.code, added.err) == (0, "")
        assert f"added Instance_a/vm-2 on {daemon.pf}:2" in added.out
        assert ask("status", "Instance_a/vm-2").code == 0
        deleted = ask("delete", name)
        assert (deleted.code, deleted.err) == (0, "")
        assert closed(ask, daemon, 2)
        assert ask("status", "Instance_a/vm-2").code == 4
        daemon.write("Instance_a/vm-2", daemon.vf(2))


def test_add_takes_a_path_and_the_daemon_keeps_its_own_copy(
    daemon: Daemon, ask: Iplex, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(daemon.vf(3)))
    for spelling in ("./mine.json", "mine.json", str(mine)):
        added = ask("add", spelling)
        assert (added.code, added.err) == (0, "")
        kept = daemon.config_dir / "mine.json"
        assert json.loads(kept.read_text()) == daemon.vf(3)
        assert ask("delete", "mine").code == 0
        assert not kept.exists()
    assert mine.exists()


def test_a_path_into_config_dir_is_that_file_and_no_copy(daemon: Daemon, ask: Iplex) -> None:
    path = daemon.write("Instance_b/vm-4", daemon.vf(4))
    assert ask("add", str(path)).code == 0
    assert json.loads(ask("status", "Instance_b/vm-4", "--json").out)["vfid"] == 4
    assert not (daemon.config_dir / "vm-4.json").exists()
    assert ask("delete", "Instance_b/vm-4").code == 0
    assert not path.exists()


def test_a_name_where_a_file_of_that_name_is_here_is_still_a_name(
    daemon: Daemon, ask: Iplex, tmp_path: Path
) -> None:
    (tmp_path / "vm-5").write_text("not a configuration")
    daemon.write("vm-5", daemon.vf(5))
    assert ask("add", "vm-5").code == 0
    assert ask("delete", "vm-5").code == 0


def test_a_name_that_nobody_has_ends_with_4(ask: Iplex) -> None:
    for command in ("add", "delete", "status", "get", "export", "plan"):
        ended = ask(command, "nobody")
        assert (ended.code, ended.out) == (4, ""), command
        assert "nobody" in ended.err
    for line in (("show", "nobody"), ("caps", "nobody"), ("clear", "nobody"), ("show", "7:1")):
        assert ask(*line).code == 4, line


def test_a_refused_configuration_ends_with_3_tells_every_rule_and_changes_nothing(
    daemon: Daemon, ask: Iplex, vm1: str, tmp_path: Path
) -> None:
    bad = daemon.vf(6, vlans=[100, 5000], vm_mac="01:00:00:00:00:00", nosuch=1)
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    refused = ask("add", "./bad.json")
    assert (refused.code, refused.out) == (3, "")
    assert refused.err.startswith("iplex: 3 rules are broken. Nothing was changed\n")
    for field in ("vlans[1]", "vm_mac", "nosuch"):
        assert refused.err.count(f"{field} = ") == 1
    conflict = daemon.vf(6, vm_mac="02:00:00:00:00:01")
    (tmp_path / "conflict.json").write_text(json.dumps(conflict))
    refused = ask("add", "./conflict.json", "--json")
    problem = json.loads(refused.err)["problems"][0]
    assert (refused.code, problem["field"], problem["other"]) == (3, "vm_mac", vm1)
    assert closed(ask, daemon, 6)


@pytest.mark.usefixtures("vm1")
def test_one_broken_rule_is_told_once_and_a_vf_that_is_not_there_is_not_found(
    daemon: Daemon, ask: Iplex
) -> None:
    refused = ask("mirror", daemon.pf, "1", "all", "1")
    assert (refused.code, refused.err.count("no mirror of itself")) == (3, 1), refused.err
    for command in ("show", "clear"):
        ended = ask(command, f"{daemon.pf}:300")
        assert (ended.code, f"{daemon.pf}:300" in ended.err) == (4, True), ended
    ended = ask("show", f"{daemon.pf}:200")
    assert (ended.code, ended.out, f"{daemon.pf} has" in ended.err) == (4, "", True), ended


def test_adding_twice_ends_with_3(ask: Iplex, vm1: str) -> None:
    assert ask("add", vm1).code == 3


def test_update_says_what_changed_and_plan_says_it_before(
    daemon: Daemon, ask: Iplex, vm1: str
) -> None:
    daemon.write(vm1, daemon.vf(1, vm_mac="02:00:00:00:00:01", vlans=[101, 201]))
    planned = ask("plan", vm1)
    assert planned.code == 0
    assert "vlans: [101] → [101, 201]" in planned.out
    assert json.loads(ask("get", vm1, "--json").out)["in_force"]["vlans"] == [101]
    updated = ask("update", vm1)
    assert updated.code == 0
    assert [line.strip() for line in updated.out.splitlines()] == [
        f"updated vm1 on {daemon.pf}:1",
        f"~ {daemon.pf}:1 changes",
        "vlans: [101] → [101, 201]",
    ]
    assert json.loads(ask("get", vm1, "--json").out)["in_force"]["vlans"] == [101, 201]
    assert "nothing differed" in ask("update", vm1).out


def test_a_plan_that_would_be_refused_ends_with_3(daemon: Daemon, ask: Iplex) -> None:
    daemon.write("vm-bad", daemon.vf(200))
    planned = ask("plan", "vm-bad")
    assert planned.code == 3
    assert "vfid = 200" in planned.out


def test_get_marks_what_the_file_states(ask: Iplex, vm1: str) -> None:
    shown = ask("get", vm1)
    assert shown.code == 0
    assert "  = vlans: [101]" in shown.out
    assert "    allow_bcast: true" in shown.out
    assert "    min_rate: 0\n" in shown.out


def test_get_has_every_vlan_and_mac(daemon: Daemon, ask: Iplex) -> None:
    macs = [f"02:00:00:00:01:{n:02x}" for n in range(20)]
    daemon.write("long", daemon.vf(4, vlans=["1-40", 44], macs=macs))
    assert ask("add", "long").code == 0
    shown = ask("get", "long").out
    assert '= vlans: ["1-40", 44]\n' in shown
    assert f"= macs: {json.dumps(macs[1:])}\n" in shown
    assert f"≠ vm_mac: {macs[0]}  (asked null: the first of macs" in shown


def test_status_names_port_link_mac_and_file(daemon: Daemon, ask: Iplex, vm1: str) -> None:
    shown = ask("status", vm1).out
    for fact in (f"{daemon.pf}:1", "02:00:00:00:00:01", "vm1.json", "ok"):
        assert fact in shown


def test_export_gives_a_file_that_add_takes(
    daemon: Daemon, ask: Iplex, vm1: str, tmp_path: Path
) -> None:
    exported = ask("export", vm1)
    stated = json.loads(exported.out)
    assert stated.items() >= daemon.vf(1, vm_mac="02:00:00:00:00:01").items()
    assert ask("export", "--to", "backup").code == 0
    assert json.loads((tmp_path / "backup" / "vm1.json").read_text()) == stated
    assert ask("delete", vm1).code == 0
    assert ask("add", "backup/vm1.json").code == 0
    assert json.loads(ask("export", vm1).out) == stated


def test_show_all_has_a_line_for_the_pf_and_each_vf(daemon: Daemon, ask: Iplex, vm1: str) -> None:
    header, *lines = ask("show", "all").out.splitlines()
    assert header.split()[:5] == ["PORT", "NAME", "ADDRESS", "LINK", "SPEED"]
    ports = [line.split()[0] for line in lines if not line.startswith("!")]
    assert ports == [daemon.pf, *(f"{daemon.pf}:{vfid}" for vfid in range(8))]
    words = lines[2].split()
    assert words[:4] == [f"{daemon.pf}:1", vm1, f"{daemon.pf}v1", "up"]
    assert lines[1].split()[3] == "closed"
    assert ask("show").out.split()[:5] == header.split()[:5]


def test_show_takes_pfs_numbers_ports_and_names(daemon: Daemon, ask: Iplex, vm1: str) -> None:
    assert len(ask("show", "pfs").out.splitlines()) == 2
    by_number, by_id = ask("show", "0"), ask("show", daemon.pf)
    assert len(by_number.out.splitlines()) == len(by_id.out.splitlines()) == 1 + 9
    for one in ("0:1", f"{daemon.pf}:1", vm1):
        shown = ask("show", one)
        assert shown.code == 0
        assert shown.out.startswith(f"{daemon.pf}:1  {vm1}  {daemon.pf}v1  up")
        assert "101  trunk" in shown.out
    extended = ask("show", "extended").out
    assert len(re.findall(rf"^{daemon.pf}", extended, re.MULTILINE)) == 9


def test_spoofed_frames_are_shown_until_cleared(daemon: Daemon, ask: Iplex, vm1: str) -> None:
    def spoofed() -> int:
        rows = json.loads(ask("show", f"{daemon.pf}:1", "--json").out)["rows"]
        return int(rows[0]["counters"]["spoofed"])

    netdev = daemon.give_to_guest(1)
    before = spoofed()
    for _ in range(3):
        daemon.send(netdev, SPOOFED)
    assert spoofed() == before + 3
    line = next(x for x in ask("show", "all").out.splitlines() if f" {vm1} " in x)
    assert int(line.split()[13]) == before + 3
    cleared = ask("clear", f"{daemon.pf}:1")
    assert (cleared.code, spoofed()) == (0, 0)


def test_a_full_trunk_is_shown_and_written_as_one_range(daemon: Daemon, ask: Iplex) -> None:
    daemon.write("trunk", daemon.vf(3, vlans=["1-4094"], vm_mac="02:00:00:00:00:33"))
    assert ask("add", "trunk").code == 0
    block = ask("show", "trunk").out
    assert re.search(r"vlans +1-4094  trunk", block), block
    row = json.loads(ask("show", "extended", "--json").out)
    (shown,) = [one for one in row["rows"] if one["name"] == "trunk"]
    assert shown["extended"]["vlans"] == ["1-4094"]
    answer = json.loads(ask("get", "trunk", "--json").out)
    assert answer["in_force"]["vlans"] == ["1-4094"]
    assert "4093" not in ask("get", "trunk").out
    assert ask("mirror", daemon.pf, "3", "in", "7").code == 0  # its file is written anew
    assert json.loads((daemon.config_dir / "trunk.json").read_text())["vlans"] == ["1-4094"]
    assert "4093" not in ask("export").out


def test_mirror_is_set_shown_and_ended(daemon: Daemon, ask: Iplex, vm1: str) -> None:
    daemon.write("probe", daemon.vf(7))
    assert ask("add", "probe").code == 0
    done = ask("mirror", "0", "1", "in", "7")
    assert (done.code, done.err) == (0, "")
    header, line = ask("show", "mirrors").out.splitlines()
    assert header.split()[0] == "SOURCE"
    assert line.split() == [f"{daemon.pf}:1", vm1, "in", f"{daemon.pf}:7", "probe", "all"]
    assert ask("mirror", daemon.pf, "1", "in", "1").code == 3
    assert ask("mirror", daemon.pf, "1", "off").code == 0
    assert ask("show", "mirrors").out == "no mirrors\n"


def test_caps_say_of_every_attribute_what_enforces_it_or_why_not(
    daemon: Daemon, ask: Iplex
) -> None:
    from vfd.policy.values import VfRules

    shown = ask("caps", daemon.pf)
    assert shown.code == 0
    for attribute in VfRules.model_fields:
        assert re.search(rf"^    {attribute} +(yes|part|no) ", shown.out, re.MULTILINE), attribute


def test_vfs_that_are_in_use_go_only_by_force(daemon: Daemon, ask: Iplex) -> None:
    daemon.write("vm-6", daemon.vf(6))
    assert ask("add", "vm-6").code == 0
    daemon.give_to_guest(6)
    refused = ask("pf", "set", daemon.pf, "--vfs", "6")
    assert refused.code == 3
    assert "vm-6" in refused.err
    assert ask("delete", "vm-6").code == 0
    refused = ask("pf", "set", daemon.pf, "--vfs", "6")
    assert refused.code == 3, "a guest still holds VF 6"
    forced = ask("pf", "set", daemon.pf, "--vfs", "6", "--force")
    assert (forced.code, forced.err) == (0, "")
    assert len(ask("show", daemon.pf).out.splitlines()) == 1 + 7
    assert ask("pf", "set", daemon.pf, "--vfs", "8").code == 0
    assert len(ask("show", daemon.pf).out.splitlines()) == 1 + 9


@pytest.mark.usefixtures("vm1")
def test_a_mirror_that_was_none_is_not_said_to_have_ended(daemon: Daemon, ask: Iplex) -> None:
    set_up = ask("mirror", daemon.pf, "1", "in", "7")
    assert f"{daemon.pf}:1 is mirrored (in) to {daemon.pf}:7" in set_up.out
    assert "VF 7 has no configuration and is closed" in set_up.out
    mistaken = ask("mirror", daemon.pf, "1", "off", "6")
    assert f"{daemon.pf}:1 was not mirrored to {daemon.pf}:6" in mistaken.out
    ended = ask("mirror", daemon.pf, "1", "off", "7")
    assert f"{daemon.pf}:1 is no longer mirrored to {daemon.pf}:7" in ended.out
    assert f"{daemon.pf}:1 was not mirrored" in ask("mirror", daemon.pf, "1", "off").out


def test_a_file_that_was_kept_aside_is_not_taken_for_one_in_force(
    daemon: Daemon, ask: Iplex
) -> None:
    kept = daemon.config_dir / "vm-5.json-"
    kept.write_text(json.dumps(daemon.vf(5)))
    told = ask("add", str(kept))
    assert told.code == 4
    assert "only under a name that ends in .json" in told.err


def test_a_vf_that_comes_back_with_its_number_is_told(daemon: Daemon, ask: Iplex) -> None:
    daemon.write("vm-6", daemon.vf(6))
    assert ask("add", "vm-6").code == 0
    assert f"- {daemon.pf}:6 closes" in ask("pf", "set", daemon.pf, "--vfs", "1", "--force").out
    assert f"{daemon.pf} has 1 VF now" in ask("show").out
    assert f"+ {daemon.pf}:6 opens" in ask("pf", "set", daemon.pf, "--vfs", "8").out


def test_events_are_followed_filtered_and_end_with_ctrl_c(daemon: Daemon, ask: Iplex) -> None:
    following = subprocess.Popen(
        [IPLEX, "events", "--follow", "--since", "1h", "--json", "--name", "vm-3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(VFD_SOCKET=str(daemon.socket)),
    )
    try:
        for name, vfid in (("other", 2), ("vm-3", 3)):
            daemon.write(name, daemon.vf(vfid))
            assert ask("add", name).code == 0
        assert following.stdout is not None
        event = json.loads(following.stdout.readline())
        assert (event["name"], event["vfid"]) == ("vm-3", 3)
    finally:
        following.send_signal(signal.SIGINT)
        _, err = following.communicate(timeout=10)
    assert (following.returncode, err.strip()) == (130, b"")
    past = ask("events", "--since", "1h", "--kind", "added", "--name", "other")
    assert len(past.out.splitlines()) == 1
    assert f"{daemon.pf}:2 other" in past.out
    assert ask("events", "--since", "2100-01-01").out == ""


def test_events_of_a_pf_are_found_by_its_number(daemon: Daemon, ask: Iplex) -> None:
    assert ask("clear", "0").code == 0
    found = ask("events", "--pf", "0", "--kind", "cleared").out
    assert f"counters of {daemon.pf} and its VFs" in found
    assert found == ask("events", "--pf", daemon.pf, "--kind", "cleared").out
    assert ask("events", "--pf", "1").code == 4


def test_every_answer_is_json_when_asked_for(daemon: Daemon, ask: Iplex, vm1: str) -> None:
    for line in (
        "show all",
        "show pfs",
        "show extended",
        "show mirrors",
        f"show {daemon.pf}",
        f"show {daemon.pf}:1",
        f"status {vm1}",
        f"get {vm1}",
        f"export {vm1}",
        "export",
        f"plan {vm1}",
        f"update {vm1}",
        f"caps {daemon.pf}",
        f"mirror {daemon.pf} 1 off",
        f"clear {daemon.pf}",
        f"pf set {daemon.pf} --vfs 8",
        "ping",
        "dump",
        "verbose 1",
        "cpu_alarm 15%",
        f"delete {vm1}",
        f"add {vm1}",
    ):
        if line.startswith("add"):
            daemon.write(vm1, daemon.vf(1))
        for words in ([*line.split(), "--json"], ["--json", *line.split()]):
            ended = ask(*words)
            assert (ended.code, ended.err) == (0, ""), words
            json.loads(ended.out)
            if line.startswith(("delete", "add")):
                break


def test_a_terminal_gets_colours_and_a_fit_and_a_pipe_gets_neither(
    daemon: Daemon, ask: Iplex, iplex_on_terminal: Iplex
) -> None:
    where = {"VFD_SOCKET": str(daemon.socket)}
    assert "\x1b" not in ask("show", "all").out
    assert "\x1b[" in ask("--color=always", "show", "all").out
    shown = iplex_on_terminal("show", "all", width=80, **where)
    assert (shown.code, "\x1b[" in shown.out) == (0, True)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown.out)
    assert max(map(len, plain.splitlines())) <= 80
    assert "hidden for want of width" in plain
    wide = iplex_on_terminal("show", "all", width=200, NO_COLOR="1", **where)
    assert "\x1b" not in wide.out
    assert "hidden" not in wide.out


def test_a_reader_that_has_seen_enough_is_no_error(daemon: Daemon) -> None:
    command = f"{IPLEX} show extended | head -1"
    ended = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env=environment(VFD_SOCKET=str(daemon.socket)),
    )
    assert ended.stderr == ""
    assert ended.stdout.startswith(daemon.pf)


@pytest.mark.usefixtures("vm1")
def test_a_mirror_target_is_shown_as_one(daemon: Daemon, ask: Iplex) -> None:
    daemon.write("probe", daemon.vf(5))
    assert ask("add", "probe").code == 0
    assert "receives copies" not in ask("show", "probe").out
    assert ask("mirror", daemon.pf, "1", "all", "5").code == 0
    assert "receives copies of 1" in ask("show", "probe").out
    row = json.loads(ask("show", "extended", "--json").out)["rows"]
    targets = {r["vfid"]: r["extended"]["mirror_target_of"] for r in row if r["kind"] == "vf"}
    assert targets == {vfid: [1] if vfid == 5 else [] for vfid in targets}
    assert ask("mirror", daemon.pf, "1", "off", "5").code == 0
    assert "receives copies" not in ask("show", "probe").out


def completed(line: str, words: list[str], **where: str) -> list[str]:
    """What bash offers. On a busy machine the daemon's names may come too late for one TAB."""
    deadline = time.monotonic() + 10
    while not (offered := in_bash(line, words, **where)) and time.monotonic() < deadline:
        pass
    return offered


def test_names_pfs_and_ports_are_completed_from_the_daemon(daemon: Daemon, vm1: str) -> None:
    where = {"VFD_SOCKET": str(daemon.socket)}
    assert completed("iplex status ", ["iplex", "status", ""], **where) == [vm1]
    assert completed("iplex caps ", ["iplex", "caps", ""], **where) == [daemon.pf]
    words = ["iplex", "show", daemon.pf, ":"]
    assert completed(f"iplex show {daemon.pf}:", words, **where) == [str(n) for n in range(8)]
    other = ["iplex", "--socket", str(daemon.socket), "clear", "c"]
    assert completed(" ".join(other), other, VFD_SOCKET="/nonexistent") == [daemon.pf]


@pytest.mark.parametrize("name", ["a;reboot", "a$(reboot)", "a`reboot`", "a'b", "a b", "a|b&"])
def test_a_name_that_a_shell_would_act_on_is_never_offered(
    daemon: Daemon, ask: Iplex, vm1: str, name: str
) -> None:
    """A shell puts it on root's command line as it stands."""
    daemon.write("odd", daemon.vf(3, name=name))
    assert ask("add", "odd").code == 0
    where = {"VFD_SOCKET": str(daemon.socket)}
    assert completed("iplex delete ", ["iplex", "delete", ""], **where) == [vm1]


def test_a_file_that_is_not_in_force_is_told_by_show_and_status(daemon: Daemon, ask: Iplex) -> None:
    path = daemon.write("torn", {})
    path.write_text('{"pciid": "')
    daemon.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while "torn.json is not in force" not in ask("show", "all").out:
        assert time.monotonic() < deadline
    told = ask("status", "torn")
    assert told.code == 4
    assert "not JSON: Unterminated string starting at line 1" in told.err
    mended = ask("update", "torn")
    assert mended.code == 4
    assert "torn.json is not in force" in mended.err
    assert "`iplex add torn` puts it in force" in mended.err
    assert ask("delete", "torn").code == 0
    assert not path.exists()
