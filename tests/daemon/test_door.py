"""What a NIC enforces only in part is said where VF and PF are shown, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vfd.daemon.door import admit, pf_shortfalls
from vfd.daemon.failures import RefusedError
from vfd.daemon.service import Service
from vfd.nic.protocol import Capability, Support
from vfd.policy.values import PfPolicy, VfPolicy

from .harness import Vfd
from .plain_nic import add, nic_of

LIMITED = Capability(Support.LIMITED, by="x", limit="in words")
ALWAYS_ON = Capability(Support.LIMITED, by="x", limit="always on", consequence="VFs meet")
ABSENT = Capability(Support.ABSENT, reason="no", consequence="anything goes")


@pytest.mark.parametrize("strict", [None, False, True])
def test_what_is_limited_is_warned_of_unless_strict_refuses_it(strict: bool | None) -> None:
    vf = VfPolicy(name="vm", pciid="x", vfid=0, vlans=(1,), link_status="off", trust=True)
    verdict = admit(vf, vf.model_fields_set, {"link_status": LIMITED, "trust": ABSENT}, strict)
    refused = {one.field for one in verdict.refused}
    assert refused == {None: {"trust"}, False: set(), True: {"link_status", "trust"}}[strict]
    warned = {text.split()[0] for text in verdict.warnings}
    assert warned == {"link_status", "trust"} - refused
    if strict is None:
        assert verdict.warnings == ("link_status is enforced with a limit: in words",)


def test_a_pfs_shortfalls_are_those_of_its_own_values() -> None:
    known = {"promiscuous": LIMITED, "enable_loopback": ALWAYS_ON, "enable_qos": ABSENT}
    known["vfs"] = LIMITED
    assert pf_shortfalls(PfPolicy(id="x", vfs=3), known).keys() == {"enable_loopback"}
    asking = PfPolicy(id="x", promiscuous=True, enable_loopback=True, enable_qos=True)
    assert pf_shortfalls(asking, known).keys() == {"promiscuous", "enable_qos"}


def test_a_pfs_limits_are_shown_with_it(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd()
    vfd.main["pciids"][0]["promiscuous"] = True
    vfd.write_main()
    vfd.start()
    [warning] = vfd.get(f"/v1/pfs/{vfd.pf}")["warnings"]
    assert warning.startswith("promiscuous is enforced with a limit: the PF has no port")


def test_a_taps_link_that_its_guest_is_not_shown_is_a_warning_or_refused(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd()
    vfd.main["pciids"][0] |= {"guest": "tap"}
    vfd.write_main()
    vfd.start()
    status, answer = vfd.add("down", vfd.vf(0, link_status="off"))
    assert status == 201, answer
    assert any("tell QEMU" in warning for warning in answer["warnings"])
    assert vfd.add("plain", vfd.vf(1, guest_macs="none"))[1]["warnings"] == []
    vfd.stop()
    vfd.main["pciids"][0]["strict"] = True
    vfd.write_main()
    vfd.start()
    status, answer = vfd.add("down2", vfd.vf(2, link_status="off"))
    assert (status, answer["problems"][0]["field"]) == (422, "link_status")


def test_a_nic_that_forces_no_mac_refuses_macs_as_it_would_vm_mac(service: Service) -> None:
    nic_of(service).lacks = frozenset({"vm_mac"})
    first, second = "02:00:00:00:00:01", "02:00:00:00:00:02"
    for stated, field in (({"vm_mac": first}, "vm_mac"), ({"macs": [first, second]}, "macs")):
        with pytest.raises(RefusedError) as refused:
            add(service, "vm1", 0, **stated)
        [problem] = refused.value.problems
        assert problem.field == field
        assert first in problem.value
