"""Keys that a run has for a time: one run in that time, whoever submits, and another one after it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from launch_worker.api.client import Api, submit, submit_many
from launch_worker.errors import InputError
from launch_worker.ids import new_run_id
from launch_worker.model.unique import Unique, parse_unique
from launch_worker.store.store import Store
from tests.support.arrows import FAILED
from tests.support.workers import Worker


def key_of(redis_client: Any) -> Any:
    (key,) = redis_client.keys("launch:once:*")
    return key


@pytest.mark.parametrize(
    ("text", "unique"),
    [
        ("k", Unique("k")),
        ("a:b", Unique("a:b")),
        ("k:for 1h", Unique("k", for_s=3600.0)),
        ("a:b:for 90", Unique("a:b", for_s=90.0)),
        ("k:until-end", Unique("k", until_end=True)),
        (":until-end", Unique(":until-end")),
    ],
)
def test_a_key_says_how_long_it_holds(text: str, unique: Unique) -> None:
    assert parse_unique(text) == unique


@pytest.mark.parametrize("text", ["k:for ever", "k:for 0", "k:for "])
def test_a_time_that_is_none_is_refused(api: Api, text: str) -> None:
    with pytest.raises(InputError):
        submit(["true"], unique=text, api=api)
    assert list(api.store.runs()) == []


def test_a_key_until_the_end_makes_another_run_once_its_run_has_ended(api: Api, store: Store) -> None:
    worker = Worker(store)
    first = submit(["true"], unique="k:until-end", api=api)
    again = submit(["false"], unique="k:until-end", api=api)
    assert (first.is_new, again.is_new, again.id) == (True, False, first.id)
    worker.work()
    assert submit(["true"], unique="k:until-end", api=api).id == first.id
    worker.end(first.id, FAILED)
    second = submit(["true"], unique="k:until-end", api=api)
    assert second.is_new
    assert second.id != first.id
    assert submit(["true"], unique="k:until-end", api=api).id == second.id
    first.retry()
    assert submit(["true"], unique="k:until-end", api=api).id == second.id, "the key is the second run's"


def test_a_key_for_a_time_holds_for_that_time_whatever_becomes_of_its_run(
    api: Api, store: Store, redis_client: Any
) -> None:
    worker = Worker(store)
    first = submit(["true"], unique="k:for 1h", api=api)
    (run_id,) = worker.work()
    worker.end(run_id)
    assert submit(["true"], unique="k:for 2d", api=api).id == first.id, "the first one's word holds"
    key = key_of(redis_client)
    assert 3_500_000 < redis_client.pttl(key) <= 3_600_000
    redis_client.hset(key, "until", 1)
    second = submit(["true"], unique="k:for 1h", api=api)
    assert (second.is_new, second.id != first.id) == (True, True)


def test_a_key_that_holds_for_ever_is_another_one(api: Api) -> None:
    ids = {submit(["true"], unique=text, api=api).id for text in ("k", "k:until-end", "j:until-end")}
    assert len(ids) == 3
    other = submit(["true"], unique="k:until-end", project="other", api=api)
    assert other.is_new


def test_of_many_that_submit_at_once_one_makes_the_run(api: Api, store: Store) -> None:
    found: list[tuple[str, bool]] = []

    def one() -> None:
        run = submit(["true"], unique="k:until-end", api=Api(settings=api.settings))
        found.append((run.id, run.is_new))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run_id for run_id, _ in found}) == 1
    assert sum(is_new for _, is_new in found) == 1
    assert len(list(store.runs())) == 1


def test_an_array_has_its_key_together_until_all_its_runs_have_ended(api: Api, store: Store) -> None:
    worker = Worker(store, slots=2)
    line = {"command": ["true"], "array": "0-149", "unique": "k:until-end"}
    first = submit_many([line], api=api)
    again = submit_many([line], api=api)
    assert [run.id for run in again] == [run.id for run in first]
    assert not any(run.is_new for run in again)
    worker.work()
    worker.end(first[0].id)
    assert submit_many([line], api=api)[0].id == first[0].id, "others of it have not ended"
    group = store.group(first[0].id)
    assert group is not None
    store.cancel_group(group, reason="no")
    worker.end(first[1].id)
    second = submit_many([line], api=api)
    assert all(run.is_new for run in second)
    assert not {run.id for run in first} & {run.id for run in second}
    known = store.group(second[0].id)
    assert known is not None
    assert (known.size, known.counts["Pending"], known.is_open) == (150, 150, False)


def test_lines_of_a_bulk_submission_have_keys_of_their_own(api: Api) -> None:
    lines = [{"command": ["true"], "unique": f"{name}:until-end"} for name in ("a", "b", "a")]
    first, second, same = submit_many(lines, api=api)
    assert (first.is_new, second.is_new, same.is_new) == (True, True, False)
    assert (same.id == first.id, second.id != first.id) == (True, True)
    group = api.group(str(first.group))
    assert group.record.counts["Pending"] == 2


def test_a_chosen_id_is_that_of_the_run_that_is_made(api: Api) -> None:
    """So a submission whose answer was lost can be repeated, also where its run has ended meanwhile."""
    ids = [new_run_id() for _ in range(2)]
    assert submit(["true"], unique="k:until-end", run_id=ids[0], api=api).id == ids[0]
    assert submit(["true"], unique="k:until-end", run_id=ids[0], api=api).id == ids[0]
    assert submit(["true"], unique="k:until-end", run_id=ids[1], api=api).id == ids[0]
    with pytest.raises(InputError, match="leave out one"):
        submit(["true"], unique="k", run_id=ids[1], api=api)


def test_a_refused_run_takes_no_key(api: Api, redis_client: Any) -> None:
    with pytest.raises(InputError, match="no run or group"):
        submit(["true"], unique="k:until-end", after=["0" * 15], api=api)
    assert redis_client.keys("launch:once:*") == []


def test_a_key_goes_with_its_run(api: Api, store: Store, redis_client: Any) -> None:
    for text in ("a:until-end", "b:for 1h"):
        run = submit(["true"], unique=text, api=api)
        run.delete()
    (key,) = redis_client.keys("launch:once:*")
    assert redis_client.pttl(key) > 0, "the other one has a time of its own"
    assert submit(["true"], unique="a:until-end", api=api).is_new
