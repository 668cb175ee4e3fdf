"""What a user, a group or a project may have at once: waiting runs, running runs, GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from launch_worker.errors import InputError
from launch_worker.model.allowance import Allowance
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.model.sweep import Trial
from launch_worker.store.store import Store
from launch_worker.store.submit import New

A, B, C, D = (f"{letter:0>15}" for letter in "abcd")
SPEC = RunSpec(command=("true",))
FINISHED = NextStep(Outcome(RunState.FINISHED, exit_code=0))


@pytest.fixture(autouse=True)
def _worker(store: Store) -> None:
    store.heartbeat([], owner="w", worker="w", lease_s=30, gone_s=30, description={}, queues=["default"])


def allow(
    store: Store, name: str, *, waiting: int | None = None, running: int | None = None, gpus: int | None = None
) -> bool:
    return store.allow(name, waiting=waiting, running=running, gpus=gpus)


def submit(store: Store, run_id: str, *, spec: RunSpec = SPEC) -> None:
    """Submit a run of ada, who is in the groups ml and ops."""
    store.create(run_id, spec, user="ada", user_groups=("ml", "ops"))


def claim(store: Store, run_id: str, seq: int = 1, *, gpus: int = 0) -> Record | None:
    record, _ = store.claim(
        run_id, seq, owner="w", worker="w", host="h", lease_s=30, devices=[str(at) for at in range(gpus)]
    )
    return record


def now(store: Store, name: str) -> tuple[int, int, int]:
    [found] = [one for one in store.allowances() if one.name == name]
    return found.waiting, found.running, found.gpus


def reason_of(store: Store, run_id: str) -> str:
    return store.get(run_id).reason


def test_each_user_without_an_allowance_has_that_of_every_user(store: Store) -> None:
    allow(store, "user:*", waiting=2)
    allow(store, "user:bob", waiting=5)

    for user, most in (("ada", 2), ("bob", 5), ("eve", 2)):
        for count in range(most):
            store.create(f"{user}{count:0>12}", SPEC, user=user)
        with pytest.raises(InputError, match=f"user {user} may have {most} waiting runs"):
            store.create(D, SPEC, user=user)
    # It is each user's own number, and one that is changed counts at once.
    allow(store, "user:*", waiting=3)
    store.create(A, SPEC, user="ada")
    allow(store, "user:*")
    store.create(B, SPEC, user="eve")
    store.create(C, SPEC, user="eve")


def test_a_run_counts_for_its_user_their_groups_and_its_project(store: Store) -> None:
    for name in ("user:ada", "user:bob", "group:ml", "group:other", "project:me/iris", "project:me"):
        allow(store, name, waiting=5)
    submit(store, A, spec=replace(SPEC, project="me/iris"))
    assert store.get(A).allowances == "user:ada project:me:iris group:ml"
    store.create(B, replace(SPEC, project="me"), user="bob")
    assert store.get(B).allowances == "user:bob project:me"
    store.create(C, replace(SPEC, project="me"))
    assert store.get(C).allowances == "", "nobody has proven whose it is"


def test_runs_of_schedules_and_sweeps_are_their_makers(store: Store) -> None:
    allow(store, "user:ada", waiting=9)
    allow(store, "group:ml", waiting=9)
    store.keep_schedule("nightly", "{}", 5)
    assert store.fire("nightly", 5, 10, A, SPEC, queue_config="", pool_config="", user="ada")
    assert (store.get(A).user, store.get(A).allowances) == ("ada", "user:ada")
    store.create_sweep("s1", {"workers": 2, "name": "lr", "user": "ada", "user_groups": "ml"})
    assert store.next_run("s1", Trial(0, B, {}, 0), SPEC, queue_config="", pool_config="") == ""
    assert (store.get(B).user, store.get(B).allowances) == ("ada", "user:ada group:ml")


def test_the_record_says_who_submitted(store: Store) -> None:
    submit(store, A)
    record = store.get(A)
    assert (record.user, record.as_json()["user"], record.allowances) == ("ada", "ada", "")
    store.create(B, SPEC)
    assert store.get(B).as_json()["user"] is None


def test_the_feed_says_that_the_user_submitted(store: Store) -> None:
    store.want_changes()
    store.create(A, replace(SPEC, author="mallory@host"), user="ada")
    store.create(B, replace(SPEC, author="mallory@host"))
    created = [change.fields for change in store.changes() if change.kind == "run"]
    assert [(one["actor"], one.get("user")) for one in created] == [("ada", "ada"), ("mallory@host", None)]


def test_a_user_of_redis_is_told_apart_from_the_user_who_was_proven(store: Store) -> None:
    store.want_changes()
    store.acl_user = "producer"
    store.create(A, replace(SPEC, author="mallory@host"))
    store.create(B, replace(SPEC, author="mallory@host"), user="ada")
    created = [change.fields for change in store.changes() if change.kind == "run"]
    assert [one["actor"] for one in created] == ["mallory@host as producer", "ada"]


def test_a_run_above_the_allowance_waits_until_another_has_ended(store: Store) -> None:
    allow(store, "user:ada", running=1)
    submit(store, A)
    submit(store, B)
    store.create(C, SPEC)
    first = claim(store, A)
    assert first is not None
    assert claim(store, C), "others are not held up"
    assert claim(store, B) is None
    assert reason_of(store, B) == "user ada may have 1 running runs"
    submit(store, D)
    assert reason_of(store, D) == "user ada may have 1 running runs", "it has no item either"
    assert now(store, "user:ada") == (2, 1, 0)
    store.finish(first, FINISHED)
    assert reason_of(store, B) == ""
    assert claim(store, B, 2)
    assert now(store, "user:ada") == (1, 1, 0)


@pytest.mark.parametrize("name", ["group:ml", "project:me/iris"])
def test_groups_and_projects_have_allowances_too(store: Store, name: str) -> None:
    allow(store, name, running=1)
    for run_id in (A, B):
        submit(store, run_id, spec=replace(SPEC, project="me/iris"))
    assert claim(store, A)
    assert claim(store, B) is None
    assert reason_of(store, B) == f"{name.replace(':', ' ', 1)} may have 1 running runs"


def test_the_narrowest_of_several_allowances_counts(store: Store) -> None:
    allow(store, "user:ada", running=5)
    allow(store, "group:ml", running=1)
    for run_id in (A, B):
        submit(store, run_id)
    first = claim(store, A)
    assert first is not None
    assert claim(store, B) is None
    assert reason_of(store, B) == "group ml may have 1 running runs"
    assert now(store, "user:ada") == now(store, "group:ml") == (1, 1, 0)
    store.finish(first, FINISHED)
    assert claim(store, B, 2)


def test_gpus_are_counted_each(store: Store) -> None:
    allow(store, "user:ada", gpus=3)
    two = replace(SPEC, gpus=2)
    submit(store, A, spec=two)
    submit(store, B, spec=two)
    submit(store, C)
    first = claim(store, A, gpus=2)
    assert first is not None
    assert claim(store, B, gpus=2) is None
    assert reason_of(store, B) == "user ada may hold 3 GPUs"
    assert claim(store, C), "a run without GPUs takes none"
    assert now(store, "user:ada") == (1, 2, 2)
    store.finish(first, FINISHED)
    assert claim(store, B, 2, gpus=2)
    assert now(store, "user:ada") == (0, 2, 2)


def test_a_run_that_could_never_start_is_refused_and_holds_up_no_other(store: Store) -> None:
    allow(store, "user:ada", gpus=4)
    submit(store, A, spec=replace(SPEC, gpus=4))
    submit(store, B, spec=replace(SPEC, gpus=1))
    with pytest.raises(InputError, match="user ada may hold 4 GPUs at once, and this run needs 5"):
        submit(store, C, spec=replace(SPEC, gpus=5))
    allow(store, "user:ada", gpus=0)
    for run_id, gpus in ((A, 4), (B, 1)):
        assert claim(store, run_id, gpus=gpus) is None
    allow(store, "user:ada", gpus=3)
    assert reason_of(store, A) == "user ada may hold 0 GPUs", "it waits on"
    assert reason_of(store, B) == ""
    assert claim(store, B, 2, gpus=1)
    allow(store, "user:ada", gpus=5)
    assert claim(store, A, 2, gpus=4)


def test_more_runs_than_may_wait_are_refused(store: Store) -> None:
    allow(store, "user:ada", waiting=2)
    submit(store, A)
    submit(store, B, spec=replace(SPEC, after=(f"{A}:ok",)))
    with pytest.raises(InputError, match="user ada may have 2 waiting runs, and has as many"):
        submit(store, C)
    assert not store.exists(C)
    submit(store, A)  # the same once more
    store.create(D, SPEC)
    assert claim(store, A)
    submit(store, C)
    assert now(store, "user:ada") == (2, 1, 0)


def test_many_at_once_are_refused_from_the_first_above_on(store: Store) -> None:
    allow(store, "user:ada", waiting=3)
    runs = [New(f"{at:015}", SPEC, user="ada") for at in range(5)]
    [answers] = store.create_batches([runs])
    assert [isinstance(answer, InputError) for answer in answers] == [False, False, False, True, True]
    assert now(store, "user:ada") == (3, 0, 0)


def test_a_run_that_goes_back_or_ends_without_running_is_counted_so(store: Store) -> None:
    allow(store, "user:ada", waiting=2, running=2)
    for run_id in (A, B):
        submit(store, run_id)
    store.cancel(B, reason="x")
    record = claim(store, A)
    assert record is not None
    assert now(store, "user:ada") == (0, 1, 0)
    store.finish(record, FINISHED)
    assert now(store, "user:ada") == (0, 0, 0)
    store.requeue(A, reason="again")
    assert now(store, "user:ada") == (1, 0, 0)


def test_a_larger_allowance_lets_waiting_runs_go(store: Store) -> None:
    allow(store, "user:ada", running=1)
    for run_id in (A, B, C):
        submit(store, run_id)
    assert claim(store, A)
    for run_id in (B, C):
        assert claim(store, run_id) is None
    assert not allow(store, "user:ada", running=2)
    assert reason_of(store, B) == ""
    assert reason_of(store, C) != ""
    allow(store, "user:ada")
    assert reason_of(store, C) == ""
    assert store.allowances() == []
    assert claim(store, C, 2)


def test_allowances_are_listed(store: Store, redis_client: Any) -> None:
    assert store.allowances() == []
    assert allow(store, "project:me/iris", waiting=0, gpus=8)
    assert allow(store, "user:ada", running=3)
    assert store.allowances() == [Allowance("project:me/iris", 0, None, 8), Allowance("user:ada", None, 3, None)]
    redis_client.delete("launch:allowance:user:ada")
    redis_client.set("launch:allowance:user:ada", "damaged")
    submit(store, A)
    assert claim(store, A), "a damaged allowance holds up nobody"


@pytest.mark.parametrize("name", ["ada", "user:", "user:a b", "queue:x", "user:a\x1b"])
def test_what_is_no_allowance_is_refused(store: Store, name: str) -> None:
    with pytest.raises(InputError, match="user:NAME, group:NAME or project:NAME"):
        allow(store, name, running=1)
    with pytest.raises(InputError, match="a number from 0"):
        allow(store, "user:ada", running=-1)
