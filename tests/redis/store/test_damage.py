"""Records and items that somebody else wrote into: they end, once, with the reason, and nothing else suffers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.api.client import Api
from launch_worker.celery.message import rebuilt
from launch_worker.errors import LaunchError
from launch_worker.ids import new_run_id
from launch_worker.maintenance.passes import crash_stale_runs, publish_due_runs
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.attempts import NotConsumed
from launch_worker.store.redis.client import text
from launch_worker.store.store import Store
from launch_worker.store.submit import Announced, ConfigChanged, Created, New
from tests.conftest import wait_until
from tests.security.fuzz import examples
from tests.support.arrows import (
    CRASHED_AGAIN,
    FINISHED,
    beat,
    claim,
    claim_next,
    create,
    create_many,
    enlist,
    expire_lease,
    items,
    make_due,
    running,
    seq_of,
    try_claim,
    try_crash,
)
from tests.support.redis_client import redis_of
from tests.support.workers import Worker

S = RunState

#: A field of a record, and what makes it one that nobody can execute.
DAMAGES = [
    ("token", "x"),
    ("token", "-1"),
    ("token", "1e3"),
    ("token", "9" * 30),
    ("attempt", "x"),
    ("attempt", "1.5"),
    ("attempt", "200000000"),
    ("first_attempt", "0x1"),
    ("version", "1e300"),
    ("needs", "many"),
    ("queue", "../../x"),
    ("queue", ""),
    ("id", "../../../../x"),
    ("id", "a\0b"),
]


@pytest.fixture(autouse=True)
def consistent() -> None:
    """Records are damaged on purpose here: their indexes may not agree with them."""


def damage(store: Store, run_id: str, field: str, value: str) -> None:
    redis_of(store.url).hset(keys.run(run_id), field, value)


def refused(store: Store) -> list[str]:
    return [entry["reason"] for entry in store.refused(limit=1000)]


# -- a Pending one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_claimed_alone", [True, False])
@pytest.mark.parametrize(("field", "value"), DAMAGES)
def test_a_damaged_pending_record_is_failed_once_with_the_reason(
    store: Store, api: Api, field: str, value: str, is_claimed_alone: bool
) -> None:
    run_id, waiter = create(store), create(store)
    after = create(store, after=(f"{run_id}:any",))
    damage(store, run_id, field, value)
    if is_claimed_alone:
        enlist(store, "owner1", "default")
        assert store.take(keys.queue_lists("default"), before_us=1 << 53) == (run_id, 1)
        record, why = store.claim(run_id, 1, owner="owner1", worker="w", host="h", lease_s=30)
        assert (record, "damaged" in why) == (None, True)
    else:
        following = claim_next(store)
        assert following is not None
        assert following.id == waiter, "those behind it go on"
    found = store.get(run_id)
    assert (found.state, found.phase) == (S.FAILED, "agent")
    assert found.reason.startswith(f"the record of this run is damaged: its {field}")
    assert store.get(after).state is S.PENDING
    assert not store.get(after).waits_for, "who waited for its end was told"
    before = refused(store)
    assert len(before) == 1
    assert run_id in before[0]
    for _ in range(3):
        publish_due_runs(store, api.settings)
    assert refused(store) == before
    assert run_id not in [one for one, _ in items(store)]
    assert store.queues().get("default", 0) <= 2


@pytest.mark.parametrize("place", ["due", "parked", "lost"])
def test_a_damaged_record_is_failed_wherever_it_waits(store: Store, redis_client: Any, api: Api, place: str) -> None:
    kinds: dict[str, dict[str, Any]] = {"due": {"delay_s": 60.0}, "parked": {"concurrency_key": "k"}, "lost": {}}
    first = create(store, concurrency_key="k")
    running_now = claim(store, first)
    run_id = create(store, **kinds[place])
    if place == "parked":
        assert try_claim(store, run_id)[0] is None
        assert redis_client.hget(keys.run(run_id), "parked")
    damage(store, run_id, "queue", "")
    if place == "due":
        redis_client.zadd(keys.DUE, {run_id: 1})
    if place == "parked":
        beat(store, running_now)  # so that the queue is served
        store.finish(running_now, FINISHED)
    if place == "lost":
        for name in keys.queue_lists("default"):
            redis_client.delete(name)
        store.publish_lost(grace_s=0)
    enlist(store, "owner1", "default")
    for _ in range(2):
        publish_due_runs(store, api.settings)
        while claim_next(store, "", *keys.queue_lists("default")) is not None:
            pass
    assert store.get(run_id).state is S.FAILED
    assert len(refused(store)) == 1


def test_a_damaged_priority_loses_no_run(store: Store) -> None:
    run_id = create(store, delay_s=60.0)
    damage(store, run_id, "priority", "banana")
    make_due(store, run_id)
    store.publish_due()
    assert items(store) == [(run_id, seq_of(store, run_id))]
    assert claim(store, run_id).state is S.RUNNING


@pytest.mark.parametrize("name", [b"\xff\xfe", b"ok\xc3\xa4\xc3", b"\xed\xa0\x80", "Müller 😀".encode()])
def test_the_item_of_a_run_is_json_whatever_bytes_its_name_has(store: Store, redis_client: Any, name: bytes) -> None:
    run_id = create(store, delay_s=60.0)
    redis_client.hset(keys.run(run_id), "name", name)
    make_due(store, run_id)
    store.publish_due()
    [element] = redis_client.lrange(keys.queue_lists("default")[2], 0, -1)
    assert rebuilt("default", element)[1] == ""


def test_a_damaged_index_fails_no_sound_run(store: Store, redis_client: Any) -> None:
    run_id = create(store)
    redis_client.set("launch:places:queue:default", "text")
    enlist(store, "owner1", "default")
    with pytest.raises(LaunchError):
        store.claim(run_id, 1, owner="owner1", worker="w", host="h", lease_s=30)
    assert store.get(run_id).state in (S.PENDING, S.RUNNING)


def test_a_queue_whose_settings_cannot_be_read_asks_for_more_than_nothing(
    agent: LaunchAgent, api: Api, redis_client: Any
) -> None:
    """No settings would be: no sandbox, no account, no signatures."""
    api.create_queue("default", sandbox="private", signers=["*"])
    redis_client.delete(keys.queue("default"))
    known, late = create(api.store), create(api.store)
    redis_client.set(keys.queue("default"), "text")
    with pytest.raises(ConfigChanged):
        api.store.create(new_run_id(), RunSpec(command=("true",)))
    assert api.store.queue_configs(["default", "other"]) == {"default": "damaged", "other": ""}
    for run_id in (known, late):
        agent.run(run_id, 1)
        assert api.store.get(run_id).state is S.FAILED
        assert "the queue's configuration is damaged" in api.store.get(run_id).reason


# -- a Running one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["x", "", "9" * 30, "1e300"])
def test_a_running_record_with_a_damaged_token_is_put_right_by_its_worker(store: Store, token: str) -> None:
    record = running(store)
    damage(store, record.id, "token", token)
    assert [answer.word for answer in beat(store, record)] == ["ok"]
    assert store.get(record.id).token == record.token
    assert store.finish(record, FINISHED, owner="owner1")
    assert store.get(record.id).state is S.FINISHED


@pytest.mark.parametrize(("field", "value"), [("token", "x"), ("attempt", "x"), ("queue", "")])
def test_a_damaged_running_record_without_its_worker_is_crashed_after_the_lease_and_not_tried_again(
    store: Store, api: Api, field: str, value: str
) -> None:
    record = running(store, retries=3)
    damage(store, record.id, field, value)
    assert crash_stale_runs(store, api.settings) == 0, "its lease holds"
    expire_lease(store, record.id)
    assert crash_stale_runs(store, api.settings) == 1
    assert crash_stale_runs(store, api.settings) == 0
    found = store.get(record.id)
    assert found.state is S.CRASHED
    assert f"its {field}" in found.reason
    assert len(refused(store)) == 1


def test_a_worker_that_was_cut_off_brings_back_a_run_with_a_damaged_record(store: Store, api: Api) -> None:
    record = running(store)
    damage(store, record.id, "token", "x")
    expire_lease(store, record.id)
    crash_stale_runs(store, api.settings)
    assert [answer.word for answer in beat(store, record)] == ["ok"]
    assert store.get(record.id).state is S.RUNNING
    assert store.finish(record, FINISHED, owner="owner1")


# -- items in other lists --------------------------------------------------------------------------------------------


def copy_item(store: Store, run_id: str, to: str) -> None:
    """What anybody can do who may write queues."""
    for name in keys.queue_lists("elsewhere"):
        for element in redis_of(store.url).lrange(name, 0, -1):
            if run_id in text(element):
                redis_of(store.url).lpush(to, element)
                return
    pytest.fail("the run has no item")


@pytest.mark.parametrize("how", ["by id", "next", "its own list"])
def test_a_worker_executes_only_runs_of_queues_that_it_consumes(store: Store, how: str) -> None:
    worker = Worker(store, "sim", owner="w1")
    run_id = create(store, queue="elsewhere")
    copy_item(store, run_id, keys.direct_queue("w1") if how == "its own list" else "sim")
    if how == "next":
        claimer: dict[str, Any] = {"owner": "w1", "worker": "w1", "host": "h", "lease_s": 30.0}
        record, why = store.claim_next(["sim"], slot="1", nonce="n", **claimer)
        assert record is None
        assert isinstance(why, NotConsumed)
        assert (why.queue, why.run_id, why.seq) == ("elsewhere", run_id, 1)
    else:
        assert worker.take() == "it is of queue elsewhere, which this worker does not consume"
    assert store.get(run_id).state is S.PENDING
    assert Worker(store, "elsewhere", owner="w2").work() == [run_id]


def test_a_run_goes_back_to_its_own_queue_from_a_list_that_is_not_its_own(store: Store, redis_client: Any) -> None:
    run_id = create(store, queue="elsewhere")
    for name in keys.queue_lists("elsewhere"):
        redis_client.delete(name)
    assert store.put_back(run_id, 1)
    assert Worker(store, "elsewhere").work() == [run_id]


# -- through a real worker -------------------------------------------------------------------------------------------


@pytest.fixture
def agent(api: Api, tmp_path: Path) -> Iterator[LaunchAgent]:
    work_dir = tmp_path / "a" / "b" / "work"
    work_dir.mkdir(parents=True)
    quiet = {"LAUNCH_HEARTBEAT_S": "1h", "LAUNCH_LEASE_S": "3h", "LAUNCH_PASS_S": "1h"}
    config = Settings.from_env(
        {"LAUNCH_WORK_DIR": str(work_dir), "LAUNCH_ALLOW_ROOT": "1", **quiet}, redis_url=api.settings.redis_url
    )
    made = LaunchAgent(Api(settings=config), {"queues": ["default"], "max_jobs": 2, "gpus": "0,1"})
    made.start()
    wait_until(lambda: len(api.store.workers()) == 1)
    wait_until(lambda: "retire_runs" in api.store.pass_ages_s())
    wait_until(lambda: all(thread.name != "launch-maintenance" for thread in threading.enumerate()))
    yield made
    made.stop()


FIELDS = (
    *("id", "attempt", "first_attempt", "token", "seq", "queue", "name", "project", "needs", "gpus", "priority"),
    *("array", "array_limit", "concurrency_key", "limit_key", "sweep", "scheduler", "version", "spec", "tags"),
    *("commit", "due_at", "lined_at", "parked", "list", "expires_us", "waits_for", "preemptions", "nonce", "closed"),
    *("phases", "created_at", "cancel_at", "not_before", "yields", "owner", "worker", "host", "files", "summary"),
    *("retried", "avoid"),
)
VALUES = (
    *("", "x", "0", "-1", "1", "2", "1.5", "1e400", "9" * 40, "nan", "\0", "a\0b", "../../../PLANTED", "/etc/passwd"),
    *("[" * 3000, "{" * 3000, "[1,2]", '{"a":1}', "null", "\x1b]0;PWN\x07", "\u202e", "2:0:0", "2:x:0", "launch:due"),
    *("a" * 100_000, "\ud83d\ude00", "default", "other", "launch.direct.x"),
)


def outside(root: Path, work_dir: Path) -> set[str]:
    return {
        path
        for folder, folders, files in os.walk(root)
        if not Path(folder).is_relative_to(work_dir)
        for path in (os.path.join(folder, name) for name in (*folders, *files))
        if not work_dir.is_relative_to(path)
    }


@settings(max_examples=examples(60), suppress_health_check=list(HealthCheck), database=None)
@given(
    fields=st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(VALUES), min_size=1, max_size=3),
    options=st.sampled_from([{}, {"gpus": 1}, {"concurrency_key": "k"}]),
)
def test_whatever_a_record_says_no_slot_is_lost_and_nothing_is_made_outside_the_work_folder(
    agent: LaunchAgent, api: Api, tmp_path: Path, fields: dict[str, str], options: dict[str, Any]
) -> None:
    store, work_dir = api.store, tmp_path / "a" / "b" / "work"
    before = agent._parts.capacity.free()
    run_id = new_run_id()
    store.create(run_id, RunSpec(command=("true",), cwd="/", **options))
    redis_of(store.url).hset(
        keys.run(run_id), mapping={name: value.encode("utf-8", "surrogatepass") for name, value in fields.items()}
    )
    agent.run(run_id, seq_of_record(store, run_id))
    assert agent._parts.attempts.active == 0
    assert agent._parts.attempts.attempts == []
    assert agent._parts.capacity.free() == before
    assert outside(tmp_path, work_dir) == set()
    store.publish_due()
    redis_of(store.url).delete(*(name for queue in ("default", "other") for name in keys.queue_lists(queue)))
    redis_of(store.url).delete("launch:places:queue:default", "launch:places:key:k")


def seq_of_record(store: Store, run_id: str) -> int:
    found = text(redis_of(store.url).hget(keys.run(run_id), "seq") or "0")
    return int(found) if found.isdecimal() and len(found) < 16 else 1


def test_a_neighbours_run_ends_as_it_should_beside_hostile_records(agent: LaunchAgent, api: Api) -> None:
    for field, value in DAMAGES:
        run_id = create(api.store)
        damage(api.store, run_id, field, value)
        agent.run(run_id, 1)
        assert api.store.get(run_id).state is S.FAILED
    good = create(api.store)
    ended = agent.run(good, 1)
    assert ended is not None
    assert ended[0] is S.FINISHED


def test_a_worker_that_redis_does_not_know_as_a_consumer_says_so_and_goes_on(agent: LaunchAgent, api: Api) -> None:
    """Its first heartbeat is on its way, or it was frozen for so long that it was struck off."""
    for take in (lambda run_id: agent.run(run_id, 1), lambda _: agent.claim_next(["default"], slot="1")):
        redis_of(api.store.url).delete(keys.consumers("default"))
        run_id = create(api.store)
        take(run_id)
        assert api.store.get(run_id).state in (S.RUNNING, S.FINISHED)
    for attempt in agent._parts.attempts.attempts:
        agent.see_to_its_end(attempt)


def test_a_worker_puts_back_what_is_not_of_its_queues(agent: LaunchAgent, api: Api) -> None:
    run_id = create(api.store, queue="elsewhere")
    copy_item(api.store, run_id, "default")
    assert agent.claim_next(["default"], slot="1") is None
    assert agent._parts.attempts.active == 0
    assert api.store.get(run_id).state is S.PENDING
    assert Worker(api.store, "elsewhere").work() == [run_id]


def test_a_queue_that_is_popped_is_consumed_from_then_on(agent: LaunchAgent, api: Api) -> None:
    run_id = create(api.store, queue="other")
    job = agent.pop_from_queue("other")
    assert job is not None
    assert job["runQueueItemId"] == run_id
    agent.run_job(job, "other")
    wait_until(lambda: api.store.get(run_id).state is S.FINISHED)


def test_a_file_saver_that_fails_keeps_no_slot(agent: LaunchAgent, api: Api) -> None:
    class Broken:
        def save_contents(self, contents: str, fname: str, file_sub_type: str) -> list[str] | None:
            raise ValueError("embedded null byte")

    run_id = new_run_id()
    api.store.create(run_id, RunSpec(command=("/does/not/exist",), cwd="/"))
    job = agent.pop_from_queue("default")
    assert job is not None
    agent.run_job(job, "default", Broken())
    wait_until(lambda: api.store.get(run_id).state is S.FAILED)
    wait_until(lambda: agent._parts.attempts.active == 0)


# -- bounded scripts -------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(store: Store, redis_client: Any) -> Iterator[Store]:
    """A Redis that lets nobody keep it busy: others would be told BUSY after 50 ms."""
    redis_client.config_set("busy-reply-threshold", 50)
    yield store
    redis_client.config_set("busy-reply-threshold", 5000)


def longest_ms(store: Store, call: Any) -> float:
    """How long Redis was kept by the slowest command of a call."""
    redis_of(store.url).config_set("slowlog-log-slower-than", 1000)
    redis_of(store.url).slowlog_reset()
    call()
    return max((entry["duration"] / 1000 for entry in redis_of(store.url).slowlog_get(100)), default=0.0)


def test_an_attempt_number_of_two_hundred_million_keeps_redis_from_nobody(impatient: Store) -> None:
    record = running(impatient)
    impatient.append_log(record.id, 1, b"x", offset=0)
    impatient.finish(record, FINISHED)
    damage(impatient, record.id, "attempt", "200000000")
    redis_of(impatient.url).zadd("launch:ended", {record.id: 1})
    began = time.monotonic()
    assert impatient.retire(retention_s=1) == 1
    assert time.monotonic() - began < 20, "it does not count to two hundred million"
    assert not redis_of(impatient.url).exists(keys.run(record.id), keys.log(record.id, 1))


def test_all_logs_of_a_run_with_many_attempts_are_deleted_with_it(store: Store, redis_client: Any) -> None:
    record = running(store, retries=3)
    for _ in range(2):
        store.append_log(record.id, record.attempt, b"x", offset=0)
        expire_lease(store, record.id)
        assert try_crash(store, record.id, record.token, CRASHED_AGAIN)
        record = claim(store, record.id)
    store.append_log(record.id, record.attempt, b"x", offset=0)
    store.finish(record, FINISHED)
    assert store.delete(record.id, who="me", keep_s=60)
    assert not redis_client.keys(f"{keys.run(record.id)}:log:*")


def test_hostile_counts_keep_redis_from_nobody(impatient: Store) -> None:
    redis = redis_of(impatient.url)
    redis.set("launch:upload:" + "a" * 64, 10**9)
    redis.hset("launch:sweep:s", mapping={"ended_at": 1, "made": 10**9, "state": "FINISHED"})
    redis.zadd(keys.SWEEPS, {"s": 1})
    for number in range(100):
        redis.set(f"launch:upload:{'a' * 64}:{number}", "x")

    def call() -> None:
        assert impatient.renew_upload("a" * 64, keep_s=60) == 0
        assert not impatient.keep_upload("a" * 64, chunks=10**9, size=100, keep_s=60)
        assert impatient.retire_sweeps(retention_s=1) == 1

    assert longest_ms(impatient, call) < 50


def test_a_list_of_outdated_items_is_thrown_away_in_bounded_steps(store: Store, redis_client: Any) -> None:
    gone = [create(store) for _ in range(2500)]
    wanted = create(store)
    pipe = redis_client.pipeline(transaction=False)
    for run_id in gone:
        pipe.hset(keys.run(run_id), "seq", "9")
    pipe.execute()
    assert store.take(keys.queue_lists("default"), before_us=1 << 53) == (wanted, 1)
    redis_client.flushdb()


def test_runs_of_a_group_whose_record_is_damaged_run_all_the_same(store: Store, redis_client: Any) -> None:
    ids = [new_run_id() for _ in range(2)]
    group = Announced(f"b{ids[0]}", f"b{ids[0]}", 2)
    redis_client.rpush(keys.group(group.key), "no hash")
    answers = create_many(store, [New(run_id, RunSpec(command=("true",)), group=group) for run_id in ids])
    assert [answer for answer in answers if not isinstance(answer, Created)] == []
    for run_id in ids:
        store.finish(claim(store, run_id), FINISHED)
        store.delete(run_id, who="me", keep_s=60)
    assert store.group(group.id) is None
    assert not redis_client.keys("launch:array:*")
