"""``python -m bench.abuse``: what one hostile guest, member or file costs everybody else.

A daemon with a software NIC serves tenants. While one of them attacks, it is measured how long a
guest waits for another MAC, the operator for a change, a NIC for its repair and root for an answer,
each beside the same in the quiet of the same run. Meanwhile a guest that does nothing wrong sends
without a pause: all of it must arrive, and nothing that was spoofed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.host import Host, running
from bench.tenants import POLICIES, VILLAIN, Tenants, prefix, wire
from bench.traffic import BenchError, run

BAR = 10.0
"""How many times as long as in the quiet anybody may wait, in the mean, while somebody attacks."""
LOG_BURST, LOG_BAR = 128.0, 32.0
"""KiB that an attack may add to the log at once, and then KiB a second."""
GROUP = 64998
"""A gid that no host gives to anybody, which the daemon takes for the group vfd's."""
MEMBERS = 16
AT_MOST = 60.0
"""Seconds for which a hostile process outlives its attack, should nobody end it."""
STRANGER = 65534
"""The uid that owns a hostile tenant's folder."""

PACE = 0.02
"""Seconds between probes: what they ask for is logged, too."""
DRIFT = "repair of drift"
REPAIR_PAUSE = 0.6
"""Seconds between repairs: who has more than 20 to make in 10 s slows them down."""
PROBES: dict[str, Callable[[Tenants], float]] = {
    "another guest's MAC": Tenants.guests_mac,
    "operator's update": Tenants.update,
    DRIFT: Tenants.repair,
    "root's ping": Tenants.ping,
}


@dataclass(slots=True)
class Waits:
    """What was measured while one attack went on, or none."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PROBES})
    lost: int = 0
    """Frames of the guest that does nothing wrong."""
    escaped: int = 0
    """Spoofed frames that came to the wire."""
    log: float = 0.0
    """KiB that were added to the log."""
    took: float = 0.0
    """Seconds."""

    def mean(self, probe: str) -> float:
        """Who is kept out for seconds asks seldom: a median would not show it."""
        return statistics.fmean(self.seconds[probe])

    def worst(self, probe: str) -> float:
        return max(self.seconds[probe])


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to be a nuisance: hostile processes, or files."""

    name: str
    begin: Callable[[Host, Tenants], contextlib.AbstractContextManager[None]]
    seconds: float


def measure(host: Host, tenants: Tenants, seconds: float) -> Waits:
    """All probes in turn for that long, and each at least three times."""
    waits = Waits()
    sent, heard, escaped, log = tenants.sent, tenants.heard, tenants.escaped, _log_size(host)
    began = repair_at = time.monotonic()
    while time.monotonic() - began < seconds or len(waits.seconds[DRIFT]) < 3:
        for name, probe in PROBES.items():
            if name == DRIFT and time.monotonic() < repair_at:
                continue
            repair_at = time.monotonic() + REPAIR_PAUSE if name == DRIFT else repair_at
            for _ in range(10):
                tenants.talk()
            waits.seconds[name].append(probe(tenants))
            time.sleep(PACE)
    took = time.monotonic() - began
    tenants.settle()
    waits.lost = (tenants.sent - sent) - (tenants.heard - heard)
    waits.escaped = tenants.escaped - escaped
    waits.log, waits.took = (_log_size(host) - log) / 1024, took
    return waits


def _log_size(host: Host) -> int:
    return sum(path.stat().st_size for path in host.folder.glob("*") if path.is_file()
               and path.name.startswith(("vfd.log", "stderr")))  # fmt: skip


# Attacks


@contextlib.contextmanager
def _hostile(*command: str) -> Iterator[None]:
    """``bench.abuser`` while the block runs, in a session of its own: users and services share the
    CPUs by session (sched(7), autogroups), however many processes each of them has."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.abuser", *command],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "begins\n":
            raise BenchError(f"the attack did not begin: {process.args!r}")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def guest(attack: str, seconds: float, **options: object) -> Attack:
    """An attack by a guest on its own interface, which ends by itself."""

    def begin(_: Host, tenants: Tenants) -> contextlib.AbstractContextManager[None]:
        more = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        return _hostile(
            attack, "--netns", tenants.netns(VILLAIN), "--seconds", str(seconds + AT_MOST), *more
        )

    shown = " ".join([*map(str, options.values()), attack])
    return Attack(f"a guest: {shown}", begin, seconds)


def members(attack: str, seconds: float) -> Attack:
    """An attack by members of the group on the daemon's socket."""

    def begin(host: Host, _: Tenants) -> contextlib.AbstractContextManager[None]:
        return _hostile(
            attack, "--socket", str(host.socket), "--group", str(GROUP),
            "--processes", str(MEMBERS), "--seconds", str(seconds + AT_MOST),
        )  # fmt: skip

    return Attack(f"{MEMBERS} members: {attack}", begin, seconds)


def files(name: str, write: Callable[[Path], None], seconds: float) -> Attack:
    """A tenant fills its folder, and the operator reloads: a good file beside it must be taken."""

    @contextlib.contextmanager
    def begin(host: Host, _: Tenants) -> Iterator[None]:
        folder = host.vfs / "tenant"
        try:
            folder.mkdir()
            write(folder)
            run("chown", "-R", f"{STRANGER}:{STRANGER}", str(folder))
            host.reload("late", {"vfid": 7, "vlans": [7]})
            yield
        finally:
            run("rm", "-rf", str(folder))  # deeper than Python's own way down

    return Attack(f"a folder: {name}", begin, seconds)


