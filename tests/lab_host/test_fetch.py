"""Which Debian archives the laboratory takes from the system's apt."""

from pathlib import Path

import pytest
from lab.errors import LabError
from lab.fetch import archives

DEB822 = """\
Types: deb
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/example.gpg

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main
"""

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb [signed-by=/usr/share/keyrings/example.gpg arch=amd64] http://mirror.example/debian bookworm c
deb http://security.example/debian-security bookworm-security main contrib
"""


@pytest.fixture
def etc_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("VFD_LAB_MIRROR", "VFD_LAB_SECURITY_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text"),
    [("sources.list.d/debian.sources", DEB822), ("sources.list", ONE_LINE)],
)
def test_both_formats_of_apt_sources_name_the_same_mirrors(
    etc_apt: Path, file: str, text: str
) -> None:
    (etc_apt / file).write_text(text)
    main, updates, backports, security = archives(etc_apt)
    assert {main.uri, updates.uri, backports.uri} == {"http://mirror.example/debian"}
    assert main.signed_by == "/usr/share/keyrings/example.gpg"
    assert (backports.suite, security.suite) == ("bookworm-backports", "bookworm-security")
    assert security.uri == "http://security.example/debian-security"


def test_another_release_of_debian_lends_its_mirror(etc_apt: Path) -> None:
    (etc_apt / "sources.list").write_text(ONE_LINE.replace("bookworm", "trixie"))
    main, _, _, security = archives(etc_apt)
    assert (main.uri, main.suite) == ("http://mirror.example/debian", "bookworm")
    assert security.suite == "bookworm-security"


def test_a_disabled_entry_is_no_mirror(etc_apt: Path) -> None:
    disabled = DEB822.replace("Components", "Enabled: no\nComponents")
    (etc_apt / "sources.list.d/debian.sources").write_text(disabled)
    with pytest.raises(LabError, match="VFD_LAB_MIRROR"):
        archives(etc_apt)


def test_the_environment_names_other_mirrors(
    etc_apt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VFD_LAB_MIRROR", "http://here.example/debian")
    monkeypatch.setenv("VFD_LAB_SECURITY_MIRROR", "http://here.example/debian-security")
    assert {source.uri for source in archives(etc_apt)} == {
        "http://here.example/debian",
        "http://here.example/debian-security",
    }


def test_a_system_without_a_debian_archive_is_told_what_to_set(etc_apt: Path) -> None:
    (etc_apt / "sources.list").write_text("deb http://other.example/ubuntu noble main\n")
    with pytest.raises(LabError, match="VFD_LAB_MIRROR"):
        archives(etc_apt)
