"""Many runs at once are what each of them would be alone, in their order, whatever becomes of the others."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from launch_worker.api import Api, submit_many
from launch_worker.bulk import Item
from launch_worker.dev.redis_server import RedisServer
from launch_worker.errors import BrokerUnavailableError, DamagedError, InputError
from launch_worker.ids import new_run_id
from launch_worker.settings import Settings
from launch_worker.spec import RunSpec
from launch_worker.states import RunState
from launch_worker.store import keys
from launch_worker.store.creating import ConfigChanged, Created, New
from launch_worker.store.reading import text
from launch_worker.store.store import Store
from tests.redis.test_arrows import inconsistencies, items, states

PLAIN = RunSpec(command=("true",))


@pytest.fixture(autouse=True)
def consistent(store: Store) -> Iterator[None]:
    yield
    assert inconsistencies(store) == []


def news(count: int, spec: RunSpec = PLAIN) -> list[New]:
    return [New(new_run_id(), spec) for _ in range(count)]


def ids(runs: Sequence[New]) -> list[str]:
    return [run.run_id for run in runs]


def test_runs_of_one_call_keep_their_order_everywhere(store: Store) -> None:
    runs = news(250)
    random.Random(1).shuffle(runs)
    assert store.create_many(runs) == [Created(True, 0)] * 250
    assert [run_id for run_id, _ in items(store)] == ids(runs)
    assert [record.id for record in store.select(newest_first=False)] == ids(runs)
    assert [record.id for record in store.line("default", limit=1000)] == ids(runs)
    later = news(1)
    store.create_many(later)
    assert next(iter(store.select())).id == later[0].run_id


def test_an_id_that_comes_twice_in_one_call_is_one_run(store: Store) -> None:
    [run] = news(1)
    assert store.create_many([run, run]) == [Created(True, 0), Created(False, 0)]
    assert items(store) == [(run.run_id, 1)]


def test_a_repeated_call_changes_nothing(store: Store) -> None:
    runs = news(3)
    store.create_many(runs)
    before = [store._redis.dump(key) for key in sorted(store._redis.keys("*"))]
    assert store.create_many(runs) == [Created(False, 0)] * 3
    assert [store._redis.dump(key) for key in sorted(store._redis.keys("*"))] == before


SPECS: list[dict[str, Any]] = [
    {},
    {"project": "me/iris", "tags": ("a",)},
    {"priority": "critical"},
    {"queue": "paused"},
    {"queue": "limited", "concurrency_key": "k"},
    {"gpus": 2},
    {"array": "a", "array_index": 1, "array_limit": 1},
    {"expires_s": 60.0},
    {"name": 'exp "1"; it\'s \\ é'},
    {"sweep": "s"},
]


TIMES = ("created_at", "lined_at", "due_at", "not_before", "ended_at")


def of_record(store: Store, run_id: str) -> dict[str, str]:
    fields = {text(name): text(value) for name, value in store._redis.hgetall(keys.run(run_id)).items()}
    return {name: value for name, value in fields.items() if name not in TIMES}


def test_each_is_what_it_would_be_alone(store: Store) -> None:
    store.configure("queue", "paused", {"paused": "1"})
    store.configure("queue", "limited", {"limit": "1"})
    ended = news(1)
    store.create_many(ended)
    store.cancel(ended[0].run_id, reason="")
    specs = [RunSpec(command=("true",), **options) for options in SPECS]
    specs += [RunSpec(command=("true",), after=(f"{ended[0].run_id}:{wish}",)) for wish in ("any", "ok")]
    for delay_s in (0.0, 60.0):
        many = [New(new_run_id(), spec, delay_s=delay_s) for spec in specs * 2]
        answers = store.create_many(many)
        for (run_id, spec, *_), answer in zip(many, answers, strict=True):
            alone = new_run_id()
            assert store.create(alone, spec, delay_s=delay_s) == answer
            assert of_record(store, run_id) == of_record(store, alone)
            assert states(store, run_id) == states(store, alone)


def test_many_with_the_same_needs_wait_behind_those_that_wait_for_them(store: Store) -> None:
    store._redis.zadd("launch:parked:needs:2:0:0/default", {"another": 1})
    runs = news(2, RunSpec(command=("true",), gpus=2))
    store.create_many(runs)
    assert items(store) == []
    assert {store.get(run.run_id).reason for run in runs} == {"waiting for 2 GPUs"}
    store._redis.zrem("launch:parked:needs:2:0:0/default", "another")


def test_groups_of_queues_are_refused_apart(store: Store) -> None:
    store.configure("queue", "set", {"config": '{"retries": 1}'})
    first, second, third = PLAIN, RunSpec(command=("true",), queue="set"), RunSpec(command=("true",), queue="other")
    runs = [New(new_run_id(), spec) for spec in (first, second, second, third, first, second)]
    answers = store.create_many(runs)
    assert [isinstance(answer, ConfigChanged) for answer in answers] == [False, True, True, False, False, True]
    assert [run_id for run_id, _ in items(store)] == [runs[0].run_id, runs[4].run_id]


def test_a_script_that_the_server_has_forgotten_is_loaded_again_amid_many(store: Store) -> None:
    runs = news(300)

    def batches() -> Iterator[list[New]]:
        for start in range(0, 300, 50):
            if start in (0, 150):
                store._redis.script_flush()
            yield runs[start : start + 50]

    answers = [answer for batch in store.create_batches(batches()) for answer in batch]
    assert len(answers) == 300
    assert {isinstance(answer, Created) for answer in answers} == {True}
    assert {run_id for run_id, _ in items(store)} == set(ids(runs))


def test_who_stops_asking_leaves_a_connection_that_can_be_used(store: Store) -> None:
    told = store.create_batches([news(5), news(5), news(5)])
    assert next(told) == [Created(True, 0)] * 5
    told.close()  # type: ignore[attr-defined]
    assert store.create_many(news(2)) == [Created(True, 0)] * 2


def test_a_damaged_index_is_told_and_the_next_ones_are_created(store: Store) -> None:
    index = keys.runs_by("project", "me/iris")
    store._redis.set(index, "x")
    runs = news(2, RunSpec(command=("true",), project="me/iris"))
    assert {type(answer) for answer in store.create_many(runs)} == {DamagedError}
    assert store.create_many(news(1)) == [Created(True, 0)]
    store._redis.flushall()


def test_a_full_redis_is_told_for_each(store: Store) -> None:
    store.create_many(news(1))
    store._redis.config_set("maxmemory", "1")
    try:
        answers = store.create_many(news(3))
        with pytest.raises(BrokerUnavailableError, match="is full"):
            store.create(new_run_id(), PLAIN)
    finally:
        store._redis.config_set("maxmemory", "0")
    assert {type(answer) for answer in answers} == {BrokerUnavailableError}
    assert len(items(store)) == 1


def test_what_was_sent_before_a_refusal_is_told_before_it(api: Api, store: Store) -> None:
    wrong = Item({"command": ("true",), "after": (new_run_id(),)}, where="jobs.jsonl:151")
    jobs = [Item({"command": ("true",)}) for _ in range(400)]
    jobs[150] = wrong
    told: list[str] = []
    with pytest.raises(InputError, match=r"^jobs.jsonl:151: there is no run"):
        told.extend(run.id for run, _ in api.submit_items(jobs))
    assert told == [run_id for run_id, _ in items(store)]
    # The batch that has it, and the one that was sent by then.
    assert len(told) == 299


def test_what_a_wrong_item_follows_is_sent_and_told(api: Api, store: Store) -> None:
    def jobs() -> Iterator[Item]:
        yield from (Item({"command": ("true",)}) for _ in range(120))
        yield Item({"command": ()}, where="x:121")

    told: list[str] = []
    with pytest.raises(InputError, match=r"^x:121: the command is empty"):
        told.extend(run.id for run, _ in api.submit_items(jobs()))
    assert told == [run_id for run_id, _ in items(store)]
    assert len(told) == 120


def test_a_queue_that_was_configured_meanwhile_gives_its_defaults_to_all(api: Api, store: Store) -> None:
    jobs = [Item({"command": ("true",)}) for _ in range(250)]
    submitted = api.submit_items(jobs)
    next(submitted)
    store.configure("queue", "default", {"config": '{"defaults": {"retries": 2}}'})
    rest = [run for run, _ in submitted]
    assert len(rest) == 249
    assert len(items(store)) == 250
    assert '"retries":2' in rest[-1].record.spec


def test_an_outage_amid_many_is_one_sentence(store: Store) -> None:
    server = RedisServer()
    server.start()
    api = Api(settings=Settings.from_env({}, redis_url=server.url))
    submitted = api.submit_items(Item({"command": ("true",)}) for _ in range(1000))
    told = [next(submitted) for _ in range(150)]
    server.kill()
    with pytest.raises(BrokerUnavailableError):
        told.extend(submitted)
    assert len(told) < 1000
    server.stop()


def test_submit_many_returns_the_runs_in_order(api: Api, store: Store) -> None:
    jobs: list[dict[str, Any]] = [{"command": ["true"], "name": f"job{number}"} for number in range(230)]
    jobs[100] = {"command": ["true"], "array": "0-2", "name": "many"}
    runs = submit_many(jobs, api=api)
    names = [job["name"] for job in jobs]
    assert [run.name for run in runs] == [*names[:100], "many", "many", "many", *names[101:]]
    assert [run_id for run_id, _ in items(store)] == [run.id for run in runs]
    assert {run.state for run in runs[:3]} == {RunState.PENDING}


def test_the_history_begins_with_its_creation_though_that_is_not_written(store: Store) -> None:
    [run] = news(1)
    store.create_many([run])
    assert store._redis.exists(keys.history(run.run_id)) == 0
    [begin] = store.history(run.run_id)
    assert (begin.state, begin.at, begin.attempt) == (RunState.PENDING, store.get(run.run_id).created_at, 0)
    alone = new_run_id()
    store.create(alone, PLAIN, reason="schedule nightly")
    assert [step.reason for step in store.history(alone)] == ["schedule nightly"]
