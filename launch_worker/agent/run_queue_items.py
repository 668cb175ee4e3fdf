"""Pops, claims and executes the run queue items of an agent one by one, as W&B's `LaunchAgent` does it.

Celery's worker, `LaunchAgent.loop` and a script that calls `get_job_and_queue` and `run_job` all come here: each
attempt goes through `task_run_job` or `see_to_its_end`, and through `finish_thread_id`.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from launch_worker.agent.attempts import Attempts, Ended
from launch_worker.agent.claims import Claims
from launch_worker.agent.config import AgentConfig
from launch_worker.agent.execution import Execution
from launch_worker.agent.hooks import Hooks
from launch_worker.agent.identity import Identity
from launch_worker.agent.intake import Intake
from launch_worker.agent.outage import Outage
from launch_worker.agent.registration import AGENT_POLLING, AGENT_RUNNING, Registration
from launch_worker.agent.status import AgentStatus
from launch_worker.agent.tracker import (
    FileSaver,
    JobAndRunStatusTracker,
    JobSpecAndQueue,
    RunQueueItem,
    RunQueueItemFileSaver,
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
from launch_worker.model.checks import check_queue_name
from launch_worker.model.outcome import PHASES, Outcome
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.queues.pool import PoolConfig
from launch_worker.queues.read import queue_of
from launch_worker.queues.secure import secured
from launch_worker.store import keys
from launch_worker.store.store import Store

if TYPE_CHECKING:
    from launch_worker.api.client import Api

log = logging.getLogger("launch_worker.agent")

T = TypeVar("T")

#: Server time, microseconds, later than any item was dispatched.
_ALWAYS_US = 9_000_000_000_000_000
_ERROR_FILE = "error.log"


class Agent(Protocol):
    """The methods of the agent that a subclass may override, and that are therefore called through the agent."""

    def task_run_job(
        self,
        launch_spec: Mapping[str, Any],
        job: Mapping[str, Any],
        default_config: Mapping[str, Any],
        api: Api,
        job_tracker: JobAndRunStatusTracker,
    ) -> None: ...

    def check_sweep_state(self, launch_spec: Mapping[str, Any], api: Api) -> None: ...

    def finish_thread_id(self, thread_id: int, exception: Exception | None = None) -> None: ...


class RunQueueItems:
    """The items that an agent has claimed, and the threads that execute them. Thread-safe.

    `LaunchAgent` has the same methods, and says what each does.
    """

    def __init__(
        self,
        agent: Agent,
        identity: Identity,
        *,
        api: Api,
        config: AgentConfig,
        slots: int,
        attempts: Attempts,
        claims: Claims,
        execution: Execution,
        intake: Intake,
        registration: Registration,
        status: AgentStatus,
        outage: Outage,
        stopping: threading.Event,
        hooks: Hooks,
    ) -> None:
        self._agent = agent
        self._identity = identity
        self._api = api
        self._store: Store = api.store
        self._config = config
        self._slots = slots
        self._attempts = attempts
        self._claims = claims
        self._execution = execution
        self._intake = intake
        self._registration = registration
        self._status = status
        self._outage = outage
        self._stopping = stopping
        self._hooks = hooks
        #: Lock of the two tables.
        self._table = threading.Lock()
        #: Items that were popped and not executed yet, by run.
        self._claimed: dict[str, JobAndRunStatusTracker] = {}
        #: Items that are executed, by thread.
        self._threads: dict[int, JobAndRunStatusTracker] = {}
        #: Queues in the order of their turns: the queue that gave a run last stands at the end.
        self._turns: list[str] = []
        #: Event that is set when an item has ended, or the loop is to look at something.
        self.news = threading.Event()
        self.logger = status.logger

    @property
    def thread_ids(self) -> list[int]:
        """The ids of the threads that execute items."""
        with self._table:
            return list(self._threads)

    # -- popping -----------------------------------------------------------------------------------------------------

    def pop_from_queue(self, queue: str) -> RunQueueItem | None:
        """Pop and claim an item of one queue; see `LaunchAgent.pop_from_queue`."""
        check_queue_name(queue)
        queues = self._registration.selected
        if queue not in queues:
            self._registration.set_queues([*queues, queue])
        return self._pop([self.direct_queue, *keys.queue_lists(queue)])

    def get_job_and_queue(self) -> JobSpecAndQueue | None:
        """Pop and claim an item of the agent's queues, which take turns; see `LaunchAgent.get_job_and_queue`."""
        job = self._pop([self.direct_queue])
        if job is not None:
            return JobSpecAndQueue(job, job["queue"])
        queues = self._registration.queues
        known = [name for name in self._turns if name in queues]
        self._turns = known + [name for name in queues if name not in known]
        for queue in list(self._turns):
            job = self._pop(keys.queue_lists(queue))
            if job is not None:
                self._turns.remove(queue)
                self._turns.append(queue)
                return JobSpecAndQueue(job, queue)
        return None

    @property
    def direct_queue(self) -> str:
        """The queue of what is given to this worker alone."""
        return keys.direct_queue(self._identity.owner)

    def lists(self, queues: Sequence[str], *, strict: bool) -> list[str]:
        """The lists of these queues: the most urgent of all queues first, or with `strict` of each queue.

        The worker's direct queue comes before them.
        """
        by_queue = [keys.queue_lists(name) for name in queues]
        lists = by_queue if strict else zip(*by_queue, strict=True)
        return [self.direct_queue, *(name for some in lists for name in some)]

    def _pop(self, lists: Sequence[str]) -> RunQueueItem | None:
        while self._intake.is_open and self._attempts.num_running_jobs < self._slots:
            taken = self._store.take(lists, before_us=_ALWAYS_US)
            if taken is None:
                return None
            attempt = self._claims.claim(*taken)
            if isinstance(attempt, Attempt):
                tracker = self._track(attempt)
                with self._table:
                    self._claimed[tracker.run_queue_item_id] = tracker
                self.logger.debug(f"claimed run {attempt.record.id} of queue {attempt.record.queue}")
                return tracker.job
        return None

    def _track(self, attempt: Attempt) -> JobAndRunStatusTracker:
        tracker = JobAndRunStatusTracker(attempt, RunQueueItemFileSaver(f"{attempt.folder.root}/files"))
        if attempt.spec.scheduler:
            self._hooks.on_schedulers(self._attempts.num_running_schedulers)
        return tracker

    def return_claimed(self) -> None:
        """Give items that were popped and never executed back to their queues."""
        with self._table:
            claimed = list(self._claimed.values())
            self._claimed.clear()
        for tracker in claimed:
            tracker.result = Outcome(
                RunState.KILLED, reason=f"its agent stopped before it had begun ({self._identity.worker})", unbegun=True
            )
            self._end(tracker)

    # -- executing ---------------------------------------------------------------------------------------------------

    def run_job(self, job: Mapping[str, Any], queue: str, file_saver: FileSaver | None = None) -> None:
        """Execute a claimed item in a thread; see `LaunchAgent.run_job`."""
        item = str(job.get("runQueueItemId", ""))
        with self._table:
            tracker = self._claimed.get(item)
        if tracker is None:
            raise InputError(f"item {item!r} is not claimed by this agent; get one with: get_job_and_queue()")
        if file_saver is not None:
            tracker.saver = file_saver
        self.logger.debug(f"received job {item} of queue {queue}")
        begun = threading.Event()
        tracker.on_begun = begun.set
        threading.Thread(
            target=self._agent.task_run_job,
            args=(dict(job.get("runSpec") or {}), job, {}, self._api, tracker),
            name=f"launch-job-{item}",
            daemon=True,
        ).start()
        # From then on the thread's id is in `thread_ids`.
        begun.wait()

    def see_to_its_end(self, attempt: Attempt) -> Ended:
        """Execute a claimed or adopted attempt to its end, in the calling thread."""
        tracker = self._track(attempt)
        self.carry_out(tracker, {"sweep": attempt.spec.sweep})
        return tracker.ended

    def carry_on(self, attempt: Attempt) -> None:
        """Supervise an adopted attempt to its end, and report that."""
        ended: Ended = None
        with ExitStack() as stack:
            try:
                on_ended = self._hooks.on_adopt(attempt.record)
            except Exception:
                log.exception("callback.failed on_adopt run=%s", attempt.record.id)
            else:
                stack.callback(lambda: _call_adopted(on_ended, attempt.record, ended))
            self._execution.enter_adopted(attempt)
            ended = self.see_to_its_end(attempt)

    def carry_out(self, job_tracker: JobAndRunStatusTracker, launch_spec: Mapping[str, Any]) -> None:
        """Execute an item in the calling thread, to its end."""
        thread_id = threading.get_ident()
        with self._table:
            self._claimed.pop(job_tracker.run_queue_item_id, None)
            job_tracker.thread_id = thread_id
            self._threads[thread_id] = job_tracker
        job_tracker.on_begun()
        attempt = job_tracker.attempt
        problem: Exception | None = None
        try:
            self._status.update(AGENT_RUNNING)
            if attempt.job is None:
                self._agent.check_sweep_state(launch_spec, self._api)
                self._secure(attempt)
            job_tracker.result = self._execution.execute(attempt)
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
            self._agent.finish_thread_id(thread_id, problem)

    # -- ending ------------------------------------------------------------------------------------------------------

    def finish_thread_id(self, thread_id: int, exception: Exception | None = None) -> None:
        """End the item of a thread; see `LaunchAgent.finish_thread_id`."""
        with self._table:
            tracker = self._threads.get(thread_id)
            if tracker is None:
                return
            if thread_id == threading.get_ident():
                del self._threads[thread_id]
        if thread_id == threading.get_ident():
            self._end(tracker, exception)
            return
        outcome = _outcome_of(exception or LaunchError("it was given up by its agent"), tracker.err_stage)
        self._ask_to_fail(tracker, outcome, exception)

    def fail_run_queue_item(
        self, run_queue_item_id: str, message: str, phase: str, files: list[str] | None = None
    ) -> None:
        """End an item as Failed; see `LaunchAgent.fail_run_queue_item`."""
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
            result = _outcome_of(problem or LaunchError("it was given up by its agent"), attempt.phase)
        if isinstance(result, Outcome):
            if tracker.failure is not None and result.state is RunState.KILLED:
                result, problem = tracker.failure, tracker.failed_by
            if problem is not None and result.state is RunState.FAILED:
                self._save_traceback(tracker, problem)
            self.logger.debug(f"run {attempt.record.id} ended: {result.state} {result.reason}".rstrip())
        try:
            tracker.ended = self._execution.conclude(attempt, result, keep=lambda: self._keep(tracker))
        finally:
            if attempt.spec.scheduler:
                self._hooks.on_schedulers(self._attempts.num_running_schedulers)
            if not self.thread_ids and self._status.current == AGENT_RUNNING:
                self._status.update(AGENT_POLLING)
            self.news.set()

    def _save_traceback(self, tracker: JobAndRunStatusTracker, problem: Exception) -> None:
        text = "".join(traceback.format_exception(problem))
        try:
            tracker.files += tracker.saver.save_contents(text, _ERROR_FILE, "error") or []
        except Exception:
            # A saver is the caller's own; whatever it does, the run has its end and its slot is free.
            log.exception("file.not_kept run=%s file=%s", tracker.run_queue_item_id, _ERROR_FILE)

    def _keep(self, tracker: JobAndRunStatusTracker) -> None:
        """Send the item's files, and log those that cannot be kept. Raises BrokerUnavailableError."""
        for name in tracker.files:
            path = Path(name)
            try:
                if not self._store.save_file(tracker.run_queue_item_id, path.name, path.read_bytes()):
                    log.error("file.not_kept run=%s file=%s: it has too many", tracker.run_queue_item_id, path.name)
            except (OSError, InputError, UnknownRunError) as error:
                log.error("file.not_kept run=%s file=%s: %s", tracker.run_queue_item_id, path.name, error)

    # -- whether an item may start -----------------------------------------------------------------------------------

    def check_sweep_state(self, launch_spec: Mapping[str, Any], api: Api) -> None:
        """Check the sweep of an item; see `LaunchAgent.check_sweep_state`."""
        sweep = launch_spec.get("sweep_id") or launch_spec.get("sweep")
        if not sweep:
            return
        from launch_worker.sweeps.drive import check_sweep

        reason = self._repeat(lambda: check_sweep(api.store, str(sweep)))
        if reason:
            raise SweepOverError(reason)

    def _secure(self, attempt: Attempt) -> None:
        """Raises InputError for what a worker in secure mode does not run."""
        if not self._config.secure_mode:
            return
        pool = PoolConfig.from_json(self._repeat(lambda: self._store.configs_of(attempt.record.queue)).pool_config)
        attempt.spec = secured(attempt.spec, queue_of(attempt.record.queue_config), pool)

    def _repeat(self, call: Callable[[], T]) -> T:
        """Call as `Outage.repeat` does. Raises StartGivenUpError when this thread's run shall not start any more."""
        with self._table:
            tracker = self._threads.get(threading.get_ident())
        try:
            return self._outage.repeat(call, until=lambda: tracker is not None and not tracker.attempt.events.empty())
        except BrokerUnavailableError:
            if tracker is not None and self._stopping.is_set():
                tracker.attempt.events.put(Shutdown(f"the worker shut down ({self._identity.worker})"))
            raise StartGivenUpError from None


def _outcome_of(error: Exception, phase: str) -> Outcome:
    """The outcome of a run whose agent met with an error before or beside its execution."""
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


def _call_adopted(on_ended: Callable[[Ended], None], record: Record, ended: Ended) -> None:
    try:
        on_ended(ended)
    except Exception:
        log.exception("callback.failed on_adopt run=%s", record.id)
