"""The JSON Schemas of both files, made from the policy's types.

``vf.schema.json`` and ``vfd.cfg.schema.json`` are shipped beside this module for editors and
other programs; ``make docs`` writes them, and a test holds them equal to what is made here. They
say what each field may have. Rules between fields, VFs and PFs are ``policy.rules``'s.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from importlib import resources
from typing import Any

from pydantic import BaseModel

from vfd.config.fields import CLASS_SHAPE, MAIN_SHAPE, PF_SHAPE, VF_SHAPE, Shape
from vfd.config.main_file import MainConfig
from vfd.policy.values import Mirror, PfPolicy, QueueShare, TrafficClass, VfPolicy

Schema = dict[str, Any]
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_EMPTY = {"type": "string", "pattern": r"^\s*$"}
_COMMENTS = "comments?$"


def vf_schema() -> Schema:
    """The schema of one VF's file."""
    schema = _object(VfPolicy, VF_SHAPE)
    first = {name: schema["properties"].pop(name) for name in ("name", "pciid", "vfid")}
    properties = schema["properties"] = {**first, **schema["properties"]}
    mirror = {"$ref": "#/$defs/Mirror"}
    off = {
        "type": "object",
        "properties": {"direction": _in_any_case("off")},
        "required": ["direction"],
    }
    one = {"anyOf": [mirror, off]}
    nova = {
        "type": "object",
        "properties": {"vfid": True, "vlan": True},
        "required": ["vfid", "vlan"],
        "patternProperties": {_COMMENTS: True},
        "additionalProperties": False,
    }
    properties["mirror"] = {
        "description": properties["mirror"]["description"],
        "title": "object or list of objects",
        "anyOf": [
            *one["anyOf"],
            {"type": "array", "items": one},
            {"type": "array", "items": nova, "minItems": 1, "deprecated": True},
        ],
    }
    properties["mac"] = {
        **properties["mac"],
        "anyOf": [
            properties["macs"]["items"],
            {"type": "array", "items": properties["macs"]["items"]},
        ],
    }
    del properties["mac"]["type"], properties["mac"]["items"]
    for name in ("vm_mac", "mac", "start_cb", "stop_cb"):
        properties[name]["anyOf"].append({**_EMPTY, "deprecated": True})
    _take_any_case(properties["link_status"])
    properties["insert_stag"]["type"] = "boolean"
    schema["required"] = ["pciid", "vfid"]
    definitions = {"Mirror": _object(Mirror, Shape()), "QueueShare": _object(QueueShare, Shape())}
    direction = definitions["Mirror"]["properties"]["direction"]
    direction["enum"] = [*direction["enum"], "both"]
    _take_any_case(direction)
    return _whole("One VF's configuration", schema, definitions)


def main_schema() -> Schema:
    """The schema of the main file, ``vfd.cfg``."""
    schema = _object(MainConfig, MAIN_SHAPE)
    pf = _object(PfPolicy, PF_SHAPE)
    pf["properties"]["bw_grps"]["patternProperties"] = {_COMMENTS: True}
    schema["properties"]["pciids"] = {
        "description": "The PFs that vfd owns: each an address, or an object.",
        "title": "list of addresses and objects",
        "type": "array",
        "items": {"anyOf": [pf["properties"]["id"], {"$ref": "#/$defs/PfPolicy"}]},
    }
    definitions = {"PfPolicy": pf, "TrafficClass": _object(TrafficClass, CLASS_SHAPE)}
    return _whole("The main configuration of vfd", schema, definitions)


def schemas() -> dict[str, str]:
    """The text of each shipped file by its name."""
    return {
        "vf.schema.json": _text(vf_schema()),
        "vfd.cfg.schema.json": _text(main_schema()),
    }


def shipped(name: str) -> str:
    """A shipped schema's text: ``vf.schema.json`` or ``vfd.cfg.schema.json``."""
    return resources.files("vfd.config").joinpath("schemas", name).read_text()


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """What each field of a type means: the docstrings below the fields, on one line each."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not (issubclass(base, BaseModel) and base.__module__.startswith("vfd.")):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for node, after in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[node.target.id] = " ".join(str(after.value.value).split())
    return found


def _object(model: type[BaseModel], shape: Shape) -> Schema:
    """One type's object, with its meanings, comments, old spellings and forgotten fields."""
    made = model.model_json_schema()
    texts = meanings(model)
    properties: Schema = {}
    for name, prop in made["properties"].items():
        if name not in shape.inner:
            properties[name] = _property(name, prop, texts, made.get("$defs", {}))
    for old, new in shape.old.items():
        properties[old] = {**properties[new], "deprecated": True}
        properties[old]["description"] = f"Old spelling of `{new}`."
    for gone, why in shape.gone.items():
        properties[gone] = {"deprecated": True, "description": f"Read and not needed: {why}."}
    schema: Schema = {
        "type": "object",
        "properties": properties,
        "patternProperties": {_COMMENTS: True},
        "additionalProperties": False,
    }
    if required := [name for name in made.get("required", ()) if name not in shape.inner]:
        schema["required"] = required
    return schema


def _property(name: str, prop: Schema, texts: Mapping[str, str], definitions: Schema) -> Schema:
    """One field: enumerations in place, no titles that only repeat the name, plain defaults."""
    prop = _simple(prop, definitions)
    if prop.get("title") == name.replace("_", " ").title():
        del prop["title"]
    default = prop.get("default")
    if isinstance(default, dict):
        prop["default"] = 0  # a rate of none
    if default is None or default == []:
        prop.pop("default", None)
    if name in texts:
        prop["description"] = texts[name]
    return prop


def _simple(prop: Schema, definitions: Schema) -> Schema:
    prop = dict(prop)
    target = definitions.get(str(prop.get("$ref", "")).removeprefix("#/$defs/"))
    if target is not None and "enum" in target:
        del prop["$ref"]
        prop |= {"type": "string", "enum": target["enum"]}
    return prop


def _take_any_case(prop: Schema) -> None:
    """Has an enumeration take its words in capitals, and with blanks around them, too."""
    words = prop.pop("enum")
    del prop["type"]
    prop["title"] = ", ".join(f"`{word}`" for word in words)
    prop["anyOf"] = [{"enum": words}, {**_in_any_case(*words), "deprecated": True}]


def _in_any_case(*words: str) -> Schema:
    either = "|".join("".join(f"[{c}{c.upper()}]" for c in word) for word in words)
    return {"type": "string", "pattern": rf"^\s*({either})\s*$"}


def _whole(title: str, schema: Schema, definitions: Schema) -> Schema:
    return {"$schema": _DRAFT, "title": title, **schema, "$defs": definitions}


def _text(schema: Schema) -> str:
    text = json.dumps(schema, indent=2, ensure_ascii=False)
    return re.sub(r"\[\s+([^\[\]{}]{0,80}?)\s+\]", _on_one_line, text) + "\n"


def _on_one_line(found: re.Match[str]) -> str:
    return "[" + re.sub(r"\n\s+", " ", found[1]) + "]"
