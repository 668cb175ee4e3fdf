"""`LaunchAgent` under W&B's names: one by one, in its loop, and inside a Celery worker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launch_worker import Api, LaunchAgent, Run, submit
from launch_worker.agent.launch_agent import JobSpecAndQueue
from launch_worker.agent.registration import AGENT_KILLED, AGENT_POLLING, AGENT_RUNNING
from launch_worker.agent.tracker import JobAndRunStatusTracker
from launch_worker.attempt.supervise import Cancel
from launch_worker.dev.redis_server import RedisServer
from launch_worker.errors import (
    BrokerUnavailableError,
    InputError,
    LaunchError,
    RefusedError,
    StartError,
    SweepOverError,
    UnknownRunError,
)
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from tests.conftest import wait_until
from tests.support.redis_client import redis_of
from tests.support.workers import Worker
from tests.system.conftest import (
    TIMES,
    Cluster,
    job_processes,
    states,
    wait_for_output,
    wait_for_pid,
    waits_for,
)

LAUNCH_WORKER = str(Path(sys.executable).parent / "launch-worker")
ALONE = """
import sys

from launch_worker import Api, LaunchAgent, submit

api = Api()
for number in range(3):
    submit(["sh", "-c", f"echo item {number}"], queue="alone", name=f"item-{number}", api=api)
agent = LaunchAgent(api, {"queues": ["alone"], "max_jobs": 2})
try:
    agent.loop()
except KeyboardInterrupt:
    print("stopped", LaunchAgent.initialized(), flush=True)
    sys.exit(0)
"""

Make = Callable[..., LaunchAgent]


class Watched(LaunchAgent):
    """Counts how often a run is finished, and with which error; `trouble` is raised before a job starts."""

    def __init__(self, api: Api, config: Mapping[str, Any]) -> None:
        super().__init__(api, config)
        self.trouble: dict[str, Exception] = {}
        self.finished: list[tuple[int, Exception | None]] = []

    def check_sweep_state(self, launch_spec: Mapping[str, Any], api: Api) -> None:
        if launch_spec["name"] in self.trouble:
            raise self.trouble[launch_spec["name"]]
        super().check_sweep_state(launch_spec, api)

    def finish_thread_id(self, thread_id: int, exception: Exception | None = None) -> None:
        self.finished.append((thread_id, exception))
        super().finish_thread_id(thread_id, exception)


def api_of(url: str, folder: Path, **more: str) -> Api:
    env = TIMES | {"LAUNCH_WORK_DIR": str(folder / "work"), "LAUNCH_ALLOW_ROOT": "1"} | more
    return Api(settings=Settings.from_env(env, redis_url=url))


@pytest.fixture
def made_api(redis_url: str, tmp_path: Path) -> Iterator[Api]:
    made = api_of(redis_url, tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def make(made_api: Api) -> Iterator[Make]:
    """Makes agents of this process, which are stopped at the end."""
    agents: list[LaunchAgent] = []

    def make_one(
        *, kind: Callable[..., LaunchAgent] = LaunchAgent, api: Api | None = None, **config: Any
    ) -> LaunchAgent:
        agents.append(kind(api or made_api, {"max_jobs": 4} | config))
        return agents[-1]

    yield make_one
    for agent in agents:
        if agent.is_started:
            agent.stop()
    LaunchAgent._current = None


def take(agent: LaunchAgent) -> JobSpecAndQueue:
    """What waits in the agent's queues must be there already."""
    found = agent.get_job_and_queue()
    assert found is not None
    return found


def run_next(agent: LaunchAgent) -> str:
    job, queue = take(agent)
    agent.run_job(job, queue, None)
    return job["runQueueItemId"]


# -- one by one --------------------------------------------------------------------------------------------------------


def test_a_script_with_an_agent_alone_runs_three_items(cluster: Cluster) -> None:
    """No Celery command; Ctrl-C ends it cleanly, and `loop` raises KeyboardInterrupt after that."""
    assert len(ALONE.splitlines()) <= 30
    script = cluster.folder / "alone.py"
    script.write_text(ALONE)
    process = subprocess.Popen(
        [sys.executable, str(script)], env=cluster.env, cwd=cluster.folder, stdout=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: cluster.api.store.counts()[RunState.FINISHED] == 3, what="three items ran")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert out.splitlines()[-1] == "stopped False"
    assert "agent agent@" in out.splitlines()[0]
    assert "POLLING: queues alone; running 0 of 2 jobs; 0 of 1 schedulers; 0 of 0 GPUs free" in out.splitlines()[0]
    assert cluster.api.store.workers() == []


