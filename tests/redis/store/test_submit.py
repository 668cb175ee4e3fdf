"""Many runs at once are what each of them would be alone, in their order, whatever becomes of the others."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from launch_worker.api.client import Api, Run, submit, submit_many
from launch_worker.dev.redis_server import RedisServer
from launch_worker.errors import (
    BrokerUnavailableError,
    DamagedError,
    InputError,
    LaunchError,
    RedisFullError,
    UnknownRunError,
)
from launch_worker.ids import new_run_id
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.redis.client import text
from launch_worker.store.redis.wire import Wire
from launch_worker.store.store import Store
from launch_worker.store.submit import ConfigChanged, Created, Creator, New
from launch_worker.submission.options import Item
from tests.support.arrows import create_many, items, states
from tests.support.redis_client import redis_of

PLAIN = RunSpec(command=("true",))


@pytest.fixture(params=["redis-py", "wire"])
def creator(request: pytest.FixtureRequest, store: Store, redis_client: Any) -> Iterator[Creator]:
    """What creates runs, with redis-py and without."""
    store.create(new_run_id(), PLAIN)  # loads the script
    redis_client.flushall()
    made = Creator(store.url, is_quick=request.param == "wire")
    yield made
    made.close()


def news(count: int, spec: RunSpec = PLAIN) -> list[New]:
    return [New(new_run_id(), spec) for _ in range(count)]


def ids(runs: Sequence[New]) -> list[str]:
    return [run.run_id for run in runs]


def test_runs_of_one_call_keep_their_order_everywhere(store: Store, creator: Creator) -> None:
    runs = news(250)
    random.Random(1).shuffle(runs)
    assert create_many(creator, runs) == [Created(True, 0)] * 250
    assert [run_id for run_id, _ in items(store)] == ids(runs)
    assert [record.id for record in store.runs(newest_first=False)] == ids(runs)
    assert [record.id for record in store.line("default", limit=1000)] == ids(runs)
    later = news(1)
    create_many(creator, later)
    assert next(iter(store.runs())).id == later[0].run_id


def test_an_id_that_comes_twice_in_one_call_is_one_run(store: Store, creator: Creator) -> None:
    [run] = news(1)
    assert create_many(creator, [run, run]) == [Created(True, 0), Created(False, 0)]
    assert items(store) == [(run.run_id, 1)]


def test_a_repeated_call_changes_nothing(store: Store, redis_client: Any, creator: Creator) -> None:
    runs = news(3)
    create_many(creator, runs)
    before = [redis_client.dump(key) for key in sorted(redis_client.keys("*"))]
    assert create_many(creator, runs) == [Created(False, 0)] * 3
    assert [redis_client.dump(key) for key in sorted(redis_client.keys("*"))] == before


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
    fields = {text(name): text(value) for name, value in redis_of(store.url).hgetall(keys.run(run_id)).items()}
    return {name: value for name, value in fields.items() if name not in TIMES}


def test_each_is_what_it_would_be_alone(store: Store, creator: Creator) -> None:
    store.configure("queue", "paused", {"paused": "1"})
    store.configure("queue", "limited", {"limit": "1"})
    ended = news(1)
    create_many(creator, ended)
    store.cancel(ended[0].run_id, reason="")
    specs = [RunSpec(command=("true",), **options) for options in SPECS]
    specs += [RunSpec(command=("true",), after=(f"{ended[0].run_id}:{wish}",)) for wish in ("any", "ok")]
    for delay_s in (0.0, 60.0):
        many = [New(new_run_id(), spec, delay_s=delay_s) for spec in specs * 2]
        answers = create_many(creator, many)
        for (run_id, spec, *_), answer in zip(many, answers, strict=True):
            alone = new_run_id()
            assert creator.create(alone, spec, delay_s=delay_s) == answer
            assert of_record(store, run_id) == of_record(store, alone)
            assert states(store, run_id) == states(store, alone)


def test_many_with_the_same_needs_wait_behind_those_that_wait_for_them(
    store: Store, redis_client: Any, creator: Creator
) -> None:
    redis_client.zadd("launch:parked:needs:2:0:0/default", {"another": 1})
    runs = news(2, RunSpec(command=("true",), gpus=2))
    create_many(creator, runs)
    assert items(store) == []
    assert {store.get(run.run_id).reason for run in runs} == {"waiting for 2 GPUs"}
    redis_client.zrem("launch:parked:needs:2:0:0/default", "another")


def test_groups_of_queues_are_refused_apart(store: Store, creator: Creator) -> None:
    store.configure("queue", "set", {"config": '{"retries": 1}'})
    first, second, third = PLAIN, RunSpec(command=("true",), queue="set"), RunSpec(command=("true",), queue="other")
    runs = [New(new_run_id(), spec) for spec in (first, second, second, third, first, second)]
    answers = create_many(creator, runs)
    assert [isinstance(answer, ConfigChanged) for answer in answers] == [False, True, True, False, False, True]
    assert [run_id for run_id, _ in items(store)] == [runs[0].run_id, runs[4].run_id]


def test_a_script_that_the_server_has_forgotten_is_loaded_again_amid_many(
    store: Store, redis_client: Any, creator: Creator
) -> None:
    runs = news(300)

    def batches() -> Iterator[list[New]]:
        for start in range(0, 300, 50):
            if start in (0, 150):
                redis_client.function_flush()
            yield runs[start : start + 50]

    answers = [answer for batch in creator.create_batches(batches()) for answer in batch]
    assert len(answers) == 300
    assert {isinstance(answer, Created) for answer in answers} == {True}
    assert ("_redis" in creator.__dict__) is not isinstance(creator._transport, Wire)
    assert {run_id for run_id, _ in items(store)} == set(ids(runs))


def test_who_stops_asking_leaves_a_connection_that_can_be_used(store: Store, creator: Creator) -> None:
    told = creator.create_batches([news(5), news(5), news(5)])
    assert next(told) == [Created(True, 0)] * 5
    told.close()  # type: ignore[attr-defined]
    assert create_many(creator, news(2)) == [Created(True, 0)] * 2


def test_a_damaged_index_is_set_aside_and_keeps_no_run_from_its_queue(
    store: Store, redis_client: Any, creator: Creator
) -> None:
    index = keys.runs_by("project", "me/iris")
    redis_client.set(index, "x")
    runs = [*news(2, RunSpec(command=("true",), project="me/iris")), *news(1)]
    assert create_many(creator, runs) == [Created(True, 0)] * 3
    assert [run_id for run_id, _ in items(store)] == ids(runs)
    assert [refused["reason"].partition(";")[0] for refused in store.refused()] == ["an index held a string"]


@pytest.mark.parametrize("is_quick", [True, False])
def test_an_error_amid_a_script_is_told_and_not_taken_for_a_repeated_call(
    store: Store, redis_client: Any, is_quick: bool
) -> None:
    create_many(store, news(1))
    redis_client.set("launch:consumers:other", "x")
    creator = Creator(store.url, is_quick=is_quick)
    runs = news(2, RunSpec(command=("true",), queue="other"))
    assert {type(answer) for answer in create_many(creator, runs)} == {DamagedError}
    with pytest.raises(DamagedError, match="WRONGTYPE"):
        creator.create(new_run_id(), RunSpec(command=("true",), queue="other"))
    assert create_many(creator, news(1)) == [Created(True, 0)]
    redis_client.delete("launch:consumers:other")
    creator.close()


def test_a_full_redis_is_told_for_each(store: Store, redis_client: Any, creator: Creator) -> None:
    create_many(creator, news(1))
    redis_client.config_set("maxmemory", "1")
    try:
        answers = create_many(creator, news(3))
        with pytest.raises(RedisFullError, match="is full"):
            store.create(new_run_id(), PLAIN)
    finally:
        redis_client.config_set("maxmemory", "0")
    assert {type(answer) for answer in answers} == {RedisFullError}
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


def test_the_history_begins_with_its_creation_though_that_is_not_written(
    store: Store, redis_client: Any, creator: Creator
) -> None:
    [run] = news(1)
    create_many(creator, [run])
    assert redis_client.exists(keys.history(run.run_id)) == 0
    [begin] = store.history(run.run_id)
    assert (begin.state, begin.at, begin.attempt) == (RunState.PENDING, store.get(run.run_id).created_at, 0)
    alone = new_run_id()
    store.create(alone, PLAIN, reason="schedule nightly")
    assert [step.reason for step in store.history(alone)] == ["schedule nightly"]


# -- without redis-py --------------------------------------------------------------------------------------------------


def test_others_may_be_asked_between_batches(store: Store) -> None:
    store.create(new_run_id(), PLAIN)
    quick = Creator(store.url, is_quick=True)
    store.configure("queue", "default", {"limit": "5"})
    told = quick.create_batches([news(100) for _ in range(6)])
    for count, answers in enumerate(told):
        assert answers == [Created(True, 0)] * 100
        assert quick.workers() == []
        assert quick.queue_names() == ["default"]
        assert quick.settings_of("queue", "default") == {"limit": "5"}
        assert not quick.exists("a") if count % 2 else True
    assert "_redis" not in quick.__dict__
    assert isinstance(quick._transport, Wire)
    quick.close()


def test_a_login_and_a_database_are_given(store: Store, redis_client: Any) -> None:
    """The tests' server has a password."""
    url = store.url.removesuffix("/0") + "/3"
    whole, quick = Store(url), Creator(url, is_quick=True)
    whole.create(new_run_id(), PLAIN)
    run_id = new_run_id()
    quick.create(run_id, PLAIN)
    assert whole.get(run_id).state is RunState.PENDING
    assert store.peek(run_id) is None
    assert "launch" in {client["name"] for client in redis_client.client_list()}
    assert "_redis" not in quick.__dict__
    redis_of(url).flushdb()
    whole.close()
    quick.close()


