"""A test that is skipped proves nothing: a run of everything doesn't count it as passed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SKIPS = """
import pytest
from tests.lacks import Lacks


def test_skips_as_it_runs():
    pytest.skip("something is missing")


@pytest.mark.skipif(True, reason="something is missing")
def test_skips_beforehand():
    pass


def test_is_about_what_a_nic_lacks():
    raise Lacks("vlans: this NIC has none")


def test_is_known_to_fail():
    pytest.xfail("the emulation does otherwise")
"""


@pytest.mark.parametrize(
    ("options", "says"),
    [((), "3 skipped, 1 xfailed"), (("--no-skips",), "1 failed, 1 skipped, 1 xfailed, 1 error")],
)
def test_what_is_skipped_fails_but_for_what_a_nic_lacks(
    options: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    told = run(tmp_path, SKIPS, *options)
    assert says in told
    assert told.count("something is missing") >= 2


def test_a_file_that_skips_itself_fails(tmp_path: Path) -> None:
    itself = "import pytest\npytest.importorskip('no_such_module')\n"
    assert "1 error" in run(tmp_path, itself, "--no-skips")


def run(folder: Path, tests: str, *options: str) -> str:
    """What pytest says of these tests, with the suite's own options."""
    (folder / "test_some.py").write_text(tests)
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.conftest"),
        *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), *options, str(folder)),
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