def test_a_stopped_loop_lets_its_jobs_end_and_a_second_signal_ends_them(cluster: Cluster) -> None:
    """P38, for the loop; SIGTERM is Ctrl-C to it."""
    script = cluster.folder / "alone.py"
    waits = ["sh", "-c", waits_for(cluster.folder / "end")]
    command = f'["sleep", "600"] if number == 0 else {waits}'
    script.write_text(ALONE.replace('["sh", "-c", f"echo item {number}"]', command))
    process = subprocess.Popen([sys.executable, str(script)], env=cluster.env, cwd=cluster.folder)
    try:
        wait_until(lambda: cluster.api.store.counts()[RunState.RUNNING] == 2, what="two items run")
        first, second = sorted(cluster.api.store.runs({"state": {RunState.RUNNING}}), key=lambda record: record.name)
        for record in (first, second):
            wait_for_pid(cluster.api.run(record.id))
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: cluster.api.store.workers()[0]["state"] == "draining", what="it drains")
        (cluster.folder / "end").touch()
        assert cluster.api.run(second.id).wait(20) is RunState.FINISHED
        assert cluster.api.run(first.id).state is RunState.RUNNING
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
    assert cluster.api.run(first.id).state is RunState.KILLED
    assert "the worker shut down" in cluster.api.run(first.id).record.reason
    assert cluster.api.store.counts()[RunState.PENDING] == 1


def test_an_item_is_claimed_when_it_is_popped_and_kept_until_it_runs(made_api: Api, make: Make) -> None:
    agent = make(queues=["a"])
    run = submit(["sh", "-c", "echo done"], queue="a", api=made_api)
    assert agent.pop_from_queue("b") is None
    job = agent.pop_from_queue("a")
    assert job is not None
    assert job["runQueueItemId"] == run.id
    assert job["runSpec"]["command"] == ["sh", "-c", "echo done"]
    assert (job["queue"], job["attempt"]) == ("a", 1)
    assert run.state is RunState.RUNNING
    assert (agent.num_running_jobs, agent.thread_ids) == (1, [])
    time.sleep(4)  # longer than its lease
    assert run.state is RunState.RUNNING
    agent.run_job(job, "a", None)
    assert run.wait(20) is RunState.FINISHED
    assert run.logs() == b"done\n"
    assert states(run) == ["Pending", "Running", "Finished"]
    assert agent.pop_from_queue("a") is None


def test_run_job_returns_at_once_and_names_its_thread(made_api: Api, make: Make, tmp_path: Path) -> None:
    agent = make(queues=["a"])
    run = submit(["sh", "-c", waits_for(tmp_path / "end")], queue="a", api=made_api)
    run_next(agent)
    assert len(agent.thread_ids) == agent.num_running_jobs == 1
    assert agent.thread_ids[0] in {thread.ident for thread in threading.enumerate()}
    (tmp_path / "end").touch()
    assert run.wait(20) is RunState.FINISHED
    wait_until(lambda: agent.thread_ids == [] and agent.num_running_jobs == 0)


def test_queues_take_turns_by_success(made_api: Api, make: Make) -> None:
    """P3."""
    agent = make(queues=["a", "b", "c"], max_jobs=9)
    for queue in ("a", "a", "a", "c"):
        submit(["true"], queue=queue, api=made_api)
    assert [take(agent).queue for _ in range(4)] == ["a", "c", "a", "a"]
    assert agent.get_job_and_queue() is None
    assert agent.queues == ["a", "b", "c"]


def test_a_damaged_queue_does_not_keep_the_others_from_their_turns(made_api: Api, make: Make) -> None:
    """P3."""
    agent = make(queues=["a", "b"])
    redis_of(made_api.store.url).set("a", "no list")
    submit(["true"], queue="b", api=made_api)
    assert take(agent).queue == "b"


def test_an_agent_without_room_takes_nothing(made_api: Api, make: Make) -> None:
    """W2."""
    run = submit(["true"], queue="a", api=made_api)
    assert make(queues=["a"], max_jobs=0).get_job_and_queue() is None
    agent = make(queues=["a"], max_jobs=1)
    take(agent)
    other = submit(["true"], queue="a", api=made_api)
    assert agent.get_job_and_queue() is None
    assert [one.state for one in (run, other)] == [RunState.RUNNING, RunState.PENDING]


