"""Looks after what earlier workers of this machine left: adopts living jobs, ends the others, reports their ends."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from launch_worker.agent.adoption import AbandonedFolder, Adopter
from launch_worker.agent.guards import Guards
from launch_worker.agent.identity import Identity
from launch_worker.agent.last_checkpoints import LastCheckpoints
from launch_worker.agent.outage import Outage
from launch_worker.attempt.checkpoints import has_states
from launch_worker.attempt.folder import AttemptFolder
from launch_worker.attempt.supervise import asked_of, outcome_of_end
from launch_worker.attempt.tail import Tail, explained
from launch_worker.attempt.talk import Talk
from launch_worker.attempt.worker_folder import WorkerFolder
from launch_worker.errors import BrokerUnavailableError, DamagedError, InputError, UnknownRunError
from launch_worker.logs.recorder import keep_large_output, recorder_of
from launch_worker.maintenance.passes import OnEnd
from launch_worker.model.job_words import Words, outcome_by_words
from launch_worker.model.needs import parse_needs
from launch_worker.model.outcome import Outcome, outcome_of_exit, with_full_disk, with_out_of_memory
from launch_worker.model.retry import next_step_of
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec, parse_spec
from launch_worker.model.states import RunState
from launch_worker.model.usage import NO_USAGE, KeptUsage, Recorder, Used
from launch_worker.runners.job import Exited
from launch_worker.runners.process import tree
from launch_worker.runners.process.control_groups import end_group
from launch_worker.runners.process.takeover import take_over
from launch_worker.settings import Settings
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.recover")

#: Seconds to wait for the end of a round; while Redis is away a round does not end.
_HALT_S = 5.0


def end_leftovers(attempts: list[AttemptFolder]) -> bool:
    """SIGKILL every process of the attempts that are no containers; returns whether all are gone. Needs no Redis."""
    ended = True
    for attempt in attempts:
        if attempt.is_container:
            continue
        marked = tree.marks({"LAUNCH_RUN_ID": attempt.run_id, "LAUNCH_TOKEN": str(attempt.token)})
        found = tree.members(None, marked=marked)
        if found:
            log.warning("run.leftovers_ended run=%s processes=%d", attempt.run_id, len(found))
        is_ended = tree.end(lambda marked=marked: tree.members(None, marked=marked), wait=time.sleep)  # type: ignore[misc]
        if not (end_group(attempt.path.name) and is_ended):
            log.error("run.leftovers_stay run=%s", attempt.run_id)
            ended = False
    return ended


def _spec(record: Record) -> RunSpec | None:
    """None for a damaged one."""
    try:
        return parse_spec(record.spec)
    except InputError:
        return None


class Recovery:
    """Rounds over the folders of previous workers, repeated because a guard may outlive the next worker's start."""

    def __init__(
        self,
        adopter: Adopter,
        identity: Identity,
        *,
        store: Store,
        settings: Settings,
        outage: Outage,
        guards: Guards,
        hung_after_s: float | None,
        stopping: threading.Event,
        on_end: OnEnd,
        send_outputs: Callable[[str], None],
    ) -> None:
        """Guards that are taken over are added to `guards`; `hung_after_s` is as that of the worker's own guard.

        `send_outputs` has the outputs of an attempt sent, by the name of its folder.
        """
        self._adopter = adopter
        self._identity = identity
        self._store = store
        self._settings = settings
        self._outage = outage
        self._guards = guards
        self._hung_after_s = hung_after_s
        self._stopping = stopping
        self._on_end = on_end
        self._send_outputs = send_outputs
        self._checkpoints = LastCheckpoints(identity, store=store, settings=settings, stopping=stopping)
        #: Folders that were taken and are not settled yet.
        self._abandoned: list[AbandonedFolder] = []
        self._halted = False
        #: Lock of a round.
        self._taking = threading.Lock()

    def start(self, left: list[WorkerFolder]) -> None:
        """Begin the rounds, in a thread, with these folders, whose locks the caller has."""
        threading.Thread(target=self._run, args=(left,), name="launch-recovery", daemon=True).start()

    def halt(self) -> None:
        """Take no more folders; when this returns the round that was under way is over, if Redis answers."""
        self._halted = True
        if self._taking.acquire(timeout=_HALT_S):
            self._taking.release()

    @property
    def num_adopting(self) -> int:
        """The number of jobs that are adopted, or about to be."""
        return sum(abandoned.num_adopted for abandoned in list(self._abandoned))

    def close(self) -> None:
        """End the guards that were taken over, and release their folders."""
        for abandoned in list(self._abandoned):
            abandoned.close()

    def _run(self, left: list[WorkerFolder]) -> None:
        """Each folder is deleted once all of its attempts are reported, with their kept ends or as Crashed."""
        while not self._stopping.is_set():
            with self._taking:
                if not self._halted:
                    self._round(left)
            self._stopping.wait(self._settings.lease_s / 4)
            if self._halted:
                return
            try:
                left = list(WorkerFolder.abandoned(self._settings.work_dir))
            except OSError as error:
                log.error("recovery.blind folder=%s: %s", self._settings.work_dir, error)
                left = []

    def _round(self, left: list[WorkerFolder]) -> None:
        steps: list[Callable[[], None]] = [self._take_over_guards, *(partial(self._recover, folder) for folder in left)]
        for step in (*steps, self._settle, self._adopter.clear_containers):
            try:
                step()
            except Exception:
                # One damaged folder must not keep the others from being recovered, now and later.
                log.exception("recovery.failed")

    def _take_over_guards(self) -> None:
        """Adopt the jobs that a worker of this node name left with its guard."""
        try:
            folders = list(WorkerFolder.of_worker(self._settings.work_dir, self._identity.worker))
        except OSError:
            return  # logged by the next look for abandoned folders
        known = {self._identity.owner, *(abandoned.folder.owner for abandoned in self._abandoned)}
        for folder in folders:
            if folder.owner in known:
                continue
            taken = take_over(
                folder.path, log_file_bytes=self._settings.log_file_bytes, hung_after_s=self._hung_after_s
            )
            if taken is None:
                continue
            runner, jobs, lock_fd = taken
            folder.hold(lock_fd)
            abandoned = AbandonedFolder(folder, runner)
            self._abandoned.append(abandoned)
            self._guards.add(runner)
            by_key = {job.key: job for job in jobs}
            mine = [attempt for attempt in folder.attempts() if attempt.key in by_key]
            claimed = [
                (attempt, self._adopter.claim_process(abandoned, attempt, by_key[attempt.key])) for attempt in mine
            ]
            runner.open()
            for attempt, adopt in claimed:
                abandoned.begin(adopt, name=f"adopt-{attempt.run_id}")
            others = [attempt for attempt in folder.attempts() if attempt.key not in by_key]
            if end_leftovers(others):
                self._recover_attempts(abandoned, others)

    def _recover(self, folder: WorkerFolder) -> None:
        abandoned = AbandonedFolder(folder, None)
        self._abandoned.append(abandoned)
        # Processes that cannot be ended are looked at again in the next round; until then no run is reported.
        if end_leftovers(folder.attempts()):
            self._recover_attempts(abandoned, folder.attempts())

    def _recover_attempts(self, abandoned: AbandonedFolder, attempts: list[AttemptFolder]) -> None:
        with _errors_logged(abandoned):
            for attempt in attempts:
                if attempt.is_container and attempt.read_report() is None:
                    abandoned.begin(
                        partial(self._adopter.adopt_container, abandoned, attempt), name=f"adopt-{attempt.run_id}"
                    )
                elif self._settings.output_url and has_states(attempt):
                    # What it has to store may take long.
                    abandoned.begin(partial(self._deliver_apart, abandoned, attempt), name=f"end-{attempt.run_id}")
                else:
                    self._deliver(attempt)

    def _deliver_apart(self, abandoned: AbandonedFolder, attempt: AttemptFolder) -> None:
        with _errors_logged(abandoned):
            self._deliver(attempt)

    def _settle(self) -> None:
        """Release the folders in which nothing is left to supervise."""
        for abandoned in list(self._abandoned):
            if abandoned.is_settled:
                self._abandoned.remove(abandoned)
                if abandoned.runner is not None:
                    self._guards.remove(abandoned.runner)
                abandoned.close()

    def _deliver(self, attempt: AttemptFolder) -> None:
        is_known = True
        try:
            leaves_outputs = attempt.leave_outputs()
        except OSError as error:
            log.error("outputs.not_moved run=%s: %s; it is tried again", attempt.run_id, error)
            return
        try:
            self._outage.repeat(partial(self._deliver_attempt, attempt, leaves_outputs=leaves_outputs or None))
        except UnknownRunError:
            is_known = False
            log.info("run.unknown run=%s: what is left of it is deleted", attempt.run_id)
        except DamagedError as error:
            log.error("run.not_recovered run=%s: %s", attempt.run_id, error)
            return
        if attempt.is_container:
            self._adopter.remove_container(attempt)
        if is_known:
            keep_large_output(self._settings, attempt.output)
        if leaves_outputs:
            self._send_outputs(attempt.path.name)
        attempt.remove()

    def _deliver_attempt(self, attempt: AttemptFolder, *, leaves_outputs: bool | None) -> None:
        report = attempt.read_report()
        if report is not None:
            # Else a Redis that was rolled back would take neither output nor talk.
            self._store.restore(report.record, owner=report.owner)
        if attempt.output.exists():
            tail = Tail(
                *(attempt.run_id, attempt.attempt, attempt.output),
                keep_bytes=self._settings.log_bytes,
                recorder=recorder_of(self._settings),
            )
            try:
                tail.resume(self._store)
                tail.ship(self._store)
            finally:
                tail.close()
        talk = self._ship_talk(attempt)
        if report is not None:
            record, step = report.record, report.step
            follows = step.retry_delay_s is not None
            owner = self._checkpoints.of_dead(attempt, record, outcome=step.outcome, step=step) if follows else ""
            accepted = self._store.finish(
                record,
                step,
                owner=owner or report.owner,
                ended_ago_s=report.ended_ago_s,
                used=report.used,
                leaves_outputs=leaves_outputs,
            )
            log.warning("report.delivered_late run=%s state=%s accepted=%s", record.id, step.outcome.state, accepted)
            if accepted:
                self._on_end(record, step.outcome)
            if accepted and not follows:
                self._checkpoints.of_dead(attempt, record, outcome=step.outcome, step=None)
            return
        record = self._store.get(attempt.run_id)
        words = Words() if talk is None else talk.words
        is_open = record.state in (RunState.RUNNING, RunState.CRASHED)
        if record.token != attempt.token:
            return
        if not (is_open or words.finish is not None):
            self._checkpoints.of_dead(attempt, record, outcome=None, step=None)
            return
        status, exited = attempt.read_exit_status(), attempt.read_exit()
        # A worker that left its jobs was ending this one, as a person had asked; its guard saw to the end.
        is_asked = exited is not None and exited.stopped_by == "asked" and record.state is RunState.RUNNING
        asked = asked_of(record) if is_asked else None
        if status is None and asked is None and record.state is RunState.CRASHED and words.finish is None:
            self._checkpoints.of_dead(attempt, record, outcome=None, step=None)
            return
        if talk is not None and record.sweep:
            talk.add_results(attempt.output)
            talk.ship(self._store)
        spec = _spec(record)
        code = 85 if spec is None else spec.preempt_exit_code
        if asked is not None and exited is not None:
            outcome = outcome_of_end(asked, Exited(exited.status, exited.stopped_by), code)
        elif status is None:
            why = f"worker {record.worker} died"
            if exited is not None and exited.stopped_by == "lease":
                why = f"its lease ran out: worker {record.worker} left it or died, and no other took it over in time"
            outcome = Outcome(RunState.CRASHED, reason=why)
        else:
            outcome = explained(outcome_of_exit(status, preempt_exit_code=code), attempt.output, spec)
        outcome = outcome_by_words(outcome, words, status=status, preempt_exit_code=code)
        if exited is not None and exited.is_out_of_memory:
            outcome = with_out_of_memory(outcome)
        if exited is not None and exited.disk_was_full:
            outcome = with_full_disk(outcome)
        ended_ago_s = attempt.exit_status_age_s()
        used = self._usage_of(attempt, record, ended_ago_s)
        step = next_step_of(record, outcome)
        follows = step.retry_delay_s is not None
        if follows:
            self._checkpoints.of_dead(attempt, record, outcome=outcome, step=step)
        if (
            self._store.finish(record, step, ended_ago_s=ended_ago_s, used=used, leaves_outputs=leaves_outputs)
            and is_open
        ):
            self._on_end(record, outcome)
        if not follows:
            self._checkpoints.of_dead(attempt, record, outcome=outcome, step=None)

    def _usage_of(self, attempt: AttemptFolder, record: Record, ended_ago_s: float | None) -> KeptUsage:
        """What is known of the usage of an attempt that nobody has reported."""
        kept, exited = attempt.read_usage(), attempt.read_exit()
        reaped = None if exited is None else exited.used
        if kept is None and reaped is None:
            return NO_USAGE
        recorder = kept or Recorder(every_s=1.0)
        if reaped is not None:
            recorder.note_end(Used(cpu_s=reaped.cpu_s, peak_memory=reaped.peak_memory or None))
        # Up to the latest look, where the end is not known.
        wall_s: float | None = recorder.last_s or None
        if ended_ago_s is not None and record.running_since is not None:
            wall_s = max(0.0, (self._store.now_us() - record.running_since) / 1e6 - ended_ago_s)
        return recorder.kept(wall_s, parse_needs(record.needs))

    def _ship_talk(self, attempt: AttemptFolder) -> Talk | None:
        """Send what the job wrote to its talk before it was gone; None for nothing. Raises BrokerUnavailableError."""
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


@contextlib.contextmanager
def _errors_logged(abandoned: AbandonedFolder) -> Iterator[None]:
    """Log what goes wrong with a dead worker's attempts: the machine's next worker goes on with them."""
    try:
        yield
    except BrokerUnavailableError:
        log.warning("recovery.unfinished folder=%s: the next worker goes on", abandoned.folder.path.name)
    except Exception:
        log.exception("recovery.failed folder=%s", abandoned.folder.path.name)
