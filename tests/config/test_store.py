"""Files are whole or not there, keep their owner, and stay inside config_dir."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfd.config import store
from vfd.config.edit import with_field
from vfd.config.errors import ConfigError
from vfd.config.json_text import parse_object

VF = '{"pciid": "soft0", "vfid": 1, "vlans": [100]}'
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing a file's owner needs root")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "config"
    made.mkdir()
    return made


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_what_is_written_is_read_back(folder: Path) -> None:
    path = store.path_of(folder, "Instance_a/vm1")
    store.write(path, VF, inside=folder)
    assert store.read(path, inside=folder).text.decode() == VF
    (stored,), problems = store.read_all(folder)
    assert problems == ()
    assert stored.parsed.policy.name == "Instance_a/vm1"
    assert (stored.uid, stored.gid) == (os.geteuid(), os.getegid())
    assert everything(folder) == {"Instance_a", "Instance_a/vm1.json"}


def test_files_being_written_kept_files_and_others_are_passed_over(folder: Path) -> None:
    store.write(folder / "b.json", VF)
    for other in (".b.json.0123", ".hidden.json", "c.json-", "c.json.error", "notes.txt", "d.x"):
        (folder / other).write_text("no configuration")
    (folder / ".d").mkdir()
    (folder / ".d/e.json").write_text(VF)
    good, problems = store.read_all(folder)
    assert [one.path.name for one in good] == ["b.json"]
    assert problems == ()


def test_a_bad_file_does_not_hide_the_good_ones(folder: Path) -> None:
    store.write(folder / "a.json", VF)
    store.write(folder / "z/b.json", VF)
    (folder / "torn.json").write_text(VF[:-3])
    (folder / "empty.json").touch()
    (folder / "image.json").write_bytes(b"\0" * (store.MAX_FILE + 1))
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    good, problems = store.read_all(folder)
    assert [one.parsed.policy.name for one in good] == ["a", "z/b"]
    assert {Path(one.file).name for one in problems} == {
        "torn.json", "empty.json", "image.json", "pipe.json"
    }  # fmt: skip


def test_no_link_leads_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text(VF)
    (folder / "file.json").symlink_to(outside / "secret.json")
    (folder / "dangling.json").symlink_to(outside / "none.json")
    (folder / "linked").symlink_to(outside)
    good, problems = store.read_all(folder)
    assert good == ()
    assert {Path(one.file).name for one in problems} == {"file.json", "dangling.json", "linked"}
    for path in (folder / "linked/secret.json", folder / "linked/new.json"):
        with pytest.raises(store.StoreError, match="leads out"):
            store.write(path, "x", inside=folder)
        with pytest.raises(store.StoreError, match="leads out"):
            store.delete(path, inside=folder)
    assert everything(outside) == {"secret.json"}
    assert (outside / "secret.json").read_text() == VF


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    store.write(folder / "a.json-real", VF)
    (folder / "a.json").symlink_to("a.json-real")
    (one,), problems = store.read_all(folder)
    assert (one.parsed.policy.name, problems) == ("a", ())


def test_writing_over_a_link_replaces_the_link_and_not_its_target(
    folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    (folder / "a.json").symlink_to(target)
    store.write(folder / "a.json", VF, inside=folder)
    assert target.read_text() == "untouched"
    assert (folder / "a.json").read_text() == VF
    assert not (folder / "a.json").is_symlink()


@needs_root
def test_owner_and_mode_are_set_and_kept_when_the_file_is_rewritten(folder: Path) -> None:
    path = folder / "a.json"
    store.write(path, VF, uid=1234, gid=2345, mode=0o600)
    for rewrite in (
        lambda: store.write(path, VF + "\n"),
        lambda: store.edit_field(path, "mirror", {"target": 2}, inside=folder),
    ):
        rewrite()
        about = path.stat()
        assert (about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)) == (1234, 2345, 0o600)
    stored = store.read(path)
    assert (stored.uid, stored.gid, stored.mode) == (1234, 2345, 0o600)


def test_a_new_file_can_be_read_by_all_and_written_by_its_owner(folder: Path) -> None:
    old = os.umask(0o077)
    try:
        store.write(folder / "a.json", VF)
    finally:
        os.umask(old)
    assert stat.S_IMODE((folder / "a.json").stat().st_mode) == 0o644


def test_deleting_takes_the_file_and_the_folders_that_are_empty_then(folder: Path) -> None:
    store.write(folder / "i/vm1.json", VF)
    store.write(folder / "i/vm2.json", VF)
    store.delete(folder / "i/vm1.json", inside=folder)
    assert everything(folder) == {"i", "i/vm2.json"}
    store.delete(folder / "i/vm2.json", inside=folder)
    assert everything(folder) == set()
    store.delete(folder / "i/vm2.json", inside=folder)
    assert folder.is_dir()


def test_a_deleted_file_can_be_kept_under_its_name_with_a_dash(folder: Path) -> None:
    store.write(folder / "i/vm1.json", VF)
    store.delete(folder / "i/vm1.json", inside=folder, keep=True)
    assert everything(folder) == {"i", "i/vm1.json-"}
    assert store.read_all(folder) == ((), ())
    store.write(folder / "i/vm1.json", VF + " ")
    store.delete(folder / "i/vm1.json", inside=folder, keep=True)
    assert (folder / "i/vm1.json-").read_text() == VF + " "


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a full disk is a small tmpfs, and mounting one is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_said_and_leaves_the_old_file_and_nothing_else(small_disk: Path) -> None:
    path = small_disk / "a.json"
    store.write(path, VF)
    with pytest.raises(store.StoreError, match=r"No space left.*make room.*nothing was changed"):
        store.write(path, " " * 200_000)
    with pytest.raises(store.StoreError, match="No space left"):
        store.write(small_disk / "new/b.json", " " * 200_000)
    assert path.read_text() == VF
    assert everything(small_disk) == {"a.json"}


def test_a_file_where_a_folder_should_be_is_said(folder: Path) -> None:
    store.write(folder / "a", "x")
    with pytest.raises(store.StoreError, match="Not a directory"):
        store.write(folder / "a/b.json", VF, inside=folder)
    assert everything(folder) == {"a"}


def test_a_folder_that_is_missing_or_a_file_that_is_missing_is_said(folder: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        store.read_all(folder / "none")
    with pytest.raises(ConfigError, match="No such file"):
        store.read(folder / "none.json")
    with pytest.raises(ConfigError, match="null byte"):
        store.read(folder / "a\0b")


def test_a_name_that_leaves_the_folder_has_no_path(folder: Path) -> None:
    for name in ("../x", "/etc/x", "a/../../x", ".x", ""):
        with pytest.raises(ConfigError):
            store.path_of(folder, name)


WRITER = """
import sys
from pathlib import Path
from vfd.config import store
path, n = Path(sys.argv[1]), 0
while True:
    n += 1
    comment = "x" * (n % 7) * 9999
    store.write(path, '{"pciid": "soft0", "vfid": 1, "vlans": [100], "comment": "%s"}' % comment)
    if n == 1:
        print("writing", flush=True)
