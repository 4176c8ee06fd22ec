"""The parts of the laboratory and their recipes: which packages, which modules, which changes.

Everything that decides what a part contains is a value here, and the part's name carries a digest
of it, so editing this file is all it takes to have `make lab` build the part anew.
"""

from dataclasses import dataclass
from pathlib import Path

from lab import cache

# Raise it when build.py changes what it makes of the same values.
FORMAT = 2

# QEMU 10 has the igb device (bookworm's own 7.2 has not).  kmod and busybox serve the guest, zstd
# unpacks the kernel: with all they depend on, so none of the system's libraries is needed.
TOOLS_PACKAGES = ("qemu-system-x86", "kmod", "busybox-static", "zstd")

LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")


@dataclass(frozen=True)
class Kernel:
    """A Debian kernel, by the metapackage that names its newest build."""

    series: str
    metapackage: str
    netdevsim: bool  # built out of tree: Debian builds none


KERNELS = {
    kernel.series: kernel
    for kernel in (
        # bookworm's own, which most of its users run
        Kernel("6.1", "linux-image-amd64", netdevsim=False),
        # bookworm-security carries it for those who want a newer one
        Kernel("6.12", "linux-image-6.12-amd64", netdevsim=True),
    )
}
NEWEST = "6.12"

# Modules kept, by the start of their path below lib/modules/VERSION/kernel; with what they depend
# on.  Unpacked, because xz takes seconds in the guest.
MODULES = (
    "net/",
    "lib/",
    "fs/9p/",
    "fs/overlayfs/",
    "fs/fuse/",
    "drivers/net/bonding/",
    "drivers/net/team/",
    "drivers/net/dummy",
    "drivers/net/geneve",
    "drivers/net/ifb",
    "drivers/net/ipvlan/",
    "drivers/net/macsec",
    "drivers/net/macvlan",
    "drivers/net/macvtap",
    "drivers/net/nlmon",
    "drivers/net/tap",
    "drivers/net/tun",
    "drivers/net/veth",
    "drivers/net/virtio_net",
    "drivers/net/vrf",
    "drivers/net/vxlan",
    "drivers/net/ethernet/intel/igb/",
    "drivers/net/ethernet/intel/igbvf/",
    "drivers/pci/pci-pf-stub",
    "drivers/ptp/",
    "drivers/vfio/",
    "drivers/virtio/",
    "drivers/char/hw_random/virtio-rng",
    "drivers/char/virtio_console",
    "crypto/crc32c_generic",
    "crypto/sch",
)

# What the initial RAM disk needs to reach the host's root file system.
BOOT_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")

# netdevsim's own Makefile builds it in the tree only.
NETDEVSIM_MAKEFILE = """\
obj-m += netdevsim.o ptp_mock.o
netdevsim-objs := {objects}
ccflags-y += -DCONFIG_PTP_1588_CLOCK_MOCK_MODULE=1 -DCONFIG_PTP_1588_CLOCK_MOCK=1
"""
NETDEVSIM_OBJECTS = (
    "netdev.o dev.o ethtool.o fib.o bus.o health.o hwstats.o udp_tunnels.o bpf.o ipsec.o "
    "psample.o macsec.o"
)

# netdevsim 6.12 takes only BPF offload.  Later kernels acknowledge flower rules; with this change
# 6.12 acknowledges flower and matchall.  Acknowledged is all they are: no packet is classified.
NETDEVSIM_BEFORE = "\tif (type != TC_SETUP_CLSBPF) {"
NETDEVSIM_AFTER = (
    "\tif (type == TC_SETUP_CLSFLOWER || type == TC_SETUP_CLSMATCHALL)\n"
    "\t\treturn 0;\n" + NETDEVSIM_BEFORE
)


def tools() -> Path:
    """Where QEMU, kmod, busybox and zstd are, or will be."""
    return cache.folder() / f"tools-{cache.digest([FORMAT, TOOLS_PACKAGES])}"


def kernel(series: str) -> Path:
    """Where a kernel with its modules and initial RAM disk is, or will be."""
    this = KERNELS[series]
    recipe: list[object] = [FORMAT, this.metapackage, MODULES, BOOT_MODULES]
    if this.netdevsim:
        recipe += [NETDEVSIM_MAKEFILE, NETDEVSIM_OBJECTS, NETDEVSIM_BEFORE, NETDEVSIM_AFTER]
    return cache.folder() / f"kernel-{series}-{cache.digest(recipe)}"


def missing() -> list[str]:
    """The parts that are not there yet, by name."""
    wanted = [tools(), *(kernel(series) for series in KERNELS)]
    return [part.name for part in wanted if not part.exists()]


def run_in(tree: Path, program: str, *, name: str | None = None) -> list[str]:
    """The command line that runs a program of an unpacked tree with the tree's own libc."""
    for folder in LIBRARIES:
        loader = tree / folder / "ld-linux-x86-64.so.2"
        if loader.exists():
            break
    paths = ":".join(str(tree / folder) for folder in LIBRARIES)
    argv0 = ["--argv0", name] if name else []
    return [str(loader), *argv0, "--library-path", paths, str(tree / program)]
