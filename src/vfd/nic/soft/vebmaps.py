"""The VEB in the kernel: load or adopt its programs, read its maps, write a new policy into them.

Crash-only: nothing is kept here that the maps don't have. A daemon that starts finds the program
in the tc filter (its id), and through it the maps: ``Veb.adopt``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import resources
from itertools import groupby
from typing import Self

from vfd.nic.protocol import COUNTERS, PF_PORT, NicError
from vfd.nic.soft import layout, libbpf
from vfd.nic.soft.layout import VebMeta, VebOptions
from vfd.nic.soft.libbpf import BpfError, BpfMap, BpfProgram, RingBuffer
from vfd.nic.soft.tables import Tables
from vfd.nic.soft.writes import Write, diff

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_MEMBARRIER_CMD_GLOBAL = 1
_READERS_NS = 10**9
"""Longer than any program that saw an old policy can still be running."""

_UNUSED_BY_PROGRAMS = ("veb_meta", "veb_note", "veb_drops")


class LayoutError(NicError):
    """The maps were made by a vfd of another layout: they can't be read by this one."""


def object_file() -> bytes:
    """The compiled program, as it is shipped.

    Raises NicError when it wasn't compiled (a source checkout without ``make bpf``)."""
    try:
        return resources.files("vfd.nic.soft").joinpath("bpf/veb.bpf.o").read_bytes()
    except FileNotFoundError:
        raise NicError(
            "the soft NIC's BPF program is not compiled: run make bpf (needs clang, libbpf-dev)"
        ) from None


