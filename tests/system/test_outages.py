"""Redis goes away, comes back, comes back with less; workers come back to what others left."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker import Run, submit
from launch_worker.dev.redis_server import RedisServer
from launch_worker.errors import BrokerUnavailableError
from launch_worker.maintenance.passes import PASSES
from launch_worker.model.states import RunState
from launch_worker.runners.process import tree
from tests.chaos.proxy import Network
from tests.conftest import wait_until
from tests.support.redis_client import redis_of
from tests.system.conftest import (
    TRACEBACK,
    Cluster,
    job_processes,
    stamps,
    states,
    wait_for_output,
    wait_for_pid,
    waits_for,
)
from tests.system.test_failures import guard_of
from tests.system.test_start import start


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of this test's own, which keeps what it acknowledged."""
    made = RedisServer(aof="always")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def outage(server: RedisServer, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(server.url, tmp_path)
    yield made
    made.close()


@pytest.mark.main_path
def test_redis_gone_jobs_go_on_and_their_ends_are_delivered_after(outage: Cluster, server: RedisServer) -> None:
    """P33: and nothing is Crashed by the outage itself."""
    outage.worker()
    within, after = outage.folder / "within", outage.folder / "after"
    submitted = time.monotonic()
    ends_within = submit(["sh", "-c", f"echo begun; {waits_for(within)}; echo ended; exit 4"], api=outage.api)
    goes_on = submit(["sh", "-c", f"echo begun; {waits_for(after)}; echo ended"], api=outage.api)
    wait_for_output(ends_within, b"begun")
    wait_for_output(goes_on, b"begun")
    server.kill()
    within.touch()
    wait_until(lambda: not job_processes(ends_within.id), what="its job has ended")
    lasted_s = time.monotonic() - submitted
    time.sleep(5)  # longer than a lease
    server.start()
    after.touch()
    assert ends_within.wait(20) is RunState.FAILED
    assert ends_within.exit_code == 4
    assert ends_within.logs() == b"begun\nended\n"
    assert goes_on.wait(20) is RunState.FINISHED
    assert goes_on.logs() == b"begun\nended\n"
    assert "Crashed" not in states(ends_within) + states(goes_on)
    record = ends_within.refresh()
    assert record.ended_at is not None
    assert record.started_at is not None
    assert record.ended_at - record.started_at < 1e6 * (lasted_s + 3), "it ended when its job did, not when it was told"


def test_redis_gone_for_10_minutes_no_part_of_the_system_ends(
    outage: Cluster, server: RedisServer, tmp_path: Path
) -> None:
    """In time that runs 30 times as fast: 20 leases long."""
    outage.env |= {"LAUNCH_HEARTBEAT_S": "0.2", "LAUNCH_LEASE_S": "1", "LAUNCH_PASS_S": "0.2"}
    parts = [outage.worker(name="a"), outage.worker(name="b"), outage.beat()]
    goes_on = submit(["sh", "-c", "sleep 25; echo done"], api=outage.api)
    ends_within = submit(["sh", "-c", "sleep 5; exit 4"], api=outage.api)
    once = submit(
        ["sh", "-c", f"echo $$ >> {tmp_path}/n; [ $LAUNCH_ATTEMPT = 2 ] || sleep 600"], retries=1, api=outage.api
    )
    wait_until(lambda: outage.api.store.counts()[RunState.RUNNING] == 3)
    server.kill()
    time.sleep(20)
    server.start()
    assert ends_within.wait(30) is RunState.FAILED
    assert ends_within.exit_code == 4
    assert once.wait(30) is RunState.FINISHED
    assert goes_on.wait(30) is RunState.FINISHED
    assert goes_on.logs() == b"done\n"
    assert len(stamps(tmp_path / "n")) == 2
    assert submit(["true"], api=outage.api).wait(30) is RunState.FINISHED
    assert all(part.process.poll() is None for part in parts)


def test_redis_restarted_aof_on_under_load_no_run_is_lost_and_none_runs_twice(
    outage: Cluster, server: RedisServer, tmp_path: Path
) -> None:
    outage.worker(name="a", slots=4)
    outage.worker(name="b", slots=4)
    outage.beat()
    runs: list[Run] = []
    stop = threading.Event()

    def produce() -> None:
        while not stop.is_set():
            with contextlib.suppress(BrokerUnavailableError):
                runs.append(submit(["sh", "-c", f"echo $LAUNCH_RUN_ID >> {tmp_path}/n; sleep 0.1"], api=outage.api))
            time.sleep(0.02)

    producer = threading.Thread(target=produce)
    producer.start()
    for _ in range(3):
        time.sleep(2)
        server.kill()
        time.sleep(0.5)
        server.start()
    time.sleep(2)
    stop.set()
    producer.join()
    for run in runs:
        assert run.wait(60) is RunState.FINISHED, states(run)
    # Runs whose submit was answered with an error may have been written, and are executed too.
    done = stamps(tmp_path / "n")
    assert len(runs) > 50
    assert {run.id for run in runs} <= set(done)
    assert len(done) == len(set(done))


@pytest.mark.parametrize("refusal", ["READONLY", "NOREPLICAS", "OOM"])
def test_a_redis_that_refuses_to_write_ends_nothing(outage: Cluster, refusal: str) -> None:
    """As after a failover, without enough replicas, when it is full."""
    worker, beat = outage.worker(), outage.beat()
    redis = redis_of(outage.redis_url)
    run = submit(["sh", "-c", "sleep 2; exit 4"], api=outage.api)
    wait_for_pid(run)
    if refusal == "READONLY":
        redis.replicaof("127.0.0.1", 1)
    elif refusal == "NOREPLICAS":
        redis.config_set("min-replicas-to-write", 1)
    else:
        redis.config_set("maxmemory", 1)
    refused = outage.run("launch-submit", "--", "true")
    assert refused.code == 69, refused
    assert refused.err.count("\n") == 1
    time.sleep(5)
    redis.replicaof("NO", "ONE")
    redis.config_set("min-replicas-to-write", 0)
    redis.config_set("maxmemory", 0)
    wait_until(lambda: run.state is RunState.FAILED)
    assert run.exit_code == 4
    assert submit(["true"], api=outage.api).wait(40) is RunState.FINISHED
    assert worker.process.poll() is None
    assert beat.process.poll() is None


def test_redis_hung_is_like_redis_gone(outage: Cluster, server: RedisServer) -> None:
    outage.worker()
    run = submit(["sh", "-c", "echo begun; sleep 2; exit 4"], api=outage.api)
    wait_for_output(run, b"begun")
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(7)
    server.process.send_signal(signal.SIGCONT)
    assert run.wait(30) is RunState.FAILED
    assert run.exit_code == 4
    assert "Crashed" not in states(run)


def test_redis_gone_a_worker_restarted_in_between_delivers_what_the_first_one_kept(
    outage: Cluster, server: RedisServer
) -> None:
    first = outage.worker(name="a")
    run = submit(["sh", "-c", "echo begun; sleep 1; echo ended; exit 4"], api=outage.api)
    wait_for_output(run, b"begun")
    server.kill()
    wait_until(lambda: not job_processes(run.id))
    time.sleep(0.5)
    first.signal(signal.SIGTERM)
    first.signal(signal.SIGTERM)
    first.wait(30)
    server.start()
    outage.worker(name="b")
    assert run.wait(20) is RunState.FAILED
    assert run.exit_code == 4
    assert run.logs() == b"begun\nended\n"
    wait_until(lambda: len(list((outage.folder / "work" / "workers").iterdir())) == 1, what="the old folder is gone")


def test_redis_gone_a_run_with_retries_is_ended_by_its_own_worker_at_the_lease(
    outage: Cluster, server: RedisServer, tmp_path: Path
) -> None:
    # Of a shorter lease a stalled worker may have left less than a second.
    outage.worker(env={"LAUNCH_LEASE_S": "6"})
    script = f"echo start >> {tmp_path}/n; [ $LAUNCH_ATTEMPT = 2 ] || sleep 600"
    run = submit(["sh", "-c", script], retries=1, api=outage.api)
    wait_for_pid(run)
    begun = time.monotonic()
    server.kill()
    wait_until(lambda: not job_processes(run.id), what="its job is gone")
    assert time.monotonic() - begun > 1
    server.start()
    assert run.wait(30) is RunState.FINISHED
    assert stamps(tmp_path / "n") == ["start", "start"]
    assert states(run)[2:4] == ["Crashed", "Pending"]


def test_redis_gone_a_worker_that_is_told_to_stop_stops(outage: Cluster, server: RedisServer) -> None:
    worker = outage.worker()
    run = submit(["sleep", "600"], api=outage.api)
    wait_for_pid(run)
    server.kill()
    time.sleep(1)
    worker.signal(signal.SIGQUIT)
    worker.signal(signal.SIGQUIT)
    worker.wait(40)
    assert not job_processes(run.id)
    server.start()
    outage.worker(name="b")
    assert run.wait(20) is RunState.KILLED


def test_worker_and_guard_killed_at_once_the_next_worker_ends_the_job_before_it_takes_runs(cluster: Cluster) -> None:
    worker = cluster.worker(name="a")
    run = submit(["sh", "-c", "trap '' TERM; (setsid sleep 600 &); while :; do sleep 1; done"], api=cluster.api)
    wait_for_pid(run)
    guard = guard_of(worker.pid)
    os.kill(worker.pid, signal.SIGSTOP)  # so that neither can react to the other's end
    os.kill(guard, signal.SIGKILL)
    worker.kill()
    time.sleep(0.5)
    assert job_processes(run.id)
    cluster.worker(name="b")
    assert not job_processes(run.id)
    assert run.wait(20) is RunState.CRASHED
    assert "died" in run.record.reason


def test_redis_restored_from_an_old_snapshot_is_told_what_it_lost(tmp_path: Path) -> None:
    server = RedisServer(snapshot=True)
    server.start()
    cluster = Cluster(server.url, tmp_path)
    try:
        cluster.worker(slots=4)
        done = tmp_path / "done"
        script = f"echo $LAUNCH_RUN_ID >> {done}; {waits_for(tmp_path / 'end')}; exit 5"
        waits = submit(["sh", "-c", f"echo $LAUNCH_RUN_ID >> {done}"], queue="later", api=cluster.api)
        pending = submit(["sh", "-c", script], queue="gpu", api=cluster.api)
        redis_of(cluster.redis_url).save()
        # All that follows is lost: the snapshot knows `pending` as Pending, and `unknown` not at all.
        cluster.worker("gpu", name="b")
        unknown = submit(["sh", "-c", script], api=cluster.api)
        wait_for_pid(unknown)
        wait_for_pid(pending)
        server.kill()
        time.sleep(1)
        server.start()
        both = {pending.id, unknown.id}
        wait_until(lambda: {run.id for run in cluster.runs(state="running")} == both, what="both workers have reported")
        (tmp_path / "end").touch()
        assert pending.wait(30) is RunState.FAILED
        assert unknown.wait(30) is RunState.FAILED
        assert (pending.exit_code, unknown.exit_code) == (5, 5)
        cluster.worker("later", name="c")
        assert waits.wait(30) is RunState.FINISHED
        assert sorted(stamps(done)) == sorted([waits.id, pending.id, unknown.id])
    finally:
        cluster.close()
        server.stop()


def test_no_process_of_ours_outlives_its_worker(cluster: Cluster) -> None:
    worker = cluster.worker()
    guard = guard_of(worker.pid)
    worker.kill()
    wait_until(lambda: (found := tree.look_up(guard)) is None or found.zombie, what="the guard is gone")


def test_a_job_that_ends_while_its_worker_is_dead_gets_its_true_end(cluster: Cluster) -> None:
    """The guard keeps the exit status; the next worker on the machine delivers it."""
    worker = cluster.worker(name="a")
    trap = f"trap 'printf \"{TRACEBACK}\"; exit 7' USR1"
    run = submit(["sh", "-c", f"{trap}; while :; do sleep 0.02; done"], api=cluster.api)
    job = wait_for_pid(run)
    worker.signal(signal.SIGSTOP)
    os.kill(job, signal.SIGUSR1)
    wait_until(lambda: not job_processes(run.id))
    worker.kill()
    cluster.worker(name="b")
    wait_until(lambda: run.state is RunState.FAILED)
    assert (run.exit_code, run.record.reason) == (7, "KeyError: 3 (exit code 7)")


@pytest.mark.main_path
def test_one_who_waits_or_follows_outlasts_a_restart_of_redis(outage: Cluster, server: RedisServer) -> None:
    outage.worker()
    script = f"echo one; {waits_for(outage.folder / 'end')}; echo two; exit 6"
    follower = outage.open("launch-submit", "--follow", "--", "sh", "-c", script)
    run = wait_until(lambda: next(iter(outage.runs(state="running")), None))
    wait_for_output(run, b"one")
    server.kill()
    time.sleep(1)
    server.start()
    (outage.folder / "end").touch()
    out, err = follower.communicate(timeout=30)
    assert (out, follower.returncode) == (b"one\ntwo\n", 6), err


@pytest.mark.parametrize("how", ["refuse", "hang", "lose"])
def test_the_network_between_worker_and_redis_cut_and_healed(
    cluster: Cluster, redis_server: RedisServer, tmp_path: Path, how: str
) -> None:
    """Another worker is there all the time, and takes over only what may be taken over."""
    network = Network()
    proxy = network.open(lambda: redis_server.port)
    try:
        url = cluster.redis_url.replace(f":{redis_server.port}/", f":{proxy.port}/")
        cut_off = cluster.worker(name="a", env={"LAUNCH_REDIS_URL": url})
        goes_on = submit(["sh", "-c", f"echo one; {waits_for(tmp_path / 'after')}; echo two"], api=cluster.api)
        ends_within = submit(["sh", "-c", f"{waits_for(tmp_path / 'within')}; exit 4"], api=cluster.api)
        wait_for_pid(goes_on)
        wait_for_pid(ends_within)
        cluster.worker(name="b", slots=4)
        proxy.cut(how)
        (tmp_path / "within").touch()
        wait_until(lambda: goes_on.state is RunState.CRASHED, what="its lease ran out")
        proxy.heal()
        (tmp_path / "after").touch()
        wait_until(lambda: ends_within.state is RunState.FAILED, timeout_s=30)
        wait_until(lambda: goes_on.state is RunState.FINISHED, timeout_s=30)
        assert ends_within.exit_code == 4
        assert goes_on.logs() == b"one\ntwo\n"
        assert [step.attempt for step in goes_on.transitions] == [0, *[1] * (len(goes_on.transitions) - 1)]
        assert cut_off.process.poll() is None
    finally:
        cluster.close()
        network.close()


@pytest.mark.parametrize("is_over", [True, False], ids=["before", "after"])
def test_an_end_between_two_workers_is_told_by_the_third_when_redis_was_away_for_the_second(
    cluster: Cluster, redis_server: RedisServer, tmp_path: Path, is_over: bool
) -> None:
    """The job ends once its worker has left it, or once the next one has it, which cannot say so and is killed."""
    # Who takes a job over must come within its lease.
    lease = {"LAUNCH_LEASE_S": "60"}
    network = Network()
    proxy = network.open(lambda: redis_server.port)
    try:
        first = cluster.worker(env=lease)
        script = f"echo begun; while [ ! -e {tmp_path}/end ]; do sleep 0.05; done; exit 5"
        run = submit(["sh", "-c", script], api=cluster.api)
        wait_for_output(run, b"begun")
        first.signal(signal.SIGUSR1)
        assert first.wait() == 0
        if is_over:
            (tmp_path / "end").touch()
        proxy.cut("hang")
        url = cluster.redis_url.replace(f":{redis_server.port}/", f":{proxy.port}/")
        second = cluster.worker(env=lease | {"LAUNCH_REDIS_URL": url}, wait=False)
        wait_until(lambda: "redis.away" in second.log, what="the second worker has looked for Redis")
        time.sleep(1)
        (tmp_path / "end").touch()
        time.sleep(1)
        second.kill()
        cluster.worker(env=lease)
        wait_until(lambda: run.state is RunState.FAILED, timeout_s=20, what="its end is told")
        assert run.exit_code == 5
    finally:
        cluster.close()
        network.close()


def test_the_network_cut_a_run_with_retries_never_runs_twice_at_once(
    cluster: Cluster, redis_server: RedisServer, tmp_path: Path
) -> None:
    network = Network()
    proxy = network.open(lambda: redis_server.port)
    try:
        url = cluster.redis_url.replace(f":{redis_server.port}/", f":{proxy.port}/")
        cluster.worker(name="a", env={"LAUNCH_REDIS_URL": url})
        script = f"trap 'echo end >> {tmp_path}/n; exit 1' TERM; echo start >> {tmp_path}/n; "
        script += "[ $LAUNCH_ATTEMPT = 2 ] || while :; do sleep 0.05; done"
        run = submit(["sh", "-c", script], retries=1, api=cluster.api)
        wait_for_pid(run)
        cluster.worker(name="b")
        proxy.cut("hang")
        wait_until(lambda: run.state is RunState.FINISHED, timeout_s=30)
        proxy.heal()
        assert stamps(tmp_path / "n") == ["start", "end", "start"]
    finally:
        cluster.close()
        network.close()


@pytest.mark.parametrize("hours", [1, -1])
def test_the_servers_clock_jumps_and_nothing_that_lives_is_crashed(cluster: Cluster, hours: int) -> None:
    """All stored times are as they would be after the jump; beat and workers meet them at once."""
    # The worker has two heartbeats to renew the lease, also on a machine that stalls.
    cluster.env |= {"LAUNCH_HEARTBEAT_S": "2", "LAUNCH_LEASE_S": "20"}
    cluster.beat()
    cluster.worker()
    run = submit(["sleep", "600"], retries=1, api=cluster.api)
    wait_for_pid(run)
    redis = redis_of(cluster.redis_url)
    jump = hours * 3600 * 1_000_000
    redis.zincrby("launch:leases", -jump, run.id)
    for name, at in redis.hgetall("launch:passes").items():
        redis.hset("launch:passes", name, int(at) - jump)
    time.sleep(6)
    assert states(run) == ["Pending", "Running"]
    later = submit(["sh", "-c", "[ $LAUNCH_ATTEMPT = 2 ]"], retries=1, retry_delay=0.5, api=cluster.api)
    assert later.wait(20) is RunState.FINISHED
    run.cancel(grace_s=0)
    assert run.wait(10) is RunState.KILLED


@pytest.mark.parametrize("selection", [("-Q", "default"), ("-m", "def")])
def test_after_a_long_outage_the_first_new_run_starts_within_2_s(
    outage: Cluster, server: RedisServer, selection: tuple[str, str], tmp_path: Path
) -> None:
    """However the worker finds its queues, and however long Celery would have slept by then."""
    outage.api.create_queue("default")
    worker = outage.celery("worker", *selection, "-n", "w1@%h", "--loglevel", "INFO", name="w1")
    wait_until(lambda: any(w["pid"] == worker.pid for w in outage.api.store.workers()), what="the worker is listed")
    assert submit(["true"], api=outage.api).wait(20) is RunState.FINISHED
    server.kill()
    wait_until(lambda: "redis.away" in worker.log)
    time.sleep(12)
    server.start()
    began = time.monotonic()
    run = submit(["true"], api=outage.api)
    assert run.wait(20) is RunState.FINISHED
    # Two seconds on a machine that is not stalled; Celery by itself would sleep for up to eight.
    assert time.monotonic() - began < 7.0
    assert "Traceback" not in worker.log


def test_while_redis_is_away_a_worker_knocks_with_one_connection_at_a_time_and_seldomer(
    outage: Cluster, server: RedisServer
) -> None:
    """Whatever it has to tell: a run that ended, logs of others, its heartbeat, Celery's own consumer."""
    network = Network()
    proxy = network.open(lambda: server.port)
    outage.env["LAUNCH_REDIS_URL"] = server.url.replace(f":{server.port}/", f":{proxy.port}/")
    worker = outage.worker(slots=6)
    for flag in ("within", "within", "within", "never"):
        submit(["sh", "-c", f"until [ -e {outage.folder / flag} ]; do echo; sleep 0.1; done"], api=outage.api)
    wait_until(lambda: outage.api.store.counts()[RunState.RUNNING] == 4)
    before = proxy.accepted
    proxy.cut("refuse")
    wait_until(lambda: "redis.away" in worker.log)
    (outage.folder / "within").touch()
    time.sleep(3)
    settled, since = proxy.accepted, time.monotonic()
    wait_until(lambda: proxy.accepted >= settled + 2, what="it knocks")
    time.sleep(5)
    knocks, lasted_s = proxy.accepted - settled, time.monotonic() - since
    proxy.heal()
    assert settled - before < 60
    assert knocks <= lasted_s / 0.75 + 2, "each pause is 0.75 s at least"
    wait_until(lambda: outage.api.store.counts()[RunState.FINISHED] >= 3)
    network.close()


def test_a_beat_says_once_that_redis_is_away_and_goes_on_at_its_return(outage: Cluster, server: RedisServer) -> None:
    beat = outage.beat()
    passes = outage.api.store.pass_ages_s
    wait_until(lambda: len(passes()) == len(PASSES), what="all passes were done")
    server.kill()
    wait_until(lambda: "redis.away" in beat.log)
    time.sleep(5)
    server.start()
    began = time.monotonic()
    # Two seconds on a machine that is not stalled; by Celery itself up to 30.
    wait_until(lambda: "redis.back" in beat.log, timeout_s=10)
    wait_until(lambda: max(passes().values()) < time.monotonic() - began, what="all passes were done again")
    assert beat.log.count("redis.away") == 1
    assert "pass.failed" not in beat.log
    assert "Traceback" not in beat.log
    assert beat.process.poll() is None


def test_a_beat_that_is_started_while_redis_is_away_begins_at_its_return(outage: Cluster, server: RedisServer) -> None:
    # Its first passes do not wait for the next interval.
    outage.env |= {"LAUNCH_PASS_S": "30", "LAUNCH_LEASE_S": "60"}
    server.kill()
    beat = outage.beat()
    wait_until(lambda: "redis.away" in beat.log)
    time.sleep(7)
    server.start()
    wait_until(lambda: len(outage.api.store.pass_ages_s()) == len(PASSES), timeout_s=15, what="all passes were done")
    assert "Traceback" not in beat.log
    assert len(beat.log.splitlines()) < 20, beat.log


def test_a_connection_that_is_lost_again_and_again_costs_no_output_no_end_and_little_work(
    outage: Cluster, server: RedisServer
) -> None:
    """Lost with what is on its way, so that Redis has things of which the worker does not know that it has."""
    outage.env["LAUNCH_LEASE_S"] = "30"
    network = Network()
    proxy = network.open(lambda: server.port)
    url = server.url.replace(f":{server.port}/", f":{proxy.port}/")
    worker = outage.worker(slots=8, env={"LAUNCH_REDIS_URL": url})
    runs = []
    for count in (10, 20, 30, 40, 50, 60):
        script = f"for i in $(seq {count}); do echo $i; sleep 0.1; done; exit {count}"
        runs.append((count, submit(["sh", "-c", script], api=outage.api)))
    for _, run in runs:
        wait_for_pid(run)
    used_s = cpu_s(worker.pid)
    until = time.monotonic() + 6
    while time.monotonic() < until:
        for _ in ("cut", "whole"):
            proxy.cut("mute")
            time.sleep(0.15)
            proxy.heal()
        time.sleep(0.3)
    assert cpu_s(worker.pid) - used_s < 2.0
    began = time.monotonic()
    assert submit(["true"], api=outage.api).wait(20) is RunState.FINISHED
    assert time.monotonic() - began < 10.0, "no pause between two tries is longer than five seconds"
    for count, run in runs:
        assert run.wait(20) is RunState.FAILED
        assert run.exit_code == count
        assert states(run) == ["Pending", "Running", "Failed"]
        assert run.logs().split() == [b"%d" % number for number in range(1, count + 1)]
    assert worker.log.count("redis.") < 20
    assert "Traceback" not in worker.log
    network.close()


def cpu_s(pid: int) -> float:
    """Of its processors' time, by now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_strict_worker_waits_for_redis_to_see_the_queues(outage: Cluster, server: RedisServer) -> None:
    run = submit(["true"], queue="gpu", api=outage.api)
    server.kill()
    worker = start(outage, "--strict", "-q", "gpu", wait=False)
    wait_until(lambda: "--strict waits to see the queues" in worker.log)
    server.start()
    assert run.wait(30) is RunState.FINISHED, worker.log
