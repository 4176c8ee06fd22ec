"""rtnetlink's settings of VFs, on the kernel's side of the socket (vf_operations.py)."""

from __future__ import annotations

import errno
import os
from copy import deepcopy
from dataclasses import replace

import pytest
from tests.kernel.vf_operations import PfNetdev, PlainVfs, VfSeen

from vfd.nic.kernel import counters
from vfd.nic.kernel.drivers import driver_named
from vfd.nic.kernel.link import read_link
from vfd.nic.kernel.rtnl import Rtnetlink
from vfd.nic.kernel.rtnl_order import in_order
from vfd.nic.kernel.surface import Assignment, assign
from vfd.nic.kernel.vfinfo import LINK_OFF, VfSettings
from vfd.nic.netlink import Message, NetlinkError
from vfd.nic.protocol import NicError
from vfd.policy.values import VfRules

CLOSED = Assignment(None, frozenset())


def access(vid: int, **more: object) -> Assignment:
    rules = VfRules(vlans=[vid], strip_ctag=True, **more)
    return Assignment(rules, frozenset(VfRules.model_fields))


def surface_on(driver: str, vfs: PlainVfs) -> tuple[Rtnetlink, PfNetdev]:
    netdev = PfNetdev(vfs)
    return Rtnetlink(netdev, 1, driver_named(driver)), netdev


def vlan_of(calls: PlainVfs, vfid: int, number: int) -> tuple[int, bool]:
    """The VF's VLAN and whether its link may be up, after the first ``number`` calls."""
    vlan, up = 0, True
    for who, words in calls.calls[:number]:
        if who == vfid and words[0] == "vlan":
            vlan = int(words[1])
        if who == vfid and words[0] == "state":
            up = words[1] != "2"
    return vlan, up


class Unreadable(PfNetdev):
    """A kernel that refuses to tell of the PF."""

    number = errno.EMSGSIZE

    def get(self, kind: int, body: bytes, what: str = "") -> bytes:
        raise NetlinkError(self.number, Message(kind, body, what=what), os.strerror(self.number), 0)


@pytest.mark.parametrize(
    ("number", "why"),
    [(errno.EMSGSIZE, "make fewer"), (errno.EPERM, "Operation not permitted")],
)
@pytest.mark.parametrize("stats", [False, True])
def test_a_pf_that_the_kernel_does_not_tell_of_is_told_by_the_reason(
    number: int, why: str, stats: bool
) -> None:
    netdev = Unreadable(PlainVfs([VfSeen()]))
    netdev.number = number
    with pytest.raises(NicError, match=why):
        read_link(netdev, 1, stats=stats)


def test_a_vf_that_closes_has_its_link_off_before_it_leaves_its_vlan() -> None:
    vfs = PlainVfs([VfSeen()])
    surface, _ = surface_on("ice", vfs)
    surface.write({0: access(10)})
    before = len(vfs.calls)
    surface.write({0: CLOSED})
    words = [call[1][0] for call in vfs.calls[before:]]
    assert words.index("state") < words.index("vlan")


@pytest.mark.parametrize("wanted", [{0: 20, 1: 10}, {0: 20, 1: 30, 2: 10}, {0: 30, 2: 20, 1: 10}])
def test_vfs_that_change_vlans_share_none_meanwhile(wanted: dict[int, int]) -> None:
    vfs = PlainVfs([VfSeen() for _ in range(3)])
    surface, netdev = surface_on("ice", vfs)
    surface.write({vfid: access(10 * (vfid + 1)) for vfid in range(3)})
    before, messages = len(vfs.calls), netdev.messages
    surface.write({vfid: access(vid) for vfid, vid in wanted.items()})
    for number in range(before, len(vfs.calls) + 1):
        here = [vlan_of(vfs, vfid, number) for vfid in range(3)]
        in_use = [vlan for vlan, up in here if up]
        assert len(in_use) == len(set(in_use)), here
    assert netdev.messages == messages + 1
    assert {vfid: vfs.seen[vfid].vlan for vfid in wanted} == wanted
    assert {vf.link_state for vf in vfs.seen} == {0}


def test_pcp_is_the_port_vlans_priority_both_ways() -> None:
    vfs = PlainVfs([VfSeen(), VfSeen()])
    surface, _ = surface_on("ice", vfs)
    surface.write({0: access(10, pcp=5), 1: access(11)})
    assert [(vf.vlan, vf.qos) for vf in vfs.seen] == [(10, 5), (11, 0)]
    assert surface.read()[0] == surface.express(access(10, pcp=5))
    vfs.seen[1].qos = 3  # somebody else's ip link set … qos 3
    assert surface.read()[1]["pcp"] == 3
    assert surface.read()[1]["strip_ctag"] is True
    surface.write({0: access(10, pcp=1), 1: access(11)})
    assert [(vf.vlan, vf.qos) for vf in vfs.seen] == [(10, 1), (11, 0)]


def test_a_pcp_that_no_tag_would_have_asks_for_no_surface() -> None:
    trunk = VfRules(vlans=[5, 6], pcp=3)
    assert "pcp" not in assign(trunk, [])[1]
    assert "pcp" in assign(VfRules(vlans=[5], strip_ctag=True, pcp=3), [])[1]


def test_vfs_that_follow_each_other_keep_their_links() -> None:
    now = VfSettings(vlan=10, link_state=0)
    changes = {0: (now, replace(now, vlan=20)), 1: (replace(now, vlan=20), replace(now, vlan=30))}
    steps = list(in_order(changes))
    assert [step.vfid for step in steps] == [1, 0]
    assert LINK_OFF not in {step.after.link_state for step in steps}


