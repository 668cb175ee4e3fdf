"""Queues and pools through a whole system: limits, pauses, defaults, template variables, macros."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from launch_worker.api.client import Run, submit
from launch_worker.errors import InputError, RefusedError
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.system.conftest import Cluster, states, through_both_doors, wait_for_output, waits_for

SCHEMA = {"type": "object", "properties": {"lr": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.1}}}


def sh(cluster: Cluster, script: str, **options: Any) -> Run:
    return submit(["sh", "-c", script], api=cluster.api, **options)


def ends(runs: list[Run], timeout_s: float = 60.0) -> set[RunState]:
    return {run.wait(timeout_s) for run in runs}


def spans(runs: list[Run]) -> list[tuple[float, float]]:
    """When each ran, in server seconds, by start."""
    records = [run.refresh() for run in runs]
    return sorted(((record.started_at or 0) / 1e6, (record.ended_at or 0) / 1e6) for record in records)


def most_at_once(path: Path) -> int:
    """From lines `+` and `-` that jobs appended."""
    running = most = 0
    for sign in path.read_text().split():
        running += 1 if sign == "+" else -1
        most = max(most, running)
    return most


def mark(path: Path, seconds: float) -> str:
    return f"echo + >> {path}; sleep {seconds}; echo - >> {path}"


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.main_path
def test_a_limit_of_one_holds_over_two_workers_and_the_queue_is_not_idle(cluster: Cluster, tmp_path: Path) -> None:
    """P13."""
    cluster.api.create_queue("gpu", limit=1)
    for name in ("w1", "w2"):
        cluster.worker("gpu", slots=4, name=name)
    runs = [sh(cluster, mark(tmp_path / "marks", 0.3), queue="gpu") for _ in range(10)]
    assert ends(runs) == {RunState.FINISHED}
    assert most_at_once(tmp_path / "marks") == 1
    times = spans(runs)
    gaps = [start - end for (_, end), (start, _) in pairwise(times)]
    assert sorted(gaps)[len(gaps) // 2] < 0.5, gaps


def test_a_limit_that_is_raised_lets_those_go_that_waited_for_it(cluster: Cluster) -> None:
    cluster.worker("gpu", slots=4)
    cluster.api.create_queue("gpu", limit=0)
    runs = [sh(cluster, "sleep 600", queue="gpu") for _ in range(3)]
    wait_until(lambda: all("limit 0 of queue gpu" in run.refresh().reason for run in runs), what="they say why")
    cluster.api.set_queue("gpu", limit=2)
    wait_until(lambda: cluster.api.queue("gpu").running == 2, what="two run")
    assert [run.state for run in runs].count(RunState.PENDING) == 1
    cluster.api.set_queue("gpu", limit=None)
    wait_until(lambda: cluster.api.queue("gpu").running == 3, what="three run")
    for run in runs:
        run.cancel(grace_s=0)
    assert ends(runs) == {RunState.KILLED}


def test_a_pools_limit_is_for_all_its_queues_together(cluster: Cluster, tmp_path: Path) -> None:
    cluster.api.create_pool("lab", limit=2)
    for name in ("a", "b"):
        cluster.api.create_queue(name, pool="lab")
    cluster.worker("a,b,c", slots=8)
    runs = [sh(cluster, mark(tmp_path / "marks", 0.5), queue=name) for name in ("a", "b") * 4]
    free = sh(cluster, "true", queue="c")
    assert free.wait(20) is RunState.FINISHED
    assert ends(runs) == {RunState.FINISHED}
    assert most_at_once(tmp_path / "marks") == 2


# -- pause -------------------------------------------------------------------------------------------------------------


@pytest.mark.main_path
def test_a_pause_bites_and_ends(cluster: Cluster) -> None:
    """P17."""
    cluster.worker("gpu", slots=4)
    running = sh(cluster, f"echo up; {waits_for(cluster.folder / 'end')}; echo down", queue="gpu")
    wait_for_output(running, b"up")
    assert cluster.run("launch-worker", "queues", "pause", "gpu").code == 0
    waiting = sh(cluster, "true", queue="gpu")
    cluster.worker("gpu", slots=4, name="w2")
    (cluster.folder / "end").touch()
    assert running.wait(20) is RunState.FINISHED
    assert running.logs() == b"up\ndown\n"
    record = waiting.refresh()
    assert (record.state, record.attempt) == (RunState.PENDING, 0)
    wait_until(lambda: "paused" in waiting.refresh().reason, what="it says why")
    assert cluster.run("launch-worker", "queues", "resume", "gpu").code == 0
    assert waiting.wait(20) is RunState.FINISHED


def test_a_paused_pool_stops_its_queues_and_no_others(cluster: Cluster) -> None:
    cluster.api.create_pool("lab")
    cluster.api.create_queue("a", pool="lab")
    cluster.api.pause_pool("lab")
    cluster.worker("a,b")
    stopped, free = sh(cluster, "true", queue="a"), sh(cluster, "true", queue="b")
    assert free.wait(20) is RunState.FINISHED
    assert stopped.state is RunState.PENDING
    # A queue that is paused itself stays so.
    cluster.api.pause_queue("a")
    cluster.api.resume_pool("lab")
    later = sh(cluster, "true", queue="b")
    assert later.wait(20) is RunState.FINISHED
    assert stopped.state is RunState.PENDING
    cluster.api.resume_queue("a")
    assert stopped.wait(20) is RunState.FINISHED


# -- defaults ----------------------------------------------------------------------------------------------------------


@through_both_doors
def test_defaults_of_queue_and_pool_are_kept_with_the_run(cluster: Cluster) -> None:
    cluster.api.create_pool("lab", defaults={"env": {"A": "pool", "B": "pool"}, "retries": 3, "tags": ["lab"]})
    cluster.api.create_queue("gpu", pool="lab", defaults={"env": {"B": "queue", "C": "queue"}, "timeout": "1h"})
    cluster.worker("gpu")
    done = cluster.run(
        *("launch-submit", "-q", "gpu", "-e", "C=run", "--retries", "1", "--follow", "--", "sh", "-c", "echo $A $B $C")
    )
    assert (done.code, done.out) == (0, "pool queue run\n"), done
    (run,) = cluster.runs()
    spec = run.record.as_json()["spec"]
    assert (spec["retries"], spec["timeout_s"], run.record.tags) == (1, 3600, ("lab",))
    # Merged once: what is configured later is for later runs.
    cluster.api.set_queue("gpu", defaults={"timeout": "2h"})
    assert run.refresh().as_json()["spec"]["timeout_s"] == 3600


def test_the_environment_of_a_queue_is_a_default_of_its_runs(cluster: Cluster) -> None:
    for act, word in (("create", "auto"), ("set", "none")):
        done = cluster.run("launch-worker", "queues", act, "gpu", "--environment", word, "--default", "python=3.12")
        assert done.code == 0, done
        assert cluster.api.queue("gpu").settings["defaults"] == {"requirements": word, "python": "3.12"}


def test_a_time_limit_of_the_queue_ends_a_run_that_named_none(cluster: Cluster) -> None:
    cluster.api.create_queue("short", defaults={"timeout": 1, "grace": "1s"})
    cluster.worker("short")
    run = sh(cluster, "sleep 60", queue="short")
    assert run.wait(20) is RunState.FAILED
    assert run.record.reason == "time limit of 1 s reached"


def test_a_queue_that_changes_between_two_submits_of_one_connection_is_seen(cluster: Cluster) -> None:
    assert sh(cluster, "true", queue="gpu").record.as_json()["spec"].get("retries") is None
    cluster.api.set_queue("gpu", defaults={"retries": 2})
    assert sh(cluster, "true", queue="gpu").record.as_json()["spec"]["retries"] == 2
    cluster.api.set_queue("gpu", defaults={"retries": None})
    assert sh(cluster, "true", queue="gpu").record.as_json()["spec"].get("retries") is None


@through_both_doors
def test_what_a_queue_gives_is_known_before_a_run_is_refused(cluster: Cluster) -> None:
    """Without the queue's image a run without a command would make no sense."""
    cluster.api.create_queue("sim", defaults={"image": "sim:3"})
    done = cluster.run("launch-submit", "-q", "sim", "--network", "none", "--quiet")
    assert done.code == 0, done
    assert cluster.show(done.out.strip())["spec"]["image"] == "sim:3"


