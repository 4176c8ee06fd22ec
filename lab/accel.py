"""KVM where it works, else emulation (TCG)."""

import os
from pathlib import Path

from lab import boot, cache
from lab.errors import LabError
from lab.machine import Machine

_DEVICE = "/dev/kvm"


def choose() -> str:
    """`kvm` or `tcg`; `VFD_LAB_ACCEL` overrides what `make lab` found out about this host."""
    named = os.environ.get("VFD_LAB_ACCEL")
    if named:
        if named not in ("kvm", "tcg"):
            raise LabError(f"VFD_LAB_ACCEL is {named!r}; it can be kvm or tcg")
        return named
    try:
        works = _record().read_text().split() == ["kvm", os.uname().release]
    except FileNotFoundError:
        works = False
    return "kvm" if works and _usable() else "tcg"


def probe() -> str | None:
    """Boot a guest under KVM if the host has it, once per host kernel, and note how it went.

    That /dev/kvm can be opened doesn't say that a stock kernel runs: some nested hypervisors offer
    it and then never get through the boot.  Returns what was found, None if nothing was tried.
    """
    release = os.uname().release
    if not _usable() or (_record().exists() and _record().read_text().split()[1:] == [release]):
        return None
    job = boot.Job(command="true", cwd=Path("/"), timeout=30, boot_timeouts=(20,))
    try:
        works = boot.run(Machine(igb=0, memory=512, cpus=1), job, "kvm") == 0
    except LabError:
        works = False
    _record().write_text(f"{'kvm' if works else 'tcg'} {release}\n")
    return "KVM works here" if works else "KVM is here but runs no stock kernel: emulation is used"


def _record() -> Path:
    return cache.folder() / "accelerator"


def _usable() -> bool:
    return os.access(_DEVICE, os.R_OK | os.W_OK)
