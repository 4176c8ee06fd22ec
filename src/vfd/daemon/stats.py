"""Counters in a file, for programs that read files: what ``stats_path`` of ``vfd.cfg`` asks for."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from vfd.daemon.folders import make_folder
from vfd.daemon.service import Service
from vfd.daemon.whole import write_whole
from vfd.nic.protocol import PF_PORT, NicError

log = logging.getLogger("vfd.stats")


def write(service: Service, path: Path) -> None:
    """Replaces the file by what the NICs count now; a reader sees the old one or the new one.

    The counters are the monotonic ones: ``iplex clear`` doesn't touch them. A file that can't be
    written costs no more than itself.
    """
    ports = [port for managed in service.nics.values() for port in _ports(service, managed.id)]
    text = json.dumps({"time": round(time.time(), 3), "ports": ports}, indent=1) + "\n"
    try:
        make_folder(path.parent)
        write_whole(path, text, 0o644)
    except OSError as error:
        log.warning("%s (stats_path) can't be written: %s", path, error)


def _ports(service: Service, pf_id: str) -> list[dict[str, Any]]:
    managed = service.nics[pf_id]
    try:
        counters = managed.working().counters()
    except NicError as error:
        log.debug("no counters of %s: %s", pf_id, error)
        return []
    return [
        {
            "pf": pf_id,
            "vfid": None if port == PF_PORT else port,
            "name": service.name_of(managed, port),
            "counters": dict(values),
        }
        for port, values in sorted(counters.items())
    ]
