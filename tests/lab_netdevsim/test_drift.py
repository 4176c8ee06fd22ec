"""What was changed by hand is told, whatever the backend did or looked at meanwhile."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest
from tests.lab_netdevsim.simulated import Simulated, run, until

from vfd.nic.protocol import Event, EventKind
from vfd.plan.changes import VfChange


@pytest.fixture
def settled(legacy: Simulated) -> Simulated:
    """Up, with policies, which has been told."""
    run("ip", "link", "set", legacy.netdev, "up")  # of a PF that is down, the kernel tells nothing
    legacy.set(legacy.vf(0, 5, strip_ctag=True), legacy.vf(1, 6, strip_ctag=True))
    legacy.nic.observe()
    legacy.nic.events()
    return legacy


def told(nic: Simulated, kind: EventKind, vfid: int | None) -> Event:
    found: list[Event] = []

    def is_told() -> bool:
        found.extend(e for e in nic.nic.events() if e.kind is kind and e.vfid == vfid)
        return bool(found)

    until(is_told)
    return found[0]


def test_looking_at_the_nic_first_does_not_hide_drift(settled: Simulated) -> None:
    run("ip", "link", "set", settled.netdev, "vf", "0", "vlan", "7")
    settled.nic.observe()
    told(settled, EventKind.DRIFT, 0)


def test_a_change_of_another_vf_does_not_hide_drift(settled: Simulated) -> None:
    after = settled.policy.by_vfid()[1].rules.model_copy(update={"vlans": (8,)})
    run("ip", "link", "set", settled.netdev, "vf", "0", "vlan", "7")
    change = VfChange(1, settled.observed()[1], settled.nic.expressible(1, after))
    settled.nic.apply(settled.policy, [change])
    told(settled, EventKind.DRIFT, 0)


def test_our_own_changes_are_not_told(settled: Simulated) -> None:
    settled.set(settled.vf(0, 9, strip_ctag=True, rate="3Gbps"), mtu=1600, promiscuous=True)
    settled.set(settled.vf(2, 9, strip_ctag=True), vfs=6)
    assert [e for e in settled.nic.events() if e.kind is EventKind.DRIFT] == []


@pytest.mark.parametrize(("by_hand", "word"), [("mtu 1400", "mtu"), ("promisc on", "promiscuous")])
def test_the_pfs_own_settings_changed_by_hand_are_drift(
    settled: Simulated, by_hand: str, word: str
) -> None:
    run("ip", "link", "set", settled.netdev, *by_hand.split())
    assert word in told(settled, EventKind.DRIFT, None).text


def test_what_changed_while_the_pf_was_down_is_told_when_it_is_up_again(
    settled: Simulated,
) -> None:
    run("ip", "link", "set", settled.netdev, "down")
    told(settled, EventKind.LINK, None)
    run("ip", "link", "set", settled.netdev, "vf", "0", "vlan", "7")
    settled.nic.observe()
    run("ip", "link", "set", settled.netdev, "up")
    told(settled, EventKind.DRIFT, 0)


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [("SUCCESSFUL_RECOVERY", EventKind.VF_RESET), ("FAILED_RECOVERY", EventKind.LOST)],
)
def test_a_pci_error_is_told_with_how_it_ended(
    settled: Simulated, outcome: str, kind: EventKind
) -> None:
    uevent(settled.name, "BEGIN_RECOVERY")
    uevent(settled.name, outcome)
    assert "PCI error" in told(settled, kind, None).text


def test_the_same_drift_is_told_as_often_as_it_is_made_and_repaired(settled: Simulated) -> None:
    """Also where the repair and the next drift are heard of at once."""
    right, after = settled.observed()[0], settled.policy
    for _ in range(6):
        run("ip", "link", "set", settled.netdev, "vf", "0", "vlan", "7")
        told(settled, EventKind.DRIFT, 0)
        settled.nic.apply(after, [VfChange(0, settled.observed()[0], right)])
        assert settled.observed()[0] == right


def test_a_failure_that_the_driver_recovers_from_is_told(settled: Simulated) -> None:
    """netdevsim's reporter "dummy" fails when it is told to (drivers/net/netdevsim/health.c)."""
    health = Path("/sys/kernel/debug/netdevsim") / settled.name / "health"
    (health / "break_health").write_text("broken by a test")
    texts: list[str] = []

    def recovered() -> bool:
        texts.extend(e.text for e in settled.nic.events() if e.kind is EventKind.VF_RESET)
        return any("dummy has recovered" in text for text in texts)

    until(recovered)


def uevent(address: str, error: str) -> None:
    """The kernel tells what root hands it as a uevent to everyone (lib/kobject_uevent.c,
    uevent_net_rcv_skb); the form is that of pci_uevent_ers (drivers/pci/pci-driver.c)."""
    path = f"/devices/{address}"
    pairs = ("ACTION=change", f"DEVPATH={path}", "SUBSYSTEM=pci", f"PCI_SLOT_NAME={address}")
    text = "\0".join((f"change@{path}", *pairs, f"ERROR_EVENT={error}", ""))
    header = struct.pack("=IHHII", 16 + len(text), 16, 1, 0, 0)  # any type, NLM_F_REQUEST
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as kernel:
        kernel.sendto(header + text.encode(), (0, 0))
