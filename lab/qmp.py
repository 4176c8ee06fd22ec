"""Hardware faults, from inside the guest: a client of QEMU's monitor.

The guest's port `lab.qmp` is the other end of QEMU's own QMP monitor, so a test in the guest can
pull a cable or a card and see what the drivers and vfd make of it:

    with Qmp() as qmp:
        qmp.set_link("igb0", up=False)     # the cable of PF 0
        qmp.unplug("igb0")                 # the card itself, VFs and all
        qmp.plug(igb_device(0))

The monitor is one session for the guest's whole life, so a client may find events and replies of
an earlier one in it; replies are told apart by their id.  QMP: QEMU docs/interop/qmp-spec.
"""

import json
import os
import select
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lab.errors import LabError

PORT = Path("/dev/virtio-ports/lab.qmp")


class QmpError(LabError):
    """QEMU refused a command."""


class Qmp:
    """A session with QEMU's monitor.  Only one at a time: the port can be opened once."""

    def __init__(self, port: Path = PORT, timeout: float = 60) -> None:
        """`timeout` in seconds holds for each reply and each event waited for."""
        self.timeout = timeout
        self.events: list[dict[str, Any]] = []
        try:
            self._fd = os.open(port, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise LabError(f"no {port}: only a machine started by lab/vm has it") from error
        self._buffer = b""
        # the first client has to leave the greeting's negotiation mode; later ones are told that
        # the command is unknown by now
        try:
            self.execute("qmp_capabilities")
        except QmpError as error:
            if "qmp_capabilities" not in str(error):
                raise

    def __enter__(self) -> "Qmp":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the port back."""
        os.close(self._fd)

    def execute(self, command: str, **arguments: object) -> Any:
        """Run a command and return what it returns.  Errors: QmpError, LabError after `timeout`."""
        token = uuid.uuid4().hex
        request = {
            "execute": command,
            "arguments": {name.replace("_", "-"): value for name, value in arguments.items()},
            "id": token,
        }
        self._write(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + self.timeout
        while True:
            message = self._read(deadline, f"the reply to {command}")
            if "event" in message:
                self.events.append(message)
            elif message.get("id") == token:
                if "error" in message:
                    raise QmpError(f"QEMU refused {command}: {message['error']['desc']}")
                return message["return"]

    def wait_event(self, name: str, **data: object) -> dict[str, Any]:
        """The next event of this name whose data holds these values; it is forgotten then."""
        deadline = time.monotonic() + self.timeout
        while True:
            for event in self.events:
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    self.events.remove(event)
                    return event
            message = self._read(deadline, f"the event {name}")
            if "event" in message:
                self.events.append(message)

    def set_link(self, device: str, *, up: bool) -> None:
        """Cut or mend the cable of `igb<k>` or `wire<k>`, as seen by that end."""
        self.execute("set_link", name=device, up=up)

    def unplug(self, device: str) -> None:
        """Remove a card and wait until the guest has let it go."""
        self.execute("device_del", id=device)
        self.wait_event("DEVICE_DELETED", device=device)

    def plug(self, device: Mapping[str, str]) -> None:
        """Add a card, such as `lab.machine.igb_device(0)`."""
        self.execute("device_add", **device)

    def _write(self, data: bytes) -> None:
        while data:
            select.select([], [self._fd], [], self.timeout)
            data = data[os.write(self._fd, data) :]

    def _read(self, deadline: float, what: str) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._fd], [], [], left)[0]:
                raise LabError(f"QEMU did not send {what} within {self.timeout:.0f} s")
            self._buffer += os.read(self._fd, 65536)
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message
