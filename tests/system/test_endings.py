"""A job is ended as its submitter says: signals ahead of the end, its own stop signal, what follows a limit."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from launch_worker.api.client import Run, submit
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.system.conftest import Cluster, states, through_both_doors, wait_for_output, wait_for_pid

#: A job that appends each signal that it gets to a file, with the time; its second attempt ends at once.
JOB = """
import json, os, signal, sys, time
from launch_worker import current_run
run = current_run()
if run.attempt > 1:
    print("again", flush=True)
    sys.exit(0)
def note(number, frame):
    with open(sys.argv[1], "a") as file:
        print(signal.Signals(number).name, time.time(), run.stop_deadline or 0, file=file)
    if sys.argv[2] == signal.Signals(number).name:
        sys.exit(0)
for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
    signal.signal(number, note)
print("up", run.time_left is not None, flush=True)
while True:
    time.sleep(0.02)
"""


def start(cluster: Cluster, *, ends_at: str = "", **options: object) -> tuple[Run, Path]:
    """A job that ends at this signal, and the file of the signals that it gets."""
    path = cluster.folder / "got"
    run = submit([sys.executable, "-c", JOB, str(path), ends_at], api=cluster.api, **options)  # type: ignore[arg-type]
    wait_for_output(run, b"up")
    return run, path


def got(path: Path) -> list[tuple[str, float, float]]:
    """The signals, the times at which they came, and the ends of which the job knew then."""
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(name, float(at), float(deadline)) for name, at, deadline in rows]


def names(path: Path) -> list[str]:
    return [name for name, _, _ in got(path)]


def test_a_run_is_told_before_its_time_limit_once_and_goes_on_after_it(cluster: Cluster) -> None:
    """Also where another worker has taken it over between the signal and the limit."""
    slow = {"LAUNCH_LEASE_S": "30"}
    worker = cluster.worker(env=slow)
    run, path = start(cluster, timeout=6, signal="USR1@5", on_timeout="requeue:1", grace=1)
    wait_until(lambda: names(path) == ["SIGUSR1"], what="the signal has come")
    worker.signal(signal.SIGUSR1)
    assert worker.wait(30) == 0
    cluster.worker(env=slow)
    assert run.wait(40) is RunState.FINISHED
    assert names(path) == ["SIGUSR1", "SIGTERM"]
    (_, led_at, no_deadline), (_, _, deadline) = got(path)
    limit_at = (run.record.running_since or 0) / 1e6
    steps = run.transitions
    assert states(run) == ["Pending", "Running", "Failed", "Pending", "Running", "Finished"]
    assert steps[2].reason == "time limit of 6 s reached"
    assert steps[3].reason == "goes on after its time limit, 1 of 1 times"
    began_at = steps[1].at / 1e6
    assert 1.0 <= led_at - began_at < 1.0 + 1.0, "exact to a second"
    assert no_deadline == 0
    assert deadline >= began_at + 6.0
    assert limit_at
    assert run.record.attempt - run.record.first_attempt == 0, "no retry was used up"
    assert run.logs() == b"again\n"


def test_a_time_limit_ends_a_run_that_went_on_often_enough(cluster: Cluster) -> None:
    cluster.worker()
    run = submit(["sleep", "600"], timeout=0.3, on_timeout="requeue:2", api=cluster.api)
    assert run.wait(30) is RunState.FAILED
    assert states(run).count("Running") == 3
    assert run.record.reason == "time limit of 0.3 s reached; it went on 2 times before, and no more"


def test_the_end_of_a_drain_is_told_ahead(cluster: Cluster) -> None:
    worker = cluster.worker(arguments=["--drain-timeout", "2s"])
    run, path = start(cluster, signal="USR1@2", grace=1, retries=1)
    drained_at = time.time()
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0, worker.log
    assert names(path) == ["SIGUSR1", "SIGTERM"]
    (_, led_at, _), (_, termed_at, deadline) = got(path)
    assert led_at - drained_at >= 0.9, "two seconds before the SIGKILL, which is after the drain's time and the grace"
    assert termed_at > led_at
    assert deadline >= drained_at + 2.0
    assert run.refresh().state is RunState.PENDING


@through_both_doors
def test_a_preempted_job_that_ends_at_its_signal_goes_on(cluster: Cluster) -> None:
    cluster.worker()
    run, path = start(cluster, ends_at="SIGUSR1", signal="USR1@120", grace=60)
    assert cluster.run("launch-worker", "preempt", run.id).code == 0
    assert run.wait(30) is RunState.FINISHED
    assert names(path) == ["SIGUSR1"], "and no SIGTERM"
    assert (run.record.attempt, run.record.preemptions) == (2, 1)


@through_both_doors
def test_a_job_is_stopped_by_its_own_signal(cluster: Cluster) -> None:
    cluster.worker()
    script = """sh -c 'trap "echo child" INT; echo up; while :; do sleep 0.05; done' & child=$!
    trap 'echo main; kill -9 $child; exit 3' USR2
    while :; do sleep 0.05; done"""
    sent = cluster.run(
        *("launch-submit", "--quiet", "--stop-signal", "usr2", "--stop-scope", "main", "--grace", "60s"),
        *("--", "sh", "-c", script),
    )
    run = cluster.api.run(sent.out.strip())
    wait_for_output(run, b"up")
    run.cancel(reason="enough")
    assert run.wait(30) is RunState.KILLED
    assert (run.record.exit_code, run.logs()) == (3, b"up\nmain\n")
    shown = json.loads(cluster.run("launch-worker", "show", run.id, "--json").out)
    assert shown["state"] == "Killed"


@through_both_doors
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--signal", "USR1@120", "--timeout", "60"), "would come before the job begins"),
        (("--signal", "B:USR1"), "is not a signal and a time"),
        (("--stop-signal", "KILL"), "reaches no program"),
        (("--on-timeout", "requeue:x"), "is not known"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(cluster: Cluster, options: tuple[str, ...], said: str) -> None:
    refused = cluster.run("launch-submit", *options, "--", "true")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert said in refused.err


def test_a_container_is_told_ahead_and_stopped_by_its_own_signal(
    engine: object, busybox_image: str, cluster: Cluster
) -> None:
    worker = cluster.worker(env={"LAUNCH_LEASE_S": "30"})
    script = """trap 'echo led' USR1; trap 'cat $LAUNCH_RUN_DIR/stop; exit 0' INT
    echo up $((LAUNCH_DEADLINE > 0)); while :; do sleep 0.1; done"""
    run = submit(
        ["sh", "-c", script],
        image=busybox_image,
        api=cluster.api,
        timeout=8,
        signal="USR1@7",
        stop_signal="INT",
        stop_scope="all",
        grace=60,
    )
    wait_for_output(run, b"led", 30)
    wait_for_pid(run)
    worker.signal(signal.SIGUSR1)
    assert worker.wait(30) == 0
    cluster.worker(env={"LAUNCH_LEASE_S": "30"})
    assert run.wait(60) is RunState.FAILED
    said = run.logs().decode().splitlines()
    assert [line for line in said if line in ("up 1", "led")] == ["up 1", "led"]
    assert "User defined signal 1" in said, "its init process signals the whole group, with the shell's child"
    assert said[-2] == "time limit of 8 s reached"
    assert said[-1].startswith("deadline=")
