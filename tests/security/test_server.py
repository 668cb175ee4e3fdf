"""Whatever is asked of a server, by whomever: no answer is a failure of the server, and it goes on."""

from __future__ import annotations

import contextlib
import html
import json
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch_worker.dev.redis_server import RedisServer
from launch_worker.model.spec import RunSpec
from launch_worker.server import fence
from launch_worker.server.serve import PatientConnection
from launch_worker.store import keys
from tests.conftest import wait_until
from tests.security.fuzz import examples
from tests.support.http_servers import TestServer, serving
from tests.support.people import tokens_of_everybody
from tests.support.redis_client import redis_of

API = json.loads((Path(__file__).parents[2] / "docs/openapi.json").read_text(encoding="utf-8"))
PATHS = API["paths"]
#: Routes that wait or never end by themselves, and those that end the login that is asked with.
LEFT_OUT = ("/events", "/logs/tail", "/wait", "/logout", "/password", "/sessions", "/tokens/{token_id}", "/test")
ROUTES = [
    (path, method, said)
    for path, methods in PATHS.items()
    if not path.endswith(LEFT_OUT)
    for method, said in methods.items()
]
#: Id of a run that is there.
RUN = "fuzzed1234567"
#: Texts that mean something to a database, a path, a header, a terminal, a page, a pattern.
TEXTS = (
    *("", "x", "me/x", "'", '"', "' OR 1=1 --", "a%_\\", "\x00", "\ud800", "\u202e", "\x1b]0;PWN\x07", "\r\nX: y"),
    *("../../etc/passwd", "/etc/passwd", "%2e%2e%2f", "<script>alert(1)</script>", "{{7*7}}", "(a+)+$", "[" * 3000),
    *(
        "NaN",
        "1e400",
        "-1",
        "0",
        "9" * 400,
        "null",
        "true",
        "[]",
        "{}",
        '"',
        "*",
        "NEAR(a b)",
        "a OR b",
        "-a",
        "2020-01-01",
    ),
    *(
        "a" * 5000,
        "\u0130",
        "\u00df",
        "launch:runs",
        "__proto__",
        "constructor",
        "@",
        "r1",
        "b1",
        "state",
        "-created_at",
    ),
)
WORDS = ("$eq", "$ne", "$gt", "$in", "$nin", "$regex", "$exists", "$or", "$and", "$not", "$where", "$last")
FIELDS = (
    *(
        "state",
        "name",
        "tags",
        "text",
        "config.x",
        "summary.x.y",
        "group",
        "priority",
        "created_at",
        "user",
        "exit_code",
    ),
    *("__class__", "config", "summary", "config.a'b", 'summary."x"', "queue", "id", "config.x.value"),
)


def values() -> st.SearchStrategy[Any]:
    texts = st.sampled_from(TEXTS) | st.text(max_size=12)
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
    names = st.sampled_from((*WORDS, *FIELDS)) | texts
    return st.recursive(
        leaves, lambda one: st.lists(one, max_size=4) | st.dictionaries(names, one, max_size=4), max_leaves=8
    )


def filters() -> st.SearchStrategy[str]:
    test = st.dictionaries(st.sampled_from(WORDS), values(), max_size=2) | values()
    return st.dictionaries(st.sampled_from((*FIELDS, *WORDS)), test, max_size=3).map(as_json)


def as_json(value: Any) -> str:
    return json.dumps(value)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, dict[str, str], Any]:
    path, method, said = draw(st.sampled_from(ROUTES))
    texts = st.sampled_from(TEXTS) | st.text(max_size=12)
    query: dict[str, str] = {}
    for parameter in said.get("parameters", ()):
        name = parameter["name"]
        value = draw(filters() if name == "filter" else texts)
        if parameter["in"] == "path":
            known = draw(st.sampled_from(("", RUN, "default", "x")))
            path = path.replace(f"{{{name}}}", quoted(known or value))
        elif parameter["in"] == "query" and draw(st.booleans()):
            query[name] = value
    return method, path, query, draw(bodies(said)) if "requestBody" in said else None


