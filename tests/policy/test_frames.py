"""Frames as bytes and as fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfd.policy.frames import MAC_CONTROL, Frame, Tag, TruncatedError, parse
from vfd.policy.values import C_TAG, S_TAG

DST = "02:00:00:00:00:02"
SRC = "02:00:00:00:00:01"
ADDRESSES = bytes.fromhex("020000000002 020000000001")
IPV4 = b"\x08\x00payload"


def test_a_frame_without_tags_has_none() -> None:
    assert parse(ADDRESSES + IPV4) == Frame(DST, SRC, (), IPV4)
    assert parse(ADDRESSES + IPV4).outer is None


def test_tags_come_outer_first_with_their_priorities() -> None:
    raw = ADDRESSES + bytes.fromhex("88a8 b064 8100 0fff") + IPV4
    frame = parse(raw)
    assert frame.tags == (Tag(S_TAG, 100, pcp=5, dei=True), Tag(C_TAG, 4095))
    assert frame.outer == frame.tags[0]
    assert frame.rest == IPV4


def test_a_tag_with_vid_0_is_a_priority_tag() -> None:
    assert Tag(C_TAG, 0, pcp=3).is_priority
    assert not Tag(C_TAG, 1).is_priority


@pytest.mark.parametrize("tpid", ["9100", "9200", "86dd"])
def test_other_types_are_no_tags(tpid: str) -> None:
    assert parse(ADDRESSES + bytes.fromhex(f"{tpid} 0064") + IPV4).tags == ()


def test_what_was_pushed_is_popped() -> None:
    frame = parse(ADDRESSES + IPV4)
    assert bytes(frame.push(Tag(S_TAG, 7))) == ADDRESSES + bytes.fromhex("88a8 0007") + IPV4
    assert frame.push(Tag(S_TAG, 7)).pop() == frame


def test_popping_takes_the_outer_tag_only() -> None:
    frame = parse(ADDRESSES + bytes.fromhex("88a8 0001 8100 0002") + IPV4)
    assert frame.pop().tags == (Tag(C_TAG, 2),)
    assert frame.pop().pop().pop().tags == ()


@pytest.mark.parametrize("length", range(14))
def test_a_frame_shorter_than_its_header_is_truncated(length: int) -> None:
    with pytest.raises(TruncatedError):
        parse((ADDRESSES + IPV4)[:length])


@pytest.mark.parametrize("length", range(14, 18))
@pytest.mark.parametrize("tpid", ["8100", "88a8"])
def test_a_cut_off_outer_tag_is_truncated(tpid: str, length: int) -> None:
    raw = ADDRESSES + bytes.fromhex(f"{tpid} 0064 0800")
    with pytest.raises(TruncatedError):
        parse(raw[:length])
    assert parse(raw).tags[0].vid == 100


@pytest.mark.parametrize("length", range(18, 22))
def test_a_cut_off_inner_tag_is_payload(length: int) -> None:
    raw = (ADDRESSES + bytes.fromhex("88a8 0064 8100 0065 0800"))[:length]
    frame = parse(raw)
    assert len(frame.tags) == 1
    assert frame.rest == raw[16:]


@given(st.binary(max_size=40), st.lists(st.sampled_from(["8100", "88a8"]), max_size=4))
def test_parsing_loses_nothing(tail: bytes, tpids: list[str]) -> None:
    raw = ADDRESSES + b"".join(bytes.fromhex(tpid) + b"\x60\x64" for tpid in tpids) + tail
    try:
        frame = parse(raw)
    except TruncatedError:
        assert len(raw) < 18
    else:
        assert bytes(frame) == raw


@pytest.mark.parametrize(
    ("tags", "veiled"),
    [
        ("8100 0000 8100 0190", True),
        ("8100 e000 88a8 0190", True),
        ("88a8 0000 8100 0190", True),
        ("8100 0000 8100 0000", True),
        ("8100 0000 8100", True),  # cut off: whoever pads the frame completes it
        ("8100 0000 8100 01", True),
        ("8100 0000", False),
        ("8100 0000 9100 0190", False),
        ("8100 0064 8100 0000 8100 0190", False),
        ("", False),
    ],
)
def test_a_tag_behind_a_priority_tag_is_veiled(tags: str, veiled: bool) -> None:
    whole = IPV4 if len(bytes.fromhex(tags)) % 4 == 0 else b""
    assert parse(ADDRESSES + bytes.fromhex(tags) + whole).is_veiled is veiled


@pytest.mark.parametrize("tags", ["", "8100 0064", "88a8 0001 8100 0000", "8100 0064" * 9])
def test_the_type_is_that_behind_all_tags(tags: str) -> None:
    assert parse(ADDRESSES + bytes.fromhex(tags) + b"\x88\x08\0\1").type == MAC_CONTROL
