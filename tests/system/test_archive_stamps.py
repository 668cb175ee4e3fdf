"""Everything is killed in turn, Redis forgets all runs, and the archive has what the jobs wrote themselves.

With more runs, by hand: LAUNCH_TEST_RUNS=10000 pytest -s tests/system/test_archive_stamps.py
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import func, select

from launch_worker import submit_many
from launch_worker.api.client import Run
from launch_worker.archive import schema
from launch_worker.database.database import Database
from launch_worker.dev.redis_server import RedisServer
from launch_worker.logs.manifest import Manifest
from launch_worker.logs.opening import stored_output
from launch_worker.logs.stored import StoredLogs
from tests.conftest import wait_until
from tests.support.archives import database, database_url, everything, postgres
from tests.system.conftest import Cluster

__all__ = ["database", "database_url", "postgres"]

#: Number of runs, and of those that are submitted between two kills.
RUNS = int(os.environ.get("LAUNCH_TEST_RUNS", "200"))
PORTION = max(40, RUNS // 40)
#: Seconds for anything to happen on a slow machine.
PATIENCE_S = 60.0 + RUNS / 10

pytestmark = pytest.mark.timeout(300 + RUNS)

JOB = """
echo "begin $LAUNCH_ATTEMPT" >> "$0/$LAUNCH_RUN_ID"
echo "printed by $LAUNCH_RUN_ID in attempt $LAUNCH_ATTEMPT"
sleep $2
echo "end $LAUNCH_ATTEMPT $1" >> "$0/$LAUNCH_RUN_ID"
exit $1
"""


class Stamps(NamedTuple):
    """What the jobs of a run wrote: the attempts in which one began, and the codes with which they were to end."""

    begun: list[int]
    ended: dict[int, int]


def read_stamps(folder: Path) -> dict[str, Stamps]:
    found: dict[str, Stamps] = defaultdict(lambda: Stamps([], {}))
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            word, attempt, *code = line.split()
            if word == "begin":
                found[path.name].begun.append(int(attempt))
            else:
                found[path.name].ended[int(attempt)] = int(code[0])
    return found


def differences(rows: dict[str, list[dict[str, Any]]], stamps: dict[str, Stamps], submitted: set[str]) -> Iterator[str]:
    """What the archive has otherwise than the jobs have written it, twice, or not at all."""
    runs = {row["id"]: row for row in rows["runs"]}
    if runs.keys() != submitted or len(runs) != len(rows["runs"]):
        yield f"the archive has {len(rows['runs'])} runs, {len(submitted)} were submitted"
    attempts: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows["attempts"]:
        attempts[row["run_id"]][row["attempt"]] = row
    steps: dict[str, list[str]] = defaultdict(list)
    for row in rows["transitions"]:
        steps[row["run_id"]].append(row["state"])
    for run_id, run in runs.items():
        written, known = stamps.get(run_id, Stamps([], {})), attempts[run_id]
        if len(set(written.begun)) != len(written.begun):
            yield f"an attempt of {run_id} was executed twice: {written.begun}"
        if list(known) != list(range(1, run["attempt"] + 1)) or not set(written.begun) <= known.keys():
            yield f"{run_id} has attempts {list(known)}, of {run['attempt']}; its jobs wrote {written.begun}"
        if steps[run_id][0] != "Pending" or steps[run_id][-1] != run["state"]:
            yield f"{run_id} is {run['state']} after {steps[run_id]}"
        for number, attempt in known.items():
            told, wrote = (attempt["state"], attempt["exit_code"]), written.ended.get(number)
            # A job that came to its end may have lost its worker before that was reported.
            if told[0] != "Crashed" and (wrote is None or told != ("Failed" if wrote else "Finished", wrote)):
                yield f"attempt {number} of {run_id} is {told}; its job wrote {wrote}"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    # Every write that was acknowledged is there after a kill.
    made = RedisServer(aof="always")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def cluster(server: RedisServer, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(server.url, tmp_path)
    yield made
    made.close()


def test_the_archive_has_each_run_as_its_jobs_wrote_it_though_everything_was_killed_and_redis_forgot_all(
    cluster: Cluster, server: RedisServer, database_url: str, database: Database
) -> None:
    stamps = cluster.folder / "stamps"
    stamps.mkdir()
    # An ended run is forgotten as soon as the archive has it with its output.
    cluster.env |= {
        "LAUNCH_DATABASE_URL": database_url,
        "LAUNCH_LOG_URL": f"file://{cluster.folder}/logs",
        "LAUNCH_RETENTION": "3s",
    }
    archive = cluster.archive()
    wait_until(lambda: "archive.leads" in archive.log, timeout_s=PATIENCE_S, what="nothing is forgotten unarchived")
    parts = {"archive": archive, "beat": cluster.beat()}
    for name in ("w1", "w2"):
        parts[name] = cluster.worker(slots=4, name=name)
    runs: list[Run] = []
    turn = 0
    while len(runs) < RUNS:
        runs += submit_portion(cluster, stamps, min(PORTION, RUNS - len(runs)))
        at_work = len(runs) - PORTION // 2
        wait_until(lambda at=at_work: len(list(stamps.iterdir())) > at, timeout_s=PATIENCE_S, what="half of them began")  # type: ignore[misc]
        victim = ("w1", "archive", "redis", "beat", "w2")[turn % 5]
        turn += 1
        if victim == "redis":
            server.kill()
            server.start()
            continue
        parts[victim].kill()
        if victim == "archive":
            with database.writing() as connection:
                # The lease of a dead process ends by itself, 15 s later.
                connection.execute(schema.leader.update().values(until=0))
            parts[victim] = cluster.archive()
        elif victim == "beat":
            parts[victim] = cluster.beat()
        else:
            parts[victim] = cluster.worker(slots=4, name=victim, wait=False)
    submitted = {run.id for run in runs}
    assert len(submitted) == RUNS
    store = cluster.api.store
    wait_until(lambda: not sum(store.counts().values()), timeout_s=PATIENCE_S, what="Redis has forgotten all runs")
    written = read_stamps(stamps)
    found = everything(database)
    assert list(differences(found, written, submitted))[:10] == []
    assert {row["state"] for row in found["runs"]} == {"Finished", "Failed"}, "each had retries left"
    printed = outputs(database, cluster.folder / "logs")
    assert printed.keys() >= submitted
    for run_id, (attempt, output) in printed.items():
        assert output == f"printed by {run_id} in attempt {attempt}\n"
    for run_id in sorted(submitted)[:: RUNS // 2]:
        assert cluster.run("launch-worker", "logs", run_id).out == printed[run_id][1]
    with database.reading() as connection:
        packs = connection.execute(select(func.count()).select_from(schema.packs)).scalar_one()
    print(f"{RUNS} runs, {sum(len(one.begun) for one in written.values())} attempts, {turn} kills, {packs} packs")


def submit_portion(cluster: Cluster, stamps: Path, count: int) -> list[Run]:
    """Submit runs that run again when their worker dies; every third one fails, and those at work then take long."""
    jobs = [
        ["sh", "-c", JOB, str(stamps), "3" if number % 3 == 2 else "0", "1" if abs(number - count // 2) < 5 else "0.02"]
        for number in range(count)
    ]
    return submit_many([{"command": job, "retries": 20, "retry_on": ["crashed"]} for job in jobs], api=cluster.api)


def outputs(database: Database, logs: Path) -> dict[str, tuple[int, str]]:
    """The latest attempt of each run, and its output as it is in a pack."""
    stored, c = StoredLogs(f"file://{logs}"), schema.packed_logs.c
    query = select(c.run_id, c.attempt, c.manifest).join(
        schema.runs, (schema.runs.c.id == c.run_id) & (schema.runs.c.attempt == c.attempt)
    )
    found = {}
    with database.reading() as connection:
        for row in connection.execute(query):
            pieces = stored_output(Manifest.from_json(row.manifest.encode()), stored).all()
            found[row.run_id] = (row.attempt, b"".join(piece.data for piece in pieces).decode())
    return found