def bodies(said: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Bodies with names that the route knows, and any values."""
    schema = said["requestBody"].get("content", {}).get("application/json", {}).get("schema", {})
    schema = API["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
    names = list(schema.get("properties", {}))
    return st.dictionaries(st.sampled_from(names), values(), max_size=5) | values() if names else values()


def quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass")) or "x"


def ask(client: httpx.Client, method: str, url: str, content: bytes | None) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    try:
        return client.request(method, url, content=content, headers=headers)
    except httpx.RemoteProtocolError:
        # The server had just closed the idle connection.
        return client.request(method, url, content=content, headers=headers)


@pytest.fixture(scope="module")
def server(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    redis_of(redis_server.url).flushall()
    with serving(redis_server.url, tmp_path_factory.mktemp("server"), with_archive=True) as running:
        yield running


@pytest.fixture(scope="module")
def tokens(server: TestServer) -> dict[str, str]:
    return tokens_of_everybody(server)


def test_no_request_of_anybody_makes_the_server_fail(
    server: TestServer, tokens: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    clients = [server.client(token) for token in (*tokens.values(), "")]
    server.shared.acting.store.create(RUN, RunSpec(("true",), queue="nobody", tags=("a",), config={"x": {"value": 1}}))
    caplog.set_level(logging.ERROR, logger="launch_worker.server")

    @settings(max_examples=examples(60), database=None, suppress_health_check=list(HealthCheck))
    @given(requests(), st.sampled_from(clients))
    def asked(request: tuple[str, str, dict[str, str], Any], client: httpx.Client) -> None:
        method, path, query, given_body = request
        words = "&".join(f"{name}={quoted(value) if value else ''}" for name, value in query.items())
        content = json.dumps(given_body).encode() if given_body is not None else None
        answer = ask(client, method.upper(), f"{path}?{words}", content)
        assert answer.status_code < 500, (method, path, query, given_body, answer.text[:500])
        assert not [name for name, value in answer.headers.items() if "\x1b" in value or name == "x"]
        assert "Traceback" not in answer.text

    try:
        asked()
    finally:
        for client in clients:
            client.close()
    assert not [record for record in caplog.records if "server.failed" in record.getMessage()]


def test_no_name_leads_a_button_or_link_of_a_page_to_another_route(server: TestServer, tokens: dict[str, str]) -> None:
    """Who may write to Redis names a schedule so that an admin's Delete would be of a person."""
    evil = "../people/users/admin"
    store = server.shared.acting.store
    made = redis_of(store.url)
    store.keep_schedule(evil, json.dumps({"name": evil, "cron": "@daily", "given": {"queue": evil}}), 5)
    made.sadd(keys.QUEUES, evil)
    try:
        with server.client(tokens["admin"]) as admin:
            admin.headers["Accept"] = "text/html"
            for page in ("schedules", "queues"):
                text = html.unescape(admin.get(f"/{page}").text)
                led = [word for word in re.findall(r'(?:action|href)="([^"]*)"', text) if "admin" in word]
                assert led
                for word in led:
                    assert not urlsplit(urljoin("http://x/", word)).path.startswith("/people/"), word
            assert admin.post(f"/schedules/{quote(evil, safe='')}/delete").status_code == 404
            assert admin.get("/api/v1/whoami").status_code == 200
    finally:
        store.delete_schedule(evil)
        made.srem(keys.QUEUES, evil)


def answers(server: TestServer) -> bool:
    try:
        with server.client() as client:
            return client.get("/live").status_code == 200
    except httpx.TransportError:
        return False


def test_too_many_connections_are_cut_and_the_server_answers_again(
    server: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientConnection, "most", 10)
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", server.address.port), timeout=10))
            with contextlib.suppress(OSError):
                half.sendall(b"GET /live HTTP/1.1\r\nHost:")
        assert not answers(server)
    wait_until(lambda: answers(server), what="it answers again")


def test_a_body_that_does_not_come_is_not_waited_for(server: TestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "BODY_S", 0.2)
    head = f"POST /api/v1/login HTTP/1.1\r\nHost: {server.address.host}:{server.address.port}\r\n"
    with socket.create_connection(("127.0.0.1", server.address.port), timeout=10) as client:
        client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert client.recv(100).split(b" ")[1] == b"408"