@pytest.mark.parametrize("limit", [-29, "weird"])
def test_a_limit_that_is_none_is_an_error_at_the_start(made_api: Api, limit: Any) -> None:
    """W2."""
    with pytest.raises(InputError, match="max_jobs cannot be"):
        LaunchAgent(made_api, {"max_jobs": limit})


def test_a_key_that_nobody_knows_is_an_error_at_the_start(made_api: Api) -> None:
    with pytest.raises(InputError, match="'max_job' is not a key; did you mean max_jobs"):
        LaunchAgent(made_api, {"max_job": 2})
    assert not LaunchAgent.initialized()


def test_a_broker_that_is_away_is_not_an_empty_queue(tmp_path: Path, make: Make) -> None:
    server = RedisServer(aof="always")
    server.start()
    try:
        api = api_of(server.url, tmp_path)
        agent = make(api=api, queues=["a"])
        assert agent.get_job_and_queue() is None
        run = submit(["true"], queue="a", api=api)
        server.kill()
        with pytest.raises(BrokerUnavailableError):
            agent.pop_from_queue("a")
        with pytest.raises(BrokerUnavailableError):
            agent.get_job_and_queue()
        server.start()
        assert take(agent).job["runQueueItemId"] == run.id
        agent.stop()
    finally:
        server.stop()


def test_what_was_taken_and_not_run_goes_back_when_the_agent_stops(made_api: Api, make: Make) -> None:
    agent = make(queues=["a"])
    run = submit(["true"], queue="a", api=made_api)
    take(agent)
    agent.stop()
    assert run.state is RunState.PENDING
    assert "it had not begun" in run.record.reason
    assert run.record.preemptions == 0
    run_next(make(queues=["a"]))
    assert run.wait(20) is RunState.FINISHED


def test_only_what_was_claimed_here_can_be_run_and_only_once(made_api: Api, make: Make) -> None:
    agent = make(queues=["a"])
    run = submit(["sleep", "1"], queue="a", api=made_api)
    with pytest.raises(InputError, match="is not claimed by this agent"):
        agent.run_job({"runQueueItemId": run.id}, "a", None)
    job, queue = take(agent)
    agent.run_job(job, queue, None)
    with pytest.raises(InputError, match="is not claimed by this agent"):
        agent.run_job(job, queue, None)
    assert run.wait(20) is RunState.FINISHED


def test_a_loop_takes_up_queues_that_appear(made_api: Api, make: Make) -> None:
    """P4."""
    agent = make(match="dev-")
    looping = loop_in_thread(agent)
    foreign = submit(["true"], api=made_api)
    assert submit(["true"], queue="dev-a", api=made_api).wait(20) is RunState.FINISHED
    assert agent.queues == ["dev-a"]
    assert foreign.state is RunState.PENDING
    for worker in made_api.store.workers():
        made_api.store.order(worker["owner"], "drain")
    looping.join(20)
    assert not looping.is_alive()


# -- how runs end ------------------------------------------------------------------------------------------------------


def test_an_item_that_raises_while_it_is_started_does_not_keep_the_next_from_being_taken(
    made_api: Api, make: Make
) -> None:
    """W1."""
    agent = make(kind=Watched, queues=["a"], max_jobs=1)
    assert isinstance(agent, Watched)
    agent.trouble["third"] = RuntimeError("the third breaks")
    runs = [submit(["true"], queue="a", name=name, api=made_api) for name in ("first", "second", "third", "fourth")]
    looping = loop_in_thread(agent)
    assert [run.wait(20).value for run in runs] == ["Finished", "Finished", "Failed", "Finished"]
    failed = runs[2].refresh()
    assert failed.phase == "agent"
    assert failed.reason == "RuntimeError in the worker: the third breaks"
    assert "Traceback" in failed.message
    kept = made_api.store.read_file(failed.id, "error.log")
    assert kept is not None
    assert b'raise self.trouble[launch_spec["name"]]' in kept
    agent._parts.polling.stop()
    looping.join(20)
    assert not looping.is_alive()


