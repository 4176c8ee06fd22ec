"""Files held against every rule that needs no NIC, for ``iplex check``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vfd.config import store
from vfd.config.errors import ConfigError, Problem, problems
from vfd.config.fields import as_files_have_it
from vfd.config.json_text import parse_object
from vfd.config.main_file import MainConfig, parse_main
from vfd.config.vf_file import parse_vf
from vfd.policy.rules import Broken, check, check_names
from vfd.policy.shown import plural
from vfd.policy.values import NicPolicy, PfPolicy, TrafficClass, VfPolicy

LARGEST_MTU = 9710
"""Of ``values.Mtu``: what an unknown PF is taken to allow."""


@dataclass
class Findings:
    """What the files are, and all that is wrong with them."""

    files: list[str] = field(default_factory=list)
    vfs: dict[str, VfPolicy] = field(default_factory=dict)
    """The VFs' files, and what they state as far as it can be read."""
    unknown: dict[str, frozenset[str]] = field(default_factory=dict)
    """By the VF's name, the fields that can't be."""
    written: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """The files' objects, with their own names of fields."""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Paths where there is nothing to be checked."""

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": not self.problems,
            "files": self.files,
            "problems": [asdict(problem) for problem in self.problems],
            "warnings": [asdict(warning) for warning in self.warnings],
        }

    def summary(self) -> str:
        counted = plural(len(self.files), "file")
        if self.problems:
            bad = len({problem.file for problem in self.problems})
            return f"{plural(len(self.problems), 'problem')} in {bad} of {counted}"
        warned = f", {plural(len(self.warnings), 'warning')}" if self.warnings else ""
        return f"{counted} good{warned}"


def checked(paths: Sequence[str], conf: str | None) -> Findings:
    """Everything wrong with the files at ``paths``; ``conf`` is a main configuration whose PFs
    the VFs' files are held against."""
    found = Findings()
    pfs: dict[str, PfPolicy] = {}
    main_is_known = False
    if conf is not None and (why := _nothing_at(Path(conf))):
        found.missing.append(f"{conf} can't be read: {why}")
    elif conf is not None and (config := _main(Path(conf), found)):
        pfs.update({pf.id: pf for pf in config.nics})
        main_is_known = True
    for path in map(Path, paths):
        if why := _nothing_at(path):
            found.missing.append(f"{path} can't be read: {why}")
        elif path.is_dir():
            _folder(path, found)
        elif _is_main(path):
            config = _main(path, found)
            if config is None:
                continue
            pfs.update({pf.id: pf for pf in config.nics})
            main_is_known = True
            folder = Path(config.config_dir)
            if why := _nothing_at(folder) or ("" if folder.is_dir() else "it is no folder"):
                rule = f"it can't be read ({why}), so no VF's file was checked: make it"
                problem = Problem(str(path), "config_dir", config.config_dir, rule)
                found.warnings.append(problem)
            else:
                _folder(folder, found)
        else:
            _vf(path, None, found)
    between(found, pfs, main_is_known)
    return found


def _folder(folder: Path, found: Findings) -> None:
    """A ``config_dir``: a VF without a ``name`` is called as its path below the folder."""
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
            _vf(path, name.removesuffix(".json"), found)


def _vf(path: Path, name: str | None, found: Findings) -> None:
    file = str(path)
    if file in found.files:
        return
    found.files.append(file)
    try:
        parsed = parse_vf(_read(path), file=file, name=name)
    except ConfigError as error:
        found.problems += error.problems
        if error.readable is not None:
            found.vfs[file] = error.readable.policy
            found.unknown[error.readable.policy.name] = error.readable.unknown
            found.written[file] = error.readable.written
        return
    found.vfs[file] = parsed.policy
    found.written[file] = parsed.written
    found.warnings += parsed.warnings


def _main(path: Path, found: Findings) -> MainConfig | None:
    file = str(path)
    found.files.append(file)
    try:
        parsed = parse_main(_read(path), file=file)
    except ConfigError as error:
        found.problems += error.problems
        return None
    found.warnings += parsed.warnings
    return parsed.config


def _is_main(path: Path) -> bool:
    """By its content: a VF's file names its PF and VF. What can't be read goes by its name."""
    try:
        content, _ = parse_object(_read(path), file=str(path))
    except ConfigError:
        return path.suffix == ".cfg"
    if "pciid" in content or "vfid" in content:
        return False
    return path.suffix == ".cfg" or bool(content.keys() & {"pciids", *MainConfig.model_fields})


def _read(path: Path) -> bytes:
    """As the daemon would read it: no pipe that never ends, nothing of more than 1 MiB.

    Raises ConfigError for those and for what can't be read.
    """
    return store.read(path).text


def _nothing_at(path: Path) -> str:
    """Why there is nothing to be read there; '' where there is something."""
    try:
        path.stat()
    except PermissionError:
        return ""  # reading it tells
    except (OSError, ValueError) as error:  # a NUL in the path
        return getattr(error, "strerror", None) or str(error)
    return ""


def between(found: Findings, pfs: Mapping[str, PfPolicy], main_is_known: bool) -> None:
    """Adds conflicts of the VFs among each other and with their PFs."""
    files = {vf.name: file for file, vf in found.vfs.items()}
    by_pf: dict[str, list[VfPolicy]] = defaultdict(list)
    for file, vf in found.vfs.items():
        by_pf[vf.pciid].append(vf)
        if main_is_known and vf.pciid not in pfs:
            rule = "pciids of the main configuration lists no PF of this name"
            found.warnings.append(Problem(file, "pciid", vf.pciid, rule))
    broken: list[Broken] = []
    for pciid, vfs in by_pf.items():
        pf = pfs.get(pciid) or _unknown(pciid)
        nic = NicPolicy(pf=pf, vfs=tuple(vfs))
        broken += check(nic, link_bps=pf.link_speed, unknown=found.unknown)
    broken += check_names(found.vfs.values())
    told = {(one.file, one.field, one.rule) for one in found.problems}
    found.problems += [
        one
        for one in dict.fromkeys(as_files_have_it(problems(broken, files), found.written))
        if (one.file, one.field, one.rule) not in told
    ]


def _unknown(pciid: str) -> PfPolicy:
    """A PF of which nothing is known forbids nothing."""
    classes = tuple(TrafficClass(pri=pri) for pri in range(8))
    return PfPolicy(id=pciid, mtu=LARGEST_MTU, vf_oversubscription=True, tclasses=classes)