@pytest.mark.parametrize("change", [(":", ":wrong"), ("/0", "/99"), ("127.0.0.1:", "127.0.0.1:1")])
def test_what_goes_wrong_is_said_as_by_redis_py(store: Store, change: tuple[str, str]) -> None:
    url = store.url.replace(*change) if change[0] != ":" else store.url.replace("//:", "//:wrong")
    said = []
    for is_quick in (True, False):
        with pytest.raises(LaunchError) as caught:
            Creator(url, is_quick=is_quick).create(new_run_id(), PLAIN)
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]


def test_a_server_that_does_not_answer_is_given_up_within_five_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        quick = Creator(f"redis://127.0.0.1:{port}/0", is_quick=True)
        began = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match="did not answer in time"):
            quick.create(new_run_id(), PLAIN)
        # Five seconds on a machine that is not stalled; a client without timeouts waits for ever.
        assert time.monotonic() - began < 20


def test_a_connection_that_breaks_amid_many_loses_none_and_doubles_none(store: Store, redis_client: Any) -> None:
    store.create(new_run_id(), PLAIN)
    quick = Creator(store.url, is_quick=True)
    runs = news(1000)

    def batches() -> Iterator[list[New]]:
        for start in range(0, 1000, 100):
            if start in (300, 600):
                for client in redis_client.client_list(_type="normal"):
                    if client["cmd"] != "client|list":
                        redis_client.client_kill_filter(_id=client["id"])
            yield runs[start : start + 100]

    try:
        answers = [answer for batch in quick.create_batches(batches()) for answer in batch]
    except BrokerUnavailableError:
        # redis-py's connection was cut: nobody says what became of the last ones.
        answers = []
    assert all(isinstance(answer, Created) for answer in answers)
    created = [run_id for run_id, _ in items(store)]
    assert len(created) == len(set(created))
    quick.close()


