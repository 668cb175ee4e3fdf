"""Does beat's passes over the records: bounded, harmless when repeated, done by workers too when beat is late."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from launch_worker.errors import DamagedError, LaunchError
from launch_worker.maintenance.schedules import fire_due
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import next_step_of
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from launch_worker.sweeps.drive import advance_sweeps

log = logging.getLogger("launch_worker.passes")

_LIMIT = 500
#: Stale runs of one pass. A whole machine room is done within a few passes, and the other passes get their turn.
_STALE_LIMIT = 5000
#: Records in one call. Redis does nothing else meanwhile.
_STALE_AT_ONCE = 50
#: Calls of one pass, each for at most 200 runs: one call a pass would keep up with 40 ends a second only.
_RETIRE_CALLS = 50

#: A callback with the record and the outcome of an attempt whose end others than its worker found out.
OnEnd = Callable[[Record, Outcome], None]


def crash_stale_runs(store: Store, settings: Settings, *, on_end: OnEnd = lambda *_: None) -> int:
    """Runs whose heartbeats stopped are Crashed, or Pending again when retries are left. Returns how many."""
    crashed, seen, problem = 0, 0, None
    # A run that could not be marked Crashed may stay among the stale ones.
    failed: set[str] = set()
    while seen < _STALE_LIMIT:
        found = store.stale(limit=_STALE_AT_ONCE + len(failed))
        stale = [
            (record, Outcome(RunState.CRASHED, reason=f"heartbeats of worker {record.worker} stopped"))
            for record in found
            if record.id not in failed
        ]
        if not stale:
            break
        seen += len(stale)
        calls = [(record.id, record.token, next_step_of(record, outcome)) for record, outcome in stale]
        for (record, outcome), is_crashed in zip(stale, store.crash_many(calls), strict=True):
            if isinstance(is_crashed, LaunchError):
                failed.add(record.id)
                if isinstance(is_crashed, DamagedError):
                    log.error("run.damaged run=%s: %s", record.id, is_crashed)
                else:
                    problem = is_crashed
            elif is_crashed:
                crashed += 1
                log.warning("run.crashed run=%s attempt=%d worker=%s", record.id, record.attempt, record.worker)
                on_end(record, outcome)
        if problem is not None:
            raise problem
    return crashed


def check_cancellations(store: Store, settings: Settings) -> int:
    """Notify the owners of runs that shall stop once more. Returns the number of runs."""
    return store.check_cancellations()


def publish_due_runs(store: Store, settings: Settings) -> int:
    """Due runs and schedules go into their queues, and runs whose queue item was lost go in again. Returns how many."""
    due, _, is_scheduled = store.publish_due(limit=_LIMIT)
    if is_scheduled:
        due += fire_due(store, settings)
    lost = store.publish_lost(grace_s=2 * settings.pass_s, limit=_LIMIT)
    if lost:
        log.warning("runs.published_again count=%d", lost)
    return due + lost


def retire_runs(store: Store, settings: Settings) -> int:
    """Runs and sweeps that ended longer ago than the retention are deleted. Returns how many."""
    store.retire_sweeps(retention_s=settings.retention_s)
    retired = 0
    for _ in range(_RETIRE_CALLS):
        count = store.retire(retention_s=settings.retention_s, unarchived_bytes=settings.unarchived_bytes)
        retired += count
        if not count:
            break
    return retired


#: Each pass under the name by which the store knows when it last began.
PASSES: dict[str, Callable[..., int]] = {
    "crash_stale_runs": crash_stale_runs,
    "check_cancellations": check_cancellations,
    "publish_due_runs": publish_due_runs,
    "advance_sweeps": advance_sweeps,
    "retire_runs": retire_runs,
}


def catch_up(store: Store, settings: Settings) -> None:
    """Do the passes for a reader of runs when neither beat nor any worker is left to do them.

    `retire_runs` is left out: the reader's LAUNCH_RETENTION need not be the system's. A pass that fails (for a user who
    may only read; while Redis takes no writes, because it is full or a replica) is left out, and reading goes on.
    """
    if store.workers():
        return
    names = ("crash_stale_runs", "check_cancellations", "publish_due_runs")
    try:
        for name in begin_passes(names, store, settings, late_by=2.0):
            do_pass(name, store, settings)
    except LaunchError as error:
        log.debug("passes.not_done: %s", error)


def begin_passes(names: Collection[str], store: Store, settings: Settings, *, late_by: float) -> list[str]:
    """Begin the passes that began nowhere within `late_by` intervals. The caller must do the passes returned."""
    # After such a gap between passes Redis was away: leases ran out because no worker could renew them.
    gaps_s = {"crash_stale_runs": 2 * (settings.pass_s + settings.heartbeat_s)}
    every_s = late_by * settings.pass_s
    return store.begin_passes(list(names), every_s=every_s, gaps_s=gaps_s, settle_s=settings.settle_s)


def do_pass(name: str, store: Store, settings: Settings, *, on_end: OnEnd | None = None) -> int:
    """Do a pass that was begun. Returns how many runs it concerned."""
    if name == "crash_stale_runs" and on_end is not None:
        return crash_stale_runs(store, settings, on_end=on_end)
    return PASSES[name](store, settings)


def run_pass(name: str, store: Store, settings: Settings, *, on_end: OnEnd | None = None) -> int | None:
    """Do one pass unless it began, anywhere, within half an interval; None when it was not due."""
    if not begin_passes([name], store, settings, late_by=0.5):
        return None
    return do_pass(name, store, settings, on_end=on_end)
