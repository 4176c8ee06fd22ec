"""Man pages: up to date, and what groff takes without a word."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vfd.cli.events import KINDS
from vfd.cli.main import iplex

ROOT = Path(__file__).parents[2]
PAGES = ("iplex.1", "vfd.8", "vfd.cfg.5")


def test_every_generated_page_is_up_to_date() -> None:
    ended = subprocess.run(
        [sys.executable, ROOT / "tools" / "gen_man.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def rendered(page: str) -> str:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed: tools/deps.sh installs it")
    ended = subprocess.run(
        [groff, "-man", "-Tutf8", "-ww", "-P-cbou", ROOT / "docs" / "man" / page],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ended.stderr == ""
    return ended.stdout


@pytest.mark.parametrize("page", PAGES)
def test_groff_takes_every_page_without_a_warning(page: str) -> None:
    text = rendered(page)
    name = page.rpartition(".")[0]
    assert f"NAME\n       {name} " in text
    assert "SEE ALSO" in text
    assert "<!--" not in text


def test_the_page_of_iplex_has_every_command() -> None:
    text = rendered("iplex.1")
    for commands in iplex.homes.values():
        for command in commands:
            assert f"\n   iplex {command} " in text or f"\n   iplex {command}\n" in text


def test_the_page_of_the_files_has_every_field() -> None:
    from vfd.config.main_file import MainConfig
    from vfd.policy.values import VfPolicy

    text = rendered("vfd.cfg.5")
    for field in (*(set(MainConfig.model_fields) - {"nics"}), *VfPolicy.model_fields):
        assert f"\n       {field}" in text


def test_the_page_of_operating_explains_every_kind_of_event_that_can_be_asked_for() -> None:
    page = (ROOT / "docs/operating.md").read_text()
    table = page.split("## Events")[1].split("## ")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert tuple(re.findall("`([a-z-]+)`", "".join(first))) == KINDS
