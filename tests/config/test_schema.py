"""The shipped JSON Schemas and the parser take and refuse the same files."""

from __future__ import annotations

import copy
import json
import runpy
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.amount import drawn

from vfd.config.errors import ConfigError, Problem
from vfd.config.main_file import parse_main
from vfd.config.schema import main_schema, meanings, schemas, shipped, vf_schema
from vfd.config.vf_file import parse_vf
from vfd.policy.rate import LEAST_BPS, Rate
from vfd.policy.values import PfPolicy, VfPolicy

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
VF = jsonschema.Draft202012Validator(vf_schema())
MAIN = jsonschema.Draft202012Validator(main_schema())


@pytest.mark.parametrize("name", ["vf.schema.json", "vfd.cfg.schema.json"])
def test_the_shipped_schemas_are_those_of_the_types(name: str) -> None:
    assert shipped(name) == schemas()[name], "run make docs"
    jsonschema.Draft202012Validator.check_schema(json.loads(shipped(name)))


def test_the_reference_is_that_of_the_types() -> None:
    tool = runpy.run_path(str(ROOT / "tools/gen_reference.py"))
    assert (ROOT / "docs/configuration.md").read_text() == tool["reference"](), "run make docs"


def test_every_field_has_a_meaning() -> None:
    for schema in (vf_schema(), main_schema()):
        for part in (schema, *schema["$defs"].values()):
            for name, prop in part["properties"].items():
                assert prop.get("description"), name


def test_a_fields_meaning_is_the_docstring_below_it() -> None:
    assert meanings(VfPolicy)["allow_bcast"] == "The guest is given broadcast."
    assert meanings(PfPolicy)["vfs"].startswith("How many VFs")


def data_of(path: Path) -> Any:
    """A corpus file without its last commas and tabs, which JSON doesn't have."""
    text = path.read_text().replace(",\n  ]", "\n  ]").replace(" }, ]", " } ]")
    return json.loads(text, strict=False)


@pytest.mark.parametrize("path", sorted((CORPUS / "vf").iterdir()), ids=lambda path: path.stem)
def test_the_schema_takes_vfds_vf_files(path: Path) -> None:
    VF.validate(data_of(path))


@pytest.mark.parametrize("path", sorted((CORPUS / "main").iterdir()), ids=lambda path: path.stem)
def test_the_schema_takes_vfds_main_files(path: Path) -> None:
    MAIN.validate(data_of(path))


def test_the_schema_takes_the_examples_that_are_shipped() -> None:
    MAIN.validate(json.loads((ROOT / "etc/vfd.cfg.example").read_text()))
    VF.validate(json.loads((ROOT / "etc/vf.json.example").read_text()))


def vf_is_taken(data: Any) -> bool:
    try:
        parse_vf(json.dumps(data), file="vm1.json")
    except ConfigError:
        return False
    return True


def main_is_taken(data: Any) -> bool:
    try:
        parse_main(json.dumps(data), file="vfd.cfg")
    except ConfigError:
        return False
    return True


BASE: dict[str, Any] = {"pciid": "soft0", "vfid": 1, "allow_untagged": True}
flag = st.booleans()
unicast = st.binary(min_size=6, max_size=6).map(
    lambda raw: (bytes([raw[0] & 0xFE | 2]) + raw[1:]).hex(":")
)
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10_000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
    st.sampled_from(
        ["0x88a8", "0x8100", "10%", "101%", "2Gbps", "0.5", "1.5", "9000", "67", "9711", "on",
         "off", "auto", "all", "both", "any", "07:00.1", "0000:07:00.8", "eth0", "a/b", "..",
         "/x", "02:00:00:00:00:01", "01:00:00:00:00:01", "00-00-00-00-00-00", "10-12", "veth",
         " 5 ", "soft", "/run/x.sock"]
    ),
    st.lists(st.one_of(st.integers(-1, 5000), st.booleans(), st.just("5")), max_size=2,
             unique_by=repr),
    st.dictionaries(st.sampled_from(["target", "direction", "priority", "x", "comment"]),
                    st.one_of(st.integers(-1, 9), st.just("in")), max_size=2),
)  # fmt: skip

# Fields whose single value breaks no rule that is between fields, VFs or PFs.
VF_FIELDS = sorted(set(vf_schema()["properties"]) - {"vlans", "min_rate"})
MAIN_FIELDS = sorted(set(main_schema()["properties"]) - {"pciids", "socket"})
PF_FIELDS = sorted(set(main_schema()["$defs"]["PfPolicy"]["properties"]) - {"link_speed"})


