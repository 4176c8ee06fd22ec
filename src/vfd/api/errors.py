"""From exceptions to answers: one shape for every error, with the exit code for ``iplex``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match

from vfd.api import schema, views
from vfd.api.encoding import encoded
from vfd.config.errors import shown
from vfd.daemon.failures import (
    ConflictError,
    ExistsError,
    NotFoundError,
    RefusedError,
    StorageError,
)
from vfd.daemon.flood import Flood
from vfd.daemon.request import Source
from vfd.daemon.service import Service
from vfd.nic.protocol import NicError, UnsupportedError

log = logging.getLogger("vfd.api")

TOLD = 20
"""Faults of vfd's own, of one kind, that are logged with their traceback at once."""
MEDIA_TYPE = "application/problem+json"

_TITLES = {
    400: ("bad-request", "the request is malformed"),
    403: ("forbidden", "this user may not use the API"),
    404: ("not-found", "there is no such thing"),
    405: ("bad-method", "the resource has no such method"),
    408: ("too-slow", "the body did not come"),
    409: ("exists", "it exists already, or another request changes it"),
    413: ("too-large", "the body is too large"),
    422: ("refused", "the policy is refused"),
    500: ("internal", "the daemon failed"),
    503: ("nic-failed", "the NIC or the disk failed"),
}
_RULES = {
    "missing": "required",
    "extra_forbidden": "unknown field",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "a name has no control characters or line breaks",
}
"""By pydantic's type of an error, where its own words say less."""
_NOT_JSON = "a body is JSON, and its header says so: Content-Type: application/json"
_EXITS = {400: 2, 403: 3, 404: 4, 405: 2, 408: 2, 409: 3, 413: 2, 422: 3, 500: 5, 503: 5}


def always() -> dict[int | str, dict[str, Any]]:
    """The errors that any route may answer with."""
    return some(400, 403, 408, 413, 500)


def some(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of these errors."""
    ref = {"$ref": "#/components/schemas/Error"}
    return {
        status: {
            "description": _TITLES[status][1],
            "content": {MEDIA_TYPE: {"schema": ref}},
        }
        for status in statuses
    }


def describe(app: FastAPI) -> None:
    """Has ``app`` describe its errors as they are, not as the framework's own would be."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = generate()
        schemas = document["components"]["schemas"]
        error = schema.Error.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(error.pop("$defs"))
        schemas["Error"] = error
        for path in document["paths"].values():
            for operation in path.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def answer(
    status: int,
    detail: str,
    problems: list[schema.Problem] | None = None,
    *,
    kind: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error as a response."""
    word, title = _TITLES.get(status, ("error", "the request failed"))
    error = schema.Error(
        type=kind or word,
        title=title,
        status=status,
        detail=detail,
        problems=problems or [],
        exit=_EXITS.get(status, 2 if status < 500 else 5),
    )
    return Response(encoded(error), status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def install(app: FastAPI) -> None:
    """Has ``app`` answer every exception with an ``Error``."""
    bugs = Flood(TOLD)

    @app.exception_handler(HTTPException)
    async def by_framework(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            # Each method is a route of its own, and the framework names only the first one's.
            methods = {
                method
                for route in app.routes
                if isinstance(route, APIRoute) and route.matches(request.scope)[0] is not Match.NONE
                for method in route.methods or ()
            }
            headers["allow"] = ", ".join(sorted(methods))
        detail = str(error.detail)
        if error.status_code == 404:  # the framework's own: ours are NotFoundError
            detail = f"there is no {request.url.path}: /v1/openapi.json lists what there is"
        return answer(error.status_code, detail, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        problems = [_malformed(one) for one in error.errors()]
        told = "; ".join(
            f"{p.field}{f' = {p.value}' if p.value else ''}: {p.rule}" for p in problems
        )
        return answer(400, told, problems)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        count = len(error.problems)
        told = str(error) if count == 1 else f"{count} rules are broken"
        told += f". Nothing was changed{f': {error.aside}' if error.aside else ''}"
        return answer(422, told, views.problems(error.problems))

    @app.exception_handler(UnsupportedError)
    async def unsupported(_: Request, error: UnsupportedError) -> Response:
        return answer(422, str(error), kind="unsupported")

    @app.exception_handler(NotFoundError)
    async def missing(_: Request, error: NotFoundError) -> Response:
        return answer(404, str(error))

    @app.exception_handler(ExistsError)
    async def exists(_: Request, error: ExistsError) -> Response:
        return answer(409, str(error))

    @app.exception_handler(ConflictError)
    async def conflict(_: Request, error: ConflictError) -> Response:
        return answer(409, str(error), kind="conflict")

    @app.exception_handler(StorageError)
    async def storage(_: Request, error: StorageError) -> Response:
        return answer(503, str(error), kind="storage-failed")

    @app.exception_handler(NicError)
    async def nic_failed(_: Request, error: NicError) -> Response:
        return answer(503, str(error))

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        if (fields := bugs.fields(type(error).__name__)) is not None:
            told = "%s %.300s", request.method, request.url.path
            log.error(*told, exc_info=error, extra={"fields": fields})
        return answer(500, f"{type(error).__name__}: this is a bug in vfd; its log says more")


def _malformed(one: Mapping[str, Any]) -> schema.Problem:
    """What the framework found wrong with a request, in words for whoever sent it."""
    rule = _RULES.get(one["type"], one["msg"])
    found = None if one["type"] == "missing" else one.get("input")  # that is what it is missing in
    if isinstance(found, bytes):  # a body that isn't said to be JSON is not read as such
        found, rule = found.decode(errors="replace"), _NOT_JSON
    return schema.Problem(
        file="request",
        field=".".join(str(part) for part in one["loc"]),
        value=shown(found),
        rule=rule,
    )


def planned(service: Service, source: Source, uid: int, gid: int) -> schema.PlanAnswer:
    """A plan's answer: what is wrong with the configuration is part of it, not an error."""
    try:
        action, made = service.plan_of(source, uid, gid)
    except RefusedError as error:
        return schema.PlanAnswer(
            action="none", changes=[], problems=views.problems(error.problems), warnings=[]
        )
    return schema.PlanAnswer.model_validate(
        {
            "action": action,
            "changes": views.of_vf(made),
            "problems": [],
            "warnings": list(made.warnings),
        }
    )
