"""Tests in this folder run in the laboratory's machine: `lab/vm pytest tests/lab`."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Outside the machine there is no SR-IOV NIC to test: say so, once per test."""
    if "VFD_LAB" in os.environ:
        return
    skip = pytest.mark.skip(reason="needs the laboratory's machine: lab/vm pytest tests/lab")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(skip)
