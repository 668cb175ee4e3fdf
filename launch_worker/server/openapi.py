"""Describes the API as OpenAPI 3.1: who may call each route comes from its declaration, and so do its errors."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from launch_worker.people.roles import Act, Role
from launch_worker.server.asker import declarations
from launch_worker.server.problems import CONTENT_TYPE, Problem

_SECURITY: list[dict[str, list[str]]] = [{"token": []}, {"session": []}]
_SCHEMES = {
    "token": {"type": "http", "scheme": "bearer", "description": "A token of `launch-worker tokens create`."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "__Host-launch_worker",
        "description": "A browser's login. Over http on loopback the cookie is named launch_worker_PORT.",
    },
}
#: Errors of every route, and those of routes that need a login.
_ERRORS = {
    413: "The body is too large.",
    421: "The server is not called by this name.",
    503: "Redis or the archive is away.",
}
#: Examples of the parts of paths; of `name`, for each part before it.
_EXAMPLES = {
    "run_id": "1m83cyvtfq1tc69",
    "group_id": "a1m83cyvtfq1tc69",
    "sweep_id": "1m83cyvtfq1tc69",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "token_id": "3f2a9c04d1e7",
    "session_id": "3f2a9c04d1e7",
    "channels": "ops",
    "rules": "slow",
    "kind": "runs",
    "worker": "celery@gpu1",
    "path": "best/model.pt",
    "queues": "gpu",
    "key_id": "0f2a9c04d1e76b33",
    "pools": "gpus",
    "schedules": "nightly",
    "users": "ada",
    "groups": "ml",
    "projects": "lab/vision",
    "allowances": "user:ada",
}
_LOGIN_ERRORS = {401: "The login is missing, wrong or expired.", 403: "The role is not enough, or another site asks."}


def describe(application: FastAPI, routers: Sequence[tuple[str, APIRouter]]) -> None:
    """Have the application describe the routes of these routers, each with its prefix."""
    acts = {
        (f"{prefix}{route.path_format}", method.lower()): act
        for prefix, router in routers
        for route, act in declarations(router)
        for method in route.methods or ()
    }

    def openapi() -> dict[str, Any]:
        if application.openapi_schema is None:
            application.openapi_schema = _document(application, acts)
        return application.openapi_schema

    application.openapi = openapi  # type: ignore[method-assign]


def as_text(document: dict[str, Any]) -> str:
    """The document as it is served, and kept in the repository."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def role_of(act: Act | None) -> str:
    """The least standing that may do this to anything at all, as people read it."""
    if act is None:
        return "nobody"
    return act.least.label if act.least > Role.NONE else "any login"


def _document(application: FastAPI, acts: dict[tuple[str, str], Act | None]) -> dict[str, Any]:
    document = get_openapi(
        title="launch_worker",
        version=importlib.metadata.version("launch_worker"),
        description="Runs, queues, workers and people of one launch system. Errors are problem documents (RFC 9457).",
        routes=application.routes,
    )
    components = document.setdefault("components", {})
    components["securitySchemes"] = _SCHEMES
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema()
    # FastAPI's own form of errors is not used.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            act = acts[path, method]
            operation["x-role"] = role_of(act)
            if act is not None:
                operation["x-act"] = act.value
            operation["security"] = _SECURITY if act else []
            if method == "get" and "application/json" in operation["responses"]["200"].get("content", {}):
                operation["responses"]["304"] = {"description": "It has the ETag of `If-None-Match` still."}
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["example"] = _example(parameter["name"], path)
            _describe_errors(operation, needs_login=act is not None, path=path, is_look=method == "get")
    return document


def _example(name: str, path: str) -> str:
    """An example for a part of a path; what `name` names, the part before it says."""
    return _EXAMPLES[name if name != "name" else path.split("/{name}")[0].rpartition("/")[2]]


def _describe_errors(operation: dict[str, Any], *, needs_login: bool, path: str, is_look: bool) -> None:
    responses: dict[str, Any] = operation["responses"]
    takes_input = "parameters" in operation or "requestBody" in operation
    named = (
        _ERRORS | (_LOGIN_ERRORS if needs_login else {}) | ({422: "The input cannot be used."} if takes_input else {})
    )
    if "requestBody" in operation:
        named |= {400: "The body is not JSON."}
    if "{" in path:
        named |= {404: "There is nothing of this name, or it is not seen."}
    if "{run_id}" in path:
        named |= {410: "The run was deleted."}
    if needs_login and not is_look:
        named |= {507: "Redis is full."} | ({409: "As it is now, that is not possible."} if "{" in path else {})
    responses.pop("422", None)
    for status, meaning in named.items():
        responses.setdefault(str(status), {"description": meaning})
    for code, response in responses.items():
        if code >= "400" and "content" not in response:
            response["content"] = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    operation["responses"] = dict(sorted(responses.items()))
