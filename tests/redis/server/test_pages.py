"""What every page has: who may open it, what is around it, and news for the parts of it that are live."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import httpx
import pytest

from launch_worker.server.asker import declarations
from launch_worker.server.pages.routers import PAGES
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.http_servers import TestServer
from tests.support.people import tokens_of_everybody

HTML = {"Accept": "text/html"}


def test_who_is_not_logged_in_is_led_to_the_login_and_back(stranger: httpx.Client) -> None:
    answer = stranger.get("/workers?x=1", headers=HTML)
    assert answer.status_code in (303, 404)
    answer = stranger.get("/", headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2F")


def test_a_page_shows_only_where_its_person_may_go(server: TestServer) -> None:
    tokens = tokens_of_everybody(server)

    def links(name: str) -> set[str]:
        with server.client(tokens[name]) as client:
            text = client.get("/", headers=HTML).text
        return set(re.findall(r'href="(/[a-z]*)"', text))

    assert {"/people", "/audit", "/submit"} <= links("admin")
    assert {"/people", "/audit", "/submit"} & links("viewer") == set()
    assert "/submit" in links("member")


def test_a_part_of_a_page_comes_without_what_is_around_it(client: httpx.Client) -> None:
    whole = client.get("/", headers=HTML).text
    part = client.get("/", headers=HTML | {"HX-Request": "true"}).text
    assert "<nav" in whole
    assert 'aria-label="Pages"' not in part
    assert 'id="overview"' in part
    assert 'id="now"' in part


def test_a_part_of_a_page_whose_login_has_ended_is_refused_and_not_led_to_the_login(stranger: httpx.Client) -> None:
    answer = stranger.get("/", headers=HTML | {"HX-Request": "true"})
    assert answer.status_code == 401


def test_a_theme_is_kept_by_the_browser(client: httpx.Client) -> None:
    assert "data-theme" not in client.get("/", headers=HTML).text
    answer = client.post("/theme", data={"theme": "dark", "next": "/queues?a=b"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/queues?a=b")
    assert '<html lang="en" data-theme="dark">' in client.get("/", headers=HTML).text
    client.post("/theme", data={"theme": "", "next": "//evil.example"})
    assert "data-theme" not in client.get("/", headers=HTML).text


def test_an_error_is_a_page_with_its_sentence_for_who_came_with_a_browser(client: httpx.Client) -> None:
    answer = client.get("/nothing-here", headers=HTML)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "there is nothing at this address" in answer.text


def test_static_files_are_kept_for_good_by_their_hash(client: httpx.Client) -> None:
    page = client.get("/", headers=HTML).text
    for address in re.findall(r'"(/static/[^"]+)"', page):
        assert "immutable" in client.get(address).headers["cache-control"], address
    assert "immutable" not in client.get("/static/js/live.js").headers.get("cache-control", "")


@pytest.fixture
def rings(server: TestServer) -> Iterator[list[str]]:
    """What a page that shows runs is told."""
    heard: list[str] = []
    stopped = threading.Event()

    def follow() -> None:
        with server.client() as client, client.stream("GET", "/ring?kind=run", timeout=30) as stream:
            for line in stream.iter_lines():
                heard.append(line)
                if stopped.is_set():
                    return

    thread = threading.Thread(target=follow)
    thread.start()
    wait_until(lambda: heard)
    yield heard
    stopped.set()
    server.stop()
    thread.join()


def test_a_page_is_rung_for_its_kinds_and_once_for_many_changes(
    rings: list[str], client: httpx.Client, store: Store
) -> None:
    client.post("/api/v1/queues", json={"name": "other"}).raise_for_status()
    lines = "\n".join('{"command": ["true"]}' for _ in range(200))
    client.post("/api/v1/runs/bulk", content=lines).raise_for_status()
    wait_until(lambda: "event: ring" in rings)
    assert rings.count("event: ring") <= 2


def test_every_page_declares_who_may_open_it() -> None:
    paths = {route.path for router in PAGES for route, _ in declarations(router)}
    assert "/" in paths
    assert "/ring" in paths


def test_an_empty_system_says_what_to_type(client: httpx.Client) -> None:
    for path in ("/", "/runs"):
        assert "launch-submit --name first -- echo hello" in client.get(path, headers=HTML).text
    assert "No run fits these choices" in client.get("/runs?q=x", headers=HTML).text
