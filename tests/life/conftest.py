"""A host with a running daemon and the untouched tenants in place."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.life.host import Host


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/life/" in str(item.path):
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="module")
def used_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, packet sockets, BPF")
    host = Host(tmp_path_factory.mktemp("vfd"))
    try:
        host.start()
        yield host
    finally:
        host.close()


@pytest.fixture
def host(used_host: Host) -> Host:
    """With the untouched tenants alone, whatever the test before did, and where it ended."""
    used_host.restore()
    return used_host
