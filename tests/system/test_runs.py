"""Looking at runs from Python and the command line, on real workers: the seeds' ways of doing it."""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from launch_worker.api.client import Api, Run, submit
from launch_worker.errors import UnknownRunError
from launch_worker.model import item_schema
from launch_worker.model.states import RunState
from launch_worker.store.redis.client import text
from launch_worker.submission.sent import me
from tests.conftest import wait_until
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster, break_machine, states, through_both_doors

pytestmark = through_both_doors

S = RunState
#: The snippet of W&B's page "Run states". Only its import is another one.
SNIPPET = """
import launch_worker as wandb

api = wandb.Api()
runs = api.runs(path="<entity>/<project>")

# Access run object's properties
for run in runs:
    print(f"Run: {run.name}")
    print(f"Run state: {run.state}")
    print()
"""


def make(cluster: Cluster, *command: str, **options: Any) -> Run:
    return submit(list(command), api=cluster.api, **options)


def crash(cluster: Cluster) -> Run:
    """A run whose worker is killed in the middle."""
    worker = cluster.worker("doomed", name="doomed", slots=1)
    run = make(cluster, "sleep", "60", queue="doomed", project="me/iris", name="crashed")
    wait_until(lambda: run.state is S.RUNNING, what="it runs")
    worker.kill()
    return run


def everything(cluster: Cluster) -> dict[bytes, Any]:
    redis = redis_of(cluster.redis_url)
    return {key: redis.dump(key) for key in redis.keys("*")}


def listed(cluster: Cluster, *arguments: str) -> list[str]:
    result = cluster.run("launch-worker", "runs", "--json", *arguments)
    assert result.code == 0, result
    return [json.loads(line)["name"] for line in result.out.splitlines()]


def test_the_snippet_of_the_seed_works_with_only_its_import_changed(cluster: Cluster) -> None:
    """Each of the six states, as `print` shows it."""
    crashed = crash(cluster)
    cluster.worker(slots=1)
    for name, script in (("finished", "exit 0"), ("failed", "exit 3")):
        make(cluster, "sh", "-c", script, name=name, project="me/iris").wait(timeout=20)
    killed = make(cluster, "sleep", "60", name="killed", project="me/iris", queue="nobody")
    killed.stop()
    running = make(cluster, "sleep", "60", name="running", project="me/iris")
    wait_until(lambda: running.state is S.RUNNING, what="it runs")
    make(cluster, "true", name="pending", project="me/iris", queue="nobody")
    make(cluster, "true", name="elsewhere", project="me/other", queue="nobody")
    crashed.wait(timeout=20)
    path = cluster.folder / "snippet.py"
    path.write_text(SNIPPET.replace("<entity>/<project>", "me/iris"))
    result = cluster.run(sys.executable, str(path))
    assert result.code == 0, result
    names = ["pending", "running", "killed", "failed", "finished", "crashed"]
    assert result.out == "".join(f"Run: {name}\nRun state: {name.capitalize()}\n\n" for name in names)
    running.stop(grace_s=0)
    assert running.wait(timeout=20) is S.KILLED


def test_waiting_ends_on_every_final_state_and_takes_a_timeout(cluster: Cluster) -> None:
    crashed = crash(cluster)
    cluster.worker(slots=4)
    finished, failed = make(cluster, "true"), make(cluster, "sh", "-c", "exit 3")
    retried = make(cluster, "sh", "-c", "exit 4", retries=1)
    killed = make(cluster, "sleep", "60")
    with pytest.raises(TimeoutError, match=r"is still (Pending|Running) after 0\.2 s"):
        killed.wait(timeout=0.2)
    wait_until(lambda: killed.state is S.RUNNING, what="it runs")
    killed.stop(grace_s=0)
    ends = [run.wait(timeout=20) for run in (finished, failed, retried, killed, crashed)]
    assert ends == [S.FINISHED, S.FAILED, S.FAILED, S.KILLED, S.CRASHED]
    assert states(retried).count("Failed") == 2
    assert [run.wait(timeout_s=1) for run in (finished, killed)] == [S.FINISHED, S.KILLED]


def test_waiting_ends_when_the_run_is_deleted(cluster: Cluster) -> None:
    run = make(cluster, "true", queue="nobody")
    errors: list[Exception | str] = []

    def wait() -> None:
        try:
            errors.append(str(Run(cluster.api, run.id).wait(timeout=30)))
        except UnknownRunError as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_until(
        lambda: redis_of(cluster.redis_url).pubsub_numsub(f"launch:news:{run.id}")[0][1], what="the waiter listens"
    )
    run.delete()
    waiter.join(20)  # its own timeout is 30 s
    assert not waiter.is_alive()
    assert "was deleted" in str(errors[0]) or errors == ["Killed"]


