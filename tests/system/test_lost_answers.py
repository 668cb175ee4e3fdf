"""A slot ends its run and claims the next one in one call: what becomes of both when the call's answer is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker import submit
from launch_worker.agent.claims import NextClaim
from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.api.client import Api
from launch_worker.api.run import Run
from launch_worker.attempt.attempt import Attempt
from launch_worker.errors import BrokerUnavailableError
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from launch_worker.store import keys
from tests.conftest import wait_until
from tests.support.losing import Losing
from tests.system.conftest import states


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Losing]:
    made = Losing(redis_url)
    yield made
    made.close()


@pytest.fixture
def agent(proxy: Losing, tmp_path: Path) -> Iterator[LaunchAgent]:
    """A worker's agent, whose Redis is behind the proxy."""
    env = {"LAUNCH_WORK_DIR": str(tmp_path), "LAUNCH_ALLOW_ROOT": "1", "LAUNCH_PASS_S": "1h"}
    api = Api(settings=Settings.from_env(env, redis_url=proxy.url))
    made = LaunchAgent(api, {"queues": ["default"], "max_jobs": 2})
    made.start()
    wait_until(lambda: len(made.api.store.workers()) == 1)
    yield made
    made.stop()
    api.store.close()
    LaunchAgent._current = None


def stamping(api: Api, folder: Path) -> Run:
    """A run that writes a line for each of its starts."""
    return submit(["sh", "-c", f"echo $LAUNCH_RUN_ID >> {folder}/stamps"], api=api)


def begin(agent: LaunchAgent) -> tuple[Attempt, NextClaim]:
    """The first attempt of a slot, and what ends it and claims the next one."""
    attempt = agent.claim_next(["default"], slot="1")
    assert attempt is not None
    return attempt, follow(agent, attempt)


def follow(agent: LaunchAgent, attempt: Attempt) -> NextClaim:
    after = agent.next_claim(lambda: ["default"], slot="1")
    attempt.finish = after.finish
    return after


@pytest.mark.parametrize("count", [1, 3])
def test_a_lost_answer_costs_neither_the_end_nor_the_next_run(
    agent: LaunchAgent, proxy: Losing, api: Api, redis_client: Any, tmp_path: Path, count: int
) -> None:
    first, second, third = (stamping(api, tmp_path) for _ in range(3))
    attempt, after = begin(agent)
    proxy.lose(b"_finish_and_claim", count=count)
    agent.see_to_its_end(attempt)
    assert proxy.lost == count
    following = after.take_up()
    assert following is not None
    assert (following.record.id, following.record.attempt) == (second.id, 1)
    assert third.refresh().state is RunState.PENDING, "a repeated call claims no other run"
    last = follow(agent, following)
    agent.see_to_its_end(following)
    for run in (first, second):
        assert states(run) == ["Pending", "Running", "Finished"]
    counters = redis_client.hgetall(keys.counts("default"))
    ends = [int(value) for name, value in counters.items() if name.startswith(b"end:Finished:")]
    assert sum(ends) == 2
    assert (tmp_path / "stamps").read_text().split() == [first.id, second.id]
    assert not redis_client.zscore("launch:leases", first.id)
    attempt_of_third = last.take_up()
    assert attempt_of_third is not None
    agent.see_to_its_end(attempt_of_third)
    assert third.refresh().state is RunState.FINISHED


def test_a_worker_that_drains_meanwhile_learns_what_it_has_claimed(
    agent: LaunchAgent, proxy: Losing, api: Api, tmp_path: Path
) -> None:
    first, second, third = (stamping(api, tmp_path) for _ in range(3))
    attempt, after = begin(agent)

    def finish(*args: Any, **facts: Any) -> bool:
        try:
            return after.finish(*args, **facts)
        except BrokerUnavailableError:
            agent.end_intake()
            raise

    attempt.finish = finish
    proxy.lose(b"_finish_and_claim", count=1)
    agent.see_to_its_end(attempt)
    assert proxy.lost == 1
    assert not agent.takes_runs
    following = after.take_up()
    assert following is not None
    agent.see_to_its_end(following)
    for run in (first, second):
        assert states(run) == ["Pending", "Running", "Finished"]
    assert third.refresh().state is RunState.PENDING
    assert agent.num_running_jobs == 0


def test_functions_that_were_flushed_cost_neither_the_end_nor_the_next_run(
    agent: LaunchAgent, api: Api, redis_client: Any, tmp_path: Path
) -> None:
    first, second = (stamping(api, tmp_path) for _ in range(2))
    attempt, after = begin(agent)
    redis_client.function_flush()
    agent.see_to_its_end(attempt)
    following = after.take_up() or agent.claim_next(["default"], slot="1")
    assert following is not None
    agent.see_to_its_end(following)
    for run in (first, second):
        assert states(run) == ["Pending", "Running", "Finished"]
    assert (tmp_path / "stamps").read_text().split() == [first.id, second.id]
