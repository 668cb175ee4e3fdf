"""The archive's real process: killed at any instant, started twice; and its commands."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker import submit
from launch_worker.archive import schema
from launch_worker.database.database import Database
from launch_worker.model.states import RunState
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.redis.archive.stores import s3
from tests.support.archives import database, database_url, everything, postgres
from tests.support.arrows import CRASHED_AGAIN, FAILED, FAILED_AGAIN, FINISHED, claim, crash, create
from tests.support.redis_client import redis_of
from tests.support.s3 import S3Server
from tests.system.conftest import Cluster, Part

__all__ = ["database", "database_url", "postgres", "s3"]


@pytest.fixture(autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    for part in _started:
        part.kill()
    _started.clear()


_started: list[Part] = []


def start(cluster: Cluster) -> Part:
    log_path = cluster.folder / f"archive.{len(_started)}.log"
    with log_path.open("wb") as log:
        command = ["launch-worker", "archive", "run"]
        process = subprocess.Popen(
            command,
            cwd=cluster.folder,
            env=cluster.env | cluster.login(*command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    _started.append(Part(process, log_path))
    return _started[-1]


def end(part: Part) -> None:
    """Have the process end as a service manager does, once it has started."""
    wait_until(lambda: "archive.leads" in part.log, timeout_s=30, what="it leads")
    part.signal(signal.SIGTERM)
    assert part.wait(30) == 0, part.log


def live(store: Store, seed: int) -> None:
    """One run's life, in one of many ways."""
    chance = random.Random(seed)
    run_id = create(store, name=f"run-{seed}", retries=5, tags=("t",))
    if chance.random() < 0.1:
        store.cancel(run_id, reason="not wanted")
        return
    for _ in range(chance.randrange(3)):
        record = claim(store, run_id)
        if chance.random() < 0.5:
            store.finish(record, FAILED_AGAIN)
        else:
            crash(store, record, CRASHED_AGAIN)
    if chance.random() < 0.9:
        store.finish(claim(store, run_id), FINISHED if chance.random() < 0.5 else FAILED)


def agrees(database: Database, store: Store) -> bool:
    """Whether the archive has each run that Redis has exactly once, with its state, attempts and transitions."""
    found = everything(database)
    rows = {row["id"]: row for row in found["runs"]}
    records = {record.id: record for record in store.runs()}
    if len(rows) != len(found["runs"]) or rows.keys() != records.keys():
        return False
    for run_id, record in records.items():
        row = rows[run_id]
        told = [(step["state"], step["at"]) for step in found["transitions"] if step["run_id"] == run_id]
        attempts = [one["attempt"] for one in found["attempts"] if one["run_id"] == run_id]
        if (row["state"], row["attempt"], row["ended_at"]) != (record.state.value, record.attempt, record.ended_at):
            return False
        if told != [(step.state.value, step.at) for step in store.history(run_id)]:
            return False
        if attempts != list(range(1, record.attempt + 1)):
            return False
    return True


def test_killed_at_any_instant_it_loses_nothing_and_has_nothing_twice(
    cluster: Cluster, database_url: str, database: Database
) -> None:
    cluster.env["LAUNCH_DATABASE_URL"] = database_url
    store = cluster.api.store
    redis = redis_of(cluster.redis_url)
    is_over = threading.Event()

    def work() -> None:
        seed = 0
        while not is_over.is_set():
            live(store, seed)
            seed += 1
            if seed % 10 == 0:
                # What the feed does not have is found in Redis.
                redis.xtrim("launch:changes", maxlen=0)
            # The checks at the end look at each run.
            is_over.wait(0.05)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(3):
            process = start(cluster)
            before = count(database)
            wait_until(lambda before=before: count(database) > before, what="it has written")  # type: ignore[misc]
            process.kill()
            free_lease(database)
    finally:
        is_over.set()
        worker.join()
    process = start(cluster)
    wait_until(lambda: agrees(database, store), timeout_s=40, what="archive and Redis agree")
    end(process)


def status(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.run("launch-worker", "archive", "status", "--json").out)
    return found


