"""The API: HTTP and JSON, each request handed to the daemon's writing thread."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as PathParam
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import vfd
from vfd.api import errors, schema, views
from vfd.api.encoding import encoded
from vfd.api.gate import Gate
from vfd.api.lines import Lines
from vfd.api.peers import Peer, who_may
from vfd.api.roles import may_wait, role_of
from vfd.api.turns import Turns
from vfd.config.main_file import alarm
from vfd.daemon import pfs as pf_requests
from vfd.daemon.failures import RefusedError
from vfd.daemon.journal import Happening, Journal, Listener
from vfd.daemon.logs import set_level
from vfd.daemon.request import Source
from vfd.daemon.runner import Daemon
from vfd.daemon.sockets import Groups

log = logging.getLogger("vfd.api")

PfId = Annotated[schema.Name, PathParam(description="The PF, as the main configuration names it.")]
VfName = Annotated[
    schema.Name, PathParam(description="The VF's name, or its file's; may contain slashes.")
]
DESCRIPTION = """What each virtual function of this host's NICs may send, receive and ask for.

Served on Unix sockets to root and two groups: members of `vfd` may change and ask, those of
`vfd-read` only ask. `x-vfd-role` says of each operation what it takes, `change` or `read`. Every
error is an `Error` object (application/problem+json) that names each broken rule. A change is done
when the NIC shows it.
"""


class _StrictJson(Request):
    """JSON as RFC 8259 has it: no NaN, no Infinity, no half surrogates."""

    async def json(self) -> Any:
        try:
            value = json.loads(await self.body(), parse_constant=_no_constant, parse_float=_number)
            json.dumps(value, ensure_ascii=False).encode()
        except (UnicodeError, RecursionError) as error:
            raise HTTPException(400, f"the body is no JSON text: {error}") from None
        return value


def _no_constant(name: str) -> Any:
    raise json.JSONDecodeError(f"{name} is no JSON number", name, 0)


def _number(text: str) -> float | int:
    """JSON Schema knows one kind of number: 4.0 is the integer 4."""
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise json.JSONDecodeError(f"{text} is too large", text, 0)
    return int(value) if value.is_integer() else value


class _Route(APIRoute):
    """Who may not is refused, before what is sent is looked at. A mistyped parameter must not pass
    for one that is not given. Requests of users other than root are answered in turn."""

    def __init__(self, *args: Any, **more: Any) -> None:
        role = role_of(more["operation_id"])
        super().__init__(*args, **{**more, "openapi_extra": {"x-vfd-role": role.name.lower()}})

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        role, waits = role_of(self.operation_id or ""), may_wait(self.operation_id or "")
        known = {parameter.alias for parameter in self.dependant.query_params}

        async def strict(request: Request) -> Response:
            if request.state.role < role:
                raise HTTPException(403, f"uid {_peer(request).uid} may ask only: {who_may(role)}")
            given = request.query_params
            if unknown := given.keys() - known:
                raise RequestValidationError(
                    [
                        {
                            "type": "extra_forbidden",
                            "loc": ("query", name),
                            "msg": "",
                            "input": given[name],
                        }
                        for name in sorted(unknown)
                    ]
                )
            asked = _StrictJson(request.scope, request.receive)
            if (peer := _peer(request)).trusted:
                return await handle(asked)
            try:
                await asked.body()  # who takes his time to send it takes nobody else's
            except ClientDisconnect:
                return Response(status_code=400)  # which nobody reads
            async with request.app.state.turns.at_work(peer.uid, may_wait=waits):
                return await handle(asked)

        return strict


def _json(message: BaseModel, status: int = 200) -> Response:
    """Messages are made by this program: they are written as they are, not checked again."""
    return Response(encoded(message), status, media_type="application/json")


def _source(body: schema.VfBody) -> Source:
    if (body.file is None) == (body.config is None):
        raise HTTPException(400, "send one of the two: file, or config")
    return Source(body.file, body.name, body.config, body.move)


def make_app(daemon: Daemon, groups: Groups, turns: Turns) -> FastAPI:
    """The application. ``groups``: whose members may use it beside root."""
    app = FastAPI(
        title="vfd",
        version=vfd.__version__,
        summary="A NIC hypervisor",
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        redirect_slashes=False,
        responses=errors.always(),
        separate_input_output_schemas=False,
    )
    app.router.route_class = _Route
    app.state.turns = turns
    errors.install(app)
    errors.describe(app)
    _daemon_routes(app, daemon)
    _pf_routes(app, daemon)
    _vf_routes(app, daemon)
    _table_routes(app, daemon)
    _event_routes(app, daemon, turns)
    app.add_middleware(Gate, groups=groups)
    return app


def _daemon_routes(app: FastAPI, daemon: Daemon) -> None:
    service = daemon.service

    @app.get("/v1/health", response_model=schema.Health, operation_id="health")
    async def health() -> Response:
        """How the daemon, its PFs and its files are. Answers while NICs are busy."""
        return _json(views.health(service, await daemon.edited()))

    @app.get(
        "/v1/ready",
        response_model=schema.Ready,
        responses={503: {"model": schema.Ready, "description": "Not yet, or not any more."}},
        operation_id="ready",
    )
    async def ready() -> Response:
        """Whether the NICs have been brought to what the files say."""
        return _json(schema.Ready(ready=daemon.ready), 200 if daemon.ready else 503)

    @app.get("/v1/version", response_model=schema.Version, operation_id="version")
    async def version() -> Response:
        """Which program answers: ``iplex ping``."""
        folder = str(service.files.folder)
        return _json(schema.Version(version=vfd.__version__, config_dir=folder))

    @app.get("/v1/dump", response_model=schema.Dump, operation_id="dump")
    async def dump() -> Response:
        """Everything that the daemon knows, for a bug report."""
        return _json(await daemon.call(views.dump, service, daemon.journal.since(0)))

    @app.post(
        "/v1/reload",
        response_model=schema.Reloaded,
        responses=errors.some(422),
        operation_id="reload",
    )
    async def reload(body: schema.Reload) -> Response:
        """Reads vfd.cfg and every VF's file again, as SIGHUP does, and makes the NICs follow."""
        if problems := await daemon.reload(confirm_gone=body.confirm_gone):
            raise RefusedError(problems)
        return _json(await daemon.call(views.reloaded, service))

    @app.put("/v1/verbose", response_model=schema.Done, operation_id="verbose")
    async def verbose(body: schema.Verbose) -> Response:
        """How much is logged, until the daemon starts anew."""
        set_level(body.level)
        return _json(schema.Done(detail=f"log level is {body.level}"))

    @app.put("/v1/cpu_alarm", response_model=schema.Done, operation_id="cpu_alarm")
    async def cpu_alarm(body: schema.CpuAlarm) -> Response:
        """The daemon's own CPU use above which it warns, until it starts anew."""
        daemon.cpu_alarm = alarm(body.percent / 100)
        told = f"warns above {daemon.cpu_alarm:.0%} of a CPU" if body.percent else "never warns"
        return _json(schema.Done(detail=told))


