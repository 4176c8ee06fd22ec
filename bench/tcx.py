"""Programs on TCX hooks (Linux 6.6), by bpf(2): libbpf 1.1 and iproute2 6.1 don't know them."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

from vfd.nic.soft import namespace
from vfd.nic.soft.libbpf import BpfProgram

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYS_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
_PROG_ATTACH, _PROG_DETACH, _PROG_QUERY = 8, 9, 16
_TCX_INGRESS = 46


def _bpf(command: int, attributes: bytes) -> bytes:
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"))
    if _LIBC.syscall(_SYS_BPF, command, buffer, len(buffer)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw


def attach(netns: str, index: int, program: BpfProgram) -> None:
    """At ingress of a netdev; stays without this process. Raises OSError: EINVAL before 6.6."""
    with namespace.inside(netns):
        _bpf(_PROG_ATTACH, struct.pack("=IIII", index, program.fd, _TCX_INGRESS, 0))


def attached(netns: str, indices: Iterable[int]) -> dict[int, int]:
    """Index → the id of the program, of those netdevs that have one."""
    found = {}
    with namespace.inside(netns):
        for index in indices:
            ids = (ctypes.c_uint32 * 8)()
            where = ctypes.addressof(ids)
            try:
                answer = _bpf(
                    _PROG_QUERY, struct.pack("=IIIIQI", index, _TCX_INGRESS, 0, 0, where, 8)
                )
            except OSError:
                continue  # the kernel has no TCX, or there is no such netdev
            if struct.unpack_from("=I", answer, 24)[0]:
                found[index] = ids[0]
    return found


def detach(netns: str, indices: Iterable[int]) -> None:
    for index, program_id in attached(netns, indices).items():
        program = BpfProgram.of_id(program_id)
        try:
            with namespace.inside(netns):
                _bpf(_PROG_DETACH, struct.pack("=IIII", index, program.fd, _TCX_INGRESS, 0))
        finally:
            program.close()
