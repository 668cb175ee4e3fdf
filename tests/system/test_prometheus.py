"""A real Prometheus scrapes a real system: ten thousand runs take no more lines, and each alarm fires and ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from launch_worker.dev.redis_server import RedisServer
from launch_worker.model.spec import RunSpec
from launch_worker.prometheus.metrics import SYSTEM
from launch_worker.store import keys
from launch_worker.store.submit import New
from tests.conftest import wait_until
from tests.support.arrows import CRASHED, FAILED, FINISHED, claim, crash, create, expire_lease
from tests.support.ports import own_port
from tests.support.promtool import RULES, program, promtool
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster

#: Seconds of processor time that a scrape may take.
_SCRAPE_CPU_S = 0.05
_QUEUES, _RUNS, _NAMES = 100, 10_000, 3_000
#: Alarms that a test cannot bring about on a real machine; tests/unit/prometheus tries all rules with made figures.
NOT_TRIED = {"LaunchWorkerDiskFull"}
ALARMS = {rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}


class Prometheus:
    """A Prometheus that scrapes and evaluates each half second, with the shipped rules made impatient."""

    def __init__(self, folder: Path, targets: dict[str, int]) -> None:
        self.port = own_port()
        rules = RULES.read_text()
        # As docs/reference/metrics.md says: for a trial without patience, delete `for:` and shorten the ranges.
        (folder / "rules.yml").write_text(re.sub(r"\[(15m|1h)\]", "[10s]", re.sub(r"\n +for: .*", "", rules)))
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
                for job, port in targets.items()
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    # A series that is not scraped any more is gone at once.
                    "--query.lookback-delta=2s",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def ask(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return {}

    def firing(self) -> set[str]:
        alerts = self.ask("alerts").get("alerts", ())
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    made = RedisServer()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def system(own_redis: RedisServer, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(own_redis.url, tmp_path)
    yield made
    made.close()


def scrape(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read()
    finally:
        connection.close()


def lines_of(text: bytes) -> list[bytes]:
    return [line.partition(b" ")[0] if line[:1] != b"#" else line for line in text.splitlines()]


def test_ten_thousand_runs_are_scraped_in_as_many_lines_as_few_and_quickly(system: Cluster) -> None:
    store, port = system.api.store, own_port()

    def submit(first: int, last: int, names: int) -> None:
        for queue in range(_QUEUES):
            numbers = range(first + queue, last, _QUEUES)
            news = [
                New(f"{n:015}", RunSpec(command=("true",), name=f"name-{n % names}", queue=f"q{queue}"))
                for n in numbers
            ]
            list(store.create_batches([news]))

    submit(0, 2 * _QUEUES, 2)
    # One run in each state, so that all lines are there.
    for number, step in ((0, FINISHED), (1, FAILED), (2, CRASHED)):
        record = claim(store, f"{number:015}")
        if step is CRASHED:
            expire_lease(store, record.id)
            crash(store, record, step)
        else:
            store.finish(record, step)
    exporter = system.open("launch-worker", "exporter", "--address", f"127.0.0.1:{port}")
    try:
        wait_until(lambda: b"launch_up 1.0" in _try_scrape(port))
        few = scrape(port)
        submit(2 * _QUEUES, _RUNS, _NAMES)
        assert store.figures().counts.submitted() == _RUNS
        before = psutil.Process(exporter.pid).cpu_times()
        many = [scrape(port) for _ in range(10)]
        after = psutil.Process(exporter.pid).cpu_times()
        assert lines_of(many[0]) == lines_of(few)
        assert len(few.splitlines()) < 1000
        assert b"name-" not in many[0]
        assert (after.user + after.system - before.user - before.system) / len(many) < _SCRAPE_CPU_S
        promtool("check", "metrics", text=many[0])
    finally:
        exporter.terminate()
        assert exporter.wait(20) == 0
        exporter.communicate()


def _try_scrape(port: int) -> bytes:
    try:
        return scrape(port)
    except OSError:
        return b""


def test_every_alarm_fires_in_a_real_prometheus_and_falls_silent_again(
    system: Cluster, own_redis: RedisServer, tmp_path: Path
) -> None:
    store, raw = system.api.store, redis_of(own_redis.url)
    port, worker_port = own_port(), own_port()
    exporter_words = ("launch-worker", "exporter", "--address", f"127.0.0.1:{port}")
    exporter = system.open(*exporter_words)
    prometheus = Prometheus(tmp_path, {"launch": port, "launch-worker": worker_port})

    seen: set[str] = set()

    def becomes(*alarms: str) -> None:
        seen.update(alarms)
        wait_until(
            lambda: set(alarms) <= prometheus.firing(), what=f"{alarms} fire, and not only {prometheus.firing()}"
        )

    def becomes_silent(*alarms: str) -> None:
        wait_until(lambda: not set(alarms) & prometheus.firing(), what=f"{alarms} are silent")

    def beat(state: str) -> None:
        store.heartbeat(
            [],
            owner="o1",
            worker="w1@here",
            lease_s=60,
            gone_s=60,
            description={"worker": "w1@here", "owner": "o1", "host": "here", "state": state, "pid": 1, "slots": 2}
            | {"running": 0, "queues": ["default"]},
            queues=["default"],
        )

    try:
        # Nothing is there: no worker, and nobody consumes the queue of the run that waits.
        raw.set(keys.ARCHIVE, "a")
        run_id = create(store, queue="alone")
        becomes("LaunchNoWorker", "LaunchWorkerUnhealthy", "LaunchRunsUnserved")
        worker = system.worker(
            "default,alone",
            env={"LAUNCH_HEALTH_ADDRESS": str(worker_port), "LAUNCH_MIN_FREE_BYTES": "1"},
        )
        becomes_silent("LaunchNoWorker", "LaunchWorkerUnhealthy", "LaunchRunsUnserved")
        wait_until(lambda: store.get(run_id).state.is_final)

        # The archive, which is only registered, confirms no end; Redis would evict keys; a worker is in quarantine.
        raw.zadd(keys.ENDED, {run_id: store.now_us() - 3600 * 10**6})
        raw.config_set("maxmemory-policy", "allkeys-lru")
        beat("quarantined")
        becomes("LaunchArchiveBehind", "LaunchMustBeMended", "LaunchWorkersNotReady")
        raw.config_set("maxmemory-policy", "noeviction")
        raw.zadd(keys.ENDED, {run_id: store.now_us()})
        store.goodbye("o1", queues=["default"])
        raw.config_set("maxmemory", int(raw.info("memory")["used_memory"] * 1.05))
        becomes("LaunchRedisFull")
        raw.config_set("maxmemory", 0)
        becomes_silent("LaunchArchiveBehind", "LaunchMustBeMended", "LaunchWorkersNotReady", "LaunchRedisFull")

        # The worker stands still, and with it the passes; a run's lease is over, and it is Crashed.
        worker.signal(signal.SIGSTOP)
        raw.hset(keys.PASSES, "crash_stale_runs", store.now_us() - 3600 * 10**6)
        record = claim(store, create(store, queue="other"))
        expire_lease(store, record.id)
        becomes("LaunchPassesLate", "LaunchLeasesLate", "LaunchWorkerUnhealthy")
        crash(store, record, CRASHED)
        becomes("LaunchRunsCrash")
        worker.signal(signal.SIGCONT)
        becomes_silent("LaunchPassesLate", "LaunchLeasesLate", "LaunchWorkerUnhealthy", "LaunchRunsCrash")

        # A notice that nobody sends.
        store.notify("ops", "n1", {"type": "test"})
        kept = keys.outbox("ops", "notices")
        for name in raw.hkeys(kept):
            raw.hset(kept, name, json.dumps({"type": "test", "at": store.now_us() - 3600 * 10**6}))
        becomes("LaunchNoticesLate")
        raw.delete(keys.OUTBOX, keys.outbox("ops"), kept)
        becomes_silent("LaunchNoticesLate")

        # Redis is away; nothing is measured.
        own_redis.kill()
        becomes("LaunchRedisAway")
        exporter.terminate()
        exporter.communicate()
        becomes("LaunchNotMeasured")
        own_redis.start()
        exporter = system.open(*exporter_words)
        becomes_silent("LaunchRedisAway", "LaunchNotMeasured")
        assert seen == ALARMS - NOT_TRIED
    finally:
        prometheus.close()
        exporter.terminate()
        exporter.communicate()


def test_a_file_for_node_exporter_is_whole_and_says_when_redis_is_away(system: Cluster, own_redis: RedisServer) -> None:
    file = system.folder / "launch.prom"
    done = system.run("launch-worker", "exporter", "--file", str(file), "--once")
    assert (done.code, done.err) == (0, "")
    text = file.read_bytes()
    promtool("check", "metrics", text=text)
    assert {metric.name for metric in SYSTEM} >= {name.decode() for name in re.findall(rb"# TYPE (\S+)", text)}
    assert file.stat().st_mode & 0o777 == 0o644
    printed = system.run("launch-worker", "exporter", "--once")
    assert lines_of(printed.out.encode()) == lines_of(text)
    own_redis.stop()
    done = system.run("launch-worker", "exporter", "--file", str(file), "--once")
    assert done.code == 69
    assert b"launch_up 0.0" in file.read_bytes()
    assert os.listdir(system.folder) == ["launch.prom"]
    for words, said in (
        (["--file", str(system.folder / "launch.txt")], "must end with .prom"),
        (["--address", "nowhere"], "ADDRESS:PORT"),
        (["--file", "/nowhere/a.prom", "--once"], "cannot be written"),
    ):
        refused = system.run("launch-worker", "exporter", *words)
        assert refused.code in (1, 2, 69)
        assert said in refused.err
