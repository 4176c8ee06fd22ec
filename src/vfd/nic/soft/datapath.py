"""The VEB of one soft NIC in force: loaded or adopted, attached, kept in step with its tables.

Nothing is pinned. A filter on the shared block holds the program, the program its maps; so the
datapath lives without a daemon, and a new daemon finds it: filter → program → maps. A daemon
with a newer program puts it in place of the old one with the old one's maps, in one step.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache

from vfd.nic.netlink import NetlinkError
from vfd.nic.protocol import PF_PORT
from vfd.nic.soft import rtnl
from vfd.nic.soft.libbpf import BpfMap, BpfProgram
from vfd.nic.soft.switch import Switch
from vfd.nic.soft.tables import Tables
from vfd.nic.soft.tcx import Tcx
from vfd.nic.soft.vebmaps import LayoutError, Veb, object_file
from vfd.nic.soft.writes import diff

_COUNTERS = {"veb_counters", "veb_drops"}


@cache
def program_version() -> str:
    """Names the program in its filter, so that a newer daemon sees that it is another."""
    return f"veb-{hashlib.sha256(object_file()).hexdigest()[:8]}"


class Datapath:
    """The programs and maps of one soft NIC. Use ``open_datapath``."""

    def __init__(
        self, veb: Veb, tcx: Tcx, *, attached: bool, former: Mapping[str, BpfMap] | None = None
    ) -> None:
        self._attached = attached
        self._tcx = tcx
        self._former = dict(former or {})
        """Counters of another layout, to be carried over when the programs are swapped."""
        with contextlib.ExitStack() as held:
            for each in self._former.values():
                held.callback(each.close)
            self._veb = veb
            held.callback(veb.close)
            self._ring = veb.events()
            held.callback(self._ring.close)
            self.tables = veb.read()
            self._held = held.pop_all()

    @property
    def ring(self) -> int:
        return self._ring.fileno()

    def drain(self) -> list[bytes]:
        return self._ring.read()

    def close(self) -> None:
        self._held.close()

    def reread(self) -> None:
        """What the maps hold now, whoever wrote it."""
        self.tables = self._veb.read()

    def write(self, switch: Switch, new: Tables) -> None:
        """Brings the maps to ``new``; a datapath that isn't in force yet then comes into force.

        Raises BpfError; what was written stays, and writing the old tables again undoes it."""
        writes = diff(self.tables, new)
        slots = dict(self.tables.slots)
        try:
            self._veb.apply(writes)
        except BaseException:
            self.reread()
            raise
        for write in writes:
            if write.map == "veb_active" and write.value is not None:
                slots[int.from_bytes(write.key, "little")] = write.value[0]
        self.tables = replace(new, slots=slots)
        if not self._attached:
            self._carry_counters()
            self.attach(switch)

    def attach(self, switch: Switch) -> None:
        """Puts the programs in force on the ports' and the shaper's blocks, in one step each. The
        shaper's first: no frame may come to it that it doesn't know. A NIC of taps that has none
        yet has no block for ports: once it has one, the next ``write`` comes here again."""
        programs = (
            (switch.shaper_block, self._veb.shaped),
            (switch.block, self._veb.ingress),
        )
        filters = [
            rtnl.bpf_filter(block, program.fd, program_version()) for block, program in programs
        ]
        try:
            switch.netlink.send(filters)
        except NetlinkError as e:
            if switch.ports or e.errno != errno.EINVAL:
                raise
        else:
            self._attached = True
            self._tcx.replace(self._veb.ingress)

    @property
    def has_waiting_hooks(self) -> bool:
        """Whether ``attach_next`` has something to do."""
        return self._attached and self._tcx.waits

    def attach_next(self) -> None:
        """The program at the TCX hook of one VF more, where the kernel has them."""
        if self.has_waiting_hooks:
            self._tcx.attach_next(self._veb.ingress)

    def look(self, switch: Switch) -> None:
        """Notices where the programs are no longer in force: the next ``write`` attaches them."""
        self._attached = self.is_attached(switch)

    def is_attached(self, switch: Switch) -> bool:
        """Whether the filters hold programs that use these maps."""
        if not self._attached:
            return False
        wanted = self._veb.maps["veb_active"].id
        for block in (switch.block, switch.shaper_block):
            found = rtnl.bpf_filter_of(switch.netlink, block)
            if found is None:
                return False
            program = BpfProgram.of_id(found[0])
            uses = wanted in program.map_ids
            program.close()
            if not uses:
                return False
        return True

    def counters(self, vfids: Iterable[int]) -> dict[int, dict[str, int]]:
        """By vfid and PF_PORT; of all CPUs together."""
        found = self._veb.counters()
        for vfid, drops in self._veb.drops().items():
            found[vfid]["rate_dropped"] += drops
            found[vfid]["tx_dropped"] += drops
        # VFs that are no longer there count in the PF's total
        found[PF_PORT]["rate_dropped"] = sum(each["rate_dropped"] for each in found.values())
        return {port: found[port] for port in (*vfids, PF_PORT)}

    def note_drops(self, more: Mapping[int, int]) -> None:
        """Drops before the Tx limits of VFs, counted in queues that are gone or are about to go."""
        known = self._veb.drops()
        self._veb.note_drops({vfid: known.get(vfid, 0) + n for vfid, n in more.items() if n})

    def _carry_counters(self) -> None:
        """Counters don't go back because the maps' layout is another: what is in front of both
        layouts' counters, in the order of COUNTERS, is taken over."""
        for name, former in self._former.items():
            mine = self._veb.maps[name]
            size, width = former.value_size, mine.value_size
            for key, raw in former.items():
                values = (raw[at : at + size] for at in range(0, len(raw), size))
                mine.put(key, b"".join(v[:width].ljust(width, b"\0") for v in values))
            former.close()
        self._former = {}


def open_datapath(switch: Switch) -> Datapath:
    """Adopts the datapath that is in force, or loads one that comes into force with its first
    tables. Raises BpfError, with the verifier's words where it refuses."""
    tcx = Tcx(switch)
    found = rtnl.bpf_filter_of(switch.netlink, switch.block)
    if found is None:
        return _anew(tcx)
    shaped = rtnl.bpf_filter_of(switch.netlink, switch.shaper_block)
    try:
        veb = Veb.adopt(found[0], shaped[0] if shaped else None)
    except LayoutError:
        return _anew(tcx, former=found[0])
    version = program_version()
    if found[1] == version and shaped is not None and shaped[1] == version:
        tcx.replace(veb.ingress)  # where a kill came between the two hooks
        return Datapath(veb, tcx, attached=True)
    try:
        newer = Veb.load(reuse=veb)
    finally:
        veb.close()
    datapath = Datapath(newer, tcx, attached=True)
    try:
        datapath.attach(switch)
    except OSError:
        datapath.close()
        raise
    return datapath


def _anew(tcx: Tcx, former: int | None = None) -> Datapath:
    """One on maps of its own. What TCX hooks still have of a former one would enforce the maps of
    that: it goes first, and frames go by clsact."""
    veb = Veb.load()
    try:
        tcx.clear(veb.ingress)
        counters = None if former is None else _counters_of(former)
    except BaseException:
        veb.close()
        raise
    return Datapath(veb, tcx, attached=False, former=counters)


def _counters_of(program_id: int) -> dict[str, BpfMap]:
    program = BpfProgram.of_id(program_id)
    maps = program.maps()
    program.close()
    for name in maps.keys() - _COUNTERS:
        maps.pop(name).close()
    return maps
