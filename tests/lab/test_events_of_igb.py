"""What happens to the emulated 82576 and its VFs, as their backend tells it."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.qmp import Qmp
from tests.lab.daemon import ip, netdev_of, until
from tests.lab.igb import DEVICE, PF, pf_name, vf_address

from vfd.nic import kernel
from vfd.nic.kernel.nic import KernelNic
from vfd.nic.kernel.sriov import DRIVERS, write_patiently
from vfd.nic.protocol import EventKind
from vfd.policy.values import PfPolicy

VF = 1
GUEST = f"guest-{os.getpid()}"
MOVES = 30
FLOOD = 4000
"""Uevents that no socket's buffer takes. Messages of netdevs are larger."""


@pytest.fixture
def nic() -> Iterator[KernelNic]:
    DEVICE.set_num_vfs(2)
    until("the VF's netdev", lambda: netdev_of(vf_address(VF)))
    until("the link", lambda: DEVICE.link(pf_name()).up)
    opened = kernel.open(PfPolicy(id=PF, vfs=2))
    assert isinstance(opened, KernelNic)
    opened.events()
    opened.observe()
    ip("netns", "add", GUEST)
    yield opened
    ip("netns", "del", GUEST)
    opened.close()
    DEVICE.set_num_vfs(0)
    ip("link", "set", pf_name(), "up")  # which a PF that was bound anew is not
    until("the link", lambda: DEVICE.link(pf_name()).up)


def kinds(nic: KernelNic) -> list[EventKind]:
    return [each.kind for each in nic.events()]


def lose_what_comes() -> None:
    """So many messages that those which come now are lost."""
    uevent = Path("/sys/class/net/lo/uevent")
    for _ in range(FLOOD):
        uevent.write_text("change")
    turns = "".join(f"link set lo mtu {65536 - turn % 2}\n" for turn in range(FLOOD // 2 + 1))
    subprocess.run(["ip", "-batch", "-"], input=turns, text=True, check=True, timeout=120)


def test_a_guest_that_comes_between_two_looks_at_the_nic_is_told(nic: KernelNic) -> None:
    ip("link", "set", netdev_of(vf_address(VF)), "netns", GUEST)
    assert nic.observe().vfs[VF].held
    assert (EventKind.GUEST_COME, VF) in [(each.kind, each.vfid) for each in nic.events()]


def test_a_netdev_that_changes_its_namespace_is_told_however_soon_one_looks(nic: KernelNic) -> None:
    """The kernel tells of it before sysfs shows it: __dev_change_net_namespace."""
    told: list[EventKind] = []
    ended = threading.Event()

    def listen() -> None:
        while not ended.is_set():
            if select.select([nic.fileno()], [], [], 0.1)[0]:
                told.extend(each.kind for each in nic.events() if each.vfid == VF)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        name = netdev_of(vf_address(VF))
        for turn in range(MOVES):
            ip("link", "set", name, "netns", GUEST)
            until(f"guest-come {turn}", lambda: EventKind.GUEST_COME in told)
            told.clear()
            ip("-n", GUEST, "link", "set", name, "netns", "1")
            until(f"guest-gone {turn}", lambda: EventKind.GUEST_GONE in told)
            told.clear()
            time.sleep(0.01)
    finally:
        ended.set()
        listener.join()


def test_a_pf_that_was_bound_anew_while_messages_were_lost_is_back(nic: KernelNic) -> None:
    lose_what_comes()
    driver = DRIVERS / "igb"
    write_patiently(driver / "unbind", PF)
    write_patiently(driver / "bind", PF)
    told = kinds(nic)
    assert EventKind.OVERRUN in told
    assert EventKind.BACK in told
    assert not nic.observe().vfs


def test_a_pf_that_goes_and_comes_while_messages_are_lost_is_told(nic: KernelNic) -> None:
    driver = DRIVERS / "igb"
    lose_what_comes()
    write_patiently(driver / "unbind", PF)
    assert EventKind.LOST in kinds(nic)
    lose_what_comes()
    write_patiently(driver / "bind", PF)
    assert EventKind.BACK in kinds(nic)


def test_a_link_that_goes_among_lost_messages_is_told(nic: KernelNic) -> None:
    lose_what_comes()
    with Qmp() as qmp:
        qmp.set_link("igb0", up=False)
        until("the link", lambda: not DEVICE.link(pf_name()).up)
        told = kinds(nic)
        qmp.set_link("igb0", up=True)
    until("the link", lambda: DEVICE.link(pf_name()).up)
    assert EventKind.OVERRUN in told
    assert EventKind.LINK in told