def free_lease(database: Database) -> None:
    """End the lease of a dead process, which ends by itself 15 s later."""
    with database.writing() as connection:
        connection.execute(schema.leader.update().values(until=0))


def count(database: Database) -> int:
    return len(everything(database)["transitions"])


def test_of_two_one_writes_and_the_other_takes_over(cluster: Cluster) -> None:
    database = Database(f"sqlite:///{cluster.folder}/work/archive.db")
    first = start(cluster)
    run_id = create(cluster.api.store)
    wait_until(lambda: has(database, run_id), what="the first one writes")
    second = start(cluster)
    wait_until(lambda: "archive.waits holder=" in second.log, what="the second one waits")
    end(first)
    later = create(cluster.api.store)
    wait_until(lambda: has(database, later), what="the second one writes")
    end(second)
    assert second.log.count("archive.waits holder=") == 1
    database.close()


def has(database: Database, run_id: str) -> bool:
    file = database.file
    if file is None or not file.exists():
        return False
    try:
        return any(row["id"] == run_id for row in everything(database)["runs"])
    except Exception:  # noqa: BLE001 (the tables are being made)
        return False


@pytest.mark.main_path
def test_a_run_that_redis_has_forgotten_is_shown_and_exported_and_deleted_by_commands(cluster: Cluster) -> None:
    store = cluster.api.store
    process = start(cluster)
    run_id = create(store, name="train", project="ada/tries")
    store.finish(claim(store, run_id), FAILED)
    wait_until(lambda: not store.unarchived() and store.archive_state().name, what="Redis may forget the run")
    wait_until(lambda: store.retire(retention_s=0.0), what="Redis forgets it")
    shown = cluster.show(run_id)
    assert (shown["state"], shown["name"], shown["attempts"][0]["exit_code"]) == ("Failed", "train", 3)
    assert [step["state"] for step in shown["history"]] == ["Pending", "Running", "Failed"]
    table = cluster.run("launch-worker", "show", run_id)
    assert "exit code 3" in table.out
    kept = create(store)
    listed = cluster.run("launch-worker", "runs", "--since", "1h", "--until", "0s", "--json")
    assert [json.loads(line)["id"] for line in listed.out.splitlines()] == [kept, run_id]
    assert cluster.run("launch-worker", "runs", "--until", "1h").out == ""
    wait_until(lambda: status(cluster)["runs"] == {"Failed": 1, "Pending": 1}, what="both are archived")
    said = cluster.run("launch-worker", "archive", "status").out
    assert re.search(r"written by +\S+\n", said), said
    lines = cluster.run("launch-worker", "archive", "export", "--since", "1h").out.splitlines()
    assert {json.loads(line)["id"]: len(json.loads(line)["attempts"]) for line in lines} == {run_id: 1, kept: 0}
    exported = cluster.run("launch-worker", "archive", "export", "--format", "csv", "--state", "failed")
    assert exported.out.splitlines()[1].startswith(f"{run_id},train,ada/tries,")
    asked = cluster.run("launch-worker", "archive", "delete", "--project", "ada/tries")
    assert "1 run would be deleted: 1 Failed" in asked.err
    assert cluster.show(run_id)
    done = cluster.run("launch-worker", "archive", "delete", "--project", "ada/tries", "--yes", "--json")
    assert json.loads(done.out) == {"deleted": 1}
    told = cluster.run("launch-worker", "audit", "--what", "deleted", "--since", "1h", "--json")
    assert json.loads(told.out)["target"] == run_id
    assert run_id in cluster.run("launch-worker", "audit", "--target", run_id).out
    gone = cluster.run("launch-worker", "show", run_id)
    assert (gone.code, gone.err.count("\n")) == (2, 1)
    assert cluster.api.run(kept).state is RunState.PENDING
    end(process)


