"""Limits, guarantees and shares as the kernel's queueing has them, to the bit and the byte, without
a clock or a load. What frames make of them: test_rates.py, and measured.py of the packet suite."""

from __future__ import annotations

import json
from typing import Any

from tests.soft.world import World, ip, world

from vfd.nic.netlink import Netlink
from vfd.nic.soft import namespace, rtnl, shaper


def tc(w: World, *arguments: str) -> str:
    """What tc shows in the NIC's namespace."""
    return ip("netns", "exec", f"vfd-{w.id}", "tc", *arguments)


def buckets(w: World, vfid: int) -> list[tuple[int, str, int]]:
    """The Rx limits at a VF's host end: bit/s, bytes that pass at once, the longest wait in
    microseconds."""
    found: list[dict[str, Any]] = json.loads(tc(w, "-j", "-d", "qdisc", "show", "dev", f"v{vfid}"))
    options = [q["options"] for q in found if q["kind"] == "tbf"]
    return [(8 * o["rate"], o["burst"], o["lat"]) for o in options]


def test_an_rx_limit_is_the_kernels_to_the_bit_and_one_that_is_lifted_is_gone() -> None:
    with world(link_speed="1Gbps") as w:
        for rate, bps, burst, wait in (
            ("100Mbps", 100_000_000, "70000b/1", 50_000),
            ("33333336bps", 33_333_336, "69995b/1", 50_000),
            ("8kbps", 8_000, "70000b/1", 70_000_000),
            ("80%", 800_000_000, "100000b/1", 50_000),
        ):
            w.apply(w.vf(0, max_rx_rate=rate), w.vf(1))
            assert buckets(w, 0) == [(bps, burst, wait)]
            assert buckets(w, 1) == []
        w.reopen()
        assert [bps for bps, *_ in buckets(w, 0)] == [800_000_000]
        w.apply(w.vf(0))
        assert buckets(w, 0) == []
        w.apply(w.vf(0, max_rx_rate="1Mbps"))
        assert [bps for bps, *_ in buckets(w, 0)] == [1_000_000]
        w.apply(without=(0,))
        assert buckets(w, 0) == []


def leaves(w: World) -> dict[int, tuple[int, int]]:
    """Of each VF's leaf without classes: what it is guaranteed and the most that it may send."""
    with namespace.inside(f"vfd-{w.id}"):
        netlink = Netlink()
    near = rtnl.link(netlink, name="shaper0")
    assert near is not None
    tree, _ = shaper.read(netlink, near.index)
    netlink.close()
    vfs = {shaper.vf_of_leaf(classid): c for classid, c in tree.items()}
    return {vfid: (c.rate, c.ceil) for vfid, c in vfs.items() if vfid is not None}


def test_a_tx_limit_is_the_kernels_to_the_bit_and_one_that_is_lifted_is_gone() -> None:
    with world(link_speed="1Gbps") as w:
        for rate, bps in (("100Mbps", 10**8), ("33333336bps", 33_333_336), ("10%", 10**8)):
            w.apply(w.vf(0, rate=rate), w.vf(1))
            assert {vfid: ceil for vfid, (_, ceil) in leaves(w).items()} == {0: bps}
        w.apply(w.vf(0, min_rate="600Mbps"), w.vf(1))
        assert leaves(w)[0] == (600_000_000, 2_000_000_000), "no ceiling of its own"
        w.apply(w.vf(0), w.vf(1))
        assert leaves(w) == {}


def classes(w: World, end: int = 0) -> dict[str, str]:
    """The classes at one end of the shaper, by id, as tc shows them, without what is always so."""
    found = {}
    for line in tc(w, "-d", "class", "show", "dev", f"shaper{end}").splitlines():
        _, _, classid, *words = line.split()
        shown = dict(zip(words[::2], words[1::2], strict=False)) if words[0] == "parent" else {}
        if not shown:  # "root rate …"
            shown = {"parent": "root", **dict(zip(words[1::2], words[2::2], strict=False))}
        names = ("parent", "prio", "quantum", "rate", "ceil", "burst", "cburst")
        found[classid] = " ".join(shown[n].removesuffix("/1") for n in names if n in shown)
    return found


