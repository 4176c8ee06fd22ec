"""Debian packages, fetched and unpacked into a directory without touching the system.

apt does the work, so that signatures are checked, proxies are honoured and the mirrors are the
ones this machine uses; but with lists, cache and package status of its own.  Unpacking is
`dpkg-deb -x`.  Nothing is installed.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

RELEASE = "bookworm"
BACKPORTS = f"{RELEASE}-backports"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """One Debian archive as the system's apt knows it."""

    uri: str
    suite: str
    signed_by: str


def system_sources(etc_apt: Path) -> Iterator[Source]:
    """Every binary archive in sources.list and sources.list.d, of either format."""
    one_line = [etc_apt / "sources.list", *sorted(etc_apt.glob("sources.list.d/*.list"))]
    for path in one_line:
        if path.exists():
            yield from _one_line(path.read_text())
    for path in sorted(etc_apt.glob("sources.list.d/*.sources")):
        yield from _deb822(path.read_text())


def _one_line(text: str) -> Iterator[Source]:
    # deb [ option=value ... ] uri suite [component ...]     (sources.list(5))
    form = re.compile(
        r"^\s*deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)", re.M
    )
    for entry in form.finditer(text):
        options = dict(
            option.split("=", 1) for option in (entry["options"] or "").split() if "=" in option
        )
        yield Source(entry["uri"], entry["suite"], options.get("signed-by", KEYRING))


def _deb822(text: str) -> Iterator[Source]:
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        # a line that starts with a blank continues the field above it
        joined = re.sub(r"\n[ \t]+", " ", "\n".join(lines))
        fields = {
            name.strip().lower(): value.strip()
            for name, colon, value in (line.partition(":") for line in joined.splitlines())
            if colon
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled") == "no":
            continue
        key = fields.get("signed-by", KEYRING)
        # Signed-By may hold the key itself, which a one-field copy of it can't carry
        key = key if key.startswith("/") else KEYRING
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, key)


def archives(etc_apt: Path = Path("/etc/apt")) -> tuple[Source, ...]:
    """The four bookworm archives the laboratory needs, from the mirrors that this system uses.

    `VFD_LAB_MIRROR` and `VFD_LAB_SECURITY_MIRROR` name other mirrors.
    """
    found = list(system_sources(etc_apt))

    def mirror(variable: str, wanted: Sequence[str], ending: str) -> Source | None:
        named = os.environ.get(variable)
        if named:
            return Source(named, "", KEYRING)
        # the suite by name first; then any Debian archive, whatever release this system is
        for source in found:
            if source.suite in wanted:
                return source
        for source in found:
            if source.uri.rstrip("/").endswith(ending):
                return source
        return None

    main = mirror("VFD_LAB_MIRROR", (RELEASE, "oldstable"), "/debian")
    security = mirror(
        "VFD_LAB_SECURITY_MIRROR",
        (f"{RELEASE}-security", "oldstable-security"),
        "/debian-security",
    )
    for variable, source in (("VFD_LAB_MIRROR", main), ("VFD_LAB_SECURITY_MIRROR", security)):
        if source is None:
            raise LabError(
                f"no Debian archive among the {len(found)} in {etc_apt}/sources.list and "
                f"sources.list.d; set {variable} to the URI of one "
                "(such as http://deb.debian.org/debian)"
            )
    assert main is not None
    assert security is not None
    return (
        Source(main.uri, RELEASE, main.signed_by),
        Source(main.uri, f"{RELEASE}-updates", main.signed_by),
        Source(main.uri, BACKPORTS, main.signed_by),
        Source(security.uri, f"{RELEASE}-security", security.signed_by),
    )


