"""The packet suite, unchanged, on this kernel: veth and tap guests, with a wire and without.

Of what takes time to show, storm limits and TCP are here; an emulated machine can't offer the
load that shows what classes and guarantees do.
"""

from tests.packet import load
from tests.packet.measured import OFFLOAD, STORMS, Measured
from tests.packet.runner import say
from tests.packet.soft_bench import SoftBench
from tests.packet.test_soft_nic import (
    runner,
    soft,
    test_real_frames_do_as_the_case_says,
    test_without_an_uplink_real_frames_do_as_the_case_says,
    with_runner,
)

__all__ = [
    "runner",
    "soft",
    "test_real_frames_do_as_the_case_says",
    "test_without_an_uplink_real_frames_do_as_the_case_says",
]


@with_runner("row", [*STORMS, *OFFLOAD])
def test_storms_and_tcp_lie_in_their_bounds(soft: SoftBench, row: Measured) -> None:
    say(load.run(soft, row, tcp_reaches=0.7))  # an emulated CPU is slower than the rate
