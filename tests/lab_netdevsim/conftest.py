"""Tests of the kernel backend on netdevsim, in the laboratory's machine.

netdevsim acknowledges what it is asked for and carries no packets: these tests prove what is asked
and what is read back. What flower rules mean is proven by tests/kernel/test_switchdev_compile.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lab_netdevsim.simulated import Simulated

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "VFD_LAB" in os.environ:
        return
    skip = pytest.mark.skip(
        reason="needs the laboratory's machine: lab/vm pytest --igb 0 -- tests/lab_netdevsim"
    )
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(skip)


@pytest.fixture
def legacy() -> Iterator[Simulated]:
    with Simulated(vfs=4) as nic:
        yield nic


@pytest.fixture
def switchdev() -> Iterator[Simulated]:
    with Simulated(vfs=4, switchdev=True) as nic:
        yield nic
