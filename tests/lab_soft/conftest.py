"""The software NIC on the kernels that its users have, in the laboratory's machine:
`lab/vm pytest --kernel 6.1 --igb 0 -- tests/lab_soft`, and the same with 6.12."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from tests.life.daemon import Daemon

from vfd.nic.soft import destroy
from vfd.policy.values import PfPolicy


@pytest.fixture(scope="session", autouse=True)
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon | None]:
    """A daemon that starts while the first tests run, since that takes it most of a minute here;
    None if no test asks for it."""
    if not any("test_the_daemon" in item.nodeid for item in request.session.items):
        yield None
        return
    pf = f"d{secrets.token_hex(2)}"
    daemon = Daemon(tmp_path_factory.mktemp("vfd"), {"id": pf, "backend": "soft", "vfs": 2})
    try:
        daemon.spawn()
        yield daemon
    finally:
        daemon.kill()
        destroy(PfPolicy(id=pf))
