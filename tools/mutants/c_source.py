"""Mutants of the BPF program: inside of functions only, found by signs rather than by a parser."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tools.mutants.mutant import Mutant, told_apart

_SIGNS = (
    ("comparison", r"(?<![<>=!\-])(?:[<>]=?|[!=]=)(?![<>=])"),
    ("and, or", r"&&|\|\|"),
    ("calculation", r"(?<=\s)(?:[-+&|]|<<|>>)(?=\s)"),
    ("condition inverted", r"(?<![!\w])!(?=[\w(])"),
)
_TWINS = (
    ("<", "<="),
    (">", ">="),
    ("==", "!="),
    ("&&", "||"),
    ("+", "-"),
    ("&", "|"),
    ("<<", ">>"),
)
_NEW = {"!": ""} | dict(_TWINS) | {other: one for one, other in _TWINS}
_NUMBER = re.compile(r"(?<![\w.\[])(?:0x[0-9a-f]+|\d+)[uUL]*\b")
_FUNCTION = re.compile(r"^[a-z_].*?\b(\w+)\([^;]*?\)\s*^\{$(.*?)^\}$", re.M | re.S)
_HIDDEN = re.compile(r'/\*.*?\*/|//[^\n]*|"[^"\n]*"|^#[^\n]*(?:\\\n[^\n]*)*', re.M | re.S)
_STATEMENT = re.compile(
    r"^\t+((?:[a-z]\w*(?:(?:->|\.)\w+|\[\w+\])* (?:[-+&|^]|<<|>>)?= [^;]*|[A-Za-z]\w*\([^;]*\)"
    r"|[a-z]\w*(?:->\w+)+\+\+|break|continue);)",
    re.M,
)
_RETURN = re.compile(r"\breturn ([^;]+);")
_VERDICTS = {"TC_ACT_SHOT": "TC_ACT_OK", "0": "1", "1": "0", "-1": "0", "PASS": "SPOOFED"}
_FLAG = re.compile(r"\bPORT_[A-Z_]+\b(?<!SHIFT)")


def mutants_of(path: str, text: str) -> list[Mutant]:
    """All of a file."""
    return told_apart(_all(path, text))


def _all(path: str, text: str) -> Iterator[Mutant]:
    code = _HIDDEN.sub(lambda hidden: re.sub(r"[^\n]", " ", hidden[0]), text)
    flags = sorted({*_FLAG.findall(code)})
    for function in _FUNCTION.finditer(code):
        begin, end = function.span(2)
        for kind, start, stop, new in _changes(code, begin, end, flags):
            line = text.count("\n", 0, start) + 1
            around = text.splitlines()[line - 1].strip()
            old = text[start:stop]
            yield Mutant(path, function[1], kind, start, old, new, line, around)


def _changes(
    code: str, begin: int, end: int, flags: list[str]
) -> Iterator[tuple[str, int, int, str]]:
    for kind, sign in _SIGNS:
        for found in re.compile(sign).finditer(code, begin, end):
            yield kind, *found.span(), _NEW[found[0]]
    for found in _NUMBER.finditer(code, begin, end):
        yield "constant", *found.span(), str(int(found[0].rstrip("uUL"), 0) + 1)
    for found in _STATEMENT.finditer(code, begin, end):
        if "__" not in found[1].split("=")[0] and not found[1].startswith("if"):
            yield "statement dropped", *found.span(1), ";"
    for found in _RETURN.finditer(code, begin, end):
        if found[1] in _VERDICTS:
            yield "value", *found.span(1), _VERDICTS[found[1]]
        yield "statement dropped", *found.span(), ";"
    for found in _FLAG.finditer(code, begin, end):
        if found[0] in flags:
            after = flags[(flags.index(found[0]) + 1) % len(flags)]
            yield "wrong variable", *found.span(), after
    for found in re.compile(r"\bif \(").finditer(code, begin, end):
        yield from _conditions(code, found.end())


def _conditions(code: str, start: int) -> Iterator[tuple[str, int, int, str]]:
    """A whole condition inverted, and each of its terms dropped."""
    end = _closing(code, start)
    yield "condition inverted", start, end, f"!({code[start:end]})"
    for begin, stop, neutral in _terms(code, start, end):
        yield "condition dropped", begin, stop, neutral


def _terms(code: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    """Those joined by && and ||, in brackets too, each with what takes it out."""
    wrapped = re.compile(r"\s*(?:un)?likely\(").match(code, start, end)
    if wrapped and _closing(code, wrapped.end()) == end - 1:
        start, end = wrapped.end(), end - 1
    for sign, neutral in (("||", "0"), ("&&", "1")):
        cuts = [at for at in _outside(code, start, end) if code.startswith(sign, at)]
        if cuts:
            for begin, stop in zip([start, *(at + 2 for at in cuts)], [*cuts, end], strict=True):
                begin += len(code[begin:stop]) - len(code[begin:stop].lstrip())
                stop -= len(code[begin:stop]) - len(code[begin:stop].rstrip())
                yield begin, stop, neutral
                inner = code[begin:stop]
                if inner.startswith("(") and _closing(code, begin + 1) == stop - 1:
                    yield from _terms(code, begin + 1, stop - 1)
                elif sign == "||":
                    yield from _terms(code, begin, stop)
            return


def _outside(code: str, start: int, end: int) -> Iterator[int]:
    """Places that are in no brackets."""
    depth = 0
    for at in range(start, end):
        depth += (code[at] == "(") - (code[at] == ")")
        if not depth:
            yield at


def _closing(code: str, start: int) -> int:
    """Where the bracket ends that was opened just before ``start``."""
    depth, at = 1, start
    while True:
        depth += (code[at] == "(") - (code[at] == ")")
        if not depth:
            return at
        at += 1