def test_a_deleted_run_is_never_executed(cluster: Cluster) -> None:
    """W15."""
    run = make(cluster, "touch", str(cluster.folder / "executed"))
    result = cluster.run("launch-worker", "delete", run.id)
    assert (result.code, result.out) == (0, f"run {run.id} is deleted\n")
    cluster.worker()
    assert make(cluster, "true").wait(timeout=20) is S.FINISHED
    assert not (cluster.folder / "executed").exists()
    for command in ("show", "logs", "wait", "cancel", "retry", "files"):
        result = cluster.run("launch-worker", command, run.id)
        assert result.code == 2, result
        assert f"run {run.id} was deleted by" in result.err
        assert len(result.err.splitlines()) == 1


def test_a_running_run_is_deleted_once_it_has_stopped(cluster: Cluster) -> None:
    cluster.worker()
    run = make(cluster, "sleep", "60")
    wait_until(lambda: run.state is S.RUNNING, what="it runs")
    result = cluster.run("launch-worker", "delete", run.id)
    assert result.code == 1
    assert f"is Running; stop it first with: launch-worker cancel {run.id}" in result.err
    run.stop(grace_s=0)
    assert run.wait(timeout=20) is S.KILLED
    assert json.loads(cluster.run("launch-worker", "delete", "--json", run.id).out) == {
        "id": run.id,
        "delete": "deleted",
    }
    assert list(cluster.api.runs()) == []


def test_the_command_line_lists_runs_by_filter_sweep_and_tag(cluster: Cluster, door: str) -> None:
    for lr in (0.001, 0.01, 0.1):
        options = ("--config", f"lr={lr}", "--config", "model=tiny", "--tag", f"lr={lr}", "--tag", "all")
        result = cluster.run("launch-submit", "-q", "nobody", "--name", f"lr{lr}", *options, "--", "true")
        assert result.code == 0, result
    cluster.api.submit({"command": ("true",), "queue": "nobody", "name": "swept", "sweep": "s1"})
    assert listed(cluster, "--filter", '{"config.lr": {"$gt": 0.005}}') == ["lr0.1", "lr0.01"]
    assert listed(cluster, "--filter", '{"config.model": "tiny", "state": "pending"}', "--limit", "1") == ["lr0.1"]
    assert listed(cluster, "--sweep", "s1") == ["swept"]
    assert listed(cluster, "--tag", "all", "--tag", "lr=0.01") == ["lr0.01"]
    assert listed(cluster, "--pending", "--tag", "all") == ["lr0.001", "lr0.01", "lr0.1"]
    assert listed(cluster, "--queue", "nobody", "--sort", "name") == ["lr0.001", "lr0.01", "lr0.1", "swept"]
    assert listed(cluster, "--sort", "-config.lr", "--limit", "2") == ["lr0.1", "lr0.01"]
    chosen = cluster.run("launch-worker", "runs", "-o", "name,config.lr", "--sort", "config.lr", "--limit", "2")
    assert [line.split() for line in chosen.out.splitlines()] == [
        ["NAME", "config.lr"],
        ["lr0.001", "0.001"],
        ["lr0.01", "0.01"],
    ]
    assert listed(cluster, "--text", "TINY", "--text", "0.01") == ["lr0.01"]
    assert listed(cluster, "--name", "swept", "--author", me(), "--since", "1h") == ["swept"]
    assert listed(cluster, "--name", "swept", "--author", "nobody@nowhere") == []
    assert listed(cluster, "--until", "1h") == listed(cluster, "--since", "9d", "--until", "1d") == []
    counted = cluster.run("launch-worker", "runs", "--count-by", "state", "--json")
    assert [json.loads(line) for line in counted.out.splitlines()] == [{"state": "Pending", "runs": 4}]
    assert cluster.run("launch-worker", "runs", "--count-by", "queue").out.split() == ["QUEUE", "RUNS", "nobody", "4"]
    for option, value, said in (
        ("--since", "soon", "neither a duration"),
        ("--text", "x" * 201, "1 to 200"),
        ("--count-by", "reason", "counted by state, queue"),
        ("-o", "colour", "'colour' is not a column; there are place, state, name"),
        ("--sort", "colour", "runs have no 'colour'"),
        # A server has an archive, which counts by each field.
        *((("--count-by", "tag", "launch-worker archive run"),) if door == "redis" else ()),
    ):
        result = cluster.run("launch-worker", "runs", option, value)
        assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1), result
        assert said in result.err
    for given, said in (
        ('{"config.lr": ', "is not JSON"),
        ('{"colour": 1}', "runs have no 'colour'"),
        ('{"name": {"$regex": "("}}', "unclosed group"),
    ):
        result = cluster.run("launch-worker", "runs", "--filter", given)
        assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1), result
        assert said in result.err