def test_a_refused_setting_leaves_a_guests_own_mac_free() -> None:
    """igb would hold the guest to a MAC that is put back as a forced one."""
    vfs = PlainVfs([VfSeen()])
    surface, _ = surface_on("igb", vfs)
    surface.write({0: access(10)})
    vfs.seen[0].mac = "02:99:00:00:00:01"  # the guest's own choice
    vfs.refuses["vlan", "20", "0", "802.1Q"] = errno.EINVAL
    before = len(vfs.calls)
    with pytest.raises(NicError, match="refused"):
        surface.write({0: access(20)})
    assert not [words for _, words in vfs.calls[before:] if words[0] == "mac"]
    with pytest.raises(NicError, match="refused"):
        surface.write({0: access(20, vm_mac="02:00:00:00:00:05")})
    assert "02:99:00:00:00:01" not in [words[1] for _, words in vfs.calls if words[0] == "mac"]
    assert surface.read()[0]["vm_mac"] is None


@pytest.mark.parametrize("refused", [0, 1, 2])
def test_a_setting_refused_of_one_vf_leaves_those_before_and_after_it_as_they_were(
    refused: int,
) -> None:
    vfs = PlainVfs([VfSeen() for _ in range(3)])
    surface, _ = surface_on("ice", vfs)
    surface.write({vfid: access(10 + vfid, rate="100Mbps") for vfid in range(3)})
    before = deepcopy(vfs.seen)
    vfs.refuses["vlan", str(20 + refused), "0", "802.1Q"] = errno.EINVAL
    with pytest.raises(NicError, match="refused"):
        surface.write({vfid: access(20 + vfid, rate="200Mbps") for vfid in range(3)})
    assert vfs.seen == before


def test_a_vf_that_takes_nothing_any_more_keeps_no_other_from_being_put_back() -> None:
    vfs = PlainVfs([VfSeen(), VfSeen()])
    surface, _ = surface_on("ice", vfs)
    surface.write({0: access(10), 1: access(11)})
    before = deepcopy(vfs.seen)
    vfs.breaks[0] = ("vlan", "11", "0", "802.1Q")  # which VF 1 has left by then
    with pytest.raises(NicError, match=r"Undoing it failed: .*VF 0"):
        surface.write({0: access(11, vm_mac="02:00:00:00:00:05"), 1: access(21)})
    assert (1, ("vlan", "21", "0", "802.1Q")) in vfs.calls
    assert vfs.seen[1] == before[1]


def test_rates_are_read_back_as_somebody_else_set_them() -> None:
    vfs = PlainVfs([VfSeen()])
    surface, _ = surface_on("ice", vfs)
    surface.write({0: access(10, rate="200Mbps", min_rate="100Mbps")})
    vfs.seen[0].minimum, vfs.seen[0].maximum = 50, 70
    shown = surface.read()[0]
    assert (shown["min_rate"].bps, shown["rate"].bps) == (50_000_000, 70_000_000)


@pytest.mark.parametrize("count", [256, 330])
def test_many_vfs_are_set_in_messages_that_fit(count: int) -> None:
    vfs = PlainVfs([VfSeen() for _ in range(count)])
    surface, netdev = surface_on("ice", vfs)
    wanted = {
        vfid: access(1 + vfid, vm_mac=f"02:00:00:00:{vfid >> 8:02x}:{vfid & 255:02x}", trust=True)
        for vfid in range(count)
    }
    surface.write(wanted)
    assert [vf.vlan for vf in vfs.seen] == list(range(1, count + 1))
    surface.write(dict.fromkeys(range(count), CLOSED))
    assert {vf.vlan for vf in vfs.seen} == {0}
    assert netdev.messages <= 4


def test_more_vfs_than_the_kernel_tells_of_are_an_error_that_says_so() -> None:
    surface, _ = surface_on("ice", PlainVfs([VfSeen() for _ in range(400)]))
    with pytest.raises(NicError, match=r"400 VFs.*fewer"):
        surface.read()


@pytest.mark.parametrize("vfid", [0, 1, 2])
def test_a_vf_in_a_reset_is_waited_for_and_one_that_stays_in_it_is_named(vfid: int) -> None:
    vfs = PlainVfs([VfSeen(vlan=7, counters={"rx_packets": n}) for n in range(3)])
    surface, netdev = surface_on("ice", vfs)
    vfs.seen[vfid].readings_in_reset = 3
    assert surface.read()[vfid]["vlans"] == (7,)
    vfs.seen[vfid].readings_in_reset = 3
    assert counters.read(netdev, 1, driver_named("ice"))[vfid]["rx_packets"] == vfid
    vfs.seen[vfid].readings_in_reset = 1000
    with pytest.raises(NicError, match=rf"nothing of VF {vfid} for .*reset"):
        surface.read()


def test_vfs_too_many_for_an_answer_with_counters_have_none() -> None:
    vfs = PlainVfs([VfSeen() for _ in range(300)])
    found = counters.read(PfNetdev(vfs), 1, driver_named("ice"))
    assert found[0] == {}
    vfs.seen = [VfSeen(counters={"rx_packets": 5}) for _ in range(4)]
    assert counters.read(PfNetdev(vfs), 1, driver_named("ice"))[3]["rx_packets"] == 5