def _pf_routes(app: FastAPI, daemon: Daemon) -> None:
    service = daemon.service

    @app.get("/v1/pfs", response_model=schema.PfList, operation_id="pfs")
    async def pfs() -> Response:
        """Every PF of the main configuration."""

        def every() -> schema.PfList:
            return schema.PfList(pfs=[views.pf(service, m) for m in service.nics.values()])

        return _json(await daemon.call(every))

    @app.get(
        "/v1/pfs/{pf}",
        response_model=schema.PfAnswer,
        responses=errors.some(404),
        operation_id="pf",
    )
    async def pf(pf: PfId) -> Response:
        """One PF."""
        return _json(await daemon.call(lambda: views.pf(service, service.nic(pf))))

    @app.patch(
        "/v1/pfs/{pf}",
        response_model=schema.PfApplied,
        responses=errors.some(404, 409, 422, 503),
        operation_id="set_pf",
    )
    async def set_pf(pf: PfId, body: schema.PfPatch) -> Response:
        """How many VFs there are. Refused while guests hold VFs that would go, unless forced."""
        made = await daemon.set_vfs(pf, body.vfs, body.force)

        def told() -> schema.PfApplied:
            managed = service.nic(pf)
            warnings = views.pf(service, managed).warnings
            return schema.PfApplied(
                pf=managed.id, changes=views.changes(managed.id, made), warnings=warnings
            )

        return _json(await daemon.call(told))

    @app.delete(
        "/v1/pfs/{pf}",
        response_model=schema.Done,
        responses=errors.some(404, 422, 503),
        operation_id="remove_pf",
    )
    async def remove_pf(
        pf: PfId,
        force: Annotated[
            bool, Query(description="Although guests hold its VFs or files configure them.")
        ] = False,
    ) -> Response:
        """Takes a software NIC away, from the host and from the main configuration."""
        removed = await daemon.remove(pf, force)
        return _json(schema.Done(detail=f"{removed} is removed, and no longer in vfd.cfg"))

    @app.get(
        "/v1/pfs/{pf}/caps",
        response_model=schema.CapsAnswer,
        responses=errors.some(404, 503),
        operation_id="caps",
    )
    async def caps(pf: PfId) -> Response:
        """What this NIC can enforce, with what, and what not and why."""
        return _json(await daemon.call(lambda: views.caps(service.nic(pf))))


