"""Each row of each table of docs/coming-from-vfd.md is a test: a row without one fails, and so does
a test without its row."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Ended, run_program
from tests.cli.daemon import Daemon, running

from vfd.config.errors import ConfigError, Problem
from vfd.config.main_file import ParsedMain, parse_main
from vfd.config.vf_file import ParsedVf, parse_vf
from vfd.policy.rate import Rate
from vfd.policy.resolve import resolve
from vfd.policy.rules import check
from vfd.policy.values import Direction, LinkStatus, NicPolicy, PfPolicy, VfPolicy

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "coming-from-vfd.md"


def rows() -> list[tuple[str, str]]:
    """(section, first cell) of every row of every table."""
    found, section = [], ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if line.startswith("| "):
            first = re.split(r"(?<!\\)\|", line)[1].strip()
            if first not in ("what", "field", "VFd", "step"):
                found.append((section, first))
    return found


Proof = Callable[["World"], None]
PROOFS: dict[tuple[str, str], Proof] = {}


def proves(section: str, *firsts: str) -> Callable[[Proof], Proof]:
    def keep(proof: Proof) -> Proof:
        for first in firsts:
            assert (section, first) not in PROOFS, first
            PROOFS[section, first] = proof
        return proof

    return keep


@dataclass
class World:
    """A daemon with a software NIC that was configured as VFd was, on demand."""

    request: pytest.FixtureRequest
    used: bool = False

    @property
    def daemon(self) -> Daemon:
        self.used = True
        daemon = self.request.getfixturevalue("daemon")
        assert isinstance(daemon, Daemon)
        return daemon

    def iplex(self, *line: str, text: str | None = None, **more: str) -> Ended:
        where = {"VFD_SOCKET": str(self.daemon.socket)}
        return run_program("iplex", *line, text=text, env=where | more)

    def done(self, *line: str) -> str:
        ended = self.iplex(*line)
        assert (ended.code, ended.err) == (0, ""), (line, ended)
        return ended.out

    def rows(self) -> dict[int | None, Any]:
        return {row["vfid"]: row for row in json.loads(self.done("show", "--json"))["rows"]}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    main = {"fifo": "/var/lib/vfd/request", "cpu_mask": "0x04", "log_level": 4, "default_mtu": 1500}
    pf = {"pf_driver": "igb_uio", "vf_driver": "vfio-pci", "hw_strip_crc": True}
    with running(tmp_path_factory.mktemp("vfd"), vfs=4, main=main, pf=pf) as daemon:
        yield daemon


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(request)
    yield world
    if world.used:
        for name in json.loads(world.done("export")):
            world.done("delete", name)
        for path in world.daemon.config_dir.rglob("*.json*"):
            path.unlink()


@pytest.mark.root
@pytest.mark.parametrize("row", rows(), ids=" ".join)
def test_each_row_of_the_page_is_true(row: tuple[str, str], world: World) -> None:
    assert row in PROOFS, "write its proof"
    PROOFS[row](world)


def test_each_proof_has_its_row() -> None:
    assert set(PROOFS) - set(rows()) == set()
    assert len(rows()) == len(set(rows()))


def elsewhere(test: str) -> Proof:
    """The row, or a part of it, is what another test of the suite proves, which there is."""
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
    return lambda _: None


VF = {"pciid": "0000:07:00.1", "vfid": 3, "vlans": [100], "guest_macs": "listed"}


def vf(**fields: Any) -> ParsedVf:
    return parse_vf(json.dumps(VF | fields), file="vm1.json")


def main(**fields: Any) -> ParsedMain:
    return parse_main(json.dumps({"pciids": ["0000:07:00.1"]} | fields), file="vfd.cfg")


def pf(**fields: Any) -> tuple[PfPolicy, dict[str, str]]:
    parsed = main(enable_qos=True, pciids=[{"id": "0000:07:00.1"} | fields])
    told = {one.field.removeprefix("pciids[0]."): one.rule for one in parsed.warnings}
    return parsed.config.nics[0], told


def warned(parsed: ParsedVf | ParsedMain) -> dict[str, str]:
    return {one.field: one.rule for one in parsed.warnings}


def refused(**fields: Any) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        vf(**fields)
    return caught.value.problems


# What is different on purpose

DIFFERENT = "What is different on purpose"


@proves(DIFFERENT, "anti-spoofing turned off")
def _(world: World) -> None:
    daemon = world.daemon
    daemon.write("loose", daemon.vf(1, mac_anti_spoof=False, vlan_anti_spoof=False))
    for told in (world.done("add", "loose"), world.done("show"), world.done("status", "loose")):
        assert "this guest can send from any MAC" in told
        assert "this guest can send in any VLAN" in told
    in_force = json.loads(world.done("get", "loose", "--json"))["in_force"]
    assert (in_force["mac_anti_spoof"], in_force["vlan_anti_spoof"]) == (False, False)


PROOFS[DIFFERENT, "a VF without a configuration"] = elsewhere(
    "tests/soft/test_life.py::test_a_closed_vf_passes_nothing_and_its_link_is_down"
)
PROOFS[DIFFERENT, "a restart or a crash of the daemon"] = elsewhere(
    "tests/life/test_killed.py"
    "::test_killed_fifty_times_amid_requests_no_frame_is_lost_and_the_files_win"
)
PROOFS[DIFFERENT, "where requests go"] = elsewhere(
    "tests/daemon/test_access.py::test_members_of_the_group_are_let_in_and_nobody_else"
)


@proves(DIFFERENT, "what is in force")
def _(world: World) -> None:
    path = world.daemon.write("stays", world.daemon.vf(1))
    world.done("add", "stays")
    assert path.exists()
    assert not Path(f"{world.daemon.config_dir}_live").exists()


@proves(DIFFERENT, "a value of the wrong type")
def _(_: World) -> None:
    [problem] = refused(allow_bcast="yes")
    assert (problem.field, problem.value) == ("allow_bcast", '"yes"')
    assert problem.rule == "must be true or false"


@proves(DIFFERENT, "a field that nobody knows")
def _(_: World) -> None:
    [problem] = refused(allow_bacast=True)
    assert "the nearest known one is allow_bcast" in problem.rule


@proves(DIFFERENT, "a configuration that is refused")
def _(world: World) -> None:
    daemon, mac = world.daemon, "02:00:00:00:00:01"
    daemon.write("first", daemon.vf(1, vm_mac=mac))
    world.done("add", "first")
    daemon.write("second", daemon.vf(1, vm_mac=mac, vlans=[0, 5000]))
    told = json.loads(world.iplex("add", "second", "--json").err)["problems"]
    assert {one["field"] for one in told} == {"vlans[0]", "vlans[1]", "vm_mac", "vfid"}
    assert {one["other"] for one in told} == {"first", ""}


PROOFS[DIFFERENT, "a change of which a part fails"] = elsewhere(
    "tests/daemon/test_failing_nics.py"
    "::test_a_file_that_can_not_be_put_in_place_undoes_the_change_at_the_nic"
)
PROOFS[DIFFERENT, "what a NIC can't do"] = elsewhere(
    "tests/daemon/test_failing_nics.py"
    "::test_a_vf_closes_when_its_pf_comes_back_unable_to_enforce_what_its_file_states"
)


@proves(DIFFERENT, "a bandwidth or a share out of its range")
def _(_: World) -> None:
    assert refused(queues=[{"priority": 0, "share": 500}])
    for beyond in ({"max_bw": 500}, {"min_bw": -2}):
        with pytest.raises(ConfigError):
            pf(tclasses=[{"pri": 0, **beyond}])


@proves(DIFFERENT, "VLANs and MACs of a PF")
def _(world: World) -> None:
    daemon = world.daemon
    daemon.write("many", daemon.vf(1, vlans=["1-200"], macs=[f"02:00:00:00:00:{n:02x}" for n in
                                                           range(1, 40)]))  # fmt: skip
    world.done("add", "many")
    in_force = json.loads(world.done("get", "many", "--json"))["in_force"]
    assert (in_force["vlans"], len(in_force["macs"])) == (["1-200"], 38), (
        "the first of them is the default one"
    )


PROOFS[DIFFERENT, "a VF that guests change, or a person by hand"] = elsewhere(
    "tests/soft/test_life.py::test_drift_is_told_and_applying_again_repairs_it"
)


@proves(DIFFERENT, "MTU where none is stated")
def _(_: World) -> None:
    config = main().config
    assert (config.default_mtu, config.nics[0].mtu) == (1500, 1500)


PROOFS[DIFFERENT, "who runs a callback"] = elsewhere(
    "tests/daemon/test_callbacks.py::test_start_and_stop_run_as_the_owner_without_a_shell"
)


@proves(DIFFERENT, "when `start_cb` runs")
def _(world: World) -> None:
    elsewhere("tests/daemon/test_callbacks.py::test_an_adopted_vf_does_not_start_again")(world)
    elsewhere("tests/daemon/test_callbacks.py::test_start_and_stop_run_as_the_owner_without_a_shell")(
        world
    )  # fmt: skip


PROOFS[DIFFERENT, "when `stop_cb` runs"] = elsewhere(
    "tests/daemon/test_callbacks.py::test_start_cb_has_ended_before_stop_cb_runs"
)


@proves(DIFFERENT, "a second mirror of a VF")
def _(world: World) -> None:
    for vfid in (1, 2, 3):
        world.daemon.write(f"m{vfid}", world.daemon.vf(vfid))
        world.done("add", f"m{vfid}")
    world.done("mirror", "0", "1", "in", "2")
    world.done("mirror", "0", "1", "in", "3")
    assert world.done("show", "mirror").count(" in ") == 2
    world.done("mirror", "0", "1", "off", "3")
    assert world.done("show", "mirror").count(" in ") == 1


# A VF's file

FILE = "A VF's file, field by field"


@proves(FILE, "`name`")
def _(_: World) -> None:
    assert vf().policy.name == "vm1"
    assert vf(name="Instance_a/b").policy.name == "Instance_a/b"


@proves(FILE, "`pciid`")
def _(_: World) -> None:
    assert vf(pciid=" 0000:0A:00.1").policy.pciid == "0000:0a:00.1"
    assert vf(pciid="ens1f0").policy.pciid == "ens1f0"


@proves(FILE, "`vfid`")
def _(_: World) -> None:
    assert [vf(vfid=n).policy.vfid for n in (0, 31, 255)] == [0, 31, 255]
    assert [one.field for one in refused(vfid=256)] == ["vfid"]


@proves(FILE, "`vlans`")
def _(_: World) -> None:
    assert vf(vlans=[5, "10-12"]).policy.vlans == (5, 10, 11, 12)
    assert [one.field for one in refused(vlans=[])] == ["vlans"]
    assert vf(vlans=[], allow_untagged=True).policy.vlans == ()


@proves(FILE, "`strip_stag`")
def _(_: World) -> None:
    assert vf(strip_stag=True).policy.access_vid == 100
    several = vf(strip_stag=True, vlans=[1, 2])
    assert several.policy.access_vid is None
    assert "nothing is inserted" in warned(several)["strip_stag"]


@proves(FILE, "`insert_stag`")
def _(_: World) -> None:
    assert warned(vf(strip_stag=True, insert_stag=True)) == {}
    assert "inserting follows stripping" in warned(vf(insert_stag=True))["insert_stag"]


@proves(FILE, "`strip_ctag`")
def _(_: World) -> None:
    assert vf(strip_ctag=True).policy.access_vid == 100
    assert refused(strip_ctag=True, strip_stag=True)


@proves(FILE, "`allow_untagged`")
def _(_: World) -> None:
    assert (vf().policy.allow_untagged, vf(allow_untagged=True).policy.allow_untagged) == (0, 1)


@proves(FILE, "`allow_bcast`, `allow_mcast`")
def _(_: World) -> None:
    assert (vf().policy.allow_bcast, vf().policy.allow_mcast) == (True, True)
    assert not vf(allow_bcast=False).policy.allow_bcast


@proves(FILE, "`allow_un_ucast`")
def _(_: World) -> None:
    assert not vf().policy.allow_un_ucast


@proves(FILE, "`mac_anti_spoof`, `vlan_anti_spoof`")
def _(_: World) -> None:
    assert (vf().policy.mac_anti_spoof, vf().policy.vlan_anti_spoof) == (True, True)
    off = vf(mac_anti_spoof=False, vlan_anti_spoof=False)
    assert (off.policy.mac_anti_spoof, off.policy.vlan_anti_spoof) == (False, False)
    assert {"mac_anti_spoof", "vlan_anti_spoof"} <= warned(off).keys()


@proves(FILE, "`antispoof_mac`, `antispoof_vlan`")
def _(_: World) -> None:
    old = vf(antispoof_mac=False, antispoof_vlan=False)
    assert (old.policy.mac_anti_spoof, old.policy.vlan_anti_spoof) == (True, True)
    assert {"antispoof_mac", "antispoof_vlan"} <= warned(old).keys()


@proves(FILE, "`link_status`")
def _(_: World) -> None:
    assert vf().policy.link_status is LinkStatus.AUTO
    for word in ("on", "OFF", " Auto"):
        assert vf(link_status=word).policy.link_status.value == word.strip().lower()


@proves(FILE, "`vm_mac`")
def _(_: World) -> None:
    assert vf(vm_mac="FA:16:3E:00:00:01").policy.vm_mac == "fa:16:3e:00:00:01"


@proves(FILE, "`macs`")
def _(world: World) -> None:
    first, second = "02:00:00:00:0a:01", "02:00:00:00:0a:02"
    world.daemon.write("nova", world.daemon.vf(1, macs=[first, second]))
    world.done("add", "nova")
    assert json.loads(world.done("status", "nova", "--json"))["mac"] == first
    assert world.rows()[1]["mac"] == first
    bad = refused(macs=["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"])
    assert [one.field for one in bad] == ["macs[0]", "macs[1]"]


@proves(FILE, "`mac`")
def _(_: World) -> None:
    assert vf(mac="02:00:00:00:00:01").policy.macs == vf(macs=["02:00:00:00:00:01"]).policy.macs


@proves(FILE, "`rate`, `min_rate`")
def _(_: World) -> None:
    assert vf(rate=0.25, min_rate=0.1).policy.rate == Rate(share=0.25)
    assert vf(rate="25%").policy.rate == Rate(share=0.25)
    assert vf(rate="2Gbps").policy.rate == Rate(bps=2_000_000_000)


@proves(FILE, "`queues`")
def _(_: World) -> None:
    written = [{"priority": 0, "share": "10%"}, {"priority": 1, "share": 20}]
    assert [(q.priority, q.share) for q in vf(queues=written).policy.queues] == [(0, 10), (1, 20)]
    wide = [
        VfPolicy.model_validate(
            {"name": f"v{n}", **VF, "vfid": n, "queues": [{"priority": 0, "share": share}]}
        )
        for n, share in enumerate((4, 41))
    ]
    pf = PfPolicy(id="0000:07:00.1", vfs=8, enable_qos=True)
    assert any("10" in one.rule for one in check(NicPolicy(pf=pf, vfs=tuple(wide))))


@proves(FILE, "`mirror`")
def _(_: World) -> None:
    [one] = vf(mirror={"target": 2, "direction": "in"}).policy.mirror
    assert (one.target, one.direction) == (2, Direction.IN)
    assert vf(mirror={"target": 2}).policy.mirror[0].direction is Direction.ALL
    assert len(vf(mirror=[{"target": 2}, {"target": 4}]).policy.mirror) == 2


@proves(FILE, "`start_cb`, `stop_cb`")
def _(_: World) -> None:
    line = "/usr/local/bin/plug 'a b'; echo | cat > x"
    assert vf(start_cb=line, stop_cb=line).policy.start_cb == line
    elsewhere(
        "tests/daemon/test_callbacks.py::test_start_and_stop_run_as_the_owner_without_a_shell"
    )


@proves(FILE, "`comment`, `comments`")
def _(_: World) -> None:
    text = '{"comment": 1, "comment": [2], "comments": {"x": "y"}, "my_comment": 0, '
    assert parse_vf(text + json.dumps(VF)[1:], file="vm1.json").warnings == ()


# vfd.cfg

CFG = "`vfd.cfg`, field by field"


PROOFS[CFG, "`log_dir`"] = elsewhere(
    "tests/daemon/test_missing_folders.py::test_the_log_goes_to_standard_error_alone_as_vfd_took_it"
)
PROOFS[CFG, "`log_keep`"] = elsewhere(
    "tests/daemon/test_log.py::test_log_files_are_kept_for_log_keep_days"
)


@proves(CFG, "`log_level`")
def _(world: World) -> None:
    assert [main(log_level=n).config.log_level for n in (0, 1, 2, 3, 4)] == [0, 1, 2, 3, 4]
    assert "log_level" not in world.daemon.output.read_text(), "4, as in VFd's sample, is no news"


@proves(CFG, "`init_log_level`")
def _(_: World) -> None:
    assert "log_level holds" in warned(main(init_log_level=2))["init_log_level"]


PROOFS[CFG, "`config_dir`"] = elsewhere(
    "tests/daemon/test_missing_folders.py::test_folders_that_are_missing_are_made"
)


@proves(CFG, "`delete_keep`")
def _(_: World) -> None:
    assert main(delete_keep=True).config.delete_keep
    elsewhere("tests/daemon/test_life_of_a_vf.py::test_delete_keep_keeps_the_file_out_of_force")


@proves(CFG, "`pid_fname`")
def _(world: World) -> None:
    assert main().config.pid_fname == "/run/vfd/vfd.pid"
    conf = json.loads(world.daemon.conf.read_text())
    assert int(Path(conf["pid_fname"]).read_text()) == world.daemon.process.pid


PROOFS[CFG, "`stats_path`"] = elsewhere(
    "tests/daemon/test_log.py::test_counters_are_in_stats_path_while_it_is_named"
)


@proves(CFG, "`fifo`")
def _(_: World) -> None:
    assert "replaced by the socket" in warned(main(fifo="/var/lib/vfd/request"))["fifo"]


@proves(CFG, "`default_mtu`, `mtu`")
def _(_: World) -> None:
    assert main(default_mtu=9000).config.default_mtu == 9000
    assert main(mtu=9000).config.nics[0].mtu == 9000
    assert main().config.default_mtu == 1500


@proves(CFG, "`enable_qos`")
def _(_: World) -> None:
    assert main(enable_qos=True).config.nics[0].enable_qos


@proves(CFG, "`enable_flowcontrol`")
def _(_: World) -> None:
    assert "ethtool -A" in warned(main(enable_flowcontrol=True))["enable_flowcontrol"]


@proves(CFG, "`cpu_alarm`, `cpu_alarm_type`")
def _(_: World) -> None:
    assert main(cpu_alarm="15%").config.cpu_alarm == 0.15
    assert main(cpu_alarm=0.15, cpu_alarm_type="CRI:").config.cpu_alarm == 0.15
    assert main(cpu_alarm=0).config.cpu_alarm == 0


@proves(CFG, "`huge_pages`, `cpu_mask`, `numa_mem`, `dpdk_log_level`, `dpdk_init_log_level`")
def _(_: World) -> None:
    dpdks: dict[str, Any] = {
        "huge_pages": True, "cpu_mask": "0x04", "numa_mem": "64,64", "dpdk_log_level": 2,
        "dpdk_init_log_level": 8,
    }  # fmt: skip
    soft = [{"id": "soft0", "backend": "soft", "vfs": 1}]
    assert warned(main(pciids=soft, **dpdks)).keys() == dpdks.keys()


@proves(CFG, "`pciids`")
def _(_: World) -> None:
    parsed = main(pciids=["0000:0A:00.0", {"id": "0000:0a:00.1", "mtu": 9000}])
    assert [(one.id, one.mtu) for one in parsed.config.nics] == [
        ("0000:0a:00.0", 1500), ("0000:0a:00.1", 9000),
    ]  # fmt: skip


@proves(CFG, "`id`")
def _(_: World) -> None:
    assert pf(id="ens1f0")[0].id == "ens1f0"


@proves(CFG, "`vfs_count`")
def _(_: World) -> None:
    assert pf(vfs_count=32)[0].vfs == 32


@proves(CFG, "`pf_driver`")
def _(world: World) -> None:
    assert "drivers are the host's" in pf(pf_driver="igb_uio")[1]["pf_driver"]
    assert "pf_driver" in world.daemon.output.read_text()


@proves(CFG, "`vf_driver`")
def _(world: World) -> None:
    assert pf(vf_driver="vfio-pci")[0].vf_driver == "vfio-pci"
    bound = "test_idle_vfs_have_the_driver_that_is_wanted_and_one_in_use_keeps_its_own"
    elsewhere(f"tests/lab/test_igb_vf_drivers.py::{bound}")
    told = pf(backend="soft", id="soft0", vfs=1, vf_driver="vfio-pci")[1]
    assert "has no effect here" in told["vf_driver"]
    row = world.rows()[None]
    assert row["state"] == "ok"
    assert any("vf_driver: has no effect here" in text for text in row["warnings"])


@proves(CFG, "`promiscuous`")
def _(_: World) -> None:
    assert (pf()[0].promiscuous, pf(promiscuous=True)[0].promiscuous) == (False, True)


@proves(CFG, "`hw_strip_crc`")
def _(_: World) -> None:
    assert "hw_strip_crc" in pf(hw_strip_crc=True)[1]


@proves(CFG, "`enable_loopback`")
def _(_: World) -> None:
    assert (pf()[0].enable_loopback, pf(enable_loopback=True)[0].enable_loopback) == (False, True)


@proves(CFG, "`vf_oversubscription`")
def _(world: World) -> None:
    vfs = tuple(
        VfPolicy.model_validate({"name": f"v{n}", **VF, "vfid": n, "min_rate": 0.8}) for n in (0, 1)
    )
    strict = PfPolicy(id="0000:07:00.1", vfs=8)
    assert check(NicPolicy(pf=strict, vfs=vfs), link_bps=10**9)
    relaxed = NicPolicy(pf=strict.model_copy(update={"vf_oversubscription": True}), vfs=vfs)
    assert check(relaxed, link_bps=10**9) == ()
    assert resolve(relaxed, 10**9).scale == 0.625
    elsewhere("tests/cli/test_daemon_asked_oddly.py"
              "::test_what_was_scaled_says_so_wherever_the_vf_is_shown")(world)  # fmt: skip


@proves(CFG, "`tclasses`")
def _(_: World) -> None:
    policy, told = pf(tclasses=[{"pri": 0, "name": "rest"}, {"pri": 3}])
    assert sorted(one.pri for one in policy.tclasses) == [0, 1, 2, 3]
    assert "pri 1, 2 are taken with the defaults" in told["tclasses"]
    assert pf(tclasses=[{"pri": 7}])[0].classes == 8


@proves(CFG, "`llatency`")
def _(_: World) -> None:
    classes = [{"pri": n, "llatency": n == 2} for n in range(4)]
    told = pf(tclasses=classes)[1]
    assert "it has no effect" in told["tclasses[2].llatency"]
    assert "tclasses[1].llatency" not in told


@proves(CFG, "`lsp`, `bsp`, `max_bw`, `min_bw`")
def _(_: World) -> None:
    classes = [{"pri": n, "lsp": n == 3, "bsp": n == 2, "max_bw": 90} for n in range(4)]
    policy = pf(tclasses=classes)[0]
    assert [(one.lsp, one.bsp, one.max_bw, one.min_bw) for one in policy.tclasses] == [
        (False, False, 90, 0), (False, False, 90, 0), (False, True, 90, 0), (True, False, 90, 0),
    ]  # fmt: skip


@proves(CFG, "`bw_grps`")
def _(_: World) -> None:
    groups = {"bwg0": [0], "bwg1": [1, 2], "bwg2": [3]}
    policy = pf(bw_grps=groups)[0]
    assert {one.name: list(one.classes) for one in policy.bw_grps} == groups


# Commands

COMMAND = "Command by command"


@proves(COMMAND, "`iplex add NAME`")
def _(world: World) -> None:
    world.daemon.write("vm1", world.daemon.vf(1))
    assert "added vm1" in world.done("add", "vm1")


@proves(COMMAND, "`iplex add /var/lib/vfd/config/NAME`")
def _(world: World) -> None:
    path = world.daemon.write("vm1", world.daemon.vf(1))
    for line in (str(path), str(path.with_suffix(""))):
        assert "added vm1" in world.done("add", line)
        assert "deleted" in world.done("delete", str(path.with_suffix("")))
        world.daemon.write("vm1", world.daemon.vf(1))
    text = json.dumps(world.daemon.vf(1, name="piped"))
    assert world.iplex("add", "-", text=text).code == 0


@proves(COMMAND, "a file that `iplex add` refuses")
def _(world: World) -> None:
    path = world.daemon.write("vm1", world.daemon.vf(1, vlans=[5000]))
    aside = path.with_name("vm1.json.error")
    refused = world.iplex("add", "vm1")
    assert (refused.code, "vm1.json.error" in refused.err) == (3, True), refused
    for spelling in ("vm1", str(path), str(path.with_suffix(""))):
        assert world.iplex("add", spelling).code == 3
        assert (path.exists(), aside.exists()) == (False, True)
    aside.write_text(json.dumps(world.daemon.vf(1)))
    assert "added vm1" in world.done("add", "vm1")
    assert (path.exists(), aside.exists()) == (True, False)


@proves(COMMAND, "`iplex update NAME`")
def _(world: World) -> None:
    world.daemon.write("vm1", world.daemon.vf(1))
    world.done("add", "vm1")
    world.daemon.write("vm1", world.daemon.vf(1, vlans=[7]))
    assert "[101] → [7]" in world.done("update", "vm1")
    world.daemon.write("vm1", world.daemon.vf(2))
    assert "--move" in world.iplex("update", "vm1").err
    assert "opens" in world.done("update", "vm1", "--move")


@proves(COMMAND, "`iplex delete NAME`")
def _(world: World) -> None:
    for line in ("by-file", "named", "/by-file"):
        path = world.daemon.write("by-file", world.daemon.vf(1, name="named"))
        world.done("add", "by-file")
        world.done("delete", str(path.with_suffix("")) if line.startswith("/") else line)
        assert world.rows()[1]["state"] == "closed"
        assert not path.exists()


@proves(COMMAND, "`iplex status NAME`", "`iplex export NAME`")
def _(world: World) -> None:
    world.daemon.write("vm1", world.daemon.vf(1, vm_mac="02:00:00:00:00:01"))
    world.done("add", "vm1")
    shown = world.done("status", "vm1")
    for word in ("ok", "guest", "none seen", "granted", "vm1.json"):
        assert word in shown
    for spelling in ("vm1", "vm1.json"):
        exported = json.loads(world.done("export", spelling))
        assert exported["vm_mac"] == "02:00:00:00:00:01"


@proves(
    COMMAND,
    "`iplex show all`",
    "`iplex show pfs`",
    "`iplex show extended`, `iplex show ex`",
    "`iplex show mirror`",
    "`iplex show N`",
)
def _(world: World) -> None:
    pf = world.daemon.pf
    assert len(re.findall(rf"^{pf}", world.done("show", "all"), re.MULTILINE)) == 5
    assert len(re.findall(rf"^{pf}", world.done("show", "pfs"), re.MULTILINE)) == 1
    assert "device" in world.done("show", "ex")
    assert world.done("show", "mirror") == world.done("show", "mirrors") == "no mirrors\n"
    assert world.done("show", "0").startswith("PORT")
    assert world.done("show", "0:1").startswith(f"{pf}:1")


@proves(COMMAND, "`iplex mirror PF VF in TARGET`", "`iplex mirror PF VF off`")
def _(world: World) -> None:
    for vfid in (1, 2):
        path = world.daemon.write(f"m{vfid}", world.daemon.vf(vfid))
        world.done("add", f"m{vfid}")
    for word, direction in (("in", "in"), ("out", "out"), ("all", "all"), ("on", "all")):
        world.done("mirror", "0", "2", word, "1")
        assert json.loads(path.read_text())["mirror"][0]["direction"] == direction
    world.done("mirror", "0", "2", "off")
    assert world.done("show", "mirror") == "no mirrors\n"


@proves(COMMAND, "`iplex verbose --loglevel=N`", "`--loglevel=N`")
def _(world: World) -> None:
    for number, word in ((0, "warning"), (1, "info"), (2, "debug"), (4, "debug")):
        assert word in world.done("verbose", f"--loglevel={number}")
    assert "warning" in world.done("verbose")
    assert "debug" in world.done("verbose", "debug")
    assert world.done("show", "all", "--loglevel=1")


@proves(COMMAND, "`iplex ping`")
def _(world: World) -> None:
    assert "answers" in world.done("ping")


@proves(COMMAND, "`iplex dump`")
def _(world: World) -> None:
    assert json.loads(world.done("dump"))["pfs"]


@proves(COMMAND, "`iplex cpu_alarm 15%`")
def _(world: World) -> None:
    for written in ("15%", "0.15", "15"):
        assert "15%" in world.done("cpu_alarm", written)


@proves(COMMAND, "`--conf=FILE`")
def _(world: World) -> None:
    conf = f"--conf={world.daemon.conf}"
    for line in ((conf, "ping"), ("ping", conf), ("ping", "-c", str(world.daemon.conf))):
        assert str(world.daemon.socket) in run_program("iplex", *line).out


@proves(COMMAND, "`vreq show all`")
def _(world: World) -> None:
    elsewhere("tests/daemon/test_access.py::test_members_of_the_group_are_let_in_and_nobody_else")(
        world
    )


@proves(COMMAND, "`vfd -p FILE`", "`vfd -f`", "`vfd -H`")
def _(world: World) -> None:
    ended = run_program("vfd", "-f", "-H", "-p", str(world.daemon.conf), "--check")
    assert (ended.code, ended.err) == (0, "")
    assert f"{world.daemon.conf}: 1 PF" in ended.out


@proves(COMMAND, "`vfd -n`", "`vfd -q`", "`vfd -F`")
def _(_: World) -> None:
    for flag, answer in (
        ("-n", "vfd --check"), ("-n", "iplex plan FILE"), ("-q", '"enable_qos": true'),
        ("-F", "ethtool -A"),
    ):  # fmt: skip
        ended = run_program("vfd", flag)
        assert (ended.code, answer in ended.err) == (2, True), ended


@proves(COMMAND, "`vfd -?`")
def _(_: World) -> None:
    told = run_program("vfd", "-?")
    assert told.code == 0
    assert told.out == run_program("vfd", "--help").out


# The upgrade and the way back

UPGRADE, BACK = "The upgrade", "The way back"


@proves(UPGRADE, "`vfd --check` with VFd's files where they are")
def _(world: World) -> None:
    folder = world.request.getfixturevalue("tmp_path")
    (folder / "config").mkdir()
    (folder / "config" / "bad.json").write_text(json.dumps(VF | {"vlans": [0]}))
    sample = json.loads((ROOT / "tests/config/corpus/main/objects.cfg").read_text())
    sample["config_dir"] = str(folder / "config")
    (folder / "vfd.cfg").write_text(json.dumps(sample))
    ended = run_program("vfd", "--check", "-p", str(folder / "vfd.cfg"))
    assert ended.code == 3
    assert "vlans[0] = 0" in ended.err
    assert "fifo" in ended.out
    assert "pf_driver" in ended.out


@proves(UPGRADE, "stop VFd, bind the PFs to their Linux drivers, start `vfd`")
def _(world: World) -> None:
    folder: Path = world.request.getfixturevalue("tmp_path")
    live = folder / "vfs_live"
    live.mkdir()

    def as_vfd_left_it(upgraded: Daemon) -> None:
        (live / "tenant.json").write_text(json.dumps(upgraded.vf(1)))

    with running(folder, vfs=2, before=as_vfd_left_it) as upgraded:
        there = {"VFD_SOCKET": str(upgraded.socket)}
        shown = run_program("iplex", "status", "tenant", "--json", env=there)
        assert json.loads(shown.out)["state"] == "ok", shown
        assert (upgraded.config_dir / "tenant.json").exists()
        assert list(live.iterdir()) == []
        events = run_program("iplex", "events", env=there).out
        assert "tenant.json" in events


@proves(UPGRADE, "`iplex show all`")
def _(world: World) -> None:
    world.daemon.write("vm1", world.daemon.vf(1))
    world.done("add", "vm1")
    bad = world.daemon.write("torn", {"pciid": world.daemon.pf})
    world.daemon.process.send_signal(1)
    try:
        deadline = time.monotonic() + 20
        while "torn.json is not in force: vfid: required" not in (shown := world.done("show")):
            assert time.monotonic() < deadline, shown
            time.sleep(0.1)
        assert " vm1 " in shown
    finally:
        bad.unlink()
        world.daemon.process.send_signal(1)


@proves(UPGRADE, "`iplex get NAME`")
def _(world: World) -> None:
    world.daemon.write("vm1", world.daemon.vf(1, rate=0.25))
    world.done("add", "vm1")
    shown = world.done("get", "vm1")
    assert "= vlans: [101]" in shown
    assert re.search(r"≠ rate: 2.5Gbps +\(asked 0.25: worked out for this link", shown)


@proves(BACK, "`iplex export --to FOLDER`")
def _(world: World) -> None:
    folder = world.request.getfixturevalue("tmp_path")
    stated = world.daemon.vf(1, vlans=["10-12", 20], strip_stag=False, rate=0.25)
    world.daemon.write("vm1", stated)
    world.done("add", "vm1")
    world.done("export", "--to", str(folder))
    written = json.loads((folder / "vm1.json").read_text())
    assert (written["vlans"], written["rate"]) == (["10-12", 20], 0.25)
    assert written.keys() - {"name"} == stated.keys() - {"name"}, "nothing is added"


PROOFS[BACK, "`systemctl stop vfd`"] = elsewhere(
    "tests/soft/test_life.py::test_frames_pass_while_no_daemon_lives_broadcasts_too"
)


@proves(BACK, "the files into VFd's `config_dir`")
def _(world: World) -> None:
    """What is in ``config_dir`` is what VFd would find there: plain files under their own names."""
    world.daemon.write("vm1", world.daemon.vf(1))
    world.done("add", "vm1")
    assert [path.name for path in world.daemon.config_dir.glob("*.json")] == ["vm1.json"]


def test_the_page_has_every_field_and_option_that_vfd_had() -> None:
    text = PAGE.read_text()
    fields = """name pciid vfid strip_stag strip_ctag allow_untagged allow_bcast allow_mcast
        allow_un_ucast mac_anti_spoof vlan_anti_spoof antispoof_mac antispoof_vlan link_status vlans
        macs mac vm_mac rate min_rate queues mirror start_cb stop_cb insert_stag log_dir log_keep
        log_level init_log_level config_dir delete_keep pid_fname stats_path fifo default_mtu mtu
        enable_qos enable_flowcontrol cpu_alarm cpu_alarm_type huge_pages cpu_mask numa_mem
        dpdk_log_level dpdk_init_log_level pciids id vfs_count pf_driver vf_driver promiscuous
        hw_strip_crc enable_loopback vf_oversubscription tclasses llatency lsp bsp max_bw min_bw
        bw_grps"""
    assert [one for one in fields.split() if f"`{one}`" not in text] == []
    commands = "add update delete status export mirror show verbose ping dump cpu_alarm"
    assert [one for one in commands.split() if f"`iplex {one}" not in text] == []
    assert [flag for flag in "pfHnqF?" if f"`vfd -{flag}" not in text] == []
