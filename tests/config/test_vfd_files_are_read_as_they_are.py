"""VFd's documented file formats, old spellings and habits included: tests/config/corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vfd.config.errors import ConfigError
from vfd.config.main_file import ParsedMain, parse_main
from vfd.config.vf_file import ParsedVf, parse_vf
from vfd.policy.rate import Rate
from vfd.policy.values import Direction, GuestMacs, LinkStatus

CORPUS = Path(__file__).parent / "corpus"
ROOT = Path(__file__).parents[2]


def vf_file(name: str) -> ParsedVf:
    return parse_vf((CORPUS / "vf" / name).read_bytes(), file=name)


def main_file(name: str) -> ParsedMain:
    return parse_main((CORPUS / "main" / name).read_bytes(), file=name)


def told(parsed: ParsedVf | ParsedMain) -> set[str]:
    return {warning.field for warning in parsed.warnings}


def refused(text: str | bytes, **more: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_vf(text, file="vm1.json", **more)
    return caught.value


def test_a_file_written_by_nova_is_read_without_a_word() -> None:
    parsed = vf_file("nova.json")
    assert parsed.warnings == ()
    assert parsed.policy.name == "Instance_admin-vm1/fbf55cdd-46cf-4fb5-8d74-d3b1a5e1a1d0"
    assert parsed.policy.macs == ("fa:16:3e:01:02:03",)
    assert parsed.policy.forced_mac == "fa:16:3e:01:02:03"
    assert parsed.policy.guest_macs is GuestMacs.LISTED
    assert parsed.policy.access_vid == 1072
    assert parsed.policy.start_cb == "/usr/local/bin/plug --vm 'the first' up"


def test_a_file_without_a_name_is_called_as_the_file_is() -> None:
    assert vf_file("trunk.json").policy.name == "trunk"
    assert vf_file("trunk.json").policy.pciid == "0000:0a:00.0"
    text = '{"pciid": "soft0", "vfid": 0, "allow_untagged": true}'
    assert parse_vf(text, file="/etc/x/a.json").policy.name == "a"
    assert parse_vf(text, file="/etc/x/a.json", name="x/a").policy.name == "x/a"


def test_ranges_of_vlans_are_written_out_in_their_place() -> None:
    assert vf_file("trunk.json").policy.vlans == (10, 11, 12, 33, 100, 101, 102, 103)


def test_shares_may_be_text_and_the_last_comma_of_a_list_is_forgiven_with_a_warning() -> None:
    parsed = vf_file("shares.json")
    assert [(q.priority, q.share) for q in parsed.policy.queues] == [
        (0, 10),
        (1, 14),
        (2, 20),
        (3, 10),
    ]
    assert parsed.policy.rate == Rate(share=0.25)
    warning, _ = parsed.warnings
    assert told(parsed) == {"", "guest_macs"}
    assert "comma" in warning.rule
    assert "line 9" in warning.rule


def test_mac_is_the_old_spelling_of_macs_and_forgotten_fields_are_told() -> None:
    parsed = vf_file("one_mac.json")
    assert parsed.policy.vm_mac == "fa:16:3e:00:00:01"
    assert parsed.policy.macs == ("fa:16:3e:00:00:02",)
    assert parsed.policy.forced_mac == "fa:16:3e:00:00:01"
    text = '{"pciid": "s", "vfid": 0, "vlans": [1], "mac": "02:00:00:00:00:01"}'
    assert parse_vf(text, file="x.json").policy.forced_mac == "02:00:00:00:00:01"
    assert told(parsed) == {"antispoof_mac"}


def test_where_both_spellings_are_there_todays_counts_and_the_other_is_told() -> None:
    text = '{"pciid": "s", "vfid": 0, "vlans": [1], "macs": [], "mac": "02:00:00:00:00:01"}'
    parsed = parse_vf(text, file="x.json")
    assert parsed.policy.macs == ()
    assert told(parsed) == {"mac", "guest_macs"}


def test_a_mirror_both_ways_is_one_of_all_and_a_mirror_that_is_off_is_none() -> None:
    (mirror,) = vf_file("mirror.json").policy.mirror
    assert (mirror.target, mirror.direction) == (7, Direction.ALL)
    assert vf_file("mirror.json").policy.mtu == 9000
    assert vf_file("mirror_off.json").policy.mirror == ()


def test_words_may_have_capitals_and_blanks_and_an_empty_text_is_none() -> None:
    parsed = vf_file("loose.json")
    policy = parsed.policy
    assert (policy.vm_mac, policy.macs, policy.start_cb, policy.stop_cb) == (None, (), None, None)
    assert not {"vm_mac", "start_cb", "stop_cb"} & policy.model_fields_set
    assert policy.link_status is LinkStatus.AUTO
    assert [(one.target, one.direction) for one in policy.mirror] == [(4, Direction.ALL)]
    assert told(parsed) == {"guest_macs"}


def test_a_mirror_that_vfd_never_read_is_told_and_has_no_effect() -> None:
    parsed = vf_file("nova_mirror.json")
    assert parsed.policy.mirror == ()
    assert parsed.policy.link_status is LinkStatus.ON
    assert told(parsed) == {"mirror", "guest_macs"}


def test_a_first_configuration_as_a_package_brings_it_is_read() -> None:
    parsed = main_file("sample.cfg")
    assert told(parsed) == {
        "fifo", "huge", "init_log_level", "pciids[0].hw_strip_crc", "pciids[0].pf_driver",
        "pciids[0].tclasses", "pciids[1].tclasses",
    }  # fmt: skip
    assert parsed.config.nics[0].vf_driver, "which binds VFs now"


def test_classes_that_are_not_stated_are_filled_up_to_four_or_eight() -> None:
    four, eight = main_file("sample.cfg").config.nics
    assert sorted((tc.pri, tc.min_bw) for tc in four.tclasses) == [(0, 20), (1, 0), (2, 0), (3, 40)]
    assert sorted(tc.pri for tc in eight.tclasses) == [*range(8)]
    rules = {one.field: one.rule for one in main_file("sample.cfg").warnings}
    assert "pri 4, 5, 7 are taken" in rules["pciids[1].tclasses"]


def test_a_key_that_is_there_twice_is_refused_with_its_place_and_both_values() -> None:
    text = """{"pciid": "s", "vfid": 0, "vlans": [1], "mirror": [{"target": 1},
        {"target": 2, "note_comment": {"x": 1, "x": 2}, "target": 3}],
        "vlans": [2], "vlans": [3]}"""
    problems = {(one.field, one.value) for one in refused(text).problems}
    assert problems == {("mirror[1].target", "2, then 3"), ("vlans", "[1], then [2]")}
    text = """{"pciid": "s", "vfid": 0, "vlans": [1],
        "mac_anti_spoof": true, "mac_anti_spoof": false,}"""
    [problem] = refused(text).problems
    assert (problem.field, problem.value) == ("mac_anti_spoof", "true, then false")


@pytest.mark.parametrize(
    ("strip", "insert", "warned"),
    [(True, True, False), (False, False, False), (True, False, True), (False, True, True)],
)
def test_insert_stag_is_told_only_where_it_differs_from_strip_stag(
    strip: bool, insert: bool, warned: bool
) -> None:
    data = {"pciid": "s", "vfid": 0, "vlans": [1], "strip_stag": strip, "insert_stag": insert}
    parsed = parse_vf(json.dumps(data), file="x.json")
    assert ("insert_stag" in told(parsed)) is warned
    assert parsed.policy.strip_stag is strip


def test_pfs_may_be_plain_addresses_and_mtu_is_the_old_spelling_of_default_mtu() -> None:
    parsed = main_file("addresses.cfg")
    assert [pf.id for pf in parsed.config.nics] == ["0000:0a:00.0", "0000:0a:00.1"]
    assert {(pf.mtu, pf.default_mtu) for pf in parsed.config.nics} == {(9000, 9000)}
    assert told(parsed) == {"fifo", "init_log_level"}


def test_a_pf_has_its_own_mtu_or_the_default_and_its_drivers_name_is_told() -> None:
    parsed = main_file("objects.cfg")
    first, second = parsed.config.nics
    assert (first.mtu, first.enable_loopback) == (1500, True)
    assert (second.mtu, second.vfs) == (9000, 32)
    assert second.vf_driver == "vfio-pci"
    assert told(parsed) == {"fifo", "pciids[1].pf_driver"}


def test_traffic_classes_and_groups_are_read_with_comments_among_them() -> None:
    parsed = main_file("qos.cfg")
    assert parsed.config.log_dir == "/var/log/vfd"
    assert parsed.config.config_dir == "/var/lib/vfd/config"
    (pf,) = parsed.config.nics
    assert pf.enable_qos
    assert [(tc.pri, tc.latency, tc.lsp, tc.bsp) for tc in pf.tclasses] == [
        (0, False, False, False),
        (1, False, False, False),
        (2, True, False, True),
        (3, False, True, False),
    ]
    assert [(group.name, group.classes) for group in pf.bw_grps] == [
        ("bwg0", (0,)),
        ("bwg1", (1, 2)),
        ("bwg2", (3,)),
    ]
    assert told(parsed) == {"pciids[0].hw_strip_crc", "pciids[0].tclasses[2].latency"}


def test_late_fields_of_the_main_file_are_read() -> None:
    config = main_file("late.cfg").config
    assert (config.cpu_alarm, config.cpu_alarm_type) == (0.15, "CRI:")
    assert config.numa_mem == "64"
    assert config.delete_keep
    assert config.nics[0].id == "ens1f0"


@pytest.mark.parametrize(
    ("written", "share"),
    [("15%", 0.15), ("30", 0.3), (0.15, 0.15), (1.05, 1.05), (0, 0), ("0%", 0), ("1%", 0.05)],
)
def test_cpu_alarm_is_a_share_of_a_cpu_and_at_least_five_percent_or_never(
    written: Any, share: float
) -> None:
    config = parse_main(json.dumps({"cpu_alarm": written}), file="vfd.cfg").config
    assert config.cpu_alarm == pytest.approx(share)


@pytest.mark.parametrize(
    ("written", "warned"),
    [("0.15", True), ("1.05", False), ("15", False), ("0.9%", False), (0.15, False), (15, True),
     ("0", False)],
)  # fmt: skip
def test_a_cpu_alarm_that_reads_as_another_than_it_looks_is_told(
    written: Any, warned: bool
) -> None:
    text = json.dumps({"cpu_alarm": written, "pciids": ["s"]})
    assert ("cpu_alarm" in told(parse_main(text, file="vfd.cfg"))) is warned


@pytest.mark.parametrize("written", ["0x88a8", "0x88A8", 34984, "34984"])
def test_a_tpid_is_text_or_number(written: Any) -> None:
    text = json.dumps({"pciids": [{"id": "s", "tpid": written}]})
    assert parse_main(text, file="vfd.cfg").config.nics[0].tpid == 0x88A8


def test_the_examples_that_are_shipped_are_good() -> None:
    main = parse_main((ROOT / "etc/vfd.cfg.example").read_text(), file="vfd.cfg")
    vf = parse_vf((ROOT / "etc/vf.json.example").read_text(), file="vf.json")
    assert main.warnings == ()
    assert vf.warnings == ()


@pytest.mark.parametrize("path", sorted((CORPUS / "bad").iterdir()), ids=lambda path: path.stem)
def test_what_is_no_configuration_is_refused_in_one_line_that_names_the_file(path: Path) -> None:
    for read in (parse_vf, parse_main):
        with pytest.raises(ConfigError) as caught:
            read(path.read_bytes(), file=path.name)
        (problem,) = caught.value.problems
        assert problem.file == path.name
        assert len(str(problem)) < 250
        assert str(problem).isprintable()


def test_a_torn_file_is_refused_with_line_and_column() -> None:
    (problem,) = refused((CORPUS / "bad/torn.json").read_bytes()).problems
    assert "line 2, column" in problem.rule


def test_an_unknown_field_is_refused_with_the_nearest_known_one() -> None:
    text = """{"pciid": "s", "vfid": 0, "vlans": [1], "stripstag": true,
        "mirror": {"target": 1, "dir": 1}}"""
    problems = {one.field: one.rule for one in refused(text).problems}
    assert problems == {
        "stripstag": "unknown field; the nearest known one is strip_stag",
        "mirror.dir": "unknown field; the nearest known one is direction",
    }


def test_everything_that_is_wrong_with_a_vf_is_told_at_once() -> None:
    text = """{"pciid": "0:7", "vfid": "3", "vlan": [10], "strip_stag": 1, "strip_ctag": true,
        "link_status": "up", "macs": ["ff:ff:ff:ff:ff:ff"],
        "queues": [{"priority": 9, "share": "x"}],
        "mirror": [{"target": -1}], "rate": 3, "name": "../etc", "start_cb": "'"}"""
    assert {one.field for one in refused(text).problems} == {
        "pciid", "vfid", "vlan", "vlans", "strip_stag", "link_status", "macs[0]", "name", "rate",
        "queues[0].priority", "queues[0].share", "mirror[0].target", "start_cb",
    }  # fmt: skip


def test_a_rule_that_looks_at_an_unreadable_field_is_not_judged() -> None:
    text = '{"pciid": "s", "vfid": 0, "allow_untagged": "yes", "strip_ctag": 1, "strip_stag": true}'
    assert {one.field for one in refused(text).problems} == {"allow_untagged", "strip_ctag"}


def test_everything_that_is_wrong_with_the_main_file_is_told_at_once() -> None:
    text = """{"log_keeep": 1, "log_dir": "var", "cpu_alarm": "much", "delete_keep": "no",
        "pciids": ["0000:07:00.0:1", 3, {"mtu": 1}, "07:00.0",
        {"id": "0000:07:00.0", "default_mtu": 1500, "bw_grps": {"bwg0": [0, 11]},
         "tclasses": [{"prio": 1}, {"pri": 1}, {"pri": 2}, {"pri": 3}]},
        {"id": "soft0", "backend": "soft", "uplink": "eth1"},
        {"id": "soft1", "uplink": "eth1"}, {"id": "soft2", "uplink": "eth1"}, "0000:07:00.0"]}"""
    with pytest.raises(ConfigError) as caught:
        parse_main(text, file="vfd.cfg")
    assert {one.field for one in caught.value.problems} == {
        "log_keeep", "log_dir", "cpu_alarm", "delete_keep", "pciids[0]", "pciids[1]",
        "pciids[2].id", "pciids[2].mtu", "pciids[4].default_mtu", "pciids[4].bw_grps.bwg0[1]",
        "pciids[4].id", "pciids[4].tclasses[0].prio", "pciids[4].tclasses[0].pri",
        "pciids[5].vfs", "pciids[6].uplink",
        "pciids[7].uplink", "pciids[8]",
    }  # fmt: skip


def test_a_pf_is_not_the_wire_of_a_software_nic() -> None:
    for other in ("eth1", {"id": "eth1", "backend": "kernel"}):
        soft = {"id": "soft0", "backend": "soft", "vfs": 1, "uplink": "eth1"}
        with pytest.raises(ConfigError) as caught:
            parse_main(json.dumps({"pciids": [soft, other]}), file="vfd.cfg")
        (problem,) = caught.value.problems
        assert problem.field == "pciids[0].uplink"
        assert "a PF of its own" in problem.rule


def refused_main(main: dict[str, Any]) -> set[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse_main(json.dumps(main), file="vfd.cfg")
    return {(one.field, one.value) for one in caught.value.problems}


def test_a_pf_with_a_field_that_cannot_be_read_is_held_against_the_other_rules() -> None:
    classes = [{"pri": 0}, {"pri": 1}, {"pri": 1}, {"pri": 3}]
    pfs = [
        {"id": "a", "tpid": "0x9100", "tclasses": classes, "bw_grps": {"g": []}},
        {"id": "a", "mtu": 1, "tclasses": "x", "bw_grps": {"g": [7]}},
        {"id": "b/c", "backend": "soft", "uplink": "eth1", "vfs": 1},
        {"id": "d", "backend": "none", "uplink": "eth1", "link_speed": 0},
    ]
    assert refused_main({"log_keep": -1, "pciids": pfs}) == {
        ("log_keep", "-1"), ("pciids[0].tpid", '"0x9100"'), ("pciids[0].tclasses", "[1]"),
        ("pciids[0].bw_grps.g", "[]"), ("pciids[1].mtu", "1"), ("pciids[1].id", '"a"'),
        ("pciids[1].tclasses", '"x"'), ("pciids[2].id", '"b/c"'), ("pciids[3].uplink", '"eth1"'),
        ("pciids[3].backend", '"none"'), ("pciids[3].link_speed", "0"),
    }  # fmt: skip


def test_a_wrong_tpid_is_answered_as_files_write_it() -> None:
    for written in ("0x9100", 0x9100, True, None):
        with pytest.raises(ConfigError) as caught:
            parse_main(json.dumps({"pciids": [{"id": "s", "tpid": written}]}), file="vfd.cfg")
        (problem,) = caught.value.problems
        assert problem.value == ("" if written is None else json.dumps(written))
        assert problem.rule == 'must be "0x8100" or "0x88a8"'


def test_problems_name_fields_as_the_file_does() -> None:
    vf = '"pciid": "s", "vfid": 0, "vlans": ["10-20", 5000]'
    text = f'{{{vf}, "mac": "x", "mirror": {{"target": 0, "vlans": [1, 1]}}}}'
    assert {one.field for one in refused(text).problems} == {"mac", "vlans", "mirror.target",
        "mirror.vlans"}  # fmt: skip
    text = f'{{{vf}, "mac": ["02:00:00:00:00:01", "x"], "mirror": [{{"target": 0}}]}}'
    assert {one.field for one in refused(text).problems} == {"mac[1]", "vlans", "mirror[0].target"}
    pf = {"id": "s", "vfs_count": 999, "tclasses": [{"pri": n, "llatency": 1} for n in range(4)]}
    assert {field for field, _ in refused_main({"mtu": 1, "pciids": [pf, "s"]})} == {
        "mtu", "pciids[0].vfs_count", *(f"pciids[0].tclasses[{n}].llatency" for n in range(4)),
        "pciids[1]",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["x" * 10**6, "\x01" * 10**6])
def test_nothing_that_a_file_says_makes_a_long_answer(text: str) -> None:
    vf = {"pciid": text, "vfid": text, "vlans": [text], "vm_mac": text, "macs": [text],
          "link_status": text, "rate": text, "start_cb": "'" + text, "name": f".{text}",
          "mirror": {"target": 1, text: 1}, text: 1}  # fmt: skip
    main = {
        "log_dir": text,
        "cpu_alarm": text,
        "default_mtu": text,
        text: 1,
        "pciids": [{"id": text, "tpid": text, "bw_grps": {text: [99], f"{text}y": []}}],
    }
    for read, data in ((parse_vf, vf), (parse_main, main)):
        for written in (json.dumps(data), json.dumps(data)[:-1] + f', "{text}": 1}}'):
            with pytest.raises(ConfigError) as caught:
                read(written, file="x.json")
            assert all(len(str(one)) < 5000 for one in caught.value.problems)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/../b", "a//b", "a/", "/", "", ".hidden", "a/.b", "a\0b", "a\nb",
     "\x1b[31m", " a", "a ", "\u202eevil", "x" * 256, "é" * 101, "\ud800"],
)  # fmt: skip
def test_a_name_that_is_not_safe_as_a_path_or_on_a_terminal_is_refused(name: str) -> None:
    data = {"name": name, "pciid": "s", "vfid": 0, "vlans": [1]}
    (problem,) = refused(json.dumps(data)).problems
    assert problem.field == "name"
    assert str(problem).isprintable()
    str(problem).encode()


@pytest.mark.parametrize("name", ["vm1", "Instance_a-1/fbf5", "a b", "a..b", "ü/ñ", "-x", "{}"])
def test_a_name_may_have_slashes_blanks_and_letters_of_any_language(name: str) -> None:
    data = {"name": name, "pciid": "s", "vfid": 0, "vlans": [1]}
    assert parse_vf(json.dumps(data), file="x").policy.name == name


def test_whole_numbers_may_be_written_with_a_fraction_of_zero() -> None:
    text = '{"pciid": "s", "vfid": 2.0, "vlans": [1e2]}'
    assert parse_vf(text, file="x").policy.vlans == (100,)
    assert refused('{"pciid": "s", "vfid": 2.5, "vlans": [1]}').problems[0].field == "vfid"


@pytest.mark.parametrize("wrong", ["true", 1, 0, None, "on", []])
def test_true_and_false_are_not_guessed(wrong: Any) -> None:
    data = {"pciid": "s", "vfid": 0, "vlans": [1], "allow_bcast": wrong}
    assert refused(json.dumps(data)).problems[0].field == "allow_bcast"


def test_turning_off_anti_spoofing_is_told() -> None:
    text = (
        '{"pciid": "s", "vfid": 0, "vlans": [1], "mac_anti_spoof": false, "vlan_anti_spoof": false,'
        ' "guest_macs": "none"}'
    )
    assert told(parse_vf(text, file="x")) == {"mac_anti_spoof", "vlan_anti_spoof"}


def test_a_stated_field_can_be_told_from_a_default() -> None:
    text = '{"pciid": "s", "vfid": 0, "vlans": [1], "allow_bcast": true}'
    stated = parse_vf(text, file="x").policy.model_fields_set
    assert "allow_bcast" in stated
    assert "allow_mcast" not in stated


def test_flow_control_that_is_asked_for_is_reported_as_not_set() -> None:
    asked = parse_main('{"enable_flowcontrol": true, "pciids": ["0000:07:00.0"]}', file="vfd.cfg")
    assert told(asked) == {"enable_flowcontrol"}
    unasked = parse_main('{"enable_flowcontrol": false, "pciids": ["0000:07:00.0"]}', file="v.cfg")
    assert told(unasked) == set()


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("spoofchk", "mac_anti_spoof"),
        ("spoof-check", "mac_anti_spoof"),
        ("max_tx_rate", "rate"),
        ("maxTxRate", "rate"),
        ("min_tx_rate", "min_rate"),
        ("vlanQoS", "pcp"),
        ("vlan", "vlans"),
        ("vlan-id", "vlans"),
        ("vlanProto", "strip_stag"),
        ("link_state", "link_status"),
        ("mac-address", "vm_mac"),
        ("promisc", "trust"),
    ],
)
def test_what_other_programs_call_a_field_is_answered_with_its_name_here(
    field: str, meant: str
) -> None:
    """The nearest in letters may be its opposite: max_tx_rate is no max_rx_rate."""
    text = json.dumps({"pciid": "s", "vfid": 0, "vlans": [1], field: 1})
    [problem] = refused(text).problems
    assert problem.rule == f"unknown field; here it is called {meant}"


def test_nobody_is_sent_to_a_field_that_has_no_effect() -> None:
    text = json.dumps({"pciid": "s", "vfid": 0, "vlans": [1], "antispoof_macs": True})
    [problem] = refused(text).problems
    assert "antispoof_mac" not in problem.rule.partition("is ")[2]
