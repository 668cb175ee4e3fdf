"""Offers W&B's claim-by-claim methods of an agent (pop, run or fail one run), and the loop that polls.

What Celery's worker does through the task, a script can do itself: `get_job_and_queue`, `run_job`, or `loop`. Both go
through `task_run_job` and `finish_thread_id`. The quoted sentences are those of W&B's agent
(`wandb/sdk/launch/agent/agent.py`).
"""

from __future__ import annotations

import contextlib
import logging
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from launch_worker.agent.attempts import Attempts
from launch_worker.agent.capacity import Capacity
from launch_worker.agent.config import AgentConfig
from launch_worker.agent.outage import Outage
from launch_worker.agent.selection import Selection
from launch_worker.agent.tracker import (
    FileSaver,
    InternalAgentLogger,
    JobAndRunStatusTracker,
    JobSpecAndQueue,
    RunQueueItem,
    RunQueueItemFileSaver,
    say,
)
from launch_worker.attempt.attempt import Attempt
from launch_worker.attempt.supervise import AttemptDetached, AttemptSuperseded, Cancel, Shutdown, never_started
from launch_worker.errors import (
    BrokerUnavailableError,
    InputError,
    LaunchError,
    RefusedError,
    StartGivenUpError,
    SweepOverError,
    UnknownRunError,
)
from launch_worker.model.checks import MAX_LIMIT, check_queue_name
from launch_worker.model.outcome import PHASES, Outcome
from launch_worker.model.states import RunState
from launch_worker.model.units import format_duration
from launch_worker.queues.pool import PoolConfig
from launch_worker.queues.queue import QueueConfig
from launch_worker.queues.secure import secured
from launch_worker.store import keys
from launch_worker.store.store import Store

if TYPE_CHECKING:
    from launch_worker.api.client import Api

log = logging.getLogger("launch_worker.agent")

T = TypeVar("T")

#: What `update_status` takes, as W&B names them.
AGENT_POLLING, AGENT_RUNNING, AGENT_KILLED = "POLLING", "RUNNING", "KILLED"
STATUSES = (AGENT_POLLING, AGENT_RUNNING, AGENT_KILLED)
#: How long the loop waits after it found nothing.
_POLL_S = 0.2
#: Later than any item was dispatched.
_ALWAYS_US = 9_000_000_000_000_000
_ERROR_FILE = "error.log"


