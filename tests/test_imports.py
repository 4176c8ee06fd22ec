"""The rooms of the design: imports go one way, and no file is more than one reader can hold."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
ROOMS = ("policy", "config", "plan", "nic", "daemon", "api", "cli")
"""In the order of docs: each may import those before it. ``vfd.main`` puts them together."""
BACKENDS = ("soft", "kernel", "dpdk")
CLI_MAY = ("vfd.policy", "vfd.config", "vfd.api.schema", "vfd.api.client", "vfd.cli")
BACKEND_MAY = ("vfd.policy", "vfd.plan", "vfd.nic.protocol")
LINES = 550
"""About 500."""

MODULES = sorted(SRC.glob("vfd/**/*.py"))
SOURCES = sorted([*MODULES, *SRC.glob("vfd/**/*.c"), *SRC.glob("vfd/**/*.h")])


def name_of(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str) -> Iterator[str]:
    """Everything a module imports, wherever in it, under ``TYPE_CHECKING`` too.

    ``from vfd.api import client`` may mean the module ``vfd.api.client``, so it is given as that.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports in full, from vfd"
            module = node.module or ""
            if module.split(".")[0] == "vfd":
                yield from (f"{module}.{alias.name}" for alias in node.names)
            else:
                yield module


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def forbidden(importer: str, source: str) -> list[str]:
    """What ``importer`` imports against the rules, each with the rule."""
    return [
        f"{importer} imports {module}: {rule}"
        for module in imports(source)
        if (rule := broken_rule(importer, module))
    ]


def broken_rule(importer: str, module: str) -> str | None:
    room = importer.split(".")[1] if "." in importer else ""
    if room not in ROOMS:
        return None
    if not within(module, "vfd"):
        if room == "policy" and not from_stdlib_or_pydantic(module):
            return "policy imports nothing but policy, pydantic and the standard library"
        return None
    imported = module.split(".")[1] if "." in module else ""
    if imported not in ROOMS:
        return "only the rooms of the design are imported" if imported == "main" else None
    if ROOMS.index(imported) > ROOMS.index(room):
        return f"imports go one way, {' <- '.join(ROOMS)}"
    if room == "cli" and not within(module, *CLI_MAY):
        return "the command line imports policy, config and the API's schema and client only"
    backend = importer.split(".")[2] if importer.count(".") >= 2 else ""
    if room == "nic" and backend in BACKENDS:
        others = [f"vfd.nic.{other}" for other in BACKENDS if other != backend]
        if within(module, *others) or within(module, "vfd.nic.discovery"):
            return "a backend knows no other backend"
        if imported != "nic" and not within(module, *BACKEND_MAY):
            return "a backend knows policy, changes and the protocol"
    return None


def from_stdlib_or_pydantic(module: str) -> bool:
    top = module.split(".")[0]
    return top == "pydantic" or top in sys.stdlib_module_names


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    assert forbidden(name_of(path), path.read_text()) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SRC)))
def test_no_file_is_more_than_one_reader_can_hold(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LINES, f"{path.name} has {lines} lines: split it by idea"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_named_utils(path: Path) -> None:
    assert not {"utils", "util", "helpers", "misc", "common"} & set(name_of(path).split("."))


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("vfd.policy.values", "import pyroute2"),
        ("vfd.policy.values", "from vfd.config.errors import ConfigError"),
        ("vfd.config.store", "from vfd.plan.changes import Change"),
        ("vfd.plan.plan", "from vfd.nic.protocol import NicState"),
        ("vfd.plan.plan", "from vfd import nic"),
        ("vfd.nic.soft.nic", "def f() -> None:\n    import vfd.daemon.service"),
        ("vfd.nic.soft.nic", "from vfd.nic.kernel import rtnl"),
        ("vfd.nic.kernel.rtnl", "from vfd.config.main_file import MainConfig"),
        ("vfd.daemon.service", "from vfd.api import schema"),
        ("vfd.api.app", "from vfd.cli.main import main"),
        ("vfd.cli.show", "from vfd.daemon.service import Service"),
        ("vfd.cli.show", "from vfd.nic.protocol import COUNTERS"),
        ("vfd.cli.show", "from vfd.api import app"),
        ("vfd.daemon.service", "from vfd import main"),
    ],
)
def test_an_import_against_the_rules_is_found(importer: str, statement: str) -> None:
    assert forbidden(importer, statement)


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("vfd.policy.values", "import re\nfrom pydantic import BaseModel"),
        ("vfd.nic.protocol", "from vfd.plan.changes import Change"),
        ("vfd.nic.soft.nic", "from vfd.nic.protocol import Nic\nfrom vfd.nic.soft import tables"),
        ("vfd.nic.discovery", "from vfd.nic.soft import open as open_soft"),
        ("vfd.api.app", "import vfd"),
        ("vfd.cli.show", "from vfd import __version__\nfrom vfd.api.client import Client"),
        ("vfd.main", "from vfd.api.app import app\nfrom vfd.nic.discovery import open_nic"),
    ],
)
def test_an_import_within_the_rules_is_not_found(importer: str, statement: str) -> None:
    assert forbidden(importer, statement) == []
