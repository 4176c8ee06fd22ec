"""Which configuration a command means by NAME: one that the daemon has, or a file that we read.

A path is what begins with ``/``, ``./``, ``../`` or ``~/``, and is taken for nothing else. What
contains a ``/`` or ends in ``.json`` is a path if such a file exists, seen from here. ``-`` is
standard input. All else is a name in the daemon's ``config_dir``, with or without ``.json``.
"""

from __future__ import annotations

import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from vfd.api.client import Client
from vfd.cli.command import MOST, NOT_FOUND, REFUSED, IplexError, not_found

STDIN = "-"
_EXPLICIT = ("/", "./", "../", "~/")
_REFUSED = ".error"
"""What the daemon puts behind the name of a file that it refuses to add."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a command line means: the VF's name, and what the daemon is sent for it."""

    name: str
    body: dict[str, Any]


def as_path(text: str) -> Path | None:
    """The file, pipe or device that ``text`` is a path of; None: it is a name."""
    explicit = text.startswith(_EXPLICIT)
    try:
        path = Path(text).expanduser()
        if explicit or "/" in text or text.endswith(".json"):
            found = _readable(path)
            if found is None and explicit and path.name:  # which / has not
                found = _readable(path.with_name(f"{path.name}.json"))  # as VFd's iplex took it
            if found is None and explicit and path.name:
                found = _readable(path.with_name(f"{stem(path.name)}.json{_REFUSED}"))
            if found is not None:
                return found
    except (OSError, ValueError, RuntimeError) as error:  # too long; no home of ~user
        why = getattr(error, "strerror", None) or str(error)
        raise IplexError(f"{text} can't be read: {why}", NOT_FOUND) from None
    if explicit:
        what = "is a folder" if path.is_dir() else "does not exist"
        raise IplexError(f"{text} {what}", NOT_FOUND)
    return None


def _readable(path: Path) -> Path | None:
    """The path, where something is there that isn't a folder. What can't even be looked at is told
    when it is read."""
    try:
        return None if stat.S_ISDIR(path.stat().st_mode) else path
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        return path


def stem(name: str) -> str:
    """A file's name without ``.json``, or without that and what vfd put behind it when it refused
    the file."""
    if name.endswith(f".json{_REFUSED}"):
        name = name.removesuffix(_REFUSED)
    return name.removesuffix(".json")


def request(client: Client, text: str, named: str | None = None, *, new: bool = False) -> Source:
    """What the user called ``text``. ``named``: what to call a VF whose configuration has no name
    of its own. ``new``: it is to be added, so no VF in force is meant."""
    path = None if text == STDIN else as_path(text)
    if path is None and text != STDIN:
        if named is not None:
            raise click.UsageError(f"--name is for a PATH or {STDIN}: {text} is a name already")
        return _in_force(client, text) or _of_daemon(text) if not new else _of_daemon(text)
    if path is not None and (inside := _in_config_dir(client, path)):
        inside = inside.removesuffix(_REFUSED)
        if not inside.endswith(".json"):
            told = f"{text}: a file in config_dir is in force only under a name that ends in .json"
            raise IplexError(told, NOT_FOUND, hint="Rename it first.")
        if named is not None:
            raise click.UsageError(f"--name: {text} is in config_dir, and called as it is there")
        return Source(stem(inside), {"file": inside})
    config = read_config(path)
    stated = config.get("name")
    stated = stated if isinstance(stated, str) and stated else None
    if named is not None and stated is not None and named != stated:
        raise click.UsageError(f"--name {named}: the configuration calls the VF {stated} itself")
    name = stated or named or (stem(path.name) if path and path.is_file() else None)
    if name is None:
        raise click.UsageError(
            f"{text} has no name to call the VF by: give its configuration a `name`, or --name NAME"
        )
    return Source(name, {"name": named or name, "config": config})


def _of_daemon(text: str) -> Source:
    if not text.isascii() and text != text.encode(errors="replace").decode():
        raise IplexError(f"{text} is no name of a file in config_dir: it is no text", NOT_FOUND)
    return Source(stem(text), {"file": text})


def _in_force(client: Client, text: str) -> Source | None:
    """The VF in force of that name and its file, which may be called otherwise: the file of a VF
    ``a.json`` is ``a.json.json``."""
    try:
        vf = client.get(f"/v1/vfs/{text}")
    except Exception as error:
        if not not_found(error):
            raise
        return None
    return Source(vf["name"], {"file": vf["file"]})


def _in_config_dir(client: Client, path: Path) -> str | None:
    """The daemon's own name of the file, where it is one of those in ``config_dir``.

    Sent as content it would be written there a second time, under another name.
    """
    config_dir = client.get("/v1/version").get("config_dir")
    if not config_dir:
        return None
    try:
        return str(path.resolve().relative_to(Path(config_dir).resolve()))
    except (ValueError, OSError, RuntimeError):
        return None


def read_config(path: Path | None) -> dict[str, Any]:
    """The JSON object of a file, a pipe or (None) standard input. What it says is the daemon's to
    judge; how it is written is judged here, by the rules that the daemon has for its own files."""
    # Costs as much as the rest of iplex: only for those who hand over a file.
    from vfd.config.errors import ConfigError
    from vfd.config.json_text import parse_object

    file = "standard input" if path is None else str(path)
    try:
        with open(0 if path is None else path, "rb", closefd=path is not None) as opened:
            text = opened.read(MOST + 1)
    except OSError as error:
        why = error.strerror or os.strerror(error.errno or 0)
        raise IplexError(f"{file} can't be read: {why}", NOT_FOUND) from None
    if len(text) > MOST:
        raise IplexError(f"{file} is no configuration: it is above 1 MiB", REFUSED)
    try:
        found, _ = parse_object(text, file=file)
    except ConfigError as error:
        problems = [asdict(problem) for problem in error.problems]
        raise IplexError(f"{file} is not a configuration", REFUSED, problems) from None
    return found
