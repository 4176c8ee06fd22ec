"""The program once more, at the TCX hooks of VFs' host ends, where a frame comes to it sooner.

clsact stays the truth: it is there first, enforces alone, and goes on where this hook isn't: before
Linux 6.6, until a VF's turn comes, after somebody took it away. Both hooks have the same program,
and its verdict ends the frame's way, so that a frame is judged and counted once.

An attach takes some 9 ms, for the kernel waits until no CPU uses the former list of programs
(tcx_entry_sync, include/net/tcx.h). So hooks come one at a time, between other work; a program is
put in place of another one at once. Never on the uplink, which keeps such a hook when it is given
back. No link, no pin: the netdev holds the program, and takes it along when it goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
from collections.abc import Iterator

from vfd.nic.soft.libbpf import BpfError, BpfProgram, checked, library
from vfd.nic.soft.switch import Switch, Vf

log = logging.getLogger("vfd.soft")

_INGRESS = 46
"""BPF_TCX_INGRESS, include/uapi/linux/bpf.h, which libbpf 1.1 doesn't know by name."""
_REPLACE, _BEFORE = 1 << 2, 1 << 3
_MOST = 64
"""Programs at one hook: BPF_MPROG_MAX, include/linux/bpf_mprog.h."""

_STAYS = "VFs go on with the former program, on the same maps"


class _AttachOpts(ctypes.Structure):
    _fields_ = (("sz", ctypes.c_size_t), ("flags", ctypes.c_uint), ("replace_fd", ctypes.c_int))


class Tcx:
    """The TCX hooks of one soft NIC."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._absent = False
        """The kernel has none."""
        self._failed = False
        """It was told that one failed."""

    @property
    def waits(self) -> bool:
        """Whether there are VFs to be looked at, which were made or found since."""
        return any(self._waiting())

    def _waiting(self) -> Iterator[tuple[int, Vf]]:
        for vfid, port in self._switch.ports.items():
            if not port.tcx and not self._absent:
                yield vfid, port

    def attach_next(self, program: BpfProgram) -> None:
        """One hook more has the program; those on the way that have it take no time."""
        for vfid, port in [*self._waiting()]:
            port.tcx = True  # or can't be: then it is tried when the NIC is looked at again
            try:
                with self._switch.inside():
                    if self._put_first(vfid, port, program):
                        break
            except (OSError, BpfError) as e:
                self._tell(f"VF {vfid} goes on with clsact alone, a little slower", e)
        if not self.waits and not self._absent:
            log.debug("%s: VFs have their TCX hooks", self._switch.id)

    def _put_first(self, vfid: int, port: Vf, program: BpfProgram) -> bool:
        """Whether there was anything to be done."""
        found = self._programs(port.host)
        if self._absent or found[:1] == [program.id]:
            return False
        if found:
            # as far as it is not the NIC's own of before, it may let frames pass unseen
            log.warning("VF %d of %s: BPF program %d stood before the NIC's at its TCX hook",
                        vfid, self._switch.id, found[0])  # fmt: skip
        if program.id in found:
            _detach(port.host, program)
        _attach(port.host, program, _BEFORE)
        return True

    def replace(self, program: BpfProgram) -> None:
        """Hooks that have a former version of the program have this one, on the same maps."""
        try:
            with self._switch.inside(), contextlib.ExitStack() as opened:
                for port, former in self._former(program, opened):
                    try:
                        _attach(port.host, program, _REPLACE, former.fd)
                    except BpfError as e:
                        self._tell(_STAYS, e)
        except (OSError, BpfError) as e:
            self._tell(_STAYS, e)

    def clear(self, program: BpfProgram) -> None:
        """No hook has a program on other maps than those of this one. Raises BpfError."""
        with self._switch.inside(), contextlib.ExitStack() as opened:
            for port, former in self._former(program, opened):
                _detach(port.host, former)

    def _former(
        self, program: BpfProgram, opened: contextlib.ExitStack
    ) -> list[tuple[Vf, BpfProgram]]:
        """Where the NIC's hooks have another program of this one's name."""
        known = {program.id: program}
        found = []
        for port in self._switch.ports.values():
            for number in self._programs(port.host):
                if number not in known:
                    known[number] = BpfProgram.of_id(number)
                    opened.callback(known[number].close)
                if number != program.id and known[number].name == program.name:
                    found.append((port, known[number]))
        return found

    def _programs(self, index: int) -> list[int]:
        """Ids of those at a netdev's hook, in their order. The calling thread is where it is."""
        ids, count, flags = (ctypes.c_uint32 * _MOST)(), ctypes.c_uint32(_MOST), ctypes.c_uint32()
        if self._absent:
            return []
        result = library().bpf_prog_query(
            index, _INGRESS, 0, ctypes.byref(flags), ids, ctypes.byref(count)
        )
        if result == -errno.EINVAL:
            self._absent = True
            return []
        if result == -errno.ENODEV:  # its DELLINK follows
            return []
        checked(result, f"asking for the TCX programs of netdev {index}")
        return ids[: count.value]

    def _tell(self, consequence: str, error: Exception) -> None:
        """Once: a NIC of 256 VFs has the same trouble with each. Of one whose netdev went just now
        nothing is told."""
        if not self._failed and getattr(error, "errno", 0) != errno.ENODEV:
            self._failed = True
            log.warning("%s: %s: %s", self._switch.id, error, consequence)


def _attach(index: int, program: BpfProgram, flags: int, former: int = 0) -> None:
    opts = _AttachOpts(sz=ctypes.sizeof(_AttachOpts), flags=flags, replace_fd=former)
    result = library().bpf_prog_attach_opts(program.fd, index, _INGRESS, ctypes.byref(opts))
    checked(result, f"attaching the program by TCX to netdev {index}")


def _detach(index: int, program: BpfProgram) -> None:
    result = library().bpf_prog_detach2(program.fd, index, _INGRESS)
    if result not in (-errno.ENODEV, -errno.ENOENT):  # it is gone, or was taken away just now
        checked(result, f"detaching program {program.id} by TCX from netdev {index}")
