"""The main configuration, ``vfd.cfg``: text into the daemon's settings and its PFs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationError, WithJsonSchema

from vfd.config.errors import ConfigError, Problem, problems, shown
from vfd.config.fields import (
    CLASS_SHAPE,
    MAIN_SHAPE,
    PF_SHAPE,
    as_written,
    bad_fields,
    known_fields,
    plain,
    today,
    unknown_fields,
)
from vfd.config.json_text import parse_object, without_comments
from vfd.policy.no_effect import OF_DPDK
from vfd.policy.remarks import remarks
from vfd.policy.rules import check_pf
from vfd.policy.values import (
    DEFAULT_MTU,
    Count,
    Flag,
    Mtu,
    NicPolicy,
    PfPolicy,
    TrafficClass,
    Value,
)

LEAST_ALARM = 0.05
"""Of one CPU: VFd raised a lower ``cpu_alarm`` to this, and so does vfd; but 0 is never."""
_LONGEST = 64
"""Characters of a share."""
STDERR = "stderr"
"""A ``log_dir`` that is no folder: the log goes to standard error alone, where it goes anyway."""
_SUN_PATH = 107
"""Longest path of a Unix socket, in bytes: sun_path less its NUL, linux/un.h."""


def _absolute(path: str) -> str:
    path = path.strip()
    if not path.startswith("/") or not path.isprintable():
        raise ValueError(f"{shown(path)} is not an absolute path")
    return path


def _log_dir(path: str) -> str:
    """VFd took ``stderr`` for a folder: then no file is written."""
    return STDERR if path.strip() == STDERR else _absolute(path)


def _socket(path: str) -> str:
    path = _absolute(path)
    if len(path.encode()) > _SUN_PATH:
        raise ValueError(f"a socket's path has at most {_SUN_PATH} bytes")
    return path


def parse_cpu(value: Any) -> float:
    """A share of one CPU: 0.15, ``"15%"`` or ``"15"`` for the same; 1.05 is a CPU and a bit.

    Raises ValueError for anything else.
    """
    share: float | None = None
    if isinstance(value, str) and len(value) <= _LONGEST:
        digits = value.strip().removesuffix("%").strip()
        if digits.isascii() and digits.replace(".", "", 1).isdigit():
            share = float(digits) / 100
    elif isinstance(value, int | float) and not isinstance(value, bool):
        share = value
    if share is None or not 0 <= share <= 1024:
        raise ValueError(f'{shown(value)} is not a share of a CPU: write 0.15 or "15%"')
    return alarm(float(share))


def alarm(share: float) -> float:
    """The share of a CPU above which the daemon warns, where ``share`` was asked for. 0: never."""
    return max(share, LEAST_ALARM) if share else 0.0


def _text(value: Any) -> Any:
    """VFd took these as numbers, too."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_PATH_PATTERN = r"^\s*/[^\x00-\x1f\x7f-\x9f]*$"
Path = Annotated[
    str,
    AfterValidator(_absolute),
    WithJsonSchema({"title": "absolute path", "type": "string", "pattern": _PATH_PATTERN}),
]
LogDir = Annotated[
    str,
    AfterValidator(_log_dir),
    WithJsonSchema(
        {
            "title": 'absolute path, or "stderr"',
            "type": "string",
            "pattern": rf"{_PATH_PATTERN}|^\s*{STDERR}\s*$",
        }
    ),
]
SocketPath = Annotated[
    str,
    AfterValidator(_socket),
    WithJsonSchema(
        {"title": "absolute path, at most 107 bytes", "type": "string", "pattern": _PATH_PATTERN}
    ),
]
Cpu = Annotated[
    float,
    BeforeValidator(parse_cpu),
    WithJsonSchema(
        {
            "title": "share of a CPU",
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1024},
                {"type": "string", "pattern": r"^\s*[0-9]{1,5}(\.[0-9]*)?\s*%?\s*$"},
            ],
        }
    ),
]
TextOrNumber = Annotated[
    str,
    BeforeValidator(_text),
    WithJsonSchema({"title": "text or number", "type": ["string", "integer"]}),
]


