"""The capabilities that the daemon keeps, each with its reason, and the dropping of the rest."""

from __future__ import annotations

import ctypes
import os
from enum import IntEnum

_PR_SET_NO_NEW_PRIVS = 38
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522
_LAST_CAP = 40
"""CAP_CHECKPOINT_RESTORE, the last one in linux/capability.h of kernel 6.18."""


class Cap(IntEnum):
    """Numbers of include/uapi/linux/capability.h."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    FOWNER = 3
    KILL = 5
    SETGID = 6
    SETUID = 7
    NET_BROADCAST = 11
    NET_ADMIN = 12
    NET_RAW = 13
    SYS_PTRACE = 19
    SYS_ADMIN = 21
    PERFMON = 38
    BPF = 39


KEPT = {
    Cap.NET_ADMIN: "configures NICs: netlink, tc, ethtool",
    Cap.SYS_ADMIN: "enters and makes network namespaces, finds BPF objects by id, bpf(2) on 6.1",
    Cap.BPF: "loads the VEB's programs and maps",
    Cap.PERFMON: "lets the verifier accept the VEB's pointer arithmetic",
    Cap.NET_RAW: "lets the VEB's programs redirect, and tap guests be opened",
    Cap.NET_BROADCAST: "hears netlink of the guests' namespaces (NETLINK_LISTEN_ALL_NSID)",
    Cap.SYS_PTRACE: "tells which process's namespace holds a VF",
    Cap.CHOWN: "gives a VF's file to who added it",
    Cap.DAC_OVERRIDE: "reads and replaces files in a config_dir that OpenStack's users own",
    Cap.FOWNER: "sets the mode of those files",
    Cap.SETUID: "runs start_cb and stop_cb as the file's owner",
    Cap.SETGID: "the same, for the owner's groups",
    Cap.KILL: "ends a callback that takes too long",
}


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def permitted() -> frozenset[int]:
    """The capabilities that this thread may use."""
    data = (_Data * 2)()
    _check(_libc.capget(ctypes.byref(_Header(_VERSION_3, 0)), data), "capget")
    bits = data[0].permitted | data[1].permitted << 32
    return frozenset(cap for cap in range(64) if bits >> cap & 1)


def drop() -> tuple[Cap, ...]:
    """Gives up every capability but ``KEPT``, for good and for every child too.

    To be called before threads start: Linux keeps capabilities per thread. Returns those of
    ``KEPT`` that the process never had. Raises OSError where the kernel refuses.
    """
    had = permitted()
    keep = had & frozenset(KEPT)
    for cap in range(_LAST_CAP + 1):
        # A kernel that doesn't know the capability, or a process that may not drop from the
        # bounding set (no CAP_SETPCAP), can't gain it either, once no_new_privs is set.
        if cap not in keep:
            _libc.prctl(_PR_CAPBSET_DROP, cap, 0, 0, 0)
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    bits = sum(1 << cap for cap in keep)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    data = (_Data * 2)(_Data(low, low, 0), _Data(high, high, 0))
    _check(_libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), data), "capset")
    return tuple(cap for cap in KEPT if cap not in keep)