@pytest.mark.parametrize(
    ("url", "is_plain"),
    [
        ("redis://localhost:6379/0", True),
        ("redis://:secret@127.0.0.1/2", True),
        ("redis://user:p%40ss@[::1]:6380", True),
        ("rediss://localhost:6379/0", False),
        ("sentinel://a:1,b:2/mymaster/0", False),
    ],
)
def test_only_plain_urls_do_without_redis_py(url: str, is_plain: bool) -> None:
    assert Wire.fits(url) is is_plain


# -- once only ---------------------------------------------------------------------------------------------------------


def test_a_run_with_a_chosen_id_is_submitted_once(api: Api) -> None:
    run_id = new_run_id()
    first = api.submit({"command": ("true",)}, run_id=run_id)
    again = api.submit({"command": ("other",)}, run_id=run_id)
    assert (first.id, first.is_new, again.id, again.is_new) == (run_id, True, run_id, False)
    assert api.store.counts()[RunState.PENDING] == 1
    assert "true" in again.record.spec


@pytest.mark.parametrize("run_id", ["../../../x", "a\nb", "r", "0" * 16, "launch:run:x"])
def test_an_id_that_is_none_is_refused_at_every_door(api: Api, run_id: str) -> None:
    with pytest.raises(InputError, match="15 characters"):
        api.submit({"command": ("true",)}, run_id=run_id)
    with pytest.raises(InputError, match="15 characters"):
        submit(["true"], run_id=run_id, api=api)
    run = Run(api, run_id)
    for call in (lambda: api.run(run_id.rpartition("/")[2]), run.cancel, run.retry, run.delete):
        with pytest.raises(UnknownRunError, match="15 characters"):
            call()
    assert redis_of(api.store.url).keys("*") == []


def test_another_keys_name_is_no_run(api: Api) -> None:
    run = api.submit({"command": ("true",)})
    api.store.save_file(run.id, "state", b"Finished")
    with pytest.raises(UnknownRunError):
        api.run(f"{run.id}:files")


def test_a_run_is_unique_by_its_key_and_user(api: Api) -> None:
    first = submit(["true"], unique="nightly 2026-01-01", api=api)
    again = submit(["other"], unique="nightly 2026-01-01", api=api)
    assert (first.is_new, again.is_new, again.id) == (True, False, first.id)
    assert submit(["true"], unique="nightly 2026-01-02", api=api).is_new


def test_an_array_is_unique_by_its_key(api: Api) -> None:
    first = submit_many([{"command": ["true"], "array": "0-4", "unique": "k"}], api=api)
    again = submit_many([{"command": ["true"], "array": "0-4", "unique": "k"}], api=api)
    assert [run.id for run in again] == [run.id for run in first]
    assert len({run.id for run in first}) == 5
    assert not any(run.is_new for run in again)
    assert {run.record.array for run in first} == {first[0].id}


def test_the_id_of_an_array_is_that_of_its_first_run(api: Api) -> None:
    item = {"command": ["true"], "array": "1-9:2", "id": new_run_id()}
    first, again = submit_many([item], api=api), submit_many([item], api=api)
    assert first[0].id == item["id"]
    assert [run.id for run in first] == [run.id for run in again] == sorted({run.id for run in first})
    assert ([run.is_new for run in first], [run.is_new for run in again]) == ([True] * 5, [False] * 5)
    assert api.group(f"a{item['id']}").record.counts["Pending"] == 5


def test_an_id_goes_with_no_key(api: Api) -> None:
    with pytest.raises(InputError, match="leave out one of them"):
        submit_many([{"command": ["true"], "id": new_run_id(), "unique": "k"}], api=api)
