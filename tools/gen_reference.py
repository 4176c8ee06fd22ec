"""Writes docs/configuration.md and the JSON Schemas from the configuration's own types.

gen_reference.py            writes them
gen_reference.py --check    fails where one is not current
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vfd.config.errors import ConfigError
from vfd.config.fields import CLASS_SHAPE, MAIN_SHAPE, PF_SHAPE, VF_SHAPE, Shape
from vfd.config.main_file import parse_main
from vfd.config.schema import main_schema, schemas, vf_schema
from vfd.config.vf_file import parse_vf
from vfd.policy.rules import check
from vfd.policy.values import MAX_MACS, MAX_VFS, MAX_VLANS, NicPolicy, PfPolicy

ROOT = Path(__file__).resolve().parent.parent
SOFT_ONLY = ("link_speed", "uplink", "guest")

INTRO = f"""# Configuration

<!-- Written by tools/gen_reference.py (make docs) from the types that read the files. -->

Two kinds of file, both one JSON object in UTF-8: the main file, `/etc/vfd/vfd.cfg`, and one file
per VF below its `config_dir`. AT&T VFd's files are read as they are. What the fields do to frames
is in [the semantics](semantics.md).

* A key that ends in `comment` or `comments` is a comment, at any level.
* An unknown field is an error, which names the nearest known one. So is a key that an object has
  twice.
* Everything that is wrong with a file is told at once, with its field, its value and the rule.
  Nothing changes on a NIC until all of it is right.
* JSON Schemas for editors and other programs: `vfd.cfg.schema.json` and `vf.schema.json` in the
  package's folder `vfd/config/schemas`.
* Where a NIC has no limit of its own: {MAX_VFS} VFs on a PF, {MAX_VLANS} VLANs and
  {MAX_MACS} further MACs of a VF.

