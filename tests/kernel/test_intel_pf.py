"""The PF's own settings in Intel's sysfs, on a model of it (lab/models/intel.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.modelled import CLOSED, Modelled, modelled, part

from vfd.nic.kernel.intel import IntelSysfs
from vfd.nic.protocol import NicError, Support
from vfd.policy.values import PfPolicy, VfRules

pytestmark = pytest.mark.root
PF = PfPolicy(id="0000:01:00.0")


@pytest.fixture
def model() -> Iterator[Modelled]:
    with modelled("intel") as mounted:
        yield mounted


def change(surface: IntelSysfs, **to: object) -> PfPolicy:
    after = PfPolicy(id=PF.id, **to)
    now = PF.model_copy(update=dict(surface.observe_pf(PF)))
    surface.write_pf(now, after)
    return after


def test_loopback_is_switched_on_every_vf_and_only_where_it_differs(model: Modelled) -> None:
    surface = IntelSysfs(model.root, PF)
    change(surface, enable_loopback=False)
    assert not any(vf["loopback"] for vf in model.state()["vfs"])
    assert surface.observe_pf(PF)["enable_loopback"] is False
    writes = len(model.log())
    change(surface, enable_loopback=False)
    assert len(model.log()) == writes


def test_a_tpid_restarts_the_vfs_once_and_not_again(model: Modelled) -> None:
    surface = IntelSysfs(model.root, PF)
    change(surface, tpid=0x88A8)
    change(surface, tpid=0x88A8)
    assert model.state()["tpid"] == 0x88A8
    assert {vf["resets"] for vf in model.state()["vfs"]} == {1}


def test_with_service_tags_customer_tag_lists_are_refused(model: Modelled) -> None:
    surface = IntelSysfs(model.root, PF)
    change(surface, tpid=0x88A8)
    assert "0x88a8" in surface.shortfalls(VfRules(vlans=[1, 2]))["vlans"].reason
    service = VfRules(vlans=[1, 2], strip_stag=True)
    assert not surface.shortfalls(service)
    surface.write({0: part(surface, service)})
    assert surface.read()[0] == surface.express(part(surface, service))
    assert surface.read()[0]["strip_stag"] is True


def test_a_device_without_a_tpid_says_so() -> None:
    with modelled("intel", "--no-tpid") as x722:
        offers = IntelSysfs(x722.root, PF).pf_capabilities()
        assert offers["tpid"].support is Support.ABSENT


def qos_policy(**more: object) -> PfPolicy:
    return PfPolicy(id=PF.id, enable_qos=True, enable_loopback=True, **more)


def test_traffic_classes_hold_after_they_are_applied(model: Modelled) -> None:
    surface = IntelSysfs(model.root, PF)
    wanted = qos_policy()
    assert surface.observe_pf(wanted)["enable_qos"] is False
    surface.write_pf(PF, wanted)
    assert model.text("qos/3/priority") == "6,7,"
    assert model.log()[-1][:2] == ("/qos/apply", "1")
    assert "enable_qos" not in surface.observe_pf(wanted)
    writes = len(model.log())
    surface.write_pf(wanted, wanted)
    assert len(model.log()) == writes


def test_shares_are_applied_together_and_read_back(model: Modelled) -> None:
    surface = IntelSysfs(model.root, PF)
    wanted = qos_policy()
    surface.write_pf(PF, wanted)
    before = len(model.log())
    rules = {
        vfid: VfRules(
            vlans=[vfid + 1], queues=[{"priority": tc, "share": 10 + vfid} for tc in range(4)]
        )
        for vfid in range(4)
    }
    surface.write({vfid: part(surface, of) for vfid, of in rules.items()})
    assert [path for path, _, _ in model.log()[before:]].count("/qos/apply") == 1
    for vfid, of in rules.items():
        assert surface.read()[vfid] == surface.express(part(surface, of))


def test_shares_that_pass_the_whole_are_refused_and_put_back(model: Modelled) -> None:
    surface = IntelSysfs(model.root, PF)
    surface.write_pf(PF, qos_policy())
    surface.write({2: CLOSED, 3: CLOSED})
    good = VfRules(vlans=[1], queues=[{"priority": tc, "share": 40} for tc in range(4)])
    surface.write({0: part(surface, good), 1: part(surface, good)})
    before = surface.read()
    greedy = VfRules(vlans=[1], queues=[{"priority": tc, "share": 90} for tc in range(4)])
    with pytest.raises(NicError, match="qos/apply"):
        surface.write({0: part(surface, greedy)})
    assert surface.read() == before


def test_eight_classes_do_not_become_four_again(model: Modelled) -> None:
    surface = IntelSysfs(model.root, PF)
    eight = qos_policy(tclasses=[{"pri": pri} for pri in range(8)])
    surface.write_pf(PF, eight)
    with pytest.raises(NicError, match="loaded anew"):
        surface.write_pf(eight, qos_policy())


def test_without_a_link_speed_a_share_of_it_is_refused(model: Modelled) -> None:
    half = qos_policy(tclasses=[{"pri": pri, "max_bw": 50} for pri in range(4)])
    with pytest.raises(NicError, match="no speed"):
        IntelSysfs(model.root, PF).write_pf(PF, half)


def test_a_link_that_lost_its_speed_keeps_its_classes_readable(
    model: Modelled, tmp_path: Path
) -> None:
    speed = tmp_path / "net" / "ens1" / "speed"
    speed.parent.mkdir(parents=True)
    speed.write_text("10000\n")
    (tmp_path / "sriov").symlink_to(model.root)
    surface = IntelSysfs(tmp_path / "sriov", PF)
    half = qos_policy(tclasses=[{"pri": pri, "max_bw": 50} for pri in range(4)])
    surface.write_pf(PF, half)
    speed.write_text("-1\n")
    assert "enable_qos" not in surface.observe_pf(half)
    other = qos_policy(tclasses=[{"pri": pri, "lsp": pri == 3} for pri in range(4)])
    assert surface.observe_pf(other)["enable_qos"] is False


def test_bandwidths_are_steps_of_the_links_speed(model: Modelled, tmp_path: Path) -> None:
    (tmp_path / "net" / "ens1").mkdir(parents=True)
    (tmp_path / "net" / "ens1" / "speed").write_text("10000\n")
    (tmp_path / "sriov").symlink_to(model.root)
    surface = IntelSysfs(tmp_path / "sriov", PF)
    wanted = qos_policy(tclasses=[{"pri": pri, "max_bw": 33, "lsp": pri == 3} for pri in range(4)])
    surface.write_pf(PF, wanted)
    assert model.text("qos/0/max_bw") == "3300"
    assert (model.text("qos/3/lsp"), model.text("qos/2/lsp")) == ("on", "off")
