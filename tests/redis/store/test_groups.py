"""Groups: the runs of an array, a bulk submission or a sweep, counted as they move, and what waits for their end."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from typing import Any

import pytest

from launch_worker.api.client import Api, submit_many
from launch_worker.errors import InputError, LaunchError
from launch_worker.ids import new_run_id
from launch_worker.model.group import GroupRecord
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.store import Store
from launch_worker.store.submit import Announced, Created, New
from launch_worker.sweeps.drive import advance
from tests.support.arrows import CRASHED, FAILED, FINISHED, beat, claim, crash, create, create_many
from tests.support.workers import Worker

S = RunState
SPEC = RunSpec(command=("true",))


def submit(store: Store, ids: Sequence[str], *, size: int = 0, group: str = "", **more: Any) -> str:
    """Make runs of a bulk submission of `size` runs. Returns its id."""
    group = group or f"b{ids[0]}"
    made = create_many(
        store, [New(run_id, SPEC, group=Announced(group, group, size or len(ids)), **more) for run_id in ids]
    )
    assert all(isinstance(answer, Created) for answer in made), made
    return group


def new_ids(count: int) -> list[str]:
    return [new_run_id() for _ in range(count)]


def look(store: Store, group: str) -> GroupRecord:
    found = store.group(group)
    assert found is not None
    return found


def counts(store: Store, group: str) -> dict[str, int]:
    return {kind: count for kind, count in look(store, group).counts.items() if count}


def die(redis_client: Any, store: Store, group: str) -> None:
    """The submitter of a group has said nothing for a minute."""
    assert redis_client.zadd("launch:array:open", {group: 0}, xx=True, ch=True)
    store.publish_due()


# -- counts ------------------------------------------------------------------------------------------------------------


def test_a_group_counts_its_runs_as_they_move(store: Store) -> None:
    worker = Worker(store, slots=2)
    ids = new_ids(4)
    group = submit(store, ids)
    known = look(store, group)
    assert (known.id, known.kind, known.size, known.is_over) == (group, "bulk", 4, False)
    assert counts(store, group) == {"Pending": 4}
    worker.work()
    assert counts(store, group) == {"Pending": 2, "Running": 2}
    worker.end(ids[0])
    worker.end(ids[1], FAILED)
    store.cancel(ids[2], reason="no")
    assert counts(store, group) == {"Pending": 1, "Finished": 1, "Failed": 1, "Never": 1}
    crash(store, claim(store, ids[3]))
    known = look(store, group)
    assert counts(store, group) == {"Finished": 1, "Failed": 1, "Never": 1, "Crashed": 1}
    assert known.is_over
    assert known.end == "Failed"
    assert known.ended_at is not None


def test_a_run_that_is_tried_again_ends_no_group(store: Store) -> None:
    store.want_changes()
    ids = new_ids(2)
    group = submit(store, ids)
    for _ in range(2):
        for run_id in ids:
            again = NextStep(FAILED.outcome, retry_delay_s=0.0, retry_reason="retry")
            store.finish(claim(store, run_id), again)
        assert counts(store, group) == {"Pending": 2}
        assert look(store, group).ended_at is None
    told = [change.fields["what"] for change in store.changes() if change.kind == "group"]
    assert told == ["created"]


def test_the_change_feed_tells_of_a_group_when_it_is_made_and_when_it_is_over(store: Store) -> None:
    store.want_changes()
    ids = new_ids(2)
    group = submit(store, ids)
    for run_id in ids:
        store.finish(claim(store, run_id), FINISHED)
    told = [change.fields for change in store.changes() if change.kind == "group"]
    assert [(one["id"], one["what"]) for one in told] == [(group, "created"), (group, "ended")]
    first, last = (json.loads(one["detail"]) for one in told)
    assert first == {"size": 2, "name": "true", "queue": "default", "project": ""}
    counted = {"Finished": 2, "Failed": 0, "Killed": 0, "Crashed": 0, "Never": 0}
    assert last == first | counted | {"end": "Finished"}


def test_runs_of_many_calls_are_one_group_which_is_not_over_before_the_last_one(store: Store) -> None:
    worker = Worker(store, slots=9)
    ids = new_ids(4)
    group = submit(store, ids[:2], size=4)
    then = create(store, after=(f"{group}:any",))
    assert set(worker.work()) == set(ids[:2])
    for run_id in ids[:2]:
        worker.end(run_id)
    assert counts(store, group) == {"Finished": 2, "Pending": 2}
    assert not look(store, group).is_over
    assert store.get(then).state is S.PENDING
    submit(store, ids[2:], size=4, group=group)
    assert set(worker.work()) == set(ids[2:])
    worker.end(ids[2])
    assert worker.work() == []
    worker.end(ids[3])
    assert worker.work() == [then]


def test_a_repeated_call_counts_nothing_twice(store: Store) -> None:
    ids = new_ids(3)
    for _ in range(2):
        group = submit(store, ids[:2], size=3)
    submit(store, ids, size=3)
    submit(store, ids, size=3)
    assert counts(store, group) == {"Pending": 3}
    assert look(store, group).size == 3


def test_runs_that_wait_for_their_time_are_counted(store: Store) -> None:
    ids = new_ids(3)
    group = submit(store, ids, delay_s=60.0)
    assert counts(store, group) == {"Pending": 3}
    for run_id in ids:
        store.cancel(run_id, reason="no")
    assert look(store, group).end == "Never"


def test_runs_that_are_killed_as_they_are_made_are_counted(store: Store) -> None:
    failed = create(store)
    store.finish(claim(store, failed), FAILED)
    ids = new_ids(3)
    spec = RunSpec(command=("true",), after=(failed,))
    create_many(store, [New(run_id, spec, group=Announced(f"b{ids[0]}", f"b{ids[0]}", 3)) for run_id in ids])
    assert counts(store, f"b{ids[0]}") == {"Never": 3}
    assert look(store, f"b{ids[0]}").is_over


def test_a_refused_submission_leaves_no_group(store: Store, redis_client: Any) -> None:
    spec = RunSpec(command=("true",), after=(new_run_id(),))
    group = f"b{new_run_id()}"
    [answer] = create_many(store, [New(new_run_id(), spec, group=Announced(group, group, 2))])
    assert isinstance(answer, LaunchError)
    assert store.group(group) is None
    assert not redis_client.keys("launch:array:*")


def test_what_redis_had_lost_is_of_its_group_again(store: Store, redis_client: Any) -> None:
    ids = new_ids(3)
    group = submit(store, ids[:1], size=3)
    saved = {key: redis_client.dump(key) for key in redis_client.keys("launch:*")}
    submit(store, ids[1:], size=3, group=group)
    record = claim(store, ids[1])
    redis_client.flushdb()
    for key, value in saved.items():
        redis_client.restore(key, 0, value)
    assert store.restore(record, owner="owner1", lease_s=30)
    assert store.get(ids[1]).bulk == group
    assert counts(store, group) == {"Pending": 2, "Running": 1}
    die(redis_client, store, group)
    assert counts(store, group) == {"Pending": 1, "Running": 1, "Never": 1}


def test_a_group_that_redis_had_lost_is_made_of_the_runs_that_come_back(store: Store, redis_client: Any) -> None:
    ids = new_ids(3)
    group = submit(store, ids)
    records = [claim(store, run_id) for run_id in ids[:2]]
    redis_client.flushdb()
    for record in records:
        assert store.restore(record, owner="owner1", lease_s=30)
    assert counts(store, group) == {"Running": 2}
    for record in records:
        store.finish(record, FINISHED)
    assert look(store, group).end == "Finished"


def make_old(store: Store, redis_client: Any, array: Sequence[str]) -> None:
    """Have an array look as a submitter of an earlier release made it."""
    index = {run_id: store.get(run_id).created_at for run_id in array}
    redis_client.zadd(keys.group_runs_before(array[0]), index)
    redis_client.delete(keys.group_runs(array[0]))
    redis_client.hdel(keys.group(array[0]), "made", "sealed", "created_at", "name", "queue", "project", "author")


def test_an_array_of_an_earlier_release_goes_on(store: Store, api: Api, redis_client: Any) -> None:
    worker = Worker(store, slots=2)
    array = [run.id for run in submit_many([{"command": ["true"], "array": "0-4%2"}], api=api)]
    make_old(store, redis_client, array)
    then = create(store, after=(f"a{array[0]}:failed",))
    worker.work()
    worker.end(array[0], FAILED)
    known = look(store, array[0])
    assert (known.id, known.size, known.is_over, known.is_open) == (f"a{array[0]}", 5, False, False)
    assert store.group_runs(known) == array
    assert store.cancel_group(known, reason="enough") == (3, 1)
    worker.end(array[1])
    assert worker.work() == [then]
    assert store.retry_group(known, only_failed=True, reason="again") == 4
    store.cancel_group(known, reason="enough")
    for run_id in array:
        redis_client.zadd("launch:ended", {run_id: 1}, xx=True)
    assert store.retire(retention_s=1) == 5
    assert not redis_client.keys("launch:array:*")
    assert not redis_client.keys("launch:runs:array:*")


# -- who waits for it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "met"),
    [
        ((FINISHED, FINISHED), ("ok", "any")),
        ((FINISHED, FAILED), ("any", "failed")),
        ((FINISHED, CRASHED), ("any", "failed")),
        ((FAILED, None), ("any", "failed")),
        ((FINISHED, None), ("any",)),
        ((None, None), ("any",)),
    ],
)
@pytest.mark.parametrize("is_over_at_once", [True, False])
def test_who_waits_for_a_group_starts_when_all_of_it_has_ended_so(
    store: Store, ends: tuple[NextStep | None, ...], met: tuple[str, ...], is_over_at_once: bool
) -> None:
    ids = new_ids(2)
    group = submit(store, ids)

    def wait_for_it() -> dict[str, str]:
        return {wish: create(store, after=(f"{group}:{wish}",)) for wish in ("ok", "any", "failed")}

    waiting = {} if is_over_at_once else wait_for_it()
    for run_id, step in zip(ids, ends, strict=True):
        assert {store.get(one).state for one in waiting.values()} <= {S.PENDING}
        if step is None:
            store.cancel(run_id, reason="not needed")
        elif step is CRASHED:
            crash(store, claim(store, run_id))
        else:
            store.finish(claim(store, run_id), step)
    waiting = waiting or wait_for_it()
    for wish, run_id in waiting.items():
        record = store.get(run_id)
        if wish in met:
            assert (record.state, record.waits_for) == (S.PENDING, {})
        else:
            assert record.state is S.KILLED
            assert record.reason.startswith(f"group {group} ")


def test_an_array_is_waited_for_by_either_of_its_names(store: Store, api: Api) -> None:
    worker = Worker(store, slots=9)
    array = [run.id for run in submit_many([{"command": ["true"], "array": "0-1"}], api=api)]
    waiting = [create(store, after=(name,)) for name in (array[0], f"a{array[0]}")]
    assert look(store, array[0]) == look(store, f"a{array[0]}")
    assert look(store, array[0]).id == f"a{array[0]}"
    worker.work()
    for run_id in array:
        worker.end(run_id)
    assert set(worker.work()) == set(waiting)


def test_the_first_run_of_a_bulk_submission_is_not_its_group(store: Store) -> None:
    worker = Worker(store, slots=9)
    ids = new_ids(2)
    group = submit(store, ids)
    then = create(store, after=(ids[0],))
    assert store.group(ids[0]) is None
    worker.work()
    worker.end(ids[0])
    assert worker.work() == [then]
    assert not look(store, group).is_over


def test_a_group_that_is_not_there_cannot_be_waited_for(store: Store) -> None:
    with pytest.raises(InputError, match="no run or group b1m8aaaaaaaaaaaa"):
        create(store, after=("b1m8aaaaaaaaaaaa",))


def test_a_retry_of_a_run_of_a_group_that_was_over_starts_nobody_twice(store: Store) -> None:
    worker = Worker(store, slots=9)
    ids = new_ids(2)
    group = submit(store, ids)
    then = create(store, after=(f"{group}:any",))
    wanted_ok = create(store, after=(group,))
    worker.work()
    worker.end(ids[0])
    worker.end(ids[1], FAILED)
    assert worker.work() == [then]
    assert store.requeue(ids[1], reason="again") == ""
    assert not look(store, group).is_over
    later = create(store, after=(group,))
    assert worker.work() == [ids[1]]
    worker.end(ids[1])
    assert worker.work() == [later], "it began to wait after the retry; the others were told before"
    assert store.get(then).attempt == 1
    assert store.get(wanted_ok).state is S.KILLED


def test_a_false_crash_that_comes_back_starts_nobody_twice(store: Store) -> None:
    worker = Worker(store, slots=9)
    [only, other] = ids = new_ids(2)
    group = submit(store, ids)
    store.finish(claim(store, other), FINISHED)
    then = create(store, after=(f"{group}:failed",))
    record = claim(store, only)
    crash(store, record)
    assert worker.work() == [then]
    beat(store, record)
    assert counts(store, group) == {"Running": 1, "Finished": 1}
    assert look(store, group).ended_at is None
    worker.end(then)
    store.finish(record, FINISHED)
    assert look(store, group).end == "Finished"
    assert worker.work() == []
    assert store.get(then).attempt == 1


def test_a_deleted_run_counts_as_it_ended(store: Store) -> None:
    worker = Worker(store, slots=9)
    ids = new_ids(3)
    group = submit(store, ids)
    then = {wish: create(store, after=(f"{group}:{wish}",)) for wish in ("ok", "failed")}
    worker.work()
    worker.end(ids[0], FAILED)
    store.delete(ids[0], who="me", keep_s=60)
    worker.end(ids[1])
    store.delete(ids[1], who="me", keep_s=60)
    assert look(store, group).gone == 2
    worker.end(ids[2])
    assert worker.work() == [then["failed"]]
    assert store.get(then["ok"]).state is S.KILLED


def test_a_deleted_run_that_waited_counts_as_one_that_never_ran(store: Store) -> None:
    ids = new_ids(2)
    group = submit(store, ids)
    then = {wish: create(store, after=(f"{group}:{wish}",)) for wish in ("ok", "any")}
    store.finish(claim(store, ids[0]), FINISHED)
    store.delete(ids[1], who="me", keep_s=60)
    assert store.get(then["any"]).waits_for == {}
    assert store.get(then["ok"]).state is S.KILLED


def test_runs_that_the_retention_deletes_before_the_group_is_over_count(store: Store, redis_client: Any) -> None:
    worker = Worker(store, slots=9)
    ids = new_ids(3)
    group = submit(store, ids, size=4)
    then = {wish: create(store, after=(f"{group}:{wish}",)) for wish in ("ok", "failed")}
    worker.work()
    for run_id, step in zip(ids, (FINISHED, FAILED, FINISHED), strict=True):
        worker.end(run_id, step)
        redis_client.zadd("launch:ended", {run_id: 1})
    assert store.retire(retention_s=1) == 3
    assert counts(store, group) == {"Finished": 2, "Failed": 1, "Pending": 1}
    [last] = new_ids(1)
    submit(store, [last], size=4, group=group)
    assert worker.work() == [last]
    worker.end(last)
    assert worker.work() == [then["failed"]]
    assert store.get(then["ok"]).state is S.KILLED


def test_a_group_leaves_nothing_behind(store: Store, redis_client: Any) -> None:
    worker = Worker(store, slots=9)
    ids = new_ids(3)
    submit(store, ids[:2], size=4)
    worker.work()
    for run_id in ids[:2]:
        worker.end(run_id)
        redis_client.zadd("launch:ended", {run_id: 1})
    store.retire(retention_s=1)
    assert redis_client.keys("launch:array:b*"), "its submitter is not done"
    die(redis_client, store, f"b{ids[0]}")
    assert not redis_client.keys("launch:array:*")
    assert not redis_client.keys("launch:runs:array:*")


# -- submitters that die, give up, or come again -----------------------------------------------------------------------


def test_a_group_whose_submitter_died_ends_without_the_missing_runs(store: Store, redis_client: Any) -> None:
    worker = Worker(store, slots=9)
    ids = new_ids(2)
    group = submit(store, ids, size=10)
    then = {wish: create(store, after=(f"{group}:{wish}",)) for wish in ("ok", "any", "failed")}
    worker.work()
    worker.end(ids[0])
    die(redis_client, store, group)
    known = look(store, group)
    assert (known.size, known.missing, known.is_over) == (10, 8, False)
    worker.end(ids[1])
    assert look(store, group).end == "Never"
    assert worker.work() == [then["any"]]
    assert {store.get(then[wish]).state for wish in ("ok", "failed")} == {S.KILLED}
    assert "has runs that never ran" in store.get(then["ok"]).reason


def test_a_group_whose_runs_had_ended_before_its_submitter_died_is_over_then(store: Store, redis_client: Any) -> None:
    worker = Worker(store, slots=9)
    ids = new_ids(2)
    group = submit(store, ids, size=10)
    then = create(store, after=(f"{group}:failed",))
    worker.work()
    worker.end(ids[0])
    worker.end(ids[1], FAILED)
    assert worker.work() == []
    die(redis_client, store, group)
    assert worker.work() == [then]


def test_a_submitter_that_was_slow_still_adds_to_its_group(store: Store, redis_client: Any) -> None:
    ids = new_ids(4)
    group = submit(store, ids[:2], size=4)
    die(redis_client, store, group)
    assert counts(store, group) == {"Pending": 2, "Never": 2}
    submit(store, ids[2:], size=4, group=group)
    assert counts(store, group) == {"Pending": 4}
    assert look(store, group).missing == 0


def test_the_same_submission_again_completes_a_group(api: Api, store: Store, redis_client: Any) -> None:
    jobs: list[dict[str, Any]] = [{"command": ["true"], "unique": f"k{number}"} for number in range(5)]
    sent = api.transport.send_items(_items(jobs))
    first, _ = next(sent)
    group = first.group
    assert look(store, group).size == 5
    # Nothing more is heard of that submitter: not even that it gave up.
    runs = submit_many(jobs, api=api)
    assert runs[0].id == first.id
    assert counts(store, group) == {"Pending": 5}
    del sent
    gc.collect()
    assert (look(store, group).size, look(store, group).missing) == (5, 0)
    submit_many(jobs, api=api)
    assert counts(store, group) == {"Pending": 5}


def _items(jobs: list[dict[str, Any]]) -> list[Any]:
    from launch_worker.submission.options import read_options

    return [read_options(job, folder="/") for job in jobs]


def test_runs_that_were_there_before_are_not_of_a_new_group(api: Api, store: Store) -> None:
    old = api.submit({"command": ("true",)})
    runs = submit_many([{"command": ["true"]}, {"command": ["true"], "run_id": old.id}, {"command": ["true"]}], api=api)
    group = look(store, f"b{runs[0].id}")
    assert (group.size, group.missing, group.counts["Pending"]) == (2, 0, 2)
    assert store.get(old.id).bulk == ""


def test_a_submission_that_is_refused_in_the_middle_has_a_group_of_what_was_sent(api: Api, store: Store) -> None:
    jobs: list[dict[str, Any]] = [{"command": ["true"]} for _ in range(150)]
    jobs[120]["after"] = [new_run_id()]
    with pytest.raises(InputError, match="no run or group"):
        list(api.transport.send_items(_items(jobs)))
    run = next(iter(api.runs(order="+created_at")))
    group = look(store, f"b{run.id}")
    assert (group.size, group.missing, group.counts["Never"]) == (150, 1, 1)
    assert not group.is_open


def test_one_run_alone_is_no_group(api: Api, store: Store, redis_client: Any) -> None:
    [run] = submit_many([{"command": ["true"]}], api=api)
    assert store.group(f"b{run.id}") is None
    assert not redis_client.keys("launch:array:*")


def test_an_array_in_a_file_is_a_group_of_its_own(api: Api, store: Store) -> None:
    jobs: list[dict[str, Any]] = [{"command": ["true"]}, {"command": ["true"], "array": "0-2"}, {"command": ["true"]}]
    runs = submit_many(jobs, api=api)
    assert look(store, f"b{runs[0].id}").size == 2
    assert look(store, f"a{runs[1].id}").size == 3


def test_runs_of_a_queue_with_a_configuration_are_counted_once(api: Api, store: Store) -> None:
    api.create_queue("set", defaults={"tags": ["t"]})
    jobs = [{"command": ["true"], "queue": "set"} for _ in range(3)]
    items = _items(jobs)
    sent = [one for one, _ in Api(settings=api.settings).transport.send_items(items)]
    assert {one.group for one in sent} == {f"b{sent[0].id}"}
    assert counts(store, sent[0].group) == {"Pending": 3}


# -- what people ask of it ---------------------------------------------------------------------------------------------


def test_all_runs_of_a_group_are_cancelled_together_and_no_more_are_added(store: Store) -> None:
    worker = Worker(store, slots=2)
    ids = new_ids(250)
    group = submit(store, ids[:240], size=250)
    worker.work()
    assert store.cancel_group(look(store, group), reason="enough") == (238, 2)
    assert {store.get(run_id).state for run_id in ids[2:240]} == {S.KILLED}
    answers = create_many(store, [New(run_id, SPEC, group=Announced(group, group, 250)) for run_id in ids[240:]])
    assert {str(answer) for answer in answers} == {f"group {group} was cancelled, and gets no more runs"}
    for run_id in ids[:2]:
        worker.end(run_id, NextStep(Outcome(S.KILLED)))
    known = look(store, group)
    assert known.is_over
    assert known.counts["Never"] == 248
    assert store.cancel_group(known, reason="again") == (0, 0)


def test_the_runs_of_a_group_that_did_not_finish_are_tried_again(store: Store) -> None:
    worker = Worker(store, slots=9)
    ids = new_ids(5)
    group = submit(store, ids)
    worker.work()
    for run_id, step in zip(ids, (FINISHED, FAILED, FINISHED, FAILED), strict=False):
        worker.end(run_id, step)
    assert store.retry_group(look(store, group), only_failed=True, reason="again") == 2
    assert counts(store, group) == {"Finished": 2, "Pending": 2, "Running": 1}
    worker.end(ids[4])
    assert sorted(worker.work()) == sorted([ids[1], ids[3]])
    for run_id in (ids[1], ids[3]):
        worker.end(run_id)
    assert look(store, group).end == "Finished"
    assert store.retry_group(look(store, group), only_failed=True, reason="again") == 0
    assert store.retry_group(look(store, group), only_failed=False, reason="again") == 5


def test_many_runs_are_tried_again_in_pages(store: Store) -> None:
    ids = new_ids(250)
    for start in range(0, 250, 50):
        group = submit(store, ids[start : start + 50], size=250, group=f"b{ids[0]}")
    store.cancel_group(look(store, group), reason="no")
    assert store.retry_group(look(store, group), only_failed=True, reason="again") == 250
    assert counts(store, group) == {"Pending": 250}
    assert [len(page) for page in store.group_pages(look(store, group), size=100)] == [100, 100, 50]


# -- sweeps ------------------------------------------------------------------------------------------------------------


def make_sweep(api: Api, runs: int) -> str:
    config = {
        "method": "grid",
        "program": "/bin/true",
        "command": ["${program}"],
        "parameters": {"x": {"values": list(range(runs))}},
    }
    return api.create_sweep(config, workers=2).id


@pytest.mark.parametrize("is_counted", [True, False])
def test_who_waits_for_a_sweep_starts_when_it_is_over(
    api: Api, store: Store, redis_client: Any, is_counted: bool
) -> None:
    """Also where workers of an earlier release, which did not count, ended its runs."""
    sweep = make_sweep(api, 3)
    waiting = {wish: create(store, after=(f"{sweep}:{wish}",)) for wish in ("ok", "any", "failed")}
    ended = 0
    while not (record := look(store, sweep)).is_over:
        assert {store.get(run_id).state for run_id in waiting.values()} == {S.PENDING}
        [run_id] = store.group_runs(record, skip=ended, limit=1)
        store.finish(claim(store, run_id), FAILED if ended == 1 else FINISHED)
        ended += 1
        if not is_counted and ended < 3:
            redis_client.hdel(keys.sweep(sweep), "Pending", "Running", "Finished", "Failed")
            redis_client.hincrby(keys.sweep(sweep), "Pending", 1)
        advance(store, api.settings, sweep)
    assert counts(store, sweep) == {"Finished": 2, "Failed": 1}
    assert store.get(waiting["ok"]).state is S.KILLED
    assert store.get(waiting["ok"]).reason.startswith(f"sweep {sweep} ")
    assert {store.get(waiting[wish]).state for wish in ("any", "failed")} == {S.PENDING}
    assert store.get(waiting["any"]).waits_for == {}
    assert store.get(create(store, after=(f"{sweep}:failed",))).waits_for == {}


def test_who_waits_for_a_sweep_that_is_stopped_is_told(api: Api, store: Store) -> None:
    sweep = make_sweep(api, 5)
    waiting = {wish: create(store, after=(f"{sweep}:{wish}",)) for wish in ("ok", "any")}
    api.sweep(sweep).stop()
    store.publish_due()
    assert look(store, sweep).end == "Never"
    assert store.get(waiting["any"]).waits_for == {}
    assert store.get(waiting["ok"]).state is S.KILLED


# -- halted by failures ------------------------------------------------------------------------------------------------

FRAIL = RunSpec(command=("true",), max_fails=2)


def frail(store: Store, count: int) -> tuple[str, list[str]]:
    """A bulk submission that starts no more runs after two of them failed, and the ids of its runs."""
    ids = new_ids(count)
    group = f"b{ids[0]}"
    create_many(store, [New(run_id, FRAIL, group=Announced(group, group, count)) for run_id in ids])
    return group, ids


def test_after_so_many_failures_the_rest_of_a_group_is_not_started(store: Store) -> None:
    worker = Worker(store, slots=4)
    group, ids = frail(store, 300)
    worker.work()
    worker.end(ids[0], FAILED)
    worker.end(ids[1])
    assert look(store, group).halted == 0
    worker.work()
    worker.end(ids[2], FAILED)
    waiting = counts(store, group)["Pending"]
    assert 0 < 300 - waiting < 100, "one step does not end all of a large group"
    assert store.get(ids[-1]).state is S.PENDING
    for _ in range(4):
        store.publish_due()
    known = look(store, group)
    assert (known.halted, counts(store, group).get("Pending")) == (2, None)
    said = "not started, for 2 runs of its group failed (--max-fails 2)"
    assert (store.get(ids[-1]).state, store.get(ids[-1]).reason) == (S.KILLED, said)
    assert counts(store, group)["Running"] == 3, "runs that run go on"
    for run_id in list(worker.jobs):
        worker.end(run_id)
    assert look(store, group).is_over


def test_a_run_of_a_halted_group_is_refused_at_the_claim(store: Store, redis_client: Any) -> None:
    """Before the pass has come to it."""
    worker = Worker(store, slots=2)
    _, ids = frail(store, 200)
    worker.work()
    worker.end(ids[0], FAILED)
    worker.end(ids[1], FAILED)
    assert worker.work() == []
    assert redis_client.scard("launch:halted") == 1


def test_a_group_that_is_tried_again_goes_on(store: Store, redis_client: Any) -> None:
    worker = Worker(store, slots=2)
    group, ids = frail(store, 4)
    worker.work()
    worker.end(ids[0], FAILED)
    worker.end(ids[1], FAILED)
    assert counts(store, group) == {"Failed": 2, "Never": 2}
    assert redis_client.scard("launch:halted") == 0
    assert store.retry_group(look(store, group), only_failed=True, reason="again") == 4
    assert (look(store, group).halted, counts(store, group)) == (0, {"Pending": 4})
    for _ in range(2):
        for run_id in worker.work():
            worker.end(run_id)
    assert counts(store, group) == {"Finished": 4}


def test_a_halted_group_gets_no_more_runs(store: Store) -> None:
    worker = Worker(store, slots=2)
    ids = new_ids(3)
    group = f"b{ids[0]}"
    announced = Announced(group, group, 3)
    create_many(store, [New(run_id, FRAIL, group=announced) for run_id in ids[:2]])
    worker.work()
    for run_id in ids[:2]:
        worker.end(run_id, FAILED)
    (answer,) = create_many(store, [New(ids[2], FRAIL, group=announced)])
    assert "gets no more runs, for too many of its runs failed" in str(answer)
    assert look(store, group).is_over


def test_a_run_that_is_tried_again_has_not_failed(store: Store) -> None:
    worker = Worker(store, slots=1)
    group, _ = frail(store, 3)
    again = NextStep(Outcome(S.FAILED), retry_delay_s=0.0)
    for _ in range(3):
        (run_id,) = worker.work()
        worker.end(run_id, again)
    assert (look(store, group).halted, counts(store, group)) == (0, {"Pending": 3})
