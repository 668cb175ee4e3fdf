"""Queues, pools, workers, sweeps, schedules, allowances and status: through a server the same as through Redis."""

from __future__ import annotations

from typing import Any

import pytest

from launch_worker import submit_many
from launch_worker.api.client import Api
from launch_worker.api.redis_transport import RedisTransport
from launch_worker.cli.runs import _rows_of_page
from launch_worker.cli.runs_table import lines as lines_of
from launch_worker.cli.runs_table import usual_columns
from launch_worker.cli.schedules import add_schedule
from launch_worker.errors import InputError, NotFoundError, RefusedError
from launch_worker.model.schedule import Schedule
from launch_worker.model.states import RunState
from launch_worker.server.pages.rows import group_row
from launch_worker.store.store import Store
from launch_worker.submission.options import Item, read_options
from launch_worker.terminal import Screen
from tests.conftest import wait_until
from tests.support.arrows import FAILED, create
from tests.support.http_servers import TestServer
from tests.support.workers import Worker


def test_a_queue_and_its_pool(through: Api) -> None:
    through.create_pool("lab", limit=3, defaults={"retries": 2})
    made = through.create_queue(
        "gpu", limit=2, pool="lab", rank=1, resource="container", description="fast", defaults={"priority": "high"}
    )
    assert (made.limit, made.pool, made.rank, made.settings["description"]) == (
        *(2, "lab", 1),
        "fast",
    )
    assert made.config.defaults == {"priority": "high"}
    assert through.set_queue("gpu", limit=None, description=None).as_json()["description"] is None
    through.pause_queue("gpu")
    assert through.queue("gpu").paused
    through.resume_queue("gpu")
    assert [queue.name for queue in through.queues()] == ["gpu"]
    pool = through.pool("lab")
    assert (pool.queues, pool.limit, pool.config.defaults) == (("gpu",), 3, {"retries": 2})
    with pytest.raises(RefusedError, match="queues set QUEUE --pool"):
        through.delete_pool("lab")
    through.delete_queue("gpu")
    through.delete_pool("lab")
    with pytest.raises(NotFoundError, match="launch-worker queues"):
        through.queue("gpu")
    with pytest.raises(InputError, match="limit must be a whole number"):
        through.create_queue("x", limit=-1)


def test_the_whole_is_told_alike(through: Api, store: Store, api: Api) -> None:
    create(store)
    Worker(store, "default")
    assert through.transport.status().keys() == api.transport.status().keys()
    assert through.transport.status()["queues"] == api.transport.status()["queues"]
    assert through.transport.workers() == api.transport.workers()
    assert {finding.name for finding in through.transport.findings()} >= {"redis.version"}
    with pytest.raises(NotFoundError, match="no live worker"):
        through.transport.order("nobody", "drain")


def test_a_groups_retry_on_other_workers(through: Api, store: Store) -> None:
    ids = [run.id for run in submit_many([{"command": ["false"]}, {"command": ["false"]}], api=through)]
    first = Worker(store, owner="w1", slots=2)
    assert sorted(first.work()) == sorted(ids)
    for run_id in ids:
        first.end(run_id, FAILED)
    other = Worker(store, owner="w2", slots=2)
    assert through.group(f"b{ids[0]}").retry(not_on_same_worker=True) == 2
    assert (first.work(), sorted(other.work())) == ([], sorted(ids))
    assert store.history(ids[0])[3].reason.endswith(", on other workers")


def test_a_group_whose_rest_is_not_started_is_marked_in_lists(through: Api, store: Store) -> None:
    lines = [{"command": ["false"], "max_fails": 1, "name": f"part {number}"} for number in range(3)]
    ids = [run.id for run in submit_many(lines, api=through)]
    worker = Worker(store, slots=1)
    assert worker.work() == ids[:1]
    worker.end(ids[0], FAILED)
    group, record = f"b{ids[0]}", through.run(ids[0]).record
    [row] = _rows_of_page(through, [(record, group)])
    assert row.halt == "halted after 1 failed run (--max-fails)"
    assert row.halt in str(lines_of([row], usual_columns(places=False), Screen(200))[1])
    known = through.group(group).record
    assert group_row(record, group, known.counts, 0, known).why == f"1 failed, 2 never ran · {row.halt}"


def test_a_sweep(through: Api, store: Store) -> None:
    config = {"method": "grid", "parameters": {"x": {"values": [1, 2]}}, "command": ["true"], "name": "tries"}
    sweep = through.create_sweep(config, queue="nobodys", workers=2)
    assert (sweep.name, sweep.state, len(sweep.runs)) == ("tries", "RUNNING", 2)
    assert [one.id for one in through.sweeps()] == [sweep.id]
    assert sweep.pause() == "PAUSED"
    assert sweep.resume() == "RUNNING"
    sweep.cancel()
    assert sweep.wait(timeout=20) == "CANCELED"
    assert {run.state for run in sweep.runs} == {RunState.KILLED}
    shown = sweep.as_json(runs=True)
    assert (shown["method"], shown["counts"]["Killed"], shown["queue"]) == ("grid", 2, "nobodys")
    with pytest.raises(NotFoundError, match="launch-worker sweep list"):
        through.sweep("1m83cyvtfq1tc69")


