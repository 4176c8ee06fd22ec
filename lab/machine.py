"""A guest as a value, and the QEMU command line that is this guest."""

from dataclasses import dataclass

MAX_IGB = 8


@dataclass(frozen=True)
class Machine:
    """What the guest has.  Memory in MiB."""

    kernel: str = "6.12"
    igb: int = 0  # emulated 82576 PFs, each with up to 7 VFs
    vfs: int = 0  # VFs to create on each PF before the command runs
    iommu: bool = False
    plain_nic: bool = False  # a virtio-net without SR-IOV
    memory: int = 1024
    cpus: int = 2


@dataclass(frozen=True)
class Channels:
    """File descriptors that QEMU inherits: the other ends of the launcher's sockets, and memory."""

    console: int  # what the kernel prints
    control: int  # the guest's reports: up, exit status; the launcher's: window size
    stdout: int
    stderr: int
    terminal: int | None  # the shell's terminal
    qmp_monitor: int  # QEMU's own monitor ...
    qmp_guest: int  # ... and the guest's port to it: the two ends of one socket pair
    initrd: int  # base initial RAM disk and the job, one after the other


# A PF's root port sits at this device number plus the PF's; the buses behind are numbered in order,
# so PF k is 0000:0<k+1>:00.0.
_FIRST_ROOT_PORT = 0x10


def igb_device(k: int) -> dict[str, str]:
    """The device of PF `k`, for the command line and for plugging it in again by QMP."""
    return {
        "driver": "igb",
        "id": f"igb{k}",
        "bus": f"port{k}",
        "netdev": f"pf{k}",
        "mac": f"52:54:00:10:00:{k:02x}",
        "romfile": "",
    }


def kernel_parameters(machine: Machine) -> str:
    """The kernel command line, trimmed for a guest that lives a minute under emulation."""
    words = [
        "console=ttyS0 loglevel=4 panic=-1",
        # emulation has no side channels to close, and no entropy to wait for
        "mitigations=off nokaslr random.trust_cpu=on audit=0 apparmor=0 tsc=reliable",
        # the watchdogs take an overloaded host for a hung guest
        "nowatchdog rcupdate.rcu_cpu_stall_suppress=1",
        # grace periods in which every netlink change waits would be long with two slow CPUs
        "rcupdate.rcu_expedited=1",
        "net.ifnames=0",
    ]
    if machine.iommu:
        # on an overloaded host the boot-time test takes a slow timer for a broken one, and panics
        words.append("intel_iommu=on iommu.passthrough=0 no_timer_check")
    return " ".join(words)


def arguments(machine: Machine, kernel: str, channels: Channels, accelerator: str) -> list[str]:
    """The QEMU command line after the program."""
    split = ",kernel-irqchip=split" if machine.iommu else ""
    cpu = "host" if accelerator == "kvm" else "max"
    line = [
        *("-M", f"q35{split}", "-cpu", cpu, "-smp", str(machine.cpus), "-m", str(machine.memory)),
        *("-accel", "kvm" if accelerator == "kvm" else "tcg,thread=multi"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", kernel, "-initrd", f"/proc/self/fd/{channels.initrd}"),
        *("-append", kernel_parameters(machine)),
        # the host's root; multidevs: below it are several file systems with equal inode numbers
        *("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
        *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=console,fd={channels.console}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,fd={channels.qmp_monitor}", "-mon", "qmp,mode=control"),
    ]
    ports = {
        "control": channels.control,
        "stdout": channels.stdout,
        "stderr": channels.stderr,
        "qmp": channels.qmp_guest,
    }
    for name, descriptor in ports.items():
        line += ["-chardev", f"socket,id=port-{name},fd={descriptor}"]
        line += ["-device", f"virtserialport,chardev=port-{name},name=lab.{name}"]
    if channels.terminal is not None:
        line += ["-chardev", f"socket,id=terminal,fd={channels.terminal}"]
        line += ["-device", "virtconsole,chardev=terminal"]
    if machine.iommu:
        # before the NICs: they look it up when they are made
        line += ["-device", "intel-iommu,intremap=on,caching-mode=on,device-iotlb=on"]
    for k in range(machine.igb):
        line += _wired_pf(k)
    if machine.plain_nic:
        line += ["-netdev", "hubport,id=plain,hubid=100"]
        line += ["-device", "virtio-net-pci,netdev=plain,mac=52:54:00:30:00:00,romfile="]
    return line


def _wired_pf(k: int) -> list[str]:
    """PF `k` behind a port that takes hot-plug, joined by a hub to the guest's own wire `k`."""
    address = f"{_FIRST_ROOT_PORT + k:#x}"
    igb = ",".join(f"{key}={value}" for key, value in igb_device(k).items())
    wire = f"virtio-net-pci,id=wire{k},netdev=wire{k}-nic,mac=52:54:00:20:00:{k:02x},romfile="
    return [
        *("-device", f"pcie-root-port,id=port{k},chassis={k + 1},slot={k + 1},addr={address}"),
        *("-netdev", f"hubport,id=pf{k},hubid={k}", "-netdev", f"hubport,id=wire{k}-nic,hubid={k}"),
        *("-device", igb.removeprefix("driver="), "-device", wire),
    ]
