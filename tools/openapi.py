"""Writes src/vfd/api/openapi.json from the API's own routes and messages."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from vfd.api.app import make_app
from vfd.api.turns import Turns
from vfd.config.main_file import MainConfig, ParsedMain
from vfd.daemon.files import Files
from vfd.daemon.journal import Journal
from vfd.daemon.runner import Daemon
from vfd.daemon.service import Service
from vfd.daemon.sockets import Groups
from vfd.daemon.zero import Zero

PLACE = Path(__file__).parents[1] / "src/vfd/api/openapi.json"


async def _description() -> str:
    main, journal = MainConfig(), Journal()
    service = Service(Files(Path("vfd.cfg"), main), main, journal, Zero(Path("zero")), "")
    daemon = Daemon(service, journal, lambda: ParsedMain(main, ()), lambda _: None)
    app = make_app(daemon, Groups(), Turns())
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


def description() -> str:
    """The API's OpenAPI document, as text."""
    return asyncio.run(_description())


if __name__ == "__main__":
    PLACE.write_text(description())