def nest(depth: int) -> Callable[[Path], None]:
    """Folders in folders, each made from within the one above: no path is that long."""

    def write(folder: Path) -> None:
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(depth):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)

    return write


def litter(number: int) -> Callable[[Path], None]:
    """Files that are no configuration."""

    def write(folder: Path) -> None:
        for one in range(number):
            (folder / f"bad{one}.json").write_text('{"pciid": 5, "vfid": "x", "vlans": [0]}')

    return write


def attacks(*, short: bool) -> list[Attack]:
    """All of them; ``short``: in under a minute."""
    seconds = 1.5 if short else 9.0
    return [
        *(
            guest("macvlans", seconds, number=number)
            for number in ((250, 1000) if short else (250, 500, 1000, 2000))
        ),
        *(guest(kind, seconds) for kind in ("mac", "mtu", "promiscuous", "link", "groups")),
        guest("spoof", seconds),
        *(members(kind, seconds) for kind in ("connect", "hold", "ask")),
        files(f"{1500} nested folders", nest(1500), seconds),
        files(f"{(n := 2000 if short else 20000)} bad files", litter(n), seconds),
    ]


# The run


def run_all(
    chosen: Sequence[Attack], say: Callable[[str], None], quiet_seconds: float = 3.0
) -> tuple[Waits, dict[str, Waits]]:
    """The quiet, then each attack on a daemon and a NIC of its own, by name."""
    quiet: Waits | None = None
    results: dict[str, Waits] = {}
    for attack in chosen:
        with _seated() as (host, tenants):
            if quiet is None:
                say("quiet")
                measure(host, tenants, 0)  # what is loaded at first use is loaded
                quiet = measure(host, tenants, quiet_seconds)
            say(attack.name)
            with attack.begin(host, tenants):
                results[attack.name] = measure(host, tenants, attack.seconds)
                host.reloaded()
    return quiet or Waits(), results


@contextlib.contextmanager
def _seated() -> Iterator[tuple[Host, Tenants]]:
    name = prefix()
    with (
        wire(name) as uplink,
        running(POLICIES, nic=name, wrap=_with_group(), vfs=8, uplink=uplink) as host,
        contextlib.ExitStack() as stack,
    ):
        host.start()
        yield host, Tenants(host, name, stack)


def _with_group() -> list[str]:
    """Starts a command that finds a group ``vfd`` in an /etc/group of its own."""
    lines = [line for line in Path("/etc/group").read_text().splitlines() if line[:4] != "vfd:"]
    text = "\n".join([*lines, f"vfd:x:{GROUP}:", ""])
    # of the root alone: the mounts in /run/netns that hold namespaces are seen outside, as ever
    script = (
        'mount --make-slave / && f=$(mktemp) && printf %s "$1" >"$f" && chmod 644 "$f"'
        ' && mount --bind "$f" /etc/group'
        ' && rm "$f" && shift && exec "$@"'
    )
    return ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script, "sh", text]


def table_of(quiet: Waits, results: dict[str, Waits]) -> Table:
    table = Table(title="Waits in ms, mean and worst, and the mean × the quiet's")
    table.add_column("while")
    for name in PROBES:
        table.add_column(name, justify="right")
    for name in ("lost", "escaped", "log KiB"):
        table.add_column(name, justify="right")
    table.add_column("")
    for attack, waits in {"nobody attacks": quiet, **results}.items():
        cells = [
            f"{waits.mean(name) * 1e3:.1f} {waits.worst(name) * 1e3:.0f}"
            f" [bold]{waits.mean(name) / quiet.mean(name):.1f}[/bold]"
            for name in PROBES
        ]
        verdict = "; ".join(missed(quiet, waits)) or "held"
        table.add_row(attack, *cells, str(waits.lost), str(waits.escaped), f"{waits.log:.0f}",
                      verdict)  # fmt: skip
    return table


def missed(quiet: Waits, waits: Waits) -> list[str]:
    """The bars that an attack broke."""
    found = [
        f"{name}: {waits.mean(name) / quiet.mean(name):.1f} × (at most {BAR:g})"
        for name in PROBES
        if waits.mean(name) > BAR * quiet.mean(name)
    ]
    if waits.lost:
        found.append(f"{waits.lost} frames lost")
    if waits.escaped:
        found.append(f"{waits.escaped} spoofed frames escaped")
    if waits.log > (room := LOG_BURST + LOG_BAR * waits.took):
        found.append(f"{waits.log:.0f} KiB of log (at most {room:.0f})")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="abuse", description=__doc__)
    parser.add_argument("--short", action="store_true", help="all attacks in about a minute")
    parser.add_argument("--only", metavar="WORD", help="the attacks whose name has this word")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    say = Console(stderr=True)
    chosen = [a for a in attacks(short=options.short) if (options.only or "") in a.name]
    try:
        quiet, results = run_all(chosen, lambda what: say.print(what, style="dim"))
    except BenchError as error:
        say.print(f"abuse: {error}")
        return 1
    if options.json:
        print(json.dumps({name: w.seconds for name, w in {"quiet": quiet, **results}.items()}))
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(table_of(quiet, results))
    return 1 if any(missed(quiet, waits) for waits in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
