"""Which configuration a command means by NAME: one that the daemon has, or a file that we read.

A path is what begins with ``/``, ``./``, ``../`` or ``~/``, and is taken for nothing else. What
contains a ``/`` or ends in ``.json`` is a path if such a file exists, seen from here. All else
is a name in the daemon's ``config_dir``, with or without ``.json``.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from vfd.api.client import Client
from vfd.cli.command import NOT_FOUND, REFUSED, IplexError

_EXPLICIT = ("/", "./", "../", "~/")


def as_path(text: str) -> Path | None:
    """The file that ``text`` is a path of; None: it is a name."""
    path = Path(text).expanduser()
    if text.startswith(_EXPLICIT):
        if path.is_file():
            return path
        what = "is no file" if path.exists() else "does not exist"
        raise IplexError(f"{text} {what}", NOT_FOUND)
    if ("/" in text or text.endswith(".json")) and path.is_file():
        return path
    return None


def stem(name: str) -> str:
    return name.removesuffix(".json")


def request(client: Client, text: str) -> tuple[str, dict[str, Any]]:
    """The VF's name and the request's body for what the user called ``text``."""
    path = as_path(text)
    if path is None:
        return stem(text), {"file": text}
    if inside := _in_config_dir(client, path):
        if not inside.endswith(".json"):
            told = f"{text}: a file in config_dir is in force only under a name that ends in .json"
            raise IplexError(told, NOT_FOUND, hint="Rename it first.")
        return stem(inside), {"file": inside}
    config = read_config(path)
    stated = config.get("name")
    name = stated if isinstance(stated, str) and stated else stem(path.name)
    return name, {"name": stem(path.name), "config": config}


def _in_config_dir(client: Client, path: Path) -> str | None:
    """The daemon's own name of the file, where it is one of those in ``config_dir``.

    Sent as content it would be written there a second time, under another name.
    """
    config_dir = client.get("/v1/version").get("config_dir")
    if not config_dir:
        return None
    try:
        return str(path.resolve().relative_to(Path(config_dir).resolve()))
    except ValueError:
        return None


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object of a file. What it says is the daemon's to judge; how it is written is
    judged here, by the rules that the daemon has for its own files."""
    # Costs as much as the rest of iplex: only for those who hand over a file.
    from vfd.config.errors import ConfigError
    from vfd.config.json_text import parse_object

    try:
        found, _ = parse_object(path.read_bytes(), file=str(path))
    except OSError as error:
        raise IplexError(f"{path} can't be read: {error.strerror}", NOT_FOUND) from None
    except ConfigError as error:
        problems = [asdict(problem) for problem in error.problems]
        raise IplexError(f"{path} is not a configuration", REFUSED, problems) from None
    return found
