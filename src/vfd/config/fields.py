"""From a JSON object to one of the policy's types, with every problem in plain words.

The types say which fields there are and what each may have. What files have besides, old
spellings and fields that VFd knew, is in the tables of ``Shape``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vfd.config.errors import Problem, shown
from vfd.policy.values import Mirror, QueueShare, TrafficClass


@dataclass(frozen=True)
class Shape:
    """What an object of a file may have, beyond the fields of its type."""

    old: Mapping[str, str] = field(default_factory=dict)
    """Old spelling → the field's name today."""
    gone: Mapping[str, str] = field(default_factory=dict)
    """Fields that VFd knew and this system doesn't need → why not."""
    inner: frozenset[str] = frozenset()
    """Fields of the type that no file states."""


VF_SHAPE = Shape(
    old={"mac": "macs"},
    gone={
        "insert_stag": "inserting follows stripping: strip_stag says both",
        "antispoof_mac": "mac_anti_spoof says it, and is true unless stated otherwise",
        "antispoof_vlan": "vlan_anti_spoof says it, and is true unless stated otherwise",
    },
)
PF_SHAPE = Shape(
    old={"vfs_count": "vfs"},
    gone={
        "hw_strip_crc": "guests never see the frame check sequence",
        "pf_driver": "drivers are the host's: vfd takes the one that the PF has",
    },
    inner=frozenset({"default_mtu", "enable_qos"}),
)
CLASS_SHAPE = Shape(old={"llatency": "latency"})
MAIN_SHAPE = Shape(
    old={"mtu": "default_mtu"},
    gone={
        "fifo": "replaced by the socket (see socket)",
        "huge": "huge_pages says it, and VFd never looked at this one",
        "init_log_level": "log_level holds from the start",
    },
    inner=frozenset({"nics"}),
)

_OLD = {
    new: old
    for shape in (VF_SHAPE, PF_SHAPE, CLASS_SHAPE, MAIN_SHAPE)
    for old, new in shape.old.items()
}
_GONE = frozenset(
    name for shape in (VF_SHAPE, PF_SHAPE, CLASS_SHAPE, MAIN_SHAPE) for name in shape.gone
)
_ELSEWHERE = {
    "spoofchk": "mac_anti_spoof", "spoofcheck": "mac_anti_spoof", "macspoofcheck": "mac_anti_spoof",
    "vlan": "vlans", "vlanid": "vlans", "vid": "vlans", "trunk": "vlans", "vlantrunk": "vlans",
    "vlanqos": "pcp", "qos": "pcp", "qualityofservice": "pcp",
    "vlanproto": "strip_stag", "vlanprotocol": "strip_stag", "proto": "strip_stag",
    "linkstate": "link_status", "state": "link_status",
    "maxtxrate": "rate", "txrate": "rate", "maxrate": "rate", "mintxrate": "min_rate",
    "macaddress": "vm_mac", "hwaddr": "vm_mac", "hwaddress": "vm_mac", "address": "vm_mac",
    "promisc": "trust", "promiscuous": "trust", "allmulti": "trust", "trusted": "trust",
    "vf": "vfid", "vfindex": "vfid", "virtualfunction": "vfid", "pf": "pciid", "parent": "pciid",
    "numvfs": "vfs", "sriovnumvfs": "vfs", "totalvfs": "vfs", "virtualfunctions": "vfs",
}  # fmt: skip
"""What ip link, sriov-cni, nmstate, systemd and libvirt call it, without case and hyphens: the
nearest in letters may be another thing (max_tx_rate is no max_rx_rate)."""
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_TOLD = 100
_NESTED: Mapping[str, type[BaseModel]] = {
    "mirror": Mirror,
    "queues": QueueShare,
    "tclasses": TrafficClass,
}


def known_fields(model: type[BaseModel], shape: Shape) -> frozenset[str]:
    """What a file may call the fields of ``model``, today and of old."""
    return (frozenset(model.model_fields) - shape.inner) | set(shape.old) | set(shape.gone)


def today(
    raw: Mapping[str, Any], shape: Shape, *, file: str, prefix: str = ""
) -> tuple[dict[str, Any], list[Problem]]:
    """``raw`` with today's names, without what is no longer needed; warnings for the latter.

    Where both spellings are there, today's counts, as it did for VFd.
    """
    data = dict(raw)
    warnings = []
    for old, new in shape.old.items():
        if old not in data:
            continue
        value = data.pop(old)
        if new in raw:
            rule = f"ignored: {new} is there too, and counts"
            warnings.append(Problem(file, prefix + old, shown(value), rule))
        else:
            data[new] = value
    for gone, why in shape.gone.items():
        if gone in data:
            rule = f"read and not needed: {why}"
            warnings.append(Problem(file, prefix + gone, shown(data.pop(gone)), rule))
    return data, warnings


def unknown_fields(
    data: dict[str, Any], known: Iterable[str], *, file: str, prefix: str = ""
) -> list[Problem]:
    """Takes the unknown fields out of ``data``, with a problem for each."""
    names = frozenset(known)
    unknown = [key for key in data if key not in names]
    values = {key: data.pop(key) for key in unknown}
    told = [
        Problem(file, prefix + key, shown(values[key]), _nearest(key, names))
        for key in unknown[:_TOLD]
    ]
    return told + _more(len(unknown), "unknown fields", file)


