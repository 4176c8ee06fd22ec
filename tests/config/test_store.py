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
from vfd.nic.inotify import CLOSE, Inotify

VF = '{"pciid": "soft0", "vfid": 1, "vlans": [100]}'
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing a file's owner needs root")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "config"
    made.mkdir()
    return made


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def write(
    folder: Path, file: str, text: str = VF, *, uid: int = 0, gid: int = 0, mode: int = 0o640
) -> tuple[str, ...]:
    """Both steps, as the daemon makes them around a change of the NIC."""
    owner = (uid, gid) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    staged = store.stage(folder, Path(file), text, *owner, mode)
    try:
        return staged.commit()
    finally:
        staged.abandon()


def delete(folder: Path, file: str, *, keep: bool = False) -> None:
    assert store.retire(folder, Path(file), keep=keep).finish() == ()


def test_what_is_written_is_read_back(folder: Path) -> None:
    path = store.path_of(folder, "Instance_a/vm1")
    assert write(folder, "Instance_a/vm1.json") == ()
    assert store.read(path, inside=folder).text.decode() == VF
    assert everything(folder) == {"Instance_a", "Instance_a/vm1.json"}


def test_what_is_staged_is_not_there_before_it_is_committed(folder: Path) -> None:
    write(folder, "a.json")
    staged = store.stage(folder, Path("a.json"), "{}", os.geteuid(), os.getegid(), 0o640)
    assert (folder / "a.json").read_text() == VF
    staged.abandon()
    assert everything(folder) == {"a.json"}
    store.stage(folder, Path("b/c.json"), VF, os.geteuid(), os.getegid(), 0o640).abandon()
    assert everything(folder) == {"a.json"}


def test_what_is_no_file_or_too_large_is_not_read(folder: Path) -> None:
    (folder / "image.json").write_bytes(b"\0" * (store.MAX_FILE + 1))
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    for name in ("image", "pipe", "folder", "none", "a\0b"):
        with pytest.raises(ConfigError, match="can't be read"):
            store.read(folder / f"{name}.json")


def test_no_link_leads_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text(VF)
    (folder / "file.json").symlink_to(outside / "secret.json")
    (folder / "linked").symlink_to(outside)
    for name in ("file.json", "linked/secret.json"):
        with pytest.raises(ConfigError, match="leads out"):
            store.read(folder / name, inside=folder)
    for name in ("linked/secret.json", "linked/new.json", "linked/new/deep.json"):
        with pytest.raises(ConfigError, match="is a link"):
            write(folder, name)
        with pytest.raises(OSError, match="Not a directory"):
            delete(folder, name)
    assert everything(outside) == {"secret.json"}
    assert (outside / "secret.json").read_text() == VF


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    write(folder, "a.json-real")
    (folder / "a.json").symlink_to("a.json-real")
    assert store.read(folder / "a.json", inside=folder).text.decode() == VF


def test_an_absolute_link_inside_the_folder_is_followed(folder: Path) -> None:
    write(folder, "i/real")
    (folder / "a.json").symlink_to(folder / "i/b.json")
    (folder / "i/b.json").symlink_to(folder / "i/real")
    assert store.read(folder / "a.json", inside=folder).text.decode() == VF
    (folder / "c.json").symlink_to(folder / "c.json")
    with pytest.raises(ConfigError, match="can't be read"):
        store.read(folder / "c.json", inside=folder)