# -- template variables, priorities ------------------------------------------------------------------------------------


@through_both_doors
def test_values_are_refused_at_submit_with_the_reason_and_nothing_is_written(cluster: Cluster) -> None:
    cluster.api.create_queue("gpu", variables=SCHEMA)
    done = cluster.run("launch-submit", "-q", "gpu", "--set", "lr=2", "--", "true")
    assert done.code == 2, done
    assert "template variable 'lr': 2 is greater than the maximum of 1" in done.err
    assert "Traceback" not in done.err
    with pytest.raises(InputError, match="less than the minimum"):
        sh(cluster, "true", queue="gpu", values={"lr": -1})
    with pytest.raises(InputError, match="the system's own macro"):
        sh(cluster, "true", queue="gpu", values={"run_id": "x"})
    assert cluster.runs() == []


def test_values_are_checked_again_at_the_claim(cluster: Cluster) -> None:
    """P8: the slot is free and the worker goes on."""
    cluster.api.create_queue("gpu", variables=SCHEMA)
    run = sh(cluster, "true", queue="gpu", values={"lr": 0.5})
    cluster.api.set_queue("gpu", variables={"type": "object", "properties": {"lr": {"maximum": 0.2}}})
    cluster.worker("gpu", slots=1)
    assert run.wait(20) is RunState.FAILED
    record = run.refresh()
    assert (record.phase, record.reason) == ("agent", "template variable 'lr': 0.5 is greater than the maximum of 0.2")
    assert sh(cluster, "true", queue="gpu", values={"lr": 0.1}).wait(20) is RunState.FINISHED


