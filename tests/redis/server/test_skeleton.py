"""What every route has: who may come in, who may not, and what an answer carries."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Request

from launch_worker import errors
from launch_worker.api.client import Api, submit_many
from launch_worker.errors import InputError, LaunchError
from launch_worker.people.roles import Act
from launch_worker.server.address import Address
from launch_worker.server.asker import Asker, allowed, declarations, for_everybody
from launch_worker.server.fence import BODY_BYTES
from launch_worker.server.problems import STATUSES
from launch_worker.server.shared import SharedHere
from launch_worker.server.stream import Event, event_stream
from tests.support.http_servers import KEY, TestServer, serving


def test_live_and_ready_say_so_without_a_login(stranger: httpx.Client) -> None:
    assert stranger.get("/live").json() == {"ok": True, "reason": "the server works"}
    assert stranger.get("/ready").json() == {"ok": True, "reason": "Redis answers"}


def test_without_redis_it_lives_and_is_not_ready(tmp_path: Path) -> None:
    with serving("redis://127.0.0.1:1/0", tmp_path) as server, server.client("") as stranger:
        assert stranger.get("/live").status_code == 200
        answer = stranger.get("/ready")
    assert answer.status_code == 503
    assert "not reachable" in answer.json()["reason"]


def test_the_key_of_loopback_is_a_token(client: httpx.Client) -> None:
    found = client.get("/api/v1/whoami").json()
    assert (found["role"], found["how"]) == ("admin", "loopback")


@pytest.mark.parametrize("header", ["", f"Bearer {KEY[1:]}", f"Bearer {KEY}x", "Bearer", f"Basic {KEY}", "Bearer \xe4"])
def test_no_login_or_a_wrong_one_is_refused_alike(stranger: httpx.Client, header: str) -> None:
    headers = {b"Authorization": header.encode("latin-1")} if header else {}
    answer = stranger.get("/api/v1/whoami", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["code"] == "LoginError"
    assert "launch-worker login" in answer.json()["detail"]


def test_the_printed_address_becomes_a_cookie_that_scripts_cannot_read(stranger: httpx.Client) -> None:
    answer = stranger.get("/", params={"token": KEY})
    assert answer.status_code == 303
    assert KEY not in answer.headers["location"]
    cookie = answer.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=lax", "Path=/"))
    assert stranger.get("/api/v1/whoami").status_code == 200


def test_a_wrong_key_in_the_address_becomes_no_cookie(stranger: httpx.Client) -> None:
    assert "set-cookie" not in stranger.get("/", params={"token": "x"}).headers


def test_a_login_that_is_said_wins_over_the_cookie(stranger: httpx.Client) -> None:
    stranger.get("/", params={"token": KEY})
    assert stranger.get("/api/v1/whoami", headers={"Authorization": "Bearer x"}).status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7600", "localhost.evil.example", "", "[", "127.0.0.1.x"]
)
def test_a_strangers_name_is_refused_on_every_path(stranger: httpx.Client, host: str) -> None:
    for path in ("/live", "/", "/api/v1/whoami", "/static/plain.css"):
        assert stranger.get(path, headers={"Host": host}).status_code == 421, path


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "[::1]:7600", "10.1.2.3", "launch.example"])
def test_own_names_and_numbers_are_taken(redis_url: str, tmp_path: Path, host: str) -> None:
    with serving(redis_url, tmp_path, LAUNCH_SERVER_HOSTS="launch.example, x.example") as server:
        answer = httpx.get(f"{server.url}/live", headers={"Host": host}, trust_env=False)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        # Another port of this machine, to which browsers send the cookie too.
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_cannot_act(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.post("/api/v1/whoami", headers=headers)
    assert answer.status_code == 403
    assert "another site" in answer.json()["detail"]


def test_another_site_can_link_here_but_read_nothing(client: httpx.Client) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert client.get("/api", headers=foreign | {"Sec-Fetch-Mode": "navigate"}).status_code == 200
    assert client.get("/api", headers=foreign | {"Sec-Fetch-Mode": "no-cors"}).status_code == 403


def test_the_own_page_can_act(server: TestServer, client: httpx.Client) -> None:
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/v1/whoami", headers=own).status_code == 405


@pytest.mark.parametrize("path", ["/live", "/api", "/nothing", "/api/v1/whoami", "/static/plain.css"])
def test_every_answer_forbids_what_no_page_of_ours_needs(stranger: httpx.Client, path: str) -> None:
    headers = stranger.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "private" in headers["cache-control"] or "no-store" in headers["cache-control"]
    assert "server" not in headers


def test_the_page_of_the_api_has_no_foreign_asset_and_each_route(client: httpx.Client) -> None:
    page = client.get("/api").text
    assert "//" not in page.replace("<!doctype", "")
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in page


def test_the_document_names_role_login_and_errors_of_each_route(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    whoami = document["paths"]["/api/v1/whoami"]["get"]
    assert whoami["x-role"] == "any login"
    assert whoami["security"] == [{"token": []}, {"session": []}]
    assert {"200", "401", "403", "503"} <= whoami["responses"].keys()
    assert "application/problem+json" in whoami["responses"]["401"]["content"]
    assert document["paths"]["/live"]["get"]["x-role"] == "nobody"
    assert "HTTPValidationError" not in str(document)


def test_what_a_client_has_already_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/openapi.json")
    again = client.get("/openapi.json", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "content-encoding" not in again.headers
    assert client.get("/openapi.json", headers={"If-None-Match": '"other"'}).status_code == 200


def test_each_answer_of_json_has_a_tag_by_which_it_is_not_sent_again(client: httpx.Client, api: Api) -> None:
    api.create_pool("thing")
    api.create_queue("thing", pool="thing")
    sweep = {"method": "grid", "parameters": {"x": {"values": [1]}}, "command": ["true"]}
    ids = {"sweep_id": api.create_sweep(sweep, queue="nobodys").id}
    schedule = {"cron": "@daily", "given": {"command": ["true"]}}
    assert client.put("/api/v1/schedules/thing", json=schedule).status_code == 200
    [first, _] = submit_many([{"command": ["true"], "queue": "thing"}] * 2, api=api)
    ids |= {"kind": "runs", "run_id": first.id, "group_id": first.refresh().group}
    first.cancel()
    asked = {"runs/counts": {"by": "state"}, "v1/usage": {"by": "user"}, "logs/newest": {"attempt": "1"}}
    asked |= {"runs/named": {"word": "x"}, "v1/run-groups": {"ids": ids["group_id"]}}
    documented = client.get("/openapi.json").json()["paths"]
    routes = [path for path, methods in documented.items() if "304" in methods.get("get", {}).get("responses", {})]
    assert len(routes) > 30
    for route in routes:
        path = re.sub(r"{(\w+)}", lambda found: ids.get(found[1], "thing"), route)
        params = asked.get("/".join(route.split("/")[-2:]), {}) | {"q": "x", "timeout": "0"}
        first_answer = client.get(path, params=params)
        assert first_answer.status_code == 200, (path, first_answer.text)
        again = client.get(path, params=params, headers={"If-None-Match": first_answer.headers["etag"]})
        # What tells the time is another answer each time.
        assert again.status_code == 304 or again.content != first_answer.content, path
        assert (again.status_code == 304) == (again.content == b""), path


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_long_answer_is_compressed_as_the_client_asks_for_it(client: httpx.Client, encoding: str) -> None:
    plain = client.get("/openapi.json", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    answer = client.get("/openapi.json", headers={"Accept-Encoding": encoding})
    assert answer.headers["content-encoding"] == encoding
    assert "Accept-Encoding" in answer.headers["vary"]
    assert answer.headers["etag"] == plain.headers["etag"]
    assert answer.content == plain.content
    with client.stream("GET", "/api/v1/events", headers={"Accept-Encoding": encoding}) as events:
        assert "content-encoding" not in events.headers


def test_every_error_of_ours_has_a_status() -> None:
    def kinds(of: type[LaunchError]) -> list[type[LaunchError]]:
        return [of, *(inner for child in of.__subclasses__() for inner in kinds(child))]

    # A subclass stands before its parent, or its status would never be given.
    order = list(STATUSES)
    for place, kind in enumerate(order):
        assert not any(issubclass(kind, earlier) for earlier in order[:place]), kind
    asked_for = [kind for kind in kinds(LaunchError) if issubclass(kind, InputError | errors.RefusedError)]
    assert asked_for
    assert all(400 <= STATUSES[next(k for k in STATUSES if issubclass(kind, k))] < 500 for kind in asked_for)


def test_a_route_without_a_declaration_is_found_at_the_start() -> None:
    router = APIRouter()
    router.get("/x")(lambda: None)
    with pytest.raises(TypeError, match=r"/x must declare"):
        list(declarations(router))


router = APIRouter(prefix="/test")


@router.post("/echo")
def echo(body: dict[str, int], asker: Annotated[Asker, allowed(Act.SUBMIT)]) -> dict[str, int]:
    return body


@router.get("/refuse", dependencies=[for_everybody])
def refuse(kind: str) -> None:
    raise getattr(errors, kind)("no such thing; make one")


@router.get("/fail", dependencies=[for_everybody])
def fail() -> None:
    raise ZeroDivisionError("a secret")


@router.get("/numbers", dependencies=[for_everybody])
async def numbers(request: Request, shared: SharedHere) -> object:
    async def events() -> AsyncIterator[Event]:
        number = int(request.headers.get("last-event-id", "0"))
        while True:
            number += 1
            yield Event({"text": "a\nb", "number": number}, kind="number", id=str(number))
            if number == 3:
                await shared.stopping.wait()

    return event_stream(shared, events())


@pytest.fixture
def tried(server: TestServer, client: httpx.Client) -> httpx.Client:
    """A client of a server with the routes above."""
    server.application.include_router(router)
    return client


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        ("{", 400, "is not JSON"),
        ('{"a": "x"}', 422, "field a cannot be used"),
        ("[]", 422, "body"),
        ("", 422, "body"),
        ('{"a": 1}', 200, ""),
    ],
)
def test_a_body_that_cannot_be_used_gets_a_sentence(tried: httpx.Client, content: str, status: int, words: str) -> None:
    answer = tried.post("/test/echo", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    if words:
        assert answer.headers["content-type"] == "application/problem+json"
        assert words in answer.json()["detail"]


@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_body_beyond_the_limit_is_refused(tried: httpx.Client, is_chunked: bool) -> None:
    text = b'{"a":' + b"1" * BODY_BYTES + b"}"
    content = iter([text[:1000], text[1000:]]) if is_chunked else text
    answer = tried.post("/test/echo", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "1,048,576" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [("UnknownRunError", 404), ("DeletedRunError", 410), ("RefusedError", 409), ("BrokerUnavailableError", 503)],
)
def test_an_error_is_the_sentence_of_the_command_line(tried: httpx.Client, kind: str, status: int) -> None:
    answer = tried.get("/test/refuse", params={"kind": kind})
    assert answer.status_code == status
    assert answer.json()["detail"] == "no such thing; make one"
    assert answer.json()["code"] == kind


def test_a_fault_of_ours_shows_nothing_of_itself(tried: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    answer = tried.get("/test/fail")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "a secret" in caplog.text


def test_a_stream_goes_on_where_its_reader_was(tried: httpx.Client) -> None:
    with tried.stream("GET", "/test/numbers", headers={"Last-Event-ID": "1"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(4)] == [
            "id: 2",
            "event: number",
            'data: {"text":"a\\nb","number":2}',
            "",
        ]


def test_a_stream_ends_with_the_server(server: TestServer, tried: httpx.Client) -> None:
    with tried.stream("GET", "/test/numbers") as answer:
        lines = answer.iter_lines()
        assert any(line == "id: 3" for line in lines)
        server.stop()
        assert 'data: {"text":"a\\nb","number":3}' in list(lines)


def test_a_small_answer_does_not_wait_for_the_network() -> None:
    """Without TCP_NODELAY each answer takes 40 ms: a header waits for its acknowledgement before the body is sent."""
    with Address("127.0.0.1", 0).listen() as listening:
        assert listening.proto == socket.IPPROTO_TCP
