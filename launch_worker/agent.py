"""LaunchAgent: the part of a worker process that holds its running jobs.

The names are those of W&B's `LaunchAgent` (shared/seeds/wandb-launch-agent.md). Celery does the polling; the agent
claims, executes, reports, and keeps all its leases alive with one heartbeat.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from launch_worker.api import Api
from launch_worker.attempt import Attempt, Site
from launch_worker.errors import BrokerUnavailableError, DamagedError, InputError, LaunchError
from launch_worker.execute import execute
from launch_worker.inherit import Heir
from launch_worker.liveness import Liveness
from launch_worker.logs import LogShipper
from launch_worker.outage import BACKOFF_CAP_S, Outage
from launch_worker.passes import OnEnd
from launch_worker.quarantine import Quarantine
from launch_worker.recover import Recovery, end_leftovers
from launch_worker.retry import NextStep, Outcome, has_retries_left, next_step
from launch_worker.run import Record
from launch_worker.runners.guard import boot_time_s
from launch_worker.runners.process import Lease, ProcessRunner
from launch_worker.spec import RunSpec, parse_spec
from launch_worker.spool import AttemptFolder, WorkerFolder, containers_mark
from launch_worker.states import RunState
from launch_worker.store.store import Answer
from launch_worker.supervise import AttemptDetached, AttemptSuperseded, Cancel, Detach, Shutdown, Superseded

if TYPE_CHECKING:
    from launch_worker.runners.container import ContainerRunner

log = logging.getLogger("launch_worker.agent")

#: From the end of the last job's grace to its report.
_LAST_STEPS_S = 10.0
#: How long a worker that leaves its jobs to the next one waits for those that are just starting or ending.
_START_WAIT_S = 30.0

#: What `on_adopt` returns: told the state and the outcome, None when the run went elsewhere.
OnEnded = Callable[[tuple[RunState, Outcome] | None], None]


class LaunchAgent:
    """Claims runs, executes them, and reports their ends; one per worker process.

    `config` takes `worker` (the node's name), `queues`, `max_jobs` (slots), `quarantine_after` (start failures in a
    row, 0 for never) and callbacks: `on_end` (for ends that this agent found or delivered for others), `on_intake`
    (with whether runs are taken from now on), `on_adopt` (for a run that goes on here; what it returns is called with
    the end), `on_drain` and `on_upgrade`.
    """

    _current: ClassVar[LaunchAgent | None] = None

    def __init__(self, api: Api, config: dict[str, Any]) -> None:
        self.api = api
        self._store = api.store
        self._settings = api.settings
        self._host = socket.gethostname()
        self._worker: str = config.get("worker") or f"agent@{self._host}"
        self._queues: list[str] = list(config.get("queues") or ["default"])
        self._max_jobs: int = config.get("max_jobs") or 1
        self._on_intake: Callable[[bool], None] = config.get("on_intake") or (lambda _: None)
        self._on_drain: Callable[[], None] = config.get("on_drain") or (lambda: None)
        self._on_upgrade: Callable[[], None] = config.get("on_upgrade") or (lambda: None)
        self._on_adopt: Callable[[Record], OnEnded] = config.get("on_adopt") or (lambda _: lambda _: None)
        self._on_end: OnEnd = config.get("on_end") or (lambda *_: None)
        self._quarantine = Quarantine(after=config.get("quarantine_after", 5))
        #: Holds the leases. Not the node's name: that is the same after a restart.
        self.owner = f"{self._host}.{os.getpid()}.{secrets.token_hex(4)}"
        #: By run and attempt: a superseded attempt may still be ending when this worker has the next one.
        self._jobs: dict[str, Attempt] = {}
        self._stopping = threading.Event()
        self._draining = False
        self._is_listed = False
        self._ending: Shutdown | None = None
        #: Leases of the jobs that this worker left to the next one.
        self._left: dict[str, Lease] = {}
        self._detached = False
        self._system_name = ""
        #: Items that are being claimed, executed or reported now.
        self._active = 0
        self._counting = threading.Lock()
        self._outage = Outage(self._stopping)
        self._liveness = Liveness(
            self,
            owner=self.owner,
            store=self._store,
            settings=self._settings,
            outage=self._outage,
            stopping=self._stopping,
            on_end=self._on_end,
        )

    # -- life --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the worker's folder, its guard and its threads, and say hello; works while Redis is away too."""
        work_dir = self._settings.work_dir
        try:
            left = list(WorkerFolder.abandoned(work_dir))
            for folder in left:
                end_leftovers(folder)
            self._folder = WorkerFolder.create(work_dir, self.owner, worker=self._worker)
            # The guard holds the lock too: while it is held, one of them lives.
            self._runner = ProcessRunner(lock_fd=self._folder.lock_fd, folder=self._folder.path).open()
            self._logs = LogShipper(
                self._store, keep_bytes=self._settings.log_bytes, file_bytes=self._settings.log_file_bytes
            )
        except OSError as error:
            raise LaunchError(
                f"the worker cannot start with LAUNCH_WORK_DIR {work_dir}: {error}; set it to a folder it may write to"
            ) from None
        self._site = Site(
            self._runner,
            self._containers,
            self._logs,
            settings=self._settings,
            store=self._store,
            system=self._system,
            owner=self.owner,
            worker=self._worker,
            host=self._host,
        )
        self._recovery = self._make_recovery()
        LaunchAgent._current = self
        self._liveness.start()
        threading.Thread(
            target=self._recovery.run,
            args=(left,),
            kwargs={"every_s": self._settings.lease_s / 4},
            name="launch-recovery",
            daemon=True,
        ).start()

    def _make_recovery(self) -> Recovery:
        work_dir = self._settings.work_dir
        heir = Heir(
            self,
            owner=self.owner,
            worker=self._worker,
            host=self._host,
            store=self._store,
            work_dir=work_dir,
            lease_s=self._settings.lease_s,
            containers=self._containers,
            has_containers=lambda: containers_mark(work_dir).exists(),
            system=self._system,
            outage=self._outage,
            stopping=self._stopping,
            on_end=self._on_end,
        )
        return Recovery(
            heir,
            work_dir=work_dir,
            store=self._store,
            keep_bytes=self._settings.log_bytes,
            outage=self._outage,
            stopping=self._stopping,
            on_end=self._on_end,
        )

    @cached_property
    def _container_runner(self) -> ContainerRunner:
        # Here and not above: the engine's SDK takes 12 MiB, and most workers run processes only.
        from launch_worker.runners.container import ContainerRunner

        containers_mark(self._settings.work_dir).touch()
        return ContainerRunner(self._runner)

    def _containers(self) -> ContainerRunner:
        with self._counting:
            return self._container_runner

    def _system(self) -> str:
        if not self._system_name:
            self._system_name = self._store.system()
        return self._system_name

    def drain(self, *, timeout_s: float | None = None) -> bool:
        """Take nothing new and block until the jobs have ended; False after the timeout.

        While Redis is away it does not wait for reports to be delivered: they are on disk.
        """
        self._draining = True
        self._recovery.halt()
        self._liveness.wake()
        deadline = None if timeout_s is None else boot_time_s() + timeout_s
        while self._active and not (self._outage.is_on and self._all_ended()):
            if deadline is not None and boot_time_s() > deadline:
                return False
            self._stopping.wait(0.05)
        return True

    def detach(self) -> None:
        """Take nothing new, and leave the jobs that run to the next worker with this node name; blocks until it is so.

        Their guard ends them if none comes before their lease runs out. What is starting is waited for, for a while.
        """
        self._draining = True
        self._recovery.halt()
        with contextlib.suppress(BrokerUnavailableError):
            self.heartbeat()  # the leases are whole, then
        told: set[str] = set()
        for pause_s in (_START_WAIT_S, _LAST_STEPS_S):
            deadline = boot_time_s() + pause_s
            while (self._active or self._recovery.is_busy) and boot_time_s() < deadline:
                for attempt in list(self._jobs.values()):
                    if attempt.job is not None and attempt.key not in told:
                        told.add(attempt.key)
                        attempt.events.put(Detach())
                self._stopping.wait(0.02)
            for attempt in list(self._jobs.values()):
                if attempt.job is None:
                    attempt.events.put(Shutdown(f"the worker was replaced before the job had started ({self._worker})"))
        for attempt in list(self._jobs.values()):
            self._leave(attempt)
        for runner in self._guards():
            runner.renew(self._left)
            runner.detach()
        self._detached = True

    def stop(self, *, reason: str = "the worker shut down") -> None:
        """End what still runs (handed back when retries are left, else Killed), then leave."""
        if not self._detached:
            self._end_jobs(Shutdown(f"{reason} ({self._worker})"))
            longest_grace_s = max((attempt.spec.grace_s for attempt in list(self._jobs.values())), default=0.0)
            if not self.drain(timeout_s=longest_grace_s + _LAST_STEPS_S):
                self._end_jobs(Shutdown(f"{reason} ({self._worker})", grace_s=0.0))
                self.drain(timeout_s=_LAST_STEPS_S)
        self._stopping.set()
        deadline = boot_time_s() + BACKOFF_CAP_S
        while self._active and boot_time_s() < deadline:
            time.sleep(0.02)
        self._logs.close()
        if not self._detached:
            for estate in self._recovery.estates:
                estate.close()
            self._runner.close()
        self._liveness.join()
        try:
            self._store.goodbye(self.owner, queues=self._queues)
        except BrokerUnavailableError as error:
            log.warning("worker.goodbye_unsaid %s", error)
        self._folder.release()
        if LaunchAgent._current is self:
            LaunchAgent._current = None

    def _end_jobs(self, shutdown: Shutdown) -> None:
        self._ending = shutdown
        for attempt in list(self._jobs.values()):
            attempt.events.put(shutdown)

    @classmethod
    def current(cls) -> LaunchAgent:
        """The agent of this process; LaunchError outside a worker."""
        if cls._current is None:
            raise LaunchError("there is no agent in this process; start one with: celery -A launch_worker worker")
        return cls._current

    @classmethod
    def initialized(cls) -> bool:
        """Whether this process has a running agent (W&B: "Return whether the agent is initialized")."""
        return cls._current is not None

    @classmethod
    def name(cls) -> str:
        """The worker's node name; LaunchError outside a worker."""
        return cls.current()._worker

    @property
    def queues(self) -> list[str]:
        """The queues that this worker consumes, without the system's own."""
        return list(self._queues)

    @property
    def num_running_jobs(self) -> int:
        """Jobs that this agent executes now."""
        return len(self._jobs)

    def snapshot(self) -> list[dict[str, Any]]:
        """The running attempts, for `celery inspect`."""
        return [
            {"id": a.record.id, "name": a.record.name, "attempt": a.record.attempt, "queue": a.record.queue}
            for a in list(self._jobs.values())
        ]

    @property
    def takes_runs(self) -> bool:
        """False while the worker drains or is in quarantine."""
        return not self._draining and self._quarantine.until is None

    def why_no_runs(self) -> str:
        """Why the worker takes no runs now; '' when it does."""
        if self._draining:
            return "the worker drains: it takes no more runs, and leaves when its jobs have ended"
        paused = self._quarantine.describe(now=boot_time_s())
        return f"the worker {paused}" if paused else ""

    def resume(self) -> None:
        """End a quarantine."""
        if self._quarantine.until is not None:
            log.warning("worker.resumed")
            self._quarantine.lift()
            self._on_intake(self.takes_runs)
            self._liveness.wake()

    # -- one run -------------------------------------------------------------------------------------------------

    def run(self, run_id: str, seq: int) -> tuple[RunState, Outcome] | None:
        """Claim the run and execute it to its end, in the calling thread.

        Returns the state that the record has then (Pending when it will be retried) and the outcome; None when the
        claim was refused (a doubled or outdated item, a cancelled run) or the attempt was superseded.
        """
        with self._counting:
            # More than the pool lets through only while runs of another worker that were taken over hold slots.
            is_free = self._active < self._max_jobs
            self._active += 1
        try:
            if not (self.takes_runs and is_free):
                self._put_back(run_id, seq)
                return None
            begun = self._begin(run_id, seq)
            return self._carry_out(begun) if isinstance(begun, Attempt) else begun
        except DamagedError as error:
            log.error("run.refused run=%s: %s", run_id, error)
            self._store.refuse("", f"the record of run {run_id!r} is damaged: {error}", b"")
            return None
        except BrokerUnavailableError as error:
            log.warning("run.left run=%s: this worker stops while Redis is away. %s", run_id, error)
            return None
        finally:
            with self._counting:
                self._active -= 1

    def carry_on(self, attempt: Attempt) -> None:
        """Supervise an attempt whose job another worker of this machine started, to its end, and report that."""
        with self._counting:
            self._active += 1
        ended: tuple[RunState, Outcome] | None = None
        try:
            on_ended = self._on_adopt(attempt.record)
            try:
                record, output = attempt.record, attempt.folder.output
                attempt.tail = self._outage.repeat(
                    lambda: self._logs.watch(record.id, record.attempt, output, resume=True)
                )
                ended = self._carry_out(attempt)
            finally:
                on_ended(ended)
        finally:
            with self._counting:
                self._active -= 1

    def _begin(self, run_id: str, seq: int) -> Attempt | tuple[RunState, Outcome] | None:
        """Claim the run; how it ended when it cannot be executed, None when it is not this worker's."""
        record, claimed_at = self._claim(run_id, seq)
        if record is None:
            return None
        log.info("run.claimed run=%s attempt=%d queue=%s", record.id, record.attempt, record.queue)
        try:
            spec = parse_spec(record.spec)
        except InputError as error:
            outcome = Outcome(RunState.FAILED, reason=str(error), phase="agent", message=str(error))
            self._outage.repeat(lambda: self._store.finish(record, NextStep(outcome), owner=self.owner))
            return outcome.state, outcome
        return Attempt(
            record=record,
            spec=spec,
            folder=self._folder.attempt(record),
            events=queue.SimpleQueue(),
            lease=self._lease(record, spec, renewed_at=claimed_at),
        )

    def _carry_out(self, attempt: Attempt) -> tuple[RunState, Outcome] | None:
        record = attempt.record
        self._jobs[attempt.key] = attempt
        if self._ending is not None:
            attempt.events.put(self._ending)
        try:
            outcome = execute(
                attempt,
                site=self._site,
                on_started=lambda pid: self._note_start(record, pid),
                enter=lambda phase, reason: self._note_phase(record, phase, reason),
            )
            return self._report(attempt, outcome)
        except AttemptDetached:
            self._leave(attempt)
            return None
        except AttemptSuperseded:
            log.warning("run.superseded run=%s attempt=%d: its job was ended", record.id, record.attempt)
            if attempt.job is not None:
                attempt.job.dispose()
            attempt.folder.remove()
            return None
        finally:
            del self._jobs[attempt.key]
            if attempt.tail is not None:
                self._logs.forget(attempt.tail)

    def _all_ended(self) -> bool:
        attempts = list(self._jobs.values())
        return len(attempts) == self._active and all(attempt.ended for attempt in attempts)

    def _claim(self, run_id: str, seq: int) -> tuple[Record | None, float]:
        """The record if it is ours now, and when the call that got it was sent: its lease counts from then."""
        nonce = secrets.token_hex(8)
        sent_at = 0.0

        def claim() -> tuple[Record | None, str]:
            nonlocal sent_at
            if self._draining:
                return None, "the worker drains"
            sent_at = boot_time_s()
            return self._store.claim(
                run_id,
                seq,
                owner=self.owner,
                worker=self._worker,
                host=self._host,
                lease_s=self._settings.lease_s,
                nonce=nonce,
            )

        record, why = self._outage.repeat(claim)
        if record is None:
            log.info("run.claim_refused run=%s seq=%s: %s", run_id, seq, why)
        return record, sent_at

    def _put_back(self, run_id: str, seq: int) -> None:
        try:
            self._store.put_back(run_id, seq)
        except BrokerUnavailableError:
            log.warning("run.item_dropped run=%s: it is published again later", run_id)

    def _note_start(self, record: Record, pid: int) -> None:
        try:
            self._store.started(record.id, record.token, pid=pid)
        except BrokerUnavailableError:
            log.warning("run.start_unnoted run=%s pid=%d: Redis is away", record.id, pid)

    def _note_phase(self, record: Record, phase: str, reason: str) -> None:
        try:
            self._store.phase(record, phase, reason=reason)
        except BrokerUnavailableError:
            log.warning("run.phase_unnoted run=%s phase=%s: Redis is away", record.id, phase)

    def _leave(self, attempt: Attempt) -> None:
        """The job goes on; its guard may end it when no worker renews its lease."""
        log.warning("run.detached run=%s attempt=%d: its job goes on", attempt.record.id, attempt.record.attempt)
        if attempt.job is not None:
            attempt.job.leave()
        try:
            attempt.folder.keep_record(attempt.record)
        except OSError as error:
            log.error("run.record_not_kept run=%s: %s", attempt.record.id, error)
        lease = attempt.lease
        if lease is None and not attempt.folder.is_container:
            # Nobody else takes the run, but no job may run for ever without a worker.
            lease = _guarded(attempt.spec, renewed_at=boot_time_s(), lease_s=self._settings.lease_s)
        self._left[attempt.key] = lease

    def _report(self, attempt: Attempt, outcome: Outcome) -> tuple[RunState, Outcome] | None:
        record = attempt.record
        if self._quarantine.note(outcome, now=boot_time_s()):
            log.error("worker.quarantined: %s", self._quarantine.describe(now=boot_time_s()))
            self._on_intake(False)
            self._liveness.wake()
        step = next_step(outcome, spec=attempt.spec, attempt=record.attempt, first_attempt=record.first_attempt)
        attempt.folder.write_report(record, step, owner=self.owner)
        attempt.ended = True
        if attempt.job is not None:
            attempt.job.dispose()
        try:
            if attempt.tail is not None:
                tail = attempt.tail
                try:
                    self._outage.repeat(lambda: self._logs.finish(tail))
                except DamagedError as error:
                    log.error("log.not_kept run=%s: %s", record.id, error)
            accepted = self._outage.repeat(lambda: self._store.finish(record, step, owner=self.owner))
        except BrokerUnavailableError:
            log.warning("run.report_kept run=%s: the next worker on this machine delivers it", record.id)
            return outcome.state, outcome
        attempt.folder.remove()
        if not accepted:
            log.warning("run.late_report_refused run=%s attempt=%d", record.id, record.attempt)
            return None
        state = outcome.state if step.retry_delay_s is None else RunState.PENDING
        log.info("run.ended run=%s attempt=%d state=%s reason=%s", record.id, record.attempt, state, outcome.reason)
        return state, outcome

    def _lease(self, record: Record, spec: RunSpec, *, renewed_at: float) -> Lease:
        """When the guard must end the job if no renewal follows; None where nobody else may take the run.

        A run with retries left is given to another worker once its lease ran out, so its job must be gone by then.
        """
        if not has_retries_left(
            spec, attempt=record.attempt, first_attempt=record.first_attempt, after=RunState.CRASHED
        ):
            return None
        return _guarded(spec, renewed_at=renewed_at, lease_s=self._settings.lease_s)

    def lease_of(self, record: Record, *, renewed_at: float) -> Lease:
        """The same for a record that another worker of this machine claimed."""
        return self._lease(record, parse_spec(record.spec), renewed_at=renewed_at)

    def attempt_folder(self, record: Record) -> AttemptFolder:
        """Where the files of an attempt are whose worker left none."""
        return self._folder.attempt(record)

    def _guards(self) -> list[ProcessRunner]:
        """This worker's own, and those that it took over."""
        estates = self._recovery.estates
        return [self._runner, *(estate.runner for estate in estates if estate.runner is not None)]

    # -- what liveness asks for ------------------------------------------------------------------------------------

    def heartbeat(self) -> tuple[float, int]:
        """Renew the leases of all running attempts in one call, and heed what is said of each."""
        if self._quarantine.is_over(now=boot_time_s()):
            self.resume()
        if not self.takes_runs and self._is_listed:
            # Else submitters would be told that its queues are consumed.
            self._store.goodbye(self.owner, queues=self._queues)
        self._is_listed = self.takes_runs
        attempts = list(self._jobs.values())
        renewed_at = boot_time_s()
        pulse = self._store.heartbeat(
            [(attempt.record.id, attempt.record.token, attempt.record.attempt) for attempt in attempts],
            owner=self.owner,
            worker=self._worker,
            lease_s=self._settings.lease_s,
            gone_s=max(self._settings.lease_s, 3 * self._settings.heartbeat_s),
            description=self._description(),
            queues=self._queues if self._is_listed else [],
        )
        leases: dict[str, Lease] = {}
        for attempt, answer in zip(attempts, pulse.answers, strict=True):
            self._heed(attempt, answer)
            if answer.word in ("ok", "cancel"):
                leases[attempt.key] = attempt.lease = self._lease(attempt.record, attempt.spec, renewed_at=renewed_at)
        for runner in self._guards():
            runner.renew(leases)
        return pulse.pass_age_s, pulse.next_due

    def obey(self, order: dict[str, Any]) -> None:
        """Orders come by publication and may be lost: a cancel is repeated by the passes and by the heartbeat."""
        if order["order"] == "drain":
            self._on_drain()
        elif order["order"] == "upgrade":
            self._on_upgrade()
        elif order["order"] == "resume":
            self.resume()
        elif order["order"] == "cancel":
            grace_us = order["grace_us"]
            for attempt in list(self._jobs.values()):
                if (attempt.record.id, str(attempt.record.token)) == (order["id"], order["token"]):
                    attempt.events.put(Cancel(order["reason"], int(grace_us) / 1e6 if grace_us else None))

    def _heed(self, attempt: Attempt, answer: Answer) -> None:
        if answer.word == "cancel":
            attempt.events.put(Cancel(answer.reason, answer.grace_s))
        elif answer.word == "superseded" or (answer.word == "ended" and not attempt.ended):
            # "ended": a person had the run retried and cancelled while this worker was cut off.
            attempt.events.put(Superseded())
        elif answer.word == "unknown":
            log.warning("run.restored run=%s: Redis had lost it", attempt.record.id)
            self._store.restore(attempt.record, lease_s=self._settings.lease_s, owner=self.owner)

    def _description(self) -> dict[str, Any]:
        return {
            "worker": self._worker,
            "owner": self.owner,
            "host": self._host,
            "pid": os.getpid(),
            "queues": self._queues,
            "slots": self._max_jobs,
            "running": len(self._jobs),
            "state": "draining" if self._draining else "running" if self.takes_runs else "quarantined",
            "problem": self._quarantine.describe(now=boot_time_s()),
        }


def _guarded(spec: RunSpec, *, renewed_at: float, lease_s: float) -> Lease:
    kill_at = renewed_at + lease_s - min(1.0, lease_s / 10)
    return kill_at - min(spec.grace_s, lease_s / 4), kill_at
