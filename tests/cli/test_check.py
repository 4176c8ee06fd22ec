"""``iplex check`` finds what is wrong with files, without a daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Iplex

GOOD: dict[str, Any] = {"pciid": "0000:07:00.0", "vfid": 0, "vlans": [100], "guest_macs": "listed"}


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_good_file_ends_with_0(iplex: Iplex, tmp_path: Path) -> None:
    ended = iplex("check", str(write(tmp_path / "vm1.json", GOOD)))
    assert (ended.code, ended.out, ended.err) == (0, "1 file good\n", "")


def test_what_is_no_regular_file_is_refused_at_once(iplex: Iplex, tmp_path: Path) -> None:
    """A pipe that nobody writes to would hold ``check`` up, /dev/zero would fill the memory."""
    os.mkfifo(tmp_path / "pipe.json")
    large = write(tmp_path / "large.json", " " * ((1 << 20) + 1))
    for path, rule in (
        (tmp_path / "pipe.json", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (large, "at most 1 MiB"),
    ):
        ended = iplex("check", str(path))
        assert (ended.code, rule in ended.out) == (3, True), ended
    ended = iplex("check", str(tmp_path / "nothing.json"))
    assert (ended.code, "No such file" in ended.err) == (4, True), ended


def test_every_broken_rule_is_told_with_file_field_value_and_rule(
    iplex: Iplex, tmp_path: Path
) -> None:
    bad = GOOD | {"vlans": [100, 4095], "vm_mac": "01:00:5e:00:00:01", "vlan": 1, "rate": 2}
    path = write(tmp_path / "vm1.json", bad)
    ended = iplex("check", str(path))
    assert ended.code == 3
    for field, value in (
        ("vlans[1]", "4095"),
        ("vm_mac", "01:00:5e"),
        ("vlan", "1"),
        ("rate", "2"),
    ):
        lines = [line for line in ended.out.splitlines() if f"{path}: {field} = " in line]
        assert len(lines) == 1, ended.out
        assert value in lines[0]
    assert "here it is called vlans" in ended.out
    assert ended.out.endswith("4 problems in 1 of 1 file\n")


def test_json_has_the_same_problems(iplex: Iplex, tmp_path: Path) -> None:
    path = write(tmp_path / "vm1.json", GOOD | {"vlans": [4095]})
    ended = iplex("check", "--json", str(path))
    answer = json.loads(ended.out)
    assert (ended.code, answer["ok"], answer["files"]) == (3, False, [str(path)])
    assert [(p["file"], p["field"], p["value"]) for p in answer["problems"]] == [
        (str(path), "vlans[0]", "4095")
    ]


def test_conflicts_between_files_of_a_folder_name_the_other_vf(
    iplex: Iplex, tmp_path: Path
) -> None:
    write(tmp_path / "c" / "a.json", GOOD | {"vm_mac": "02:00:00:00:00:01"})
    write(tmp_path / "c" / "Instance_x" / "b.json", GOOD | {"vfid": 1})
    write(tmp_path / "c" / "z.json", GOOD | {"vm_mac": "02:00:00:00:00:01", "vfid": 2})
    write(tmp_path / "c" / "not-a-config.txt", "")
    ended = iplex("check", str(tmp_path / "c"))
    assert ended.code == 3
    problem, summary = ended.out.splitlines()
    assert problem.startswith(f'error {tmp_path}/c/z.json: vm_mac = "02:00:00:00:00:01"')
    assert " a " in problem
    assert summary == "1 problem in 1 of 3 files"


def test_a_mac_listed_by_one_file_and_forced_by_another_is_a_conflict_that_names_both(
    iplex: Iplex, tmp_path: Path
) -> None:
    macs = ["02:00:00:00:00:01", "02:00:00:00:00:02"]
    lists = write(tmp_path / "lists.json", GOOD | {"macs": macs})
    for mac, path in zip(macs, ("macs[0]", "macs[1]"), strict=True):
        forces = write(tmp_path / "forces.json", GOOD | {"vm_mac": mac, "vfid": 1})
        ended = iplex("check", str(lists), str(forces))
        assert ended.code == 3
        assert f'{forces}: vm_mac = "{mac}"' in ended.out
        assert f"lists owns this one (its {path})" in ended.out


def test_a_reserved_mac_is_told_where_the_main_configuration_is_named(
    iplex: Iplex, tmp_path: Path
) -> None:
    pf = {"id": GOOD["pciid"], "reserved_macs": ["00-00-5E-00-01-00/40"]}
    main = write(tmp_path / "vfd.cfg", {"pciids": [pf], "config_dir": str(tmp_path / "none")})
    router = write(tmp_path / "vm1.json", GOOD | {"macs": ["00:00:5e:00:01:07"]})
    ended = iplex("check", "--conf", str(main), str(router))
    assert ended.code == 3
    assert f'{router}: macs[0] = "00:00:5e:00:01:07": reserved_macs of' in ended.out
    assert "00:00:5e:00:01:00/40" in ended.out
    write(router, GOOD | {"macs": ["00:00:5e:00:01:07"], "trust": True})
    assert iplex("check", "--conf", str(main), str(router)).code == 0
    write(main, {"pciids": [{**pf, "reserved_macs": ["00:00:5e", "02::/64"]}]})
    ended = iplex("check", str(main))
    assert ended.code == 3, ended
    assert "pciids[0].reserved_macs[0]" in ended.out
    assert "pciids[0].reserved_macs[1]" in ended.out


def test_a_conflict_names_the_field_as_its_file_spells_it(iplex: Iplex, tmp_path: Path) -> None:
    mac = "02:00:00:00:00:07"
    write(tmp_path / "a.json", GOOD | {"mac": mac})
    write(tmp_path / "b.json", GOOD | {"mac": mac, "vfid": 1})
    told = iplex("check", str(tmp_path), "--json")
    problems = json.loads(told.out)["problems"]
    assert {problem["field"] for problem in problems} == {"mac"}


def test_what_is_wrong_within_a_file_hides_no_conflict_with_others(
    iplex: Iplex, tmp_path: Path
) -> None:
    mac = "02:00:00:00:00:01"
    good = write(tmp_path / "a.json", GOOD | {"vm_mac": mac})
    bad = write(tmp_path / "b.json", GOOD | {"vm_mac": mac, "vlans": [5, 5], "rate": 2, "name": ""})
    ended = iplex("check", "--json", str(good), str(bad))
    told = [(p["file"], p["field"], p["other"]) for p in json.loads(ended.out)["problems"]]
    assert sorted(told, key=str) == [
        (str(bad), "name", None),
        (str(bad), "rate", None),
        (str(bad), "vfid", "a"),
        (str(bad), "vlans", None),
        (str(bad), "vm_mac", "a"),
    ]


def test_without_a_main_file_a_pf_may_have_8_traffic_classes(iplex: Iplex, tmp_path: Path) -> None:
    shares = [{"priority": priority, "share": 10} for priority in range(8)]
    path = write(tmp_path / "vm1.json", GOOD | {"queues": shares})
    assert iplex("check", str(path)).code == 0
    conf = write(tmp_path / "vfd.cfg", {"pciids": ["0000:07:00.0"]})
    ended = iplex("check", "--conf", str(conf), str(path))
    assert (ended.code, "no such traffic class" in ended.out) == (3, True)


def test_two_files_for_one_vf_are_a_conflict(iplex: Iplex, tmp_path: Path) -> None:
    first, second = (str(write(tmp_path / f"{n}.json", GOOD)) for n in "ab")
    ended = iplex("check", first, second)
    assert ended.code == 3
    assert f"{second}: vfid = 0" in ended.out


def test_a_main_file_brings_its_config_dir_and_its_pfs(iplex: Iplex, tmp_path: Path) -> None:
    folder = tmp_path / "config"
    write(folder / "a.json", GOOD | {"vfid": 9})
    conf = write(
        tmp_path / "vfd.cfg",
        {"config_dir": str(folder), "pciids": [{"id": "0000:07:00.0", "vfs": 8}]},
    )
    ended = iplex("check", str(conf))
    assert ended.code == 3
    assert f"{folder}/a.json: vfid = 9" in ended.out
    assert ended.out.endswith("1 problem in 1 of 2 files\n")


def test_a_bad_main_file_is_told_with_the_path_of_the_field(iplex: Iplex, tmp_path: Path) -> None:
    conf = write(tmp_path / "vfd.cfg", {"pciids": [{"id": "0000:07:00.0", "mtu": 1}], "logdir": ""})
    ended = iplex("check", str(conf))
    assert ended.code == 3
    assert "pciids[0].mtu = 1" in ended.out
    assert "log_dir" in ended.out


def test_without_a_main_file_what_depends_on_the_pf_is_not_judged(
    iplex: Iplex, tmp_path: Path
) -> None:
    for vfid in range(3):
        vf = GOOD | {"vfid": vfid, "min_rate": 0.5, "mtu": 9000}
        write(tmp_path / "c" / f"{vfid}.json", vf)
    assert iplex("check", str(tmp_path / "c")).code == 0
    conf = write(tmp_path / "vfd.cfg", {"pciids": ["0000:07:00.0"]})
    ended = iplex("check", "--conf", str(conf), str(tmp_path / "c"))
    assert ended.code == 3
    assert "min_rate" in ended.out
    assert "mtu = 9000" in ended.out


def test_warnings_are_told_and_leave_the_exit_code_at_0(iplex: Iplex, tmp_path: Path) -> None:
    path = write(tmp_path / "vm1.json", GOOD | {"mac_anti_spoof": False})
    ended = iplex("check", str(path))
    assert ended.code == 0
    assert f"warning {path}: mac_anti_spoof" in ended.out
    ended = iplex("check", "--json", str(path))
    answer = json.loads(ended.out)
    assert (ended.code, answer["ok"], answer["problems"]) == (0, True, [])
    assert [(w["file"], w["field"]) for w in answer["warnings"]] == [(str(path), "mac_anti_spoof")]


def test_what_is_no_json_is_told_with_its_place(iplex: Iplex, tmp_path: Path) -> None:
    ended = iplex("check", str(write(tmp_path / "vm1.json", '{"pciid": \n oops}')))
    assert ended.code == 3
    assert "line 2" in ended.out


def test_a_file_that_is_not_there_hides_nothing_of_the_others(iplex: Iplex, tmp_path: Path) -> None:
    bad = write(tmp_path / "vm1.json", GOOD | {"vlans": [5, 5]})
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    for more in ((), ("--json",)):
        ended = iplex("check", "/nonexistent/a", str(bad), str(loop), *more)
        assert ended.code == 4
        assert "each VLAN is listed once" in ended.out
        assert "/nonexistent/a can't be read: No such file" in ended.err
        assert f"{loop} can't be read: Too many levels of symbolic links" in ended.err


@pytest.mark.parametrize("there", [False, True])
def test_a_main_file_without_its_config_dir_is_warned_of(
    iplex: Iplex, tmp_path: Path, there: bool
) -> None:
    """The daemon would not find it either: `vfd --check` refuses it."""
    folder = tmp_path / "vfs"
    if there:
        folder.write_text("no folder")
    main = write(tmp_path / "vfd.cfg", {"config_dir": str(folder), "pciids": ["soft0"]})
    ended = iplex("check", str(main))
    assert ended.code == 0
    assert f"warning {main}: config_dir = " in ended.out
    assert "so no VF's file was checked" in ended.out


def test_a_file_that_is_not_there_ends_with_4(iplex: Iplex) -> None:
    ended = iplex("check", "/nonexistent/vm1.json")
    assert (ended.code, "No such file" in ended.err) == (4, True)
