"""Counters that follow from a step's frames: SEMANTICS counts packets and bytes on the wire.

Written down here apart from the reference model, so that the two can disagree.
"""

from __future__ import annotations

from collections import Counter

from .case import WIRE, Send

REFUSED = ("spoofed", "dropped_untagged", "oversize", "rate_dropped", "storm_dropped")


def traffic(step: Send, raw: bytes, own_mac: dict[int, str]) -> Counter[tuple[int, str]]:
    """(port, counter) → by how much ``step``, whose frame was ``raw``, moves it.

    A guest's frame counts as tx once it has passed the VF's Tx rules, with the bytes that the
    guest sent; refused, as tx_dropped besides the reason. What a guest is given counts as rx
    with the bytes it is given. The wire's rx is what came from it, its tx what left.
    """
    moves = Counter(dict(step.moves))
    refused = any(step.moves.get((step.port, reason)) for reason in REFUSED)
    if step.port == WIRE:
        moves[WIRE, "rx_packets"] += 1
        moves[WIRE, "rx_bytes"] += len(raw)
    elif refused:
        moves[step.port, "tx_dropped"] += 1
    elif not step.moves.get((step.port, "tx_dropped")):
        moves[step.port, "tx_packets"] += 1
        moves[step.port, "tx_bytes"] += len(raw)
    for (port, counter), count in step.moves.items():
        if counter == "dropped_vlan":
            moves[port, "rx_dropped"] += count
    for port, frames in step.out.items():
        way = "tx" if port == WIRE else "rx"
        for frame in frames:
            moves[port, f"{way}_packets"] += 1
            moves[port, f"{way}_bytes"] += len(frame.with_marker(bytes(8), own_mac))
    return moves


def link_is_down(step: Send) -> set[int]:
    """Ports where the step says that a frame was lost to a link that is down.

    What counts such a frame, the NIC or the guest's own driver that never let it go, differs
    from NIC to NIC.
    """
    return {port for port, counter in step.moves if counter in ("tx_dropped", "rx_dropped")}