@through_both_doors
def test_a_queue_without_priorities_refuses_them(cluster: Cluster) -> None:
    """W12."""
    cluster.api.create_queue("gpu", priorities=False)
    done = cluster.run("launch-submit", "-q", "gpu", "--priority", "high", "--", "true")
    assert (done.code, "has no priorities" in done.err) == (2, True), done
    assert cluster.runs() == []
    assert cluster.run("launch-submit", "-q", "gpu", "--", "true").code == 0


# -- macros ------------------------------------------------------------------------------------------------------------


def test_a_job_sees_its_macros_filled_and_no_variable_that_was_not_allowed(cluster: Cluster) -> None:
    """W10."""
    cluster.api.create_queue("gpu", variables=SCHEMA, macro_env=["SITE"])
    cluster.worker("gpu", env={"SITE": "lab", "SECRET": "s3cr3t-value"})
    run = submit(
        [
            *("printf", "%s\n", "${run_id} ${attempt} ${queue} ${run_name} ${entity_name} ${project_name}"),
            *("${lr}", "${opt}", "${SITE}", "${SECRET}", "$${run_id}", "${unknown}"),
        ],
        queue="gpu",
        name="see",
        project="me/proj",
        values={"opt": "a b;c"},
        env={"X": "${queue}-${lr}"},
        api=cluster.api,
    )
    assert run.wait(20) is RunState.FINISHED
    lines = run.logs().decode().splitlines()
    assert lines == [
        f"{run.id} 1 gpu see me proj",
        *("0.1", "a b;c", "lab", "${SECRET}", "${run_id}", "${unknown}"),
    ]
    kept = json.dumps(run.refresh().as_json())
    # The record keeps what was submitted: each attempt is filled anew.
    assert "${run_id} ${attempt}" in kept
    assert "lab" not in kept
    seen = sh(cluster, "echo $X", queue="gpu", env={"X": "${queue}-${lr}-${author}"})
    assert seen.wait(20) is RunState.FINISHED
    assert seen.logs().decode().startswith("gpu-0.1-")


