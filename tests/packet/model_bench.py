"""The reference model under the packet suite: what the table is checked against first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from vfd.nic.protocol import COUNTERS, Counters
from vfd.policy.model import Model
from vfd.policy.requests import Grants, Request, decide, granted
from vfd.policy.values import NicPolicy

from .case import VFS, WIRE


class ModelBench:
    """Frames go through ``Model.process``; nothing is real."""

    name = "model"
    counted = frozenset(COUNTERS)
    counts_link_down = True

    def __init__(self, *, has_wire: bool = True) -> None:
        self._has_wire = has_wire
        self._fresh = 0
        self.own_mac: dict[int, str] = {}
        self._counters: Counter[tuple[int, str]] = Counter()
        self._arrived: dict[int, list[bytes]] = {}
        self._nic: NicPolicy
        for vfid in range(VFS):
            self._new_mac(vfid)

    def configure(self, nic: NicPolicy) -> None:
        self._nic = nic
        self._wire_up = True
        self._grants: dict[int, Grants] = {}
        self._rebuild()

    def become(self, nic: NicPolicy) -> None:
        self._nic = nic
        open_vfs = nic.by_vfid()
        self._grants = {n: has for n, has in self._grants.items() if n in open_vfs}
        self._rebuild()

    def wire(self, up: bool) -> None:
        self._wire_up = up
        self._rebuild()

    def link_is(self, vfid: int, up: bool) -> bool:
        vf = self._model.vfs.get(vfid)
        return (vf is not None and self._model.link_up(vf)) == up

    def ask(self, request: Request) -> bool:
        decision = decide(self._nic, self._grants, request, own_macs=self.own_mac)
        if decision.granted:
            before = self._grants.get(request.vfid, Grants())
            self._grants[request.vfid] = granted(before, request)
            self._rebuild()
        return decision.granted

    def leave(self, vfid: int) -> None:
        self._grants.pop(vfid, None)
        self._new_mac(vfid)
        self._rebuild()

    def send(self, port: int, frames: Iterable[bytes]) -> None:
        for raw in frames:
            verdict = self._model.process(port, raw)
            for to, out in verdict.out:
                self._arrived.setdefault(to, []).append(out)
            self._counters.update(verdict.counters)

    def collect(self, awaited: Mapping[int, int], patience: float) -> dict[int, list[bytes]]:
        del awaited, patience  # nothing is ever under way
        arrived, self._arrived = self._arrived, {}
        return arrived

    def counters(self) -> Counters:
        return {
            port: {name: self._counters[port, name] for name in COUNTERS}
            for port in (WIRE, *range(VFS))
        }

    def close(self) -> None:
        pass

    def _new_mac(self, vfid: int) -> None:
        self._fresh += 1
        self.own_mac[vfid] = f"02:55:00:00:{self._fresh:02x}:{vfid:02x}"

    def _rebuild(self) -> None:
        self._model = Model(
            self._nic, self._grants, self.own_mac, self._wire_up, has_wire=self._has_wire
        )