LINK = "root 1Gbit 1Gbit 125000b 125000b"
CLASS = "1:1 250Mbit 1Gbit 70000b 125000b"


def test_guarantees_and_what_is_lent_beside_them_are_the_kernels_to_the_byte() -> None:
    with world(vfs=3, link_speed="1Gbps") as w:
        w.apply(w.vf(0, min_rate="600Mbps", rate="800Mbps"), w.vf(1, min_rate="200Mbps"), w.vf(2))
        assert classes(w) == {
            "1:1": LINK,
            "1:1000": "1:1 0 210000 600Mbit 800Mbit 75000b 100000b",
            "1:1008": "1:1 0 70000 200Mbit 2Gbit 70000b 250000b",
            "1:1010": "1:1 0 70000 10Kbit 2Gbit 70000b 250000b",
        }
        assert classes(w, 1) == {}


def test_shares_of_a_class_are_the_kernels_to_the_byte() -> None:
    with world(link_speed="1Gbps", enable_qos=True) as w:
        shares = ([{"priority": 0, "share": share}] for share in (80, 20))
        w.apply(*(w.vf(vfid, queues=queues) for vfid, queues in enumerate(shares)))
        found = classes(w)
        assert found["1:1"] == LINK
        assert [found[f"1:4{n}"] for n in range(4)] == [CLASS] * 4
        assert found["1:1000"] == "1:40 0 280000 200Mbit 1Gbit 70000b 125000b"
        assert found["1:1008"] == "1:40 0 70000 50Mbit 1Gbit 70000b 125000b"
        others = [found[f"1:10{n:02x}"] for n in (1, 2, 3, 9, 10, 11)]
        half = "0 70000 125Mbit 1Gbit 70000b 125000b"
        assert others == [f"1:4{n} {half}" for n in (1, 2, 3) * 2], "nothing is said of these"
        assert classes(w, 1) == {}


def test_a_rate_over_all_classes_is_a_tree_of_its_own_to_the_byte() -> None:
    with world(link_speed="1Gbps", enable_qos=True) as w:
        w.apply(w.vf(0, rate="100Mbps"), w.vf(1))
        leaf = "1:100 0 70000 23437Kbit 100Mbit 69999b 70000b"
        assert classes(w, 1) == {
            "1:100": "root 100Mbit 100Mbit 70000b 70000b",
            **{f"1:100{n}": leaf for n in range(4)},
        }
        w.apply(w.vf(0), w.vf(1))
        assert classes(w, 1) == {}


def test_classes_of_the_link_are_the_kernels_to_the_byte() -> None:
    stated = [
        {"pri": 0, "min_bw": 10, "max_bw": 50},
        {"pri": 1, "min_bw": 20},
        {"pri": 2, "min_bw": 30},
        {"pri": 3, "lsp": True, "max_bw": 80},
    ]
    with world(vfs=1, link_speed="1Gbps", enable_qos=True, tclasses=stated) as w:
        w.apply(w.vf(0))
        assert classes(w) == {
            "1:1": LINK,
            "1:40": "1:1 100Mbit 500Mbit 70000b 70000b",
            "1:41": "1:1 200Mbit 1Gbit 70000b 125000b",
            "1:42": "1:1 300Mbit 1Gbit 69975b 125000b",
            "1:43": "1:1 400Mbit 800Mbit 70000b 100000b",
            "1:1000": "1:40 1 70000 100Mbit 500Mbit 70000b 70000b",
            "1:1001": "1:41 1 140000 200Mbit 1Gbit 70000b 125000b",
            "1:1002": "1:42 1 210000 300Mbit 1Gbit 69975b 125000b",
            "1:1003": "1:43 0 280000 400Mbit 800Mbit 70000b 100000b",
        }
