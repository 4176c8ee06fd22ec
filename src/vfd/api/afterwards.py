"""What became of a change whose answer never came, because the daemon ended amid it.

The daemon keeps nothing of requests, only files and NICs, and a change is made once its file is in
its place. So the daemon that is back is asked whether all is as was asked for: that holds after a
kill at any instant, and after a reboot, and needs no list of requests that could be lost itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from vfd.api.client import ApiError, Client, CutOffError, NoDaemonError, NotDoneError

_EVERY = 0.1
"""Seconds between two looks whether the daemon is back."""
NOTE = "the daemon ended amid the request: asked again when it was back, this is in force"


def what_became(
    path: str, wait: float, cut: CutOffError, request: tuple[str, str, Mapping[str, Any]]
) -> Any:
    """An answer as the change would have had, with ``resumed`` in it, where it was done.

    ``path`` is the socket's, and ``request`` the method, path and body. Raises NotDoneError where
    it wasn't, and ``cut`` where nobody can say: within ``wait`` seconds no daemon is back.
    """
    until = time.monotonic() + wait
    method, target, body = request
    while True:
        client = Client(path, max(until - time.monotonic(), 1.0))
        try:
            if client.get("/v1/ready")["ready"]:
                done = _asked_for(client, method, target.strip("/").split("/"), body)
                break
        except (NoDaemonError, ApiError):
            pass
        if time.monotonic() > until:
            raise cut
        time.sleep(_EVERY)
    if done is None:
        raise NotDoneError(path)
    return {**done, "resumed": True}


def _asked_for(
    client: Client, method: str, parts: list[str], body: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """What is in force, if it is what was asked for."""
    match method, parts:
        case "POST" | "PUT", ["v1", "vfs", *asked]:
            planned = client.post("/v1/plan", body)
            if planned["action"] != "none" or planned["problems"]:
                return None
            return _vf(client, "/".join(asked) or _name(body))
        case "DELETE", ["v1", "vfs", *names]:
            name = "/".join(names)
            there = client.get("/v1/vfs")
            known = {n for vf in there["vfs"] for n in (vf["name"], vf["file"])}
            known |= {bad["file"] for bad in there["bad_files"]}
            gone = not known & {name, f"{name}.json"}
            return {"detail": f"{name} is deleted: {NOTE}"} if gone else None
        case "PUT", ["v1", "pfs", pf, "vfs", vfid, "mirror"]:
            return _mirrored(client, pf, int(vfid), body)
        case "PATCH", ["v1", "pfs", pf]:
            has = client.get(f"/v1/pfs/{pf}")["vfs"]
            done = {"pf": pf, "changes": [], "warnings": [NOTE]}
            return done if has == body["vfs"] else None
        case "DELETE", ["v1", "pfs", pf]:
            gone = all(one["id"] != pf for one in client.get("/v1/pfs")["pfs"])
            return {"detail": f"{pf} is removed: {NOTE}"} if gone else None
    return None  # a reload, counters' zeros, the log's level: to be asked for again


def _name(body: Mapping[str, Any]) -> str:
    stated = (body.get("config") or {}).get("name")
    return str(stated or body.get("name") or body.get("file") or "")


def _vf(client: Client, name: str) -> Mapping[str, Any] | None:
    """A bad file is in no force, though nothing differs."""
    vf = _or_none(lambda: client.get(f"/v1/vfs/{name}"))
    if vf is None:
        return None
    same = {key: vf[key] for key in ("name", "pf", "vfid")}
    return {**same, "changes": [], "warnings": [*vf["warnings"], NOTE]}


def _mirrored(
    client: Client, pf: str, vfid: int, body: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    rows = [r for r in client.get("/v1/mirrors")["mirrors"] if (r["pf"], r["vfid"]) == (pf, vfid)]
    target, direction = body["target"], body["direction"]
    there = [r["direction"] for r in rows if target in (None, r["target"])]
    if there != ([] if direction == "off" else [direction]):
        return None
    return {"pf": pf, "vfid": vfid, "changes": [{}], "warnings": [NOTE]}


def _or_none(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except ApiError as error:
        if error.status == 404:
            return None
        raise
