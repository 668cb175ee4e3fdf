"""Celery's own commands and Flower keep working, and tell the truth about runs."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from launch_worker import Run, submit, submit_many
from launch_worker.celery import defaults
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.support.ports import own_port
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster, job_processes, wait_for_pid


def test_inspect_status_and_control_answer(cluster: Cluster) -> None:
    cluster.worker()
    run = submit(["sleep", "600"], name="sleeper", api=cluster.api)
    wait_for_pid(run)
    celery = ("python", "-m", "celery", "-A", "launch_worker")
    assert "1 node online" in cluster.run(*celery, "status").out
    active = cluster.run(*celery, "inspect", "active", "-j").out
    assert run.id in active
    runs = json.loads(cluster.run(*celery, "inspect", "runs", "-j").out)
    assert [entry["id"] for entries in runs.values() for entry in entries] == [run.id]
    run.cancel(grace_s=0)
    assert run.wait(10) is RunState.KILLED


def test_inspect_answers_while_the_worker_drains(cluster: Cluster) -> None:
    worker = cluster.worker()
    run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(run)
    worker.process.terminate()
    wait_until(lambda: "Canceling queue" in worker.log)
    runs = json.loads(cluster.run("python", "-m", "celery", "-A", "launch_worker", "inspect", "runs", "-j").out)
    assert [entry["id"] for entries in runs.values() for entry in entries] == [run.id]
    run.cancel(grace_s=0)
    assert worker.wait(20) == 0


def test_worker_with_embedded_beat_does_the_passes(cluster: Cluster) -> None:
    worker = cluster.worker(arguments=["-B"])
    wait_until(lambda: "beat: Starting" in worker.log)
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
    worker.process.terminate()
    assert worker.wait(20) == 0


#: Prints the signals that a user's code gets of runs.
_TELL_SIGNALS = """
import os as _os
from celery import signals as _signals

def _tell(name):
    def tell(task_id=None, request=None, state="", **_):
        _os.write(1, f"signal: {name} {task_id or request.id} {state}\\n".encode())
    return tell

def _tell_end(sender=None, task_id="", result="", exception="", **_):
    _os.write(1, f"signal: end {result or exception!r}\\n".encode())

_signals.task_success.connect(_tell_end, weak=False)
_signals.task_failure.connect(_tell_end, weak=False)
for _name in ("task_received", "task_prerun", "task_postrun"):
    getattr(_signals, _name).connect(_tell(_name), weak=False)
"""


def test_a_flood_of_brief_runs_is_told_of_as_any_task(cluster: Cluster) -> None:
    """Most of them are taken by slots themselves, past Celery's loop; nobody sees a difference."""
    (cluster.folder / "celeryconfig.py").write_text(_TELL_SIGNALS)
    seen: list[tuple[str, str]] = []
    app = Celery(broker=cluster.env["LAUNCH_REDIS_URL"])
    app.conf.broker_transport_options = defaults.broker_transport_options
    jobs = [{"command": ["false" if number % 5 == 0 else "true"]} for number in range(120)]
    note = {"*": lambda event: seen.append((event.get("uuid", ""), event["type"]))}
    receiver = app.events.Receiver(app.connection_for_read(), handlers=note)
    receiving = threading.Thread(target=_receive, args=(receiver,), daemon=True)
    receiving.start()
    wait_until(lambda: redis_of(cluster.redis_url).pubsub_numpat() > 0, what="someone receives events")
    runs = submit_many(jobs, api=cluster.api)
    worker = cluster.worker(slots=4)
    for run in runs:
        run.wait(60)
    ends = {"task-succeeded", "task-failed"}
    wait_until(lambda: sum(kind in ends for _, kind in seen) >= len(jobs), what="the events")
    receiver.should_stop = True
    receiving.join(5)
    for number, run in enumerate(runs):
        state = RunState.FAILED if number % 5 == 0 else RunState.FINISHED
        assert [step.state for step in run.transitions] == [RunState.PENDING, RunState.RUNNING, state]
        last = "task-failed" if number % 5 == 0 else "task-succeeded"
        assert sorted(kind for uuid, kind in seen if uuid == run.id) == sorted(["task-received", "task-started", last])
        for told in (f"task_received {run.id}", f"task_prerun {run.id}", f"task_postrun {run.id}"):
            assert worker.log.count(f"signal: {told}") == 1
    assert worker.log.count("signal: end 'Finished'") == 96
    assert worker.log.count("signal: end RunFailed('Failed: exit code 1')") == 24
    active = cluster.run("python", "-m", "celery", "-A", "launch_worker", "inspect", "active", "-j").out
    assert [entry for entries in json.loads(active).values() for entry in entries] == []


