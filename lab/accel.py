"""KVM where it works, else emulation (TCG)."""

import os


def choose() -> str:
    """`kvm` or `tcg`; `VFD_LAB_ACCEL` says which."""
    return os.environ.get("VFD_LAB_ACCEL", "tcg")
