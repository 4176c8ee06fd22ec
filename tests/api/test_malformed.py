"""A request that is wrong is told what is wrong with it, in words for who wrote it by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.daemon.conftest import make_vfd as make_vfd
from tests.daemon.harness import Vfd

from vfd.api.client import ApiError, Client

pytestmark = pytest.mark.root


@pytest.fixture
def vfd(make_vfd: Callable[..., Vfd]) -> Vfd:
    daemon = make_vfd(pciids=[])
    daemon.start()
    return daemon


def test_a_body_that_is_not_said_to_be_json_is_told_the_header_that_says_so(vfd: Vfd) -> None:
    """curl's -d says that it sends a form."""
    form = "application/x-www-form-urlencoded"
    status, told = vfd.ask_text("POST", "/v1/vfs", '{"file": "vm1"}', form)
    assert status == 400
    assert "Content-Type: application/json" in told["detail"]
    assert "b'" not in told["detail"]


def test_what_is_missing_unknown_or_empty_is_called_so(vfd: Vfd) -> None:
    _, told = vfd.ask("PATCH", "/v1/pfs/soft0", {"frce": True})
    assert told["detail"] == "body.vfs: required; body.frce = true: unknown field"
    _, told = vfd.ask("POST", "/v1/vfs", {"file": ""})
    assert told["detail"] == 'body.file = "": must not be empty'


def test_what_is_not_there_is_named(vfd: Vfd) -> None:
    status, told = vfd.ask("GET", "/v1/vf/vm1")
    assert (status, "there is no /v1/vf/vm1" in told["detail"]) == (404, True)


def test_a_path_that_ends_too_early_is_an_error_and_no_answer(vfd: Vfd) -> None:
    with pytest.raises(ApiError) as error:
        Client(str(vfd.socket)).delete("/v1/pfs/")
    assert error.value.exit_code == 4


def test_a_mistyped_parameter_is_refused_and_not_passed_over(vfd: Vfd) -> None:
    status, told = vfd.ask("GET", "/v1/show?extendet=1")
    assert (status, told["detail"]) == (400, 'query.extendet = "1": unknown field')
    status, _ = vfd.ask("GET", "/v1/show?extended=1")
    assert status == 200
