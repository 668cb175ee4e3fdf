"""What a dead worker of this machine left: its jobs are ended, its reports delivered, its runs handed on at once."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from pathlib import Path

from launch_worker.errors import BrokerUnavailableError, DamagedError, UnknownRunError
from launch_worker.logs import Tail
from launch_worker.outage import Outage
from launch_worker.passes import OnEnd
from launch_worker.retry import Outcome, next_step_of, outcome_of_exit
from launch_worker.runners import tree
from launch_worker.spool import AttemptFolder, WorkerFolder
from launch_worker.states import RunState
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.recover")


def end_leftovers(folder: WorkerFolder) -> bool:
    """SIGKILL every process of the attempts in the folder. Needs no Redis. False when one of them stays."""
    ended = True
    for attempt in folder.attempts():
        marked = tree.marks({"LAUNCH_RUN_ID": attempt.run_id, "LAUNCH_TOKEN": str(attempt.token)})
        found = tree.members(None, marked=marked)
        if found:
            log.warning("run.leftovers_ended run=%s processes=%d", attempt.run_id, len(found))
        if not tree.end(lambda marked=marked: tree.members(None, marked=marked), wait=time.sleep):  # type: ignore[misc]
            log.error("run.leftovers_stay run=%s", attempt.run_id)
            ended = False
    return ended


def recover(
    left: list[WorkerFolder],
    *,
    work_dir: Path,
    store: Store,
    keep_bytes: int,
    every_s: float,
    outage: Outage,
    stopping: threading.Event,
    on_end: OnEnd,
) -> None:
    """Deliver what dead workers left, now and whenever one dies: its guard may outlive another's start.

    Blocks until `stopping`. `left` are folders whose lock the caller took; each is let go of, and deleted once all of
    its attempts are reported: their kept ends, or that they crashed.
    """
    while not stopping.is_set():
        for folder in left:
            try:
                # What cannot be ended is looked at again in the next round; its runs are not handed on before.
                if end_leftovers(folder):
                    for attempt in folder.attempts():
                        _deliver(attempt, store=store, keep_bytes=keep_bytes, outage=outage, on_end=on_end)
            except BrokerUnavailableError:
                log.warning("recovery.unfinished folder=%s: the next worker goes on", folder.path.name)
            except Exception:
                log.exception("recovery.failed folder=%s", folder.path.name)
            finally:
                folder.release()
        stopping.wait(every_s)
        try:
            left = list(WorkerFolder.abandoned(work_dir))
        except OSError as error:
            log.error("recovery.blind folder=%s: %s", work_dir, error)
            left = []


def _deliver(attempt: AttemptFolder, *, store: Store, keep_bytes: int, outage: Outage, on_end: OnEnd) -> None:
    try:
        outage.repeat(partial(_deliver_attempt, attempt, store=store, keep_bytes=keep_bytes, on_end=on_end))
    except UnknownRunError:
        log.info("run.unknown run=%s: what is left of it is deleted", attempt.run_id)
    except DamagedError as error:
        log.error("run.not_recovered run=%s: %s", attempt.run_id, error)
        return
    attempt.remove()


def _deliver_attempt(attempt: AttemptFolder, *, store: Store, keep_bytes: int, on_end: OnEnd) -> None:
    if attempt.output.exists():
        tail = Tail(attempt.run_id, attempt.attempt, attempt.output, keep_bytes=keep_bytes)
        tail.skip_to(store.log_end(attempt.run_id, attempt.attempt))
        try:
            tail.ship(store)
        finally:
            tail.close()
    report = attempt.read_report()
    if report is not None:
        record, step, owner = report
        accepted = store.finish(record, step, owner=owner)
        log.warning("report.delivered_late run=%s state=%s accepted=%s", record.id, step.outcome.state, accepted)
        if accepted:
            on_end(record, step.outcome)
        return
    record = store.get(attempt.run_id)
    if record.token != attempt.token or record.state not in (RunState.RUNNING, RunState.CRASHED):
        return
    status = attempt.read_exit_status()
    if status is None and record.state is RunState.CRASHED:
        return
    if status is None:
        outcome = Outcome(RunState.CRASHED, reason=f"worker {record.worker} died")
    else:
        outcome = outcome_of_exit(status)
    if store.finish(record, next_step_of(record, outcome)):
        on_end(record, outcome)
