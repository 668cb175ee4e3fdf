"""What former workers of this machine left: jobs that live on are taken over, others ended, ends reported."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from launch_worker.errors import BrokerUnavailableError, DamagedError, InputError, UnknownRunError
from launch_worker.inherit import Estate, Heir
from launch_worker.logs import Tail
from launch_worker.outage import Outage
from launch_worker.passes import OnEnd
from launch_worker.retry import Outcome, next_step_of, outcome_of_exit
from launch_worker.run import Record
from launch_worker.runners import tree
from launch_worker.runners.process import take_over
from launch_worker.spec import parse_spec
from launch_worker.spool import AttemptFolder, WorkerFolder
from launch_worker.states import RunState
from launch_worker.store.store import Store
from launch_worker.told import Talk, Words, outcome_told

log = logging.getLogger("launch_worker.recover")

#: While Redis is away a round does not end.
_HALT_S = 5.0


def end_leftovers(attempts: list[AttemptFolder]) -> bool:
    """SIGKILL every process of the attempts that are no containers. Needs no Redis. False when one stays."""
    ended = True
    for attempt in attempts:
        if attempt.is_container:
            continue
        marked = tree.marks({"LAUNCH_RUN_ID": attempt.run_id, "LAUNCH_TOKEN": str(attempt.token)})
        found = tree.members(None, marked=marked)
        if found:
            log.warning("run.leftovers_ended run=%s processes=%d", attempt.run_id, len(found))
        if not tree.end(lambda marked=marked: tree.members(None, marked=marked), wait=time.sleep):  # type: ignore[misc]
            log.error("run.leftovers_stay run=%s", attempt.run_id)
            ended = False
    return ended


def _preempt_exit_code(record: Record) -> int:
    try:
        return parse_spec(record.spec).preempt_exit_code
    except InputError:
        return 85


class Recovery:
    """Rounds over the folders of former workers: now, and again, for a guard may outlive the next worker's start."""

    def __init__(
        self,
        heir: Heir,
        *,
        work_dir: Path,
        store: Store,
        keep_bytes: int,
        log_file_bytes: int,
        hung_after_s: float | None,
        outage: Outage,
        stopping: threading.Event,
        on_end: OnEnd,
    ) -> None:
        self._heir = heir
        self._work_dir = work_dir
        self._store = store
        self._keep_bytes = keep_bytes
        self._log_file_bytes = log_file_bytes
        self._hung_after_s = hung_after_s
        self._outage = outage
        self._stopping = stopping
        self._on_end = on_end
        self._estates: list[Estate] = []
        self._halted = False
        #: Held while folders are being taken over.
        self._taking = threading.Lock()

    def halt(self) -> None:
        """Take nothing over from now on. What is being taken over now is when this returns, if Redis answers."""
        self._halted = True
        if self._taking.acquire(timeout=_HALT_S):
            self._taking.release()

    @property
    def num_adopting(self) -> int:
        """How many jobs are taken over, or about to be."""
        return sum(estate.num_attended for estate in self.estates)

    @property
    def estates(self) -> list[Estate]:
        """What was taken over and is not settled yet."""
        return list(self._estates)

    def run(self, left: list[WorkerFolder], *, every_s: float) -> None:
        """Blocks until `stopping`. `left` are folders whose lock the caller took.

        Each is let go of, and deleted once all of its attempts are reported: their kept ends, or that they crashed.
        """
        while not self._stopping.is_set():
            with self._taking:
                if not self._halted:
                    self._round(left)
            self._stopping.wait(every_s)
            if self._halted:
                return
            try:
                left = list(WorkerFolder.abandoned(self._work_dir))
            except OSError as error:
                log.error("recovery.blind folder=%s: %s", self._work_dir, error)
                left = []

    def _round(self, left: list[WorkerFolder]) -> None:
        steps: list[Callable[[], None]] = [self._take_over_guards, *(partial(self._recover, folder) for folder in left)]
        for step in (*steps, self._settle, self._heir.clear_containers):
            try:
                step()
            except Exception:
                # One damaged folder must not keep the others from being recovered, now and later.
                log.exception("recovery.failed")

    def _take_over_guards(self) -> None:
        """Jobs that a worker of our node name left with its guard."""
        try:
            folders = list(WorkerFolder.of_worker(self._work_dir, self._heir.worker))
        except OSError:
            return  # said by the next look for abandoned folders
        known = {self._heir.owner, *(estate.folder.owner for estate in self._estates)}
        for folder in folders:
            if folder.owner in known:
                continue
            taken = take_over(folder.path, log_file_bytes=self._log_file_bytes, hung_after_s=self._hung_after_s)
            if taken is None:
                continue
            runner, jobs, lock_fd = taken
            folder.hold(lock_fd)
            estate = Estate(folder, runner)
            self._estates.append(estate)
            by_key = {job.key: job for job in jobs}
            mine = [attempt for attempt in folder.attempts() if attempt.key in by_key]
            claimed = [(attempt, self._heir.claim_process(estate, attempt, by_key[attempt.key])) for attempt in mine]
            runner.open()
            for attempt, adopt in claimed:
                estate.begin(adopt, name=f"adopt-{attempt.run_id}")
            others = [attempt for attempt in folder.attempts() if attempt.key not in by_key]
            if end_leftovers(others):
                self._recover_attempts(estate, others)

    def _recover(self, folder: WorkerFolder) -> None:
        estate = Estate(folder, None)
        self._estates.append(estate)
        # What cannot be ended is looked at again in the next round; its runs are not handed on before.
        if end_leftovers(folder.attempts()):
            self._recover_attempts(estate, folder.attempts())

    def _recover_attempts(self, estate: Estate, attempts: list[AttemptFolder]) -> None:
        try:
            for attempt in attempts:
                if attempt.is_container and attempt.read_report() is None:
                    estate.begin(partial(self._heir.adopt_container, estate, attempt), name=f"adopt-{attempt.run_id}")
                else:
                    self._deliver(attempt)
        except BrokerUnavailableError:
            log.warning("recovery.unfinished folder=%s: the next worker goes on", estate.folder.path.name)
        except Exception:
            log.exception("recovery.failed folder=%s", estate.folder.path.name)

    def _settle(self) -> None:
        """Let go of the folders in which nothing is left to supervise."""
        for estate in self.estates:
            if estate.is_settled:
                self._estates.remove(estate)
                estate.close()

    def _deliver(self, attempt: AttemptFolder) -> None:
        try:
            self._outage.repeat(partial(self._deliver_attempt, attempt))
        except UnknownRunError:
            log.info("run.unknown run=%s: what is left of it is deleted", attempt.run_id)
        except DamagedError as error:
            log.error("run.not_recovered run=%s: %s", attempt.run_id, error)
            return
        if attempt.is_container:
            self._heir.remove_container(attempt)
        attempt.remove()

    def _deliver_attempt(self, attempt: AttemptFolder) -> None:
        if attempt.output.exists():
            tail = Tail(attempt.run_id, attempt.attempt, attempt.output, keep_bytes=self._keep_bytes)
            try:
                tail.resume(self._store)
                tail.ship(self._store)
            finally:
                tail.close()
        talk = self._hear_rest(attempt)
        report = attempt.read_report()
        if report is not None:
            record, step = report.record, report.step
            accepted = self._store.finish(record, step, owner=report.owner, ended_ago_s=report.ended_ago_s)
            log.warning("report.delivered_late run=%s state=%s accepted=%s", record.id, step.outcome.state, accepted)
            if accepted:
                self._on_end(record, step.outcome)
            return
        record = self._store.get(attempt.run_id)
        words = Words() if talk is None else talk.words
        is_open = record.state in (RunState.RUNNING, RunState.CRASHED)
        if record.token != attempt.token or not (is_open or words.finish is not None):
            return
        status = attempt.read_exit_status()
        if status is None and record.state is RunState.CRASHED and words.finish is None:
            return
        if talk is not None and record.sweep:
            talk.add_results(attempt.output)
            talk.ship(self._store)
        code = _preempt_exit_code(record)
        if status is None:
            why = f"worker {record.worker} died"
            if attempt.stopped_by() == "lease":
                why = f"its lease ran out: worker {record.worker} left it or died, and no other took it over in time"
            outcome = Outcome(RunState.CRASHED, reason=why)
        else:
            outcome = outcome_of_exit(status, preempt_exit_code=code)
        outcome = outcome_told(outcome, words, status=status, preempt_exit_code=code)
        ended_ago_s = attempt.exit_status_age_s()
        if self._store.finish(record, next_step_of(record, outcome), ended_ago_s=ended_ago_s) and is_open:
            self._on_end(record, outcome)

    def _hear_rest(self, attempt: AttemptFolder) -> Talk | None:
        """What its job told before it was gone. Raises BrokerUnavailableError."""
        if not attempt.talk.is_dir():
            return None
        talk = Talk(attempt.run_id, attempt.token, attempt.talk, on_word=lambda _: None, is_copy=attempt.is_container)
        try:
            talk.resume(self._store)
            talk.ship(self._store)
        except OSError as error:
            log.error("talk.unreadable run=%s: %s", attempt.run_id, error)
            return None
        finally:
            talk.close()
        return talk
