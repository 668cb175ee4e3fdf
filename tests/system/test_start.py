"""`launch-worker start`, and the same options of Celery's worker: what is consumed, in which order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from launch_worker import submit
from launch_worker.ids import new_run_id
from launch_worker.model.checks import MAINTENANCE_QUEUE
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.redis_url import mask_url
from tests.conftest import wait_until
from tests.support.ports import own_port
from tests.system.conftest import Cluster, Part, stamps, wait_for_pid, waits_for

LAUNCH_WORKER = str(Path(sys.executable).parent / "launch-worker")
CELERY = (sys.executable, "-m", "celery", "-A", "launch_worker", "worker")


def start(cluster: Cluster, *arguments: str, wait: bool = True, env: Mapping[str, str] | None = None) -> Part:
    """`launch-worker start`, which takes runs already (unless `wait` is False)."""
    log_path = cluster.folder / f"start.{len(cluster.parts)}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [LAUNCH_WORKER, "start", *arguments],
            cwd=cluster.folder,
            env=cluster.env | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    part = Part(process, log_path)
    cluster.parts.append(part)
    if wait:
        wait_until(lambda: " ready." in part.log or process.poll() is not None, what="the worker is ready")
        assert process.poll() is None, part.log
    return part


def stamp(cluster: Cluster, word: str) -> list[str]:
    return ["sh", "-c", f"echo {word} >> {cluster.folder / 'stamps'}"]


def order(cluster: Cluster, count: int) -> list[str]:
    wait_until(lambda: len(stamps(cluster.folder / "stamps")) == count, what=f"{count} jobs ran")
    return stamps(cluster.folder / "stamps")


def only_worker(cluster: Cluster) -> dict[str, object]:
    (found,) = wait_until(cluster.api.store.workers)
    return dict(found)


def test_match_takes_up_queues_that_appear_and_drops_those_that_go(cluster: Cluster) -> None:
    """P4."""
    worker = start(cluster, "-m", "dev-")
    foreign = submit(["true"], queue="prod-dev-x", api=cluster.api)
    assert submit(["true"], queue="dev-a", api=cluster.api).wait(20) is RunState.FINISHED
    assert "queue.taken_up queue=dev-a" in worker.log
    wait_until(lambda: only_worker(cluster)["queues"] == ["dev-a"], what="the worker is listed with its queue")
    assert cluster.api.store.delete_queue("dev-a") == ""
    wait_until(lambda: "queue.dropped queue=dev-a" in worker.log)
    wait_until(lambda: only_worker(cluster)["queues"] == [], what="the worker is listed without it")
    assert submit(["true"], queue="dev-a", api=cluster.api).wait(20) is RunState.FINISHED
    assert foreign.refresh().state is RunState.PENDING
    assert "prod-dev-x" not in worker.log


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "No work queues provided!"),
        (("-q", "a", "-m", "b"), "Only one of `work_queues`, `match`, or `tags` can be provided."),
        (("-m", "a", "-t", "b"), "Only one of `work_queues`, `match`, or `tags` can be provided."),
        (("-t", "a", "--pool", "b"), "`tag` and `pool` options cannot be used together."),
        (("-q", "a", "-l", "-29"), "--limit '-29' is not a number of runs"),
        (("-q", "a", "--limit", "weird"), "--limit 'weird' is not a number of runs"),
        (("-q", "a", "--prefetch-seconds", "soon"), "--prefetch-seconds 'soon' is not a duration"),
        (("-q", "a", "--quarantine-after", "x"), "--quarantine-after cannot be 'x': it is a whole number from 0"),
        (("-q", "a b"), "queue 'a b' is not allowed"),
    ],
)
def test_start_refuses_with_one_sentence(cluster: Cluster, arguments: tuple[str, ...], sentence: str) -> None:
    """P5, W2."""
    result = cluster.run(LAUNCH_WORKER, "start", *arguments)
    # What Prefect ends with 1 for is what selects queues; the rest is bad input as everywhere.
    assert result.code == (2 if sentence.startswith("--") else 1)
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert not result.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-Q", "a", "-m", "b"), "Only one of `work_queues`, `match`, or `tags` can be provided."),
        (("--tag", "a", "--pool", "b"), "`tag` and `pool` options cannot be used together."),
        (("--limit", "-29"), "--limit '-29' is not a number of runs"),
        (("--pool", "solo"), "Celery's own --pool is -P here"),
        (("--gpus", "many"), "--gpus"),
    ],
)
def test_celerys_worker_refuses_with_one_sentence(cluster: Cluster, arguments: tuple[str, ...], sentence: str) -> None:
    """P5, W2."""
    result = cluster.run(*CELERY, *arguments)
    # What Prefect refuses ends with its code.
    assert result.code == (2 if {"--gpus", "--limit"} & set(arguments) else 1)
    assert sentence in result.err
    assert "Traceback" not in result.err


def test_two_queues_take_turns(cluster: Cluster) -> None:
    """P3."""
    for queue in ("a", "b"):
        for _ in range(3):
            submit(stamp(cluster, queue), queue=queue, api=cluster.api)
    start(cluster, "-q", "a", "--work-queue", "b", "--limit", "1")
    ran = order(cluster, 6)
    assert ran[:2] == ran[2:4] == ran[4:], ran
    assert set(ran) == {"a", "b"}


@pytest.mark.main_path
def test_a_pool_is_served_by_rank_before_priority(cluster: Cluster) -> None:
    store = cluster.api.store
    store.configure("pool", "site", {})
    for rank, queue in enumerate(("z-first", "m-second", "a-third"), start=1):
        store.configure("queue", queue, {"pool": "site", "rank": str(rank)})
    for queue, priority in (("a-third", "critical"), ("m-second", "high"), ("z-first", "low"), ("z-first", "medium")):
        submit(stamp(cluster, f"{queue}:{priority}"), queue=queue, priority=priority, api=cluster.api)
    outside = submit(["true"], queue="outside", api=cluster.api)
    blocker = submit(["sh", "-c", "sleep 1"], queue="z-first", priority="critical", api=cluster.api)
    worker = start(cluster, "--pool", "site", "--limit", "1")
    assert order(cluster, 4) == ["z-first:medium", "z-first:low", "m-second:high", "a-third:critical"]
    assert blocker.wait(20) is RunState.FINISHED
    assert outside.refresh().state is RunState.PENDING
    assert "Looking for work from work pool 'site'..." in worker.log
    assert only_worker(cluster)["queues"] == ["z-first", "m-second", "a-third"]


def test_names_with_a_pool_are_those_queues_of_it(cluster: Cluster) -> None:
    store = cluster.api.store
    store.configure("pool", "site", {})
    for queue in ("a", "b"):
        store.configure("queue", queue, {"pool": "site"})
    start(cluster, "-p", "site", "-q", "b", "-q", "elsewhere")
    assert submit(["true"], queue="b", api=cluster.api).wait(20) is RunState.FINISHED
    assert only_worker(cluster)["queues"] == ["b"]


def test_a_pools_queues_may_change_while_it_is_served(cluster: Cluster) -> None:
    store = cluster.api.store
    store.configure("pool", "site", {})
    for rank, queue in enumerate(("a", "b"), start=1):
        store.configure("queue", queue, {"pool": "site", "rank": str(rank)})
    worker = start(cluster, "--pool", "site")
    wait_until(lambda: only_worker(cluster)["queues"] == ["a", "b"])
    store.configure("queue", "a", {"rank": "9"})
    wait_until(lambda: only_worker(cluster)["queues"] == ["b", "a"])
    store.configure("queue", "c", {"pool": "site", "rank": "1"})
    store.configure("queue", "b", {"pool": None})
    wait_until(lambda: only_worker(cluster)["queues"] == ["c", "a"])
    assert submit(["true"], queue="c", api=cluster.api).wait(20) is RunState.FINISHED
    assert "queue.dropped queue=b" in worker.log


def test_celerys_worker_without_a_selection_is_one_of_the_default_queue(cluster: Cluster) -> None:
    worker = cluster.celery("worker", "--loglevel", "INFO", name="plain")
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
    assert only_worker(cluster)["queues"] == ["default"]
    assert "Looking for work from queue(s): default..." in worker.log


def test_a_scheduled_run_is_claimed_ahead_and_starts_on_time(cluster: Cluster) -> None:
    worker = start(cluster, "-q", "default", "--prefetch-seconds", "14")
    wait_until(cluster.api.store.workers)
    run_id = new_run_id()
    due_us = cluster.api.store.now_us() + 15_000_000
    cluster.api.store.create(run_id, RunSpec(("sh", "-c", f"date +%s.%N > {cluster.folder / 'at'}")), at_us=due_us)
    wait_until(lambda: f"run.claimed run={run_id}" in worker.log, timeout_s=12, what="claimed ahead")
    assert cluster.api.store.now_us() < due_us - 1_000_000
    assert cluster.api.run(run_id).wait(20) is RunState.FINISHED
    late_s = float((cluster.folder / "at").read_text()) - due_us / 1e6
    # At once on a machine that is not stalled; a heartbeat that is late does not matter.
    assert 0 <= late_s < 5


def test_run_once_runs_what_waits_and_exits(cluster: Cluster) -> None:
    """P18."""
    runs = [submit(["sh", "-c", waits_for(cluster.folder / "end")], api=cluster.api) for _ in range(3)]
    elsewhere = submit(["true"], queue="other", api=cluster.api)
    due_id = new_run_id()
    cluster.api.store.create(due_id, RunSpec(("true",)), delay_s=0.2)
    due = cluster.api.run(due_id)
    time.sleep(0.3)
    worker = start(cluster, "-q", "default", "--run-once", "--limit", "2", wait=False)
    wait_for_pid(runs[0])
    later = submit(["true"], api=cluster.api)
    (cluster.folder / "end").touch()
    assert worker.wait(30) == 0, worker.log
    assert [run.refresh().state for run in (*runs, due)] == [RunState.FINISHED] * 4
    assert [run.refresh().state for run in (later, elsewhere)] == [RunState.PENDING] * 2
    assert "Agent stopped!" in worker.log


def test_run_once_with_nothing_to_do_exits_at_once(cluster: Cluster) -> None:
    result = cluster.run(*CELERY, "--match", "dev-", "--run-once")
    assert result.code == 0, result
    assert "queue(s) that start with the prefix: ['dev-']..." in result.out


def test_limit_0_takes_nothing(cluster: Cluster) -> None:
    """W2."""
    run = submit(["true"], api=cluster.api)
    worker = start(cluster, "-q", "default", "-l", "0")
    wait_until(lambda: only_worker(cluster)["slots"] == 0)
    assert only_worker(cluster)["queues"] == []
    time.sleep(1.5)
    assert run.refresh().state is RunState.PENDING
    worker.process.terminate()
    assert worker.wait(20) == 0, worker.log


def test_a_worker_without_slots_consumes_no_queue_of_runs_and_adds_none(cluster: Cluster) -> None:
    start(cluster, "-q", "default", "-l", "0")
    control = (sys.executable, "-m", "celery", "-A", "launch_worker")
    consumed = cluster.run(*control, "inspect", "active_queues", "--json")
    (queues,) = json.loads(consumed.out).values()
    assert [queue["name"] for queue in queues] == [MAINTENANCE_QUEUE], consumed
    assert "this worker takes nothing from queues now" in cluster.run(*control, "control", "add_consumer", "other").out


@pytest.mark.parametrize(
    ("limit", "slots"), [("-1", 1_000_000), ("1000000", 1_000_000), ("8", 8), (None, os.cpu_count())]
)
def test_limits(cluster: Cluster, limit: str | None, slots: int) -> None:
    """W2."""
    start(cluster, "-q", "default", *([] if limit is None else ["--limit", limit]))
    assert only_worker(cluster)["slots"] == slots
    if slots > 2:
        runs = [submit(["sleep", "600"], api=cluster.api) for _ in range(6)]
        for run in runs:
            wait_for_pid(run)
        for run in runs:
            run.cancel(grace_s=0)


def test_the_welcome_is_prefects_with_the_password_masked(cluster: Cluster) -> None:
    url = f"redis://user:s3cret@127.0.0.1:{own_port()}/0"
    worker = start(cluster, "-q", "a", "-q", "b", "--api", url, wait=False)
    wait_until(lambda: "Agent started! Looking for work from queue(s): a, b..." in worker.log)
    assert "Starting v0.1.0 agent connected to redis://***@127.0.0.1:" in worker.log
    assert "s3cret" not in worker.log


@pytest.mark.parametrize("how", ["start", "celery"])
def test_a_worker_says_a_few_lines_of_its_own_and_no_banner(cluster: Cluster, how: str) -> None:
    worker = start(cluster, "-q", "a") if how == "start" else cluster.worker("a")
    said = worker.log.partition("[20")[0].splitlines()
    root = ["This worker runs as root, and so do its jobs. Give it a user of its own."] if os.geteuid() == 0 else []
    assert said == [
        f"Starting v0.1.0 agent connected to {mask_url(cluster.redis_url)}...",
        *root,
        "Agent started! Looking for work from queue(s): a...",
    ]
    for other in ("[config]", "[tasks]", "SecurityWarning", "superuser"):
        assert other not in worker.log


def test_the_welcome_can_be_hidden(cluster: Cluster) -> None:
    worker = start(cluster, "-q", "a", "--hide-welcome")
    worker.process.terminate()
    assert worker.wait(20) == 0
    assert "Starting v" not in worker.log
    assert "Looking for work" not in worker.log
    assert "Agent stopped!" in worker.log


def test_tags_are_a_queue_of_their_own(cluster: Cluster) -> None:
    start(cluster, "-t", "gpu", "-t", "big")
    wait_until(lambda: "agent-queue-big-gpu" in cluster.api.store.queue_names(), what="the queue was made")
    assert submit(["true"], queue="agent-queue-big-gpu", api=cluster.api).wait(20) is RunState.FINISHED


def test_api_names_the_redis_and_the_old_argument_a_queue(cluster: Cluster) -> None:
    nowhere = {"LAUNCH_REDIS_URL": f"redis://127.0.0.1:{own_port()}/0"}
    worker = start(cluster, "old", "--api", cluster.redis_url, env=nowhere)
    assert "`launch-worker start -q old`" in worker.log
    assert submit(["true"], queue="old", api=cluster.api).wait(20) is RunState.FINISHED


def test_a_strict_worker_tells_the_asked_and_the_known_queues(cluster: Cluster) -> None:
    """W7."""
    submit(["true"], queue="gpu", api=cluster.api)
    result = cluster.run(LAUNCH_WORKER, "start", "--strict", "-q", "gpuu", "-q", "gpu")
    assert result.code == 1
    assert "there is no queue gpuu; asked for: gpuu, gpu; the known ones: default, gpu" in result.err
    assert "Traceback" not in result.err
    result = cluster.run(LAUNCH_WORKER, "start", "--strict", "--pool", "site")
    assert result.code == 1
    assert "there is no pool 'site'; the known ones: none" in result.err


def test_a_draining_worker_takes_up_no_queue(cluster: Cluster) -> None:
    worker = start(cluster, "-m", "dev-")
    run = submit(["sh", "-c", waits_for(cluster.folder / "end")], queue="dev-a", api=cluster.api)
    wait_for_pid(run)
    worker.process.terminate()
    wait_until(lambda: "worker.draining" in worker.log)
    late = submit(["true"], queue="dev-b", api=cluster.api)
    time.sleep(4)  # new queues are looked for every few seconds
    (cluster.folder / "end").touch()
    assert worker.wait(30) == 0, worker.log
    assert run.refresh().state is RunState.FINISHED
    assert late.refresh().state is RunState.PENDING


def test_options_of_the_node_reach_it(cluster: Cluster) -> None:
    start(
        *(cluster, "-q", "default", "-n", "gpu@%h", "--gpus", "2", "--cpus", "1.5", "--memory", "1G"),
        *("--drain-timeout", "5m", "--quarantine-after", "0", "--prefetch-seconds", "0", "--loglevel", "info"),
    )
    assert str(only_worker(cluster)["worker"]).startswith("gpu@")
