"""Runs tests against a tree of which one file is another, and leaves nothing behind.

Each run has namespaces of its own: of mounts, with the tree under an overlay in memory, so that the
checkout is never written to, whoever is killed; of processes, which end with it; and of networks.
"""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

SETUP = r"""
set -e
root=$1 changed=$2 path=$3 seconds=$4; shift 4
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work
mount -t overlay -o "lowerdir=$root,upperdir=/run/upper,workdir=/run/work" overlay "$root"
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
cd "$root"
ulimit -S -t "$seconds"
test -z "$path" || cat "$changed" > "$path"
sed -i 's/"-Werror", //' tools/compile_bpf.py  # a mutant may be odd C
python3 tools/compile_bpf.py > /dev/null 2>&1 || exit 99
.venv/bin/python -m pytest -q --tb=no -rfE -m 'not measured' \
    -p no:cacheprovider --basetemp=/run/tests --hypothesis-seed=8 "$@" || exit $?
"""
_UNSHARE = (
    "setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork",
    "--mount-proc", "--kill-child=KILL",
)  # fmt: skip
NOT_BUILT = "not built"
_COMPILER_REFUSED = 99
_ENDLESS = 10_000
_BLAMED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.M)
_TOOK = re.compile(r"^(\d+\.\d+)s \w+ +([^:\s]+)::", re.M)
_OUT_OF_TIME = 128 + signal.SIGXCPU


@dataclass(frozen=True)
class Sound:
    """How tests run without a mutant."""

    tests: list[str]
    """Their files, the cheapest first."""
    failed: list[str]
    seconds: float
    """Of CPU."""


@dataclass(frozen=True)
class Outcome:
    verdict: str
    """``lived``, ``died``, ``timed out`` or ``not built``."""
    by: str
    """The test that failed."""
    seconds: float


def sound(root: Path, tests: Sequence[str]) -> Sound:
    """Raises RuntimeError where the tests don't run."""
    before = _children()
    done = _pytest(root, "", "", _ENDLESS, "--durations=0", "--durations-min=0", *tests)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"the tests did not run:\n{done.stdout}{done.stderr}")
    seconds: dict[str, float] = dict.fromkeys(tests, 0.0)
    for took, file in _TOOK.findall(done.stdout):
        seconds[file] += float(took)
    return Sound(
        sorted(tests, key=seconds.__getitem__), _BLAMED.findall(done.stdout), _children() - before
    )


def run(root: Path, tests: Sequence[str], path: str, text: str, limit: float) -> Outcome:
    """Runs ``tests`` until one fails, with ``text`` in the file ``path``. ``limit``: seconds of
    CPU for each process.

    Raises RuntimeError where they did not run.
    """
    began = time.monotonic()
    with NamedTemporaryFile("w", suffix=Path(path).suffix) as changed:
        changed.write(text)
        changed.flush()
        done = _pytest(root, path, changed.name, limit, "-x", *tests)
    took = time.monotonic() - began
    blamed = _BLAMED.search(done.stdout)
    if done.returncode == 0:
        return Outcome("lived", "", took)
    if done.returncode == _COMPILER_REFUSED:
        return Outcome(NOT_BUILT, "", took)
    if done.returncode == _OUT_OF_TIME:
        return Outcome("timed out", "", took)
    if blamed or "ImportError while loading conftest" in done.stderr:
        return Outcome("died", blamed[1] if blamed else "import", took)
    raise RuntimeError(f"the tests did not run:\n{done.stdout}{done.stderr}")


def _pytest(
    root: Path, path: str, changed: str, limit: float, *more: str
) -> subprocess.CompletedProcess[str]:
    """That nothing waits for ever is pytest-timeout's to see to."""
    command = [*_UNSHARE, "sh", "-c", SETUP, "sh", str(root), changed, path, str(int(limit))]
    return subprocess.run([*command, *more], capture_output=True, text=True)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
