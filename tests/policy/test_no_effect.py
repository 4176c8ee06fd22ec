"""A setting of another kind of NIC is told to have no effect, and refused nowhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vfd.config.main_file import parse_main
from vfd.daemon.door import admit, pf_shortfalls
from vfd.nic.protocol import Capability, Support
from vfd.policy.no_effect import OF_DPDK, OF_ONE_KIND
from vfd.policy.remarks import remarks
from vfd.policy.values import NicPolicy, PfPolicy

STATED: dict[str, Any] = {
    "link_speed": "1Gbps",
    "uplink": "eth1",
    "guest": "tap",
    "vf_driver": "vfio-pci",
}


def told(pf: dict[str, Any], **main: Any) -> dict[str, str]:
    text = json.dumps({"pciids": [pf], **main})
    warnings = parse_main(text, file="vfd.cfg").warnings
    return {one.field: one.rule for one in warnings if "no effect" in one.rule}


def test_every_setting_of_one_kind_is_tried_here() -> None:
    assert STATED.keys() == OF_ONE_KIND.keys()


@pytest.mark.parametrize("field", STATED)
@pytest.mark.parametrize("backend", ["soft", "kernel", "dpdk"])
def test_a_setting_of_another_kind_of_nic_is_warned_of(field: str, backend: str) -> None:
    pf = {"id": "nic0", "backend": backend, "vfs": 2, field: STATED[field]}
    rules = told(pf)
    if OF_ONE_KIND[field].backend == backend:
        assert rules == {}
    else:
        assert rules.keys() == {f"pciids[0].{field}"}
        assert "has no effect here" in rules[f"pciids[0].{field}"]


def test_of_a_pf_whose_backend_is_found_by_looking_it_is_told_when_it_is_found() -> None:
    pf = PfPolicy.model_validate({"id": "nic0", **STATED})
    assert told(json.loads(json.dumps({"id": "nic0", **STATED}))) == {}
    found = remarks(NicPolicy(pf=pf), backend="kernel")
    assert {one.field for one in found} == {"link_speed", "uplink", "guest"}


@pytest.mark.parametrize("strict", [None, True, False])
def test_a_nic_refuses_none_of_them_however_strict_it_is(strict: bool | None) -> None:
    """A kernel's NIC without PCI functions has no drivers to bind its VFs to."""
    lacking = Capability(Support.ABSENT, reason="no functions", consequence="no drivers")
    pf = PfPolicy.model_validate({"id": "nic0", **STATED})
    for backend in ("soft", "kernel"):
        short = pf_shortfalls(pf, {"vf_driver": lacking}, backend)
        verdict = admit(pf, pf.model_fields_set, short, strict)
        assert verdict.refused == ()
        assert len(verdict.warnings) == (backend == "kernel")


def test_what_is_for_dpdk_is_told_where_it_is_known_that_no_pf_is_dpdks() -> None:
    values: dict[str, Any] = {
        "huge_pages": False, "cpu_mask": "0x4", "numa_mem": 64, "dpdk_log_level": 2,
        "dpdk_init_log_level": 8,
    }  # fmt: skip
    assert values.keys() == set(OF_DPDK)
    assert told({"id": "soft0", "backend": "soft", "vfs": 1}, **values).keys() == values.keys()
    for pf in ({"id": "0000:07:00.0"}, {"id": "0000:07:00.0", "backend": "dpdk"}):
        assert told(pf, **values) == {}


def test_groups_of_classes_without_classes_are_told() -> None:
    pf = {"id": "soft0", "backend": "soft", "vfs": 1, "bw_grps": {"a": [0]}}
    assert told(pf).keys() == {"pciids[0].bw_grps"}
    assert told(pf, enable_qos=True) == {}