def test_a_group_is_one_row_with_its_counts_and_each_of_its_runs_when_asked(cluster: Cluster) -> None:
    cluster.api.submit({"command": ("true",), "queue": "nobody", "name": "older"})
    for name, indexes in (("part", "0-24"), ("some", "3,7")):
        assert cluster.run("launch-submit", "-q", "nobody", "--name", name, "--array", indexes, "--", "true").code == 0

    def rows(*options: str) -> list[str]:
        result = cluster.run("launch-worker", "runs", "-o", "name,id", *options)
        assert result.code == 0, result
        return result.out.splitlines()[1:]

    some, part, older = rows("--folded", "--limit", "3")
    assert re.fullmatch(r"some \[2 runs\] ◌2  +a[0-9a-z]{15}", some)
    assert re.fullmatch(r"part \[0-24\] ◌25  +a[0-9a-z]{15}", part)
    assert re.fullmatch(r"older  +[0-9a-z]{15}", older)
    group = part.split()[-1]
    assert [line.split()[0] for line in rows("--group", group, "--limit", "2")] == ["part[24]", "part[23]"]
    assert len(rows("--each", "--limit", "9")) == len(rows("--limit", "9")) == 9
    refused = cluster.run("launch-worker", "runs", "--folded", "--sort", "name")
    assert (refused.code, refused.out) == (2, "")


def test_hyperparameters_reach_the_job_and_are_shown(cluster: Cluster) -> None:
    cluster.worker()
    run = make(
        cluster, "sh", "-c", 'cat "$LAUNCH_CONFIG"', config={"lr": 0.1, "opt": {"name": "adam"}}, values={"b": 8}
    )
    assert run.wait(timeout=20) is S.FINISHED
    assert json.loads(run.logs())["config"] == {"lr": 0.1, "opt": {"name": "adam"}, "b": 8} == run.config
    assert cluster.show(run.id)["config"] == run.config
    shown = cluster.run("launch-worker", "show", run.id)
    assert "lr=0.1" in shown.out


def test_the_workers_are_told_in_python(cluster: Cluster) -> None:
    assert cluster.api.workers() == []
    part = cluster.worker("default,gpu", slots=3)
    (worker,) = cluster.api.workers()
    assert (worker.pid, worker.slots, worker.running, worker.state) == (part.pid, 3, 0, "running")
    assert (worker.name.split("@")[0], sorted(worker.queues), worker.problem) == ("w1", ["default", "gpu"], "")


def test_files_of_a_run_are_listed_and_printed(cluster: Cluster) -> None:
    run = make(cluster, "true", queue="nobody")
    result = cluster.run("launch-worker", "files", run.id)
    assert (result.code, result.out, result.err) == (0, "", f"no files are kept with run {run.id}\n")
    cluster.api.store.save_file(run.id, "build.log", b"line one\nline two")
    assert cluster.run("launch-worker", "files", run.id, "build.log").out == "line one\nline two"
    listed = json.loads(cluster.run("launch-worker", "files", run.id, "--json").out)
    assert (listed["path"], listed["size"], listed["kind"], listed["kept"]) == ("build.log", 17, "saved", True)
    assert "build.log (17 B)" in cluster.run("launch-worker", "show", run.id).out
    missing = cluster.run("launch-worker", "files", run.id, "other")
    assert (missing.code, "there are: build.log" in missing.err) == (2, True)


# -- the format of items -----------------------------------------------------------------------------------------------


def test_the_schema_is_printed(cluster: Cluster) -> None:
    result = cluster.run("launch-worker", "schema", env={"LAUNCH_REDIS_URL": "redis://localhost:1/0"})
    assert result.code == 0, result
    published = Path(__file__).parents[2] / "docs" / f"item-{item_schema.VERSION}.schema.json"
    assert result.out == published.read_text()


