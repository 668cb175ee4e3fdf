"""Container jobs through a whole system: a real engine, real workers that are killed, replaced and cut off."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError

from launch_worker.api.client import Run, submit
from launch_worker.model.states import RunState
from launch_worker.outputs.stored import StoredOutputs
from launch_worker.runners.process import tree
from tests.conftest import wait_until
from tests.support.redis_client import redis_of
from tests.support.registry import Registry
from tests.support.sandboxes import OF_ALL
from tests.system.conftest import RUN_AS, TRACEBACK, Cluster, Part, states, wait_for_output, wait_for_pid

#: A lease that outlasts the start of a worker on a loaded machine.
SLOW = {"LAUNCH_LEASE_S": "30"}
#: Counts to N, four times a second.
COUNT = "i=0; while [ $i -lt {n} ]; do i=$((i+1)); echo line $i; sleep 0.25; done"
#: Counts until it gets SIGUSR1.
COUNT_ON = 'trap end=1 USR1; i=0; while [ -z "$end" ]; do i=$((i+1)); echo line $i; sleep 0.25; done'


@pytest.fixture
def containers(engine: Any, busybox_image: str, cluster: Cluster) -> Iterator[Containers]:
    if RUN_AS or OF_ALL:
        pytest.skip("all queues confine processes, and take no containers then")
    made = Containers(engine, busybox_image, cluster)
    yield made
    for container in made.left():
        # Its worker may be removing it.
        with contextlib.suppress(APIError):
            engine.api.remove_container(container, force=True, v=True)


@pytest.fixture
def registry(engine: Any) -> Iterator[Registry]:
    made = Registry()
    yield made
    made.close()
    if engine.images.list(name=made.image.rsplit(":", 1)[0]):
        engine.api.remove_image(made.image, force=True)


class Containers:
    """A cluster with an engine beside it."""

    def __init__(self, engine: Any, image: str, cluster: Cluster) -> None:
        self.engine, self.image, self.cluster = engine, image, cluster

    def submit(self, script: str, **options: Any) -> Run:
        return submit(["sh", "-c", script], image=self.image, api=self.cluster.api, **options)

    def left(self, **filters: str) -> list[str]:
        """Every container of this test's system, whatever its state."""
        system = self.cluster.api.store.system()
        listed = self.engine.api.containers(all=True, filters={"label": f"launch.system={system}", **filters})
        return [entry["Id"] for entry in listed]

    def of(self, run: Run) -> dict[str, Any]:
        """The engine's view of the run's container, once it runs."""
        wait_for_pid(run)
        (entry,) = self.engine.api.containers(all=True, filters={"label": f"launch.run={run.id}"})
        found: dict[str, Any] = self.engine.api.inspect_container(entry["Id"])
        return found

    def release(self, run: Run) -> None:
        """Send SIGUSR1 to the run's job."""
        (entry,) = self.engine.api.containers(filters={"label": f"launch.run={run.id}"})
        self.engine.api.kill(entry["Id"], "SIGUSR1")


def is_whole(run: Run) -> bool:
    """Whether nothing of what the job counted is missing or doubled."""
    said = run.logs().decode()
    return said.count("\n") > 2 and said == count(said.count("\n"))


def count(n: int) -> str:
    return "".join(f"line {i}\n" for i in range(1, n + 1))


def ended(run: Run, timeout_s: float = 60.0) -> RunState:
    return run.wait(timeout_s)


