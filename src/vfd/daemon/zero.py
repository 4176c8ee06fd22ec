"""Where counters start for those who look: ``iplex clear`` sets a new zero.

The NIC's counters stay monotonic; only what is shown starts anew. The zeros are kept beside the
socket, under /run: they outlive the daemon and end with the host, as the NIC's counters do.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from vfd.daemon.whole import write_whole
from vfd.nic.protocol import Counters

log = logging.getLogger("vfd.zero")


class Zero:
    """Offsets by PF and port. A file that can't be read or written costs the zeros, no more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._zeros: dict[str, dict[int, dict[str, int]]] = {}
        try:
            raw = json.loads(path.read_bytes())
            self._zeros = {
                pf: {
                    int(port): {k: int(v) for k, v in values.items()} for port, values in p.items()
                }
                for pf, p in raw.items()
            }
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError) as error:
            log.warning("%s can't be read, counters show their full values: %s", path, error)

    def set(self, pf: str, counters: Counters) -> str:
        """From now on, these ports' counters show what comes on top of these values. Returns a
        warning where that ends with the daemon."""
        zeros = self._zeros.setdefault(pf, {})
        zeros.update({port: dict(values) for port, values in counters.items()})
        return self._keep()

    def _keep(self) -> str:
        try:
            write_whole(self._path, json.dumps(self._zeros))
        except OSError as error:
            warning = f"{self._path} can't be written, a restart will lose the zeros: {error}"
            log.warning("%s", warning)
            return warning
        return ""

    def shown(self, pf: str, port: int, values: Mapping[str, int]) -> dict[str, int]:
        """The counters of a port as they are shown."""
        zero = self._zeros.get(pf, {}).get(port, {})
        if any(value < zero.get(name, 0) for name, value in values.items()):
            # The port was made anew, by its host or its driver: all its counters began at 0 then.
            del self._zeros[pf][port]
            self._keep()
            zero = {}
        return {name: value - zero.get(name, 0) for name, value in values.items()}