def test_where_a_link_leads_out_nothing_is_opened(folder: Path, tmp_path: Path) -> None:
    """To open a device may be all that it takes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (folder / "a.json").symlink_to(pipe)
    (folder / "b.json").symlink_to("../pipe")
    opened = Inotify(CLOSE)
    opened.watch(pipe)
    for name in ("a.json", "b.json"):
        with pytest.raises(ConfigError, match="leads out"):
            store.read(folder / name, inside=folder)
    assert not opened.read()
    os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
    assert opened.read(), "it would have been seen"
    opened.close()


def test_writing_over_a_link_replaces_the_link_and_not_its_target(
    folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    (folder / "a.json").symlink_to(target)
    write(folder, "a.json")
    assert target.read_text() == "untouched"
    assert (folder / "a.json").read_text() == VF
    assert not (folder / "a.json").is_symlink()


@needs_root
def test_a_file_has_its_owner_and_mode_from_its_first_moment(folder: Path) -> None:
    old = os.umask(0o777)
    try:
        write(folder, "a.json", uid=1234, gid=2345, mode=0o604)
    finally:
        os.umask(old)
    stored = store.read(folder / "a.json")
    assert (stored.uid, stored.gid, stored.mode) == (1234, 2345, 0o604)
    assert stat.S_ISREG((folder / "a.json").stat().st_mode)


def test_deleting_takes_the_file_and_the_folders_that_were_made_for_it(folder: Path) -> None:
    owner = (os.geteuid(), os.getegid(), 0o640)
    staged = store.stage(folder, Path("o/i/vm1.json"), VF, *owner)
    staged.commit()
    write(folder, "o/i/vm2.json")
    made = staged.made
    store.retire(folder, Path("o/i/vm1.json"), keep=False, made=made).finish()
    assert everything(folder) == {"o", "o/i", "o/i/vm2.json"}
    store.retire(folder, Path("o/i/vm2.json"), keep=False, made=made).finish()
    assert everything(folder) == set()
    store.retire(folder, Path("o/i/vm2.json"), keep=False, made=made).finish()
    assert folder.is_dir()


def test_a_folder_of_anothers_stays_though_it_is_empty(folder: Path) -> None:
    owner = (os.geteuid(), os.getegid(), 0o640)
    (folder / "his").mkdir()
    staged = store.stage(folder, Path("his/mine/vm1.json"), VF, *owner)
    staged.commit()
    assert staged.made.keys() == {Path("his/mine")}
    store.retire(folder, Path("his/mine/vm1.json"), keep=False, made=staged.made).finish()
    assert everything(folder) == {"his"}
    staged = store.stage(folder, Path("mine/vm1.json"), VF, *owner)
    staged.commit()
    (folder / "mine/vm1.json").unlink()
    (folder / "mine").rmdir()
    (folder / "other").mkdir()
    (folder / "mine").mkdir()  # another folder of that name
    (folder / "mine/vm1.json").write_text(VF)
    store.retire(folder, Path("mine/vm1.json"), keep=False, made=staged.made).finish()
    assert everything(folder) == {"his", "mine", "other"}
    store.stage(folder, Path("his/vm2.json"), VF, *owner).abandon()
    assert everything(folder) == {"his", "mine", "other"}


def test_a_deleted_file_can_be_kept_under_its_name_with_a_dash(folder: Path) -> None:
    write(folder, "i/vm1.json")
    delete(folder, "i/vm1.json", keep=True)
    assert everything(folder) == {"i", "i/vm1.json-"}
    write(folder, "i/vm1.json", VF + " ")
    delete(folder, "i/vm1.json", keep=True)
    assert (folder / "i/vm1.json-").read_text() == VF + " "


@pytest.mark.parametrize("keep", [False, True])
def test_a_file_out_of_its_place_can_come_back(folder: Path, keep: bool) -> None:
    write(folder, "i/vm1.json")
    retired = store.retire(folder, Path("i/vm1.json"), keep=keep)
    assert not (folder / "i/vm1.json").exists()
    retired.restore()
    assert everything(folder) == {"i", "i/vm1.json"}


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
    write(small_disk, "a.json")
    for name in ("a.json", "new/b.json"):
        with pytest.raises(OSError, match="No space left"):
            write(small_disk, name, " " * 200_000)
    assert (small_disk / "a.json").read_text() == VF
    assert everything(small_disk) == {"a.json"}


def test_a_disk_that_does_not_say_that_it_has_written_is_told_and_undoes_nothing(
    folder: Path,
) -> None:
    """A descriptor that can be renamed through and not synced stands in for such a disk."""

    def can_not_be_synced(descriptor: int) -> None:
        only_path = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        os.dup2(only_path, descriptor)
        os.close(only_path)

    write(folder, "a.json", "{}")
    staged = store.stage(folder, Path("a.json"), VF, os.geteuid(), os.getegid(), 0o640)
    can_not_be_synced(staged.folder)
    [warning] = staged.commit()
    assert f"{folder}/a.json is written, but that may not outlive a power cut" in warning
    assert (folder / "a.json").read_text() == VF
    retired = store.retire(folder, Path("a.json"), keep=False)
    can_not_be_synced(retired.folder)
    [warning] = retired.finish()
    assert "a.json is removed, but that may not" in warning
    assert everything(folder) == set()


def test_a_file_where_a_folder_should_be_is_said(folder: Path) -> None:
    (folder / "a").write_text("x")
    with pytest.raises(ConfigError, match="no folder"):
        write(folder, "a/b.json")
    assert everything(folder) == {"a"}


def test_a_name_that_leaves_the_folder_has_no_path(folder: Path) -> None:
    for name in ("../x", "/etc/x", "a/../../x", ".x", ""):
        with pytest.raises(ConfigError):
            store.path_of(folder, name)


WRITER = """
import sys
from pathlib import Path
from vfd.config import store
folder, n = Path(sys.argv[1]), 0
while True:
    n += 1
    comment = "x" * (n % 7) * 9999
    text = '{"pciid": "soft0", "vfid": 1, "vlans": [100], "comment": "%s"}' % comment
    for file in ("a.json", f"deep/{n % 3}/b.json"):
        store.stage(folder, Path(file), text, 0, 0, 0o640).commit()
    store.retire(folder, Path(f"deep/{n % 3}/b.json"), keep=False).finish()
    if n == 1:
        print("writing", flush=True)
