"""Fetch and build the laboratory: `make lab`, or `python3 -m lab.build`.

Idempotent: what is complete is kept, and a second run looks at three folders and ends.
"""

import argparse
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lab import accel, cache, cpio, parts
from lab.errors import LabError
from lab.fetch import BACKPORTS, Apt, unpack

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
XZ_MAGIC = b"\xfd7zXZ\x00"
ELF_MAGIC = b"\x7fELF"

KMOD_NAMES = ("depmod", "modprobe", "insmod", "rmmod", "lsmod", "modinfo")


class Screen:
    """Progress: one line that is rewritten on a terminal, a line per step elsewhere."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.step = ""

    def __call__(self, text: str) -> None:
        """Show what is being done; text after a colon is a detail of the same step."""
        step = text.rpartition(":")[0] or text
        if self.terminal:
            sys.stderr.write(f"\r\033[K{self._line(text)}")
            sys.stderr.flush()
        elif step != self.step:
            print(self._line(step), file=sys.stderr, flush=True)
        self.step = step

    def done(self, text: str) -> None:
        """Show a line that stays."""
        print(("\r\033[K" if self.terminal else "") + self._line(text), file=sys.stderr, flush=True)
        self.step = ""

    def _line(self, text: str) -> str:
        return f"lab: [{time.monotonic() - self.start:3.0f} s] {text}"


def check_tools() -> None:
    """Name every missing build tool at once."""
    needed = {
        "apt-get": "apt",
        "dpkg-deb": "dpkg",
        "gcc": "gcc",
        "make": "make",
        "ld": "binutils",
        "strip": "binutils",
    }
    absent = {package for tool, package in needed.items() if shutil.which(tool) is None}
    if absent:
        raise LabError(
            f"building the laboratory needs {', '.join(sorted(absent))}: run `make deps`, or "
            f"apt-get install {' '.join(sorted(absent))}"
        )


def build(screen: Screen) -> None:
    """Have every part.  Errors: LabError."""
    check_tools()
    with cache.exclusive(lambda: screen.done("another run is building the laboratory; waiting")):
        if parts.missing():
            fetch_and_build(screen)
            cache.prune({parts.tools(), *(parts.kernel(series) for series in parts.KERNELS)})
        found = accel.probe()
        if found:
            screen.done(found)


def fetch_and_build(screen: Screen) -> None:
    """Make the parts that are missing, in a scratch folder beside them."""
    scratch = cache.folder() / ".scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        screen("fetching the package lists")
        apt = Apt.create(scratch / "apt", screen)
        cache.build(parts.tools(), lambda tree: make_tools(apt, screen, tree))
        for series in parts.KERNELS:
            make = make_kernel(apt, screen, series, scratch / series)
            cache.build(parts.kernel(series), make)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def make_tools(apt: Apt, screen: Screen, tree: Path) -> None:
    """QEMU and the guest's kmod and busybox, with every library they need."""
    apt.install_tree(parts.TOOLS_PACKAGES, BACKPORTS, tree)
    # the tree moves when it is complete, so its scripts find it from where they are
    (tree / "lab").mkdir()
    for name in KMOD_NAMES:
        script = tree / "lab" / name
        command = parts.run_in(Path("$tree"), "bin/kmod", name=name)
        loader = next(
            f"$tree/{folder}/ld-linux-x86-64.so.2"
            for folder in parts.LIBRARIES
            if (tree / folder / "ld-linux-x86-64.so.2").exists()
        )
        quoted = " ".join(f'"{word}"' for word in [loader, *command[1:]])
        script.write_text(f'#!/bin/bash\ntree=${{BASH_SOURCE%/*}}/..\nexec {quoted} "$@"\n')
        script.chmod(0o755)
    qemu = parts.run_in(tree, "usr/bin/qemu-system-x86_64")
    version = _output(screen, "QEMU", [*qemu, "--version"]).splitlines()[0]
    screen.done(version)