def _nearest(key: str, known: Iterable[str]) -> str:
    known = frozenset(known)
    meant = _ELSEWHERE.get(re.sub("[-_. ]", "", key[:64]).lower())
    if meant in known:
        return f"unknown field; here it is called {meant}"
    known -= _GONE  # nobody is sent to a field that has no effect
    near = difflib.get_close_matches(key[:64].lower(), sorted(known), n=1, cutoff=0.0)
    return f"unknown field; the nearest known one is {near[0]}" if near else "unknown field"


def plain(
    error: ValidationError, raw: Mapping[str, Any], *, file: str, prefix: str = ""
) -> list[Problem]:
    """What pydantic found, in our words, with paths as ``raw``, the file's object, has them."""
    errors = _found(error)
    told = [
        Problem(
            file,
            prefix + _path(raw, details["loc"]),
            "" if details["type"] == "missing" else shown(details["input"]),
            _rule(details),
        )
        for details in errors[:_TOLD]
    ]
    return told + _more(len(errors), "problems", file)


def _more(found: int, what: str, file: str) -> list[Problem]:
    """Nobody reads thousands of problems: then the file is something else."""
    if found <= _TOLD:
        return []
    return [Problem(file, "", "", f"and {found - _TOLD} more {what}: is this a configuration?")]


def bad_fields(error: ValidationError) -> set[str]:
    """The fields of the object itself that could not be read."""
    return {str(details["loc"][0]) for details in _found(error) if details["loc"]}


def _found(error: ValidationError) -> list[ErrorDetails]:
    """Without defaults that follow from a field that is bad itself."""
    found = error.errors(include_url=False)
    return [details for details in found if details["type"] != "default_factory_not_called"]


def _path(raw: Any, loc: Iterable[int | str]) -> str:
    """``mirror[0].target`` for ("mirror", 0, "target"); ``mirror.target`` where the file has one
    object in place of a list, and ``bw_grps.bwg0[1]`` where it has groups by name."""
    path = ""
    node = raw
    grouped = False
    for step in loc:
        if isinstance(step, int) and isinstance(node, Mapping):
            grouped = path == "bw_grps"
            if grouped and step < len(node):
                name = list(node)[step]
                path, node = f"{path}.{name}", node[name]
            continue
        if grouped and step == "classes":
            continue
        if isinstance(step, int):
            path += f"[{step}]"
            node = node[step] if isinstance(node, list) and step < len(node) else None
        else:
            path += f".{step}" if path else step
            node = node.get(step) if isinstance(node, Mapping) else None
    return path


def as_written(found: Iterable[Problem], raw: Mapping[str, Any]) -> list[Problem]:
    """Problems with the fields' names as the file has them: old spellings, and one thing where
    today there is a list."""
    return [replace(problem, field=_written(problem.field, raw)) for problem in found]


def as_files_have_it(
    found: Iterable[Problem], raw: Mapping[str, Mapping[str, Any]]
) -> list[Problem]:
    """The same for problems of several files, whose objects are ``raw``; others stay as they
    are."""
    return [replace(one, field=_written(one.field, raw.get(one.file, {}))) for one in found]


def _written(path: str, raw: Mapping[str, Any]) -> str:
    node: Any = raw
    known, written = "", ""
    for name, index in _STEP.findall(path):
        if name:
            known += f".{name}" if known else name
            if isinstance(node, Mapping) and name not in node and _OLD.get(name) in node:
                name = _OLD[name]
            if not isinstance(node, str):  # a PF that is only its address
                written += f".{name}" if written else name
            node = node.get(name) if isinstance(node, Mapping) else None
        else:
            if isinstance(node, list):
                # Ranges of VLANs were written out: a number in that list is none in the file's.
                ranges = known.endswith("vlans") and any(isinstance(entry, str) for entry in node)
                written += "" if ranges else f"[{index}]"
                node = node[int(index)] if int(index) < len(node) else None
            elif node is None:
                written += f"[{index}]"
            known += f"[{index}]"
    return written if known == path else path


_MUST_BE = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text, in quotes",
    "tuple_type": "a list, in brackets",
    "dict_type": "an object, in braces",
    "model_type": "an object, in braces",
    "string_too_short": "a text that is not empty",
}


def _rule(details: ErrorDetails) -> str:
    kind = details["type"]
    context = details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "required"
    if kind == "extra_forbidden":
        nested = _NESTED.get(str(details["loc"][0]))
        return _nearest(str(details["loc"][-1]), nested.model_fields if nested else ())
    if kind in ("enum", "literal_error"):
        return f"must be {context['expected']}"
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}"
    if kind == "less_than_equal":
        return f"must be at most {context['le']}"
    if kind == "less_than":
        return f"must be below {context['lt']}"
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters"
    if kind in _MUST_BE:
        return f"must be {_MUST_BE[kind]}"
    return details["msg"]
