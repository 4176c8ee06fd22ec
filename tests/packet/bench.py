"""What a backend must offer to be put under the packet suite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from vfd.nic.protocol import Counters
from vfd.policy.requests import Request
from vfd.policy.values import NicPolicy


class Bench(Protocol):
    """A NIC with ``case.VFS`` VFs, a guest in each, and a station at the wire.

    Guests send only what they are told to: their own stacks must be silent.
    """

    @property
    def name(self) -> str: ...

    @property
    def own_mac(self) -> Mapping[int, str]:
        """The MACs that the NIC itself gave to its VFs, where no policy forces one."""
        ...

    @property
    def counted(self) -> frozenset[str]:
        """The counters that the NIC has."""
        ...

    @property
    def counts_link_down(self) -> bool:
        """Whether frames lost to a VF's link being down are counted as rx and tx_dropped: where
        a guest's own driver does not let them go, the NIC never sees them."""
        ...

    def configure(self, nic: NicPolicy) -> None:
        """Makes the NIC enforce ``nic`` (its PF's name and uplink replaced by the bench's own)
        by what differs from now. The wire is up afterwards, guests' grants are gone."""
        ...

    def become(self, nic: NicPolicy) -> None:
        """Changes to ``nic`` as an operator would: grants and the wire stay as they are."""
        ...

    def wire(self, up: bool) -> None:
        """Cuts or joins the wire; returns when the NIC has seen it."""
        ...

    def link_is(self, vfid: int, up: bool) -> bool:
        """Whether the guest sees its VF's link so, at the latest a moment from now."""
        ...

    def ask(self, request: Request) -> bool:
        """Makes the guest ask; returns whether it was granted, once that is in effect."""
        ...

    def leave(self, vfid: int) -> None:
        """The guest goes and another comes; returns when the VF is usable again."""
        ...

    def send(self, port: int, frames: Iterable[bytes]) -> None:
        """Sends at once, in order. Tags are in the bytes."""
        ...

    def collect(self, awaited: Mapping[int, int], patience: float) -> dict[int, list[bytes]]:
        """What arrived at each port since the last call, tags in the bytes.

        Returns a short quiet time after as many frames as ``awaited`` have arrived at each
        port, or when ``patience`` (seconds, as long as it takes an idle machine) is over.
        """
        ...

    def counters(self) -> Counters: ...

    def close(self) -> None: ...
