"""Markdown, as our man pages use it, into roff's man macros.

Taken: ``#`` to ``###`` headings, paragraphs, fenced code, lists with ``-`` or ``*``, tables, and
in text code, ``**bold**`` and ``*italic*``. A list item that begins with code and a colon, and a
row of a table, is a term with its explanation. Everything else is an error, so that nothing is
rendered wrongly unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_TERM = re.compile(r"^(`[^`]+`(?:, `[^`]+`)*):\s+(.*)$", re.DOTALL)
_INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|(?<![\w*])\*([^*\s][^*]*)\*|\[([^\]]+)\]\([^)]+\)")
_CELL = re.compile(r"(?<!\\)\|")
_UNSUPPORTED = re.compile(r"^(>|\d+\. |<|!\[|####|\+ )")


def man_page(markdown: str, *, name: str, section: int, version: str) -> str:
    """The roff source of ``name(section)``; the document's own ``#`` title is left out."""
    head = [
        '.\\" Generated from Markdown by tools/gen_man.py: change that.',
        f'.TH "{name.upper()}" "{section}" "" "vfd {version}" "vfd"',
        ".nh",
        ".ad l",
    ]
    return "\n".join([*head, *_blocks(markdown)]) + "\n"


def _blocks(markdown: str) -> Iterator[str]:
    for block in _split(markdown):
        first = block[0]
        if first.startswith("```"):
            yield from (".PP", ".RS 4", ".EX", *map(_literal, block[1:-1]), ".EE", ".RE")
        elif first.startswith("# "):
            continue
        elif first.startswith("## "):
            yield f'.SH "{_plain(first[3:].upper())}"'
        elif first.startswith("### "):
            yield f'.SS "{_plain(first[4:])}"'
        elif first.startswith(("- ", "* ")):
            yield from _list(block)
        elif first.startswith("|"):
            yield from _table(block)
        elif first.startswith("<!--") and block[-1].endswith("-->"):
            continue
        elif found := _UNSUPPORTED.match(first):
            raise ValueError(f"man pages have no {found[0]!r}: {first!r}")
        else:
            yield ".PP"
            yield _text(" ".join(line.strip() for line in block))


def _split(markdown: str) -> Iterator[list[str]]:
    """Blocks: separated by empty lines, but fenced code whole and headings alone."""
    block: list[str] = []
    fenced = False
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("```"):
            if not fenced and block:
                yield block
                block = []
            block.append(line)
            if fenced:
                yield block
                block = []
            fenced = not fenced
        elif fenced:
            block.append(line)
        elif not line.strip():
            if block:
                yield block
            block = []
        elif line.startswith("#"):
            yield [line]
        else:
            block.append(line)


def _list(block: list[str]) -> Iterator[str]:
    items: list[str] = []
    for line in block:
        if line.startswith(("- ", "* ")):
            items.append(line[2:].strip())
        elif line.startswith("  "):
            items[-1] += " " + line.strip()
        else:
            raise ValueError(f"a list item goes on with two spaces: {line!r}")
    for item in items:
        if term := _TERM.match(item):
            yield from (".TP", _text(term[1]), _text(term[2]))
        else:
            yield from (".IP \\(bu 2", _text(item))


def _table(block: list[str]) -> Iterator[str]:
    """Each row as a term; of ``field | type | default | meaning`` the middle in brackets."""
    header, _rule, *rows = ([cell.strip() for cell in _CELL.split(row)[1:-1]] for row in block)
    for row in rows:
        cells = [cell.replace("\\|", "|") for cell in row]
        if header[:3] == ["field", "type", "default"]:
            default = cells[2] if cells[2].startswith("required") else f"default {cells[2]}"
            cells = [cells[0], f"({cells[1]}; {default}) {cells[3]}"]
        yield from (".TP", _text(": ".join(cells[:-1])), _text(cells[-1]))


def _text(markdown: str) -> str:
    """One paragraph's text with its fonts."""
    out, end = [], 0
    for found in _INLINE.finditer(markdown):
        out.append(escape(markdown[end : found.start()]))
        code, bold, italic, link = found.groups()
        if code or bold:
            out.append(rf"\fB{escape(code or bold)}\fR")
        else:
            out.append(rf"\fI{escape(italic)}\fR" if italic else escape(link))
        end = found.end()
    out.append(escape(markdown[end:]))
    return _guard("".join(out))


def _plain(markdown: str) -> str:
    return escape(markdown.replace("`", "").replace("**", ""))


def _literal(line: str) -> str:
    return _guard(escape(line))


def _guard(line: str) -> str:
    """A leading dot or quote would be a macro."""
    return r"\&" + line if line.startswith((".", "'")) else line


def escape(text: str) -> str:
    """Text for roff: hyphens that can be copied, quotes that end no argument, ASCII throughout."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
    text = text.replace("'", r"\(aq").replace("^", r"\(ha").replace("~", r"\(ti")
    text = text.replace("`", r"\(ga")
    return "".join(c if ord(c) < 128 else f"\\[u{ord(c):04X}]" for c in text)
