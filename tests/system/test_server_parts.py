"""What a server keeps beside its routes: the archive and Celery's own page, child processes."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from launch_worker.archive import schema
from launch_worker.archive.leader import LEASE_S
from launch_worker.database import open_database
from launch_worker.database.version import has_tables
from launch_worker.dev.redis_server import RedisServer
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from tests.conftest import wait_until
from tests.support.arrows import create
from tests.support.http_servers import TestServer, serving
from tests.system.conftest import Cluster


def test_the_server_archives(redis_url: str, tmp_path: Path) -> None:
    settings = Settings.from_env({"LAUNCH_WORK_DIR": str(tmp_path)}, redis_url=redis_url)

    def archived() -> set[str]:
        database = open_database(settings, create=True)
        with database.reading() as connection:
            ids = {row.id for row in connection.execute(schema.runs.select())} if has_tables(database) else set()
        database.close()
        return ids

    with serving(redis_url, tmp_path, with_archive=True) as server:
        run_id = create(server.shared.connection.store)
        wait_until(lambda: run_id in archived())
    # It has let go: the next one need not wait for the end of a lease.
    with serving(redis_url, tmp_path, with_archive=True) as server:
        run_id = create(server.shared.connection.store)
        wait_until(lambda: run_id in archived(), timeout_s=LEASE_S - 5)


@pytest.fixture(scope="module")
def page(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """A server with Celery's page, which answers."""
    with serving(redis_server.url, tmp_path_factory.mktemp("server"), with_celery_page=True) as server:
        with server.client() as client:
            wait_until(lambda: client.get("/celery/").status_code == 200, timeout_s=60)
        yield server


def pid_of(server: TestServer) -> int | None:
    page = server.shared.celery_page
    assert page is not None
    return page.pid


def test_its_pages_come_through_with_what_they_need(page: TestServer) -> None:
    with page.client() as client:
        for path in ("/celery/workers", "/celery/tasks", "/celery/broker"):
            answer = client.get(path)
            assert answer.status_code == 200, path
            policy = answer.headers["content-security-policy"]
            for script in re.findall(r"<script[^>]*>([^<]+)</script>", answer.text):
                assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
            for asset in set(re.findall(r'(?:src|href)="(/celery/static/[^"]+)"', answer.text)):
                assert client.get(asset).status_code == 200, asset
        assert client.get("/celery", follow_redirects=True).status_code == 200


def test_it_is_behind_the_login_and_has_no_metrics(page: TestServer) -> None:
    with page.client("") as stranger, page.client() as client:
        for path in ("/celery/", "/celery/tasks", "/celery/metrics", "/celery/healthcheck", "/celery/api/workers"):
            assert stranger.get(path).status_code == 401, path
        assert client.get("/celery/metrics").status_code == 422
        # What it answers says nothing to other sites, and leaves no cookie of its own.
        answer = client.get("/celery/api/workers")
        assert "access-control-allow-origin" not in answer.headers
        assert "set-cookie" not in client.get("/celery/tasks").headers


def test_other_sites_frames_and_names_get_nothing_of_it(page: TestServer) -> None:
    with page.client() as client:
        answer = client.get("/celery/tasks")
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert client.get("/celery/tasks", headers={"Host": "evil.example"}).status_code == 421
        for path in ("task/revoke/x", "worker/shutdown/x", "worker/pool/grow/x", "worker/queue/add-consumer/x"):
            for foreign in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
                assert client.post(f"/celery/api/{path}", headers=foreign).status_code == 403, path


def test_no_task_is_sent_through_it(page: TestServer) -> None:
    with page.client() as client:
        for word in ("apply", "async-apply", "send-task"):
            answer = client.post(f"/celery/api/task/{word}/launch_worker.passes", json={"args": []})
            assert answer.status_code == 403
            assert "launch-submit" in answer.json()["detail"]


def test_while_it_hangs_all_else_answers(page: TestServer) -> None:
    pid = pid_of(page)
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with page.client() as client, httpx.Client(base_url=page.url, trust_env=False) as other:
            with pytest.raises(httpx.ReadTimeout):
                client.get("/celery/tasks", timeout=0.5)
            assert other.get("/ready", timeout=5).status_code == 200
    finally:
        os.kill(pid, signal.SIGCONT)


def test_it_is_started_again_when_it_dies(page: TestServer) -> None:
    pid = pid_of(page)
    assert pid
    os.kill(pid, signal.SIGKILL)
    with page.client() as client:
        wait_until(lambda: pid_of(page) not in (pid, None) and client.get("/celery/").status_code == 200, timeout_s=60)


def test_its_buttons_are_ours(page: TestServer, cluster: Cluster) -> None:
    worker = cluster.worker()
    name = cluster.api.store.workers()[0]["worker"]
    waiting = create(cluster.api.store, queue="nobodys")
    with page.client() as client:
        answer = client.post(f"/celery/api/task/revoke/{waiting}", params={"terminate": "true"})
        assert answer.status_code == 200
        assert cluster.api.run(waiting).state is RunState.KILLED
        assert "on Celery's page" in cluster.api.run(waiting).record.reason
        assert client.post("/celery/api/worker/shutdown/nobody@here").status_code == 404
        assert client.post(f"/celery/api/worker/shutdown/{name}").status_code == 200
    assert worker.wait() == 0
    assert "drain" in worker.log
