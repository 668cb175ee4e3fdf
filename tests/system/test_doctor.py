"""What is wrong with an installation is found, with its cause and what to do, by `doctor` and `status` alike."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from launch_worker import submit
from launch_worker.api.client import Api
from launch_worker.dev.redis_server import RedisServer, find_redis_server
from launch_worker.errors import BrokerUnavailableError
from launch_worker.model.finding import Finding
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.redis.store.test_causes import own_address
from tests.support.ports import own_port
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis that may be spoiled."""
    made = RedisServer()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def cluster(server: RedisServer, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(server.url, tmp_path)
    yield made
    made.close()


def doctor(cluster: Cluster, **env: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Its exit code, and what it finds by name."""
    result = cluster.run("launch-worker", "doctor", "--json", env=env)
    assert not result.err, result
    return result.code, {found["name"]: found for found in map(json.loads, result.out.splitlines())}


def test_who_deletes_whole_logs_and_whether_their_store_answers_is_said(cluster: Cluster, tmp_path: Path) -> None:
    assert "logs" not in doctor(cluster)[1]
    url = f"file://{tmp_path}/not made yet"
    found = doctor(cluster, LAUNCH_LOG_URL=url)[1]
    assert url in found["logs"]["text"]
    assert "nothing deletes the logs" in found["logs.undeleted"]["cause"]
    cluster.api.store.register_archive("it")
    assert "process has no LAUNCH_LOG_URL" in doctor(cluster, LAUNCH_LOG_URL=url)[1]["logs.undeleted"]["cause"]
    cluster.api.store.register_archive("it", log_url=url)
    assert "logs.undeleted" not in doctor(cluster, LAUNCH_LOG_URL=url)[1]
    cluster.api.store.register_archive("it", output_url=url)
    found = doctor(cluster, LAUNCH_LOG_URL=url, LAUNCH_OUTPUT_URL=url)[1]
    assert ("logs.undeleted" in found, "outputs.undeleted" in found) == (True, False)
    found = doctor(cluster, LAUNCH_OUTPUT_URL=f"{url} either")[1]
    assert url in found["outputs.undeleted"]["cause"]
    code, found = doctor(cluster, LAUNCH_LOG_URL="ftp://me:hunter2@127.0.0.1:1/logs")
    assert (code, found["logs.away"]["level"]) == (1, "error")
    assert "hunter2" not in str(found)


def an_ended_run(cluster: Cluster) -> str:
    run = submit(["true"], api=cluster.api)
    redis = redis_of(cluster.redis_url)
    redis.hset(keys.run(run.id), mapping={"state": "Finished", "exit_code": "0", "attempt": "1"})
    redis.zrem(keys.runs_by("state", "Pending"), run.id)
    redis.zadd(keys.runs_by("state", "Finished"), {run.id: 1})
    redis.xadd(keys.log(run.id, 1), {"o": "0", "d": "hello\n"})
    return run.id


def make_full(cluster: Cluster, server: RedisServer, tmp_path: Path) -> None:
    redis_of(cluster.redis_url).config_set("maxmemory", 1)


def make_replica(cluster: Cluster, server: RedisServer, tmp_path: Path) -> None:
    redis_of(cluster.redis_url).replicaof("127.0.0.1", own_port())


def make_unsaved(cluster: Cluster, server: RedisServer, tmp_path: Path) -> None:
    redis = redis_of(cluster.redis_url)
    redis.config_set("save", "3600 1")
    shutil.rmtree(server._folder)
    redis.bgsave()
    wait_until(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err")


@pytest.mark.parametrize(
    ("spoil", "name", "words"),
    [
        (make_full, "redis.full", ("is full (maxmemory)", "raise its maxmemory")),
        (make_replica, "redis.replica", ("is a replica of 127.0.0.1", "set LAUNCH_REDIS_URL to the master")),
        (make_unsaved, "redis.not-saved", ("MISCONF", "make room on its disk")),
    ],
)
def test_reading_goes_on_while_redis_takes_no_writes_and_doctor_names_why(
    cluster: Cluster, server: RedisServer, tmp_path: Path, spoil: Any, name: str, words: tuple[str, str]
) -> None:
    run_id = an_ended_run(cluster)
    # Nobody has done a pass for long, so whoever looks would.
    redis_of(cluster.redis_url).hset(keys.PASSES, "crash_stale_runs", 1)
    spoil(cluster, server, tmp_path)
    code, found = doctor(cluster)
    assert code == 1
    assert words[0] in found[name]["cause"]
    assert words[1] in found[name]["advice"]
    assert found[name]["level"] == "error"
    assert not any("start" in str(each["advice"]) and "celery" in str(each["advice"]) for each in found.values())
    for command in ("show", "logs", "wait"):
        result = cluster.run("launch-worker", command, run_id)
        assert (result.code, result.err) == (0, ""), result
    listed = cluster.run("launch-worker", "runs")
    assert listed.code == 0
    assert run_id in listed.out
    assert words[0] in cluster.run("launch-worker", "status").out
    refused = cluster.run("launch-submit", "--", "true")
    assert refused.code == 69
    assert refused.err.count("\n") == 1


def test_status_and_doctor_find_the_same_problems(cluster: Cluster) -> None:
    store = cluster.api.store
    for queue, options in (("nobody", {}), ("gpu", {"gpus": 8})):
        submit(["true"], queue=queue, api=cluster.api, **options)  # type: ignore[arg-type]
    amounts = {"cpus": {"total": 1, "free": 1}, "memory": {"total": 1, "free": 1}, "devices": []}
    for owner in ("a", "b"):
        said: dict[str, Any] = {
            "worker": "w@h",
            "owner": owner,
            "host": "h",
            "pid": 1,
            "queues": ["gpu"],
            "slots": 1,
            "running": 0,
        }
        said |= {"state": "running", "problem": "takes no runs for 30 s more: x", **amounts}
        redis_of(store.url).set(keys.worker(owner), json.dumps(said))
        redis_of(store.url).zadd(keys.WORKERS, {owner: 9e15})
    store.refuse("default", "it is not JSON", b"x")
    redis_of(store.url).hset(keys.PASSES, "crash_stale_runs", 1)
    code, found = doctor(cluster)
    status = json.loads(cluster.run("launch-worker", "status", "--json").out)["problems"]
    assert code == 1
    wrong = {name: each for name, each in found.items() if each["level"] != "ok"}
    assert {"queue.unserved", "run.too-big", "worker.twins", "worker.problem", "item.refused", "passes"} <= set(wrong)
    assert {each["name"] for each in status} == set(wrong)
    assert all(each["cause"] and each["advice"] and each["text"].startswith(each["cause"]) for each in status)
    assert "-Q nobody" in wrong["queue.unserved"]["advice"]
    assert "wants 8 GPUs" in wrong["run.too-big"]["cause"]


def findings(api: Api) -> dict[str, Finding]:
    return {finding.name: finding for finding in api.findings()}


@pytest.mark.parametrize(("hours", "way", "level"), [(3, "ahead of", "error"), (-3, "behind", "error")])
def test_a_wrong_clock_is_found(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, hours: int, way: str, level: str
) -> None:
    now = time.time
    monkeypatch.setattr("launch_worker.api.doctor.redis_server.time.time", lambda: now() + 3600 * hours)
    found = findings(cluster.api)["clock"]
    assert (found.level, "timedatectl" in found.advice) == (level, True)
    assert f"is 3 h {way} that of Redis" in found.cause


def test_a_full_work_folder_is_found_with_what_to_do(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    cluster.api.settings.work_dir.mkdir(parents=True)
    monkeypatch.setattr("launch_worker.api.doctor.machine.shutil.disk_usage", lambda _: Usage(12 << 20))
    found = findings(cluster.api)["work-dir.full"]
    assert found.level == "error"
    assert "only 12 MiB are free" in found.cause
    assert "LAUNCH_WORK_DIR" in found.advice


@pytest.fixture
def open_server(tmp_path: Path) -> Iterator[int]:
    """The port of a Redis without a password on every address."""
    port = own_port()
    words = [find_redis_server(), "--port", str(port), "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]
    (tmp_path / "redis").mkdir()
    with (tmp_path / "redis" / "log").open("wb") as log:
        process = subprocess.Popen(
            [*words, "--dir", str(tmp_path / "redis")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    store = Store(f"redis://127.0.0.1:{port}/0")

    def answers() -> bool:
        try:
            store.ping()
        except BrokerUnavailableError:
            return False
        return True

    wait_until(answers)
    store.close()
    yield port
    process.kill()
    process.wait()


def test_a_redis_that_strangers_can_write_to_is_an_error_and_no_part_starts_on_it(
    cluster: Cluster, open_server: int
) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address that is not loopback")
    env = {"LAUNCH_REDIS_URL": f"redis://{address}:{open_server}/0"}
    for words in (
        ("celery", "-A", "launch_worker", "worker", "-Q", "default"),
        ("celery", "-A", "launch_worker", "beat"),
        ("launch-worker", "start", "-q", "default"),
        ("launch-worker", "server"),
        ("launch-worker", "archive", "run"),
    ):
        refused = cluster.run(*words, env=env)
        assert refused.code != 0
        assert "is not on loopback, and LAUNCH_REDIS_URL has no password" in refused.err, refused
        assert "LAUNCH_INSECURE=1" in refused.err
        assert "Traceback" not in refused.err
    code, found = doctor(cluster, **env)
    assert (code, found["redis.unsafe"]["level"]) == (1, "error")
    # By loopback it is the same Redis.
    code, found = doctor(cluster, LAUNCH_REDIS_URL=f"redis://127.0.0.1:{open_server}/0")
    assert (code, found["redis.open"]["level"]) == (1, "error")
    # Nor does a login in the URL close it: nobody is asked for one.
    redis_of(f"redis://127.0.0.1:{open_server}/0").execute_command(
        "ACL", "SETUSER", "me", "on", ">pw", "+@all", "~*", "&*"
    )
    code, found = doctor(cluster, LAUNCH_REDIS_URL=f"redis://me:pw@{address}:{open_server}/0")
    assert (code, found["redis.open"]["level"]) == (1, "error")
    code, found = doctor(cluster, **env, LAUNCH_INSECURE="1")
    assert (code, found["redis.unsafe"]["level"]) == (0, "warning")
    worker = cluster.worker(env=env | {"LAUNCH_INSECURE": "1"}, wait=False)
    wait_until(lambda: " ready." in worker.log, what="it starts where it is told that this is wanted")


def test_a_redis_without_a_password_on_loopback_is_fine(cluster: Cluster) -> None:
    redis_of(cluster.redis_url).config_set("requirepass", "")
    url = cluster.redis_url.partition("@")[2]
    code, found = doctor(cluster, LAUNCH_REDIS_URL=f"redis://{url}")
    assert (code, found["redis.login"]["level"]) == (0, "ok"), found
