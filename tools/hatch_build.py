"""Build hook: compiles the soft NIC's BPF program: who installs a wheel needs no compiler."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BpfBuildHook(BuildHookInterface[Any]):
    """Compiles before files are collected. An sdist has the sources and compiles when installed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        if self.target_name == "sdist":
            return
        # hatchling loads this file alone: its neighbours can't be imported by name
        path = Path(self.root, "tools", "compile_bpf.py")
        spec = importlib.util.spec_from_file_location("compile_bpf", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.compile_all(Path(self.root))
