"""Frames that end within their Ethernet header: no road leads from a guest to the NIC for them.

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
