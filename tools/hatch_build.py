"""Build hook: compiles the soft NIC's BPF program, so that an installed package needs no compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BPF_DIR = "src/vfd/nic/soft/bpf"


class BpfBuildHook(BuildHookInterface[Any]):
    """Compiles every ``*.bpf.c`` beside its source before files are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name == "sdist":
            return
        clang = shutil.which("clang")
        for source in sorted((Path(self.root) / BPF_DIR).glob("*.bpf.c")):
            compiled = source.with_suffix(".o")
            newest = max(p.stat().st_mtime for p in source.parent.glob("*.[ch]"))
            if compiled.exists() and compiled.stat().st_mtime >= newest:
                continue
            if clang is None:
                raise RuntimeError(
                    f"{source.name} must be compiled to build vfd, and clang was not found:"
                    " install clang and libbpf-dev, or install a ready-made wheel"
                )
            subprocess.run(
                [
                    clang,
                    "-O2",
                    "-g",
                    "-Wall",
                    "-Wextra",
                    "-Werror",
                    "-target",
                    "bpf",
                    "-mcpu=v3",
                    "-I/usr/include/x86_64-linux-gnu",
                    "-I/usr/include/aarch64-linux-gnu",
                    "-c",
                    str(source),
                    "-o",
                    str(compiled),
                ],
                check=True,
            )
