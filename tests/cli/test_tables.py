"""The operator's table, at every width that a terminal has and in a pipe."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest

from vfd.cli.blocks import block_lines
from vfd.cli.rows import port_table, trouble_lines, warning_lines
from vfd.cli.text import as_json, printable, ranges, short_number, speed

LONG = "Instance_admin-vm{}/fbf55cdd-46cf-4fb5-8d74-d3b1a5e1a{:03d}"
COUNTERS = [
    "rx_packets",
    "rx_bytes",
    "rx_errors",
    "rx_dropped",
    "tx_packets",
    "tx_bytes",
    "tx_errors",
    "tx_dropped",
    "spoofed",
]


def row(vfid: int | None, pf: str = "soft0", **more: Any) -> dict[str, Any]:
    kind = "pf" if vfid is None else "vf"
    return {
        "kind": kind,
        "pf": pf,
        "vfid": vfid,
        "name": pf if vfid is None else LONG.format(vfid, vfid),
        "address": pf if vfid is None else f"{pf}v{vfid}",
        "state": "ok",
        "link": "up",
        "speed": 10**10,
        "mac": None,
        "counters": dict.fromkeys(COUNTERS, 18446744073709551615),
        "warnings": [],
    } | more


FULL = [row(None), *map(row, range(256))]


@pytest.mark.parametrize("width", [80, 100, 120, 132, 160, 200])
@pytest.mark.parametrize("pf", ["soft0", "0000:07:00.1"])
def test_256_vfs_with_long_names_fit_a_terminal_a_line_each(width: int, pf: str) -> None:
    rows = [row(None, pf), *(row(vfid, pf) for vfid in range(256))]
    made = port_table(rows, exact=False, width=width)
    assert len(made.lines) == 1 + 257
    assert max(map(len, made.lines)) <= width
    for title in ("PORT", "NAME", "LINK", "RX PKTS", "TX PKTS", "SPOOFED"):
        assert title in made.lines[0]
    assert all(title not in made.lines[0].split("  ") for title in made.hidden)
    assert len({line.split()[0] for line in made.lines[1:]}) == 257


def test_shortened_names_stay_apart() -> None:
    lines = port_table(FULL, exact=False, width=80).lines[2:]
    names = {line.split()[1] for line in lines}
    assert len(names) == 256
    assert all("…" in name for name in names)


def test_a_wider_terminal_never_shows_less() -> None:
    hidden = [set(port_table(FULL, exact=False, width=w).hidden) for w in range(80, 201)]
    assert all(wider <= narrower for narrower, wider in pairwise(hidden))
    assert hidden[0]
    assert not hidden[-1]


def test_a_pipe_gets_every_column_whole_and_exact() -> None:
    made = port_table(FULL, exact=True, width=None)
    assert made.hidden == ()
    assert made.lines[-1].split() == [
        "soft0:255",
        LONG.format(255, 255),
        "soft0v255",
        "up",
        "10G",
        *["18446744073709551615"] * 9,
    ]


def test_a_pipe_has_the_same_columns_with_and_without_warnings() -> None:
    quiet = port_table([row(0), row(1)], exact=True, width=None).lines
    warned = port_table([row(0), row(1, warnings=["x"])], exact=True, width=None).lines
    assert [line.split()[:14] for line in warned] == [line.split()[:14] for line in quiet]
    assert warned[2].split()[14] == "!"


def test_what_a_nic_cant_count_is_a_dash_and_not_0() -> None:
    counters = dict.fromkeys(COUNTERS, 0)
    del counters["spoofed"]
    (_, line) = port_table([row(0, counters=counters)], exact=True, width=None).lines
    assert line.split()[-2:] == ["0", "-"]


def test_colours_change_nothing_but_colours() -> None:
    rows = [row(None), row(0), row(1, state="closed", name="", warnings=["w"]), row(2, link="down")]
    plain = port_table(rows, exact=False, width=100)
    painted = port_table(rows, exact=False, width=100, colour=True)
    assert "\x1b[" in painted.lines[0]
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in painted.lines] == list(plain.lines)


def test_states_that_matter_take_the_links_place() -> None:
    states = ["closed", "drifted", "failed", "lost"]
    rows = [row(vfid, state=state) for vfid, state in enumerate(states)]
    lines = port_table(rows, exact=True, width=None).lines[1:]
    assert [line.split()[3] for line in lines] == states


def test_one_warning_of_many_vfs_is_explained_once() -> None:
    rows = [row(vfid, warnings=["this guest can send any VLAN"]) for vfid in (*range(8), 9)]
    assert warning_lines(rows, None, False) == [
        "! soft0:0-7,9 (9 VFs): this guest can send any VLAN"
    ]
    assert all(len(line) <= 40 for line in warning_lines(rows, 40, False))


def test_what_a_guest_or_file_is_called_never_steers_the_terminal() -> None:
    evil = row(0, name="a\x1b[2Jb", address="c\rd", warnings=["e\x07f"])
    shown = "\n".join(
        [
            *port_table([evil], exact=False, width=120).lines,
            *warning_lines([evil], 120, False),
            *block_lines(evil | {"extended": {"guest": "g\x1bh"}}, exact=False, colour=False),
        ]
    )
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown)


def test_a_pfs_block_has_the_factors_of_what_was_scaled() -> None:
    def text(**more: object) -> str:
        extended = {"vfs": 8, "scale": 1.0, "class_scale": {}} | more
        return "\n".join(block_lines(row(None, extended=extended), exact=True, colour=False))

    assert "scaled" not in text()
    assert "guarantees scaled by 0.5" in text(scale=0.5)
    assert "shares of class 2 scaled by 0.625" in text(class_scale={"2": 0.625})


def test_a_block_has_every_counter_of_the_row() -> None:
    counters = {name: n for n, name in enumerate(["rx_packets", "spoofed", "a_new_counter"], 1)}
    text = "\n".join(block_lines(row(0, counters=counters), exact=True, colour=False))
    assert "packets 1" in text
    assert "spoofed 2" in text
    assert "a_new_counter 3" in text
    assert "errors -" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_block_fits_a_terminal_and_loses_nothing(width: int) -> None:
    counters = dict.fromkeys((*COUNTERS, "oversize", "rate_dropped", "mirrored"), 123456)
    macs = [f"02:00:00:00:00:{n:02x}" for n in range(40)]
    long = row(
        0, name="vm", counters=counters, extended={"macs": macs}, warnings=["much " * 30 + "to say"]
    )
    how: dict[str, Any] = {"exact": True, "colour": False}
    whole, fitted = block_lines(long, **how), block_lines(long, **how, width=width)
    assert max(map(len, whole)) > 200 >= width >= max(map(len, fitted))
    assert " ".join(fitted).split() == " ".join(whole).split()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00k"),
        (9994, "9.99k"),
        (9995, "10.0k"),
        (99949, "99.9k"),
        (99950, "100k"),
        (999499, "999k"),
        (999500, "1.00M"),
        (2**64 - 1, "18.4E"),
    ],
)
def test_short_numbers_take_five_characters_at_most(value: int, shown: str) -> None:
    assert short_number(value) == shown
    assert len(shown) <= 5


def test_speeds_and_ranges_read_as_people_write_them() -> None:
    assert [speed(s) for s in (10**10, 25 * 10**8, 10**8, None)] == [
        "10G",
        "2.5G",
        "100M",
        "-",
    ]
    assert ranges([7, 1, 2, 3, 9, 8]) == "1-3,7-9"


@pytest.mark.parametrize(
    "nasty", ["\x1b[2Jx", "a\nb", "a\rb", "\x9b2Jx", "\x7f", "a\u202eb", "a\u2028b", "a\u200bb"]
)
def test_nothing_that_is_shown_steers_the_terminal(nasty: str) -> None:
    assert printable(nasty).isprintable()
    for text in (as_json({"name": nasty}), as_json({"name": [nasty]}, indent=2)):
        assert text.replace("\n", "").isprintable()
    assert json.loads(as_json({"name": nasty}, indent=2)) == {"name": nasty}
    assert as_json({"name": "müller"}) == '{"name": "müller"}'


def test_what_keeps_many_files_out_is_told_once() -> None:
    problem = {"field": "pciid", "rule": "its PF isn't working"}
    bad = [{"file": f"vm{n}.json", "problems": [problem]} for n in range(255)]
    bad.append({"file": "torn.json", "problems": [{"field": "", "rule": "not JSON"}]})
    assert trouble_lines({"pfs": [], "bad_files": bad}, None, False) == [
        "! vm0.json and 254 other files are not in force: pciid: its PF isn't working",
        "! torn.json is not in force: not JSON",
    ]


def test_a_byte_that_is_no_utf_8_is_shown_as_what_it_is() -> None:
    assert printable("a\udcff\x1b") == "a\\xff?"
