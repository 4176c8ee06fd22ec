"""A call that the kernel doesn't answer is left to itself, and said so."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from vfd.nic.kernel.patience import patiently
from vfd.nic.kernel.sriov import write
from vfd.nic.protocol import NicError


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    """A file whose writers wait for ever, as those of ``sriov_numvfs`` may: nobody reads it."""
    path = tmp_path / "sriov_numvfs"
    os.mkfifo(path)
    return path


def test_what_is_done_in_time_returns_and_raises_as_it_does() -> None:
    assert patiently("a sum", lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        patiently("a quotient", lambda: 1 // 0)


@pytest.mark.measured
def test_a_write_that_blocks_is_given_up_and_not_begun_twice(blocks: Path) -> None:
    def ask() -> None:
        patiently(f"writing 0 to {blocks}", lambda: write(blocks, "0"), 0.2)

    with pytest.raises(NicError, match=r"writing 0 to .*sriov_numvfs.*vfio"):
        ask()
    threads, began = threading.active_count(), time.monotonic()
    with pytest.raises(NicError, match="has not done it"):
        ask()
    assert time.monotonic() - began < 0.1
    assert threading.active_count() == threads
    assert blocks.read_bytes() == b"0"  # the first one is done after all
    reader = threading.Thread(target=blocks.read_bytes, daemon=True)
    reader.start()
    deadline = time.monotonic() + 10
    while True:
        try:
            ask()
            break
        except NicError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    reader.join(10)
    assert not reader.is_alive()