def loop_in_thread(agent: LaunchAgent) -> threading.Thread:
    def loop() -> None:
        with pytest.raises(KeyboardInterrupt):
            agent.loop()

    thread = threading.Thread(target=loop)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (StartError("the image is not there"), "Failed", "the image is not there"),
        (LaunchError("it cannot be launched"), "Failed", "it cannot be launched"),
        (ValueError("unknown"), "Failed", "ValueError in the worker: unknown"),
        (None, "Finished", ""),
    ],
)
def test_a_run_is_finished_once_with_its_error(
    made_api: Api, make: Make, error: Exception | None, state: str, reason: str
) -> None:
    """W3."""
    agent = make(kind=Watched, queues=["a"])
    assert isinstance(agent, Watched)
    run = submit(["true"], queue="a", name="it", api=made_api)
    if error is not None:
        agent.trouble["it"] = error
    run_next(agent)
    assert run.wait(20).value == state
    assert run.refresh().reason == reason
    wait_until(lambda: agent.thread_ids == [])
    ((thread_id, told),) = agent.finished
    assert told is error
    agent.finish_thread_id(thread_id, RuntimeError("once more"))
    assert states(run) == ["Pending", "Running", state]
    assert (made_api.store.read_file(run.id, "error.log") is None) == (error is None)


def test_an_error_in_the_start_of_a_process_reaches_the_finish(made_api: Api, make: Make) -> None:
    """W3, P9."""
    agent = make(kind=Watched, queues=["a"])
    assert isinstance(agent, Watched)
    run = submit(["/no/such/program"], queue="a", api=made_api)
    run_next(agent)
    assert run.wait(20) is RunState.FAILED
    assert run.record.phase == "start"
    ((_, told),) = agent.finished
    assert "/no/such/program" in str(told)


def test_finishing_the_thread_of_a_job_that_runs_ends_the_job_first(made_api: Api, make: Make) -> None:
    agent = make(queues=["a"])
    run = submit(["sleep", "100"], queue="a", api=made_api)
    run_next(agent)
    wait_for_pid(run)
    agent.finish_thread_id(agent.thread_ids[0], LaunchError("its licence ran out"))
    assert run.wait(20) is RunState.FAILED
    assert run.refresh().reason == "its licence ran out"
    assert job_processes(run.id) == []


def test_the_error_of_a_job_that_another_thread_finished_is_kept_with_its_run(made_api: Api, make: Make) -> None:
    agent = make(queues=["a"])
    run = submit(["sleep", "100"], queue="a", api=made_api)
    run_next(agent)
    wait_for_pid(run)
    try:
        raise ValueError("its licence ran out")
    except ValueError as error:
        agent.finish_thread_id(agent.thread_ids[0], error)
    assert run.wait(20) is RunState.FAILED
    kept = made_api.store.read_file(run.id, "error.log")
    assert kept is not None
    assert b'raise ValueError("its licence ran out")' in kept


def test_a_slot_is_free_before_the_end_is_told(tmp_path: Path, make: Make) -> None:
    server = RedisServer(aof="always")
    server.start()
    try:
        api = api_of(server.url, tmp_path)
        agent = make(api=api, queues=["a"], max_jobs=1)
        run = submit(["sh", "-c", waits_for(tmp_path / "end")], queue="a", api=api)
        run_next(agent)
        wait_for_pid(run)
        server.kill()
        (tmp_path / "end").touch()
        wait_until(lambda: agent.num_running_jobs == 0 and agent.thread_ids == [], what="the slot is free")
        server.start()
        assert run.wait(30) is RunState.FINISHED
        agent.stop()
    finally:
        server.stop()


def test_a_claimed_item_can_be_failed_with_files_and_only_once(made_api: Api, make: Make, tmp_path: Path) -> None:
    agent = make(queues=["a"])
    run = submit(["true"], queue="a", api=made_api)
    job = take(agent).job
    paper = tmp_path / "build.log"
    paper.write_text("no space left")
    for _ in range(2):
        agent.fail_run_queue_item(job["runQueueItemId"], "cannot build\nnow", "build", [str(paper)])
    record = run.refresh()
    assert (record.state, record.reason, record.phase) == (RunState.FAILED, "cannot build", "build")
    assert record.message == "cannot build\nnow"
    assert made_api.store.read_file(run.id, "build.log") == b"no space left"
    assert states(run) == ["Pending", "Running", "Failed"]
    assert agent.num_running_jobs == 0