@pytest.mark.parametrize("handed_over", [False, True])
def test_what_a_container_used_is_what_its_engine_says(containers: Containers, handed_over: bool) -> None:
    """As far as it was looked at: an engine tells nothing of one that has ended."""
    cluster = containers.cluster
    often = SLOW | {"LAUNCH_USAGE_S": "0.2"}
    first = cluster.worker(env=often)
    fill = "dd if=/dev/zero of=/dev/shm/x bs=1M count=40 2>/dev/null; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"
    run = containers.submit(f"{fill}; echo filled; while [ ! -e /tmp/go ]; do sleep 0.1; done")
    container = containers.of(run)["Id"]
    wait_for_output(run, b"filled")
    wait_until(lambda: (run.measured().usage.peak_memory or 0) > 40 << 20, what="it was looked at")
    if handed_over:
        first.signal(signal.SIGUSR1)
        first.wait()
        cluster.worker(env=often)
        wait_until(lambda: "adopted" in [step.name for step in run.refresh().phases], what="it is adopted")
    engine = containers.engine.api.stats(container, stream=False, one_shot=True)
    cpu_s = engine["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
    wait_until(lambda: (run.measured().usage.cpu_s or 0) >= cpu_s, what="the engine's figure is known")
    made = containers.engine.api.exec_create(container, ["touch", "/tmp/go"])
    containers.engine.api.exec_start(made["Id"])
    assert ended(run) is RunState.FINISHED
    usage = run.usage
    assert cpu_s <= (usage.cpu_s or 0) < cpu_s + 2
    assert 40 << 20 < (usage.peak_memory or 0) < 90 << 20
    assert usage.since_s is None
    assert run.measured().samples is not None


# -- the first line --------------------------------------------------------------------------------------------


@pytest.mark.main_path
def test_follow_prints_the_id_exits_with_the_code_and_leaves_nothing(containers: Containers) -> None:
    cluster = containers.cluster
    cluster.worker()
    script = f"echo $LAUNCH_RUN_ID; printf '{TRACEBACK}'; exit 4"
    done = cluster.run("launch-submit", "--image", containers.image, "--follow", "--", "sh", "-c", script)
    run_id = re.search(r"run (\w+) submitted", done.err)
    assert run_id is not None, done
    assert done.code == 4
    assert done.out.startswith(f"{run_id[1]}\n")
    assert containers.left() == []
    shown = cluster.show(run_id[1])
    assert (shown["state"], shown["exit_code"], shown["phase"]) == ("Failed", 4, "run")
    assert shown["reason"] == "KeyError: 3 (exit code 4)"
    assert [phase["name"] for phase in shown["phases"]] == ["start"]
    assert shown["phases"][0]["seconds"] > 0


def test_cancel_is_a_stop_with_grace_and_the_container_is_removed(containers: Containers) -> None:
    containers.cluster.worker()
    run = containers.submit("trap 'echo got TERM; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    wait_for_output(run, b"up")
    run.cancel(reason="enough")
    assert ended(run, 10) is RunState.KILLED
    assert b"got TERM" in run.logs()
    assert run.record.reason == "enough"
    assert containers.left() == []


def test_out_of_memory_is_told_by_the_engine(containers: Containers) -> None:
    containers.cluster.worker()
    run = submit(
        # An engine that hears of the end first forgets to say why.
        ["sh", "-c", "tail -c 90000000 /dev/zero; sleep 1; kill -KILL $$"],
        image=containers.image,
        memory="32M",
        api=containers.cluster.api,
    )
    assert ended(run) is RunState.FAILED
    assert (run.record.signal, run.record.phase) == ("SIGKILL", "run")
    assert "out of memory (the container engine says so)" in run.record.reason


def test_a_container_that_was_out_of_memory_gets_twice_as_much(containers: Containers) -> None:
    containers.cluster.worker()
    kept = "head -c 45000000 /dev/zero | tail -c 45000000"
    run = submit(
        # `tail` has all of it in memory before it prints the first byte.
        ["sh", "-c", f"test $({kept} | wc -c) = 45000000 || {{ sleep 1; kill -KILL $$; }}"],
        image=containers.image,
        memory="32M..128M",
        api=containers.cluster.api,
    )
    assert ended(run) is RunState.FINISHED
    said = [step["reason"] for step in run.as_json(history=True)["history"]]
    assert "retry 1 of 2 after oom with 64M of memory" in said
    assert (run.record.attempt, run.as_json()["memory"]) == (2, 64 << 20)


def test_time_limits_hold_for_containers(containers: Containers) -> None:
    containers.cluster.worker()
    run = containers.submit("while :; do sleep 0.1; done", timeout=1, grace=1)
    assert ended(run) is RunState.FAILED
    assert run.record.reason == "time limit of 1 s reached"


def test_a_container_without_a_command_runs_its_images_own(containers: Containers) -> None:
    config = containers.engine.api.create_container(containers.image, ["true"])
    try:
        containers.engine.api.commit(config["Id"], "launch-worker-tests/cmd", "1", conf={"Cmd": ["echo", "its own"]})
        containers.cluster.worker()
        run = submit(image="launch-worker-tests/cmd:1", api=containers.cluster.api)
        assert ended(run) is RunState.FINISHED
        assert (run.logs(), run.name) == (b"its own\n", "cmd:1")
    finally:
        containers.engine.api.remove_container(config["Id"], force=True)
        containers.engine.api.remove_image("launch-worker-tests/cmd:1", force=True)


def test_thirty_megabytes_of_output_are_bounded_and_the_newest_is_kept(containers: Containers) -> None:
    """X5."""
    containers.cluster.worker()
    run = containers.submit(f"yes {'x' * 99} | head -n 300000; echo end")
    assert ended(run) is RunState.FINISHED
    log = run.logs()
    assert log.endswith(b"xxx\nend\n")
    assert len(log) <= containers.cluster.api.settings.log_bytes


# -- a container outlives its worker -----------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1])
def test_a_killed_workers_container_goes_on_under_the_next_worker(containers: Containers, retries: int) -> None:
    cluster = containers.cluster
    worker = cluster.worker(env=SLOW)
    run = containers.submit(COUNT_ON + "; exit 0", retries=retries)
    wait_for_output(run, b"line 4\n")
    before = containers.of(run)["Id"]
    worker.kill()
    cluster.worker(env=SLOW)
    wait_until(lambda: [phase.name for phase in run.refresh().phases][-1] == "adopted", what="it is adopted")
    assert containers.of(run)["Id"] == before
    containers.release(run)
    assert ended(run) is RunState.FINISHED
    assert run.record.attempt == 1
    assert is_whole(run)
    assert containers.left() == []


def test_one_that_ended_while_no_worker_was_there_is_reported_as_it_was(containers: Containers) -> None:
    cluster = containers.cluster
    worker = cluster.worker()
    run = containers.submit("echo begun; sleep 1.5; echo done; exit 7")
    wait_for_output(run, b"begun")
    pid = wait_for_pid(run)
    worker.kill()
    wait_until(lambda: not containers.left(status="running"), what="the container has ended")
    cluster.worker()
    assert ended(run) is RunState.FAILED
    assert (run.record.exit_code, run.logs()) == (7, b"begun\ndone\n")
    assert run.record.pid == pid, "the engine has no pid of a container that has ended"
    assert containers.left() == []


def test_with_retries_and_no_next_worker_the_container_is_gone_before_the_run_is_given_to_others(
    containers: Containers,
) -> None:
    cluster = containers.cluster
    cluster.api.create_queue("default", container={"allow_mounts": [str(cluster.folder)]})
    worker = cluster.worker(name="w1")
    script = (
        "trap '' TERM; date +%s.%N >> /x/begun$LAUNCH_ATTEMPT; [ $LAUNCH_ATTEMPT = 2 ] && exit 0;"
        " while :; do date +%s%N > /x/alive; sleep 0.1; done"
    )
    run = containers.submit(script, retries=1, container={"mounts": [f"{cluster.folder}:/x"]})
    wait_until(lambda: (cluster.folder / "alive").exists(), what="it has begun")
    worker.kill()
    # Another machine's worker: another work dir, the same engine only by chance.
    cluster.worker(name="w2", env={"LAUNCH_WORK_DIR": str(cluster.folder / "elsewhere")})
    assert ended(run) is RunState.FINISHED
    assert run.record.attempt == 2
    alive = (cluster.folder / "alive").stat().st_mtime
    begun = (cluster.folder / "begun2").stat().st_mtime
    assert alive < begun, "the first attempt was still alive when the second began"
    assert containers.left() == []


def test_a_superseded_container_is_removed_by_the_next_worker_and_what_it_left_is_kept(containers: Containers) -> None:
    """The folder of the first worker is on a machine that is not back."""
    cluster = containers.cluster
    url = cluster.env["LAUNCH_OUTPUT_URL"] = f"file://{cluster.folder}/kept"
    first = cluster.worker(name="w1")
    leave = "cd $LAUNCH_OUTPUT_DIR; mkdir a; echo $LAUNCH_ATTEMPT >a/b; touch c; echo started"
    run = containers.submit(f"{leave}; [ $LAUNCH_ATTEMPT = 2 ] && exit 0; sleep 600", outputs=["a"])
    wait_until(lambda: b"started" in run.logs(), what="the job has left its files")
    container = containers.of(run)["Id"]
    first.kill()
    cluster.beat()
    wait_until(lambda: run.state is RunState.CRASHED, what="the run is Crashed")
    assert containers.left(status="running") == [container]
    run.retry()
    cluster.worker(name="w1", env={"LAUNCH_WORK_DIR": str(cluster.folder / "elsewhere")})
    assert ended(run) is RunState.FINISHED
    wait_until(lambda: not containers.left(), what="the old container is removed")
    wait_until(lambda: run.refresh().outputs.count("bytes") == 2, what="the outputs of both attempts are noted")
    for attempt in (1, 2):
        kept = StoredOutputs(url).manifest(run.id, attempt)
        assert kept is not None
        assert [(file.path, file.size) for file in kept.files] == [("a/b", 2)]
    assert list((cluster.folder / "elsewhere").glob("workers/*/over/*")) == []


def test_a_crashed_run_whose_container_lives_is_regained(containers: Containers) -> None:
    """X7: the same attempt, not superseded."""
    cluster = containers.cluster
    first = cluster.worker()
    run = containers.submit(COUNT_ON)
    wait_for_output(run, b"line 2\n")
    first.kill()
    cluster.beat()
    wait_until(lambda: run.state is RunState.CRASHED, what="the run is Crashed")
    cluster.worker()
    wait_until(lambda: run.state is RunState.RUNNING, what="it is regained")
    containers.release(run)
    assert ended(run) is RunState.FINISHED
    assert states(run) == ["Pending", "Running", "Crashed", "Running", "Finished"]
    assert is_whole(run)


def test_an_adopted_run_can_be_cancelled_and_takes_a_slot(containers: Containers) -> None:
    cluster = containers.cluster
    first = cluster.worker(slots=1)
    run = containers.submit("echo up; sleep 600")
    wait_for_output(run, b"up")
    first.kill()
    second = cluster.worker(slots=1)
    wait_until(lambda: f"run.adopted run={run.id}" in second.log, what="it is adopted")
    behind = submit(["true"], api=cluster.api)
    time.sleep(1.0)
    assert behind.state is RunState.PENDING, "the adopted run holds the only slot"
    active = cluster.run("celery", "-A", "launch_worker", "inspect", "active")
    assert run.id in active.out
    run.cancel()
    assert ended(run, 15) is RunState.KILLED
    assert ended(behind, 15) is RunState.FINISHED


def test_a_worker_whose_folder_is_gone_leaves_containers_that_its_successor_adopts_by_their_labels(
    containers: Containers,
) -> None:
    """As a worker that ran in a container itself: its volume went with it, and its guard."""
    cluster = containers.cluster
    first = cluster.worker(env={"LAUNCH_WORK_DIR": str(cluster.folder / "lost")})
    run = containers.submit(COUNT_ON)
    wait_for_output(run, b"line 2\n")
    first.kill()
    heir = cluster.worker(name="w2")
    wait_until(lambda: f"run.adopted run={run.id}" in heir.log, timeout_s=40, what="it is adopted")
    containers.release(run)
    # It may have been Crashed for a while.
    wait_until(lambda: run.refresh().state is RunState.FINISHED, timeout_s=60, what="it is Finished after all")
    assert (run.record.attempt, is_whole(run)) == (1, True)
    assert containers.left() == []


def test_the_guard_of_the_former_worker_ends_no_container_that_was_adopted(containers: Containers) -> None:
    """With retries left it watches the lease; the next worker renews it elsewhere."""
    cluster = containers.cluster
    # The next worker has to be there within the lease, also on a machine that stalls.
    env = {"LAUNCH_LEASE_S": "14"}
    worker = cluster.worker(env=env)
    run = containers.submit(COUNT_ON, retries=1)
    wait_for_output(run, b"line 2\n")
    worker.kill()
    killed_at = time.monotonic()
    cluster.worker(env=env)
    wait_until(lambda: time.monotonic() > killed_at + 15, what="the lease is over that the guard knows")
    containers.release(run)
    assert ended(run) is RunState.FINISHED
    assert (run.record.attempt, is_whole(run)) == (1, True)


def test_a_worker_that_wakes_up_after_its_run_was_adopted_leaves_it_alone(containers: Containers) -> None:
    cluster = containers.cluster
    frozen = cluster.worker(name="w1", env={"LAUNCH_WORK_DIR": str(cluster.folder / "one")})
    run = containers.submit(COUNT_ON)
    wait_for_output(run, b"line 2\n")
    heir = cluster.worker(name="w2", env={"LAUNCH_WORK_DIR": str(cluster.folder / "two")})
    frozen.signal(signal.SIGSTOP)
    wait_until(lambda: f"run.adopted run={run.id}" in heir.log, timeout_s=40, what="it is adopted")
    frozen.signal(signal.SIGCONT)
    wait_until(lambda: "run.superseded" in frozen.log or "adopted" in frozen.log, what="it knows")
    containers.release(run)
    assert ended(run) is RunState.FINISHED
    assert (run.record.worker.partition("@")[0], is_whole(run)) == ("w2", True)
    assert f"run.ended run={run.id}" not in frozen.log
    assert containers.left() == []


def test_a_record_that_was_rolled_back_costs_no_container(containers: Containers) -> None:
    cluster = containers.cluster
    cluster.worker()
    run = containers.submit("sleep 600")
    wait_for_pid(run)
    redis = redis_of(cluster.redis_url)
    token = int(redis.hget(f"launch:run:{run.id}", "token"))
    for _ in range(8):
        redis.hset(f"launch:run:{run.id}", "token", token - 5)
        time.sleep(0.3)
    wait_until(lambda: run.refresh().token == token, what="its worker put the record right")
    assert run.state is RunState.RUNNING
    run.cancel()
    assert ended(run) is RunState.KILLED


# -- planned restarts --------------------------------------------------------------------------------------------------


def upgrade(worker: Part) -> None:
    worker.signal(signal.SIGUSR1)
    assert worker.wait(20) == 0, worker.log


@pytest.mark.parametrize("how", ["signal", "command", "option"])
def test_processes_and_containers_go_on_through_planned_restarts(containers: Containers, how: str) -> None:
    cluster = containers.cluster
    options = ["--detach-on-exit"] if how == "option" else []
    worker = cluster.worker(slots=4, arguments=options, env=SLOW)
    runs = [
        containers.submit(COUNT.format(n=32)),
        submit(["sh", "-c", COUNT.format(n=32) + "; exit 3"], api=cluster.api),
        submit(["sh", "-c", COUNT.format(n=32)], retries=2, api=cluster.api),
    ]
    pids = []
    for run in runs:
        wait_for_output(run, b"line 2\n")
        pids.append(run.record.pid)
    for _ in range(2):
        if how == "command":
            node = cluster.api.store.workers()[0]["worker"]
            assert cluster.run("launch-worker", "workers", "upgrade", node).code == 0
        else:
            worker.signal(signal.SIGUSR1 if how == "signal" else signal.SIGTERM)
        assert worker.wait(20) == 0, worker.log
        worker = cluster.worker(slots=4, arguments=options, env=SLOW)
    assert [ended(run) for run in runs] == [RunState.FINISHED, RunState.FAILED, RunState.FINISHED]
    assert [run.exit_code for run in runs] == [0, 3, 0]
    for run, pid in zip(runs, pids, strict=True):
        assert (run.record.attempt, run.record.pid) == (1, pid)
        assert states(run)[:2] == ["Pending", "Running"]
        assert len(states(run)) == 3
        assert run.logs().decode() == count(32)
    assert containers.left() == []
    # What a worker took over it lets go of.
    wait_until(lambda: len(list((cluster.folder / "work" / "workers").iterdir())) == 1, what="old folders are gone")


def test_a_job_whose_guard_was_replaced_is_handed_over_too(cluster: Cluster) -> None:
    worker = cluster.worker(env=SLOW)
    run = submit(["sh", "-c", COUNT.format(n=60)], retries=1, api=cluster.api)
    pid = wait_for_pid(run)
    guard = tree.look_up(pid)
    assert guard is not None
    os.kill(guard.ppid, signal.SIGKILL)
    wait_until(lambda: "guard.died" in worker.log, what="the guard is missed")
    time.sleep(0.5)
    upgrade(worker)
    cluster.worker(env=SLOW)
    # Nobody but the old guard could have read its exit status.
    assert ended(run, 90) in (RunState.FINISHED, RunState.FAILED)
    assert run.logs().decode().startswith(count(59))
    assert "Crashed" not in states(run)


def test_a_worker_that_is_killed_and_replaced_at_once_leaves_a_crash_not_a_failure(cluster: Cluster) -> None:
    """Its guard is still ending the job when the next worker takes it over."""
    worker = cluster.worker(env=SLOW)
    run = submit(
        ["sh", "-c", "trap '' TERM; echo up; [ $LAUNCH_ATTEMPT = 2 ] && exit 0; while :; do sleep 0.1; done"],
        retries=1, retry_on=["crashed"], api=cluster.api,
    )  # fmt: skip
    wait_for_output(run, b"up")
    cluster.worker(env=SLOW)
    worker.kill()
    assert ended(run) is RunState.FINISHED
    assert "Failed" not in states(run)
    assert run.record.attempt == 2


def test_the_password_of_a_registry_is_nowhere_but_in_the_admins_file(
    containers: Containers, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Asked with every log at its most talkative, of pulls that are refused, and of one that is not."""
    cluster, folder = containers.cluster, tmp_path_factory.mktemp("credentials")
    registry.login = "robot:hunter2"
    redis = redis_of(cluster.redis_url)
    redis.config_set("rdbcompression", "no")
    env = {"LAUNCH_REGISTRY_AUTH": str(folder)}
    worker = cluster.worker(env=env, arguments=("--loglevel", "DEBUG"))
    cluster.api.create_queue("default", container={"registry_auth": "team", "pull": "always"})

    def pulled() -> Run:
        run = submit(["true"], image=registry.image, api=cluster.api)
        ended(run)
        return run

    assert f"docker --config {folder}/team login {registry.name}" in pulled().refresh().reason
    (folder / "team").mkdir()
    for password in ("wrong1", "hunter2"):
        pair = base64.b64encode(f"robot:{password}".encode()).decode()
        (folder / "team" / "config.json").write_text(json.dumps({"auths": {registry.name: {"auth": pair}}}))
        (folder / "team" / "config.json").chmod(0o600)
        found = {
            finding["name"]: finding["text"]
            for finding in map(json.loads, cluster.run("launch-worker", "doctor", "--json", env=env).out.splitlines())
        }
        run = pulled()
        if password == "wrong1":
            assert "as account 'robot': unauthorized" in run.refresh().reason
            assert "as account 'robot'" in found["registry.refused"]
        else:
            assert run.state is RunState.FINISHED
            assert "as account 'robot'" in found["registry"]
        assert "registry.open" not in found
        told = cluster.run("launch-worker", "show", run.id).out + str(found)
        kept = [redis.dump(key) or b"" for key in redis.scan_iter()]
        written = [path.read_bytes() for path in cluster.folder.rglob("*") if path.is_file()]
        assert len(worker.log) > 1000
        assert any(b"pulled" in content for content in kept), "they are read as they are"
        for secret in (password, pair):
            assert secret not in told
            assert not any(secret.encode() in content for content in (*kept, *written))
    redis.config_set("rdbcompression", "yes")
    assert "answers" in found["engine"]
    away = {"DOCKER_HOST": f"unix://{folder}/none.sock"}
    assert f"does not answer at unix://{folder}/none.sock" in cluster.run("launch-worker", "doctor", env=away).out
    cluster.api.set_queue("default", container={"registry_auth": "tame"})
    assert "'tame', which is not in" in cluster.run("launch-worker", "doctor", env=env).out


def test_an_upgrade_waits_for_a_start_with_all_leases_kept(containers: Containers, registry: Registry) -> None:
    """A pull that takes longer than the lease must not cost the others theirs."""
    cluster = containers.cluster
    registry.delay_s = 16.0
    # The next worker has to be there within the lease, also on a machine that stalls.
    env = {"LAUNCH_LEASE_S": "14"}
    worker = cluster.worker(slots=3, env=env)
    run = submit(["sh", "-c", COUNT_ON], api=cluster.api)
    wait_for_output(run, b"line 2\n")
    pulling = submit(["echo", "pulled"], image=registry.image, api=cluster.api)
    wait_until(lambda: "pulling" in pulling.refresh().reason, what="it is pulled")
    worker.signal(signal.SIGUSR1)
    assert worker.wait(40) == 0, worker.log
    cluster.worker(env=env)
    assert ended(pulling) is RunState.FINISHED
    os.kill(wait_for_pid(run), signal.SIGUSR1)
    assert ended(run) is RunState.FINISHED
    assert states(run) == ["Pending", "Running", "Finished"]
    assert is_whole(run)


def test_a_detached_job_that_no_worker_takes_over_is_ended_when_its_lease_is(cluster: Cluster) -> None:
    worker = cluster.worker()
    run = submit(
        ["sh", "-c", "while :; do date +%s.%N >> stamps; sleep 0.1; done"], cwd=cluster.folder, api=cluster.api
    )
    pid = wait_for_pid(run)
    upgrade(worker)
    cluster.beat()
    wait_until(lambda: run.state is RunState.CRASHED, what="the run is Crashed")
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="its job is ended")
    assert not os.path.exists(f"/proc/{pid}")


def test_a_worker_of_another_name_leaves_a_detached_job_alone(cluster: Cluster) -> None:
    env = {"LAUNCH_LEASE_S": "25"}
    worker = cluster.worker(name="w1", env=env)
    run = submit(["sh", "-c", COUNT.format(n=24)], api=cluster.api)
    wait_for_output(run, b"line 2\n")
    upgrade(worker)
    cluster.worker(name="w2", env=env)
    time.sleep(1.0)
    assert run.refresh().worker.startswith("w1@")
    cluster.worker(name="w1", env=env)
    assert ended(run) is RunState.FINISHED
    assert run.logs().decode() == count(24)


def test_a_detached_job_outlives_an_outage_of_redis(cluster: Cluster, redis_server: Any) -> None:
    """A planned restart while Redis is frozen: without retries nobody else may take the run, so it may wait."""
    # The next worker has to reach the guard within the lease, also on a machine that stalls.
    env = {"LAUNCH_LEASE_S": "14"}
    worker = cluster.worker(env=env)
    run = submit(["sh", "-c", COUNT_ON], api=cluster.api)
    wait_for_output(run, b"line 2\n")
    upgrade(worker)
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        second = cluster.worker(wait=False, env=env)
        time.sleep(16.0)
        assert second.process.poll() is None
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    os.kill(wait_for_pid(run), signal.SIGUSR1)
    assert ended(run) is RunState.FINISHED
    assert (run.record.attempt, is_whole(run)) == (1, True)


# -- the engine is away ------------------------------------------------------------------------------------------------


def test_without_an_engine_container_runs_go_back_to_their_queue_and_processes_go_on(cluster: Cluster) -> None:
    worker = cluster.worker(
        env={"DOCKER_HOST": f"unix://{cluster.folder}/none.sock"}, arguments=["--quarantine-after", "2"]
    )
    runs = [submit(["true"], image="any:1", api=cluster.api) for _ in range(3)]
    for run in runs:
        wait_until(lambda run=run: run.refresh().misstarts == 1, what="it is given back")  # type: ignore[misc]
        said = str(run.as_json(history=True)["history"])
        assert "back in its queue, for the start failed through its worker: the container engine" in said
        assert "does not answer at unix://" in said
        assert "start it, or set DOCKER_HOST" in said
        assert not run.record.state.is_final
    said = "fails to start runs with a container: other workers are to take them for now"
    assert cluster.api.store.workers()[0]["problem"] == said
    assert ended(submit(["true"], api=cluster.api)) is RunState.FINISHED
    assert worker.process.poll() is None


def test_a_worker_without_its_engine_leaves_containers_to_a_sound_one(containers: Containers) -> None:
    cluster = containers.cluster
    cluster.worker(name="sound")
    cluster.worker("default,only", name="hurt", env={"DOCKER_HOST": f"unix://{cluster.folder}/none.sock"})
    first = submit(["true"], image=containers.image, queue="only", api=cluster.api)
    wait_until(lambda: first.refresh().misstarts == 1, what="the hurt worker has found out")
    runs = [submit(["true"], image=containers.image, api=cluster.api) for _ in range(4)]
    for run in runs:
        assert ended(run) is RunState.FINISHED
        assert (run.record.worker.partition("@")[0], run.record.attempt) == ("sound", 1)


class Forwarder:
    """socat-like: a unix socket that leads to the engine until it is cut."""

    def __init__(self, folder: Path, engine_socket: str) -> None:
        self.path = folder / "engine.sock"
        program = FORWARDER.format(here=str(self.path), there=engine_socket)
        self._program = program
        self.up()

    def up(self) -> None:
        self.path.unlink(missing_ok=True)
        self._process = subprocess.Popen(["python3", "-c", self._program])
        wait_until(self.path.exists, what="the forwarder listens")

    def cut(self) -> None:
        self._process.kill()
        self._process.wait()


FORWARDER = """
import socket, threading
door = socket.socket(socket.AF_UNIX); door.bind({here!r}); door.listen(50)
def pump(a, b):
    try:
        while data := a.recv(65536): b.sendall(data)
    except OSError: pass
    for s in (a, b):
        try: s.shutdown(socket.SHUT_RDWR)
        except OSError: pass
while True:
    a, _ = door.accept()
    b = socket.socket(socket.AF_UNIX); b.connect({there!r})
    threading.Thread(target=pump, args=(a, b), daemon=True).start()
    threading.Thread(target=pump, args=(b, a), daemon=True).start()
"""


def test_an_engine_that_does_not_answer_for_a_while_costs_a_running_job_nothing(containers: Containers) -> None:
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not address.startswith("unix://"):
        pytest.skip("the engine is not behind a unix socket here")
    forwarder = Forwarder(containers.cluster.folder, address.removeprefix("unix://"))
    try:
        containers.cluster.worker(env={"DOCKER_HOST": f"unix://{forwarder.path}"})
        run = containers.submit(COUNT_ON + "; exit 9")
        wait_for_output(run, b"line 2\n")
        forwarder.cut()
        time.sleep(2.0)
        assert run.state is RunState.RUNNING
        forwarder.up()
        containers.release(run)
        assert ended(run) is RunState.FAILED
        assert (run.exit_code, is_whole(run)) == (9, True)
        assert containers.left() == []
    finally:
        forwarder.cut()


# -- queues and what they allow ----------------------------------------------------------------------------------------


def test_a_queue_of_containers_needs_no_image_from_the_submitter(containers: Containers) -> None:
    cluster = containers.cluster
    assert cluster.run("launch-worker", "queues", "create", "sim", "--resource", "container").code == 0
    refused = cluster.run("launch-submit", "-q", "sim", "--", "true")
    assert (refused.code, refused.out) == (2, "")
    assert "submit it with --image IMAGE" in refused.err
    assert cluster.run("launch-worker", "queues", "set", "sim", "--container", f"image={containers.image}").code == 0
    cluster.worker("sim")
    done = cluster.run("launch-submit", "-q", "sim", "--follow", "--", "sh", "-c", "echo in $(cat /proc/1/comm)")
    assert done.code == 0, done
    assert "init" in done.out or "tini" in done.out


def test_a_queue_of_processes_refuses_images(containers: Containers) -> None:
    cluster = containers.cluster
    cluster.api.create_queue("cpu", resource="process")
    refused = cluster.run("launch-submit", "-q", "cpu", "--image", containers.image, "--", "true")
    assert refused.code == 2
    assert "runs processes" in refused.err
    assert list(cluster.api.store.runs()) == []


def test_a_record_that_was_tampered_with_gets_nothing_that_reaches_the_host(containers: Containers) -> None:
    """W23: the worker checks again, whatever wrote the record."""
    cluster = containers.cluster
    run = containers.submit("true")
    key = f"launch:run:{run.id}"
    spec = json.loads(redis_of(cluster.redis_url).hget(key, "spec"))
    spec["container"] = {"privileged": True}
    redis_of(cluster.redis_url).hset(key, "spec", json.dumps(spec))
    cluster.worker()
    assert ended(run) is RunState.FAILED
    assert run.record.phase == "agent"
    assert "only the queue's configuration may set it" in run.record.reason
    assert containers.left() == []


def test_secrets_are_on_no_command_line_and_in_no_other_runs_container(containers: Containers) -> None:
    """X11, W6."""
    cluster = containers.cluster
    secret = "s3cr3t-" + os.urandom(8).hex()
    worker = cluster.worker(env={"HF_TOKEN": secret}, slots=2)
    until_told = "trap 'exit 0' USR1; while :; do sleep 0.1; done"
    run = containers.submit(f"echo ${{#HF_TOKEN}}; {until_told}", env_from=["HF_TOKEN"])
    other = containers.submit(until_told)
    found = containers.of(run)
    assert f"HF_TOKEN={secret}" in found["Config"]["Env"]
    assert secret not in json.dumps(containers.of(other))
    lines = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    assert secret not in lines
    wait_for_output(run, b"\n")
    for each in (run, other):
        containers.release(each)
    assert ended(run) is ended(other) is RunState.FINISHED
    assert run.logs().decode().strip() == str(len(secret))
    assert secret not in worker.log
    everything = redis_of(cluster.redis_url).execute_command("DUMP", f"launch:run:{run.id}")
    assert secret.encode() not in everything


def test_the_brokers_url_is_not_in_a_container(containers: Containers) -> None:
    containers.cluster.worker()
    run = containers.submit("env")
    assert ended(run) is RunState.FINISHED
    names = {line.split("=")[0] for line in run.logs().decode().splitlines()}
    assert "LAUNCH_RUN_ID" in names
    assert not names & {"LAUNCH_REDIS_URL", "LAUNCH_WORK_DIR", "VIRTUAL_ENV", "PYTHONPATH"}


def test_a_container_that_was_ended_at_its_lease_is_crashed_and_not_failed(containers: Containers) -> None:
    """Whoever finds it ended: it did not end by itself, and its run is tried again as after any death of a worker."""
    cluster = containers.cluster
    worker = cluster.worker()
    run = containers.submit(f"[ $LAUNCH_ATTEMPT = 2 ] || {COUNT.format(n=400)}", retries=1, retry_on=["crashed"])
    wait_for_output(run, b"line 2\n")
    worker.kill()
    wait_until(lambda: not containers.left(status="running"), timeout_s=20, what="its guard has ended it")
    cluster.worker()
    assert ended(run) is RunState.FINISHED
    assert states(run)[:4] == ["Pending", "Running", "Crashed", "Pending"]
