"""The kernel's TCX hooks as somebody else sees and handles them: by bpf(2) alone."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator

from vfd.nic.soft import namespace

_SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_ATTACH, _DETACH, _QUERY = 8, 9, 16
_TCX_INGRESS = 46
_BEFORE = 1 << 3
_libc = ctypes.CDLL(None, use_errno=True)

HAS_TCX = tuple(map(int, platform.release().split(".")[:2])) >= (6, 6)


def _bpf(command: int, attributes: bytes) -> bytes:
    attr = ctypes.create_string_buffer(attributes.ljust(64, b"\0"))
    if _libc.syscall(_SYS_BPF, command, attr, 64) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return attr.raw


def programs(index: int) -> list[int]:
    """Ids of the programs at a netdev's hook in this namespace, in their order."""
    ids = (ctypes.c_uint32 * 64)()
    query = struct.pack("=IIIIQI", index, _TCX_INGRESS, 0, 0, ctypes.addressof(ids), 64)
    try:
        answer = _bpf(_QUERY, query)
    except OSError as e:
        if e.errno == errno.EINVAL and not HAS_TCX:
            return []
        raise
    return ids[: struct.unpack_from("=I", answer, 24)[0]]


def detach(index: int) -> None:
    """Takes the last program of a netdev's hook away."""
    _bpf(_DETACH, struct.pack("=IIII", index, 0, _TCX_INGRESS, 0))


def put_before(index: int, program: int) -> None:
    """A program of that descriptor before all others."""
    _bpf(_ATTACH, struct.pack("=IIII", index, program, _TCX_INGRESS, _BEFORE))


@contextlib.contextmanager
def among_host_ends(nic: str) -> Iterator[dict[str, int]]:
    """The thread is where the NIC's host ends are; its netdevs there, as name → index."""
    name = f"vfd-{nic}"
    own = namespace.exists(name)  # a NIC of taps has none
    with namespace.inside(name) if own else contextlib.nullcontext():
        netdevs = {netdev: index for index, netdev in socket.if_nameindex()}
        yield {n: index for n, index in netdevs.items() if own or n.startswith(nic)}


def host_end(nic: str, vfid: int) -> str:
    return f"v{vfid}" if namespace.exists(f"vfd-{nic}") else f"{nic}v{vfid}"


def hooks(nic: str) -> dict[str, list[int]]:
    """What stands at the hooks of the NIC's netdevs, where anything does."""
    with among_host_ends(nic) as netdevs:
        found = {name: programs(index) for name, index in netdevs.items()}
    return {name: ids for name, ids in found.items() if ids}


def clsact_program(nic: str) -> int:
    """The id of the program that the filter on the ports' clsact block has, as ``tc`` shows it."""
    end = host_end(nic, 0)
    with among_host_ends(nic):
        command = ["tc", "filter", "show", "dev", end, "ingress"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"\bid (\d+)", shown)
    assert found, shown
    return int(found[1])


def wanted(nic: str, vfids: Iterable[int]) -> dict[str, list[int]]:
    """``hooks`` as they are to be: the VFs' have clsact's program and nothing else is hooked."""
    program = clsact_program(nic)
    return {host_end(nic, v): [program] for v in vfids} if HAS_TCX else {}