def test_what_redis_has_forgotten_is_shown_and_all_of_its_output_is_printed(
    cluster: Cluster, database_url: str, request: pytest.FixtureRequest
) -> None:
    cluster.env |= {"LAUNCH_DATABASE_URL": database_url, "LAUNCH_LOG_URL": f"file://{cluster.folder}/logs"}
    if database_url.startswith("postgresql"):
        server: S3Server = request.getfixturevalue("s3")
        cluster.env |= server.env | {"LAUNCH_LOG_URL": "s3://logs/it"}
    # Beat's and the archive's; nobody waits for a minute.
    cluster.env["LAUNCH_RETENTION"] = "3s"
    process = start(cluster)
    wait_until(lambda: "archive.leads" in process.log, what="nothing is forgotten unarchived")
    worker = cluster.worker()
    cluster.beat()
    large = submit(["seq", "1000000"], api=cluster.api, name="large")
    small = submit(["sh", "-c", "echo a few words; exit 3"], api=cluster.api)
    wait_until(lambda: f"log.stored run={large.id}" in worker.log, what="the whole log is stored")
    for run in (large, small):
        wait_until(lambda run=run: not cluster.api.store.exists(run.id), timeout_s=60, what="Redis has forgotten it")  # type: ignore[misc]
    shown = cluster.show(large.id)
    assert (shown["state"], shown["name"], shown["attempts"][0]["exit_code"]) == ("Finished", "large", 0)
    assert [step["state"] for step in shown["history"]] == ["Pending", "Running", "Finished"]
    whole = "".join(f"{number}\n" for number in range(1, 1_000_001))
    for words in ((), ("-f",)):
        printed = cluster.run("launch-worker", "logs", large.id, *words)
        assert (printed.code, printed.out == whole, printed.err) == (0, True, "")
    assert cluster.run("launch-worker", "logs", large.id, "--tail", "1").out == "1000000\n"
    assert cluster.show(small.id)["exit_code"] == 3
    printed = cluster.run("launch-worker", "logs", small.id)
    assert (printed.code, printed.out, printed.err) == (0, "a few words\n", "")
    told = json.loads(cluster.run("launch-worker", "logs", small.id, "--json").out)
    assert (told["attempt"], told["log"], told["missing_bytes"]) == (1, "a few words\n", 0)
    end(process)


def test_the_whole_log_of_a_deleted_run_is_deleted_though_the_process_dies_meanwhile(cluster: Cluster) -> None:
    logs = cluster.folder / "logs"
    cluster.env["LAUNCH_LOG_URL"] = f"file://{logs}"
    database = Database(f"sqlite:///{cluster.folder}/work/archive.db")
    cluster.worker()
    process = start(cluster)
    run = submit(["seq", "1000000"], api=cluster.api)
    assert run.wait(30) is RunState.FINISHED
    wait_until(lambda: has(database, run.id) and list(logs.glob(f"{run.id}/1/manifest.json")), what="its log is there")
    assert cluster.run("launch-worker", "delete", run.id).code == 0
    process.kill()
    if list(logs.iterdir()):
        free_lease(database)
        end_later = start(cluster)
        wait_until(lambda: not list(logs.iterdir()), what="its log is deleted")
        end(end_later)
    database.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("archive", "status"), "launch-worker archive run"),
        (("archive", "delete"), "--older-than, --state or --project"),
        (("archive", "prune", "--older-than", "2x"), "write it as 12h, 90d or 2y"),
        (("archive", "export", "--since", "never"), "--since"),
    ],
    ids=["no-archive", "nothing-chosen", "no-age", "no-time"],
)
def test_what_makes_no_sense_gets_one_sentence(cluster: Cluster, words: tuple[str, ...], said: str) -> None:
    refused = cluster.run("launch-worker", *words)
    assert refused.code in (2, 69)
    assert said in refused.err
    assert "Traceback" not in refused.err


def test_no_other_command_imports_sqlalchemy(cluster: Cluster, tmp_path: Path) -> None:
    program = "import sys; sys.argv[1:] = {}; from launch_worker.cli.programs import {} as main\n"
    program += "try: main()\nfinally: print(sorted(m for m in sys.modules if m in ('sqlalchemy', 'alembic')))"
    for words, name in ((["--quiet", "--", "true"], "submit"), (["runs"], "worker"), (["archive", "--help"], "worker")):
        done = cluster.run("python", "-c", program.format(words, name))
        assert done.out.splitlines()[-1] == "[]", done
