"""``make mutants``: whether tests notice small faults, by part. Options: ``--help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tools.mutants import c_source, python_source, sandbox
from tools.mutants.by_hand import BY_HAND
from tools.mutants.mutant import ByHand, Mutant, in_order
from tools.mutants.named import ELSEWHERE, EQUIVALENT
from tools.mutants.parts import PARTS, Part, nearest_first
from tools.mutants.sandbox import NOT_BUILT

SEED = 8


@dataclass(frozen=True)
class Tried:
    mutant: Mutant | ByHand
    outcome: sandbox.Outcome

    @property
    def id(self) -> str:
        return self.mutant.id if isinstance(self.mutant, Mutant) else self.mutant.name

    @property
    def verdict(self) -> str:
        """One by hand that can't be built proves nothing."""
        by_hand = isinstance(self.mutant, ByHand)
        if self.outcome.verdict != "lived" and not (by_hand and self.outcome.verdict == NOT_BUILT):
            return self.outcome.verdict
        if self.id in ELSEWHERE:
            return "elsewhere"
        return "equivalent" if self.id in EQUIVALENT else "lived"


def main() -> int:
    ask = _asked()
    if os.geteuid() != 0:
        sys.exit("make mutants needs root: tests run in namespaces of their own")
    root = ask.tree.resolve()
    results = {}
    for part in PARTS:
        if ask.part and part.name not in ask.part:
            continue
        results[part.name] = try_part(root, part, ask)
        if ask.json:
            ask.json.write_text(json.dumps({p: _as_json(t) for p, t in results.items()}, indent=1))
    print("\n" + "\n".join(table(results)))
    return 1 if any(t.verdict == "lived" for part in results.values() for t in part) else 0


def _asked() -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"of {', '.join(names)}; none: all")
    parser.add_argument("--tree", type=Path, default=Path(), help="a checkout with its .venv")
    parser.add_argument("--count", type=int, help="how many of each part")
    parser.add_argument("--skip", type=int, default=0, help="how many of each part to pass over")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    parser.add_argument("--only", nargs="*", help="ids of mutants, names of those by hand")
    parser.add_argument("--json", type=Path, help="a file for the results")
    ask = parser.parse_args()
    if unknown := {*ask.part} - {*names}:
        parser.error(f"there is no part {', '.join(unknown)}: {', '.join(names)}")
    return ask


def try_part(root: Path, part: Part, ask: argparse.Namespace) -> list[Tried]:
    print(f"== {part.name}", flush=True)
    sound = sandbox.sound(root, part.test_files(root))
    print(f"   its tests take {sound.seconds:.0f} s of CPU", flush=True)
    for failed in sound.failed:
        print(f"   left out, because it fails without a mutant: {failed}", flush=True)
    left_out = [f"--deselect={failed}" for failed in sound.failed]

    def tried(mutant: Mutant | ByHand) -> Tried:
        text = mutant.applied((root / mutant.path).read_text())
        tests = [*left_out, *nearest_first(sound.tests, mutant)]
        limit = 10 + 3 * sound.seconds
        one = Tried(mutant, sandbox.run(root, tests, mutant.path, text, limit))
        seen = f"{one.verdict:10} {one.outcome.seconds:5.1f} s  {mutant}  {one.outcome.by}"
        print(seen, flush=True)
        return one

    drawn = list(all_of(root, part))
    enough = len(drawn)
    if ask.only:
        drawn = [mutant for mutant in drawn if mutant.id in ask.only]
    elif part.count is not None:
        drawn = in_order(drawn, SEED)[ask.skip :]
        enough = part.count
    results = _until(enough if ask.count is None else ask.count, drawn, tried, ask.jobs)
    wanted = [m for m in by_hand(root, part) if not ask.only or m.name in ask.only]
    with ThreadPoolExecutor(ask.jobs) as pool:
        return [*pool.map(tried, wanted), *results]


def all_of(root: Path, part: Part) -> Iterator[Mutant]:
    for path in part.files(root):
        find = python_source.mutants_of if path.endswith(".py") else c_source.mutants_of
        yield from find(path, (root / path).read_text())


def by_hand(root: Path, part: Part) -> Iterator[ByHand]:
    for mutant in BY_HAND:
        if mutant.part == part.name:
            try:
                mutant.applied((root / mutant.path).read_text())
            except (LookupError, OSError) as error:
                print(f"   {mutant.name} is not of this tree: {error}", flush=True)
            else:
                yield mutant


def _until(
    enough: int, drawn: list[Mutant], tried: Callable[[Mutant], Tried], jobs: int
) -> list[Tried]:
    """As many as wanted of those that can be built."""
    results: list[Tried] = []
    left = iter(drawn)
    with ThreadPoolExecutor(jobs) as pool:
        for _ in count():
            batch = [m for m, _ in zip(left, range(enough - len(results)), strict=False)]
            if not batch:
                return results
            results += [t for t in pool.map(tried, batch) if t.verdict != NOT_BUILT]
    raise AssertionError


def table(results: dict[str, list[Tried]]) -> Iterator[str]:
    """In Markdown, as docs/mutants.md has it."""
    yield "| part | mutants | died | equivalent | lived | kill rate |"
    yield "|---|---|---|---|---|---|"
    every = [one for part in results.values() for one in part]
    for name, part in {**results, "**all**": every}.items():
        verdicts = [one.verdict for one in part]
        same, lived = verdicts.count("equivalent"), verdicts.count("lived")
        died, real = len(part) - same - lived, len(part) - same
        rate = f"{100 * died / real:.0f} %" if real else ""
        yield f"| {name} | {len(part)} | {died} | {same} | {lived} | {rate} |"
    for one in every:
        if one.verdict == "lived":
            yield f"lived: {one.mutant}"


def _as_json(tried: list[Tried]) -> list[dict[str, object]]:
    return [
        {"id": one.id, "what": str(one.mutant), "verdict": one.verdict, "by": one.outcome.by,
         "seconds": round(one.outcome.seconds, 1)}
        for one in tried
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
