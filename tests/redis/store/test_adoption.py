"""Attempts that another worker takes over, the phases of a start, and queues with a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch_worker.agent.hooks import Hooks
from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.api.client import Api
from launch_worker.errors import DamagedError, InputError
from launch_worker.ids import new_run_id
from launch_worker.model.outcome import Outcome
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec, parse_spec
from launch_worker.model.states import RunState
from launch_worker.queues.queue import QueueConfig
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from launch_worker.store.submit import ConfigChanged
from tests.support.arrows import (
    CRASHED_AGAIN,
    FINISHED,
    adopt,
    beat,
    claim,
    crash,
    create,
    expire_lease,
    running,
    snapshot,
    states,
    try_crash,
)
from tests.support.redis_client import redis_of

S = RunState


# -- adoption ----------------------------------------------------------------------------------------------------------


def test_an_adopted_attempt_goes_on_under_its_new_owner(store: Store) -> None:
    record = running(store)
    expire_lease(store, record.id)
    adopted, why = adopt(store, record)
    assert adopted is not None, why
    assert (adopted.attempt, adopted.token, adopted.state) == (record.attempt, record.token, S.RUNNING)
    assert (adopted.owner, adopted.worker, adopted.host) == ("owner2", "w@owner2", "other")
    assert states(store, record.id) == [S.PENDING, S.RUNNING], "the run's state did not change"
    assert [phase.name for phase in adopted.phases] == ["adopted"]
    assert not try_crash(store, record.id, record.token, CRASHED_AGAIN), "its lease is new"
    assert [answer.word for answer in beat(store, adopted, owner="owner2")] == ["ok"]
    assert store.finish(adopted, FINISHED, owner="owner2")


def test_a_repeated_call_gets_the_same_answer(store: Store) -> None:
    record = running(store)
    first, _ = adopt(store, record)
    again, _ = adopt(store, record)
    assert first is not None
    assert again is not None
    assert first == again


def test_a_crashed_attempt_that_was_not_superseded_is_regained(store: Store) -> None:
    """X7."""
    record = running(store)
    crash(store, record)
    adopted, _ = adopt(store, record)
    assert adopted is not None
    assert states(store, record.id) == [S.PENDING, S.RUNNING, S.CRASHED, S.RUNNING]


def test_a_superseded_attempt_is_refused_and_nothing_changes(store: Store) -> None:
    record = running(store, retries=1)
    crash(store, record, CRASHED_AGAIN)
    before = snapshot(store)
    assert adopt(store, record) == (None, "ended"), "Pending again, and not this attempt's"
    assert snapshot(store) == before
    claim(store, record.id, owner="owner3")
    before = snapshot(store)
    assert adopt(store, record) == (None, "superseded")
    assert snapshot(store) == before


def test_an_attempt_that_has_ended_is_refused(store: Store) -> None:
    record = running(store)
    store.finish(record, FINISHED, owner="owner1")
    before = snapshot(store)
    assert adopt(store, record) == (None, "ended")
    assert snapshot(store) == before


def test_only_one_of_two_heirs_gets_it(store: Store) -> None:
    record = running(store)
    assert adopt(store, record, owner="owner2")[0] is not None
    assert adopt(store, record, owner="owner3") == (None, "taken")
    assert store.get(record.id).owner == "owner2"


def test_who_has_the_job_itself_need_not_name_its_former_owner(store: Store) -> None:
    record = running(store)
    adopt(store, record, owner="owner2")
    assert adopt(store, record, previous_owner="", owner="owner3")[0] is not None


def test_a_live_workers_attempt_is_not_taken_by_those_who_only_saw_its_container(store: Store) -> None:
    record = running(store)
    beat(store, record, owner="owner1")
    assert adopt(store, record, only_if_gone=True) == (None, "taken")
    store.goodbye("owner1", queues=["default"])
    assert adopt(store, record, only_if_gone=True)[0] is not None


def test_a_run_that_is_unknown_is_said_so(store: Store) -> None:
    record = running(store)
    store.finish(record, FINISHED, owner="owner1")
    ghost = store.get(record.id)
    store.retire(retention_s=0.0)
    assert adopt(store, ghost) == (None, "unknown")


def test_a_cancel_reaches_the_new_owner(store: Store) -> None:
    record = running(store)
    adopted, _ = adopt(store, record)
    assert adopted is not None
    store.cancel(record.id, reason="enough", grace_s=1.5)
    (answer,) = beat(store, adopted, owner="owner2")
    assert (answer.word, answer.reason, answer.grace_s) == ("cancel", "enough", 1.5)


# -- phases ------------------------------------------------------------------------------------------------------------


def test_phases_follow_each_other_and_end_when_the_job_has_started(store: Store) -> None:
    record = running(store)
    assert store.phase(record, "pull", reason="pulling image a:1")
    shown = store.get(record.id)
    assert (shown.reason, [(phase.name, phase.seconds) for phase in shown.phases]) == (
        "pulling image a:1",
        [("pull", None)],
    )
    store.phase(record, "start")
    store.phase(record, "start")
    store.started(record.id, record.token, pid=7)
    store.started(record.id, record.token, pid=7)
    shown = store.get(record.id)
    assert [phase.name for phase in shown.phases] == ["pull", "start"]
    assert all(phase.seconds is not None and phase.seconds >= 0 for phase in shown.phases)
    assert shown.phases[0].at <= shown.phases[1].at
    assert (shown.reason, shown.pid) == ("", 7)


def test_the_phases_of_an_attempt_are_not_the_next_ones(store: Store) -> None:
    record = running(store, retries=1)
    store.phase(record, "pull")
    crash(store, record, CRASHED_AGAIN)
    assert claim(store, record.id).phases == ()


def test_a_stale_attempt_notes_nothing(store: Store) -> None:
    record = running(store, retries=1)
    crash(store, record, CRASHED_AGAIN)
    before = snapshot(store)
    assert not store.phase(record, "pull")
    assert snapshot(store) == before


def test_a_cancel_stays_the_reason_while_the_start_goes_on(store: Store) -> None:
    record = running(store)
    store.cancel(record.id, reason="enough")
    store.phase(record, "pull", reason="pulling")
    store.started(record.id, record.token, pid=7)
    assert store.get(record.id).reason == "stopping: enough"


@pytest.mark.parametrize("damage", ["", "{", "7", '"x"', "[1]", '[{"name": 1}]'])
def test_damaged_phases_hide_nothing(store: Store, redis_client: Any, damage: str) -> None:
    record = running(store)
    redis_client.hset(keys.run(record.id), "phases", damage)
    assert store.get(record.id).id == record.id
    assert store.started(record.id, record.token, pid=1) in (True, False)
    assert store.finish(record, FINISHED, owner="owner1")


# -- queues with a configuration ---------------------------------------------------------------------------------------


def test_the_claimer_gets_the_queues_configuration_of_that_moment(store: Store) -> None:
    config = QueueConfig("container", {"image": "a:1"})
    run_id = create(store, queue="sim", image="b:1")
    assert store.queue_config("sim") == ""
    store.configure("queue", "sim", {"config": config.to_json()})
    record = claim(store, run_id)
    assert QueueConfig.from_json(record.queue_config) == config
    assert store.get(run_id).queue_config == ""
    store.configure("queue", "sim", {"config": None})
    assert store.queue_config("sim") == ""


def test_a_run_that_its_queue_does_not_take_is_not_made(api: Api) -> None:
    store = api.store
    store.configure("queue", "cpu", {"config": QueueConfig("process").to_json()})
    store.configure("queue", "sim", {"config": QueueConfig("container").to_json()})
    before = snapshot(store)
    with pytest.raises(InputError, match="runs processes"):
        api.submit(RunSpec(command=("true",), queue="cpu", image="a:1"))
    with pytest.raises(InputError, match="--image IMAGE"):
        api.submit(RunSpec(command=("true",), queue="sim"))
    assert snapshot(store) == before
    assert api.submit(RunSpec(command=("true",), queue="cpu")).state is S.PENDING


def test_a_submitter_that_does_not_know_the_queues_defaults_is_told_them(api: Api) -> None:
    store = api.store
    config = QueueConfig(defaults={"retries": 2}).to_json()
    store.configure("queue", "gpu", {"config": config, "pool": "lab"})
    store.configure("pool", "lab", {"config": '{"defaults": {"retries": 5, "grace": "3s"}}'})
    with pytest.raises(ConfigChanged) as changed:
        store.create(new_run_id(), RunSpec(command=("true",), queue="gpu"))
    assert changed.value.configs.queue_config == config
    spec = parse_spec(api.submit({"command": ("true",), "queue": "gpu"}).record.spec)
    assert (spec.retries, spec.grace_s) == (2, 3.0)
    store.configure("queue", "gpu", {"config": None})
    spec = parse_spec(api.submit({"command": ("true",), "queue": "gpu", "grace_s": 1.0}).record.spec)
    assert (spec.retries, spec.grace_s) == (5, 1.0)


def test_a_damaged_configuration_refuses_runs_with_a_sentence(api: Api) -> None:
    redis_of(api.store.url).hset(keys.queue("sim"), "config", json.dumps({"resource": "vm"}))
    with pytest.raises(InputError, match="'vm' is unknown"):
        api.submit(RunSpec(command=("true",), queue="sim"))
    redis_of(api.store.url).set(keys.queue("odd"), "not a hash")
    with pytest.raises(DamagedError, match="the settings of queue 'odd' cannot be read"):
        api.submit(RunSpec(command=("true",), queue="odd"))


def test_a_system_has_one_name(store: Store) -> None:
    assert store.system() == store.system() != ""


def test_a_callback_that_fails_decides_about_no_run(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`on_end` shows an end to watchers; whatever is wrong with them, who found the end goes on."""
    # The next test in this process finds no agent.
    monkeypatch.setattr(LaunchAgent, "_current", None)
    told: list[str] = []

    def fail(record: Record, outcome: Outcome) -> None:
        told.append(record.id)
        raise ConnectionError("nobody there")

    settings = Settings.from_env({"LAUNCH_WORK_DIR": str(tmp_path)}, redis_url=store.url)
    agent = LaunchAgent(Api(settings=settings), {}, hooks=Hooks(on_end=fail))
    record = running(store)
    agent._parts.on_end(record, Outcome(RunState.CRASHED, reason="x"))
    assert told == [record.id]
