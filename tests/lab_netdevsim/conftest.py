"""Tests of the kernel backend on netdevsim, in the laboratory's machine.

netdevsim acknowledges what it is asked for and carries no packets: these tests prove what is asked
and what is read back. What flower rules mean is proven by tests/kernel/test_switchdev_compile.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.lab_netdevsim.simulated import Simulated


@pytest.fixture
def legacy() -> Iterator[Simulated]:
    with Simulated(vfs=4) as nic:
        yield nic


@pytest.fixture
def switchdev() -> Iterator[Simulated]:
    with Simulated(vfs=4, switchdev=True) as nic:
        yield nic
