"""Recurring submissions through real commands, beats and workers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from launch_worker.maintenance.passes import PASSES
from launch_worker.maintenance.schedules import fire_due
from launch_worker.model.run import Record
from launch_worker.model.schedule import Schedule
from launch_worker.model.states import RunState
from launch_worker.model.units import isoformat
from tests.conftest import wait_until
from tests.system.conftest import Cluster, through_both_doors


def keep(cluster: Cluster, name: str = "nightly", *, cron: str = "0 3 1 1 *", arguments: tuple[str, ...] = ()) -> None:
    result = cluster.run(
        *("launch-submit", "--cron", cron, "--cron-name", name, "--timezone", "UTC", *arguments, "--", "true")
    )
    assert result.code == 0, result


def make_due(cluster: Cluster, name: str = "nightly", *, in_s: float = 1.0) -> None:
    """Its time comes now: no test waits for a minute to pass."""
    store = cluster.api.store
    found = store.schedule(name)
    assert found is not None
    store.keep_schedule(name, found[0], store.now_us() + int(in_s * 1e6))


def runs(cluster: Cluster) -> list[Record]:
    return list(cluster.api.store.runs())


@through_both_doors
def test_a_recurring_run_is_listed_shown_and_deleted(cluster: Cluster) -> None:
    created = cluster.run(
        *("launch-worker", "schedules", "create", "nightly", "--cron", "30 2 * * *", "--timezone", "Europe/Berlin"),
        *("-q", "gpu", "-e", "API_TOKEN=s3cr3t", "--json", "--", "python", "train.py", "--lr", "0.1"),
    )
    assert created.code == 0, created
    shown = cluster.run("launch-worker", "schedules", "show", "nightly", "--json")
    assert json.loads(shown.out) == json.loads(created.out)
    assert json.loads(shown.out)["run"]["command"] == ["python", "train.py", "--lr", "0.1"]
    assert "s3cr3t" not in shown.out + created.out
    assert "s3cr3t" not in cluster.run("launch-worker", "schedules", "show", "nightly").out
    listed = cluster.run("launch-worker", "schedules", "--json")
    assert [json.loads(line)["name"] for line in listed.out.splitlines()] == ["nightly"]
    assert cluster.run("launch-worker", "schedules", "pause", "nightly").out == "schedule nightly is paused\n"
    assert "paused" in cluster.run("launch-worker", "schedules").out
    assert cluster.run("launch-worker", "schedules", "resume", "nightly").out == "schedule nightly goes on\n"
    assert cluster.run("launch-worker", "schedules", "delete", "nightly").code == 0
    gone = cluster.run("launch-worker", "schedules", "delete", "nightly")
    assert (gone.code, gone.err) == (
        2,
        "launch-worker: there is no schedule 'nightly'; list them with: launch-worker schedules\n",
    )
    assert cluster.run("launch-worker", "schedules").err == "no schedules\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--cron", "60 * * * *"), "is not a schedule"),
        (("--cron", "0 3 * * *", "--timezone", "Nowhere"), "timezone 'Nowhere' is unknown"),
        (("--cron", "0 3 * * *", "--delay", "5"), "--delay does not go with --cron"),
        (("--cron", "0 3 * * *", "--array", "0-3"), "--array does not go with --cron"),
        (("--cron", "0 3 * * *", "--wait"), "--wait does not go with --cron"),
        (("--cron", "0 3 * * *", "--strict", "-q", "gpuu"), "there is no queue 'gpuu'"),
        (("--cron", "0 3 * * *", "--cron-name", "a b"), "not allowed as a name"),
        (("--missed", "once"), "give --cron too"),
        (("--overlap", "skip"), "give --cron too"),
    ],
)
def test_what_makes_no_recurring_run_is_refused(cluster: Cluster, arguments: tuple[str, ...], problem: str) -> None:
    result = cluster.run("launch-submit", *arguments, "--", "true")
    assert result.code == 2, result
    assert problem in result.err
    assert result.err.count("\n") == 1
    assert cluster.api.store.schedules() == []
    assert runs(cluster) == []


@through_both_doors
def test_a_name_is_taken_once(cluster: Cluster) -> None:
    keep(cluster)
    result = cluster.run("launch-submit", "--cron", "@daily", "--cron-name", "nightly", "--", "true")
    assert result.code == 2
    assert "there is a schedule 'nightly' already" in result.err


@pytest.mark.parametrize("beats", [0, 2])
@pytest.mark.main_path
def test_beats_and_workers_fire_each_time_once(cluster: Cluster, beats: int) -> None:
    """Without a beat a worker does it."""
    keep(cluster, arguments=("--tag", "cron"))
    for number in range(2):
        cluster.worker(name=f"w{number}")
    for _ in range(beats):
        cluster.beat()
    for count in (1, 2, 3):
        make_due(cluster)
        wait_until(lambda count=count: len(runs(cluster)) == count, what=f"run {count} is made")  # type: ignore[misc]
    time.sleep(2)
    made = runs(cluster)
    assert len(made) == 3
    wait_until(lambda: all(record.state is RunState.FINISHED for record in runs(cluster)), what="they ran")
    assert {record.tags for record in made} == {("cron",)}


def test_however_many_fire_at_once_one_run_is_made(cluster: Cluster) -> None:
    from concurrent.futures import ThreadPoolExecutor

    keep(cluster)
    for count in range(1, 11):
        make_due(cluster, in_s=-1)
        with ThreadPoolExecutor(8) as pool:
            fired = list(pool.map(lambda _: fire_due(cluster.api.store, cluster.api.settings), range(8)))
        assert sum(fired) == 1
        assert len(runs(cluster)) == count


def damage(text: str) -> Callable[[Cluster], None]:
    def act(cluster: Cluster) -> None:
        cluster.api.store.keep_schedule("bad", text, cluster.api.store.now_us() - 1000)

    return act


def refuse(cluster: Cluster) -> None:
    one = Schedule(name="bad", cron="@daily", given={"command": ()})
    cluster.api.store.keep_schedule("bad", one.to_json(), cluster.api.store.now_us() - 1000)


def of_another_type(cluster: Cluster) -> None:
    damage("{}")(cluster)
    one = '{"name": "bad", "cron": "@daily", "given": {"command": ["true"], "env": 5, "tags": {"a": [1]}}}'
    cluster.api.store.keep_schedule("bad", one, cluster.api.store.now_us() - 1000)


@pytest.mark.parametrize("spoil", [damage(""), damage("{"), damage("[1]"), refuse, of_another_type])
def test_a_bad_one_does_not_stop_the_others(cluster: Cluster, spoil: Callable[[Cluster], None]) -> None:
    keep(cluster, "good")
    spoil(cluster)
    make_due(cluster, "good", in_s=-0.5)
    assert fire_due(cluster.api.store, cluster.api.settings) == 1
    assert len(runs(cluster)) == 1
    assert cluster.run("launch-worker", "schedules").code == 0
    assert "publish_due_runs" in PASSES


@pytest.mark.parametrize(("missed", "count"), [("skip", 0), ("once", 1)])
def test_times_that_were_missed_make_one_run_or_none(cluster: Cluster, missed: str, count: int) -> None:
    keep(cluster, cron="0 * * * *", arguments=("--missed", missed))
    # Hourly: the last of them is minutes ago, or just now for the first minute of an hour.
    wait_until(lambda: 60 < time.time() % 3600 < 3590, timeout_s=75, what="it is not the full hour")
    make_due(cluster, in_s=-5 * 3600)
    assert fire_due(cluster.api.store, cluster.api.settings) == count
    assert fire_due(cluster.api.store, cluster.api.settings) == 0
    found = cluster.api.store.schedule("nightly")
    assert found is not None
    assert found[1] > cluster.api.store.now_us()


def test_a_paused_one_makes_no_run_and_goes_on_from_the_next_time_on(cluster: Cluster) -> None:
    keep(cluster, cron="0 0 1 1 *", arguments=("--missed", "once"))
    assert cluster.api.transport.pause_schedule("nightly", paused=True)
    make_due(cluster, in_s=-1)
    assert fire_due(cluster.api.store, cluster.api.settings) == 0
    assert cluster.api.transport.pause_schedule("nightly", paused=False)
    assert fire_due(cluster.api.store, cluster.api.settings) == 0
    make_due(cluster, in_s=-1)
    assert fire_due(cluster.api.store, cluster.api.settings) == 1


def test_a_recurring_run_gets_the_defaults_that_its_queue_has_when_it_comes(cluster: Cluster) -> None:
    keep(cluster, arguments=("-q", "gpu"))
    assert cluster.run("launch-worker", "queues", "create", "gpu", "--default", "retries=3").code == 0
    make_due(cluster, in_s=-0.5)
    assert fire_due(cluster.api.store, cluster.api.settings) == 1
    assert json.loads(runs(cluster)[0].spec)["retries"] == 3


@through_both_doors
def test_the_folder_of_a_recurring_run_is_sent_with_the_schedule(cluster: Cluster) -> None:
    code = cluster.folder / "code"
    code.mkdir()
    (code / "hello.sh").write_text("echo hello\n")
    result = cluster.run("launch-submit", "--cron", "@yearly", "--upload", "code", "--", "sh", "hello.sh")
    assert result.code == 0, result
    cluster.worker()
    make_due(cluster, "hello.sh")
    (run,) = wait_until(cluster.runs, what="it was fired")
    assert run.wait(20) is RunState.FINISHED
    assert run.logs() == b"hello\n"


def test_a_recurring_job_that_goes_on_is_not_run_beside_itself_and_knows_its_time(cluster: Cluster) -> None:
    made = cluster.run(
        *("launch-worker", "schedules", "create", "slow", "--cron", "@daily", "--overlap", "skip", "--"),
        *("sh", "-c", "echo $LAUNCH_SCHEDULED_AT; sleep 60"),
    )
    assert made.code == 0, made
    assert '"overlap": "skip"' in cluster.run("launch-worker", "schedules", "show", "slow", "--json").out
    cluster.worker()
    make_due(cluster, "slow")
    [run] = wait_until(cluster.runs, what="it was fired")
    wait_until(lambda: run.refresh().state is RunState.RUNNING and run.logs(), what="it goes on")
    assert run.logs().decode().strip() == isoformat(run.record.scheduled_at)
    make_due(cluster, "slow", in_s=-0.5)
    fire_due(cluster.api.store, cluster.api.settings)
    assert len(cluster.runs()) == 1