def test_an_item_that_runs_is_failed_after_its_job_was_ended(made_api: Api, make: Make) -> None:
    agent = make(queues=["a"])
    run = submit(["sleep", "100"], queue="a", api=made_api)
    item = run_next(agent)
    wait_for_pid(run)
    agent.fail_run_queue_item(item, "it is no good", "run")
    assert run.wait(20) is RunState.FAILED
    assert (run.refresh().reason, run.record.phase) == ("it is no good", "run")
    assert job_processes(run.id) == []


def test_an_item_of_others_is_not_failed(made_api: Api, make: Make) -> None:
    agent = make(queues=["a"])
    agent.start()
    run = submit(["true"], queue="b", api=made_api)
    with pytest.raises(RefusedError, match="is Pending and not this agent's"):
        agent.fail_run_queue_item(run.id, "no", "agent")
    with pytest.raises(UnknownRunError):
        agent.fail_run_queue_item("0" * 16, "no", "agent")
    with pytest.raises(InputError, match="phase 'later' is unknown"):
        agent.fail_run_queue_item(run.id, "no", "later")


def test_a_file_saver_of_the_callers_own_is_used(made_api: Api, make: Make, tmp_path: Path) -> None:
    class Saver:
        def save_contents(self, contents: str, fname: str, file_sub_type: str) -> list[str] | None:
            path = tmp_path / f"mine-{file_sub_type}-{fname}"
            path.write_text(contents)
            return [str(path)]

    agent = make(queues=["a"])
    run = submit(["/no/such/program"], queue="a", api=made_api)
    job, queue = take(agent)
    agent.run_job(job, queue, Saver())
    assert run.wait(20) is RunState.FAILED
    kept = made_api.store.read_file(run.id, "mine-error-error.log")
    assert kept is not None
    assert b"Traceback" in kept


def test_a_stop_with_grace_0_ends_the_job_at_once(made_api: Api, make: Make) -> None:
    """W16: stopped_run_timeout is the longest grace."""
    agent = make(queues=["a"], stopped_run_timeout=0)
    run = submit(["sh", "-c", "trap '' TERM; echo begun; sleep 100"], queue="a", grace="60s", api=made_api)
    run_next(agent)
    wait_for_output(run, b"begun")
    run.cancel()
    assert run.wait(20) is RunState.KILLED, "a third of the run's own grace"
    assert run.refresh().signal == "SIGKILL"
    assert states(run) == ["Pending", "Running", "Killed"]
    wait_until(lambda: agent.thread_ids == [])


@pytest.mark.parametrize(
    ("most", "asked", "grace"), [(None, None, None), (None, 5.0, 5.0), (3.0, None, 3.0), (20.0, None, 10.0), (3, 1, 1)]
)
def test_the_longest_grace_bounds_every_stop(
    made_api: Api, make: Make, most: float | None, asked: float | None, grace: float | None
) -> None:
    agent = make(queues=["a"], stopped_run_timeout=most)
    submit(["true"], queue="a", api=made_api)
    take(agent)
    (attempt,) = agent._parts.attempts.attempts
    assert attempt.spec.grace_s == 10.0
    assert agent._parts.attempts.grace_s(attempt, asked) == grace
    agent.obey(
        {
            "order": "cancel",
            "id": attempt.record.id,
            "token": str(attempt.record.token),
            "reason": "x",
            "grace_us": "" if asked is None else str(int(asked * 1e6)),
        }
    )
    assert attempt.events.get() == Cancel("x", grace)


# -- sweeps and schedulers ---------------------------------------------------------------------------------------------


def a_sweep(api: Api) -> Any:
    config = {"method": "grid", "parameters": {"x": {"values": [1, 2]}}, "command": ["true"]}
    return api.create_sweep(config, queue="sweep", workers=1)


def of_sweep(api: Api, sweep_id: str, folder: Path) -> Run:
    return api.submit(RunSpec(("touch", str(folder / "ran")), queue="a", sweep=sweep_id))


