"""What others wrote is text wherever it is shown; and no part of a password is shown anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from urllib.parse import quote, unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as of_hypothesis
from hypothesis import strategies as st

from launch_worker.api.client import Api
from launch_worker.database.database import Database
from launch_worker.dev.redis_server import RedisServer
from launch_worker.errors import LaunchError
from launch_worker.objects import Objects
from launch_worker.server.asker import declarations
from launch_worker.server.pages.routers import PAGES
from launch_worker.settings import Settings, variable_of
from launch_worker.settings_origin import configuration
from tests.support.hostile import fill
from tests.support.http_servers import serving
from tests.support.redis_client import redis_of
from tests.unit.test_redis_url import PASSWORDS, PATIENT, shows

#: Markup that ends an attribute and acts; a template; what steers a terminal; a header.
EVIL = "\"'><img src=x onerror=alert(1)>{{7*7}}\x1b]0;PWN\x07\x9b31m\u202eevil\r\nSet-Cookie: forged=1\x00\x7f\u2066"
#: Routes that answer for as long as somebody listens.
STREAMS = re.compile(r"events|ring|tail|wait|live|celery|/follow|first-admin|oidc")


@pytest.fixture(scope="module")
def answers(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[tuple[str, httpx.Response]]]:
    """All that a server says of a system of which every text is hostile, by the address that was asked."""
    api = Api(redis_server.url)
    redis_of(redis_server.url).flushall()
    ids = fill(api, EVIL)
    evil = quote(EVIL, safe="")
    values = {
        "run_id": [ids["run"], ids["waiting"]],
        "sweep_id": ["01sweep", "01deep"],
        "name": ["nightly", "waiting", "lab", evil],
        "path": ["kept", evil],
        "tab": ["timeline", "metrics", "resources", "details", "files"],
    }
    with serving(redis_server.url, tmp_path_factory.mktemp("server")) as server, server.client() as client:
        routes = [path for path, kinds in client.get("/openapi.json").json()["paths"].items() if "get" in kinds]
        pages = [route.path for router in PAGES for route, _ in declarations(router) if "GET" in (route.methods or ())]
        found = []
        for route in dict.fromkeys((*routes, *pages, f"/runs?name={evil}&tag={evil}", f"/no/such/{evil}")):
            if STREAMS.search(route):
                continue
            for path in filled(route, values):
                kind = "application/json" if route in routes else "text/html"
                found.append((path, client.get(path, headers={"Accept": kind})))
        yield found


def filled(route: str, values: dict[str, list[str]]) -> list[str]:
    """The route with each value of each of its parameters."""
    paths = [route]
    for name in re.findall(r"\{(\w+)(?::\w+)?\}", route):
        part = re.search(rf"\{{{name}(:\w+)?\}}", route)
        assert part is not None
        paths = [path.replace(part[0], value) for path in paths for value in values.get(name, ["x"])]
    return paths


def test_no_text_of_others_breaks_an_answer_of_the_server(answers: list[tuple[str, httpx.Response]]) -> None:
    assert len(answers) > 100
    assert sum(answer.status_code == 200 for _, answer in answers) > 70
    assert [path for path, answer in answers if answer.status_code >= 500] == []
    assert sum("alert(1)" in answer.text for _, answer in answers) > 30, "they did show what is hostile"
    for path, answer in answers:
        if answer.headers.get("content-type", "").startswith("application/json"):
            assert json.loads(answer.content.decode()) is not None, path


def test_no_text_of_others_becomes_a_part_of_a_page_or_a_header(answers: list[tuple[str, httpx.Response]]) -> None:
    for path, answer in answers:
        assert "set-cookie" not in answer.headers, path
        assert all(value.isprintable() and "forged" not in value for value in answer.headers.values()), path
        if answer.headers.get("content-type", "").startswith("text/html"):
            assert "<img src=x" not in answer.text, path
            assert "49\x1b" not in answer.text, path


def test_a_file_of_a_job_is_no_page_of_the_server(answers: list[tuple[str, httpx.Response]]) -> None:
    files = [answer for path, answer in answers if "/files/kept" in path and answer.status_code == 200]
    assert files
    for answer in files:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"].startswith("attachment")


# -- passwords in URLs ---------------------------------------------------------------------------------------------

URLS = sorted(of.name for of in fields(Settings) if of.name.endswith("_url"))
HEADS = ("redis://", "rediss://", "postgresql://", "sqlite://", "smtp://", "https://", "s3://", "file://", "nosuch://")
#: Beginnings with a slip of the pen.
SLIPS = ("", "redis:/", "postgresql:", "//", "https:///", "smtp:", "s3:/")


@PATIENT
@given(
    name=st.sampled_from(URLS),
    head=st.sampled_from(HEADS + SLIPS),
    login=st.sampled_from(["{}", ":{}", "me:{}"]),
    password=PASSWORDS,
    place=st.sampled_from(["h", "h:5432/db", "", "h:x/y", "[::1", "bucket/prefix", "h?a=b", "h#a"]),
)
def test_no_part_of_a_password_is_shown_whichever_url_has_it(
    name: str, head: str, login: str, password: str, place: str
) -> None:
    url = f"{head}{login.format(password)}@{place}"
    variable, said = variable_of(name), []
    env = {variable: url, "XDG_STATE_HOME": "/nonexistent"}
    said.append(repr(configuration(env, folder=Path("/nonexistent"))))
    for use in (Settings.from_env, Settings.of_client, lambda env: Settings.from_env(env).for_reading()):
        try:
            use(env)
        except LaunchError as error:
            said += [str(error), repr(error.__cause__)]
    assert not shows("\n".join(said), password), url


@pytest.mark.parametrize("password", ["secret", "pa%40ss", "pa@ss", "p:a/s#s?x=[1]", "%", "a b"])
def test_a_database_is_opened_by_the_password_that_its_url_has(password: str) -> None:
    url = Database(f"postgresql://me:{password}@[::1]:5432/launch?sslmode=require").url
    assert (url.username, url.password, url.host, url.port, url.database, url.query) == (
        *("me", unquote(password), "::1", 5432, "launch"),
        {"sslmode": "require"},
    )
    for plain in ("postgresql:///launch", "postgresql://h/launch", "postgresql:///launch?application_name=a@b"):
        assert unquote(Database(plain).shown) == plain


@of_hypothesis(PATIENT, max_examples=15)
@given(head=st.sampled_from(HEADS + SLIPS), password=PASSWORDS)
def test_no_part_of_a_password_is_in_what_a_store_or_a_database_says(head: str, password: str) -> None:
    url = f"{head}me:{password}@127.0.0.1:1/x"
    said = []
    for use in (
        lambda: Database(url).shown,
        lambda: _read(Database(url)),
        lambda: Objects(url, setting="LAUNCH_LOG_URL", what="logs").shown,
        lambda: _look(url),
    ):
        try:
            said.append(str(use()))
        except LaunchError as error:
            said += [str(error), repr(error)]
    assert not shows("\n".join(said), password), url


def _read(database: Database) -> None:
    try:
        with database.reading():
            pass
    finally:
        database.close()


def _look(url: str) -> None:
    if url.startswith(("file:", "nosuch:")):
        Objects(url, setting="LAUNCH_LOG_URL", what="logs").facts("a")
