"""`/metrics` of a server: behind its login, without a name of anybody or anything, and answered while Redis is away."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx

from launch_worker.dev.redis_server import RedisServer
from launch_worker.store.store import Store
from tests.support.arrows import create
from tests.support.http_servers import TestServer, serving
from tests.support.people import PRIVATE, tokens_of_everybody
from tests.support.redis_client import redis_of


def test_metrics_take_a_login_that_sees_all_projects(server: TestServer, stranger: httpx.Client) -> None:
    assert stranger.get("/metrics").status_code == 401
    tokens = tokens_of_everybody(server)
    found = {
        name: stranger.get("/metrics", headers={"Authorization": f"Bearer {token}"}) for name, token in tokens.items()
    }
    allowed = {name for name, answer in found.items() if answer.status_code == 200}
    # The others do not see the private project; a role in it is enough.
    assert allowed == {"admin", "insider"}
    assert {answer.status_code for name, answer in found.items() if name not in allowed} == {403}


def test_metrics_tell_no_name_of_a_run_project_or_user(client: httpx.Client, store: Store) -> None:
    run_id = create(store, name="secret-plan", project=PRIVATE, queue="gpu", author="ada@host", tags=("hidden",))
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'launch_queue_waiting{queue="gpu"} 1.0' in answer.text
    assert not [word for word in (run_id, "secret-plan", "ada", "hidden") if word in answer.text]


def test_while_redis_hangs_or_is_away_a_scrape_says_so_soon(tmp_path: Path) -> None:
    redis = RedisServer()
    redis.start()
    with serving(redis.url, tmp_path) as server, server.client() as client:
        assert "launch_up 1.0" in client.get("/metrics").text
        os.kill(redis_of(redis.url).info("server")["process_id"], signal.SIGSTOP)
        # Redis is given 1.5 s to connect and 3 s to answer.
        hangs = client.get("/metrics", timeout=15)
        redis.kill()
        redis.stop()
        for answer in (hangs, client.get("/metrics")):
            assert answer.status_code == 200
            assert [line for line in answer.text.splitlines() if line[0] != "#"] == ["launch_up 0.0"]
