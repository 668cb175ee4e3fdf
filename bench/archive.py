"""How fast the archive reads all runs of a Redis, and follows the change feed."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

from bench.growth import RUNS_MIX, fill, template
from bench.measure import Results
from bench.systems import LAUNCH, Running
from launch_worker.archive.follow import Archive
from launch_worker.database.database import WRITER_CACHE_BYTES, Database
from launch_worker.ids import new_run_id
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from launch_worker.store.store import Store

_FINISHED = NextStep(Outcome(RunState.FINISHED, exit_code=0))


def measure(results: Results, *, runs: int, transitions: int) -> None:
    """An archive in SQLite that begins beside so many runs, and one that is behind by so many transitions."""
    with Running(LAUNCH, start=False) as running, tempfile.TemporaryDirectory() as folder:
        store = Store(Settings.from_env({}, redis_url=running.url).redis_url)
        templates = [template(store, state) for state in RUNS_MIX]
        fill(running.redis, templates, first=len(templates), count=runs - len(templates))
        database = Database(f"sqlite:///{Path(folder) / 'archive.db'}", cache_bytes=WRITER_CACHE_BYTES)
        archive = Archive(store, database, stopping=threading.Event(), settle_s=0.0)
        archive.lead()
        built = results.metric(f"archive of {runs:,} runs that Redis has, with text index", "s", goal="20")
        again = results.metric("... compared with them once more", "s")
        for metric in (built, again):
            began, before_s = time.perf_counter(), time.process_time()
            archive.walk()
            metric.add("wall", time.perf_counter() - began)
            metric.add("CPU of the archive", time.process_time() - before_s)
        while archive.step(wait_s=0.0):
            pass
        count = _move(store, transitions)
        began, before_s = time.perf_counter(), time.process_time()
        while archive.follow():
            pass
        rate = results.metric("transitions that are followed, of new runs", "1/s", goal="5000")
        rate.add("wall", count / (time.perf_counter() - began))
        rate.add("CPU of the archive", count / (time.process_time() - before_s))
        archive.release()
        database.close()
        store.close()


def _move(store: Store, transitions: int) -> int:
    """Make so many transitions, three of each run. Returns their number."""
    store.heartbeat(
        [],
        owner="bench",
        worker="bench@host",
        lease_s=60.0,
        gone_s=86400.0,
        description={"owner": "bench"},
        queues=["bench"],
    )
    count = 0
    while count < transitions:
        run_id = new_run_id()
        command = ("python", "train.py", "--lr", "0.1")
        store.create(run_id, RunSpec(command=command, queue="bench", name=f"train-{count}", tags=("bench",)))
        record, why = store.claim(run_id, 1, owner="bench", worker="bench@host", host="host", lease_s=60.0)
        assert record is not None, why
        store.finish(record, _FINISHED)
        count += 3
    return count