def test_a_dry_run_prints_the_resolved_item_and_writes_nothing(cluster: Cluster) -> None:
    """W6: secrets are masked."""
    cluster.api.create_queue("gpu", defaults={"retries": 2, "tags": ["lab"]})
    before = everything(cluster)
    result = cluster.run(
        *("launch-submit", "--dry-run", "-q", "gpu", "--gpus", "1", "-e", "API_KEY=hunter2", "-e", "DEBUG=1"),
        *("--config", "lr=0.1", "--delay", "5m", "--project", "me/iris", "--", "python", "train.py"),
    )
    assert result.code == 0, result
    shown = json.loads(result.out)
    item = shown["item"]
    assert (shown["version"], shown["delay_s"], shown["at"]) == (1, 300.0, None)
    assert (item["command"], item["queue"], item["gpus"], item["name"]) == (
        ["python", "train.py"],
        "gpu",
        1,
        "train.py",
    )
    assert (item["retries"], item["tags"], item["config"]) == (2, ["lab"], {"lr": 0.1})
    assert item["env"] == {"API_KEY": "********", "DEBUG": "1"}
    assert "hunter2" not in result.out + result.err
    assert everything(cluster) == before


def test_a_dry_run_of_many_prints_one_line_each_and_finds_what_is_wrong(cluster: Cluster) -> None:
    (cluster.folder / "code").mkdir()
    jobs = cluster.folder / "jobs.jsonl"
    jobs.write_text('{"command": ["a"], "upload": "code"}\n{"command": ["b"], "array": "0-2%2", "config": {"x": 1}}\n')
    result = cluster.run("launch-submit", "--dry-run", "--config", "y=2", "--from-file", "jobs.jsonl")
    first, second = [json.loads(line) for line in result.out.splitlines()]
    assert first["item"]["upload"] == f"(the folder {cluster.folder}/code)"
    assert second["array"] == {"indexes": [0, 1, 2], "limit": 2}
    assert second["item"]["config"] == {"x": 1, "y": 2}
    jobs.write_text('{"command": ["a"]}\n{"command": ["b"], "after": ["1m83cyvtfq1tc69"]}\n')
    result = cluster.run("launch-submit", "--dry-run", "--from-file", "jobs.jsonl")
    assert (result.code, result.out) == (2, "")
    assert "jobs.jsonl:2: there is no run or group 1m83cyvtfq1tc69" in result.err
    assert everything(cluster) == {}
    for other in ("--wait", "--follow", "--quiet"):
        assert cluster.run("launch-submit", "--dry-run", other, "--", "true").code == 2


def test_an_older_worker_leaves_a_newer_item_to_a_newer_one(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    older = cluster.worker(name="older")
    with monkeypatch.context() as patch:
        # A producer of the next version.
        patch.setattr(item_schema, "version_of", lambda _: item_schema.VERSION + 1)
        newer = make(cluster, "true")
    assert make(cluster, "true").wait(timeout=20) is S.FINISHED
    wanted = f"waiting for a worker that reads items of version {item_schema.VERSION + 1}"
    wait_until(lambda: newer.refresh().reason == wanted, what="the reason is told")
    assert cluster.show(newer.id)["reason"] == wanted
    for _ in range(3):
        make(cluster, "true").wait(timeout=20)
    assert older.log.count("run.claim_refused") == 1, "it does not spin"
    assert (newer.state, newer.record.attempt) == (S.PENDING, 0)
    patched = cluster.folder / "newer"
    patched.mkdir()
    (patched / "sitecustomize.py").write_text("import launch_worker.model.item_schema as schema\nschema.VERSION += 1\n")
    cluster.worker(name="newer", env={"PYTHONPATH": str(patched)})
    assert newer.wait(timeout=20) is S.FINISHED
    assert newer.record.worker.startswith("newer@")


def test_the_environment_names_the_system_that_an_api_looks_at(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCH_REDIS_URL", cluster.redis_url)
    run = make(cluster, "true", queue="nobody", project="me/iris")
    api = Api()
    assert [found.id for found in api.runs("me/iris")] == [run.id]
    assert api.run(f"me/iris/{run.id}").created_at.endswith("+00:00")
    assert text(redis_of(api.store.url).type("nobody\x06\x166")) == "list"
    api.store.close()


def test_a_run_that_a_quarantined_worker_leaves_alone_says_so(cluster: Cluster) -> None:
    cluster.worker()
    break_machine(cluster)
    cluster.api.submit({"command": ("true",), "name": "first"})
    wait_until(lambda: not cluster.api.store.consumers("default"), what="the worker is quarantined")
    submitted = cluster.run("launch-submit", "--", "true")
    assert "takes no runs" in submitted.err
    assert "workers resume w1@" in submitted.err
    run = next(iter(cluster.api.runs(filters={"name": "true"})))
    assert "takes no runs" in cluster.show(run.id)["reason"]
