"""Runs tests against a tree of which one file is another, and leaves nothing behind.

Each run has namespaces of its own: of mounts, with the tree under an overlay in memory, so that the
checkout is never written to, whoever is killed; of processes, which end with it; and of networks.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

SETUP = r"""
set -e
root=$1 changed=$2 path=$3; shift 3
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work
mount -t overlay -o "lowerdir=$root,upperdir=/run/upper,workdir=/run/work" overlay "$root"
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
cd "$root"
test -z "$path" || cat "$changed" > "$path"
python3 tools/compile_bpf.py > /dev/null 2>&1 || exit 99
exec nice -n 19 .venv/bin/python -m pytest -q -x --tb=no -rfE -m 'not measured' \
    -p no:cacheprovider --basetemp=/run/tests --hypothesis-seed=8 "$@"
"""
_UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child=KILL")
_BLAMED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.M)


@dataclass(frozen=True)
class Outcome:
    verdict: str
    """``lived``, ``died``, ``timed out`` or ``not built``."""
    by: str
    """The test that failed."""
    seconds: float


def run(
    root: Path, tests: Sequence[str], path: str = "", text: str = "", limit: float = 600
) -> Outcome:
    """Runs ``tests`` until one fails, with ``text`` in the file ``path``.

    Raises RuntimeError where they did not run.
    """
    with NamedTemporaryFile("w", suffix=Path(path).suffix) as changed:
        changed.write(text)
        changed.flush()
        command = [*_UNSHARE, "sh", "-c", SETUP, "sh", str(root), changed.name, path, *tests]
        began = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return Outcome("timed out", "", time.monotonic() - began)
    took = time.monotonic() - began
    if done.returncode == 0:
        return Outcome("lived", "", took)
    if done.returncode == 99:
        return Outcome("not built", "", took)
    blamed = _BLAMED.search(done.stdout)
    if blamed:
        return Outcome("died", blamed[1], took)
    if path and "conftest" in done.stderr:  # it can't even be imported
        return Outcome("died", "import", took)
    raise RuntimeError(f"the tests did not run:\n{done.stdout}{done.stderr}")
