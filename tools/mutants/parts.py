"""What is mutated, and which tests should notice: those that need neither the laboratory nor a
machine of their own, the cheap ones first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.mutants.mutant import ByHand, Mutant


@dataclass(frozen=True)
class Part:
    name: str
    sources: tuple[str, ...]
    """Globs below ``src/vfd``."""
    tests: tuple[str, ...]
    """Files and folders below ``tests``, or tests of files."""
    count: int | None = 30
    """How many mutants are drawn; None: all are tried."""

    def files(self, root: Path) -> Iterator[str]:
        for pattern in self.sources:
            for path in sorted((root / "src/vfd").glob(pattern)):
                yield str(path.relative_to(root))

    def test_files(self, root: Path) -> list[str]:
        every = [found for test in self.tests for found in _files(root / "tests" / test)]
        return [str(file.relative_to(root)) for file in every]


def _files(test: Path) -> list[Path]:
    """None where there is nothing: an older checkout lacks some."""
    if test.is_dir():
        return sorted(test.rglob("test_*.py"))
    return [test] if test.exists() else []


def nearest_first(tests: list[str], mutant: Mutant | ByHand) -> list[str]:
    """Those first that are named as the source is."""
    stem = Path(mutant.path).name.split(".")[0]
    near = (isinstance(mutant, ByHand) and mutant.near) or stem
    return sorted(tests, key=lambda test: near not in Path(test).name)


_POLICY = ("policy", "packet/test_cases_agree_with_model.py")
_CLI = ("cli/test_check.py", "cli/test_without_daemon.py", "cli/test_tables.py")
_BPF = ("veb.bpf.c", "rx.h", "frame.h", "port.h", "events.h")
_FRAMES = ("bpf", "packet/test_soft_nic.py")
_DAEMON = ("daemon", "kernel/test_undone.py", "life/test_killed.py")
_FILES = ("daemon/test_files.py", "daemon/test_power_cuts.py")

PARTS = (
    Part("policy", ("policy/*.py",), (*_POLICY, "config", "plan", "cli/test_check.py")),
    Part("plan", ("plan/*.py",), ("plan",)),
    Part("config", ("config/*.py",), ("config", *_CLI, *_FILES)),
    Part("bpf", tuple(f"nic/soft/bpf/{name}" for name in _BPF), _FRAMES, count=60),
    Part("plain", ("nic/soft/bpf/plain.h",), _FRAMES, count=None),
    Part("soft", ("nic/soft/*.py", "nic/netlink.py", "nic/inotify.py"), ("bpf", "soft", "packet")),
    Part("kernel", ("nic/kernel/*.py",), ("kernel",)),
    Part("daemon", ("daemon/*.py", "main.py"), _DAEMON),
    Part("api", ("api/*.py",), ("api", "daemon", "cli/test_daemon.py")),
    Part("cli", ("cli/*.py",), ("cli",)),
)
