"""A backup is restored as docs/operations.md says to do it, while workers go on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from launch_worker import submit
from launch_worker.dev.redis_server import find_redis_server
from launch_worker.errors import BrokerUnavailableError
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.support.ports import own_port
from tests.system.conftest import Cluster, states, wait_for_output, waits_for


class Server:
    """A Redis whose folder and options a test chooses anew at each start, on the same port."""

    def __init__(self) -> None:
        self.port = own_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, folder: Path, *, appendonly: str) -> redis.Redis:
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", appendonly)
        self._process = subprocess.Popen(
            [find_redis_server(), *options, "--save", ""], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        client = redis.Redis(port=self.port)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.exceptions.ConnectionError:
                return False

        wait_until(answers, what="Redis answers")
        return client

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


def test_runs_that_outlived_a_restore_of_dump_rdb_end_as_what_they_were(server: Server, tmp_path: Path) -> None:
    lost, anew = tmp_path / "lost", tmp_path / "anew"
    lost.mkdir()
    anew.mkdir()
    admin = server.start(lost, appendonly="yes")
    cluster = Cluster(server.url, tmp_path)
    cluster.env |= {"LAUNCH_LEASE_S": "10"}
    try:
        cluster.worker(slots=3)
        ended = submit(["true"], api=cluster.api)
        assert ended.wait(20) is RunState.FINISHED
        running = submit(["sh", "-c", f"echo begun; {waits_for(tmp_path / 'end')}; echo ended"], api=cluster.api)
        wait_for_output(running, b"begun")
        admin.save()
        admin.close()
        begun_later = submit(["sh", "-c", f"echo begun; {waits_for(tmp_path / 'end')}; echo ended"], api=cluster.api)
        wait_for_output(begun_later, b"begun")

        server.stop()
        # Both end before their worker can tell of them.
        (tmp_path / "end").touch()
        shutil.copy(lost / "dump.rdb", anew)
        admin = server.start(anew, appendonly="no")

        def workers() -> bool:
            try:
                return bool(cluster.api.store.workers())
            except BrokerUnavailableError:
                return False

        wait_until(workers, what="the worker is back")
        assert cluster.run("launch-submit", "--wait", "--", "true").code == 0
        admin.config_set("appendonly", "yes")
        wait_until(lambda: admin.info("persistence")["aof_rewrite_in_progress"] == 0, what="the file is whole")
        assert ended.refresh().state is RunState.FINISHED
        wait_until(lambda: cluster.api.store.peek(begun_later.id), what="its worker has told of the later one")
        for run in (running, begun_later):
            assert run.wait(30) is RunState.FINISHED
            assert run.logs().endswith(b"ended\n")
            assert "Crashed" not in states(run)
        said = cluster.run("launch-worker", "doctor")
        assert said.code == 0, said
        assert "Redis was restored from a snapshot" in said.out
        assert "Redis keeps an append-only file" in said.out
        admin.close()
    finally:
        cluster.close()