@pytest.mark.parametrize("wrong", [{"method": "guess"}, {"parameters": {}}, {"command": []}])
def test_a_wrong_sweep_is_refused_by_the_server_too(server: TestServer, wrong: dict[str, Any]) -> None:
    config = {"method": "grid", "parameters": {"x": {"values": [1]}}, "command": ["true"]} | wrong
    with server.client() as client:
        answer = client.post("/api/v1/sweeps", json={"id": "1m83cyvtfq1tc69", "config": config})
        assert answer.status_code == 422, answer.text
        given = {"kommando": ["x"]}
        fine = config | {"method": "grid", "parameters": {"x": {"values": [1]}}, "command": ["true"]}
        answer = client.post("/api/v1/sweeps", json={"id": "1m83cyvtfq1tc69", "config": fine, "given": given})
        assert answer.status_code == 422
    assert server.shared.connection.sweeps() == []


def test_a_schedule(through: Api) -> None:
    schedule = Schedule(name="nightly", cron="0 3 * * *", given={"command": ("true",), "queue": "gpu"})
    next_us = schedule.next_after(through.transport.now_us())
    through.transport.keep_schedule("nightly", schedule.to_json(), next_us)
    [(name, text, at)] = through.transport.schedules()
    assert (name, at) == ("nightly", next_us)
    assert Schedule.from_json(text).as_json(at)["run"]["command"] == ["true"]
    assert through.transport.schedule("nightly") == (text, at)
    assert through.transport.pause_schedule("nightly", paused=True)
    [(_, text, at)] = through.transport.schedules()
    assert (Schedule.from_json(text).paused, at) == (True, next_us)
    assert through.transport.pause_schedule("nightly", paused=False)
    assert not Schedule.from_json(through.transport.schedules()[0][1]).paused
    assert not through.transport.pause_schedule("nothing", paused=True)
    assert through.transport.delete_schedule("nightly")
    assert not through.transport.delete_schedule("nightly")
    assert through.transport.schedule("nightly") is None


def test_a_schedule_takes_inputs_of_a_run_and_is_of_no_array_and_waits_for_none(through: Api, store: Store) -> None:
    def make(**more: Any) -> Schedule:
        given = {"command": ("true",), "queue": "gpu", **more}
        item = read_options(given) if "array" not in more else Item(given)
        how = {"timezone": "UTC", "missed": None, "overlap": None}
        return add_schedule(through, item, cron="0 3 * * *", name="nightly", strict=False, **how).schedule

    train = create(store)
    for wrong in ({"after": [train]}, {"array": "1m83cyvtfq1tc69"}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} is of one run or submission"):
            make(**wrong)
    with pytest.raises(InputError, match="there is no run"):
        make(inputs=["1m83cyvtfq1tc69:model.pt"])
    assert make(inputs=[f"{train}:model.pt"]).given["inputs"] == (f"{train}:model.pt",)


def test_an_allowance(through: Api) -> None:
    name = "project:team/open"
    assert through.transport.allow(name, waiting=3, running=None, gpus=1)
    assert not through.transport.allow(name, waiting=2, running=None, gpus=1)
    [kept] = through.transport.allowances()
    assert (kept.name, kept.most_waiting, kept.most_running, kept.most_gpus) == (name, 2, None, 1)
    through.transport.allow(name, waiting=None, running=None, gpus=None)
    assert through.transport.allowances() == []


def test_the_audit_and_the_usage(through: Api, server: TestServer, redis_url: str) -> None:
    with server.client() as client:
        client.post("/api/v1/queues", json={"name": "gpu"})
    # An Api on Redis itself reads the same database, as it does where LAUNCH_DATABASE_URL names it.
    if isinstance(through.transport, RedisTransport):
        through = Api(transport=RedisTransport(settings=through.settings, archive=server.shared.database))

    def line() -> dict[str, Any]:
        [act] = through.transport.acts(who="", what="create", target="gpu", since_us=None, limit=5)
        return act

    assert line()["address"] == "127.0.0.1"
    # The result is written when the answer has been sent.
    assert wait_until(lambda: line()["result"]) == "done"
    since_us = through.transport.now_us()
    assert not through.transport.acts(who="", what="create", target="gpu", since_us=since_us, limit=5)
    day_us = 86_400_000_000
    assert through.transport.sums(["user", "queue"], since_us=since_us - day_us, until_us=since_us, project="") == []


@pytest.mark.parametrize("by", ["", "shoe", "state,shoe"])
def test_runs_are_counted_by_known_fields_only(server: TestServer, by: str) -> None:
    with server.client() as client:
        answer = client.get("/api/v1/runs/counts", params={"by": by})
    assert answer.status_code == 422
    assert "runs are counted by state" in answer.json()["detail"]