@pytest.mark.parametrize("state", ["RUNNING", "PAUSED"])
def test_a_run_of_a_live_sweep_starts(made_api: Api, make: Make, tmp_path: Path, state: str) -> None:
    """W18."""
    agent = make(queues=["a"])
    sweep = a_sweep(made_api)
    if state == "PAUSED":
        sweep.pause()
    run = of_sweep(made_api, sweep.id, tmp_path)
    run_next(agent)
    assert run.wait(20) is RunState.FINISHED
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("state", ["FINISHED", "CANCELED", "unknown"])
def test_a_run_of_a_sweep_that_is_over_is_killed_and_none_of_its_code_runs(
    made_api: Api, make: Make, tmp_path: Path, state: str
) -> None:
    """W18."""
    agent = make(queues=["a", "sweep"])
    sweep_id = "nosuchsweep"
    if state != "unknown":
        sweep = a_sweep(made_api)
        sweep_id = sweep.id
        if state == "CANCELED":
            sweep.cancel()
        else:
            for _ in range(2):
                wait_until(lambda: made_api.store.queues().get("sweep"))
                run_next(agent)
        wait_until(lambda: sweep.state == state, what=state)
    run = of_sweep(made_api, sweep_id, tmp_path)
    run_next(agent)
    assert run.wait(20) is RunState.KILLED
    assert run.refresh().reason.startswith(f"sweep {sweep_id} is {state}")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(SweepOverError, match=f"sweep {sweep_id} is {state}"):
        agent.check_sweep_state({"sweep_id": sweep_id}, made_api)


def test_a_sweep_that_cannot_be_asked_for_is_asked_for_again(tmp_path: Path, make: Make) -> None:
    """W18: never Failed for it."""
    server = RedisServer(aof="always")
    server.start()
    try:
        # A run whose lease is over before its job began goes back to its queue.
        api = api_of(server.url, tmp_path, LAUNCH_LEASE_S="60")
        agent = make(api=api, queues=["a"])
        sweep = a_sweep(api)
        run = of_sweep(api, sweep.id, tmp_path)
        job, queue = take(agent)
        server.kill()
        agent.run_job(job, queue, None)
        time.sleep(2)
        assert len(agent.thread_ids) == 1
        assert not (tmp_path / "ran").exists()
        server.start()
        assert run.wait(30) is RunState.FINISHED
        assert states(run) == ["Pending", "Running", "Finished"]
        agent.stop()
        api.store.close()
    finally:
        server.stop()


def scheduler(api: Api, *command: str) -> Run:
    return api.submit(RunSpec(command, queue="a", scheduler=True))


def test_schedulers_are_counted_apart_and_take_no_slot(made_api: Api, make: Make, tmp_path: Path) -> None:
    agent = make(queues=["a"], max_jobs=1)
    first = scheduler(made_api, "sleep", "100")
    job = submit(["sh", "-c", waits_for(tmp_path / "end")], queue="a", api=made_api)
    for _ in range(2):
        run_next(agent)
    assert (agent.num_running_jobs, agent.num_running_schedulers) == (1, 1)
    (tmp_path / "end").touch()
    assert job.wait(20) is RunState.FINISHED
    second = scheduler(made_api, "true")
    after = submit(["true"], queue="a", api=made_api)
    # The second one waits, and holds up nobody.
    assert run_next(agent) == after.id
    assert after.wait(20) is RunState.FINISHED
    assert second.state is RunState.PENDING
    assert second.record.reason == "waiting for a worker that may run one more scheduler (max_schedulers)"
    assert agent.get_job_and_queue() is None
    first.cancel(grace_s=0)
    found = wait_until(agent.get_job_and_queue, what="the second one's turn")
    assert found.job["runQueueItemId"] == second.id
    agent.run_job(found.job, found.queue, None)
    assert second.wait(20) is RunState.FINISHED


def test_a_worker_runs_a_scheduler_beside_its_slots(cluster: Cluster) -> None:
    """W&B's: a scheduler in the one slot would keep its own runs from ever running."""
    worker = cluster.worker("a", slots=1)
    first = scheduler(cluster.api, "sleep", "100")
    wait_for_pid(first)
    jobs = [submit(["sleep", "1"], queue="a", api=cluster.api) for _ in range(2)]
    second = scheduler(cluster.api, "true")
    for job in jobs:
        assert job.wait(20) is RunState.FINISHED
    starts = sorted(job.refresh().started_at or 0 for job in jobs)
    ends = sorted(job.record.ended_at or 0 for job in jobs)
    assert ends[0] <= starts[1], "one at a time"
    wait_until(lambda: "max_schedulers" in second.refresh().reason)
    (listed,) = cluster.api.store.workers()
    assert (listed["schedulers"], listed["max_schedulers"], listed["slots"]) == (1, 1, 1)
    # It is looked at again after a while, and not all the time.
    assert worker.log.count(f"run.claim_refused run={second.id}") <= 3
    first.cancel(grace_s=0)
    assert second.wait(20) is RunState.FINISHED


