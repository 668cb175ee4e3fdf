"""Each route asked as everybody: what docs/security.md promises is what happens."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from launch_worker.people.roles import Role
from tests.support.http_servers import TestServer, serving
from tests.support.people import PEOPLE, PRIVATE, tokens_of_everybody

DOCS = Path(__file__).parents[3] / "docs"
OPENAPI = json.loads((DOCS / "openapi.json").read_text(encoding="utf-8"))
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in OPENAPI["paths"].items()
    for method, operation in methods.items()
]


class Promise(NamedTuple):
    """A row of the table of acts."""

    least: Role
    own: Role | None
    held: str
    whole: bool


def promises() -> dict[str, Promise]:
    """The table, as a person reads it."""
    found = {}
    for line in (DOCS / "security.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        act = re.search(r"\(`(\w+)`\)$", cells[0]) if len(cells) == 5 else None
        if act is not None:
            _, least, own, held, whole = cells
            found[act[1]] = Promise(Role.parse(least), Role.parse(own) if own else None, held, bool(whole))
    return found


PROMISES = promises()


def is_promised(name: str, act: str) -> bool:
    """Whether this person of tests/support/people.py gets past the door of an act."""
    promise, given = PROMISES[act], PEOPLE[name]
    system = given.get("", Role.NONE)
    held = system if promise.held == "system" else max(given.values())
    if promise.whole and system < Role.ADMIN and (system < Role.VIEWER or PRIVATE not in given):
        return False
    return held >= (promise.least if promise.own is None else promise.own)


@pytest.fixture(scope="module")
def server(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    with serving(redis_server.url, tmp_path_factory.mktemp("server"), with_archive=True) as running:
        yield running


@pytest.fixture(scope="module")
def everybody(server: TestServer) -> Iterator[dict[str, httpx.Client]]:
    """A client for each person, and one without a login."""
    tokens = tokens_of_everybody(server) | {"nobody": ""}
    clients = {name: server.client(token) for name, token in tokens.items()}
    yield clients
    for client in clients.values():
        client.close()


def ask(client: httpx.Client, method: str, path: str) -> int:
    """The status of an answer, whose content may have no end."""
    url = re.sub(r"\{\w+\}", "nothing", path)
    body: dict[str, Any] = {"json": {}} if method in ("POST", "PUT", "PATCH") else {}
    with client.stream(method, url, **body) as answer:
        return answer.status_code


@pytest.mark.parametrize(
    ("method", "path", "operation"), OPERATIONS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_route_does_for_each_person_what_is_promised(
    everybody: dict[str, httpx.Client], method: str, path: str, operation: dict[str, Any]
) -> None:
    act = operation.get("x-act")
    for name, client in everybody.items():
        status = ask(client, method, path)
        if act is None:
            assert status not in (401, 403) or path.endswith(("/login", "/first-admin")), (name, status)
        elif name == "nobody":
            assert status == 401
        elif is_promised(name, act):
            assert status not in (401, 403), (name, status)
        else:
            assert status == 403, (name, status)


def test_celerys_page_is_for_who_sees_all_and_its_buttons_are_by_role(everybody: dict[str, httpx.Client]) -> None:
    """This server was started without that page: 503 is the answer to who may have it."""
    for path, act in (("task/revoke/x", "act_in_celery"), ("worker/pool/grow/x", "set_workers")):
        for name, client in everybody.items():
            looks, presses = client.get("/celery/tasks").status_code, client.post(f"/celery/api/{path}").status_code
            if name == "nobody":
                assert (looks, presses) == (401, 401)
            else:
                assert looks == (503 if is_promised(name, "see_celery") else 403), name
                assert presses == (503 if is_promised(name, act) else 403), (name, path)


def test_the_people_of_this_test_differ_at_the_door() -> None:
    """Else a route that everybody may call would be as good as one that asks for a role."""
    seen = {tuple(is_promised(name, act) for act in sorted(PROMISES)) for name in PEOPLE}
    # Who is a member somewhere passes where a member of all passes: the route looks at the project.
    assert len(seen) == len(PEOPLE) - 1


def test_the_kept_description_is_that_of_this_tree() -> None:
    spec = importlib.util.spec_from_file_location("openapi", DOCS / "openapi.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert json.loads(module.text()) == OPENAPI, "write it anew with: make openapi"


def has_example(schema: Any) -> bool:
    """Whether a schema, or one that it names, says by an example what it looks like."""
    if isinstance(schema, list):
        return any(has_example(part) for part in schema)
    if not isinstance(schema, dict):
        return False
    if "examples" in schema or "example" in schema:
        return True
    named = schema.get("$ref", "").rpartition("/")[2]
    return has_example(OPENAPI["components"]["schemas"][named]) if named else has_example(list(schema.values()))


def test_each_operation_says_who_may_call_it_what_it_takes_and_how_it_fails() -> None:
    for method, path, operation in OPERATIONS:
        where, found = f"{method} {path}", set(operation["responses"])
        assert operation["x-role"], where
        assert ("x-act" in operation) == bool(operation["security"]), where
        wanted = {"503"}
        if "x-act" in operation:
            wanted |= {"401", "403"} | ({"507"} if method != "GET" else set())
        if "{" in path:
            wanted |= {"404", "422"} | ({"409"} if method != "GET" else set())
        if operation.get("parameters") or "requestBody" in operation:
            wanted |= {"422"}
        if "{run_id}" in path:
            wanted |= {"410"}
        assert wanted <= found, (where, wanted - found)
        for parameter in operation.get("parameters", ()):
            assert parameter["in"] != "path" or "example" in parameter, (where, parameter["name"])
        for kind, body in operation.get("requestBody", {}).get("content", {}).items():
            assert kind != "application/json" or has_example(body), where


def test_each_operation_has_an_id_of_its_own_a_sentence_and_its_errors() -> None:
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(ids) == len(set(ids))
    for method, path, operation in OPERATIONS:
        assert operation.get("description"), (method, path)
        assert ("401" in operation["responses"]) == ("x-act" in operation) or path.endswith(("/login", "/first-admin"))
        for status, response in operation["responses"].items():
            if status >= "400" and path not in ("/ready",):
                assert list(response["content"]) == ["application/problem+json"], (method, path, status)
