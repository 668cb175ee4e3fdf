"""Logins over HTTP: passwords, sessions, tokens, a trusted proxy; and what the audit has of acts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter
from sqlalchemy import select

from launch_worker.database.audit import audit_lines
from launch_worker.errors import RefusedError
from launch_worker.people.registry import Registry
from launch_worker.people.roles import Act, Role
from launch_worker.server.asker import Asker, acting
from tests.conftest import wait_until
from tests.support.http_servers import KEY, TestServer, serving

PASSWORD = "a long password"

router = APIRouter(prefix="/test")
Cancelling = Annotated[Asker, acting(Act.ACT_ON_RUN, what="cancel", kind="run")]
Setting = Annotated[Asker, acting(Act.SET_QUEUES, what="pause", kind="queue")]


@router.post("/runs/{run_id}/cancel")
def cancel(run_id: str, asker: Cancelling) -> str:
    if run_id == "over":
        raise RefusedError("run over is Finished")
    if run_id == "breaks":
        raise ZeroDivisionError
    asker.check(Act.ACT_ON_RUN, project="e/p", owner="bob")
    return asker.person.name


@router.post("/queues/{name}/pause")
def pause(name: str, asker: Setting) -> None: ...


@pytest.fixture
def peopled(server: TestServer) -> TestServer:
    """A server that knows ada, a member, and otto, an operator."""
    server.application.include_router(router)
    registry = Registry(server.shared.database, actor="test")
    registry.add_user("ada", password=PASSWORD, given={"": Role.MEMBER})
    registry.add_user("otto", password=PASSWORD, given={"": Role.OPERATOR})
    return server


@pytest.fixture
def browser(peopled: TestServer) -> Iterator[httpx.Client]:
    with peopled.client("") as made:
        yield made


def log_in(browser: httpx.Client, name: str = "ada", password: str = PASSWORD) -> httpx.Response:
    return browser.post("/api/v1/login", json={"name": name, "password": password})


def audit(server: TestServer) -> list[dict[str, Any]]:
    with server.shared.database.reading() as connection:
        return [dict(row) for row in connection.execute(select(audit_lines).order_by(audit_lines.c.id)).mappings()]


def test_a_password_becomes_a_session(browser: httpx.Client) -> None:
    answer = log_in(browser)
    assert answer.status_code == 200
    assert (answer.json()["name"], answer.json()["role"]) == ("ada", "member")
    assert all(word in answer.headers["set-cookie"] for word in ("HttpOnly", "SameSite=lax", "Path=/"))
    assert PASSWORD not in answer.text
    assert browser.get("/api/v1/whoami").json()["how"] == "session"


@pytest.mark.parametrize(
    ("name", "password"), [("ada", "a wrong password"), ("nobody", PASSWORD), ("", ""), ("ADA", "x")]
)
def test_a_wrong_login_says_not_what_was_wrong(browser: httpx.Client, name: str, password: str) -> None:
    answer = log_in(browser, name, password)
    assert answer.status_code == 401
    assert answer.json()["detail"] == "the name or the password is wrong"
    assert "set-cookie" not in answer.headers


def test_a_browser_logs_in_by_a_form_and_comes_to_the_page_that_it_wanted(browser: httpx.Client) -> None:
    html = {"Accept": "text/html,*/*"}
    asked = browser.get("/celery/tasks", headers=html)
    assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=%2Fcelery%2Ftasks")
    form = browser.get(asked.headers["location"], headers=html)
    assert 'value="/celery/tasks"' in form.text
    wrong = browser.post("/login", data={"name": '<b>"ada', "password": "x", "next": "/api"})
    assert wrong.status_code == 401
    assert "the name or the password is wrong" in wrong.text
    assert "<b>" not in wrong.text
    right = browser.post("/login", data={"name": "ada", "password": PASSWORD, "next": "/celery/tasks"})
    assert (right.status_code, right.headers["location"]) == (303, "/celery/tasks")
    assert browser.get("/api/v1/whoami", headers=html).json()["name"] == "ada"
    assert browser.post("/logout").headers["location"] == "/login"
    # A program that takes everything gets the problem, also where it says that it takes pages.
    assert browser.get("/api/v1/whoami", headers=html).status_code == 401


@pytest.mark.parametrize(
    "elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", "/a\nb"]
)
def test_the_form_leads_nowhere_else(browser: httpx.Client, elsewhere: str) -> None:
    answer = browser.post("/login", data={"name": "ada", "password": PASSWORD, "next": elsewhere})
    assert answer.headers["location"] == "/"


def test_the_first_admin_is_made_by_a_form_once(server: TestServer) -> None:
    secret = server.shared.directory.first_secret()
    with server.client("") as browser:
        form = browser.get("/first-admin", params={"secret": '"><b>' + str(secret)})
        assert "&gt;&lt;b&gt;" in form.text
        wanted = {"secret": secret, "name": "root", "password": PASSWORD, "again": PASSWORD}
        for change, status, why in (
            ({"secret": "x"}, 401, "used up or wrong"),
            ({"again": "another"}, 422, "the two passwords differ"),
            ({"password": "short", "again": "short"}, 422, "password"),
            ({"name": "a b"}, 422, "name"),
        ):
            answer = browser.post("/first-admin", data=wanted | change)
            assert (answer.status_code, why in answer.text) == (status, True), change
        made = browser.post("/first-admin", data=wanted)
        assert (made.status_code, made.headers["location"]) == (303, "/")
        found = browser.get("/api/v1/whoami").json()
        assert (found["name"], found["role"]) == ("root", "admin")
        assert server.shared.directory.first_secret() is None
        assert browser.post("/first-admin", data=wanted | {"name": "second"}).status_code == 401


def test_who_guesses_is_refused_for_a_while_and_others_are_not(peopled: TestServer, browser: httpx.Client) -> None:
    for _ in range(40):
        # Counted as if they had come from elsewhere: no test waits.
        peopled.shared.directory.throttle.failed("ada", "10.1.1.1")
    for _ in range(12):
        peopled.shared.directory.throttle.failed("x", "127.0.0.1")
    answer = log_in(browser)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 5
    assert "try again in" in answer.json()["detail"]


def test_a_session_ends_at_logout_wherever_it_was_copied_to(peopled: TestServer, browser: httpx.Client) -> None:
    log_in(browser)
    with peopled.client("") as thief:
        thief.cookies.update(browser.cookies)
        assert thief.get("/api/v1/whoami").status_code == 200
        assert browser.post("/api/v1/logout").status_code == 204
        assert not browser.cookies
        assert thief.get("/api/v1/whoami").status_code == 401


def test_a_session_outlasts_a_restart(
    redis_url: str, tmp_path: Path, peopled: TestServer, browser: httpx.Client
) -> None:
    log_in(browser)
    [value] = browser.cookies.values()
    with serving(redis_url, tmp_path) as second, second.client("") as again:
        again.cookies.set(f"launch_worker_{second.address.port}", value)
        assert again.get("/api/v1/whoami").json()["name"] == "ada"


def test_a_token_has_no_more_than_its_role(peopled: TestServer) -> None:
    registry = Registry(peopled.shared.database, actor="ada")
    text, token = registry.create_token("otto", "ci", role=Role.VIEWER)
    with peopled.client(text) as client:
        found = client.get("/api/v1/whoami").json()
        assert (found["name"], found["role"], found["token"]) == ("otto", "viewer", "ci")
        assert client.post("/test/runs/x/cancel").status_code == 403
        registry.revoke_token(token.id)
    peopled.shared.directory._known.clear()
    with peopled.client(text) as client:
        assert client.get("/api/v1/whoami").status_code == 401


PROXY = {"X-Forwarded-User": "eve", "X-Forwarded-Groups": "ops", "X-Forwarded-For": "1.2.3.4, 10.9.8.7"}


@pytest.fixture
def proxied(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[TestServer]:
    """A server that trusts the proxy at this address."""
    variables = {"LAUNCH_TRUSTED_PROXIES": request.param, "LAUNCH_PROXY_ROLES": "ops=operator"}
    with serving(redis_url, tmp_path, **variables) as server:
        server.application.include_router(router)
        yield server


@pytest.mark.parametrize("proxied", ["127.0.0.0/8"], indirect=True)
def test_a_trusted_proxy_says_who_asks_and_from_where(proxied: TestServer) -> None:
    with proxied.client("") as client:
        found = client.get("/api/v1/whoami", headers=PROXY).json()
        assert (found["name"], found["role"], found["how"]) == ("eve", "operator", "proxy")
        assert client.get("/api/v1/whoami").status_code == 401
        client.post("/test/queues/q/pause", headers=PROXY)
        assert audit(proxied)[-1]["address"] == "10.9.8.7"
        answer = client.get("/", params={"token": KEY}, headers={"X-Forwarded-Proto": "https"})
        assert answer.headers["set-cookie"].startswith("__Host-")
        assert "Secure" in answer.headers["set-cookie"]
        assert "max-age" in answer.headers["strict-transport-security"]


@pytest.mark.parametrize("proxied", ["10.0.0.1"], indirect=True)
def test_nobody_else_says_who_asks(proxied: TestServer) -> None:
    with proxied.client("") as client:
        assert client.get("/api/v1/whoami", headers=PROXY).status_code == 401
        answer = client.get("/", params={"token": KEY}, headers={"X-Forwarded-Proto": "https"})
        assert "Secure" not in answer.headers["set-cookie"]


def test_an_act_is_in_the_audit_with_its_end(peopled: TestServer, browser: httpx.Client) -> None:
    log_in(browser, "otto")
    browser.post("/test/runs/r1/cancel")
    browser.post("/test/runs/over/cancel")
    browser.post("/test/runs/breaks/cancel")
    browser.post("/test/queues/gpu/pause")
    browser.get("/api/v1/whoami")
    # A result is written when the answer has been sent.
    wait_until(lambda: all(line["result"] for line in audit(peopled)[-4:]))
    lines = audit(peopled)[-4:]
    assert {line["actor"] for line in lines} == {"otto"}
    assert {line["address"] for line in lines} == {"127.0.0.1"}
    assert [(line["what"], line["kind"], line["target"]) for line in lines] == [
        ("cancel", "run", "r1"),
        ("cancel", "run", "over"),
        ("cancel", "run", "breaks"),
        ("pause", "queue", "gpu"),
    ]
    results = [line["result"] for line in lines]
    assert results[:3] == ["done", "run over is Finished", "failed"]
    assert "otto has the role operator" in results[3]


def test_a_refused_login_is_in_the_audit(peopled: TestServer, browser: httpx.Client) -> None:
    log_in(browser, "ada", "a wrong password")
    line = audit(peopled)[-1]
    assert (line["what"], line["target"], line["address"]) == ("login", "ada", "127.0.0.1")
    assert line["result"]


def test_without_the_database_acts_go_on_and_the_log_has_them(
    peopled: TestServer, browser: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    log_in(browser, "otto")
    assert browser.get("/api/v1/whoami").status_code == 200
    peopled.shared.database.close()
    file = peopled.shared.database.file
    assert file is not None
    file.rename(file.with_suffix(".away"))
    file.mkdir()
    for name in ("archive.db-wal", "archive.db-shm"):
        file.with_name(name).unlink(missing_ok=True)
    assert browser.post("/test/runs/r1/cancel").json() == "otto"
    assert "audit.unwritten actor=otto what=cancel kind=run target=r1 address=127.0.0.1" in caplog.text
    assert log_in(browser).status_code == 503