def _receive(receiver: Any) -> None:
    with receiver.channel.connection.client:
        while not receiver.should_stop:
            with contextlib.suppress(TimeoutError):
                receiver.capture(limit=None, timeout=0.2, wakeup=False)


def test_a_rate_limit_of_celerys_holds_for_runs(cluster: Cluster) -> None:
    (cluster.folder / "celeryconfig.py").write_text("worker_disable_rate_limits = False\n")
    cluster.worker(slots=4)
    command = ("python", "-m", "celery", "-A", "launch_worker", "control", "rate_limit", "launch_worker.run", "5/s")
    wait_until(lambda: "new rate limit set" in cluster.run(*command).out)
    began = time.monotonic()
    runs = submit_many([{"command": ["true"]}] * 4, api=cluster.api)
    assert [run.wait(30) for run in runs] == [RunState.FINISHED] * 4
    assert time.monotonic() - began > 0.5


def test_a_slot_does_not_take_from_a_queue_that_celery_consumes_no_more(cluster: Cluster) -> None:
    cluster.worker("default,gpu", slots=1)
    celery = ("python", "-m", "celery", "-A", "launch_worker", "control", "cancel_consumer", "gpu")
    wait_until(lambda: "no longer consuming from gpu" in cluster.run(*celery).out)
    left = submit(["true"], queue="gpu", api=cluster.api)
    runs = submit_many([{"command": ["true"]}] * 20, api=cluster.api)
    assert [run.wait(30) for run in runs] == [RunState.FINISHED] * 20
    assert left.refresh().state is RunState.PENDING


#: Prints what a worker has imported when it is ready; by names that Celery does not take for settings.
_TELL_MODULES = """
import sys as _sys
from celery import signals as _signals

def _tell(**_):
    print("imported:", *_sys.modules, "and no more", flush=True)

_signals.worker_ready.connect(_tell, weak=False)
_signals.beat_init.connect(_tell, weak=False)
"""


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_a_worker_imports_nothing_of_celerys_other_commands(cluster: Cluster, command: str) -> None:
    (cluster.folder / "celeryconfig.py").write_text(_TELL_MODULES)
    part = cluster.celery(command, name=command)
    wait_until(lambda: "and no more" in part.log or part.process.poll() is not None)
    (line,) = (line for line in part.log.splitlines() if line.startswith("imported: "))
    names = set(line.split())
    assert {"celery", "launch_worker.celery", "launch_worker.celery.steps"} <= names
    assert not {name.partition(".")[0] for name in names} & {"flower", "tornado", "prometheus_client", "prompt_toolkit"}
    assert not names & {"docker", "jsonschema", "croniter", "optuna", "fsspec", "pathspec", "rich"}


def test_a_worker_reads_sound_runs_without_pydantic(cluster: Cluster) -> None:
    worker = cluster.worker()
    assert submit(["true"], api=cluster.api, retries=1).wait(20) is RunState.FINISHED
    loaded = Path(f"/proc/{worker.pid}/maps").read_text()
    assert "hiredis" in loaded
    assert "pydantic_core" not in loaded


@pytest.mark.parametrize(("arguments", "expected"), [(["amqp"], "repl "), (["flower"], "TORNADO_ARGV")])
def test_the_other_commands_have_what_they_need(cluster: Cluster, arguments: list[str], expected: str) -> None:
    result = cluster.run("python", "-m", "celery", "-A", "launch_worker", *arguments, "--help")
    assert result.code == 0, result.err
    assert expected in result.out


def test_two_brokers_named_at_once_are_refused(cluster: Cluster) -> None:
    result = cluster.run("python", "-m", "celery", "-A", "launch_worker", "-b", "redis://127.0.0.1:1/0", "status")
    assert result.code != 0
    assert "two different brokers" in result.err
    assert "Traceback" not in result.err