def make_kernel(apt: Apt, screen: Screen, series: str, scratch: Path) -> Callable[[Path], None]:
    """How to make a kernel: its image, its modules, its initial RAM disk."""

    def make(part: Path) -> None:
        image = apt.dependency(parts.KERNELS[series].metapackage, f"linux-image-{series}")
        release = image.removeprefix("linux-image-")
        packages = apt.download([image], scratch)
        unpack(packages, scratch / "tree")
        screen(f"unpacking Linux {release}")
        vmlinux = extract(screen, (scratch / f"tree/boot/vmlinuz-{release}").read_bytes())
        (part / "vmlinux").write_bytes(vmlinux)
        modules = part / "lib/modules" / release
        source = scratch / "tree/lib/modules" / release
        if not source.exists():  # /usr-merged packages
            source = scratch / "tree/usr/lib/modules" / release
        keep_modules(source, modules)
        if parts.KERNELS[series].netdevsim:
            built = build_netdevsim(apt, screen, release, apt.version(image), scratch)
            (modules / "extra").mkdir()
            for module in built:
                shutil.copy(module, modules / "extra")
        depmod = parts.tools() / "lab/depmod"
        _output(screen, "depmod", [str(depmod), "-b", str(part), release])
        (part / "initrd").write_bytes(initrd(modules))
        (part / "release").write_text(release + "\n")
        with_netdevsim = ", with netdevsim" if parts.KERNELS[series].netdevsim else ""
        screen.done(f"Linux {release}{with_netdevsim}")

    return make


def extract(screen: Screen, image: bytes) -> bytes:
    """The kernel as an ELF file, which QEMU starts by PVH: unpacking it in the guest takes seconds.

    The image holds it compressed after its own loader (scripts/extract-vmlinux does the same).
    """
    at = image.find(XZ_MAGIC)
    if at >= 0:
        elf = lzma.LZMADecompressor().decompress(image[at:])
        if elf.startswith(ELF_MAGIC):
            return elf
    at = image.find(ZSTD_MAGIC)
    while at >= 0:
        zstd = parts.run_in(parts.tools(), "usr/bin/zstd")
        # what follows the frame is no zstd: an error after the output that is wanted
        done = subprocess.run([*zstd, "-dc"], input=image[at:], capture_output=True, check=False)
        if done.stdout.startswith(ELF_MAGIC):
            return done.stdout
        at = image.find(ZSTD_MAGIC, at + 1)
    screen.done("the kernel image has an unknown compression")
    raise LabError("can't find the kernel in its image: neither xz nor zstd holds an ELF file")


def keep_modules(source: Path, target: Path) -> None:
    """Copy the modules of parts.MODULES and those they depend on, unpacked."""
    dependencies = read_dependencies(source)
    wanted: set[str] = set()
    queue = [
        path for path in dependencies if path.removeprefix("kernel/").startswith(parts.MODULES)
    ]
    while queue:
        path = queue.pop()
        if path not in wanted:
            wanted.add(path)
            queue += dependencies[path]
    for path in wanted:
        copy = target / path.removesuffix(".xz")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(unpacked(source / path))
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(source / name, target / name)


def read_dependencies(modules: Path) -> dict[str, list[str]]:
    """Module path → the paths it depends on, from the .ko files' own `depends` via modules.dep.

    Debian's package brings no modules.dep: depmod makes it when the package is installed.
    """
    if not (modules / "modules.dep").exists():
        base = next(parent for parent in modules.parents if (parent / "lib").exists())
        subprocess.run(
            [parts.tools() / "lab/depmod", "-b", base, modules.name],
            check=True,
            capture_output=True,
        )
    listing = (modules / "modules.dep").read_text().splitlines()
    return {
        path: needs.split() for path, _, needs in (line.partition(":") for line in listing) if path
    }