class MainConfig(Value):
    """The daemon's settings and its PFs."""

    log_dir: LogDir = "/var/log/vfd"
    """The folder of log files; `"stderr"`: there are none, the log goes to standard error alone."""
    log_keep: Count = 30
    """Days for which log files are kept."""
    log_level: Count = 1
    """How much is logged: 0 errors and warnings, 1 what happens, 2 and more the details. VFd's 3
    and 4 said still more: here they are 2."""
    config_dir: Path = "/var/lib/vfd/config"
    """The folder of the VFs' files; a `/` in a VF's name is a folder below it."""
    delete_keep: Flag = False
    """The file of a VF that is deleted is kept, under its name with a `-` behind."""
    pid_fname: Path = "/run/vfd/vfd.pid"
    """The file that holds the daemon's process id."""
    stats_path: Path | None = None
    """A file that gets all counters as JSON every 30 s. Without it none is written, and nothing is
    counted for it."""
    socket: SocketPath = "/run/vfd/vfd.sock"
    """The Unix socket of the API: commands and programs ask there."""
    default_mtu: Mtu = DEFAULT_MTU
    """The MTU of a VF that states none, and the `mtu` of a PF that states none."""
    enable_qos: Flag = False
    """Traffic classes (`tclasses`, `bw_grps`, `queues`) are in use."""
    enable_flowcontrol: Flag = False
    """Read for old files, and reported: pause frames stay as the NIC has them (`ethtool -A`)."""
    cpu_alarm: Cpu = 0.10
    """The share of one CPU above which the daemon warns of its own use: 0.15, `"15%"`; 0 is never,
    and less than 5 % is 5 %."""
    cpu_alarm_type: str = "WRN:"
    """What that warning begins with."""
    huge_pages: Flag = True
    """DPDK backend: memory in huge pages."""
    cpu_mask: TextOrNumber = ""
    """DPDK backend: the CPU that it runs on, as a mask: `"0x04"`; empty: DPDK's choice."""
    numa_mem: TextOrNumber = "64,64"
    """DPDK backend: MB of memory on each NUMA node."""
    dpdk_log_level: Count = 0
    """DPDK backend: its library's log level."""
    dpdk_init_log_level: Count = 0
    """DPDK backend: its library's log level while it starts."""
    nics: tuple[PfPolicy, ...] = ()
    """The PFs of `pciids`, with `default_mtu` and `enable_qos` filled in."""


@dataclass(frozen=True, slots=True)
class ParsedMain:
    config: MainConfig
    warnings: tuple[Problem, ...]


_KNOWN = known_fields(MainConfig, MAIN_SHAPE) | {"pciids"}
_KNOWN_PF = known_fields(PfPolicy, PF_SHAPE)
_KNOWN_CLASS = known_fields(TrafficClass, CLASS_SHAPE)


def parse_main(text: str | bytes, *, file: str) -> ParsedMain:
    """The settings that ``vfd.cfg`` states.

    Raises ConfigError with everything that is wrong with the file.
    """
    parsed, written = parse_object(text, file=file)
    raw = without_comments(parsed)
    warnings = list(written)
    data, reported = today(raw, MAIN_SHAPE, file=file)
    warnings += reported
    found = unknown_fields(data, _KNOWN, file=file)
    pciids = data.pop("pciids", [])
    try:
        config = MainConfig.model_validate(data)
    except ValidationError as error:
        found += plain(error, data, file=file)
        bad = bad_fields(error)
        config = MainConfig.model_validate({k: v for k, v in data.items() if k not in bad})
    if not isinstance(pciids, list):
        found.append(Problem(file, "pciids", shown(pciids), "must be a list, in brackets"))
        pciids = []
    nics: dict[int, _Pf] = {}
    for number, entry in enumerate(pciids):
        pf = _pf(entry, f"pciids[{number}]", config, file, found, warnings)
        if pf is not None:
            nics[number] = pf
    found += _between(nics, file)
    if found:
        raise ConfigError(as_written(found, raw))
    pfs = tuple(pf.policy for pf in nics.values())
    warnings += _remarks(data, pfs, file)
    config = config.model_copy(update={"nics": pfs})
    return ParsedMain(config, tuple(as_written(warnings, raw)))


@dataclass(frozen=True, slots=True)
class _Pf:
    """An entry of ``pciids``, as far as it can be read."""

    policy: PfPolicy
    unknown: frozenset[str] = frozenset()
    """Fields that could not be read."""


def _pf(
    entry: Any,
    path: str,
    config: MainConfig,
    file: str,
    found: list[Problem],
    warnings: list[Problem],
) -> _Pf | None:
    """One entry of ``pciids``: an address, or an object. What is bad in it is in ``found`` then."""
    prefix = f"{path}."
    raw = {"id": entry} if isinstance(entry, str) else entry
    if not isinstance(raw, Mapping):
        rule = "a PF is an address in quotes, or an object with an id"
        found.append(Problem(file, path, shown(entry), rule))
        return None
    data, reported = today(raw, PF_SHAPE, file=file, prefix=prefix)
    warnings += reported
    found += unknown_fields(data, _KNOWN_PF, file=file, prefix=prefix)
    if isinstance(data.get("tclasses"), list):
        path = f"{prefix}tclasses"
        data["tclasses"] = [
            _class(tc, f"{path}[{number}].", file, found, warnings)
            for number, tc in enumerate(data["tclasses"])
        ]
        data["tclasses"] += _missing_classes(data["tclasses"], path, file, warnings)
    if "default_mtu" in config.model_fields_set:  # else it is nobody's word
        data.setdefault("mtu", config.default_mtu)
    data |= {"default_mtu": config.default_mtu, "enable_qos": config.enable_qos}
    pf: _Pf
    try:
        pf = _Pf(PfPolicy.model_validate(data))
    except ValidationError as error:
        found += plain(error, data, file=file, prefix=prefix)
        bad = bad_fields(error)
        rest = {key: value for key, value in data.items() if key not in bad}
        pf = _Pf(PfPolicy.model_validate({"id": "unknown", **rest}), frozenset(bad))
    for broken in problems(check_pf(pf.policy, unknown=pf.unknown), {"": file}):
        found.append(replace(broken, field=prefix + broken.field))
    return pf


