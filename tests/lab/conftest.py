"""Tests in this folder run in the laboratory's machine: `lab/vm pytest tests/lab`."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails because something waits in the kernel says where."""
    report = yield
    if report.failed and HERE in item.path.parents and (waiting := "\n".join(_waiting())):
        report.sections.append(("waiting in the kernel", waiting))
    return report


def _waiting() -> Iterator[str]:
    """Tasks that no signal reaches, with the kernel's functions that they are in."""
    for task in Path("/proc").glob("[0-9]*/task/[0-9]*"):
        try:
            if (task / "stat").read_text().rpartition(")")[2].split()[0] == "D":
                name = (task / "comm").read_text().strip()
                yield f"{name} ({task.name}):\n{(task / 'stack').read_text()}"
        except OSError:
            continue  # it has ended