"""


def test_a_writer_that_is_killed_leaves_a_whole_file(folder: Path) -> None:
    path = folder / "a.json"
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout
        with writer.stdout as output:
            assert output.readline() == "writing\n"
            for _ in range(50):
                json.loads(path.read_text())
                time.sleep(0.001)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        (one,), problems = store.read_all(folder)
        assert one.parsed.policy.vfid == 1
        assert problems == ()
    store.sweep(folder)
    assert everything(folder) == {"a.json"}


def test_only_what_a_killed_writer_left_is_swept(folder: Path) -> None:
    (folder / "i").mkdir()
    for name in (".a.json.0123456789abcdef", "i/.b.json.0123456789abcdef", ".git", "c.json-"):
        (folder / name).write_text("x")
    store.sweep(folder)
    assert everything(folder) == {"i", ".git", "c.json-"}


TEXT = """{
  "comment": "the first tenant",
  "pciid": "soft0", "vfid": 1,
  "rate": 0.250,
  "vlans": [100, "200-210"],
  "last_comment": ["kept", "too"]
}
"""


def test_editing_one_field_leaves_everything_else_as_it_was(folder: Path) -> None:
    path = folder / "a.json"
    store.write(path, TEXT)
    store.edit_field(path, "mirror", {"target": 2, "direction": "in"}, inside=folder)
    added = path.read_text()
    assert added == TEXT.replace('"too"]', '"too"],\n  "mirror": {"target": 2, "direction": "in"}')
    store.edit_field(path, "mirror", {"target": 3, "direction": "all"}, inside=folder)
    assert path.read_text() == added.replace('2, "direction": "in"', '3, "direction": "all"')
    store.edit_field(path, "mirror", None, inside=folder)
    assert path.read_text() == TEXT


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        ("{}", 1, '{"m": 1}'),
        ('{"a": 1}', 2, '{"a": 1,"m": 2}'),
        ('{ "a": [1,], }', 2, '{ "a": [1 ], "m": 2  }'),
        ('{"m": {"x": [1]}, "a": 1}', None, '{"a": 1}'),
        ('{"a": 1, "m": "}", "b": 2}', None, '{"a": 1, "b": 2}'),
        ('{"a": 1, "m": 2 }', None, '{"a": 1 }'),
        ('{"m": 2}', None, "{}"),
        ('{"a": 1}', None, '{"a": 1}'),
        ('\ufeff{"é": "ü"}', "ñ", '{"é": "ü","m": "ñ"}'),
    ],
)
def test_a_field_is_set_or_taken_out_wherever_it_stands(
    before: str, value: object, after: str
) -> None:
    assert with_field(before, "m", value, file="x.json") == after
    parse_object(after, file="x.json")


def test_a_file_that_is_no_configuration_is_not_edited(folder: Path) -> None:
    for text in (b"", b"[]", b'{"a": 1, "a": 2}', b"\xff", b"{"):
        (folder / "a.json").write_bytes(text)
        with pytest.raises(ConfigError):
            store.edit_field(folder / "a.json", "mirror", None, inside=folder)
        assert (folder / "a.json").read_bytes() == text


def test_errors_of_the_system_are_told_in_its_words(folder: Path) -> None:
    with pytest.raises(store.StoreError, match=os.strerror(errno.ENAMETOOLONG)):
        store.write(folder / ("x" * 300), VF)
    assert everything(folder) == set()