def unpacked(path: Path) -> bytes:
    """A module as the kernel takes it without unpacking."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def initrd(modules: Path) -> bytes:
    """The initial RAM disk: busybox, and the modules to mount the host's root over 9p.

    Its init and the job come with each boot (boot.py).
    """
    dependencies = read_dependencies(modules)
    by_name = {Path(path).name.split(".ko")[0]: path for path in dependencies}
    order: list[str] = []
    for name in parts.BOOT_MODULES:
        if name in by_name:  # else it is built in
            path = by_name[name]
            # modules.dep lists what is needed last first
            order += [need for need in [*reversed(dependencies[path]), path] if need not in order]
    nodes = [
        cpio.directory(name)
        for name in ("bin", "dev", "proc", "sys", "ro", "rw", "new", "modules", "job")
    ]
    busybox = (parts.tools() / "bin/busybox").read_bytes()
    nodes.append(cpio.file("bin/busybox", busybox, executable=True))
    for number, path in enumerate(order):
        nodes.append(cpio.file(f"modules/{number:02}-{Path(path).name}", unpacked(modules / path)))
    return cpio.archive(nodes)


def build_netdevsim(
    apt: Apt, screen: Screen, release: str, version: str, scratch: Path
) -> list[Path]:
    """Build netdevsim for a kernel, changed to acknowledge flower and matchall offload."""
    flavour = release.removesuffix("-amd64")
    series = ".".join(release.split(".")[:2])
    debs = apt.download(
        [
            f"linux-headers-{release}",
            f"linux-headers-{flavour}-common",
            f"linux-kbuild-{flavour}",
            f"linux-source-{series}={version}",
        ],
        scratch / "netdevsim-debs",
    )
    (source_deb,) = [deb for deb in debs if deb.name.startswith("linux-source")]
    unpack([deb for deb in debs if deb != source_deb], scratch / "headers")
    screen("unpacking netdevsim's source")
    source = scratch / "netdevsim"
    source.mkdir()
    extract_netdevsim(source_deb, source)
    bpf = source / "bpf.c"
    text = bpf.read_text()
    if text.count(parts.NETDEVSIM_BEFORE) != 1:
        raise LabError(f"netdevsim of Linux {version} is not the one lab/parts.py changes")
    bpf.write_text(text.replace(parts.NETDEVSIM_BEFORE, parts.NETDEVSIM_AFTER))
    (source / "Makefile").write_text(
        parts.NETDEVSIM_MAKEFILE.format(objects=parts.NETDEVSIM_OBJECTS)
    )
    screen("building netdevsim")
    headers = scratch / f"headers/usr/src/linux-headers-{release}"
    makefile = headers / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{scratch}/headers/usr/src/"))
    jobs = os.cpu_count() or 1
    # without BTF of its own, which would need pahole
    command = [
        *("make", "-s", "-C", str(headers), f"M={source}", f"-j{jobs}"),
        *("CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"),
    ]
    _output(screen, "building netdevsim", command)
    modules = [source / "netdevsim.ko", source / "ptp_mock.ko"]
    _output(screen, "strip", ["strip", "--strip-debug", *map(str, modules)])
    return modules


def extract_netdevsim(deb: Path, target: Path) -> None:
    """Only the few files wanted, without unpacking a gigabyte to disk."""
    wanted = {"ptp_mock.c"}
    # stdin of tar is the package's payload, the inner archive is read as it streams by
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as payload:
        assert payload.stdout is not None
        with tarfile.open(fileobj=payload.stdout, mode="r|") as outer:
            for member in outer:
                if member.name.endswith(".tar.xz"):
                    stream = outer.extractfile(member)
                    assert stream is not None
                    _extract_sources(stream, target, wanted)
                    break
        payload.kill()
    if wanted:
        raise LabError(f"{deb.name} lacks {', '.join(wanted)}")


def _extract_sources(stream: IO[bytes], target: Path, wanted: set[str]) -> None:
    with tarfile.open(fileobj=stream, mode="r|xz") as inner:
        for member in inner:
            path = Path(member.name)
            in_netdevsim = path.parent.parts[1:] == ("drivers", "net", "netdevsim")
            if not ((in_netdevsim and path.suffix in (".c", ".h")) or path.name in wanted):
                continue
            content = inner.extractfile(member)
            assert content is not None
            (target / path.name).write_bytes(content.read())
            wanted.discard(path.name)
            if not wanted:  # drivers/net comes before drivers/ptp
                return


def _output(screen: Screen, what: str, command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        screen.done(f"{what} failed")
        last = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise LabError(f"{what} failed (status {done.returncode}):\n  {last}")
    return done.stdout


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python3 -m lab.build", description=__doc__)
    parser.add_argument("--refresh", action="store_true", help="build all of it anew")
    arguments = parser.parse_args()
    screen = Screen()
    try:
        if arguments.refresh:
            with cache.exclusive(lambda: screen.done("waiting for another run")):
                cache.prune(set())
        build(screen)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, above all
        print(f"lab: can't build in {cache.folder()}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted; what is complete is kept", file=sys.stderr)
        return 130
    screen.done(f"the laboratory is ready in {cache.folder()}: try lab/vm shell")
    return 0


if __name__ == "__main__":
    sys.exit(main())
