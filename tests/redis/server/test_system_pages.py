"""The pages of queues, pools, workers, schedules and problems: what they show, and what their forms do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.html import text_of
from tests.support.http_servers import TestServer, serving
from tests.support.people import PRIVATE, tokens_of_everybody

HTML = {"Accept": "text/html"}


@pytest.fixture
def browser(client: httpx.Client) -> httpx.Client:
    client.headers.update(HTML)
    return client


def test_a_queue_is_made_configured_paused_and_deleted_by_forms(browser: httpx.Client) -> None:
    assert browser.post("/queues", data={"name": "night shift"}).status_code == 422
    made = browser.post("/queues", data={"name": "night"})
    assert (made.status_code, made.headers["location"]) == (303, "/queues/night")
    browser.post("/pools", data={"name": "all"})
    form = {"limit": "2", "pool": "all", "rank": "3", "resource": "", "description": "After dark", "macro_env": ""}
    form |= {
        "defaults": '{"priority": "low", "tags": ["n"]}',
        "admits": '{"ml": "high"}',
        "container": "",
        "variables": "",
    }
    assert browser.post("/queues/night", data=form).status_code == 303
    shown = browser.get("/api/v1/queues/night").json()
    assert (shown["limit"], shown["pool"], shown["rank"], shown["description"]) == (2, "all", 3, "After dark")
    assert (shown["defaults"]["tags"], shown["admits"]) == (["n"], {"ml": "high"})

    # What is emptied is taken away, and what is left as it was changes nothing.
    assert browser.post("/queues/night", data=form | {"limit": "", "admits": "", "defaults": ""}).status_code == 303
    shown = browser.get("/api/v1/queues/night").json()
    assert (shown["limit"], shown["admits"], shown["defaults"], shown["rank"]) == (None, {}, {}, 3)
    assert browser.post("/queues/night", data={"limit": "0"}).status_code == 303
    assert browser.get("/api/v1/queues/night").json()["limit"] == 0

    browser.post("/queues/night/pause")
    assert "Paused" in text_of(browser.get("/queues").text)
    browser.post("/queues/night/resume")
    assert browser.get("/api/v1/queues/night").json()["paused"] is False
    assert browser.post("/queues/night/delete").headers["location"] == "/queues"
    assert browser.get("/queues/night").status_code == 404


def test_a_wrong_setting_is_said_beside_the_form_and_in_the_audit(browser: httpx.Client) -> None:
    browser.post("/queues", data={"name": "night"})
    for field, value, sentence in [
        ("limit", "many", "limit must be a whole number"),
        ("defaults", "{", "defaults is not JSON"),
        ("defaults", "[]", "defaults must be a JSON object"),
        ("pool", "nowhere", "there is no pool"),
    ]:
        answer = browser.post("/queues/night", data={field: value})
        assert answer.status_code in (404, 422), answer.text
        assert sentence in text_of(answer.text)
    acts = browser.get("/api/v1/audit", params={"what": "set"}).json()["acts"]
    assert all(act["result"] not in ("", "done") for act in acts)


def test_a_queue_says_what_waits_in_it_and_why(browser: httpx.Client) -> None:
    browser.post("/api/v1/runs", json={"command": ["true"], "queue": "nobody", "name": "waiting one"})
    page = browser.get("/queues/nobody").text
    assert "waiting one" in page
    assert "no worker consumes queue nobody" in text_of(page)
    assert "No worker" in text_of(browser.get("/queues").text)
    assert "no worker consumes queue nobody" in text_of(browser.get("/problems").text)


def test_who_may_not_set_queues_sees_no_buttons_and_is_refused(server: TestServer) -> None:
    tokens = tokens_of_everybody(server)
    with server.client(tokens["admin"]) as admin:
        admin.post("/queues", data={"name": "night"})
    with server.client(tokens["operator"]) as client:
        client.headers.update(HTML)
        page = client.get("/queues/night").text
        assert "<form" not in page.partition("<main")[2]
        for path in ("/queues/night", "/queues/night/pause", "/queues/night/delete", "/queues", "/pools"):
            answer = client.post(path, data={"name": "x"})
            assert answer.status_code == 403
            assert "this takes admin" in text_of(answer.text)


def test_a_schedule_is_run_now_and_deleted_by_who_may(server: TestServer) -> None:
    tokens = tokens_of_everybody(server)
    wanted = {"cron": "0 3 * * *", "given": {"command": ["echo", "<i>hi</i>"], "project": PRIVATE}}
    with server.client(tokens["insider"]) as insider, server.client(tokens["member"]) as member:
        insider.headers.update(HTML)
        member.headers.update(HTML)
        insider.put("/api/v1/schedules/nightly", json=wanted).raise_for_status()
        page = insider.get("/schedules").text
        assert "echo &lt;i&gt;hi&lt;/i&gt;" in page
        assert "No schedule yet" in member.get("/schedules").text
        assert member.post("/schedules/nightly/run").status_code == 404
        answer = insider.post("/schedules/nightly/run")
        assert answer.status_code == 303
        run = insider.get(f"/api/v1{answer.headers['location']}").json()
        assert (run["user"], run["project"]) == ("insider", PRIVATE)
        assert member.post("/schedules/nightly/pause").status_code == 404
        assert insider.post("/schedules/nightly/pause").status_code == 303
        assert "Paused" in text_of(insider.get("/schedules").text)
        assert insider.post("/schedules/nightly/resume").status_code == 303
        assert "Paused" not in text_of(insider.get("/schedules").text)
        assert insider.post("/schedules/nightly/delete").status_code == 303
        assert "No schedule yet" in insider.get("/schedules").text


def test_a_worker_that_is_gone_is_shown_for_an_hour(redis_url: str, store: Store, tmp_path: Path) -> None:
    with serving(redis_url, tmp_path, with_archive=True) as server, server.client() as client:
        client.headers.update(HTML)
        described: dict[str, Any] = {"worker": "w@lab3", "owner": "lab3.7.ab", "host": "lab3", "pid": 7}
        described |= {"queues": ["gpu"], "slots": 2, "running": 0, "state": "running", "problem": ""}
        store.heartbeat(
            [], owner="lab3.7.ab", worker="w@lab3", lease_s=30, gone_s=60, description=described, queues=["gpu"]
        )
        wait_until(lambda: "w@lab3" in client.get("/workers").text)
        assert "running" in text_of(client.get("/workers/w@lab3").text)
        store.goodbye("lab3.7.ab", queues=["gpu"])

        def gone() -> str:
            return text_of(client.get("/workers").text).partition("Gone in the last hour")[2]

        wait_until(lambda: "left w@lab3 lab3 gpu" in gone(), timeout_s=30)
        [told] = client.get("/api/v1/workers/gone").json()["workers"]
        assert (told["worker"], told["state"], told["queues"]) == ("w@lab3", "left", ["gpu"])


def test_a_worker_is_not_there_before_it_is(browser: httpx.Client) -> None:
    assert "No worker is there" in text_of(browser.get("/workers").text)
    assert browser.get("/workers/celery@nowhere").status_code == 404
    answer = browser.post("/workers/celery@nowhere/drain")
    assert answer.status_code == 404
    assert "celery@nowhere" in text_of(answer.text)