@dataclass(frozen=True)
class Apt:
    """An apt with a root of its own under `root`."""

    root: Path
    progress: Progress

    @classmethod
    def create(cls, root: Path, progress: Progress) -> "Apt":
        """Lay the root out and fetch the package lists.  Errors: LabError."""
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise LabError(f"{tool} is missing: the laboratory is built on Debian or Ubuntu")
        for folder in ("sources", "empty", "lib/lists/partial", "cache/archives/partial"):
            (root / folder).mkdir(parents=True)
        (root / "lib/status").touch()  # empty: nothing is installed, so whole closures are fetched
        sources = archives()
        (root / "sources/lab.sources").write_text(
            "\n".join(
                f"Types: deb\nURIs: {source.uri}\nSuites: {source.suite}\n"
                f"Components: main\nArchitectures: amd64\nSigned-By: {source.signed_by}\n"
                for source in sources
            )
        )
        (root / "apt.conf").write_text(_configuration(root))
        apt = cls(root, progress)
        mirrors = " and ".join(sorted({source.uri for source in sources}))
        apt._run(f"the package lists of {RELEASE} from {mirrors}", "update", cwd=root)
        return apt

    def install_tree(self, names: Sequence[str], suite: str, tree: Path) -> None:
        """Unpack packages and all that they depend on into `tree`."""
        what = ", ".join(names)
        cache = self.root / "cache/archives"
        self._run(what, "install", "-y", "--download-only", "-t", suite, *names, cwd=cache)
        unpack(sorted(cache.glob("*.deb")), tree)
        for deb in cache.glob("*.deb"):
            deb.unlink()

    def download(self, names: Sequence[str], folder: Path) -> list[Path]:
        """The packages alone, without what they depend on, as files in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        before = set(folder.glob("*.deb"))
        self._run(", ".join(names), "download", *names, cwd=folder)
        return sorted(set(folder.glob("*.deb")) - before)

    def dependency(self, name: str, prefix: str) -> str:
        """The package a metapackage stands for: its first dependency that starts with `prefix`."""
        listing = self._query("depends", name)
        for line in listing.splitlines():
            relation, _, target = line.strip().partition(": ")
            if relation == "Depends" and target.startswith(prefix):
                return target
        raise LabError(f"package {name} names no {prefix}*; apt-cache says:\n{listing}")

    def version(self, name: str) -> str:
        """The version that would be fetched."""
        listing = self._query("policy", name)
        match = re.search(r"Candidate: (\S+)", listing)
        if match is None or match[1] == "(none)":
            raise LabError(f"no package {name} in {RELEASE}; apt-cache says:\n{listing}")
        return match[1]

    def _query(self, *arguments: str) -> str:
        done = subprocess.run(
            ["apt-cache", *arguments], env=self._env(), capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    def _env(self) -> dict[str, str]:
        return {**os.environ, "APT_CONFIG": str(self.root / "apt.conf"), "LC_ALL": "C"}

    def _run(self, what: str, *arguments: str, cwd: Path) -> None:
        # apt's machine-readable progress (README.progress-reporting) goes to the status pipe
        reader, writer = os.pipe()
        with open(self.root / "apt.log", "w+") as log:
            process = subprocess.Popen(
                ["apt-get", "-q", "-o", f"APT::Status-Fd={writer}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env=self._env(),
                pass_fds=(writer,),
            )
            os.close(writer)
            with os.fdopen(reader, errors="replace") as status:
                for line in status:
                    kind, _, rest = line.partition(":")
                    if kind == "dlstatus":
                        percent = rest.split(":")[1]
                        self.progress(f"fetching {what}: {float(percent):.0f} %")
            code = process.wait()
            log.seek(0)
            lines = log.read().splitlines()
        # `apt-get update` only warns when a list can't be had
        bad = [line for line in lines if line.startswith(("E:", "W:", "Err:"))]
        if code != 0 or (arguments[0] == "update" and bad):
            said = "\n  ".join(bad or lines[-5:]) or f"apt-get ended with {code}"
            raise LabError(
                f"could not fetch {what}:\n  {said}\n"
                "The mirrors come from /etc/apt; VFD_LAB_MIRROR and VFD_LAB_SECURITY_MIRROR name "
                "others.  Check the network and run `make lab` again: what is complete is kept."
            )


def _configuration(root: Path) -> str:
    """Only what concerns the network is taken from the system's apt: no hooks, no paths."""
    dump = subprocess.run(
        ["apt-config", "dump"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    network = [
        line
        for line in dump
        if line.startswith("Acquire::") and not line.startswith("Acquire::IndexTargets")
    ]
    own = {
        "Dir::State": root / "lib",
        "Dir::State::status": root / "lib/status",
        "Dir::Cache": root / "cache",
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": root / "empty",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": root / "sources",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": root / "empty",
        "APT::Architecture": "amd64",
        "APT::Install-Recommends": "false",
        # the sandbox user could not write below a home directory
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return "\n".join([*network, *(f'{key} "{value}";' for key, value in own.items())]) + "\n"


def unpack(debs: Iterable[Path], tree: Path) -> None:
    """Unpack packages into one tree."""
    tree.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        done = subprocess.run(
            ["dpkg-deb", "-x", deb, tree], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LabError(f"could not unpack {deb.name}: {done.stderr.strip()}")