def test_flower_shows_each_run_as_a_task_in_agreement_with_its_record(cluster: Cluster) -> None:
    port = own_port()
    cluster.celery(
        *("flower", "--address=127.0.0.1", f"--port={port}"),
        name="flower",
        env={"FLOWER_UNAUTHENTICATED_API": "true", "SECRET": "s3cr3t-value"},
    )
    wait_until(lambda: _get(port, "/api/tasks") is not None, timeout_s=40, what="flower answers")
    cluster.worker(env={"SECRET": "s3cr3t-value"})
    wait_until(lambda: "w1@" in json.dumps(_get(port, "/api/workers?refresh=true") or ""), timeout_s=40)
    ends = {
        "FINISHED": submit(["true"], name="fine", env_from=["SECRET"], api=cluster.api),
        "FAILED": submit(["sh", "-c", "exit 3"], name="fails", env={"PASSWORD": "s3cr3t-value"}, api=cluster.api),
        "KILLED": submit(["sleep", "600"], name="stopped", api=cluster.api),
    }
    wait_for_pid(ends["KILLED"])
    ends["KILLED"].cancel(reason="not needed")
    for word, run in ends.items():
        assert run.wait(20).name == word

    def shown(word: str) -> dict[str, Any]:
        task = _get(port, f"/api/task/info/{ends[word].id}")
        return task if isinstance(task, dict) else {}

    wait_until(lambda: shown("FINISHED").get("state") == "SUCCESS", what="Finished shows as SUCCESS")
    wait_until(lambda: shown("FAILED").get("state") == "FAILURE", what="Failed shows as FAILURE")
    wait_until(lambda: shown("KILLED").get("state") == "REVOKED", what="Killed shows as REVOKED")
    assert [shown(word)["name"] for word in ends] == ["fine", "fails", "stopped"]
    assert "Failed: exit code 3" in shown("FAILED")["exception"]
    assert "s3cr3t-value" not in json.dumps([shown(word) for word in ends])
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/tasks", timeout=10).read()
    assert b"Flower" in page


def test_flower_listens_on_loopback_where_it_has_no_login(cluster: Cluster) -> None:
    port = own_port()
    cluster.celery("flower", f"--port={port}", name="flower", env={"FLOWER_UNAUTHENTICATED_API": "true"})
    wait_until(lambda: _get(port, "/api/tasks") is not None, timeout_s=40, what="flower answers")
    # All of 127.0.0.0/8 leads to a program that listens on every address.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


def test_flower_shows_a_crashed_run_as_failure(cluster: Cluster) -> None:
    port = own_port()
    cluster.celery(
        *("flower", "--address=127.0.0.1", f"--port={port}"), name="flower", env={"FLOWER_UNAUTHENTICATED_API": "true"}
    )
    wait_until(lambda: _get(port, "/api/tasks") is not None, timeout_s=40, what="flower answers")
    first = cluster.worker(name="a")
    cluster.worker(name="b")
    run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(run)
    owner = next(part for part in cluster.parts if f"run.claimed run={run.id}" in part.log)
    owner.kill()
    wait_until(lambda: not job_processes(run.id))
    assert run.wait(20) is RunState.CRASHED

    def state() -> object:
        task = _get(port, f"/api/task/info/{run.id}")
        return task.get("state") if isinstance(task, dict) else None

    wait_until(lambda: state() == "FAILURE", what="Crashed shows as FAILURE")
    task = _get(port, f"/api/task/info/{run.id}")
    assert isinstance(task, dict)
    assert task["worker"] == run.refresh().worker
    known = _get(port, "/api/workers?status=true")
    assert isinstance(known, dict)
    # No worker is there that nobody started, and the dead one is not online.
    assert {name.partition("@")[0]: is_on for name, is_on in known.items()} == {
        "a": owner is not first,
        "b": owner is first,
    }


def test_the_end_of_a_run_is_shown_though_the_worker_had_to_connect_anew(cluster: Cluster) -> None:
    seen: list[tuple[str, str]] = []
    app = Celery(broker=cluster.env["LAUNCH_REDIS_URL"], set_as_current=False)
    note = {"*": lambda event: seen.append((event.get("uuid", ""), event["type"]))}
    receiver = app.events.Receiver(app.connection_for_read(), handlers=note)
    receiving = threading.Thread(target=_receive, args=(receiver,), daemon=True)
    receiving.start()
    redis = redis_of(cluster.redis_url)
    wait_until(lambda: redis.pubsub_numpat() > 0, what="someone receives events")
    worker = cluster.worker()
    run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(run)
    wait_until(lambda: (run.id, "task-started") in seen, what="it is shown")
    for client in redis.client_list():
        if client["name"] == defaults.broker_transport_options["client_name"]:
            redis.client_kill_filter(_id=client["id"])
    wait_until(lambda: worker.log.count("Connected to redis") == 2, what="it connects anew")
    run.cancel(grace_s=0)
    assert run.wait(20) is RunState.KILLED
    wait_until(lambda: (run.id, "task-revoked") in seen, what="its end is shown")
    receiver.should_stop = True
    receiving.join(5)


