"""What must be empty, and what must not stand in any log, once everything is over and all workers were stopped."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from pathlib import Path

from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.chaos.evidence import Evidence, Life
from tests.chaos.hostile import MARK
from tests.chaos.system import System
from tests.support.redis_client import redis_of

#: Words of a worker's, beat's or command's log that tell of a fault of ours, whatever was done to it.
_WRONG_WORDS = re.compile(
    r"Unrecoverable error|Error on (?:re)?start|Error on stopping|Task handler raised|ERROR.*not_adopted"
    r"|recovery\.failed|heartbeat\.failed|listener\.failed|passes?\.failed|run\.not_recovered|talk\.failed|logs?\.failed|guard\.confused"
    r"|never awaited|ResourceWarning|Segmentation fault|core dumped|Fatal Python error|\bCRITICAL\b|Exception ignored"
    r"|Exception in thread|signal handler called"
)
#: What belongs to a fault of the harness, and to no other.
_GUARD_DIED = re.compile(r"guard\.died")


def check_leftovers(system: System) -> list[str]:
    wrong = [f"process {pid} is left: {what}" for pid, what in system.our_processes()]
    store = system.api.store
    redis = redis_of(store.url)
    for queue_list in system.item_lists():
        if length := redis.llen(queue_list):
            wrong.append(f"{length} items are left in {queue_list!r}: {redis.lrange(queue_list, 0, 2)}")
    for key in (keys.LEASES, keys.DUE, "launch:cancels"):
        if left := redis.zrange(key, 0, 5):
            wrong.append(f"{key} still has {left}")
    for pattern in ("launch.direct.*", "launch:parked:*", "launch:places:*", "launch:line:*", "launch:dispatched:*"):
        wrong += [f"{key.decode()!r} is still there" for key in redis.scan_iter(pattern)]
    wrong += store.inconsistencies(limit=1_000_000)
    lists = [{member.decode() for member in redis.zrange(f"launch:{name}", 0, -1)} for name in ("ended", "archived")]
    ended = set.union(*lists)
    if both := set.intersection(*lists):
        wrong.append(f"an archive has confirmed runs that wait for it: {sorted(both)[:5]}")
    final = {record.id for record in store.runs() if record.state.is_final}
    if ended != final:
        wrong.append(f"the lists of ended runs and the final runs differ by {sorted(ended ^ final)[:5]}")
    wrong += check_refused(redis, system.evidence)
    wrong += check_logs(system.logs(), system.evidence)
    for folder in sorted((system.spool / "workers").iterdir()) if (system.spool / "workers").is_dir() else ():
        reports = [path.parent.name for path in folder.glob("runs/*/report.json")]
        if reports:
            wrong.append(f"the spool of {folder.name} still has undelivered reports of {reports}")
    if system.engine is not None:
        wrong += [f"container {name} is left" for name in system.engine.containers()]
    return wrong


def counters_beside_records(store: Store, damaged: Container[str]) -> str:
    """What the counters of metrics say beside the records: the same, but for runs that were damaged or lost."""
    figures = store.figures()
    counts, final = figures.counts, [state for state in RunState if state.is_final]
    unfinished = counts.submitted() + sum(counts.reopened(state) - counts.ended(state) for state in final)
    are_unfinished = figures.runs[RunState.PENDING] + figures.runs[RunState.RUNNING]
    crashes = sum(counts.attempts(RunState.CRASHED).values())
    sound = [record.id for record in store.runs() if record.id not in damaged]
    told = sum(step.state is RunState.CRASHED for run_id in sound for step in store.history(run_id))
    return (
        f"counters: {counts.submitted()} submitted, {unfinished} unfinished (records: {are_unfinished}), "
        f"{crashes} attempts Crashed (histories: {told})"
    )


def check_refused(redis: object, evidence: Evidence) -> list[str]:
    """Nothing was refused but what the harness made for that."""
    entries = redis.lrange("launch:refused", 0, -1)  # type: ignore[attr-defined]
    return [
        f"an item was refused: {entry[:300]!r}"
        for entry in entries
        if MARK.encode() not in entry and not any(run_id.encode() in entry for run_id in evidence.damaged)
    ]


def check_logs(paths: list[Path], evidence: Evidence) -> list[str]:
    """Every line of every log."""
    lives = {life.log_path: life for life in evidence.lives}
    wrong = []
    for path in paths:
        life = lives.get(str(path))
        is_ours = not path.name.startswith(("flower", "events"))
        text = path.read_text(errors="replace")
        if is_ours:
            wrong += [f"a traceback in {path.name}: {line}" for line in tracebacks(text)]
        for line in text.splitlines() if is_ours else ():
            if _WRONG_WORDS.search(line):
                wrong.append(f"{path.name} says: {line[:300]}")
            elif _GUARD_DIED.search(line) and not _explains_guard(life):
                wrong.append(f"{path.name} says, though nobody killed its guard: {line[:300]}")
    return wrong


def _explains_guard(life: Life | None) -> bool:
    return life is not None and bool(life.guard_killed_at)


def tracebacks(text: str) -> Iterator[str]:
    """The last line of each traceback."""
    inside, indent = False, 0
    for line in text.splitlines():
        if line.lstrip().startswith("Traceback"):
            inside, indent = True, len(line) - len(line.lstrip())
        elif inside and line[indent:] and not line[indent].isspace():
            inside = False
            yield line[indent:][:300]


def damaged_runs(evidence: Evidence, states: dict[str, str], executed: set[str]) -> Iterator[str]:
    """A run whose record was damaged before its claim has ended without having been executed."""
    for run_id, how in evidence.damaged.items():
        state = states.get(run_id, "not there")
        # Crashed: its worker was killed between its claim and its check of the record.
        if state not in ("Failed", "Crashed"):
            yield f"{run_id}: its record was damaged ({how}), and it is {state}"
        if run_id in executed:
            yield f"{run_id}: its record was damaged ({how}), and it was executed"


def states_in(redis: object) -> dict[str, str]:
    """The state of every record, also of one that no longer can be read as a whole."""
    found = {}
    for key in redis.scan_iter("launch:run:*", count=1000):  # type: ignore[attr-defined]
        run_id = key.decode().removeprefix("launch:run:")
        if ":" not in run_id:
            state = redis.hget(key, "state")  # type: ignore[attr-defined]
            found[run_id] = (state or b"").decode("utf-8", "replace")
    return found
