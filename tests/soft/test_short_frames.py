"""Frames that end early.

No road leads from a guest to the NIC for those that end within their Ethernet header.
BPF_PROG_TEST_RUN takes none either, so the program's own look at the length is shown by nothing but
frames that end within their tag (tests/bpf, tests/packet).
"""

from __future__ import annotations

import errno
import os

import pytest
from tests.soft.world import World, world

from vfd.nic.soft.tap import open_tap

HEADER = 14
VNET_HEADER = 10


def counted(w: World) -> dict[str, int]:
    return dict(w.nic.counters()[0])


@pytest.mark.parametrize("size", [1, HEADER - 1])
def test_a_packet_socket_takes_none(size: int) -> None:
    """packet_snd and dev_validate_header, net/packet/af_packet.c, include/linux/netdevice.h."""
    with world() as w:
        w.apply(w.vf(0), w.vf(1))
        w.guest(0, silent=True)
        w.settle()
        before = counted(w)
        port = w.port(0)
        with pytest.raises(OSError, match="Invalid argument") as refused:
            port.send(bytes(size))
        assert refused.value.errno == errno.EINVAL
        assert counted(w) == before
        port.send(bytes(HEADER))
        assert counted(w)["tx_dropped"] == before["tx_dropped"] + 1


@pytest.mark.parametrize("size", [1, HEADER - 1])
def test_a_tap_takes_none(size: int) -> None:
    """tun_get_user, drivers/net/tun.c."""
    with world(guest="tap") as w:
        w.apply(w.vf(0), w.vf(1))
        tap = open_tap(f"{w.id}v0")
        try:
            w.settle()
            before = counted(w)
            with pytest.raises(OSError, match="Invalid argument"):
                os.write(tap, bytes(VNET_HEADER + size))
            assert counted(w) == before
            os.write(tap, bytes(VNET_HEADER + HEADER))
            assert counted(w)["tx_dropped"] == before["tx_dropped"] + 1
        finally:
            os.close(tap)


CUT = {
    "8100 0000 8100 0190 88b5": "spoofed",  # whole
    "8100 0000 8100 0190": "spoofed",
    "8100 0000 88a8 0190": "spoofed",
    "8100 0000 8100 0000 8100 01": "spoofed",
    "8100 0064 8100 0190": "tx_packets",
    "8100 0064 8100 0190 8100": "tx_packets",
    "8100 0000 88b5 0000": "tx_packets",
    "8100 0064 8808 0001": "spoofed",
    "8100 0064 8100 0001 8808": "spoofed",
    "8808": "spoofed",
    # skb_vlan_untag (net/core/skbuff.c) looks at six bytes behind the first TPID
    "8100 0000 8100 01": "",
    "8100 0000 8100": "",
    "8100 0064": "",
}
"""What follows the addresses, and the counter that moves; empty: the kernel drops it before."""


@pytest.mark.parametrize("guest", ["veth", "tap"])
def test_tags_that_are_cut_off_behind_a_priority_tag_are_refused_as_whole_ones(guest: str) -> None:
    with world(guest=guest) as w:
        mac = "02:00:00:00:11:00"
        w.apply(w.vf(0, vlans=[100, 400], vm_mac=mac), w.vf(1))
        if guest == "veth":
            w.guest(0, silent=True)
            send = w.port(0).send
        else:
            tap = open_tap(f"{w.id}v0")

            def send(raw: bytes) -> None:
                os.write(tap, bytes(VNET_HEADER) + raw)

        w.settle()
        for tags, counter in CUT.items():
            before = counted(w)
            send(bytes.fromhex("02ff00000001" + mac.replace(":", "") + tags))
            after = counted(w)
            moved = {name for name in ("spoofed", "tx_packets", "dropped_untagged", "tx_errors")
                     if after[name] != before[name]}  # fmt: skip
            assert moved == {counter} - {""}, tags
        if guest == "tap":
            os.close(tap)