def test_another_worker_takes_the_scheduler_that_one_has_no_room_for(cluster: Cluster) -> None:
    cluster.worker("a", slots=1, name="none", arguments=("--max-schedulers", "0"))
    run = scheduler(cluster.api, "true")
    wait_until(lambda: "max_schedulers" in run.refresh().reason)
    cluster.worker("a", slots=1, name="some", arguments=("--max-schedulers", "-1"))
    assert run.wait(40) is RunState.FINISHED
    assert run.refresh().worker.startswith("some@")


# -- words about itself ------------------------------------------------------------------------------------------------


def test_an_agent_has_a_name_inside_a_worker_only(made_api: Api, make: Make) -> None:
    """W4."""
    assert not LaunchAgent.initialized()
    with pytest.raises(LaunchError, match="there is no agent in this process"):
        LaunchAgent.name()
    agent = make(worker="gpu@box")
    assert LaunchAgent.initialized()
    assert LaunchAgent.name() == agent.name() == "gpu@box"
    agent.start()
    assert LaunchAgent.name() == "gpu@box"
    agent.stop()
    with pytest.raises(LaunchError, match="there is no agent in this process"):
        LaunchAgent.name()


@pytest.mark.parametrize(("verbosity", "is_shown"), [(0, False), (1, False), (2, True)])
def test_internal_messages_go_to_the_terminal_from_verbosity_2_on(
    make: Make,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    verbosity: int,
    is_shown: bool,
) -> None:
    """W5."""
    agent = make(verbosity=verbosity)
    with caplog.at_level("DEBUG", logger="launch_worker"):
        agent._parts.status.logger.info("something within")
    assert "something within" in caplog.text
    shown = capfd.readouterr()
    assert ("launch agent: something within" in shown.err) == is_shown
    assert "something within" not in shown.out