def breaks_a_rule_of_more_than_its_shape(field: str, value: Any) -> bool:
    """What the schema can't say, or can't say readably: these values are other tests'."""
    return (
        (field in ("strip_stag", "strip_ctag", "allow_untagged"))  # access needs a VLAN
        or (field == "mirror" and isinstance(value, dict) and value.get("target") == 1)
        or (field.endswith("_cb") and isinstance(value, str) and bool(set(value) & set("'\"\\")))
        or (isinstance(value, str) and not value.isprintable())  # names and paths are printable
        or (isinstance(value, str) and value != value.strip())
        or (field == "backend" and value == "soft")  # which needs vfs
    )  # fmt: skip


@settings(max_examples=drawn(600))
@given(st.sampled_from(VF_FIELDS), odd)
def test_one_odd_value_in_a_vf_is_taken_by_both_or_by_none(field: str, value: Any) -> None:
    if breaks_a_rule_of_more_than_its_shape(field, value):
        return
    data = {**BASE, field: value}
    assert VF.is_valid(data) == vf_is_taken(data), data


@settings(max_examples=drawn(300))
@given(st.sampled_from(MAIN_FIELDS), odd)
def test_one_odd_value_in_the_main_file_is_taken_by_both_or_by_none(field: str, value: Any) -> None:
    if breaks_a_rule_of_more_than_its_shape(field, value):
        return
    data = {field: value}
    assert MAIN.is_valid(data) == main_is_taken(data), data


@settings(max_examples=drawn(300))
@given(st.sampled_from(PF_FIELDS), odd)
def test_one_odd_value_in_a_pf_is_taken_by_both_or_by_none(field: str, value: Any) -> None:
    if breaks_a_rule_of_more_than_its_shape(field, value):
        return
    data = {"pciids": [{"id": "ens1f0", field: value}]}
    assert MAIN.is_valid(data) == main_is_taken(data), data


@given(st.text(max_size=12))
def test_an_unknown_key_is_refused_by_both_unless_it_is_a_comment(key: str) -> None:
    for base, validator, taken in ((BASE, VF, vf_is_taken), ({}, MAIN, main_is_taken)):
        if key in validator.schema["properties"]:
            continue
        data = {**base, key: "x"}
        comment = key.endswith(("comment", "comments"))
        assert validator.is_valid(data) is comment
        assert taken(data) is comment


rates = st.one_of(
    st.floats(0, 1).map(lambda share: Rate(share=share)),
    st.integers(LEAST_BPS, 10**12).map(lambda bps: Rate(bps=bps)),
)
policies = st.builds(
    VfPolicy,
    name=st.sampled_from(["vm1", "Instance_a/b", "ü"]),
    pciid=st.sampled_from(["0000:07:00.1", "soft0"]),
    vfid=st.integers(0, 255),
    vlans=st.lists(st.integers(1, 4094), min_size=1, max_size=8, unique=True).map(tuple),
    strip_stag=flag,
    allow_untagged=flag,
    pcp=st.integers(0, 7),
    vm_mac=st.none() | unicast,
    macs=st.lists(unicast, max_size=3, unique=True).map(tuple),
    mac_anti_spoof=flag,
    vlan_anti_spoof=flag,
    allow_bcast=flag,
    allow_mcast=flag,
    allow_un_ucast=flag,
    link_status=st.sampled_from(["on", "off", "auto"]),
    rate=rates,
    max_rx_rate=rates,
    queues=st.lists(
        st.fixed_dictionaries({"priority": st.integers(0, 7), "share": st.floats(0, 100)}),
        max_size=3,
        unique_by=lambda queue: queue["priority"],
    ),
    trust=flag,
    mtu=st.none() | st.integers(68, 9710),
    storm_limit=st.integers(0, 10**6),
    guest_macs=st.sampled_from(["any", "listed", "none"]),
    guest_vlans=flag,
    guest_groups=flag,
    start_cb=st.sampled_from([None, "/bin/true", "/bin/x 'a b'"]),
)


@settings(max_examples=drawn(100))
@given(policies)
def test_a_policy_is_the_same_after_its_text(policy: VfPolicy) -> None:
    text = json.dumps(policy.model_dump(mode="json", include=policy.model_fields_set))
    assert parse_vf(text, file="other.json").policy == policy
    VF.validate(json.loads(text))


