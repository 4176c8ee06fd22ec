"""No text and no value of anybody's keeps an answer from being written."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfd.api import schema, views
from vfd.api.encoding import encoded
from vfd.api.lines import Lines
from vfd.daemon.journal import KEPT, Journal

ANY_TEXT = st.text(st.characters(exclude_categories=()))
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.binary() | st.dates(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(ANY_TEXT, inner)
        | st.frozensets(ANY_TEXT)
        | st.tuples(inner)
    ),
    max_leaves=8,
)


@given(ANY_TEXT, ANYTHING)
def test_whatever_is_in_it_an_answer_is_json(text: str, value: Any) -> None:
    problem = schema.Problem(file=text, value=value, rule=text)
    for message in (
        schema.BadFile(file=text, problems=[problem]),
        schema.EventAnswer(
            seq=1, time=1.0, kind="bad-file", level="error", text=text, data={text: value}
        ),
    ):
        raw = encoded(message).encode()
        assert json.loads(raw).keys() == type(message).model_fields.keys()


def test_what_json_can_carry_is_as_it_was_and_the_rest_is_escaped() -> None:
    def file(name: str, value: Any = None) -> Any:
        problem = schema.Problem(rule="", value=value)
        return json.loads(encoded(schema.BadFile(file=name, problems=[problem])))

    assert file("ünï\n\u202e.json")["file"] == "ünï\n\u202e.json"
    assert file("\udcff.json")["file"] == "\\xff.json"
    assert file("a", {"\ud800": ["\udfff", "ü", 1.5, True]})["problems"][0]["value"] == {
        "\\ud800": ["\\udfff", "ü", 1.5, True]
    }


def test_an_event_is_written_once_for_all_its_readers() -> None:
    journal, lines = Journal(), Lines()
    for number in range(KEPT):
        journal.emit("tick", str(number))
    events = journal.since(0)
    listed = asyncio.run(lines.listed(events))
    assert listed == encoded(schema.EventList(events=[views.event(one) for one in events]))
    assert all(lines.of(one) is lines.of(one) for one in events)


def test_events_that_the_journal_has_forgotten_are_not_kept_as_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL", "vfd.event")  # or it keeps them all
    journal, lines = Journal(), Lines()
    tracemalloc.start()

    def told() -> int:
        """Bytes in use after as many events as the journal keeps were told."""
        for _ in range(KEPT):
            journal.emit("tick", "x" * 1000)
        asyncio.run(lines.listed(journal.since(0)))
        return tracemalloc.get_traced_memory()[0]

    try:
        once = told()
        assert told() - once < once / 4
    finally:
        tracemalloc.stop()
