"""`sentinel://` from end to end: a master is killed while a job runs, and nothing that had been replicated is lost."""

from __future__ import annotations

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

_PASSWORD = "of-the-servers"


class Servers:
    """A master, its replica, and three sentinels of which two must agree."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {name: own_port() for name in ("a", "b", "s1", "s2", "s3")}
        both = f"requirepass {_PASSWORD}\nmasterauth {_PASSWORD}\nappendonly yes\nmin-replicas-to-write 0\n"
        self._start("a", both)
        self._start("b", f"{both}replicaof 127.0.0.1 {self.ports['a']}\nrepl-diskless-sync-delay 0\n")
        for name in ("s1", "s2", "s3"):
            watched = f"sentinel monitor main 127.0.0.1 {self.ports['a']} 2\nsentinel auth-pass main {_PASSWORD}\n"
            times = "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
            self._start(name, watched + times, "--sentinel")
        wait_until(
            lambda: self._replicated() and self._known(), timeout_s=30, what="servers and sentinels know each other"
        )

    @property
    def url(self) -> str:
        sentinels = ",".join(f"127.0.0.1:{self.ports[name]}" for name in ("s1", "s2", "s3"))
        return f"sentinel://:{_PASSWORD}@{sentinels}/main/0"

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def _start(self, name: str, config: str, *options: str) -> None:
        folder = self._folder / name
        folder.mkdir()
        path = folder / "redis.conf"
        path.write_text(f"bind 127.0.0.1\nport {self.ports[name]}\ndir {folder}\n{config}")
        with (folder / "log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [find_redis_server(), str(path), *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _replicated(self) -> bool:
        with redis.Redis(port=self.ports["b"], password=_PASSWORD) as client:
            try:
                return bool(client.info("replication").get("master_link_status") == "up")
            except redis.exceptions.RedisError:
                return False

    def _known(self) -> bool:
        """Each sentinel knows the replica and the two others: before, they cannot agree."""
        try:
            for name in ("s1", "s2", "s3"):
                with redis.Redis(port=self.ports[name], decode_responses=True) as client:
                    raw = client.execute_command("SENTINEL", "MASTER", "main")
                    told = raw if isinstance(raw, dict) else dict(zip(raw[::2], raw[1::2], strict=True))
                    if (int(told["num-slaves"]), int(told["num-other-sentinels"])) != (1, 2):
                        return False
        except redis.exceptions.RedisError:
            return False
        return True


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path)
    yield made
    made.close()


@pytest.fixture
def cluster(servers: Servers, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(servers.url, tmp_path)
    made.env |= {"LAUNCH_LEASE_S": "10", "LAUNCH_HEARTBEAT_S": "1"}
    yield made
    made.close()


def test_the_system_goes_on_with_the_new_master_when_the_old_one_is_killed(cluster: Cluster, servers: Servers) -> None:
    worker = cluster.worker()
    beat = cluster.beat()
    flower = cluster.celery("flower", f"--port={own_port()}", "--address=127.0.0.1", name="flower")
    wait_until(lambda: "Connected to sentinel" in flower.log, what="flower is up")
    first = cluster.run("launch-submit", "--wait", "--", "sh", "-c", "exit 3")
    assert first.code == 3, first
    run = submit(["sh", "-c", f"echo begun; {waits_for(cluster.folder / 'end')}; echo ended"], api=cluster.api)
    wait_for_output(run, b"begun")
    servers.processes["a"].kill()
    servers.processes["a"].wait()

    def is_back() -> bool:
        try:
            return bool(cluster.api.store.workers())
        except BrokerUnavailableError:
            return False

    wait_until(is_back, timeout_s=30, what="the replica is the master")
    after = submit(["sh", "-c", "echo after"], api=cluster.api)
    assert after.wait(40) is RunState.FINISHED
    (cluster.folder / "end").touch()
    assert run.wait(40) is RunState.FINISHED
    assert run.logs() == b"begun\nended\n"
    assert states(run).count("Running") == 1
    assert "OK" in cluster.run("celery", "-A", "launch_worker", "inspect", "ping").out
    for part in (worker, beat, flower):
        assert part.process.poll() is None, part.log
        assert _PASSWORD not in part.log


def test_sentinels_that_know_no_such_master_are_one_clear_sentence(cluster: Cluster, servers: Servers) -> None:
    result = cluster.run("launch-worker", "runs", env={"LAUNCH_REDIS_URL": servers.url.replace("/main/", "/other/")})
    assert (result.code, result.err.count("\n")) == (69, 1), result
    assert _PASSWORD not in result.err
