"""An engine's misdeeds, cancels and replaced workers in any order: no run is executed twice, and each ends once.

The real agent, guard and Redis, with a scripted engine. More examples: LAUNCH_FUZZ_EXAMPLES=200.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from launch_worker.agent import shutdown
from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.api.client import Api, Run, submit
from launch_worker.attempt.attempt import Attempt
from launch_worker.dev.redis_server import RedisServer
from launch_worker.model.states import RunState
from launch_worker.runners.container import engine, follow, log_stream, start, stopping
from launch_worker.runners.container import runner as container
from launch_worker.runners.container import watch as container_watch
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from tests.support.redis_client import redis_of
from tests.support.scripted_engine import CALLS, MISDEEDS, ScriptedEngine, settle

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    # The agent's own threads use `random` while examples are drawn.
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning"),
]

_EXAMPLES = int(os.environ.get("LAUNCH_FUZZ_EXAMPLES", "4"))
_ENDS = (RunState.FINISHED, RunState.FAILED, RunState.KILLED, RunState.CRASHED)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same waits, shorter."""
    monkeypatch.setattr(container, "Engine", partial(engine.Engine, look_timeout_s=0.5))
    for module, name, seconds in (
        (engine, "_WORK_TIMEOUT_S", 1.0),
        (container, "PATIENCE_S", 0.3),
        (container, "_REMOVE_S", 0.3),
        (start, "PATIENCE_S", 0.3),
        (follow, "RETRY_S", 0.1),
        (stopping, "RETRY_S", 0.1),
        (log_stream, "_SILENT_S", 0.3),
        (follow, "_REST_S", 1.0),
        (container_watch, "_EVERY_S", 0.1),
        (container_watch, "_ANSWER_S", 0.3),
        (shutdown, "_LAST_STEPS_S", 0.5),
    ):
        monkeypatch.setattr(module, name, seconds)
    yield
    gc.collect()


class Worker:
    """An agent with two threads that take what waits."""

    def __init__(self, api: Api, name: str) -> None:
        self.agent = LaunchAgent(api, {"queues": ["default"], "max_jobs": 2, "worker": name})
        self.agent.start()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(f"slot{n}",), daemon=True) for n in range(2)]
        for thread in self._threads:
            thread.start()

    def _work(self, slot: str) -> None:
        while not self._over.is_set():
            begun = self.agent.claim_next(["default"], slot=slot)
            if isinstance(begun, Attempt):
                self.agent.see_to_its_end(begun)
            else:
                self._over.wait(0.02)

    def stop(self) -> None:
        """As a second signal does it."""
        self._over.set()
        self.agent.hurry()
        self.agent.stop()
        for thread in self._threads:
            thread.join(10.0)
            assert not thread.is_alive(), "a thread of its pool is left: the process would stay without heartbeats"
        assert self.agent._parts.attempts.active == 0, "a slot leaked"


class Machine(RuleBasedStateMachine):
    redis_url = ""

    def __init__(self) -> None:
        super().__init__()
        store = Store(self.redis_url)
        redis_of(store.url).flushall()
        store.close()
        self.engine = ScriptedEngine()
        self._patch = pytest.MonkeyPatch()
        self._patch.setenv("DOCKER_HOST", self.engine.url)
        self.folder = Path(tempfile.mkdtemp(prefix="launch-fuzz-"))
        env = {"LAUNCH_HEARTBEAT_S": "0.3", "LAUNCH_LEASE_S": "4", "LAUNCH_PASS_S": "0.3"}
        env |= {"LAUNCH_WORK_DIR": str(self.folder), "LAUNCH_REDIS_URL": self.redis_url, "LAUNCH_ALLOW_ROOT": "1"}
        self.api = Api(settings=Settings.from_env(env))
        self.runs: list[Run] = []
        self.worker = Worker(self.api, "w1")

    # -- what happens ----------------------------------------------------------------------------------------------

    @rule(retries=st.integers(0, 1))
    def submit(self, retries: int) -> None:
        made = submit(["job"], image="any:1", retries=retries, grace=0.3, api=self.api)
        self.runs.append(made)
        self._a_moment()

    @rule(call=st.sampled_from(sorted(CALLS)), how=st.sampled_from(MISDEEDS), times=st.sampled_from([1, 1, 2, None]))
    def misbehave(self, call: str, how: str, times: int | None) -> None:
        self.engine.misbehave(call, how, times=times)

    @rule()
    def hang(self) -> None:
        for call in CALLS:
            self.engine.misbehave(call, "hang", times=None)
        self._a_moment()

    @rule()
    def heal(self) -> None:
        self.engine.heal()
        self._a_moment()

    # Whether one runs now depends on the time that others took: no precondition, or Hypothesis calls it flaky.
    @rule(code=st.sampled_from([0, 3]))
    def a_job_ends(self, code: int) -> None:
        for found in self.engine.running()[:1]:
            self.engine.end(found, code)
        self._a_moment()

    @precondition(lambda self: self.runs)
    @rule(at=st.integers(0, 100))
    def cancel(self, at: int) -> None:
        run = self.runs[at % len(self.runs)]
        if not run.state.is_final:
            self.api.store.cancel(run.id, reason="enough")
        self._a_moment()

    @rule()
    def replace_the_worker(self) -> None:
        self.worker.stop()
        self.worker = Worker(self.api, "w1")
        self._a_moment()

    def _a_moment(self) -> None:
        time.sleep(0.15)

    # -- what must be so -------------------------------------------------------------------------------------------

    @invariant()
    def no_run_is_executed_twice(self) -> None:
        assert self.engine.doubled == []
        live = Counter(found.run for found in self.engine.running())
        assert all(count == 1 for count in live.values()), live

    def teardown(self) -> None:
        try:
            self.engine.heal()
            assert settle(self._all_ended, timeout_s=40.0), [
                (run.id, run.state, run.record.reason) for run in self.runs
            ]
            self.no_run_is_executed_twice()
            for run in self.runs:
                self._each_attempt_ended_once(run)
            assert settle(lambda: self.worker.agent._parts.attempts.active == 0, timeout_s=10.0), "a slot leaked"
            assert settle(lambda: not self.engine.containers, timeout_s=10.0), "a container was left"
        finally:
            self.worker.stop()
            self.engine.close()
            self.api.store.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            self._patch.undo()

    def _all_ended(self) -> bool:
        for found in self.engine.running():
            self.engine.end(found, 0)
        return all(run.state.is_final for run in self.runs)

    def _each_attempt_ended_once(self, run: Run) -> None:
        ends = Counter(step.attempt for step in run.transitions if step.state in _ENDS)
        begun = Counter(step.attempt for step in run.transitions if step.state is RunState.RUNNING)
        assert all(count == 1 for count in ends.values()), run.transitions
        assert all(ends[attempt] == 1 for attempt in begun), run.transitions


@pytest.mark.timeout(60 + 40 * _EXAMPLES)
def test_whatever_an_engine_does_no_run_is_executed_twice_and_each_ends(
    redis_server: RedisServer, impatient: None
) -> None:
    Machine.redis_url = redis_server.url
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=_EXAMPLES,
            stateful_step_count=14,
            suppress_health_check=list(HealthCheck),
        ),
    )
