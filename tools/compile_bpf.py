"""Compiles the soft NIC's BPF programs beside their sources: ``make bpf``, and the build hook."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

BPF_DIR = Path("src/vfd/nic/soft/bpf")

# v3: 32-bit arithmetic and atomics, which every kernel from 5.12 on runs. The include folders are
# where Debian keeps asm/, which clang looks for only when it compiles for the host.
FLAGS = (
    *("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3"),
    *("-I/usr/include/x86_64-linux-gnu", "-I/usr/include/aarch64-linux-gnu"),
)


def compile_all(root: Path) -> None:
    """Compiles every ``*.bpf.c`` that is newer than its object, or whose headers are.

    Raises RuntimeError when that takes a compiler and there is none, or it refuses.
    """
    for source in sorted((root / BPF_DIR).glob("*.bpf.c")):
        compiled = source.with_suffix(".o")
        newest = max(path.stat().st_mtime for path in source.parent.glob("*.[ch]"))
        if not compiled.exists() or compiled.stat().st_mtime < newest:
            compile_one(source, compiled)


def compile_one(source: Path, compiled: Path) -> None:
    """``compiled`` appears whole or not at all: a test may be loading it at this moment."""
    clang = shutil.which("clang")
    if clang is None:
        raise RuntimeError(
            f"{source.name} must be compiled to build vfd, and clang was not found:"
            " install clang and libbpf-dev, or install a ready-made wheel"
        )
    fresh = compiled.with_suffix(".o.new")
    command = [clang, *FLAGS, "-c", str(source), "-o", str(fresh)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        fresh.unlink(missing_ok=True)
        raise RuntimeError(f"clang refused {source.name}:\n{done.stderr}")
    fresh.replace(compiled)


if __name__ == "__main__":
    try:
        compile_all(Path(__file__).parent.parent)
    except RuntimeError as error:
        sys.exit(str(error))
