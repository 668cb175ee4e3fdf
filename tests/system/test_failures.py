"""What is promised when something dies: real kills, real signals."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from launch_worker import submit
from launch_worker.dev.redis_server import RedisServer
from launch_worker.model.states import RunState
from launch_worker.runners.process import tree
from tests.conftest import wait_until
from tests.runners.process.test_guard_orders import odd_signals
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster, job_processes, stamps, states, wait_for_output, wait_for_pid, waits_for

#: A job that ignores SIGTERM, with a child, a grandchild in a session of its own, and a daemon without its environment.
LOOP = "trap '' TERM; while :; do sleep 1; done"
STUBBORN = f'sh -c "{LOOP}" & setsid sh -c "{LOOP}" & (env -i setsid sh -c "{LOOP} #daemon" &); {LOOP}'


def test_workers_process_killed_the_run_is_crashed_and_no_process_of_its_job_is_left(cluster: Cluster) -> None:
    """P30, without anyone who restarts the worker that died."""
    worker = cluster.worker(name="a")
    run = submit(["sh", "-c", "(setsid sleep 600 &); sleep 600"], api=cluster.api)
    wait_for_pid(run)
    worker.kill()
    # Five seconds on a machine that is not stalled; without its guard the tree would live for ten minutes.
    wait_until(lambda: not job_processes(run.id), what="the job's tree is gone")
    cluster.worker(name="b")
    assert run.wait(20) is RunState.CRASHED
    assert states(run) == ["Pending", "Running", "Crashed"]
    assert "a@" in run.record.reason


@pytest.mark.parametrize("onlooker", ["beat", "the one who waits"])
def test_workers_process_killed_and_nobody_restarts_it_the_run_is_crashed_once(cluster: Cluster, onlooker: str) -> None:
    """P30: no other worker is there."""
    if onlooker == "beat":
        cluster.beat()
    worker = cluster.worker()
    run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(run)
    worker.kill()
    if onlooker == "beat":
        # Read the record only: `run.wait` would do the pass itself.
        wait_until(lambda: run.state.is_final)
    else:
        assert run.wait(20) is RunState.CRASHED
    assert states(run) == ["Pending", "Running", "Crashed"]


@pytest.mark.main_path
def test_workers_process_killed_a_run_with_retries_runs_again_once(cluster: Cluster, tmp_path: Path) -> None:
    first = cluster.worker(name="a")
    run = submit(
        [
            "sh",
            "-c",
            f"echo attempt $LAUNCH_ATTEMPT; echo $LAUNCH_ATTEMPT >> {tmp_path}/n; [ $LAUNCH_ATTEMPT = 2 ] || sleep 600",
        ],
        retries=1,
        api=cluster.api,
    )
    wait_for_output(run, b"attempt 1")
    cluster.worker(name="b")
    first.kill()
    assert run.wait(30) is RunState.FINISHED
    assert stamps(tmp_path / "n") == ["1", "2"]
    assert states(run) == ["Pending", "Running", "Crashed", "Pending", "Running", "Finished"]
    assert run.logs(attempt=1) == b"attempt 1\n"
    assert run.logs(attempt=2) == b"attempt 2\n"


def test_jobs_process_killed_sigkill_is_failed_with_the_signal_within_a_second(cluster: Cluster) -> None:
    """P29: the slot is free then. (OOM: tests/system/test_floods.py.)"""
    # Its end is an event: it must not be found by the next heartbeat or pass.
    cluster.worker(slots=1, env={"LAUNCH_HEARTBEAT_S": "30", "LAUNCH_LEASE_S": "120", "LAUNCH_PASS_S": "30"})
    run = submit(["sleep", "600"], api=cluster.api)
    os.kill(wait_for_pid(run), signal.SIGKILL)
    begun = time.monotonic()
    assert run.wait(20) is RunState.FAILED
    assert time.monotonic() - begun < 15, "a second on a machine that is not stalled, and long before a heartbeat"
    assert run.record.signal == "SIGKILL"
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED


def test_workers_process_killed_any_instant_nothing_is_lost_between_queue_and_claim(
    cluster: Cluster, tmp_path: Path
) -> None:
    """SIGKILL while messages are being taken, claimed and started."""
    runs = []
    for number, delay_s in enumerate((0.0005, 0.002, 0.004, 0.008, 0.015)):
        worker = cluster.worker(name=f"n{number}", slots=4)
        for _ in range(6):
            script = f"echo start $$ >> {tmp_path}/$LAUNCH_RUN_ID; sleep 0.05; echo end $$ >> {tmp_path}/$LAUNCH_RUN_ID"
            runs.append(submit(["sh", "-c", script], retries=9, api=cluster.api))
        time.sleep(delay_s)
        worker.kill()
    cluster.worker(name="last", slots=4)
    for run in runs:
        assert run.wait(30) is RunState.FINISHED
        lines = (tmp_path / run.id).read_text().splitlines()
        # Attempts one after the other: a start is never followed by the end of another one's process.
        assert lines[-1] == lines[-2].replace("start", "end")
        assert sum(line.startswith("end") for line in lines) <= run.record.attempt


def test_a_cancelled_job_that_ends_on_sigterm_is_killed_at_once(cluster: Cluster) -> None:
    """P20, W16: the submitter that waits exits with 143."""
    cluster.worker()
    waiter = cluster.open("launch-submit", "--wait", "--grace", "60", "--", "sleep", "600")
    run = wait_until(lambda: next(iter(cluster.runs(state="running")), None))
    wait_for_pid(run)
    assert cluster.run("launch-worker", "cancel", run.id).code == 0
    waiter.communicate(timeout=30)  # half of the grace, which nothing may wait for
    assert waiter.returncode == 143
    assert run.state is RunState.KILLED
    assert run.record.signal == "SIGTERM"
    again = cluster.run("launch-worker", "cancel", run.id)
    assert again.code == 1
    assert "already Killed" in again.err


def test_job_ignores_sigterm_forks_double_forks_daemonises_cancel_still_ends_the_whole_tree(
    cluster: Cluster,
) -> None:
    """P21, X3: Killed only when the tree is gone."""
    cluster.worker()
    run = submit(["sh", "-c", STUBBORN], grace=1, api=cluster.api)
    wait_for_pid(run)
    wait_until(lambda: len(job_processes(run.id)) >= 4)
    begun = time.monotonic()
    run.cancel()
    assert run.wait(20) is RunState.KILLED
    assert 1.0 <= time.monotonic() - begun < 10, "its own grace, and not that of runs that have none"
    assert not job_processes(run.id)
    assert not [p for p in tree.table() if b"#daemon" in _command_line(p.id.pid) and not p.zombie]
    assert run.record.signal == "SIGKILL"


def test_cancel_now_takes_no_grace(cluster: Cluster) -> None:
    cluster.worker()
    run = submit(["sh", "-c", STUBBORN], grace="60s", api=cluster.api)
    wait_for_pid(run)
    run.cancel()
    cluster.run("launch-worker", "cancel", "--now", run.id)
    assert run.wait(30) is RunState.KILLED


def test_a_pending_run_that_is_cancelled_never_starts(cluster: Cluster, tmp_path: Path) -> None:
    """P19, W15: also when its message is delivered afterwards."""
    run = submit(["touch", str(tmp_path / "started")], api=cluster.api)
    assert cluster.run("launch-worker", "cancel", run.id).code == 0
    assert run.state is RunState.KILLED
    cluster.worker()
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
    assert not (tmp_path / "started").exists()
    assert states(run) == ["Pending", "Killed"]


def test_a_run_that_ended_by_itself_keeps_its_own_state(cluster: Cluster) -> None:
    """P25."""
    cluster.worker()
    run = submit(["true"], api=cluster.api)
    assert run.wait(20) is RunState.FINISHED
    assert cluster.run("launch-worker", "cancel", run.id).code == 1
    assert run.state is RunState.FINISHED


def test_the_guard_killed_jobs_go_on_and_their_ends_are_true(cluster: Cluster, tmp_path: Path) -> None:
    worker = cluster.worker()
    run = submit(["sh", "-c", f"{waits_for(tmp_path / 'end')}; exit 7"], api=cluster.api)
    wait_for_pid(run)
    os.kill(guard_of(worker.pid), signal.SIGKILL)
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
    (tmp_path / "end").touch()
    assert run.wait(20) is RunState.FAILED
    assert run.exit_code == 7


def test_a_frozen_worker_s_run_is_taken_over_only_after_its_job_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    """The guard enforces the lease while its worker is stopped; the late worker learns that it was superseded."""
    frozen = cluster.worker(name="a")
    script = f"echo start >> {tmp_path}/n; trap 'echo end >> {tmp_path}/n; exit 1' TERM; "
    script += "[ $LAUNCH_ATTEMPT = 2 ] || while :; do sleep 0.1; done"
    run = submit(["sh", "-c", script], retries=1, api=cluster.api)
    wait_for_pid(run)
    cluster.worker(name="b")
    frozen.signal(signal.SIGSTOP)
    assert run.wait(30) is RunState.FINISHED
    assert stamps(tmp_path / "n") == ["start", "end", "start"]
    frozen.signal(signal.SIGCONT)
    wait_until(lambda: "run.superseded" in frozen.log or "late_report_refused" in frozen.log, timeout_s=15)
    assert run.state is RunState.FINISHED
    assert states(run) == ["Pending", "Running", "Crashed", "Pending", "Running", "Finished"]


def test_a_run_without_retries_comes_back_from_crashed_when_its_worker_does(cluster: Cluster, tmp_path: Path) -> None:
    """X7."""
    frozen = cluster.worker(name="a")
    run = submit(["sh", "-c", f"{waits_for(tmp_path / 'end')}; echo done"], api=cluster.api)
    wait_for_pid(run)
    cluster.worker(name="b")
    frozen.signal(signal.SIGSTOP)
    wait_until(lambda: run.state is RunState.CRASHED)
    frozen.signal(signal.SIGCONT)
    wait_until(lambda: run.state is RunState.RUNNING)
    (tmp_path / "end").touch()
    wait_until(lambda: run.state is RunState.FINISHED)
    assert states(run) == ["Pending", "Running", "Crashed", "Running", "Finished"]
    assert run.logs() == b"done\n"


def test_a_message_delivered_twice_or_lost_is_one_execution(cluster: Cluster, tmp_path: Path) -> None:
    redis = redis_of(cluster.redis_url)
    lost = submit(["sh", "-c", f"echo lost >> {tmp_path}/n"], api=cluster.api)
    redis.delete("default\x06\x166")
    doubled = submit(["sh", "-c", f"echo doubled >> {tmp_path}/n"], api=cluster.api)
    redis.lpush("default\x06\x166", redis.lindex("default\x06\x166", 0))
    cluster.worker()
    assert doubled.wait(20) is RunState.FINISHED
    assert lost.wait(20) is RunState.FINISHED
    assert sorted(stamps(tmp_path / "n")) == ["doubled", "lost"]


@pytest.mark.parametrize("beats", [0, 1, 2])
def test_beat_dead_or_two_beats_the_passes_are_done_and_never_wrong(cluster: Cluster, beats: int) -> None:
    for _ in range(beats):
        cluster.beat()
    first = cluster.worker(name="a")
    run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(run)
    cluster.worker(name="b")
    first.kill()
    assert run.wait(20) is RunState.CRASHED
    assert states(run) == ["Pending", "Running", "Crashed"]


def test_worker_stopped_sigterm_lets_jobs_end_and_takes_nothing_new(cluster: Cluster, tmp_path: Path) -> None:
    """P38, X8."""
    worker = cluster.worker()
    run = submit(["sh", "-c", f"{waits_for(tmp_path / 'end')}; echo done"], api=cluster.api)
    wait_for_pid(run)
    worker.signal(signal.SIGTERM)
    wait_until(lambda: "worker.draining" in worker.log)
    later = submit(["true"], api=cluster.api)
    time.sleep(0.5)
    (tmp_path / "end").touch()
    assert worker.wait(20) == 0, worker.log
    assert run.state is RunState.FINISHED
    assert run.logs() == b"done\n"
    assert later.state is RunState.PENDING
    cluster.worker(name="b")
    assert later.wait(20) is RunState.FINISHED


@pytest.mark.parametrize(
    "signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGQUIT,)]
)
def test_worker_stopped_by_a_second_signal_ends_the_jobs_and_their_states_are_final(
    cluster: Cluster, signals: tuple[int, ...]
) -> None:
    worker = cluster.worker()
    ends = submit(["sleep", "600"], api=cluster.api)
    handed_back = submit(["sleep", "600"], retries=1, api=cluster.api)
    wait_for_pid(ends)
    wait_for_pid(handed_back)
    for number in signals:
        worker.signal(number)
        # The kernel makes one of two signals that are both pending.
        wait_until(lambda: "worker.draining" in worker.log or worker.process.poll() is not None)
    assert worker.wait(20) == 0, worker.log
    assert ends.state is RunState.KILLED
    assert "shut down" in ends.record.reason
    assert handed_back.state is RunState.PENDING
    assert not job_processes(ends.id)
    assert not job_processes(handed_back.id)
    assert "Traceback" not in worker.log


def test_after_the_drain_timeout_jobs_are_handed_back_or_killed(cluster: Cluster) -> None:
    worker = cluster.worker(arguments=["--drain-timeout", "1s"])
    ends = submit(["sleep", "600"], api=cluster.api)
    handed_back = submit(["sleep", "600"], retries=1, api=cluster.api)
    wait_for_pid(ends)
    wait_for_pid(handed_back)
    worker.signal(signal.SIGTERM)
    assert worker.wait(20) == 0, worker.log
    assert ends.state is RunState.KILLED
    assert handed_back.state is RunState.PENDING
    assert "handed back" in handed_back.record.reason


def test_broker_away_the_producer_says_so_within_five_seconds(cluster: Cluster) -> None:
    server = RedisServer()
    server.start()
    try:
        assert server.process is not None
        for state in ("hung", "gone"):
            if state == "hung":
                server.process.send_signal(signal.SIGSTOP)
            else:
                server.process.send_signal(signal.SIGCONT)
                server.kill()
            begun = time.monotonic()
            result = cluster.run("launch-submit", "--", "true", env={"LAUNCH_REDIS_URL": server.url})
            # Five seconds on a machine that is not stalled; without its own timeouts it would wait for ever.
            assert time.monotonic() - begun < 25
            assert result.code == 69
            assert result.err.count("\n") == 1
            assert server.url.split(":")[2].split("@")[0] not in result.err
    finally:
        server.stop()


def test_ctrl_c_detaches_and_a_second_one_cancels(cluster: Cluster) -> None:
    cluster.worker()
    for presses, code, state in ((1, 130, RunState.RUNNING), (2, 143, RunState.KILLED)):
        follower = cluster.open("launch-submit", "--follow", "--", "sh", "-c", "echo up; exec sleep 100")
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert follower.stdout.readline() == b"up\n"
        run = wait_until(lambda: next(iter(cluster.runs(state="running")), None))
        follower.send_signal(signal.SIGINT)
        while b"Ctrl-C again" not in follower.stderr.readline():
            assert follower.poll() is None
        if presses == 2:
            follower.send_signal(signal.SIGINT)
        _, err = follower.communicate(timeout=20)
        assert follower.returncode == code, err
        assert run.state is state
        assert b"Traceback" not in err
        if state is RunState.RUNNING:
            run.cancel(grace_s=0)
            run.wait(20)


def test_revoke_through_celery_is_a_cancel_of_the_run(cluster: Cluster) -> None:
    cluster.worker(slots=1)
    running = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(running)
    control = ("python", "-m", "celery", "-A", "launch_worker", "control", "terminate", "SIGTERM", running.id)
    cluster.run(*control)
    assert running.wait(20) is RunState.KILLED
    assert "Celery" in running.record.reason


def test_a_worker_waits_for_a_broker_that_is_away_and_goes_on_when_it_comes(cluster: Cluster) -> None:
    """X9."""
    server = RedisServer(aof="always")
    server.start()
    server.kill()
    try:
        worker = cluster.worker(env={"LAUNCH_REDIS_URL": server.url}, wait=False)
        wait_until(lambda: "redis.away" in worker.log)
        assert worker.process.poll() is None
        server.start()
        result = cluster.run("launch-submit", "--wait", "--", "true", env={"LAUNCH_REDIS_URL": server.url})
        assert result.code == 0, result.err + worker.log
    finally:
        server.stop()


def test_redis_restarted_while_a_job_runs_its_end_and_log_are_kept(cluster: Cluster) -> None:
    server = RedisServer(aof="always")
    server.start()
    env = {"LAUNCH_REDIS_URL": server.url}
    try:
        worker = cluster.worker(env=env, wait=False)
        wait_until(lambda: " ready." in worker.log)
        run_id = cluster.run(
            *(
                "launch-submit",
                "--quiet",
                "--",
                "sh",
                "-c",
                f"echo before; {waits_for(cluster.folder / 'end')}; echo after",
            ),
            env=env,
        ).out.strip()
        wait_until(lambda: cluster.run("launch-worker", "logs", run_id, env=env).out == "before\n")
        server.kill()
        (cluster.folder / "end").touch()
        time.sleep(4)  # longer than a lease
        server.start()
        waited = cluster.run("launch-worker", "wait", run_id, env=env)
        assert waited.code == 0, waited.err + worker.log
        assert cluster.run("launch-worker", "logs", run_id, env=env).out == "before\nafter\n"
    finally:
        server.stop()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def guard_of(worker_pid: int) -> int:
    for process in tree.table():
        if process.ppid == worker_pid and b"runners.process.guard" in _command_line(process.id.pid):
            return process.id.pid
    raise AssertionError("the worker has no guard")


@pytest.mark.parametrize("what", ["blocked", "ignored"])
def test_a_worker_started_with_signals_blocked_or_ignored_sees_ends_and_can_be_stopped(
    cluster: Cluster, what: str
) -> None:
    worker = cluster.worker(by=lambda *argv: odd_signals(what, *argv))
    run = submit(["sh", "-c", "kill -TERM $$; sleep 600"], api=cluster.api)
    assert run.wait(20) is RunState.FAILED
    assert run.record.reason == "ended by SIGTERM"
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0


@pytest.mark.parametrize("what", ["blocked", "ignored"])
def test_a_beat_started_with_signals_blocked_or_ignored_can_be_stopped(cluster: Cluster, what: str) -> None:
    beat = cluster.celery("beat", "--loglevel", "INFO", name="beat", by=lambda *argv: odd_signals(what, *argv))
    wait_until(lambda: "beat: Starting" in beat.log, what="beat has started")
    beat.signal(signal.SIGTERM)
    assert beat.wait(30) == 0


@pytest.mark.parametrize("preempts", [False, True], ids=["cancelled", "preempted"])
def test_a_job_that_was_being_ended_when_its_worker_left_has_the_end_that_was_asked_for(
    cluster: Cluster, tmp_path: Path, preempts: bool
) -> None:
    """Its guard saw to the end, with no worker there; a neighbour of another name finds what was kept."""
    lease = {"LAUNCH_LEASE_S": "60"}
    first = cluster.worker(name="a", env=lease)
    script = f"trap 'echo asked' TERM; echo begun; {waits_for(tmp_path / 'end')}; exit 3"
    run = submit(["sh", "-c", script], grace="50s", api=cluster.api)
    wait_for_output(run, b"begun")
    if preempts:
        run.preempt()
    else:
        run.cancel()
    wait_for_output(run, b"asked")
    first.signal(signal.SIGUSR1)
    assert first.wait(20) == 0, first.log
    (tmp_path / "end").touch()
    wait_until(lambda: not job_processes(run.id), what="the job has ended")
    cluster.worker(name="b", env=lease)
    wait_until(lambda: run.state is not RunState.RUNNING, timeout_s=20, what="its end is told")
    if preempts:
        # The next attempt ends at once.
        wait_until(lambda: run.state is RunState.FAILED, timeout_s=20)
        assert (run.record.attempt, run.record.preemptions) == (2, 1)
    else:
        assert run.state is RunState.KILLED
        assert "cancelled by" in run.record.reason