def test_a_macro_without_anything_to_stand_for_fails_the_run_in_phase_agent(cluster: Cluster) -> None:
    """P8."""
    cluster.worker(slots=1)
    bad = sh(cluster, "echo ${project_name}")
    assert bad.wait(20) is RunState.FAILED
    record = bad.refresh()
    assert (record.phase, record.attempt) == ("agent", 1)
    assert "${project_name} has nothing to stand for here" in record.reason
    again = sh(cluster, "echo ${attempt}; exit $((1 - (${attempt} - 1)))", retries=1)
    assert again.wait(20) is RunState.FINISHED
    assert again.logs() == b"2\n"
    assert states(again) == ["Pending", "Running", "Failed", "Pending", "Running", "Finished"]


# -- the commands ------------------------------------------------------------------------------------------------------


def told(cluster: Cluster, *command: str) -> Any:
    done = cluster.run("launch-worker", *command)
    assert done.code == 0, done
    return json.loads(done.out)


@through_both_doors
def test_a_queue_is_made_shown_changed_and_deleted_by_commands(cluster: Cluster, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    assert cluster.run("launch-worker", "pools", "create", "lab", "--limit", "3", "--default", "retries=1").code == 0
    made = told(
        cluster,
        *("queues", "create", "gpu", "--limit", "2", "--pool", "lab", "--rank", "1", "--default", "timeout=2h"),
        *("--variables", str(schema), "--macro-env", "SITE", "--no-priorities", "--description", "for gpus", "--json"),
    )
    assert (made["limit"], made["pool"], made["rank"], made["priorities"]) == (2, "lab", 1, False)
    assert (made["defaults"], made["variables"], made["macro_env"]) == ({"timeout_s": 7200.0}, SCHEMA, ["SITE"])
    assert told(cluster, "queues", "show", "gpu", "--json") == made
    assert told(cluster, "pools", "show", "lab", "--json")["queues"] == ["gpu"]
    sh(cluster, "true", queue="gpu")
    assert cluster.run("launch-worker", "pools", "pause", "lab").code == 0
    listed = cluster.run("launch-worker", "queues", "list").out.splitlines()
    assert listed[0].split() == [
        *("QUEUE", "WAITING", "RUNNING", "LIMIT", "PAUSED", "WORKERS", "LATER", "POOL", "RESOURCE", "DESCRIPTION")
    ]
    assert listed[1].split()[:8] == ["gpu", "1", "0", "2", "-", "0", "0", "lab"]
    cleared = told(
        cluster,
        *("queues", "set", "gpu", "--limit", "none", "--pool", "", "--default", "timeout=", "--variables", ""),
        *("--macro-env", "", "--priorities", "--description", "", "--json"),
    )
    told_now: dict[str, Any] = {
        "limit": None,
        "pool": None,
        "rank": None,
        "defaults": {},
        "variables": {},
        "macro_env": [],
    }
    assert cleared == made | told_now | {"priorities": True, "description": None, "waiting": 1}
    refused = cluster.run("launch-worker", "queues", "delete", "gpu")
    assert (refused.code, "in it" in refused.err) == (1, True), refused
    (run,) = cluster.runs()
    run.cancel()
    assert cluster.run("launch-worker", "queues", "delete", "gpu").code == 0
    assert cluster.run("launch-worker", "pools", "delete", "lab").code == 0
    assert (cluster.api.queues(), cluster.api.pools()) == ([], [])
    assert run.state is RunState.KILLED


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("queues", "set", "nope", "--limit", "1"), "there is no queue 'nope'"),
        (("queues", "show", "nope"), "there is no queue 'nope'"),
        (("queues", "pause", "nope"), "there is no queue 'nope'"),
        (("queues", "delete", "nope"), "there is no queue 'nope'"),
        (("queues", "create", "a b"), "queue 'a b' is not allowed"),
        (("queues", "create", "maintenance"), "belongs to the system"),
        (("queues", "create", "x", "--pool", "nope"), "there is no pool 'nope'"),
        (("queues", "create", "x", "--rank", "1"), "rank is a place in a pool"),
        (("queues", "create", "x", "--limit", "many"), "nor none"),
        (("queues", "create", "x", "--default", "colour=red"), "'colour' can have no default"),
        (("queues", "create", "x", "--default", "timeout"), "write --default NAME=VALUE"),
        (("queues", "create", "x", "--variables", "/nope"), "cannot be read"),
        (("queues", "create", "x", "--variables", "{"), "is not JSON"),
        (("queues", "create", "x", "--variables", '{"type": "object", "$ref": "#"}'), "$ref is not allowed"),
        (("queues", "create", "x", "--resource", "process", "--default", "image=a:1"), "own rules refuse its defaults"),
        (("pools", "show", "nope"), "there is no pool 'nope'"),
        (("pools", "create", "a/b"), "pool 'a/b' is not allowed"),
        (("pools", "set", "nope", "--limit", "1"), "there is no pool 'nope'"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(cluster: Cluster, command: tuple[str, ...], said: str) -> None:
    done = cluster.run("launch-worker", *command)
    assert (done.code, done.out) == (2, ""), done
    assert said in done.err
    assert "Traceback" not in done.err
    assert (cluster.api.queues(), cluster.api.pools()) == ([], [])


def test_python_makes_and_changes_queues_too(cluster: Cluster) -> None:
    api = cluster.api
    api.create_pool("lab", defaults={"retries": 1}, description="d")
    queue = api.create_queue("gpu", pool="lab", defaults={"timeout": "2h"}, container={"image": "a:1"}, limit=4)
    assert (queue.limit, queue.pool, queue.rank, queue.config.defaults) == (4, "lab", 1000, {"timeout_s": 7200})
    with pytest.raises(InputError, match="is there already"):
        api.create_queue("gpu")
    with pytest.raises(InputError, match="is there already"):
        api.create_pool("lab")
    with pytest.raises(RefusedError, match="in it"):
        api.delete_pool("lab")
    with pytest.raises(InputError, match="limit must be a whole number"):
        api.set_queue("gpu", limit=-1)
    api.set_queue("gpu", container={"allow_images": ["a:*"]})
    with pytest.raises(InputError, match=r"queue 'gpu' is in this pool: .* refuse its defaults"):
        api.set_pool("lab", defaults={"image": "b:1"})
    cleared = api.set_queue("gpu", limit=None, pool=None, defaults=None, container=None)
    assert (cleared.limit, cleared.pool, cleared.config_json) == (None, "", "")
    assert api.set_pool("lab", defaults=None, description=None).config_json == ""
    assert [pool.name for pool in api.pools()] == ["lab"]
    api.delete_pool("lab")
    api.delete_queue("gpu")
    assert (api.queues(), api.pools()) == ([], [])


@through_both_doors
def test_a_queue_with_a_damaged_configuration_is_listed_with_the_others(cluster: Cluster) -> None:
    cluster.api.create_queue("good")
    cluster.api.store.configure("queue", "bad", {"config": "{"})
    listed = {queue.name: queue.problem for queue in cluster.api.queues()}
    assert listed["good"] == ""
    assert "is damaged" in listed["bad"]
    shown = cluster.run("launch-worker", "queues")
    assert (shown.code, "damaged" in shown.out) == (0, True), shown