def test_the_status_is_one_line(made_api: Api, make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    agent = make(worker="w@h", queues=["a", "b"], max_jobs=3, gpus="2", verbosity=1, entity="acme")
    agent.start()
    waits = ("sh", "-c", waits_for(tmp_path / "end"))
    run = submit(waits, queue="a", gpus=1, api=made_api)
    scheduler(made_api, *waits)
    run_next(agent)
    run_next(agent)
    submit(["true"], queue="b", api=made_api)
    oldest = r"; oldest wait [1-9][\d.]* m?s"
    wait_until(lambda: re.search(oldest, agent.status_line()), what="the oldest waits")
    capfd.readouterr()
    agent.print_status()
    (line,) = capfd.readouterr().out.splitlines()
    head = "agent w@h RUNNING: queues a, b; running 1 of 3 jobs; 1 of 1 schedulers; 1 of 2 GPUs free"
    assert re.fullmatch(head + oldest, line), line
    (listed,) = wait_until(lambda: [w for w in made_api.store.workers() if w["status"] == AGENT_RUNNING])
    assert (listed["entity"], listed["running"], listed["schedulers"]) == ("acme", 1, 1)
    (tmp_path / "end").touch()
    assert run.wait(20) is RunState.FINISHED
    wait_until(lambda: agent._parts.status.current == AGENT_POLLING)
    with pytest.raises(InputError, match="status 'idle' is unknown"):
        agent.update_status("idle")
    agent.stop()
    assert f"agent w@h {AGENT_KILLED}: " in capfd.readouterr().out.splitlines()[-1]


def test_a_tracker_tells_the_part_in_which_its_run_is(made_api: Api, make: Make) -> None:
    agent = make(queues=["a"])
    run = submit(["sleep", "100"], queue="a", api=made_api)
    item = run_next(agent)
    wait_for_pid(run)
    (tracker,) = agent._parts.items._threads.values()
    assert isinstance(tracker, JobAndRunStatusTracker)
    wait_until(lambda: tracker.err_stage == "run")
    assert tracker.run_queue_item_id == item
    run.cancel(grace_s=0)
    assert run.wait(20) is RunState.KILLED


# -- configuration of workers ------------------------------------------------------------------------------------------


def test_a_workers_configuration_comes_from_a_file_the_environment_and_the_command_line(cluster: Cluster) -> None:
    file = cluster.folder / "agent.yaml"
    file.write_text("queues: [a]\nentity: acme\nmax_jobs: 3\nmax_schedulers: 2\nverbosity: 1\nsecure_mode: true\n")
    env = {"LAUNCH_AGENT_MAX_JOBS": "4", "LAUNCH_AGENT_CONFIG": str(file)}
    part = cluster.celery("worker", "--loglevel", "INFO", "--max-schedulers", "5", name="configured", env=env)
    (listed,) = wait_until(cluster.api.store.workers)
    assert (listed["queues"], listed["entity"], listed["slots"]) == (["a"], "acme", 4)
    assert (listed["max_schedulers"], listed["secure_mode"]) == (5, True)
    assert submit(["true"], queue="a", api=cluster.api).wait(20) is RunState.FINISHED
    wait_until(lambda: "POLLING: queues a; running 0 of 4 jobs; 0 of 5 schedulers" in part.log)
    assert "RUNNING: queues a; running 1 of 4 jobs" in part.log


def test_celerys_own_limit_on_the_command_line_wins_over_a_file(cluster: Cluster) -> None:
    file = cluster.folder / "agent.yaml"
    file.write_text("max_jobs: 3\nqueues: b\n")
    cluster.worker("a", slots=2, arguments=("--agent-config", str(file)))
    (listed,) = cluster.api.store.workers()
    assert (listed["queues"], listed["slots"]) == (["a"], 2)


def test_start_takes_its_queues_from_the_file_and_names_every_mistake(cluster: Cluster) -> None:
    file = cluster.folder / "agent.yaml"
    file.write_text("queues: [a]\nmax_jobs: 2\n")
    process = cluster.open(LAUNCH_WORKER, "start", "--agent-config", str(file), "--secure-mode", "--entity", "acme")
    try:
        (listed,) = wait_until(cluster.api.store.workers)
        assert (listed["queues"], listed["slots"], listed["secure_mode"]) == (["a"], 2, True)
    finally:
        process.terminate()
        process.communicate(timeout=30)
    file.write_text("max_job: 2\nverbosity: loud\n")
    for command in (
        (LAUNCH_WORKER, "start", "-q", "a", "--agent-config", str(file)),
        (sys.executable, "-m", "celery", "-A", "launch_worker", "worker", "--agent-config", str(file)),
    ):
        result = cluster.run(*command)
        assert result.code == 2
        assert "has 2 mistakes" in result.err
        assert "did you mean max_jobs?" in result.err
        assert "verbosity cannot be 'loud'" in result.err
        assert "Traceback" not in result.err


def test_a_worker_in_secure_mode_refuses_what_reaches_its_machine(cluster: Cluster) -> None:
    cluster.worker("a", arguments=("--secure-mode", "--stopped-run-timeout", "2s"))
    entry = cluster.api.submit({"command": ("x",), "queue": "a", "image": "i", "container": {"entrypoint": ["sh"]}})
    folder = cluster.api.submit({"command": ("true",), "queue": "a", "cwd": "/etc", "cwd_required": True})
    fine = submit(["sh", "-c", "pwd"], queue="a", api=cluster.api)
    for run, what in ((entry, "the entry point"), (folder, "the working directory")):
        assert run.wait(20) is RunState.FAILED
        assert run.refresh().phase == "agent"
        assert run.record.reason.startswith(f"this worker is in secure mode, in which a run may not choose {what}: ")
    assert fine.wait(20) is RunState.FINISHED
    assert fine.logs().decode().strip() != os.getcwd()


def test_an_agent_that_is_given_no_runs_gets_only_what_was_ready_when_it_asked(make: Make, made_api: Api) -> None:
    """As the agent of `--run-once`: of the runs that wait for devices too."""
    store = made_api.store
    agent = make(kind=partial(LaunchAgent, is_given_runs=False), gpus="1")
    without = Worker(store)
    agent.start()

    def park() -> str:
        run = submit(["true"], gpus=1, api=made_api)
        without.work()
        assert run.refresh().reason == "waiting for 1 GPU"
        return run.id

    def take(before_us: int) -> tuple[str, int] | None:
        agent._parts.registration.renew()
        return agent.take(before_us=before_us)

    first, before_us = park(), store.now_us()
    late = park()
    assert take(before_us) is None, "it had not said yet until when runs are its own"
    found = take(before_us)
    assert found is not None
    assert found[0] == first
    agent.run(*found)
    assert made_api.run(first).state is RunState.FINISHED
    assert take(before_us) is None
    assert made_api.run(late).state is RunState.PENDING