@settings(max_examples=drawn(300))
@given(st.binary(max_size=60))
def test_no_bytes_end_in_a_traceback(raw: bytes) -> None:
    for text in (raw, b'{"pciid": "s", "vfid": 1, "vlans": ' + raw + b"}"):
        for read in (parse_vf, parse_main):
            problems: tuple[Problem, ...] = ()
            try:
                read(text, file="x.json")
            except ConfigError as error:
                problems = error.problems
            assert all(one.file == "x.json" and one.rule for one in problems)
            assert all(str(one).isprintable() for one in problems)


json_values = st.recursive(
    st.one_of(odd, st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=drawn(200))
@given(st.sampled_from([*VF_FIELDS, "vlans", "min_rate"]), json_values)
def test_no_value_of_any_vf_field_ends_in_a_traceback(field: str, value: Any) -> None:
    vf_is_taken({**BASE, field: value})


@settings(max_examples=drawn(200))
@given(st.sampled_from([*PF_FIELDS, "link_speed"]), json_values, st.sampled_from(MAIN_FIELDS))
def test_no_value_of_any_main_field_ends_in_a_traceback(pf: str, value: Any, field: str) -> None:
    main_is_taken({field: copy.deepcopy(value), "pciids": [value, {"id": "s", pf: value}]})


@pytest.mark.parametrize(
    "text",
    [
        '{"a": ' + "[" * 600 + "]" * 600 + "}",
        '{"vlans": ' + "[" * 900 + "]" * 900 + "}",
        "{" + ",".join(f'"key{n}": {n}' for n in range(50_000)) + "}",
        '{"vlans": [' + ",".join(['"1-4094"'] * 80_000) + "]}",
        '{"mirror": [' + ",".join(['{"target":1,"vlans":["1-4094"]}'] * 20_000) + "]}",
        '{"vlans": [' + ",".join(["0"] * 300_000) + "]}",
        '{"name": "' + "x" * 10**6 + '"}',
        '{"rate": 1e400}',
        '{"storm_limit": 1e300}',
        '{"rate": 1' + "0" * 400 + "}",
        '{"rate": 1' + "0" * 5000 + "}",
        '{"queues": [{"priority": 0, "share": 1' + "0" * 400 + "}]}",
        '{"min_rate": "' + "9" * 10**6 + 'Tbps"}',
        '{"rate": "' + "9" * 5000 + 'Tbps"}',
        '{"max_rx_rate": "999999999999Gbps"}',
        '{"mtu": "' + "9" * 5000 + '"}',
        '{"vm_mac": "' + "9" * 10**6 + '"}',
        '{"start_cb": "' + "x" * 10**6 + '"}',
        '{"a": ' + '"' + '\\"' * 500_000,
        '{"a": ' + '"' + '\\"' * 500_000 + "\\",
    ],
    ids=[
        "deep", "deep-list", "keys", "ranges", "mirrors", "numbers", "text", "huge", "large",
        "400-digits", "5000-digits", "share", "long-speed", "speed", "fast", "mtu", "mac",
        "command", "quotes", "quotes-and-backslash",
    ],
)  # fmt: skip
def test_a_file_that_is_large_or_strange_is_refused_soon_and_in_few_words(text: str) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        parse_vf(text, file="x.json")
    assert time.process_time() - start < 5
    assert len(caught.value.problems) < 250
    assert all(len(str(problem)) < 400 for problem in caught.value.problems)
    assert not any("sys." in str(problem) for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpu_alarm", 10**400),
        ("cpu_alarm", "9" * 10**6),
        ("default_mtu", "9" * 5000),
        ("link_speed", 10**400),
        ("link_speed", "9" * 5000 + "Tbps"),
        ("tpid", "0x" + "f" * 10**6),
        ("tpid", "9" * 5000),
        ("vfs", 10**400),
    ],
)
def test_a_huge_number_in_the_main_file_is_refused_in_few_words(field: str, value: Any) -> None:
    in_pf = field in PF_FIELDS or field == "link_speed"
    data = {"pciids": [{"id": "s", field: value}]} if in_pf else {field: value}
    with pytest.raises(ConfigError) as caught:
        parse_main(json.dumps(data), file="vfd.cfg")
    (problem,) = caught.value.problems
    assert problem.field == (f"pciids[0].{field}" if in_pf else field)
    assert len(str(problem)) < 400
    assert "sys." not in str(problem)


def test_a_number_too_long_for_any_field_names_its_field() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_vf('{"vfid": 0, "pciid": "s", "vlans": [1], "rate": 1' + "0" * 400 + "}", file="x")
    assert [problem.field for problem in caught.value.problems] == ["rate"]
