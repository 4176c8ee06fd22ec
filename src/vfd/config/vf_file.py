"""One VF's configuration file: text into policy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vfd.config.errors import ConfigError, Problem, Readable, problems, shown
from vfd.config.fields import (
    VF_SHAPE,
    as_written,
    bad_fields,
    known_fields,
    plain,
    today,
    unknown_fields,
)
from vfd.config.json_text import parse_object, without_comments
from vfd.policy.addresses import MAX_VID
from vfd.policy.remarks import vf_remarks
from vfd.policy.rules import Room, check_vf
from vfd.policy.values import Limits, VfPolicy

_KNOWN = known_fields(VfPolicy, VF_SHAPE)
ANY_NIC = Limits(max_vlans=MAX_VID, max_macs=2**16)
"""A file doesn't say how much room its NIC has: that is checked with the NIC (``rules.check``)."""
_NOVA = frozenset({"vfid", "vlan"})
"""The fields of a mirror as AT&T's patch of OpenStack Nova wrote it."""


@dataclass(frozen=True, slots=True)
class ParsedVf:
    """A VF's configuration as its file states it.

    ``policy.model_fields_set`` are the fields that the file states; the others have their
    defaults.
    """

    policy: VfPolicy
    warnings: tuple[Problem, ...]
    written: Mapping[str, Any]
    """The file's object, with its own names of fields: see ``as_written``."""


def parse_vf(
    text: str | bytes, *, file: str, name: str | None = None, limits: Room = ANY_NIC
) -> ParsedVf:
    """The policy that a VF's file states. ``name`` is taken where the file has none; without it
    too, the file's own, less ``.json``.

    Raises ConfigError with everything that is wrong with the file by itself.
    """
    data, warnings = parse_object(text, file=file)
    return _parsed(data, file, name, limits, list(warnings))


def parse_vf_object(
    data: Mapping[str, Any], *, file: str, name: str | None = None, limits: Room = ANY_NIC
) -> ParsedVf:
    """The same for an object that came as JSON already, as in a request to the API."""
    return parse_vf(json.dumps(data), file=file, name=name, limits=limits)


def _parsed(
    raw: Mapping[str, Any], file: str, name: str | None, limits: Room, warnings: list[Problem]
) -> ParsedVf:
    raw = without_comments(raw)
    data, reported = today(raw, VF_SHAPE, file=file)
    if "insert_stag" in raw and raw["insert_stag"] is data.get("strip_stag", False):
        reported = [one for one in reported if one.field != "insert_stag"]
    warnings += reported
    if "mac" in raw and isinstance(data.get("macs"), str):
        data["macs"] = [data["macs"]] if data["macs"].strip() else []
    warnings += _as_vfd_read_it(data, file)
    data.setdefault("name", name or _stem(file))
    found = unknown_fields(data, _KNOWN, file=file)
    if "insert_stag" in raw and not isinstance(raw["insert_stag"], bool):
        found.append(
            Problem(file, "insert_stag", shown(raw["insert_stag"]), "must be true or false")
        )
    try:
        policy = VfPolicy.model_validate(data)
        unknown: frozenset[str] = frozenset()
    except ValidationError as error:
        found += plain(error, data, file=file)
        policy, unknown = _rest(data, bad_fields(error), file)
    found += problems(check_vf(policy, limits=limits, unknown=unknown), {policy.name: file})
    if found:
        lost = unknown & {"pciid", "vfid"}
        readable = None if lost else Readable(policy, unknown, raw)
        raise ConfigError(as_written(found, raw), readable)
    warnings += problems(vf_remarks(policy), {policy.name: file})
    return ParsedVf(policy, tuple(as_written(warnings, raw)), raw)


def _as_vfd_read_it(data: dict[str, Any], file: str) -> list[Problem]:
    """Changes ``data`` where VFd took more spellings of a value than one: words in capitals and
    with blanks around them, and an empty text for none. With warnings where that has an effect."""
    for field in ("vm_mac", "start_cb", "stop_cb"):
        if isinstance(data.get(field), str) and not data[field].strip():
            del data[field]
    if "link_status" in data:
        data["link_status"] = _word(data["link_status"])
    mirrors = data.get("mirror")
    if isinstance(mirrors, Mapping):
        data["mirror"] = _mirror(mirrors)
    elif isinstance(mirrors, list):
        data["mirror"] = [_mirror(one) for one in mirrors]
        if mirrors and all(isinstance(one, Mapping) and one.keys() == _NOVA for one in mirrors):
            del data["mirror"]
            rule = (
                "read and without effect, as it was: VFd took no list of mirrors with vfid and"
                " vlan, which AT&T's OpenStack wrote; write target, direction and vlans"
            )
            return [Problem(file, "mirror", shown(mirrors), rule)]
    return []


def _mirror(mirror: Any) -> Any:
    if isinstance(mirror, Mapping) and "direction" in mirror:
        return {**mirror, "direction": _word(mirror["direction"])}
    return mirror


def _word(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _rest(data: Mapping[str, Any], bad: set[str], file: str) -> tuple[VfPolicy, frozenset[str]]:
    """The fields that could be read, and the names of those that could not."""
    rest = {key: value for key, value in data.items() if key not in bad}
    stand_ins = {"name": "unnamed", "pciid": "unknown", "vfid": 0}
    missing = {key for key in stand_ins if key not in rest}
    policy = VfPolicy.model_validate({**stand_ins, **rest})
    if "name" in missing:
        policy = policy.model_copy(update={"name": f"<{file}>"})  # nobody else's
    return policy, frozenset(bad | missing)


def _stem(file: str) -> str:
    return file.rsplit("/", 1)[-1].removesuffix(".json")
