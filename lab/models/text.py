"""How the kernel reads and writes the texts of the models' files."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable

from lab.models.files import refuse

VLANS = 4096
_MAC = re.compile(r"[0-9a-fA-F]{1,2}(?::[0-9a-fA-F]{1,2}){5}")


def parse_number(text: str, base: int = 10) -> int:
    """kstrtoint: the whole text is one number."""
    try:
        return int(text.strip() if base == 16 else text, base)
    except ValueError:
        raise refuse(errno.EINVAL) from None


def parse_flag(text: str) -> bool:
    """``on`` or ``off``, in lower case."""
    if text not in ("on", "off"):
        raise refuse(errno.EINVAL)
    return text == "on"


def show_flag(value: bool) -> str:
    return "on\n" if value else "off\n"


def parse_edit(text: str) -> tuple[bool, str]:
    """``add …`` (True) or ``rem …`` (False), and the rest."""
    for word, adding in (("add", True), ("rem", False)):
        if text.startswith(word + " "):
            return adding, text[len(word) + 1 :]
    raise refuse(errno.EINVAL)


def parse_list(text: str) -> set[int]:
    """The kernel's bitmap lists: ``2,4,10-20``, below 4096."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        low = parse_number(first)
        high = parse_number(last) if last else low
        if low > high or low < 0:
            raise refuse(errno.EINVAL)
        if high >= VLANS:
            raise refuse(errno.ERANGE)
        found |= set(range(low, high + 1))
    return found


def show_list(numbers: Iterable[int]) -> str:
    """The kernel's bitmap lists; an empty list is an empty text."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in runs]
    return ",".join(texts) + "\n" if texts else ""


def parse_macs(text: str) -> list[str]:
    """The MACs of a list, with commas or blanks between; what is no MAC ends the list."""
    macs = []
    for word in re.split(r"[ ,]+", text.strip().strip('"')):
        if not _MAC.fullmatch(word):
            break
        macs.append(parse_mac(word))
    return macs


def parse_mac(text: str) -> str:
    if not _MAC.fullmatch(text):
        raise refuse(errno.EINVAL)
    return ":".join(f"{int(byte, 16):02x}" for byte in text.split(":"))
