"""What is built to be installed elsewhere has everything in it, and runs without a compiler."""

from __future__ import annotations

import ast
import os
import re
import secrets
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IPLEX = "from vfd.cli.main import main; main()"
DESTROY = """
import sys
from pathlib import Path
from vfd.config.main_file import parse_main
from vfd.nic import soft
soft.destroy(parse_main(Path(sys.argv[1]).read_text(), file="vfd.cfg").config.nics[0])
"""
SHARE = "vfd-{version}.data/data/share/"


@pytest.fixture(scope="module")
def version() -> str:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def build(folder: Path, kind: str, into: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", into],
        cwd=folder,
        capture_output=True,
        timeout=60,
        check=True,
    )
    (built,) = into.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist alone: what that lacks, this lacks."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as file:
        file.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"))


def test_the_sdist_has_every_file_of_the_repository_and_nothing_compiled(sdist: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout: what belongs to the repository is not known")
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert tracked - names == set()
    assert [name for name in names if name.endswith((".o", ".pyc"))] == []


def test_the_wheel_has_the_program_the_schemas_and_the_licences(wheel: Path, version: str) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    wanted = {
        "vfd/py.typed",
        "vfd/api/openapi.json",
        "vfd/config/schemas/vf.schema.json",
        "vfd/config/schemas/vfd.cfg.schema.json",
        "vfd/nic/soft/bpf/veb.bpf.o",
        "vfd/nic/soft/bpf/veb.bpf.c",
        "vfd/nic/soft/bpf/LICENSE.GPL-2.0",
        "vfd/nic/soft/bpf/LICENSE.BSD-2-Clause",
        *(
            f"vfd-{version}.dist-info/licenses/{name}"
            for name in (
                "LICENSE",
                "src/vfd/nic/soft/bpf/LICENSE.GPL-2.0",
                "src/vfd/nic/soft/bpf/LICENSE.BSD-2-Clause",
            )
        ),
        *(
            SHARE.format(version=version) + name
            for name in (
                "man/man1/iplex.1",
                "man/man5/vfd.cfg.5",
                "man/man8/vfd.8",
                "bash-completion/completions/iplex",
                "zsh/site-functions/_iplex",
                "fish/vendor_completions.d/iplex.fish",
                "doc/vfd/vfd.cfg.example",
                "doc/vfd/vf.json.example",
                "doc/vfd/vfd.service",
                "doc/vfd/vfd.sysusers",
            )
        ),
    }
    assert wanted - names == set()
    modules = {str(path.relative_to(ROOT / "src")) for path in ROOT.glob("src/vfd/**/*.py")}
    assert modules - names == set()


def imports(module: ast.Module) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_the_wheel_states_its_licences_and_just_what_it_imports(wheel: Path, version: str) -> None:
    with zipfile.ZipFile(wheel) as file:
        told = HeaderParser().parsestr(file.read(f"vfd-{version}.dist-info/METADATA").decode())
        modules = [ast.parse(file.read(name)) for name in file.namelist() if name.endswith(".py")]
    assert told["License-Expression"] == "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)"
    needs = {
        re.split(r"[^\w-]", need)[0]
        for need in told.get_all("Requires-Dist") or []
        if "extra ==" not in need
    }
    imported = {name.split(".")[0] for module in modules for name in imports(module)}
    foreign = imported - sys.stdlib_module_names - {"vfd"}
    assert {need.replace("-", "_") for need in needs} == foreign


def test_every_bpf_source_names_both_licences() -> None:
    sources = sorted(ROOT.glob("src/vfd/nic/soft/bpf/*.[ch]"))
    assert sources != []
    for source in sources:
        first = source.read_text().splitlines()[0]
        assert "SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause" in first, source


def test_every_dependency_has_its_line_in_the_documentation() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    needs = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    text = (ROOT / "docs" / "dependencies.md").read_text().lower()
    missing = [need for need in needs if re.split(r"[^\w-]", need)[0].lower() not in text]
    assert missing == []


@pytest.mark.root
def test_the_wheel_runs_a_software_nic_where_there_is_no_compiler(
    wheel: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"),
            *("--disable-pip-version-check", "--target", site, wheel),
        ],
        timeout=60,
        check=True,
    )
    nothing = tmp_path / "empty"
    nothing.mkdir()
    pf = f"pk{secrets.token_hex(3)}"
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "one.json").write_text(
        f'{{"pciid": "{pf}", "vfid": 1, "vlans": [7], "strip_ctag": true}}'
    )
    sock = tmp_path / "s"
    main = tmp_path / "vfd.cfg"
    main.write_text(
        f'{{"config_dir": "{tmp_path}/config", "log_dir": "{tmp_path}", "socket": "{sock}",'
        f' "pid_fname": "{tmp_path}/pid",'
        f' "pciids": [{{"id": "{pf}", "backend": "soft", "vfs": 2}}]}}'
    )
    env = {"PATH": str(nothing), "PYTHONPATH": str(site), "HOME": str(tmp_path)}
    where = subprocess.run(
        [sys.executable, "-c", "import vfd; print(vfd.__file__)"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(site))
    daemon = subprocess.Popen(
        [sys.executable, "-m", "vfd.main", "--config", main],
        env=env,
        stderr=(tmp_path / "told").open("w"),
    )
    try:
        shown = ""
        until = time.monotonic() + 15
        while f"{pf}:1" not in shown and time.monotonic() < until and daemon.poll() is None:
            shown = subprocess.run(
                [sys.executable, "-c", IPLEX, "--socket", sock, "show", "all"],
                env=env,
                capture_output=True,
                text=True,
                timeout=15,
                check=False,
            ).stdout
            time.sleep(0.1)
        line = next((one for one in shown.splitlines() if one.startswith(f"{pf}:1")), "")
        assert line.split()[1:4] == ["one", f"{pf}v1", "up"], (tmp_path / "told").read_text()
    finally:
        daemon.terminate()
        daemon.wait(10)
        subprocess.run(
            [sys.executable, "-c", DESTROY, main],
            env=env | {"PATH": os.environ["PATH"]},
            timeout=30,
            check=True,
        )
