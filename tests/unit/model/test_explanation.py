"""A run that waits is explained worker by worker, from facts alone."""

from __future__ import annotations

from typing import Any

import pytest

from launch_worker.model.explanation import Explanation, Surroundings, explain
from launch_worker.model.run import Record
from launch_worker.model.states import RunState

GIB = 1 << 30
NOW = 1_900_000_000_000_000
WORKER: dict[str, Any] = {
    "worker": "w@host",
    "host": "host",
    "queues": ["gpu"],
    "state": "running",
    "slots": 4,
    "running": 1,
    "schedulers": 1,
    "max_schedulers": 1,
    "devices": [{"id": "0"}, {"id": "1"}],
    "cpus": {"total": 4, "free": 1.5},
    "memory": {"total": 8 * GIB, "free": 8 * GIB},
    "room": {"gpus": 1, "takes_new": True},
}


def explained(why: str = "", worker: dict[str, Any] | None = None, around: Any = (), **more: Any) -> Explanation:
    run = Record(state=RunState.PENDING, id="r", name="n", **{"queue": "gpu"} | more)
    workers = [WORKER | worker] if worker is not None else []
    return explain(run, why, Surroundings(workers, **dict(around)), now_us=NOW)


@pytest.mark.parametrize(
    ("worker", "run", "why_not"),
    [
        ({}, {}, ()),
        ({"queues": ["other"]}, {}, ("it does not consume queue gpu",)),
        ({"state": "draining"}, {}, ("it drains: it takes no new runs",)),
        (
            {"state": "quarantined", "problem": "has failed 3 starts"},
            {},
            ("it takes no runs (quarantined): it has failed 3 starts",),
        ),
        ({"running": 4}, {}, ("all its 4 slots are taken",)),
        ({"slots": 1}, {}, ("its only slot is taken",)),
        ({"room": {"takes_new": False}}, {}, ("it takes only runs that were ready when it began",)),
        ({}, {"is_scheduler": True}, ("it runs 1 scheduler, and may run no more (max_schedulers)",)),
        ({}, {"needs": "8:0:0"}, ("it has 2 GPUs, and the run wants 8 GPUs",)),
        ({"devices": []}, {"needs": "1:0:0"}, ("it has no GPU, and the run wants 1 GPU",)),
        ({}, {"needs": "2:0:0"}, ("1 of 2 GPUs is free, and the run wants 2 GPUs",)),
        ({}, {"needs": "1:1500:0"}, ()),
        (
            {},
            {"needs": f"0:2000:{16 * GIB}"},
            (
                "1.5 of 4 cores are free, and the run wants 2 cores",
                "it has 8 GiB of memory, and the run wants 16 GiB of memory",
            ),
        ),
        (
            {"worker": "gpu@a"},
            {"avoid": "gpu@a"},
            ("the run shall not be tried on it again while another worker may take it",),
        ),
        ({"unable": ["image"]}, {"spec": '{"image": "busybox"}'}, ("it fails to start such runs for now",)),
        ({"unable": ["image"]}, {"spec": '{"command": ["a"]}'}, ()),
        # What a person sees who may not see all: what is free is not told.
        ({"cpus": {"total": 4, "free": None}, "room": None, "slots": None}, {"needs": "2:2000:0"}, ()),
    ],
)
def test_each_worker_says_why_it_does_not_take_the_run(
    worker: dict[str, Any], run: dict[str, Any], why_not: tuple[str, ...]
) -> None:
    [said] = explained(worker=worker, **run).workers
    assert said.why_not == why_not
    assert said.is_consumer == ("queues" not in worker)


@pytest.mark.parametrize(
    ("why", "run", "around", "held_up_by"),
    [
        ("", {}, {}, ()),
        ("no worker consumes queue gpu", {}, {}, ()),
        ("waiting for 2 GPUs", {}, {}, ()),
        ("queue paused", {}, {"is_queue_paused": True}, ("queue gpu is paused",)),
        ("pool lab paused", {}, {"pool": "lab", "is_pool_paused": True}, ("pool lab is paused",)),
        ("limit 2 of queue gpu reached", {}, {}, ("limit 2 of queue gpu reached",)),
        ("user ada may have 3 running runs", {}, {}, ("user ada may have 3 running runs",)),
        (
            "limit 1 of key db reached",
            {},
            {"is_queue_paused": True},
            ("queue gpu is paused", "limit 1 of key db reached"),
        ),
        (
            "waiting for a worker that reads items of version 9",
            {},
            {},
            ("waiting for a worker that reads items of version 9",),
        ),
        (
            "scheduled for …",
            {"due_at": NOW + 60_000_000},
            {},
            ("its time: it starts in 1 min, 2030-03-17T17:47:40.000+00:00",),
        ),
        (
            "after run x (ok)",
            {"waits_for": {"x": "ok", "y": "failed"}},
            {"others": {"x": "Running"}},
            (
                "run or group x: it waits for that to finish; now it is Running",
                "run or group y: it waits for that to fail",
            ),
        ),
    ],
)
def test_what_holds_a_run_up_whatever_the_workers_have_is_told_apart(
    why: str, run: dict[str, Any], around: dict[str, Any], held_up_by: tuple[str, ...]
) -> None:
    assert explained(why, around=around, **run).held_up_by == held_up_by


def test_what_would_help_is_what_the_page_says_without_what_the_sentence_has_said() -> None:
    found = explained("limit 2 of queue gpu reached", worker={}, around={"place": 3}, priority=3)
    assert found.advice == "It starts when one of the 2 that run there has ended; an admin may raise the limit."
    assert found.command == "launch-worker queues set gpu --limit 4"
    assert (found.place, found.priority) == (3, "high")
    assert Explanation.from_json(found.as_json() | {"new": 1}) == found


@pytest.mark.parametrize("state", [state for state in RunState if state is not RunState.PENDING])
def test_a_run_that_does_not_wait_has_its_sentence_alone(state: RunState) -> None:
    found = explain(Record(state=state, id="r", queue="gpu"), "", Surroundings([WORKER]), now_us=NOW)
    assert found.sentence.startswith(state.value)
    assert (found.workers, found.held_up_by, found.advice) == ((), (), "")
