"""A file is in force once it was added, and refused or edited since it isn't: it is shown so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import Vfd


def iplex(vfd: Vfd, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("iplex"))
    env = {**os.environ, "VFD_SOCKET": str(vfd.socket), **environment}
    return subprocess.run([program, *args], capture_output=True, text=True, env=env)


def files(vfd: Vfd) -> set[str]:
    return {str(path.relative_to(vfd.config_dir)) for path in vfd.config_dir.rglob("*.json*")}


def test_a_file_that_is_refused_is_renamed_and_no_start_takes_it(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0))
    vfd.put_file("t/vm2", vfd.vf(0))  # VF 0 is vm1's
    status, error = vfd.ask("POST", "/v1/vfs", {"file": "t/vm2"})
    assert (status, error["exit"]) == (422, 3)
    assert "t/vm2.json is t/vm2.json.error now" in error["detail"]
    assert files(vfd) == {"vm1.json", "t/vm2.json.error"}
    [event] = vfd.events("refused-file")
    assert "t/vm2.json.error" in event["text"]
    assert vfd.get("/v1/health")["status"] == "ok"
    assert vfd.ask("DELETE", "/v1/vfs/vm1")[0] == 200
    for again in (vfd.reload, vfd.stop, vfd.start):
        again()
    assert vfd.row(0)["state"] == "closed"


def test_a_refused_file_is_added_by_its_name_once_it_is_right(vfd: Vfd) -> None:
    path = vfd.put_file("vm1", vfd.vf(0, vlans=[1, 1]))
    assert iplex(vfd, "add", "vm1").returncode == 3
    assert iplex(vfd, "add", "vm1").returncode == 3
    refused = path.with_name("vm1.json.error")
    assert files(vfd) == {"vm1.json.error"}
    completed = iplex(
        vfd, COMP_WORDS="iplex add v", COMP_CWORD="2", _IPLEX_COMPLETE="bash_complete"
    )
    assert "plain,vm1" in completed.stdout.splitlines()
    refused.write_text(refused.read_text().replace("[1, 1]", "[1]"))
    plan = iplex(vfd, "plan", "vm1")
    assert (plan.returncode, "would add" in plan.stdout) == (0, True), plan
    assert files(vfd) == {"vm1.json.error"}
    done = iplex(vfd, "add", str(path.with_suffix("")))
    assert done.returncode == 0, done
    assert files(vfd) == {"vm1.json"}
    assert (vfd.row(0)["name"], vfd.get("/v1/vfs/vm1")["file"]) == ("vm1", "vm1.json")
    vfd.stop()
    vfd.start()
    assert vfd.row(0)["name"] == "vm1"


def test_a_refused_file_is_deleted_by_its_name(vfd: Vfd) -> None:
    vfd.put_file("vm1", vfd.vf(0, vlans=[1, 1]))
    assert iplex(vfd, "add", "vm1").returncode == 3
    assert vfd.ask("DELETE", "/v1/vfs/vm1")[0] == 200
    assert files(vfd) == set()
    assert vfd.ask("DELETE", "/v1/vfs/vm1")[0] == 404


def test_a_new_file_comes_before_one_that_was_refused(vfd: Vfd) -> None:
    vfd.put_file("vm1", vfd.vf(0, vlans=[1, 1]))
    assert iplex(vfd, "add", "vm1").returncode == 3
    vfd.put_file("vm1", vfd.vf(1))
    assert iplex(vfd, "add", "vm1").returncode == 0
    assert vfd.row(1)["name"] == "vm1"
    assert files(vfd) == {"vm1.json", "vm1.json.error"}


def test_a_file_keeps_its_name_where_it_holds_a_vf_as_it_is(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0))
    vfd.put_file("vm1", vfd.vf(0, vlans=[1, 1]))
    assert vfd.ask("POST", "/v1/vfs", {"file": "vm1"})[0] == 422
    assert files(vfd) == {"vm1.json"}
    vfd.stop()
    vfd.start()
    assert vfd.ask("POST", "/v1/vfs", {"file": "vm1"})[0] == 422
    assert files(vfd) == {"vm1.json"}
    assert vfd.row(0)["state"] == "ok"


def test_what_a_start_or_a_reload_refuses_keeps_its_name(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd()
    vfd.put_file("vm1", vfd.vf(0, vlans=[1, 1]))
    vfd.start()
    vfd.reload()
    assert files(vfd) == {"vm1.json"}
    assert vfd.get("/v1/health")["bad_files"]


def test_content_that_is_refused_leaves_nothing(vfd: Vfd) -> None:
    assert vfd.add("t/vm1", vfd.vf(0, vlans=[1, 1]))[0] == 422
    assert vfd.add("t/vm1", vfd.vf(9))[0] == 422
    assert list(vfd.config_dir.iterdir()) == []


EDITED = "edited, not in force"


@pytest.mark.parametrize("text", ["{", '{"vlans": [7]}', "other"])
def test_a_file_that_was_edited_is_shown_as_not_in_force(vfd: Vfd, text: str) -> None:
    vfd.add("vm1", vfd.vf(0))
    vfd.add("vm2", vfd.vf(1))
    assert vfd.get("/v1/health")["edited"] == []
    vfd.put_file("vm1", vfd.vf(0, vlans=[8]) if text == "other" else text)
    for _ in range(2):
        assert vfd.get("/v1/health")["edited"] == ["vm1.json"]
        assert any(EDITED in warning for warning in vfd.row(0)["warnings"])
        assert any(EDITED in warning for warning in vfd.get("/v1/vfs/vm1")["warnings"])
        assert not any(EDITED in warning for warning in vfd.row(1)["warnings"])
    assert EDITED in iplex(vfd, "show", "all").stdout
    assert EDITED in iplex(vfd, "get", "vm1").stdout
    vfd.put_file("vm1", {**vfd.vf(0), "comment": "and says the same"})
    assert vfd.get("/v1/health")["edited"] == []
    vfd.put_file("vm1", vfd.vf(0, vlans=[8]))
    vfd.reload()
    assert vfd.get("/v1/health")["edited"] == []
    (vfd.config_dir / "vm1.json").unlink()
    assert any("vm1.json is gone" in warning for warning in vfd.row(0)["warnings"])