def _vf_routes(app: FastAPI, daemon: Daemon) -> None:
    service = daemon.service

    @app.get("/v1/vfs", response_model=schema.VfList, operation_id="vfs")
    async def vfs() -> Response:
        """Every VF that has a configuration in force, and the files that aren't."""

        edited = await daemon.edited()

        def every() -> schema.VfList:
            found = [
                views.vf(managed, one, edited)
                for managed in service.nics.values()
                for _, one in sorted(managed.vfs.items())
            ]
            return schema.VfList(vfs=found, bad_files=views.bad_files(service))

        return _json(await daemon.call(every))

    @app.get(
        "/v1/vfs/{name:path}",
        response_model=schema.VfAnswer,
        responses=errors.some(404),
        operation_id="vf",
    )
    async def vf(name: VfName) -> Response:
        """The policy in force on a VF, and where it differs from the one asked for."""
        edited = await daemon.edited()
        return _json(await daemon.call(lambda: views.vf(*service.find(name), edited)))

    @app.post(
        "/v1/vfs",
        response_model=schema.Applied,
        status_code=201,
        responses=errors.some(404, 409, 422, 503),
        operation_id="add",
    )
    async def add(request: Request, body: schema.VfBody) -> Response:
        """Puts a VF's configuration in force, and keeps it."""
        peer = _peer(request)
        made = await daemon.call(service.add, _source(body), peer.uid, peer.gid)
        return _json(views.applied(made), 201)

    @app.put(
        "/v1/vfs/{name:path}",
        response_model=schema.Applied,
        responses=errors.some(404, 409, 422, 503),
        operation_id="update",
    )
    async def update(request: Request, name: VfName, body: schema.VfBody) -> Response:
        """Changes what differs, while traffic runs."""
        peer = _peer(request)
        made = await daemon.call(service.update, name, _source(body), peer.uid, peer.gid)
        return _json(views.applied(made))

    @app.delete(
        "/v1/vfs/{name:path}",
        response_model=schema.Done,
        responses=errors.some(404, 409, 503),
        operation_id="delete",
    )
    async def delete(name: VfName) -> Response:
        """Closes the VF; its file goes, or is kept aside with ``delete_keep``."""
        made = await daemon.delete(name)
        told = f"VF {made.vfid} of {made.pf} is closed" if made else "the file is gone"
        if made and made.warnings:
            told = made.warnings[0]
        return _json(schema.Done(detail=f"{name} is deleted: {told}"))

    @app.post(
        "/v1/plan",
        response_model=schema.PlanAnswer,
        responses=errors.some(404, 409, 503),
        operation_id="plan",
    )
    async def plan(request: Request, body: schema.VfBody) -> Response:
        """What adding or updating this configuration would do. Changes nothing."""
        peer = _peer(request)
        source = _source(body)
        return _json(await daemon.call(errors.planned, service, source, peer.uid, peer.gid))


