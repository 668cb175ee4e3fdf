"""What attempts used, in the archive: each attempt once, whichever way it came there, and sums that are exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from launch_worker.archive import schema
from launch_worker.archive.earlier import advice
from launch_worker.archive.sums import sums
from launch_worker.database.database import Database
from launch_worker.ids import new_run_id
from launch_worker.model.needs import Needs, parse_needs
from launch_worker.model.spec import RunSpec
from launch_worker.model.totals import By, Total
from launch_worker.model.usage import KeptUsage, Usage
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.support.archives import Follower, rows_of
from tests.support.arrows import FAILED_AGAIN, FINISHED, claim, create

Make = Callable[[], Follower]

GIB = 1 << 30
SAMPLES = {"every_s": 5, "cpu": [100, 200], "memory": [7, None]}


def kept(usage: Usage, *, with_samples: bool = False) -> KeptUsage:
    text = json.dumps(usage.as_json() | {"samples": SAMPLES}) if with_samples else ""
    return KeptUsage(usage.to_text(), text)


def run(store: Store, *usages: Usage, user: str = "", **options: Any) -> str:
    """A run with these attempts, the last of which finished."""
    run_id = new_run_id()
    store.create(run_id, RunSpec(command=("true",), **options), user=user)
    for number, usage in enumerate(usages, 1):
        record = claim(store, run_id)
        step = FINISHED if number == len(usages) else FAILED_AGAIN
        assert store.finish(record, step, used=kept(usage, with_samples=number == 1))
    return run_id


@pytest.mark.parametrize("way", ["followed", "walked"])
def test_each_attempt_has_its_figures_and_its_samples(
    store: Store, database: Database, follower: Make, way: str
) -> None:
    if way == "followed":
        follower().catch_up()
    first = Usage(cpu_s=1.5, wall_s=2, peak_memory=GIB, mean_memory=GIB, memory_gb_h=0.25, disk_bytes=0)
    second = Usage(cpu_s=0.25, gpu_s=3, wall_s=4, peak_gpu_memory=7, asked_gpus=2, asked_cpus=1.5, asked_memory=GIB)
    run_id = run(store, first, second)
    follower().catch_up()
    rows = rows_of(database, schema.usage, run_id)
    assert [row["attempt"] for row in rows] == [1, 2]
    for row, usage in zip(rows, (first, second), strict=True):
        names = [name for name in row if name not in ("run_id", "attempt", "samples")]
        assert {name: row[name] for name in names} == {name: getattr(usage, name) for name in names}
    assert [json.loads(row["samples"] or "null") for row in rows] == [SAMPLES, None]


def test_a_brief_job_counts_as_if_it_had_held_its_peak(store: Store, database: Database, follower: Make) -> None:
    run_id = run(store, Usage(cpu_s=0.5, wall_s=36.0, peak_memory=GIB))
    follower().catch_up()
    [row] = rows_of(database, schema.usage, run_id)
    assert row["memory_gb_h"] == pytest.approx(0.01)


@pytest.mark.parametrize("text", ["{", "[]", '{"cpu_s": "x"}', '{"peak_memory": 1e40}', '{"samples": 3}'])
def test_damaged_figures_are_none(
    store: Store, database: Database, follower: Make, redis_client: Any, text: str
) -> None:
    run_id = create(store)
    assert store.finish(claim(store, run_id), FINISHED, used=KeptUsage(text, ""))
    redis_client.hset(keys.usage(run_id), mapping={"x": "{}", "1": text, "9" * 30: text})
    follower().catch_up()
    assert rows_of(database, schema.usage, run_id) == []
    other = create(store)
    redis_client.set(keys.usage(other), "no hash")
    store.finish(claim(store, other), FINISHED, used=kept(Usage(cpu_s=1)))
    follower().catch_up()
    assert [row["cpu_s"] for row in rows_of(database, schema.usage, other)] == [1]


def test_sums_agree_with_the_records(store: Store, database: Database, follower: Make, redis_client: Any) -> None:
    usage = Usage(cpu_s=10, gpu_s=5, wall_s=20, memory_gb_h=0.5, asked_gpus=2, asked_cpus=4, asked_memory=GIB)
    ids = [
        run(store, usage, usage, author="ada@one", queue="gpu", project="lab/a"),
        run(store, usage, author="ada@two", queue="gpu", project="lab/b"),
        run(store, Usage(cpu_s=0.125, wall_s=0.25), author="bob@one", project="lab/a"),
        # Who was proven counts under that name, whatever they said.
        run(store, Usage(), author="mallory@one", user="bob"),
        run(store, Usage(), author="bob@one", user="bob@lab"),
    ]
    follower().catch_up()
    records = [Usage.of(store.get(run_id).usage) for run_id in ids]
    earlier = [Usage.of(text) for text in store.usages(ids[0]).values()]
    assert len(earlier) == 1
    cpu_s = sum(found.cpu_s or 0 for found in records + earlier)

    def total(*by: By, **options: Any) -> dict[tuple[str, ...], Total]:
        return dict(sums(database, by, **{"since": 0} | options))

    by_user = total("user")
    assert by_user.keys() == {("ada",), ("bob",), ("bob@lab",)}
    assert sum(one.cpu_s for one in by_user.values()) == pytest.approx(cpu_s, abs=1e-6)
    ada, bob = by_user[("ada",)], by_user[("bob",)]
    assert (ada.attempts, ada.unknown, ada.cpu_s, ada.wall_s) == (3, 0, 30, 60)
    assert (ada.gpu_s, ada.held_gpu_s, ada.asked_cpu_s) == (15, 120, 240)
    assert ada.memory_gb_h == pytest.approx(1.5)
    assert ada.asked_memory_gb_h == pytest.approx(60 / 3600)
    assert (bob.attempts, bob.unknown, bob.cpu_s) == (2, 1, 0.125)
    assert total("project", "queue").keys() == {
        ("lab/a", "gpu"),
        ("lab/b", "gpu"),
        ("lab/a", "default"),
        ("", "default"),
    }
    assert total("user", project="lab/b").keys() == {("ada",)}
    assert total("worker")[("w@owner1",)].attempts == 6
    newest = max(store.get(run_id).ended_at or 0 for run_id in ids)
    assert total("user", since=newest + 1) == {}
    assert total("user", until=newest + 1).keys() == by_user.keys()


def test_an_attempt_with_several_gpus_counts_in_equal_parts(
    store: Store, database: Database, follower: Make, redis_client: Any
) -> None:
    run_id = create(store)
    record = claim(store, run_id)
    redis_client.hset(keys.run(run_id), "gpus", '["0", "GPU-7"]')
    store.finish(record, FINISHED, used=kept(Usage(cpu_s=10, gpu_s=4, wall_s=3, asked_gpus=2)))
    run(store, Usage(cpu_s=1))
    follower().catch_up()
    found = dict(sums(database, ("gpu",), since=0))
    assert found.keys() == {("h:0",), ("h:GPU-7",), ("",)}
    assert [(one.gpu_s, one.held_gpu_s) for name, one in found.items() if name != ("",)] == [(2, 3)] * 2
    assert sum(one.cpu_s for one in found.values()) == 11


def test_who_asks_for_far_more_than_earlier_runs_of_the_name_used_is_told(
    store: Store, database: Database, database_url: str, follower: Make
) -> None:
    mine: dict[str, Any] = {"name": "train", "project": "ada/tries", "author": "ada@box"}
    others = [mine | {"name": "eval"}, mine | {"author": "bob@box"}, mine | {"project": "ada/p"}]
    for whose in (mine, mine, mine, *others):
        peak = 11 * GIB if whose is mine else 60 * GIB
        run(store, Usage(wall_s=100, peak_memory=peak), **whose)
    next_one = create(store, memory=64 * GIB, **mine)
    follower().catch_up()
    asked = parse_needs(store.get(next_one).needs)
    said = "the last 3 runs named train peaked at 11G of memory, and 64G are asked for; --memory 14G would do"
    assert advice(database, **mine, asked=asked) == [said]
    assert advice(database, **mine, asked=asked, before=1) == []
    assert advice(database, **mine, asked=Needs()) == []
    assert advice(database, **mine | {"name": "new"}, asked=asked) == []
    words = [str(Path(sys.executable).with_name("launch-worker")), "report", next_one]
    environment = os.environ | {"LAUNCH_DATABASE_URL": database_url, "LAUNCH_REDIS_URL": store.url}
    shown = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout == f"- {said}\n"


def test_bytes_of_outputs_are_counted_though_they_come_after_the_end_was_kept(
    store: Store, database: Database, follower: Make
) -> None:
    archive = follower()
    run_id = create(store, retries=1, author="ada@one", project="lab/a")
    attempts = [claim(store, run_id)]
    store.finish(attempts[0], FAILED_AGAIN, leaves_outputs=True)
    attempts.append(claim(store, run_id))
    store.finish(attempts[1], FINISHED, leaves_outputs=True)
    other = run(store, Usage(), author="bob@one", project="lab/a")
    archive.catch_up()
    for number, record in enumerate(attempts, 1):
        store.keep_outputs(run_id, record.attempt, record.token, files=1, size=number << 40, left_out=0)
    archive.catch_up()
    by_user = dict(sums(database, ["user"], since=0))
    assert (by_user[("ada",)].output_bytes, by_user[("bob",)].output_bytes) == (3 << 40, 0)
    assert sum(total.output_bytes for _, total in sums(database, ["project"], since=0)) == 3 << 40
    with database.reading() as connection:
        found = connection.execute(select(schema.runs.c.id, schema.runs.c.record)).all()
    records = {row.id: json.loads(row.record) for row in found}
    assert json.loads(records[run_id]["outputs"])["2"]["bytes"] == 2 << 40
    assert "outputs" not in records[other]
