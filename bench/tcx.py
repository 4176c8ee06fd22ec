"""Programs at TCX hooks (Linux 6.6): put there, seen and taken away."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

from vfd.nic.soft import namespace
from vfd.nic.soft.libbpf import BpfProgram, checked, library

_INGRESS = 46
"""BPF_TCX_INGRESS, include/uapi/linux/bpf.h, which libbpf 1.1 doesn't know by name."""
_MOST = 64
"""Programs at one hook: BPF_MPROG_MAX, include/linux/bpf_mprog.h."""


def attach(netns: str, index: int, program: BpfProgram) -> None:
    """At ingress of a netdev; stays without this process. Raises BpfError: EINVAL before 6.6."""
    with namespace.inside(netns):
        result = library().bpf_prog_attach(program.fd, index, _INGRESS, 0)
    checked(result, f"attaching the program by TCX to netdev {index}")


def attached(netns: str, indices: Iterable[int]) -> dict[int, int]:
    """Index → the id of the first program, of those netdevs that have one."""
    found = {}
    with namespace.inside(netns):
        for index in indices:
            ids, count = (ctypes.c_uint32 * _MOST)(), ctypes.c_uint32(_MOST)
            failed = library().bpf_prog_query(index, _INGRESS, 0, None, ids, ctypes.byref(count))
            if not failed and count.value:  # else the kernel has no TCX, or no such netdev
                found[index] = ids[0]
    return found


def detach(netns: str, indices: Iterable[int]) -> None:
    """Takes the first program of each away. Raises BpfError."""
    for index, program_id in attached(netns, indices).items():
        program = BpfProgram.of_id(program_id)
        try:
            with namespace.inside(netns):
                result = library().bpf_prog_detach2(program.fd, index, _INGRESS)
            checked(result, f"detaching program {program_id} by TCX from netdev {index}")
        finally:
            program.close()