def _table_routes(app: FastAPI, daemon: Daemon) -> None:
    service = daemon.service

    @app.get(
        "/v1/show",
        response_model=schema.Show,
        responses=errors.some(404),
        operation_id="show",
    )
    async def show(
        pf: Annotated[schema.Name | None, Query(description="Only this PF.")] = None,
        vf: Annotated[schema.Vfid | None, Query(description="Only this VF of each PF.")] = None,
        extended: Annotated[bool, Query(description="Policies and identities too.")] = False,
    ) -> Response:
        """The operator's table: a row for each PF and VF."""
        edited = await daemon.edited()
        return _json(await daemon.call(views.show, service, pf, vf, extended, edited))

    @app.get("/v1/mirrors", response_model=schema.MirrorList, operation_id="mirrors")
    async def mirrors() -> Response:
        """The mirrors in force."""

        def every() -> schema.MirrorList:
            rows = [row for managed in service.nics.values() for row in views.mirrors(managed)]
            return schema.MirrorList(mirrors=rows)

        return _json(await daemon.call(every))

    @app.put(
        "/v1/pfs/{pf}/vfs/{vfid}/mirror",
        response_model=schema.Applied,
        responses=errors.some(404, 422, 503),
        operation_id="mirror",
    )
    async def mirror(
        pf: PfId, vfid: Annotated[schema.Vfid, PathParam()], body: schema.MirrorBody
    ) -> Response:
        """Starts, changes or ends a mirror, without touching the VF's other settings."""
        made = await daemon.call(service.mirror, pf, vfid, body.direction, body.target)
        return _json(views.applied(made))

    @app.post(
        "/v1/clear",
        response_model=schema.Done,
        responses=errors.some(404, 503),
        operation_id="clear",
    )
    async def clear(body: schema.ClearBody) -> Response:
        """A new zero for the counters shown."""
        done = await daemon.call(pf_requests.clear, service, body.pf, body.vf)
        return _json(schema.Done(detail=done))


def _event_routes(app: FastAPI, daemon: Daemon, turns: Turns) -> None:
    journal, lines = daemon.journal, Lines()

    @app.get(
        "/v1/events",
        response_model=schema.EventList,
        responses={
            200: {
                "description": "The events so far; with `follow`, an endless stream of them.",
                "content": {
                    "application/x-ndjson": {"schema": {"type": "string"}},
                    "text/event-stream": {"schema": {"type": "string"}},
                },
            }
        },
        operation_id="events",
    )
    async def events(
        request: Request,
        follow: Annotated[bool, Query(description="Stream what happens from now on.")] = False,
        since: Annotated[
            int | None, Query(ge=0, description="Begin after this event's `seq`.")
        ] = None,
    ) -> Response:
        """What happened. A stream is NDJSON, or server-sent events for who accepts those."""
        if not follow:
            listed = await lines.listed(journal.since(since or 0))
            return Response(listed, media_type="application/json")
        sse = "text/event-stream" in request.headers.get("accept", "")

        def line(one: Happening) -> str:
            text = lines.of(one)
            return f"id: {one.seq}\nevent: {one.kind}\ndata: {text}\n\n" if sse else f"{text}\n"

        return StreamingResponse(
            _stream(journal, journal.listen(since), line, turns, _peer(request)),
            media_type="text/event-stream" if sse else "application/x-ndjson",
            headers={"cache-control": "no-store"},
        )


async def _stream(
    journal: Journal,
    listener: Listener,
    line: Callable[[Happening], str],
    turns: Turns,
    peer: Peer,
) -> AsyncIterator[str]:
    try:
        async for some in listener.events():
            if not peer.trusted:
                await turns.turn(peer.uid)
            yield "".join(map(line, some))
    finally:
        journal.forget(listener)


def _peer(request: Request) -> Peer:
    peer: Peer = request.state.peer
    return peer
