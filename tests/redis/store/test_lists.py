"""Lists of runs, their deletion, the files kept with them, and items of newer formats: on a real Redis."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from launch_worker.api.client import Api, Run
from launch_worker.errors import InputError, RefusedError, UnknownRunError
from launch_worker.ids import new_run_id
from launch_worker.model import item_schema
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.store import files as kept
from launch_worker.store import keys
from launch_worker.store.redis.client import text
from launch_worker.store.store import Store
from tests.support.arrows import (
    CRASHED,
    DEFAULT_LIST,
    FAILED,
    FAILED_AGAIN,
    FINISHED,
    beat,
    claim,
    crash,
    create,
    items,
    make_due,
    running,
    seq_of,
    states,
    try_claim,
)
from tests.support.redis_client import redis_of
from tests.support.workers import Worker

S = RunState
#: Version of an item that only newer workers read, and the reason of a run with one.
NEXT = item_schema.VERSION + 1
WAITING = f"waiting for a worker that reads items of version {NEXT}"


class Newer(Worker):
    """A worker whose code reads items of the next version."""

    def free(self, slots: int) -> Any:
        return replace(super().free(slots), version=NEXT)

    def take(self) -> Any:
        found = self.store.take(self.lists, before_us=self.store.now_us() + 10**9)
        if found is None or len(self.jobs) >= self.slots:
            return None
        record, why = self.store.claim(
            *found,
            owner=self.owner,
            worker=self.owner,
            host="h",
            lease_s=30.0,
            free=self.free(self.slots - len(self.jobs) - 1),
            version=NEXT,
        )
        if record is not None:
            self.jobs[record.id] = record
        return record or why


def newer_run(store: Store, monkeypatch: pytest.MonkeyPatch, **options: Any) -> str:
    """A run that a producer of the next version submits."""
    with monkeypatch.context() as patch:
        patch.setattr(item_schema, "version_of", lambda _: NEXT)
        return create(store, **options)


def ids(runs: Any) -> list[str]:
    return [run.id for run in runs]


@pytest.fixture
def api(api: Api) -> Api:
    """One that is connected: a first connection takes commands of its own, and tests here count them."""
    api.store.ping()
    return api


def commands(store: Store) -> int:
    """How many commands the server has executed so far."""
    return int(redis_of(store.url).info("stats")["total_commands_processed"])


def told(store: Store, run_id: str, **summary: Any) -> str:
    redis_of(store.url).hset(keys.run(run_id), "summary", json.dumps(summary))
    return run_id


# -- lists -------------------------------------------------------------------------------------------------------------


def test_runs_are_read_page_by_page_as_they_are_taken(store: Store, api: Api) -> None:
    made = [create(store, project="me/iris") for _ in range(25)]
    create(store, project="me/other")
    runs = api.runs("me/iris", per_page=10)
    before = commands(store)
    assert len(runs) == 25
    assert commands(store) - before <= 2, "the length is an index's, not a count of what was read"
    before = commands(store)
    assert runs[0].id == made[-1]
    assert 10 <= commands(store) - before <= 20, "one page"
    assert ids(runs[3:6]) == made[::-1][3:6]
    assert ids(runs) == made[::-1]
    before = commands(store)
    assert [run.state for run in runs] == [S.PENDING] * 25
    assert ids(runs) == made[::-1]
    assert runs[-1].id == made[0]
    assert len(runs) == 25
    assert commands(store) - before <= 1, "what was read is not read again"


def test_runs_that_are_too_old_for_the_filter_are_not_read(
    store: Store, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch_worker.api.listing._SCAN_PAGE", 2)
    made = [create(store) for _ in range(40)]
    since = store.get(made[-3]).created_at / 1e6
    wanted = {"$and": [{"created_at": {"$gte": since}}, {"$or": [{"attempt": 0}, {"created_at": {"$gt": since + 9}}]}]}
    runs = api.runs(filters=wanted, per_page=2)
    before = commands(store)
    assert ids(runs) == made[:-4:-1]
    assert commands(store) - before <= 20
    assert ids(api.runs(filters=wanted, order="+created_at")) == made[-3:]


@pytest.mark.parametrize("per_page", [1, 2, 7, 100])
@pytest.mark.parametrize("order", ["-created_at", "+created_at"])
def test_every_run_comes_once_in_the_order_of_its_creation(
    store: Store, redis_client: Any, api: Api, per_page: int, order: str
) -> None:
    made = [create(store) for _ in range(7)]
    # Some of the same instant.
    for run_id in made[2:6]:
        score = redis_client.zscore(keys.RUNS, made[2])
        redis_client.hset(keys.run(run_id), "created_at", int(score))
        for index in (keys.RUNS, keys.runs_by("state", "Pending"), keys.runs_by("queue", "default")):
            redis_client.zadd(index, {run_id: score})
    found = ids(api.runs(order=order, per_page=per_page))
    assert sorted(found) == sorted(made)
    assert [found[0], found[-1]] == ([made[6], made[0]] if order[0] == "-" else [made[0], made[6]])


def test_runs_of_several_states_come_from_their_indexes_in_one_order(store: Store, api: Api) -> None:
    ended = running(store)
    store.finish(ended, FINISHED)
    waiting = create(store)
    failed = claim(store, create(store))
    store.finish(failed, FAILED)
    active = running(store)
    store.cancel(waiting, reason="stop")
    other = create(store)
    runs = api.runs(filters={"state": {"$in": ["failed", "FINISHED", "pending"]}})
    assert len(runs) == 3
    assert ids(runs) == [other, failed.id, ended.id]
    assert ids(api.runs(filters={"state": {"$ne": "pending"}})) == [active.id, failed.id, waiting, ended.id]


def test_a_list_goes_through_the_smallest_index(store: Store, api: Api) -> None:
    for _ in range(30):
        create(store, queue="big", project="me/iris")
    run_id = create(store, queue="small", project="me/iris")
    runs = api.runs("me/iris", filters={"queue": "small"})
    before = commands(store)
    assert ids(runs) == [run_id]
    assert commands(store) - before <= 5


def test_runs_of_a_sweep_are_listed(store: Store, api: Api) -> None:
    run_id = create(store, sweep="s1")
    create(store)
    runs = api.runs(filters={"sweep": "s1"})
    assert len(runs) == 1
    assert ids(runs) == [run_id]
    assert runs[0].sweep == "s1"
    claimed = claim(store, run_id)
    store.finish(claimed, FINISHED)
    store.retire(retention_s=-1)
    assert len(api.runs(filters={"sweep": "s1"})) == 0


def test_runs_are_sorted_by_what_jobs_told(store: Store, api: Api) -> None:
    losses = {0.5: create(store), 0.1: create(store), 0.3: create(store)}
    for loss, run_id in losses.items():
        told(store, run_id, loss=loss)
    silent = create(store)
    assert ids(api.runs(order="+summary.loss", per_page=2)) == [losses[0.1], losses[0.3], losses[0.5], silent]
    assert ids(api.runs(order="-summary_metrics.loss")) == [losses[0.5], losses[0.3], losses[0.1], silent]
    best = api.runs(filters={"summary.loss": {"$lt": 0.4}}, order="+summary.loss")
    assert (len(best), best[0].id, best[0].summary) == (2, losses[0.1], {"loss": 0.1})


def test_runs_are_filtered_and_sorted_by_their_config(store: Store, api: Api) -> None:
    small, large = create(store, config={"lr": 0.01}), create(store, config={"lr": 0.1, "tags": ["x"]})
    assert ids(api.runs(filters={"config.lr": {"$gt": 0.05}})) == [large]
    assert ids(api.runs(order="+config.lr")) == [small, large]
    assert api.runs(order="-config.lr")[0].config == {"lr": 0.1, "tags": ["x"]}


def test_a_listed_run_stays_as_it_was_until_its_update(store: Store, api: Api) -> None:
    run_id = create(store)
    (run,) = api.runs()
    claim(store, run_id)
    assert (run.state, run.state.value, str(run.state)) == (S.PENDING, "Pending", "Pending")
    run.update()
    assert [run.state] == [S.RUNNING]
    assert api.run(run_id).state is S.RUNNING


def test_an_open_list_goes_on_while_runs_come(store: Store, api: Api) -> None:
    made = [create(store) for _ in range(6)]
    runs = api.runs(per_page=2)
    assert runs[0].id == made[-1]
    create(store)
    assert ids(runs) == made[::-1]
    runs.update()
    assert len(ids(runs)) == 7


def test_a_list_that_is_empty_or_too_short_behaves_as_a_sequence(store: Store, api: Api) -> None:
    assert not api.runs()
    assert list(api.runs("me/none")) == []
    assert len(api.runs("me/none")) == 0
    run_id = create(store)
    runs = api.runs()
    assert runs
    assert Run(api, run_id) in runs
    assert ids(runs[5:9]) == []
    assert ids(runs[-1:]) == [run_id]
    with pytest.raises(IndexError):
        runs[1]
    with pytest.raises(IndexError):
        runs[-2]


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "<entity>/<project>"},
        {"path": "a/b/c"},
        {"path": ""},
        {"filters": {"no": 1}},
        {"order": "no"},
        {"per_page": 0},
        {"per_page": 1001},
        {"per_page": True},
    ],
)
def test_what_makes_no_list_is_refused_before_anything_is_read(api: Api, arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        api.runs(**arguments)


def test_a_run_is_found_by_its_path(store: Store, api: Api) -> None:
    run_id = create(store, project="me/iris")
    run = api.run(f"me/iris/{run_id}")
    assert (run.id, run.path, run.entity, run.project) == (run_id, ["me", "iris", run_id], "me", "me/iris")
    assert api.run("/".join(run.path)) == run
    assert api.run(f"iris/{run_id}") == run
    with pytest.raises(UnknownRunError, match="it is in project 'me/iris'"):
        api.run(f"me/other/{run_id}")
    bare = create(store)
    assert api.run(bare).path == [bare]
    with pytest.raises(UnknownRunError, match="no project"):
        api.run(f"me/iris/{bare}")


# -- metrics and files -------------------------------------------------------------------------------------------------


def test_history_is_the_rows_that_the_job_told(store: Store, redis_client: Any, api: Api) -> None:
    run = api.run(create(store))
    for step in range(100):
        row = {"_step": step, "loss": 1 / (step + 1)} | ({"accuracy": step} if step % 2 else {})
        redis_client.rpush(keys.metrics(run.id), json.dumps(row))
    assert [row["_step"] for row in run.metrics()] == list(range(100))
    assert run.history(samples=3) == [run.metrics()[0], run.metrics()[50], run.metrics()[99]]
    rows = run.history(keys=["accuracy"])
    assert (len(rows), rows[0]) == (50, {"_step": 1, "accuracy": 1})
    assert run.history(samples=1)[0]["_step"] == 0


def test_files_are_kept_with_a_run(store: Store, api: Api, tmp_path: Any) -> None:
    run = api.run(create(store))
    assert run.files() == []
    assert store.save_file(run.id, "engine.log", b"\x00\xff no such image")
    assert store.save_file(run.id, "a.txt", b"1")
    assert store.save_file(run.id, "a.txt", b"22")
    assert [(file.name, file.size) for file in run.files()] == [("a.txt", 2), ("engine.log", 16)]
    assert run.file("engine.log").read() == b"\x00\xff no such image"
    path = run.file("a.txt").download(tmp_path / "new")
    assert path.read_bytes() == b"22"
    assert run.file("a.txt").download(tmp_path / "new") == path
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"has a\.txt already"):
        run.file("a.txt").download(tmp_path / "new")
    assert run.file("a.txt").download(tmp_path / "new", replace=True) == path
    with pytest.raises(InputError, match=r"there are: a\.txt, engine\.log"):
        run.file("other")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "-x", "a/b", "/etc/passwd", "a\nb", "x" * 201, "é"])
def test_a_file_cannot_leave_its_folder(store: Store, name: str) -> None:
    run_id = create(store)
    with pytest.raises(InputError, match="no name for a file"):
        store.save_file(run_id, name, b"")


def test_what_is_kept_of_files_is_bounded(store: Store, api: Api) -> None:
    run_id = create(store)
    with pytest.raises(InputError, match="at most 1,048,576"):
        store.save_file(run_id, "big", b"x" * (kept.MAX_FILE_BYTES + 1))
    large = b"x" * kept.MAX_FILE_BYTES
    assert [store.save_file(run_id, f"f{number}", large) for number in range(9)] == [True] * 8 + [False]
    assert store.save_file(run_id, "f0", b"") is True
    assert store.save_file(run_id, "f8", large) is True
    assert [store.save_file(run_id, f"g{number}", b"") for number in range(60)].count(True) == kept.MAX_FILES - 9
    assert len(api.run(run_id).files()) == kept.MAX_FILES
    with pytest.raises(UnknownRunError):
        store.save_file(new_run_id(), "a", b"")


# -- deletion ----------------------------------------------------------------------------------------------------------


def test_a_deleted_pending_run_is_never_executed_and_a_look_up_says_so(store: Store, api: Api) -> None:
    """W15."""
    run = api.run(create(store, project="me/iris", sweep="s1"))
    seq = seq_of(store, run.id)
    run.delete()
    assert try_claim(store, run.id, seq=seq) == (None, "there is no such run")
    for look_up in (
        run.update,
        run.wait,
        run.cancel,
        run.retry,
        lambda: api.run(f"me/iris/{run.id}"),
        lambda: run.state,
    ):
        with pytest.raises(UnknownRunError, match=f"run {run.id} was deleted by .+ at 20"):
            look_up()
    assert list(api.runs()) == []
    assert len(api.runs("me/iris")) == len(api.runs(filters={"sweep": "s1"})) == 0
    run.delete()


def test_nothing_but_the_mark_stays_of_a_deleted_run(store: Store, redis_client: Any, api: Api) -> None:
    record = running(store, project="me/iris")
    store.append_log(record.id, record.attempt, b"hello", offset=0)
    store.save_file(record.id, "a", b"1")
    redis_client.rpush(keys.metrics(record.id), "{}")
    store.finish(record, FINISHED)
    api.run(record.id).delete()
    left = [text(key) for key in redis_client.keys(f"*{record.id}*")]
    assert left == [keys.deleted(record.id)]
    assert 0 < redis_client.ttl(keys.deleted(record.id)) <= api.settings.retention_s


def test_a_running_run_is_not_deleted(store: Store, api: Api) -> None:
    record = running(store)
    run = api.run(record.id)
    with pytest.raises(RefusedError, match="is Running; stop it first"):
        run.delete()
    assert run.state is S.RUNNING
    store.finish(record, FAILED)
    run.delete()
    with pytest.raises(UnknownRunError, match="deleted"):
        run.update()


def test_a_run_that_was_never_there_is_not_deleted(api: Api) -> None:
    with pytest.raises(UnknownRunError, match="there is no run"):
        Run(api, new_run_id()).delete()


@pytest.mark.parametrize("wish", ["ok", "any", "failed"])
def test_who_waits_for_a_deleted_run_hears_how_it_ended(store: Store, redis_client: Any, api: Api, wish: str) -> None:
    first = create(store)
    waiting = create(store, after=(f"{first}:{wish}",))
    Run(api, first).delete()
    # It never ran.
    assert store.get(waiting).state is (S.PENDING if wish == "any" else S.KILLED)
    assert not redis_client.exists(f"launch:waiters:{first}")


def test_many_waiters_of_a_deleted_run_are_all_told(store: Store, api: Api) -> None:
    first = create(store)
    waiting = [create(store, after=(first,)) for _ in range(450)]
    Run(api, first).delete()
    assert {store.get(run_id).state for run_id in waiting} == {S.KILLED}


@pytest.mark.parametrize("way", ["delayed", "parked"])
def test_a_run_that_waits_elsewhere_is_deleted_too(store: Store, api: Api, way: str) -> None:
    store.configure("queue", "default", {"limit": "1"})
    running(store)
    run_id = create(store, delay_s=60.0 if way == "delayed" else 0.0)
    if way == "parked":
        assert try_claim(store, run_id)[1] == "limit 1 of queue default reached"
    Run(api, run_id).delete()
    assert store.publish_due()[:2] == (0, 0)


def test_a_worker_that_was_silent_does_not_bring_a_deleted_run_back(store: Store, api: Api) -> None:
    record = running(store)
    crash(store, record, CRASHED)
    api.run(record.id).delete()
    assert [answer.word for answer in beat(store, record)] == ["superseded"]
    assert store.restore(record, lease_s=30.0, owner="owner1") is False
    assert store.finish(record, FINISHED) is False
    assert store.peek(record.id) is None
    assert store.create(record.id, RunSpec(command=("true",))).is_new is False
    assert store.peek(record.id) is None


# -- items of newer formats --------------------------------------------------------------------------------------------


def test_a_record_carries_the_version_of_its_item(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.get(create(store)).version == 1
    record = store.get(newer_run(store, monkeypatch))
    assert (record.version, record.as_json()["item_version"]) == (NEXT, NEXT)


def test_an_older_worker_leaves_a_newer_item_pending_with_the_reason(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = newer_run(store, monkeypatch)
    behind = create(store)
    older = Worker(store)
    assert older.take() == f"{WAITING}; this one reads them up to version {item_schema.VERSION}"
    record = store.get(run_id)
    assert (record.state, record.attempt) == (S.PENDING, 0)
    assert record.reason == WAITING
    assert states(store, run_id) == [S.PENDING]
    assert older.work() == [behind]


def test_an_older_worker_does_not_spin_on_a_newer_item(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = newer_run(store, monkeypatch)
    older = Worker(store)
    older.work()
    for _ in range(5):
        older.beat()
        done = create(store)
        assert older.work() == [done]
        older.end(done)
        store.publish_due()
        store.publish_lost(grace_s=0.0)
        assert items(store) == []
    assert store.get(run_id).state is S.PENDING


def test_a_newer_worker_fetches_what_older_ones_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [newer_run(store, monkeypatch) for _ in range(3)]
    older = Worker(store)
    older.work()
    newer = Newer(store, owner="w2", slots=2)
    assert newer.work() == left[:2]
    newer.end(left[0])
    newer.beat()
    assert newer.work() == [left[2]]
    assert older.work() == []


def test_when_all_workers_are_newer_what_was_left_goes_back_into_line(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [newer_run(store, monkeypatch) for _ in range(5)]
    older = Worker(store)
    older.work()
    store.goodbye(older.owner, queues=["default"])
    Newer(store, owner="w2", slots=1)
    assert [run_id for run_id, _ in items(store)] == left


def test_a_newer_worker_takes_older_items(store: Store, redis_client: Any) -> None:
    """Also those of before versions were written down."""
    run_id = create(store)
    unversioned = create(store)
    redis_client.hdel(keys.run(unversioned), "version")
    newer = Newer(store)
    assert newer.work() == [run_id, unversioned]
    assert store.get(unversioned).version == 1


def test_a_newer_item_that_needs_gpus_waits_for_a_newer_worker_that_has_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = newer_run(store, monkeypatch, gpus=1)
    older = Worker(store, gpus=2)
    older.work()
    Newer(store, owner="w2")
    for _ in range(3):
        older.beat()
        assert older.work() == []
    assert store.get(run_id).reason == WAITING
    able = Newer(store, owner="w3", gpus=1)
    assert items(store, keys.direct_queue("w3")) == [(run_id, seq_of(store, run_id))]
    assert able.queues == ("default",)


def test_a_limit_holds_for_newer_items_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.configure("queue", "default", {"limit": "1"})
    left = [newer_run(store, monkeypatch) for _ in range(2)]
    older = Worker(store)
    older.work()
    newer = Newer(store, owner="w2")
    assert newer.work() == left[:1]
    newer.beat()
    assert newer.work() == []
    newer.end(left[0])
    newer.beat()
    assert newer.work() == left[1:]


def test_an_older_worker_does_not_prepare_a_newer_item_ahead_of_its_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = Worker(store, prefetch_s=120.0)
    with monkeypatch.context() as patch:
        patch.setattr(item_schema, "version_of", lambda _: NEXT)
        run_id = create(store, delay_s=60.0)
    assert store.publish_due(free=older.free(4))[0] == 0
    assert older.work() == []
    make_due(store, run_id)
    store.publish_due()
    assert older.work() == []
    assert store.get(run_id).reason == WAITING


def test_a_newer_item_that_is_left_can_be_cancelled_and_deleted(
    store: Store, redis_client: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled, deleted = newer_run(store, monkeypatch), newer_run(store, monkeypatch)
    Worker(store).work()
    assert store.cancel(cancelled, reason="no")[0] == "killed"
    Run(api, deleted).delete()
    assert not redis_client.exists(f"launch:parked:version:{NEXT}")
    assert items(store, DEFAULT_LIST) == []


def test_a_retry_by_an_older_worker_s_end_is_left_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = newer_run(store, monkeypatch)
    newer = Newer(store, slots=1)
    assert newer.work() == [run_id]
    newer.end(run_id, FAILED_AGAIN)
    older = Worker(store, owner="w2")
    assert older.work() == []
    assert store.get(run_id).state is S.PENDING