`iplex check FILE` says whether a file is good, without a daemon.
"""

BROKEN_VFS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("No VLAN, and untagged frames don't pass either", {"vlans": []}),
    ("A VLAN twice", {"vlans": [10, "8-12"]}),
    ("Two kinds of access", {"strip_stag": True, "strip_ctag": True}),
    ("Access without a VLAN", {"vlans": [], "allow_untagged": True, "strip_ctag": True}),
    ("A multicast MAC", {"macs": ["01:00:5e:00:00:01"]}),
    ("A guarantee above the limit", {"rate": "1Gbps", "min_rate": "2Gbps"}),
    ("A mirror of itself", {"mirror": {"target": 0}}),
    (
        "A frame that would be copied twice",
        {"mirror": [{"target": 2}, {"target": 2, "direction": "in"}]},
    ),
    ("A name that leaves the folder", {"name": "../vm1"}),
    ("A field that is none", {"allow_brcast": True}),
    ("A word for true", {"strip_stag": "yes"}),
)

BROKEN_NICS: tuple[tuple[str, dict[str, Any], tuple[dict[str, Any], ...]], ...] = (
    ("A VF that is not there", {}, ({"vfid": 8},)),
    ("More VLANs than a NIC has room for", {}, ({"vlans": ["1-100"]},)),
    ("Two configurations for a VF", {}, ({"vfid": 1}, {"vfid": 1})),
    ("A name twice", {}, ({"name": "vm1"}, {"name": "vm1", "vfid": 1})),
    (
        "A MAC of two VFs",
        {},
        ({"vm_mac": "02:00:00:00:00:01"}, {"vfid": 1, "macs": ["02-00-00-00-00-01"]}),
    ),
    ("A mirror to a VF that is not there", {}, ({"mirror": {"target": 9}},)),
    ("An MTU above the PF's", {"mtu": 1500}, ({"mtu": 9000},)),
    ("More guarantees than link", {}, ({"min_rate": 0.6}, {"vfid": 1, "min_rate": "5Gbps"})),
    (
        "More than a whole class",
        {},
        (
            {"queues": [{"priority": 1, "share": 60}]},
            {"vfid": 1, "queues": [{"priority": 1, "share": "60%"}]},
        ),
    ),
    (
        "Shares too far apart",
        {},
        (
            {"queues": [{"priority": 1, "share": 60}]},
            {"vfid": 1, "queues": [{"priority": 1, "share": 5}]},
        ),
    ),
    ("A class that is not there", {}, ({"queues": [{"priority": 5, "share": 5}]},)),
)

BROKEN_PFS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("A class that no NIC has", {"tclasses": [{"pri": 8}]}),
    (
        "A class twice, and more guarantees than link",
        {"tclasses": [{"pri": p, "min_bw": 30} for p in (0, 1, 2, 2)]},
    ),
    ("A class in two groups", {"bw_grps": {"bwg0": [0, 1], "bwg1": [1, 2]}}),
    ("A software NIC's name that is too long for its VFs", {"id": "software-nic-1"}),
)


def reference() -> str:
    """The whole of docs/configuration.md."""
    main, vf = main_schema(), vf_schema()
    pf = main["$defs"]["PfPolicy"]
    own = {name: prop for name, prop in pf["properties"].items() if name in SOFT_ONLY}
    every = {name: prop for name, prop in pf["properties"].items() if name not in SOFT_ONLY}
    parts = [
        INTRO,
        "## The main file, `vfd.cfg`\n",
        _table(main["properties"], main, MAIN_SHAPE),
        "### A PF: an entry of `pciids`\n\nAn address in quotes, or an object:\n",
        _table(every, pf, PF_SHAPE, {"mtu": "`default_mtu`", "tpid": "`0x8100`"}),
        'A software NIC (`"backend": "soft"`) also has:\n',
        _table(own, pf, PF_SHAPE),
        "### A traffic class: an entry of `tclasses`\n",
        _table(
            main["$defs"]["TrafficClass"]["properties"], main["$defs"]["TrafficClass"], CLASS_SHAPE
        ),
        "## A VF's file\n",
        _table(
            vf["properties"],
            vf,
            VF_SHAPE,
            {"name": "the file's name", "vlans": "required unless `allow_untagged`"},
        ),
        "### A mirror\n",
        _table(vf["$defs"]["Mirror"]["properties"], vf["$defs"]["Mirror"], Shape()),
        "The direction `both` is read as `all`, and a mirror whose direction is `off` as none.\n",
        "### A share: an entry of `queues`\n",
        _table(vf["$defs"]["QueueShare"]["properties"], vf["$defs"]["QueueShare"], Shape()),
        "## Old spellings, and fields that are not needed\n",
        _old(),
        "## What a broken configuration is told\n\nEach rule by an example, as vfd answers it.\n",
        _told(),
        "## Examples\n\n`etc/vfd.cfg.example`:\n",
        _file("etc/vfd.cfg.example"),
        "`etc/vf.json.example`:\n",
        _file("etc/vf.json.example"),
    ]
    return "\n".join(parts)


def _table(
    properties: Mapping[str, Any],
    schema: Mapping[str, Any],
    shape: Shape,
    unless_stated: Mapping[str, str] | None = None,
) -> str:
    """``unless_stated``: what holds for fields whose default depends on something else."""
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, prop in properties.items():
        if name in shape.old or name in shape.gone:
            continue
        needed = "required" if name in schema.get("required", ()) else _default(prop)
        needed = (unless_stated or {}).get(name, needed)
        lines.append(f"| `{name}` | {_type(prop)} | {needed} | {_cell(prop['description'])} |")
    return "\n".join(lines) + "\n"


def _default(prop: Mapping[str, Any]) -> str:
    return f"`{json.dumps(prop['default'])}`" if prop.get("default", "") != "" else "none"


def _type(prop: Mapping[str, Any]) -> str:
    if "title" in prop:
        return str(prop["title"])
    if "enum" in prop:
        return ", ".join(f"`{value}`" for value in prop["enum"])
    if "anyOf" in prop:
        today = [one for one in prop["anyOf"] if not one.get("deprecated")]
        return " or ".join(_type(one) for one in today if one.get("type") != "null")
    if "$ref" in prop:
        return "object"
    kind = prop["type"]
    if kind == "array":
        return f"list of {_type(prop['items'])}s"
    if kind == "integer":
        low, high = prop.get("minimum"), prop.get("maximum", prop.get("exclusiveMaximum"))
        high = high - 1 if "exclusiveMaximum" in prop else high
        return f"{low} …" if high in (None, 2**32 - 1) else f"{low} … {high}"
    return {"boolean": "true, false", "string": "text"}[str(kind)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _old() -> str:
    lines = ["| file | field | |", "|---|---|---|"]
    for file, shape in (
        ("`vfd.cfg`", MAIN_SHAPE),
        ("`pciids`", PF_SHAPE),
        ("`tclasses`", CLASS_SHAPE),
        ("VF", VF_SHAPE),
    ):
        lines += [f"| {file} | `{old}` | read as `{new}` |" for old, new in shape.old.items()]
        lines += [f"| {file} | `{gone}` | {why} |" for gone, why in shape.gone.items()]
    return "\n".join(lines) + "\n"


def _told() -> str:
    lines = ["| example | answer |", "|---|---|"]
    base = {"name": "vm1", "pciid": "soft0", "vfid": 0, "vlans": [100]}
    for what, change in BROKEN_VFS:
        text = json.dumps({**base, **change})
        lines.append(
            f"| {what}: {_code(change)} | {_answer(lambda t=text: parse_vf(t, file='vm1.json'))} |"
        )
    for what, pf, vfs in BROKEN_NICS:
        made = tuple(
            parse_vf(
                json.dumps({**base, "name": f"vm{number}", **vf}), file=f"vm{number}.json"
            ).policy
            for number, vf in enumerate(vfs, 1)
        )
        policy = PfPolicy.model_validate({"id": "soft0", "backend": "soft", "vfs": 8, **pf})
        broken = check(NicPolicy(pf=policy, vfs=made), link_bps=10**10)
        told = "; ".join(f"`{one.vf}`: `{one.field}`: {_cell(one.rule)}" for one in broken)
        lines.append(f"| {what}: {' and '.join(map(_code, vfs))} | {told} |")
    for what, pf in BROKEN_PFS:
        text = json.dumps({"pciids": [{"id": "soft0", "backend": "soft", "vfs": 8, **pf}]})
        lines.append(
            f"| {what}: {_code(pf)} | {_answer(lambda t=text: parse_main(t, file='vfd.cfg'))} |"
        )
    return "\n".join(lines) + "\n"


def _answer(read: Any) -> str:
    try:
        read()
    except ConfigError as error:
        return "; ".join(f"`{one.field}`: {_cell(one.rule)}" for one in error.problems)
    raise AssertionError("this example is not broken: the reference would not be true")


def _code(value: Mapping[str, Any]) -> str:
    return f"`{_cell(json.dumps(value)[1:-1])}`"


def _file(name: str) -> str:
    return f"```json\n{(ROOT / name).read_text()}```\n"


def outputs() -> dict[Path, str]:
    """Every file that this tool writes, with what belongs in it."""
    folder = ROOT / "src/vfd/config/schemas"
    made = {folder / name: text for name, text in schemas().items()}
    return {**made, ROOT / "docs/configuration.md": reference()}


def main() -> int:
    stale = [
        path for path, text in outputs().items() if not path.exists() or path.read_text() != text
    ]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not current: run make docs", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(outputs()[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