"""


@needs_root
def test_a_writer_that_is_killed_leaves_whole_files(folder: Path) -> None:
    path = folder / "a.json"
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout
        with writer.stdout as output:
            assert output.readline() == "writing\n"
            for _ in range(50):
                json.loads(path.read_text())
                time.sleep(0.001)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        for file in folder.rglob("*.json"):
            assert json.loads(file.read_text())["vfid"] == 1
    store.sweep(folder)
    left = {name for name in everything(folder) if not (folder / name).is_dir()}
    assert left <= {"a.json", *(f"deep/{n}/b.json" for n in range(3))}


def test_only_what_a_killed_writer_left_is_swept(folder: Path) -> None:
    (folder / "i").mkdir()
    mine = store.stage(folder, Path("i/b.json"), VF, os.geteuid(), os.getegid(), 0o640)
    for name in (".git", ".a.json.swp", ".mine.vfd-tmp", "c.json-"):
        (folder / name).write_text("x")
    assert len(everything(folder)) == 6
    store.sweep_beside(folder / "i/c.json")
    assert (folder / "i" / mine.fresh).exists()
    store.sweep(folder)
    assert everything(folder) == {"i", ".git", ".a.json.swp", ".mine.vfd-tmp", "c.json-"}
    again = store.stage(folder, Path("i/b.json"), VF, os.geteuid(), os.getegid(), 0o640)
    store.sweep_beside(folder / "i/b.json")
    assert not (folder / "i" / again.fresh).exists()


TEXT = """{
  "comment": "the first tenant",
  "pciid": "soft0", "vfid": 1,
  "rate": 0.250,
  "vlans": [100, "200-210"],
  "last_comment": ["kept", "too"]
}
"""


def test_editing_one_field_leaves_everything_else_as_it_was() -> None:
    def edited(text: str, value: object) -> str:
        return with_field(text, "mirror", value, file="a.json")

    added = edited(TEXT, {"target": 2, "direction": "in"})
    assert added == TEXT.replace('"too"]', '"too"],\n  "mirror": {"target": 2, "direction": "in"}')
    changed = edited(added, {"target": 3, "direction": "all"})
    assert changed == added.replace('2, "direction": "in"', '3, "direction": "all"')
    assert edited(changed, None) == TEXT


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


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1, "a": 2}', "{"])
def test_what_is_no_configuration_is_not_edited(text: str) -> None:
    with pytest.raises(ConfigError):
        with_field(text, "mirror", None, file="a.json")


def test_errors_of_the_system_are_told_in_its_words(folder: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        write(folder, "x" * 300)
    assert everything(folder) == set()
