"""The log: JSON lines in ``log_dir``, a file a day for ``log_keep`` days, and text on stderr.

Under systemd stderr is the journal, which gets each line's priority in front (sd-daemon(3)).
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import re
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from vfd.config.main_file import STDERR
from vfd.daemon.folders import make_folder
from vfd.policy.shown import HALVES, STEERING

FILE = "vfd.log"
_PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


_UNPRINTABLE = re.compile(f"[{STEERING}{HALVES}]")


def one_line(text: str) -> str:
    """What a client or a guest chose can neither begin a line of its own nor steer a terminal."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "source": record.name,
            "text": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return one_line(json.dumps(entry, ensure_ascii=False, default=str))


class _Text(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        text = record.getMessage()
        if rest := " ".join(f"{k}={v}" for k, v in fields.items()):
            text = f"{text} ({rest})"
        text = one_line(text)
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            text = "\n    ".join([text, *map(one_line, trace)])
        if self._journal:
            return f"<{_PRIORITY.get(record.levelname, 6)}>{text}"
        return f"{time.strftime('%H:%M:%S')} {record.levelname.lower():7} {text}"


class _Daily(logging.handlers.TimedRotatingFileHandler):
    """A file a day, of which those of the last ``keep_days`` days stay beside today's.

    A full disk or a folder that is gone costs log lines, never the daemon.
    """

    def __init__(self, path: Path, keep_days: int) -> None:
        # backupCount only says that files are deleted at all: getFilesToDelete says which.
        super().__init__(path, when="midnight", backupCount=1, utc=True, encoding="utf-8")
        self._keep_days = keep_days

    def getFilesToDelete(self) -> list[str]:  # noqa: N802
        """By date and not by number: a day without a log line has no file."""
        oldest = datetime.now(UTC).date() - timedelta(days=self._keep_days)
        path = Path(self.baseFilename)
        return [str(old) for old in path.parent.glob(f"{path.name}.*") if _day(old) < oldest]

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        del record


def _day(path: Path) -> date:
    """The day of a rotated file; of any other file a day that is always kept."""
    try:
        return date.fromisoformat(path.name.removeprefix(f"{FILE}."))
    except ValueError:
        return date.max


def level_of(log_level: int) -> int:
    """``log_level`` of ``vfd.cfg``: 0 errors and warnings, 1 what happens, 2 and more details."""
    return (logging.WARNING, logging.INFO)[log_level] if log_level < 2 else logging.DEBUG


def set_level(level: int | str) -> None:
    logging.getLogger("vfd").setLevel(level.upper() if isinstance(level, str) else level)


def set_up(log_dir: str, keep_days: int, log_level: int) -> None:
    """Sends the log to stderr and to ``log_dir``, and no longer to where it went before. A folder
    that can't be written is warned of."""
    logging.raiseExceptions = False
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.WARNING)
    set_level(level_of(log_level))
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter(_Text(journal="JOURNAL_STREAM" in os.environ))
    root.addHandler(stderr)
    if log_dir == STDERR:
        return
    try:
        make_folder(Path(log_dir), 0o750)
        daily = _Daily(Path(log_dir, FILE), keep_days)
    except OSError as error:
        logging.getLogger("vfd.log").warning("no log in %s: %s", log_dir, error)
        return
    daily.setFormatter(_JsonLines())
    root.addHandler(daily)