def _class(tc: Any, prefix: str, file: str, found: list[Problem], warnings: list[Problem]) -> Any:
    if not isinstance(tc, Mapping):
        return tc
    data, reported = today(tc, CLASS_SHAPE, file=file, prefix=prefix)
    warnings += reported
    found += unknown_fields(data, _KNOWN_CLASS, file=file, prefix=prefix)
    return data


def _missing_classes(
    stated: list[Any], path: str, file: str, warnings: list[Problem]
) -> list[dict[str, int]]:
    """What VFd took beside those that are stated: it had 4 classes, or 8 where a ``pri`` is above
    3. Nothing where they can't be told for certain."""
    pris = [tc.get("pri") if isinstance(tc, Mapping) else None for tc in stated]
    certain = {pri for pri in pris if type(pri) is int and 0 <= pri < 8}
    if not stated or len(certain) < len(stated):
        return []
    missing = sorted(set(range(8 if max(certain) > 3 else 4)) - certain)
    if missing:
        which = ", ".join(map(str, missing))
        rule = f"{len(stated)} of {len(stated) + len(missing)} classes are stated: pri {which}"
        warnings.append(Problem(file, path, "", f"{rule} are taken with the defaults"))
    return [{"pri": pri} for pri in missing]


def _between(nics: Mapping[int, _Pf], file: str) -> list[Problem]:
    """PFs named twice, and wires that two software NICs would share, or a PF is itself."""
    found = []
    pfs = {pf.policy.id for pf in nics.values() if "id" not in pf.unknown}
    first: dict[str, int] = {}
    wires: dict[str, int] = {}
    for number, pf in nics.items():
        name, wire = pf.policy.id, pf.policy.uplink
        if "id" not in pf.unknown and first.setdefault(name, number) != number:
            rule = f"a PF is listed once, and pciids[{first[name]}] is this one"
            found.append(Problem(file, f"pciids[{number}].id", shown(name), rule))
        elif wire is not None and wires.setdefault(wire, number) != number:
            other = nics[wires[wire]].policy.id
            rule = f"a netdev is the wire of one software NIC, and {other} has it"
            found.append(Problem(file, f"pciids[{number}].uplink", shown(wire), rule))
        elif wire in pfs - {name}:
            rule = "it is a PF of its own in pciids, which a software NIC would take away"
            found.append(Problem(file, f"pciids[{number}].uplink", shown(wire), rule))
    return found


def _remarks(data: Mapping[str, Any], nics: Sequence[PfPolicy], file: str) -> Iterator[Problem]:
    alarm = data.get("cpu_alarm")
    if isinstance(alarm, int | float) and alarm > 1:
        rule = f'read as {alarm * 100:g} % of a CPU: for {alarm:g} % write "{alarm:g}%"'
        yield Problem(file, "cpu_alarm", shown(alarm), rule)
    if isinstance(alarm, str) and "%" not in alarm and 0 < float(alarm) < 1:
        rule = f"read as {alarm.strip()} %, as text is: for a share of a CPU leave the quotes out"
        yield Problem(file, "cpu_alarm", shown(alarm), rule)
    if data.get("enable_flowcontrol") is True:
        rule = "it has no effect: pause frames stay as the NIC has them; `ethtool -A` sets them"
        yield Problem(file, "enable_flowcontrol", "true", rule)
    none_is_dpdks = bool(nics) and all(pf.backend not in (None, "dpdk") for pf in nics)
    for field in OF_DPDK:
        if field in data and none_is_dpdks:
            rule = "has no effect here: it is for DPDK, which no PF of this file has as its backend"
            yield Problem(file, field, shown(data[field]), rule)
    if not nics:
        yield Problem(file, "pciids", "", "no PF is listed: there is nothing to do")
    for number, pf in enumerate(nics):
        for remark in problems(remarks(NicPolicy(pf=pf)), {"": file}):
            yield replace(remark, field=f"pciids[{number}].{remark.field}")