class Veb:
    """One VEB: its programs and maps, opened."""

    def __init__(self, ingress: BpfProgram, shaped: BpfProgram, maps: Mapping[str, BpfMap]) -> None:
        self.ingress = ingress
        """For clsact ingress of every host end and of the uplink."""
        self.shaped = shaped
        """For clsact ingress of the shaper's far end."""
        self.maps = dict(maps)
        self._retired: dict[int, int] = {}  # index in veb_ports → when it went out of force
        self._barrier_ns = 0
        self._known: Tables | None = None  # what the maps hold; None: read them

    @classmethod
    def load(
        cls, *, reuse: Veb | None = None, clone: bool = False, path: int = layout.PATH_ALL
    ) -> Self:
        """Loads the shipped program. ``reuse``: keep that one's maps, and so policy and counters.

        For BPF_PROG_TEST_RUN ``clone``: deliver by bpf_clone_redirect; ``path``: one of the
        program's two ways alone (``layout.PATH_*``). Raises BpfError."""
        loaded = libbpf.load(
            object_file(),
            constants=bytes(VebOptions(clone=int(clone), path=path)),
            reuse=reuse.maps if reuse else None,
        )
        with contextlib.ExitStack() as refused:
            refused.callback(loaded.close)
            programs, maps = loaded.programs, loaded.maps
            if reuse is None:
                meta = VebMeta(layout=layout.LAYOUT, made_ns=time.time_ns())
                maps["veb_meta"].put(bytes(4), bytes(meta))
            for program in programs.values():
                for name in _UNUSED_BY_PROGRAMS:
                    program.bind(maps[name])
            refused.pop_all()
        return cls(programs["veb"], programs["veb_shaped"], maps)

    @classmethod
    def adopt(cls, ingress_id: int, shaped_id: int | None = None) -> Self:
        """The running VEB behind a filter's program id, with its policy and counters.

        ``shaped_id``: of the program at the shaper's far end, where there is one; else it is
        loaded anew on the same maps. Raises LayoutError, or BpfError when there is none."""
        with contextlib.ExitStack() as refused:
            ingress = BpfProgram.of_id(ingress_id)
            refused.callback(ingress.close)
            maps = ingress.maps()
            refused.callback(_close, maps=maps)
            meta = maps.get("veb_meta")
            found = VebMeta.from_buffer_copy(meta.get(bytes(4)) or b"").layout if meta else None
            if found != layout.LAYOUT:
                raise LayoutError(
                    f"program {ingress_id} has maps of layout {found}, and this vfd knows layout"
                    f" {layout.LAYOUT}"
                )
            if shaped_id is not None:
                shaped = BpfProgram.of_id(shaped_id)
            else:
                fresh = cls.load(reuse=cls(ingress, ingress, maps))
                shaped = fresh.shaped
                _close(fresh.ingress, maps=fresh.maps)
            refused.pop_all()
        return cls(ingress, shaped, maps)

    # -- Policy -----------------------------------------------------------------------------

    def read(self) -> Tables:
        """What the maps hold now."""
        slots = dict(enumerate(self.maps["veb_active"].raw()[: layout.PORTS]))
        ports = {}
        nothing = bytes(ctypes.sizeof(layout.VebPort))
        for port, slot in slots.items():
            at = port * layout.SLOTS + slot % layout.SLOTS
            value = self.maps["veb_ports"].get(_u32(at))
            if value and value != nothing:
                ports[port] = value
        return Tables(
            ports=ports,
            macs=dict(self.maps["veb_macs"].items()),
            groups=frozenset(key for key, _ in self.maps["veb_groups"].items()),
            ifaces={_int(key): _int(value) for key, value in self.maps["veb_ifaces"].items()},
            members=_sets(self.maps["veb_members"].raw()),
            sets=_sets(self.maps["veb_sets"].raw()),
            hints={
                at: port for at, port in enumerate(array("H", self.maps["veb_hints"].raw())) if port
            },
            note=(self.maps["veb_note"].get(bytes(4)) or b"").rstrip(b"\0"),
            slots=slots,
        )

    def write(self, new: Tables) -> None:
        """Makes the maps hold ``new``, in an order that is safe at every step.

        Raises NicError after putting back what was there before."""
        old = self._known or self.read()
        writes = diff(old, new)
        try:
            self.apply(writes)
        except BpfError as error:
            try:
                self.apply(diff(self.read(), old))
            except BpfError as worse:
                raise NicError(
                    f"{error}; and the policy that was there could not be put back: {worse}"
                ) from error
            raise NicError(f"{error}; the policy is as it was") from error
        flips = {_int(w.key): w.value[0] for w in writes if w.map == "veb_active" and w.value}
        self._known = replace(new, slots={**old.slots, **flips})

    def apply(self, writes: Iterable[Write]) -> None:
        """The writes, in their order; neighbours that go to one map in one system call."""
        self._known = None
        for (name, deletes), run in groupby(writes, key=lambda w: (w.map, w.value is None)):
            batch = list(run)
            if deletes:
                self.maps[name].delete_all(write.key for write in batch)
                continue
            if name == "veb_ports":
                self._wait_for_readers(_int(write.key) for write in batch)
            elif name == "veb_active":
                self._retire(_int(write.key) for write in batch)
            self.maps[name].put_all((w.key, w.value) for w in batch if w.value is not None)

    def _retire(self, ports: Iterable[int]) -> None:
        """Notes when slots go out of force."""
        now = time.monotonic_ns()
        for port in ports:
            slot = self.maps["veb_active"].get(_u32(port)) or b"\0"
            self._retired[port * layout.SLOTS + slot[0] % layout.SLOTS] = now

    def _wait_for_readers(self, indices: Iterable[int]) -> None:
        """Before slots are filled again: until no program can still be reading them."""
        last = max((self._retired.get(index, 0) for index in indices), default=0)
        if last > self._barrier_ns and time.monotonic_ns() - last < _READERS_NS:
            _synchronize_rcu()
            self._barrier_ns = time.monotonic_ns()

    # -- Counters and events ----------------------------------------------------------------

    def counters(self) -> dict[int, dict[str, int]]:
        """By vfid, and PF_PORT for the wire. What Tx limits dropped is the shaper's to add."""
        words = layout.COUNTER_WORDS
        raw = array("Q", self.maps["veb_counters"].raw())
        per_port = words * libbpf.possible_cpus()
        found = {}
        for port in range(layout.PORTS):
            mine = raw[port * per_port : (port + 1) * per_port]
            found[port - 1 if port else PF_PORT] = {
                name: sum(mine[at::words]) for at, name in enumerate(COUNTERS)
            }
        return found

    def drops(self) -> dict[int, int]:
        """vfid → what was noted as dropped before Tx limits, where that is anything."""
        raw = array("Q", self.maps["veb_drops"].raw())
        return {port - 1: count for port, count in enumerate(raw) if count}

    def note_drops(self, drops: Mapping[int, int]) -> None:
        """By vfid: what ``drops`` is to say from now on."""
        self.maps["veb_drops"].put_all(
            (_u32(vfid + 1), count.to_bytes(8, layout.ORDER)) for vfid, count in drops.items()
        )

    def events(self) -> RingBuffer:
        """A reader of the events: at most one at a time. Samples: ``struct veb_event``."""
        return RingBuffer(self.maps["veb_events"])

    def close(self) -> None:
        """Lets go; what filters hold goes on."""
        _close(self.ingress, self.shaped, maps=self.maps)


def _close(*programs: BpfProgram, maps: Mapping[str, BpfMap]) -> None:
    for program in programs:
        program.close()
    for bpf_map in maps.values():
        bpf_map.close()


def _synchronize_rcu() -> None:
    """Returns once every program that runs now has ended: membarrier(2) waits for RCU."""
    number = _SYS_MEMBARRIER.get(os.uname().machine)
    if number is None or _LIBC.syscall(number, _MEMBARRIER_CMD_GLOBAL, 0, 0) < 0:
        time.sleep(0.05)


def _sets(raw: bytes) -> dict[int, int]:
    """Index → ports, of an array of ``struct veb_set`` that are nearly all empty."""
    size = 8 * layout.WORDS
    empty = bytes(size)
    found = {}
    for at in range(len(raw) // size):
        words = raw[at * size : (at + 1) * size]
        if words != empty:
            found[at] = sum(word << 64 * n for n, word in enumerate(array("Q", words)))
    return found


def _int(raw: bytes) -> int:
    return int.from_bytes(raw, layout.ORDER)


def _u32(value: int) -> bytes:
    return value.to_bytes(4, layout.ORDER)