#: Celery's events of tasks cannot be sent, whatever the reason.
_NO_EVENTS = """
from celery.events.dispatcher import EventDispatcher as _EventDispatcher

_send = _EventDispatcher.send

def _fail(self, type, *arguments, **facts):
    if type.startswith("task-"):
        raise RuntimeError("nothing can be shown")
    return _send(self, type, *arguments, **facts)

_EventDispatcher.send = _fail
"""


def test_events_that_cannot_be_sent_decide_about_no_run(cluster: Cluster) -> None:
    (cluster.folder / "celeryconfig.py").write_text(_NO_EVENTS)
    # The next worker has time to start.
    cluster.env["LAUNCH_LEASE_S"] = "30"
    former = cluster.worker()
    fine = submit(["true"], api=cluster.api)
    flag = cluster.folder / "flag"
    left = submit(["sh", "-c", f"while ! test -e {flag}; do sleep 0.1; done"], api=cluster.api)
    wait_for_pid(left)
    assert fine.wait(20) is RunState.FINISHED
    former.signal(signal.SIGUSR1)
    assert former.wait(20) == 0
    heir = cluster.worker()
    wait_until(lambda: f"run.adopted run={left.id}" in heir.log, what="the run is adopted")
    flag.touch()
    assert left.wait(20) is RunState.FINISHED
    wait_until(lambda: "event.lost: RuntimeError('nothing can be shown')" in heir.log, what="it is told of")
    assert "not_adopted" not in heir.log


def test_flowers_picture_agrees_with_the_records_of_runs_that_wait_fail_and_are_tried_again(cluster: Cluster) -> None:
    port = own_port()
    cluster.celery(
        *("flower", "--address=127.0.0.1", f"--port={port}"), name="flower", env={"FLOWER_UNAUTHENTICATED_API": "true"}
    )
    wait_until(lambda: _get(port, "/api/tasks") is not None, timeout_s=40, what="flower answers")
    worker = cluster.worker("default,narrow", slots=4)
    wait_until(lambda: "w1@" in json.dumps(_get(port, "/api/workers?refresh=true") or ""), timeout_s=40)
    cluster.api.store.configure("queue", "narrow", {"limit": "1"}, create=True)
    flag = cluster.folder / "flag"
    goes_on = submit(["sleep", "600"], queue="narrow", api=cluster.api)
    wait_for_pid(goes_on)
    parked = submit(["true"], queue="narrow", api=cluster.api)
    later = submit(["false"], retries=1, retry_delay="1h", api=cluster.api)
    again = submit(["sh", "-c", f"test -e {flag} || exit 3; sleep 600"], api=cluster.api)

    def shown(run: Run) -> dict[str, Any]:
        task = _get(port, f"/api/task/info/{run.id}")
        return task if isinstance(task, dict) else {}

    wait_until(lambda: shown(goes_on).get("state") == "STARTED", what="a Running run shows as STARTED")
    wait_until(lambda: shown(later).get("state") == "RETRY", what="one that is tried again shows as RETRY")
    wait_until(lambda: shown(again).get("state") == "FAILURE", what="a Failed one shows as FAILURE")
    assert later.refresh().state is RunState.PENDING
    assert shown(again)["runtime"] > 0
    assert shown(again)["received"] <= shown(again)["started"]
    wait_until(lambda: parked.refresh().reason, what="it is parked")
    assert shown(parked).get("state") in (None, "RECEIVED")
    flag.touch()
    again.retry()
    wait_until(lambda: shown(again).get("state") == "STARTED", what="a person's retry shows as STARTED")
    worker.signal(signal.SIGQUIT)
    assert worker.wait(20) == 0
    for run in (goes_on, again):
        assert run.refresh().state is RunState.KILLED
        wait_until(lambda run=run: shown(run).get("state") == "REVOKED", what="Killed shows as REVOKED")  # type: ignore[misc]


def _get(port: int, path: str) -> object:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
            answer: object = json.load(reply)
            return answer
    except (OSError, urllib.error.URLError):
        return None


@pytest.mark.parametrize("arguments", [("--help",), ("runs", "--help"), ("cancel", "-h")])
def test_help_has_an_example(cluster: Cluster, arguments: tuple[str, ...]) -> None:
    result = cluster.run("launch-worker", *arguments)
    assert result.code == 0
    assert re.search("Examples?:\n  launch-worker ", result.out)