class ByHand:
    """The part of `LaunchAgent` that takes runs and sees each to its end."""

    api: Api
    _config: AgentConfig
    _store: Store
    _jobs: Attempts
    _inventory: Capacity
    outage: Outage
    _queues: list[str]
    _worker: str
    _max_jobs: int
    _stopping: threading.Event
    _on_schedulers: Callable[[int], None]
    is_started: bool

    def _prepare_by_hand(self) -> None:
        #: Guards the two tables.
        self._table = threading.Lock()
        #: By run: claimed by hand, and not executed yet.
        self._claimed: dict[str, JobAndRunStatusTracker] = {}
        self._threads: dict[int, JobAndRunStatusTracker] = {}
        #: The queues, the one that gave a run last at the end.
        self._turns: list[str] = []
        #: Something ended, or is asked of the loop.
        self._news = threading.Event()
        self._asked_to_stop = threading.Event()
        self._status = AGENT_POLLING
        self._internal_logger = InternalAgentLogger(self._config.verbosity)

    # -- what the agent gives to this part ---------------------------------------------------------------------------

    def start(self) -> None:
        raise NotImplementedError

    def stop(self, *, reason: str = "") -> None:
        raise NotImplementedError

    def drain(self, *, timeout_s: float | None = None) -> bool:
        raise NotImplementedError

    def detach(self) -> None:
        raise NotImplementedError

    @property
    def takes_runs(self) -> bool:
        raise NotImplementedError

    @property
    def direct_queue(self) -> str:
        raise NotImplementedError

    def set_queues(self, queues: Sequence[str]) -> None:
        raise NotImplementedError

    # -- what runs ---------------------------------------------------------------------------------------------------

    @property
    def num_running_jobs(self) -> int:
        """W&B: "Return the number of jobs not including schedulers": claimed, and their jobs not gone yet."""
        return sum(not attempt.spec.scheduler for attempt in self._held())

    @property
    def num_running_schedulers(self) -> int:
        """W&B: "Return just the number of schedulers": runs that make other runs (`RunSpec.scheduler`)."""
        return sum(attempt.spec.scheduler for attempt in self._held())

    @property
    def thread_ids(self) -> list[int]:
        """W&B: "Returns a list of keys running thread ids for the agent": those that `finish_thread_id` takes."""
        with self._table:
            return list(self._threads)

    def _held(self) -> list[Attempt]:
        return [attempt for attempt in self._jobs.attempts if not attempt.ended] if self.is_started else []

    # -- taking ------------------------------------------------------------------------------------------------------

    def pop_from_queue(self, queue: str) -> RunQueueItem | None:
        """W&B: "Pops an item off the runqueue to run as a job."

        Pops and claims: the run is Running, and its lease is renewed, until `run_job` or `fail_run_queue_item`. The
        agent consumes the queue from then on, if it did not. What was given to this agent alone (for its GPUs, say)
        comes first, of whichever of its queues it is.

        None when nothing waits for this agent, or it has no room: all of `max_jobs` run, it drains, it is in
        quarantine. Raises BrokerUnavailableError when Redis is away; if it goes after the pop, blocks until the claim
        is answered.
        """
        check_queue_name(queue)
        if queue not in self._queues:
            self.set_queues([*self._queues, queue])
        return self._pop([self.direct_queue, *keys.queue_lists(queue)])

    def get_job_and_queue(self) -> JobSpecAndQueue | None:
        """The next item of the agent's queues, which take turns: one that gave an item comes last the next time.

        What was given to this agent alone comes first. Returns and raises as `pop_from_queue`.
        """
        job = self._pop([self.direct_queue])
        if job is not None:
            return JobSpecAndQueue(job, job["queue"])
        known = [name for name in self._turns if name in self._queues]
        self._turns = known + [name for name in self._queues if name not in known]
        for queue in list(self._turns):
            job = self._pop(keys.queue_lists(queue))
            if job is not None:
                self._turns.remove(queue)
                self._turns.append(queue)
                return JobSpecAndQueue(job, queue)
        return None

    def _pop(self, lists: Sequence[str]) -> RunQueueItem | None:
        self._ensure_started()
        while self.takes_runs and self.num_running_jobs < self._max_jobs:
            taken = self._store.take(lists, before_us=_ALWAYS_US)
            if taken is None:
                return None
            attempt = self._jobs.claim(*taken)
            if isinstance(attempt, Attempt):
                tracker = self._track(attempt)
                with self._table:
                    self._claimed[tracker.run_queue_item_id] = tracker
                self._internal_logger.debug(f"claimed run {attempt.record.id} of queue {attempt.record.queue}")
                return tracker.job
        return None

    def _track(self, attempt: Attempt) -> JobAndRunStatusTracker:
        tracker = JobAndRunStatusTracker(attempt, RunQueueItemFileSaver(attempt.folder.path / "files"))
        if attempt.spec.scheduler:
            self._on_schedulers(self.num_running_schedulers)
        return tracker

    def _return_claimed(self) -> None:
        """What was claimed by hand and never executed goes back to its queue."""
        with self._table:
            claimed = list(self._claimed.values())
            self._claimed.clear()
        for tracker in claimed:
            tracker.result = Outcome(
                RunState.KILLED, reason=f"its agent stopped before it had begun ({self._worker})", unbegun=True
            )
            self._end(tracker)

    # -- one run -----------------------------------------------------------------------------------------------------

    def run_job(self, job: Mapping[str, Any], queue: str, file_saver: FileSaver | None = None) -> None:
        """W&B: "Set up project and run the job": one that this agent has claimed, in a thread; returns at once.

        What belongs to the run and is no output of its job goes through `file_saver`, by default to the agent's own.
        Raises InputError for an item that this agent has not claimed, or has begun already.
        """
        item = str(job.get("runQueueItemId", ""))
        with self._table:
            tracker = self._claimed.get(item)
        if tracker is None:
            raise InputError(f"item {item!r} is not claimed by this agent; get one with: get_job_and_queue()")
        if file_saver is not None:
            tracker.saver = file_saver
        self._internal_logger.debug(f"received job {item} of queue {queue}")
        arguments: tuple[Any, ...] = (dict(job.get("runSpec") or {}), job, {}, self.api, tracker)
        begun = threading.Event()
        tracker.on_begun = begun.set
        thread = threading.Thread(target=self.task_run_job, args=arguments, name=f"launch-job-{item}", daemon=True)
        thread.start()
        # Its id is known then.
        begun.wait()

    def task_run_job(
        self,
        launch_spec: Mapping[str, Any],
        job: Mapping[str, Any],
        default_config: Mapping[str, Any],
        api: Api,
        job_tracker: JobAndRunStatusTracker,
    ) -> None:
        """Execute a claimed item in the calling thread, to its end; every path goes through `finish_thread_id`, once.

        Its parts are recorded: the record's `phases` (fetch, pull, start) with their times, and the `phase` in which a
        Failed one failed (agent, build, start, run). `default_config` is empty: defaults are the queue's.
        """
        self._carry_out(job_tracker, launch_spec)

    def _carry_out(self, job_tracker: JobAndRunStatusTracker, launch_spec: Mapping[str, Any]) -> None:
        thread_id = threading.get_ident()
        with self._table:
            self._claimed.pop(job_tracker.run_queue_item_id, None)
            job_tracker.thread_id = thread_id
            self._threads[thread_id] = job_tracker
        job_tracker.on_begun()
        attempt = job_tracker.attempt
        problem: Exception | None = None
        try:
            self.update_status(AGENT_RUNNING)
            if attempt.job is None:
                self.check_sweep_state(launch_spec, self.api)
                self._secure(attempt)
            job_tracker.result = self._jobs.execute(attempt)
            problem = attempt.error
        except (AttemptDetached, AttemptSuperseded) as elsewhere:
            job_tracker.result = elsewhere
        except StartGivenUpError:
            try:
                job_tracker.result = never_started(attempt.events)
            except AttemptSuperseded as elsewhere:
                job_tracker.result = elsewhere
        except Exception as error:
            if not isinstance(error, LaunchError):
                log.exception("run.failed run=%s phase=%s", attempt.record.id, attempt.phase)
            problem = error
        finally:
            self.finish_thread_id(thread_id, problem)

    def finish_thread_id(self, thread_id: int, exception: Exception | None = None) -> None:
        """W&B: "Removes the job from our list for now": its slot is free first, then its end is told, once.

        With an exception the run is Failed for it, unless its end is known already; the traceback is kept with the run
        (`error.log`). Called for a job that another thread executes, that job is ended first. An unknown id is ignored.
        """
        with self._table:
            tracker = self._threads.get(thread_id)
            if tracker is None:
                return
            if thread_id == threading.get_ident():
                del self._threads[thread_id]
        if thread_id == threading.get_ident():
            self._end(tracker, exception)
            return
        outcome = outcome_of(exception or LaunchError("it was given up by its agent"), tracker.err_stage)
        self._ask_to_fail(tracker, outcome, exception)

    def fail_run_queue_item(
        self, run_queue_item_id: str, message: str, phase: str, files: list[str] | None = None
    ) -> None:
        """Make a run that this agent has Failed, in a phase (agent, build, start, run), with `message` as the reason.

        Its job, if it has one, is ended first. `files` are paths on this machine, as a file saver returns them: kept
        with the run under their last names. One atomic step; for an ended run nothing is changed. Raises InputError,
        UnknownRunError, RefusedError for a run that this agent has not claimed.
        """
        if phase not in PHASES:
            raise InputError(f"phase {phase!r} is unknown; use one of: {', '.join(PHASES)}")
        outcome = Outcome(RunState.FAILED, reason=message.partition("\n")[0], phase=phase, message=message)
        with self._table:
            tracker = self._claimed.pop(run_queue_item_id, None)
            executed = [one for one in self._threads.values() if one.run_queue_item_id == run_queue_item_id]
        if tracker is not None:
            tracker.result = outcome
            tracker.files += files or []
            self._end(tracker)
        elif executed:
            executed[0].files += files or []
            self._ask_to_fail(executed[0], outcome)
        else:
            record = self._store.get(run_queue_item_id)
            if not record.state.is_final:
                raise RefusedError(f"run {record.id} is {record.state} and not this agent's; nothing was changed")

    def _ask_to_fail(self, tracker: JobAndRunStatusTracker, outcome: Outcome, problem: Exception | None = None) -> None:
        if tracker.failure is None:
            tracker.failure, tracker.failed_by = outcome, problem
        tracker.attempt.events.put(Cancel(outcome.reason))

    def _end(self, tracker: JobAndRunStatusTracker, problem: Exception | None = None) -> None:
        attempt, result = tracker.attempt, tracker.result
        if result is None:
            result = outcome_of(problem or LaunchError("it was given up by its agent"), attempt.phase)
        if isinstance(result, Outcome):
            if tracker.failure is not None and result.state is RunState.KILLED:
                result, problem = tracker.failure, tracker.failed_by
            if problem is not None and result.state is RunState.FAILED:
                self._save_traceback(tracker, problem)
            self._internal_logger.debug(f"run {attempt.record.id} ended: {result.state} {result.reason}".rstrip())
        try:
            tracker.ended = self._jobs.conclude(attempt, result, keep=lambda: self._keep(tracker))
        finally:
            if attempt.spec.scheduler:
                self._on_schedulers(self.num_running_schedulers)
            if not self.thread_ids and self._status == AGENT_RUNNING:
                self.update_status(AGENT_POLLING)
            self._news.set()

    def _save_traceback(self, tracker: JobAndRunStatusTracker, problem: Exception) -> None:
        text = "".join(traceback.format_exception(problem))
        try:
            tracker.files += tracker.saver.save_contents(text, _ERROR_FILE, "error") or []
        except Exception:
            # A saver is the caller's own; whatever it does, the run has its end and its slot is free.
            log.exception("file.not_kept run=%s file=%s", tracker.run_queue_item_id, _ERROR_FILE)

    def _keep(self, tracker: JobAndRunStatusTracker) -> None:
        """Send its files. Raises BrokerUnavailableError; what cannot be kept otherwise is logged."""
        for name in tracker.files:
            path = Path(name)
            try:
                if not self._store.save_file(tracker.run_queue_item_id, path.name, path.read_bytes()):
                    log.error("file.not_kept run=%s file=%s: it has too many", tracker.run_queue_item_id, path.name)
            except (OSError, InputError, UnknownRunError) as error:
                log.error("file.not_kept run=%s file=%s: %s", tracker.run_queue_item_id, path.name, error)

    # -- whether it may start ----------------------------------------------------------------------------------------

    def check_sweep_state(self, launch_spec: Mapping[str, Any], api: Api) -> None:
        """W&B: "Check the state of a sweep before launching a run for the sweep."

        `launch_spec` names it under `sweep` (W&B's agent: `sweep_id`). Raises SweepOverError unless it is RUNNING or
        PAUSED: the run is Killed then, and none of its code has run. While Redis is away it asks again; then, when the
        agent stops, raises StartGivenUpError.
        """
        sweep = launch_spec.get("sweep_id") or launch_spec.get("sweep")
        if not sweep:
            return
        from launch_worker.sweeps.drive import check_sweep

        reason = self._patiently(lambda: check_sweep(api.store, str(sweep)))
        if reason:
            raise SweepOverError(reason)

    def _secure(self, attempt: Attempt) -> None:
        """Raises InputError for what a worker in secure mode does not run."""
        if not self._config.secure_mode:
            return
        pool = PoolConfig.from_json(self._patiently(lambda: self._store.configs_of(attempt.record.queue)).pool_config)
        attempt.spec = secured(attempt.spec, QueueConfig.from_json(attempt.record.queue_config), pool)

    def _patiently(self, call: Callable[[], T]) -> T:
        """The answer, however long Redis is away. Raises StartGivenUpError when this thread's run shall not start."""
        with self._table:
            tracker = self._threads.get(threading.get_ident())
        try:
            return self.outage.repeat(call, until=lambda: tracker is not None and not tracker.attempt.events.empty())
        except BrokerUnavailableError:
            if tracker is not None and self._stopping.is_set():
                tracker.attempt.events.put(Shutdown(f"the worker shut down ({self._worker})"))
            raise StartGivenUpError from None

    # -- polling -----------------------------------------------------------------------------------------------------

    def loop(self) -> None:
        """W&B: "Loop infinitely to poll for jobs and run them", in the foreground, without Celery.

        An outage of Redis does not end it. Ctrl-C, SIGTERM (in the main thread, if the program has no handler of its
        own) and `launch-worker workers drain` are the request to stop: nothing new is taken, jobs go on to their end or
        for `drain_timeout` (with `detach_on_exit` they are left to the next worker). A second Ctrl-C ends them.

        Raises KeyboardInterrupt when it was asked to stop, after all of that.
        """
        self._ensure_started()
        with _sigterm_as_interrupt():
            try:
                self.print_status()
                with self._looking_for_queues():
                    while True:
                        self._turn()
            except KeyboardInterrupt:
                self._leave()
                raise
            finally:
                if self.is_started:
                    self.stop()

    def _turn(self) -> None:
        if self._asked_to_stop.is_set():
            raise KeyboardInterrupt("the agent was asked to stop")
        try:
            found = self.get_job_and_queue()
        except BrokerUnavailableError as error:
            self.outage.note(error)
            while not self.outage.wait(timeout_s=_POLL_S) and not self._asked_to_stop.is_set():
                pass
            self._news.wait(random.uniform(0.05, 0.1))
            self._news.clear()
            return
        if found is None:
            self._news.wait(_POLL_S)
            self._news.clear()
            return
        item = found.job["runQueueItemId"]
        try:
            self.run_job(found.job, found.queue)
        except Exception as error:
            log.exception("run.failed run=%s phase=agent", item)
            self.fail_run_queue_item(item, f"{type(error).__name__} in the worker: {error}", "agent")

    def _leave(self) -> None:
        try:
            if self._config.detach_on_exit:
                self.detach()
            elif not self.drain(timeout_s=self._config.drain_timeout):
                log.warning("worker.drain_timeout: what still runs is ended")
        except KeyboardInterrupt:
            log.warning("worker.stopping: what still runs is ended")

    @contextlib.contextmanager
    def _looking_for_queues(self) -> Iterator[None]:
        """Takes up queues that appear, where the agent has a selection and not names."""
        config = self._config
        if not (config.match or config.pool or config.tags):
            yield
            return
        from launch_worker.agent.queue_watch import QueueWatch

        selection = Selection.parse(queues=config.queues or (), match=config.match, pool=config.pool, tags=config.tags)
        pickup = QueueWatch(self, selection, on_change=self._news.set)  # type: ignore[arg-type]
        pickup.start()
        try:
            yield
        finally:
            pickup.stop()

    def _ensure_started(self) -> None:
        if not self.is_started:
            self.start()

    # -- status ------------------------------------------------------------------------------------------------------

    def update_status(self, status: str) -> None:
        """W&B: "Update the status of the agent": POLLING, RUNNING or KILLED.

        It is in the worker's description (`launch-worker workers --json`) from the next heartbeat on; from verbosity 1
        on a change is printed. Raises InputError.
        """
        if status not in STATUSES:
            raise InputError(f"status {status!r} is unknown; use one of: {', '.join(STATUSES)}")
        if status == self._status:
            return
        self._status = status
        self._internal_logger.debug(f"status {status}")
        if self._config.verbosity >= 1:
            self.print_status()

    def print_status(self) -> None:
        """W&B: "Prints the current status of the agent", in one line.

        Its name, status, queues, what runs of what may, free GPUs, and how long the oldest run in its queues waits.
        """
        say(self.status_line())

    def status_line(self) -> str:
        """What `print_status` prints."""
        free, total = self._inventory.free().devices, self._inventory.total.devices
        parts = [
            f"queues {', '.join(self._queues) or 'none'}",
            f"running {self.num_running_jobs} of {_most(self._max_jobs)} jobs",
            f"{self.num_running_schedulers} of {_most(self._inventory.max_schedulers)} schedulers",
            f"{len(free)} of {len(total)} GPUs free",
            f"oldest wait {self._oldest_wait()}",
        ]
        return f"agent {self._worker} {self._status}: {'; '.join(parts)}"

    def _oldest_wait(self) -> str:
        try:
            waited_s = self._store.oldest_wait_s(self._queues)
        except BrokerUnavailableError:
            return "unknown (Redis does not answer)"
        return "none" if waited_s is None else format_duration(waited_s)


def outcome_of(error: Exception, phase: str) -> Outcome:
    """How a run ends for which its agent met with an error before, or beside, its execution."""
    if isinstance(error, SweepOverError):
        return Outcome(RunState.KILLED, reason=str(error))
    if isinstance(error, LaunchError):
        return Outcome(RunState.FAILED, reason=str(error), phase=phase, message=str(error))
    return Outcome(
        RunState.FAILED,
        reason=f"{type(error).__name__} in the worker: {error}",
        phase=phase,
        message="".join(traceback.format_exception(error, limit=-8)),
    )


def _most(limit: int) -> str:
    return "any number of" if limit >= MAX_LIMIT else str(limit)


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
