"""Text that is no Unicode, or steers a terminal, in names and files: the table is told all the
same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .harness import Vfd


def iplex(vfd: Vfd, *args: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [Path(sys.executable).with_name("iplex"), "--socket", str(vfd.socket), *args],
        capture_output=True,
        env={**os.environ, **environment},
    )


def put_raw(vfd: Vfd, name: bytes, text: bytes) -> None:
    path = os.fsencode(vfd.config_dir) + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    with open(path, "wb") as file:
        file.write(text)


ODD_NAMES = (b"\xff.json", b"\x1b[31mred.json", b"two\nlines.json", b"\xe9t\xe9/vm.json")


def test_a_file_called_like_no_text_is_told_and_hides_nothing(vfd: Vfd) -> None:
    vfd.add("vé€1", vfd.vf(0))
    for vfid, name in enumerate(ODD_NAMES):
        put_raw(vfd, name, json.dumps(vfd.vf(vfid, name=f"good{vfid}")).encode())
    vfd.reload()
    told = {bad["file"] for bad in vfd.get("/v1/health")["bad_files"]}
    assert told == {r"\xff.json", r"\x1b[31mred.json", r"two\nlines.json", r"\xe9t\xe9/vm.json"}
    assert vfd.row(0)["name"] == "vé€1"
    assert vfd.get("/v1/vfs")["bad_files"]
    assert vfd.get("/v1/dump")
    for locale in ("C", "POSIX", "en_US.ISO-8859-1"):
        for command in (["show", "all"], ["export"], ["events"], ["show", "all", "--json"]):
            done = iplex(vfd, *command, LC_ALL=locale, PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
            assert done.returncode == 0, done
            assert done.stderr == b""
            assert b"\x1b" not in done.stdout
            if "--json" in command:
                assert json.loads(done.stdout)
    assert vfd.ask("DELETE", r"/v1/vfs/%5Cxff.json")[0] == 200
    assert b"\xff.json" not in os.listdir(os.fsencode(vfd.config_dir))  # noqa: PTH208
    vfd.stop()
    vfd.start()
    assert vfd.get("/v1/health")["bad_files"]


def test_half_a_character_in_a_file_is_refused_with_its_field(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd()
    half = r"\ud800"
    good = json.dumps(vfd.vf(0, comment="HALF")).replace("HALF", half)
    vfd.put_file("comment", good)
    for number, field in enumerate(("name", "pciid", "start_cb", half)):
        told = json.dumps({**vfd.vf(1), "name": f"n{number}", field: "HALF"})
        vfd.put_file(f"bad{number}", told.replace("HALF", half).replace("\\" + half, half))
    vfd.start()
    assert vfd.row(0)["name"] == "comment"
    bad = {b["file"]: b["problems"] for b in vfd.get("/v1/health")["bad_files"]}
    assert bad.keys() == {f"bad{number}.json" for number in range(4)}
    for number, field in enumerate(("name", "pciid", "start_cb", half)):
        rules = {(p["field"], p["rule"]) for p in bad[f"bad{number}.json"]}
        assert (field, "half of a surrogate pair is no character") in rules
    assert vfd.get("/v1/vfs/comment")["asked"]
    mirror = f"/v1/pfs/{vfd.pf}/vfs/0/mirror"
    assert vfd.ask("PUT", mirror, {"direction": "in", "target": 1})[0] == 200
    assert half in (vfd.config_dir / "comment.json").read_text()


def test_half_a_character_in_the_main_file(vfd: Vfd) -> None:
    vfd.main["pciids"][0]["comment"] = "\ud800"
    vfd.write_main()
    vfd.reload()
    assert vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 5})[0] == 200
    assert json.loads(vfd.config.read_text())["pciids"][0]["vfs"] == 5
    vfd.main["cpu_alarm_type"] = "\ud800"
    vfd.write_main()
    vfd.stop()
    assert vfd.spawn().wait(20) == 3
    assert "cpu_alarm_type" in vfd.output()
    del vfd.main["pciids"][0]["comment"]


def test_a_namespace_called_like_no_text_is_shown(vfd: Vfd) -> None:
    name = os.fsencode(f"{vfd.pf}-") + b"\xff"
    vfd.add("vm1", vfd.vf(0))
    subprocess.run([b"ip", b"netns", b"add", name], check=True)
    try:
        netdev = os.fsencode(f"{vfd.pf}v0")
        subprocess.run([b"ip", b"link", b"set", netdev, b"netns", name], check=True)
        assert vfd.row(0)["extended"]["guest"] == rf"{vfd.pf}-\xff"
    finally:
        subprocess.run([b"ip", b"netns", b"del", name], check=True)


def test_paths_on_the_command_line_are_text(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd()
    path = os.fsencode(vfd.folder) + b"/\xff"
    command = [os.fsencode(sys.executable), b"-m", b"vfd.main", b"--config", path]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 2
    assert rb"\xff: a path is printable text" in done.stderr
