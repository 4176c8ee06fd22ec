"""A race shows what a frame costs, and no figure of a lane that does not carry its frames."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from bench import tcx
from bench.contestants import (
    CLSACT,
    FIRST_VF,
    TCX,
    THIS,
    BareVeth,
    BridgeNft,
    Floor,
    Generator,
    SoftNic,
    Version,
    mac_of,
)
from bench.traffic import RTT, TCP, BenchError, Tools, race, received, run
from tools.compile_bpf import compile_one

from vfd.nic.soft import libbpf

pytestmark = [pytest.mark.root, pytest.mark.measured]

SPUN = 2000
SPIN = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
static void spin(void)
{
	__u64 begun = bpf_ktime_get_ns();

	for (int i = 0; i < 1000 && bpf_ktime_get_ns() - begun < SPUN; i++)
		;
}
SEC("tc/peer") int peer(struct __sk_buff *skb)
{
	spin();
	return bpf_redirect_peer(skb->ifindex ^ 1, 0);
}
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""
"""Spins for ``SPUN`` nanoseconds, and as long as the clock takes to be read, on any CPU."""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return Tools.build(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


def test_a_frame_is_shown_to_cost_what_it_costs(
    tools: Tools, stack: ExitStack, tmp_path: Path
) -> None:
    """A program that spins longer takes as much longer; the same thing twice costs the same;
    sending alone costs less than sending and receiving."""

    def spinning(nanoseconds: int) -> Floor:
        source = tmp_path / f"spin-{nanoseconds}.bpf.c"
        source.write_text(f"#define SPUN {nanoseconds}\n{SPIN}")
        compile_one(source, compiled := source.with_suffix(".o"))
        return Floor(replace(tools, floor=compiled), CLSACT, peer=True)

    generator, bare, twin, short, long = (
        stack.enter_context(each)
        for each in (Generator(), BareVeth(), BareVeth(), spinning(SPUN), spinning(2 * SPUN))
    )
    for each in (bare, twin, short, long):
        each.swallow(tools.sink)
    lanes = [each.lane() for each in (generator, bare, twin, short, long)]
    for kind in ("imix", "60"):
        slices = race(tools, kind, lanes, 40)
        sending, one, other, some, twice = lanes
        assert slices.ratio(other, one).median == pytest.approx(1, abs=0.03)
        assert 0.2 < slices.ratio(sending, one).median < 0.8
        assert slices.median(twice) - slices.median(some) == pytest.approx(SPUN, rel=0.15)


def test_what_the_cpus_thread_for_softirqs_works_is_in_the_cost(
    tools: Tools, stack: ExitStack
) -> None:
    """A process stands for it that never rests, and is stopped every other time."""
    bare = stack.enter_context(BareVeth())
    bare.swallow(tools.sink)
    program = "print('begun', flush=True)\nwhile True: pass"
    thread = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    stack.callback(thread.communicate)
    stack.callback(thread.kill)
    assert thread.stdout is not None
    assert thread.stdout.readline() == b"begun\n"

    def cost() -> float:
        out = run(str(tools.race), "60", "1", str(thread.pid), "0.02", "5",
                  bare.lane().arguments("60"))  # fmt: skip
        slices = [line.split() for line in out.splitlines() if line.startswith("slice")]
        return statistics.median(float(cost) for _, _, cost in slices)

    ratios = []
    for _ in range(7):
        thread.send_signal(signal.SIGCONT)
        busy = cost()
        thread.send_signal(signal.SIGSTOP)
        ratios.append(busy / cost())
    assert 1.8 < statistics.median(ratios) < 2.2


def test_every_other_round_goes_backwards(tools: Tools, stack: ExitStack) -> None:
    pair = [stack.enter_context(BareVeth()).lane().arguments("60") for _ in range(2)]
    out = run(str(tools.race), "60", "0", str(os.getpid()), "0.001", "4", *pair)
    turns = [line.split()[1] for line in out.splitlines() if line.startswith("slice")]
    assert turns == ["0", "1", "1", "0", "0", "1", "1", "0"]


def test_a_lane_whose_frames_do_not_arrive_has_no_figure(tools: Tools, stack: ExitStack) -> None:
    bridge = stack.enter_context(BridgeNft(3))
    bridge.swallow(tools.sink)
    spoofed = replace(bridge.lane(), source_mac="02:be:00:00:77:77")
    with pytest.raises(BenchError, match=r"nft bridge.*: 0 of \d+ frames arrived"):
        race(tools, "60", [spoofed], 2)
    assert race(tools, "60", [bridge.lane()], 2).by
    with pytest.raises(BenchError, match=r"nft bridge.*: \d+ of \d+ frames arrived"):
        race(tools, "60", [bridge.lane(), spoofed], 2)  # to the same guest


def test_every_flow_of_a_software_nic_arrives(tools: Tools, stack: ExitStack) -> None:
    nic = SoftNic(8, wired=True)
    stack.enter_context(nic)
    for netns in ("g1", "park", "w"):
        nic.swallow(tools.sink, netns=nic.prefix + netns)
    flows = list(nic.flows())
    assert set(race(tools, "imix", flows, 2).by) == set(flows)
    in_turn = next(lane for lane in flows if lane.what == "destinations in turn")
    assert [sink.mac for sink in in_turn.sinks] == [mac_of(port) for port in range(2, 8)]
    shares = [received([sink]) for sink in in_turn.sinks]
    assert min(shares) > 0.9 * max(shares)


def test_sockets_run_once_nothing_swallows_their_packets(tools: Tools, stack: ExitStack) -> None:
    nic = SoftNic(2, vlan=True)
    lanes = []
    for each in (stack.enter_context(BareVeth()), stack.enter_context(nic)):
        each.swallow(tools.sink)
        each.swallow(tools.sink, stop=True)
        lanes.append(each.lane())
    for kind in (TCP, RTT):
        slices = race(tools, kind, lanes, 2)
        assert all(slices.median(lane) > 0 for lane in lanes)


def test_another_versions_nic_is_made_by_its_own_source(
    tools: Tools, stack: ExitStack, tmp_path: Path
) -> None:
    """Here one that calls its program otherwise."""
    shutil.copytree(THIS.root / "src", tmp_path / "src")
    named = tmp_path / "src/vfd/nic/soft/datapath.py"
    named.write_text(named.read_text().replace('f"veb-', 'f"other-'))
    nic = SoftNic(2, Version("another", tmp_path))
    stack.enter_context(nic)
    nic.swallow(tools.sink)
    block = run("tc", "-n", f"vfd-{nic.prefix[1:]}", "filter", "show", "block", "2")
    assert "other-" in block
    assert race(tools, "60", [nic.lane()], 2).by


def test_a_hook_is_what_the_kernel_says_that_it_is(tools: Tools, stack: ExitStack) -> None:
    """Where the kernel has TCX, the software NIC without is one that lost its hooks."""
    ports = range(FIRST_VF, FIRST_VF + 2)
    plain = stack.enter_context(Floor(tools, CLSACT, peer=True))
    assert tcx.attached(f"{plain.prefix}sw", ports) == {}
    nic = SoftNic(2, clsact=True)
    stack.enter_context(nic)
    nic.swallow(tools.sink)
    assert nic.hook == CLSACT
    assert race(tools, "60", [nic.lane()], 2).by
    try:
        fast = stack.enter_context(Floor(tools, TCX, peer=True))
    except libbpf.BpfError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("this kernel has no TCX")
    fast.swallow(tools.sink)
    assert set(tcx.attached(f"{fast.prefix}sw", ports)) == set(ports)
    assert race(tools, "60", [fast.lane()], 2).by
    tcx.detach(f"{fast.prefix}sw", ports)
    assert tcx.attached(f"{fast.prefix}sw", ports) == {}
    with pytest.raises(BenchError, match="0 of"):
        race(tools, "60", [fast.lane()], 2)
