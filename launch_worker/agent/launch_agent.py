"""Joins the parts of a worker into `LaunchAgent`, which claims, executes and reports runs, by W&B's names.

Celery does the polling, or `loop` does; the agent claims, executes and reports, and renews all leases by one heartbeat.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from launch_worker.agent.adoption import Adopter, engine_is_near
from launch_worker.agent.attempts import Attempts, Ended, SentClaim
from launch_worker.agent.config import AgentConfig
from launch_worker.agent.gpus import inventory_from_options
from launch_worker.agent.heartbeat import Liveness
from launch_worker.agent.outage import BACKOFF_CAP_S, Outage
from launch_worker.agent.quarantine import Quarantine
from launch_worker.agent.recovery import Recovery, end_leftovers
from launch_worker.agent.run_queue_items import AGENT_KILLED, ByHand
from launch_worker.agent.tracker import JobSpecAndQueue, RunQueueItem, RunQueueItemFileSaver
from launch_worker.api.client import Api
from launch_worker.attempt.attempt import Attempt, WorkerContext
from launch_worker.attempt.folder import AttemptFolder, containers_mark
from launch_worker.attempt.shipping import LogShipper
from launch_worker.attempt.supervise import Cancel, Detach, Shutdown, Superseded
from launch_worker.attempt.worker_folder import WorkerFolder, delete_undeleted, why_not_own
from launch_worker.clock import boot_time_s
from launch_worker.errors import BrokerUnavailableError, LaunchError
from launch_worker.maintenance.passes import OnEnd
from launch_worker.model.needs import parse_needs
from launch_worker.model.outcome import Outcome
from launch_worker.model.run import Record
from launch_worker.model.spec import parse_spec
from launch_worker.model.worker import FreeCapacity
from launch_worker.runners.disk import shortage_of
from launch_worker.runners.job import Lease
from launch_worker.runners.process import tree
from launch_worker.runners.process.runner import ProcessRunner, reap_orphans
from launch_worker.settings import NO_WORK_DIR
from launch_worker.store import keys
from launch_worker.store.workers import Answer, Pulse

if TYPE_CHECKING:
    from launch_worker.runners.container.runner import ContainerRunner

log = logging.getLogger("launch_worker.agent")

__all__ = ["JobSpecAndQueue", "LaunchAgent", "RunQueueItem", "RunQueueItemFileSaver"]

#: What a worker's process gives its agent beside the configuration.
_WIRES = frozenset(
    (
        "worker",
        "inventory",
        "take_by_hand",
        "on_queues",
        "on_intake",
        "on_drain",
        "on_upgrade",
        "on_adopt",
        "on_end",
        "on_schedulers",
        "on_twin",
        "ends_if_hung",
    )
)
#: A worker that stands still for a shorter time is not called hung, however short the leases are.
_LEAST_HUNG_S = 12.0
#: From the end of the last job's grace to its report.
_LAST_STEPS_S = 10.0
_SAY_AGAIN_S = 30.0
#: How long a worker that leaves its jobs to the next one waits for those that are just starting or ending.
_START_WAIT_S = 30.0


class LaunchAgent(ByHand):
    """W&B: "Launch agent class which polls run given run queues and launches runs": one per process.

    It claims runs, executes them, and reports their ends. A Celery worker is this and a consumer of queues; `loop` is
    this and a poll; `get_job_and_queue` and `run_job` do the same one by one, and start it when it is not started.
    As a context manager it is started, and stopped at the end.
    """

    _current: ClassVar[LaunchAgent | None] = None

    def __init__(self, api: Api, config: Mapping[str, Any]) -> None:
        """W&B: "Initialize a launch agent." `config`: the keys of `AgentConfig`, W&B's and our own, as raw values.

        `queues` are ["default"] and `max_jobs` is 1 (W&B's) when they are not said; GPUs are not looked for unless
        `gpus` asks. Besides it takes `worker` (the node's name), `inventory` (in place of gpus, cpus and memory) and
        callbacks: `on_end` (for ends that this agent found or delivered for others), `on_intake` (with whether runs are
        taken from now on), `on_adopt` (for a run that goes on here; what it returns is called with the end),
        `on_queues` (with the name of a queue that is new, configured or gone), `on_schedulers` (with how many run),
        `on_twin` (with a sentence, when another worker has this one's name), `on_drain` (by default it stops `loop`)
        and `on_upgrade`. With `ends_if_hung` its guard kills this process, and ends its jobs, when its interpreter
        stands still for longer than a lease. Raises InputError that names all that is wrong.
        """
        self._config = AgentConfig.parse({name: value for name, value in config.items() if name not in _WIRES})
        self.api = api
        self._store = api.store
        self._settings = api.settings
        self._host = socket.gethostname()
        self._worker = config.get("worker") or f"agent@{self._host}"
        # Those that are looked for come later.
        is_dynamic = self._config.match or self._config.pool or self._config.tags
        usual = () if is_dynamic else ("default",)
        self._queues = list(usual if self._config.queues is None else self._config.queues)
        self._max_jobs = 1 if self._config.max_jobs is None else self._config.max_jobs
        self._inventory = config.get("inventory") or inventory_from_options(
            self._config.gpus or "none",
            self._config.cpus,
            self._config.memory,
            env=os.environ,
            share=self._settings.gpus_share,
        )
        self._inventory.max_schedulers = self._config.max_schedulers
        self._takes_by_hand = bool(config.get("take_by_hand"))
        self._prefetch_s = self._config.prefetch_seconds
        self._on_schedulers = config.get("on_schedulers") or (lambda _: None)
        self._on_queues: Callable[[str], None] = config.get("on_queues") or (lambda _: None)
        self._on_intake: Callable[[bool], None] = config.get("on_intake") or (lambda _: None)
        self._on_drain: Callable[[], None] = config.get("on_drain") or self._ask_loop
        self._on_upgrade: Callable[[], None] = config.get("on_upgrade") or self._ask_loop
        self._on_adopt: Callable[[Record], Callable[[Ended], None]] = config.get("on_adopt") or (
            lambda _: lambda _: None
        )
        self._on_twin: Callable[[str], None] = config.get("on_twin") or (lambda _: None)
        self._knows_twins = False
        self._hung_after_s = max(_LEAST_HUNG_S, self._settings.lease_s) if config.get("ends_if_hung") else None
        self._told_of_end: OnEnd = config.get("on_end") or (lambda *_: None)
        self._quarantine = Quarantine(after=self._config.quarantine_after)
        #: Holds the leases. Not the node's name: that is the same after a restart.
        self.owner = f"{self._host}.{os.getpid()}.{secrets.token_hex(4)}"
        self._stopping = threading.Event()
        self._draining = False
        #: What former workers' attempts have of this machine: the name of each one's folder, and its key.
        self._former: dict[str, str] = {}
        self._is_listed = False
        self._listing = threading.Lock()
        self._detached = False
        #: Somebody waits for this agent's end, and not for jobs that cannot be ended.
        self._hurried = threading.Event()
        self._said_waiting_at = -math.inf
        self._system_name = ""
        self._connecting = threading.Lock()
        self.is_started = False
        #: Whether Redis answers, and what to wait on while it does not.
        self.outage = Outage(self._stopping)
        self._liveness = Liveness(
            self,
            owner=self.owner,
            store=self._store,
            settings=self._settings,
            outage=self.outage,
            stopping=self._stopping,
            on_end=self._on_end,
        )
        self._prepare_by_hand()
        LaunchAgent._current = self

    def __enter__(self) -> LaunchAgent:
        if not self.is_started:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_started:
            self.stop()

    # -- life --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the worker's folder, its guard and its threads, and say hello; works while Redis is away too.

        Once for each agent. Raises LaunchError when this machine does not let it.
        """
        if self.is_started or self._stopping.is_set():
            raise LaunchError("this agent was started already; make another one")
        work_dir = self._settings.work_dir
        if work_dir == NO_WORK_DIR:
            raise LaunchError("this user has no home, so there is no place for the worker's files; set LAUNCH_WORK_DIR")
        try:
            reason = "" if self._settings.work_dir_trusted else why_not_own(work_dir)
            if reason:
                raise LaunchError(
                    f"the worker cannot use LAUNCH_WORK_DIR {work_dir}, for others could harm its jobs: {reason} "
                    "(or set LAUNCH_WORK_DIR_TRUSTED=1 where nobody else is on the machine, as in a container)"
                )
            delete_undeleted(work_dir)
            left = list(WorkerFolder.abandoned(work_dir))
            for folder in left:
                end_leftovers(folder.attempts())
            self._hold_for([*left, *WorkerFolder.of_worker(work_dir, self._worker)])
            self._folder = WorkerFolder.create(work_dir, self.owner, worker=self._worker)
            # The guard holds the lock too: while it is held, one of them lives.
            self._runner = ProcessRunner(
                lock_fd=self._folder.lock_fd,
                folder=self._folder.path,
                log_file_bytes=self._settings.log_file_bytes,
                hung_after_s=self._hung_after_s,
            ).open()
            self._logs = LogShipper(
                self._store,
                keep_bytes=self._settings.log_bytes,
                file_bytes=self._settings.log_file_bytes,
                is_away=lambda: self.outage.is_on,
                on_away=self.outage.note,
            )
        except OSError as error:
            raise LaunchError(
                f"the worker cannot start with LAUNCH_WORK_DIR {work_dir}: {error}; set it to a folder it may write to"
            ) from None
        self._site = WorkerContext(
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
        self._jobs = Attempts(
            self._site,
            folder=self._folder,
            outage=self.outage,
            slots=self._max_jobs,
            takes_runs=lambda: self.takes_runs,
            is_draining=lambda: self._draining,
            on_outcome=self._note,
            inventory=self._inventory,
            queues=lambda: self._queues,
            register=self.heartbeat,
            prefetch_s=self._prefetch_s,
        )
        if self._takes_by_hand:
            # Nothing yet; `take` says from when on.
            self._jobs.before_us = 1
        self._recovery = self._make_recovery()
        self.is_started = True
        LaunchAgent._current = self
        self._liveness.start()
        threading.Thread(
            target=self._recovery.run,
            args=(left,),
            kwargs={"every_s": self._settings.lease_s / 4},
            name="launch-recovery",
            daemon=True,
        ).start()

    def _hold_for(self, folders: Sequence[WorkerFolder]) -> None:
        """Before anything is claimed: nobody else may have what jobs of former workers have, until they are settled."""
        for attempt in (attempt for folder in folders for attempt in folder.attempts()):
            devices, needs_text = attempt.read_holding()
            needs = parse_needs(needs_text)
            self._former[attempt.path.name] = attempt.key
            self._inventory.hold(attempt.key, devices, needs.millicores, needs.memory)

    def _release_former(self) -> None:
        for name, key in list(self._former.items()):
            if not WorkerFolder.has_attempt(self._settings.work_dir, name):
                del self._former[name]
                self._inventory.release(key)

    def _make_recovery(self) -> Recovery:
        work_dir = self._settings.work_dir
        heir = Adopter(
            self,
            owner=self.owner,
            worker=self._worker,
            host=self._host,
            store=self._store,
            work_dir=work_dir,
            lease_s=self._settings.lease_s,
            containers=self._containers,
            has_containers=lambda: (
                containers_mark(work_dir).exists() or (engine_is_near() and self._store.has_system())
            ),
            system=self._system,
            outage=self.outage,
        )
        return Recovery(
            heir,
            work_dir=work_dir,
            store=self._store,
            keep_bytes=self._settings.log_bytes,
            log_file_bytes=self._settings.log_file_bytes,
            hung_after_s=self._hung_after_s,
            outage=self.outage,
            stopping=self._stopping,
            on_end=self._on_end,
        )

    @cached_property
    def _container_runner(self) -> ContainerRunner:
        # Here and not above: the engine's SDK takes 12 MiB, and most workers run processes only.
        from launch_worker.runners.container.runner import ContainerRunner

        containers_mark(self._settings.work_dir).touch()
        return ContainerRunner(
            self._runner, log_file_bytes=self._settings.log_file_bytes, redis_url=self._settings.redis_url
        )

    def _containers(self) -> ContainerRunner:
        with self._connecting:
            return self._container_runner

    def _system(self) -> str:
        if not self._system_name:
            self._system_name = self._store.system()
        return self._system_name

    def drain(self, *, timeout_s: float | None = None) -> bool:
        """Take nothing new and block until the jobs have ended; False after the timeout.

        While Redis is away it does not wait for reports to be delivered: they are on disk.
        """
        self._stop_intake()
        self._recovery.halt()
        self._liveness.wake()
        deadline = None if timeout_s is None else boot_time_s() + timeout_s
        while not self._is_drained:
            if deadline is not None and boot_time_s() > deadline:
                return False
            if self._hurried.is_set() and self._jobs.are_stuck:
                return False
            self._say_waiting()
            self._stopping.wait(0.05)
        return True

    def _stop_intake(self) -> None:
        """Take nothing new; what was claimed and has not begun (it waits for its time, its code) goes back."""
        self._draining = True
        self._return_claimed()
        self._jobs.hand_back(f"its worker stopped before it had begun ({self._worker})")

    @property
    def _is_drained(self) -> bool:
        return not self._jobs.active or (self.outage.is_on and self._jobs.are_ended)

    def hurry(self) -> None:
        """Whoever stops this agent waits no longer for jobs that nobody can end now: see `stop`."""
        self._hurried.set()

    def _say_waiting(self) -> None:
        troubled = self._jobs.troubled
        if troubled and time.monotonic() - self._said_waiting_at > _SAY_AGAIN_S:
            self._said_waiting_at = time.monotonic()
            log.warning(
                "worker.waits: this worker %s. A second signal leaves them; they are given to no other machine then "
                "until a worker of this one has looked, or somebody says launch-worker confirm RUN ended",
                self._trouble(),
            )

    def _trouble(self) -> str:
        """What keeps this worker from knowing of its jobs; '' when it does."""
        troubled = self._jobs.troubled
        if not troubled or troubled[0].job is None:
            return ""
        runs = ", ".join(attempt.record.id for attempt in troubled[:5]) + (", …" if len(troubled) > 5 else "")
        return f"cannot see to runs {runs}: {troubled[0].job.trouble}; look there why, or start it"

    def end_intake(self) -> None:
        """Take nothing new from now on, and be given nothing; what runs goes on."""
        self._draining = True
        self._liveness.wake()

    def detach(self) -> None:
        """Take nothing new, and leave the jobs that run to the next worker with this node name; blocks until it is so.

        Their guard ends them if none comes before their lease runs out. What is starting is waited for, for a while.
        """
        self._stop_intake()
        self._recovery.halt()
        deadline = boot_time_s() + _START_WAIT_S
        # Meanwhile the heartbeat renews the leases of all.
        while not self._jobs.are_steady(adopting=self._recovery.num_adopting) and boot_time_s() < deadline:
            self._stopping.wait(0.02)
        for attempt in self._jobs.attempts:
            if attempt.job is None:
                attempt.events.put(Shutdown(f"the worker was replaced before the job had started ({self._worker})"))
        renewed_at = boot_time_s()
        with contextlib.suppress(BrokerUnavailableError):
            self.heartbeat()
        for at_once in (False, True):
            for attempt in self._jobs.attempts:
                if attempt.job is not None:
                    attempt.events.put(Detach(at_once=at_once))
            deadline = boot_time_s() + min(_LAST_STEPS_S, self._settings.lease_s / 4)
            while self._jobs.active and boot_time_s() < deadline:
                self._stopping.wait(0.02)
        left = self._jobs.left_leases(renewed_at=renewed_at)
        for runner in self._guards():
            runner.renew(left)
            runner.detach()
        self._detached = True

    def stop(self, *, reason: str = "the worker shut down") -> None:
        """End what still runs (handed back when retries are left, else Killed), then leave.

        Blocks until nothing of the jobs is left, and renews their leases meanwhile. After `hurry` (or Ctrl-C) those
        that nobody can end now, as their container engine does not answer, are left: their runs are held, and given to
        no other machine before a worker of this one has looked, or a person has (`launch-worker confirm RUN ended`).
        """
        left: list[Attempt] = []
        self._liveness.vitals.note_loop(False)
        if not self._detached:
            self._jobs.end_all(Shutdown(f"{reason} ({self._worker})"))
            longest_grace_s = max((attempt.spec.grace_s for attempt in self._jobs.attempts), default=0.0)
            if not self.drain(timeout_s=longest_grace_s + _LAST_STEPS_S):
                self._jobs.end_all(Shutdown(f"{reason} ({self._worker})", grace_s=0.0))
                self.drain(timeout_s=_LAST_STEPS_S)
            self._await_ends()
            left = self._leave_unended()
        self._stopping.set()
        deadline = boot_time_s() + BACKOFF_CAP_S
        while self._jobs.active and boot_time_s() < deadline:
            time.sleep(0.02)
        self._logs.close()
        self._liveness.join()
        # Now that no heartbeat follows.
        self._hold(left)
        if not self._detached:
            for estate in self._recovery.estates:
                estate.close()
            self._runner.close()
        try:
            self._store.goodbye(self.owner, queues=self._queues)
        except BrokerUnavailableError as error:
            log.warning("worker.goodbye_unsaid %s", error)
        self._folder.release()
        self.is_started = False
        self.update_status(AGENT_KILLED)
        if LaunchAgent._current is self:
            LaunchAgent._current = None

    def _await_ends(self) -> None:
        """What has not ended by now, cannot be ended for the moment."""
        try:
            while not self._is_drained and not self._hurried.is_set():
                self._say_waiting()
                self._hurried.wait(0.05)
        except KeyboardInterrupt:
            self.hurry()

    def _leave_unended(self) -> list[Attempt]:
        """Supervise them no more. Returns the attempts whose jobs may live."""
        left = self._jobs.unended
        for attempt in left:
            attempt.events.put(Detach(at_once=True))
        return left

    def _hold(self, left: list[Attempt]) -> None:
        for attempt in left:
            record = attempt.record
            try:
                word = self._store.hold(record.id, record.token, owner=self.owner)
            except LaunchError as error:
                log.error("run.not_held run=%s: its lease decides what becomes of it. %s", record.id, error)
                continue
            log.warning("run.left run=%s attempt=%d: its job may live; it is %s", record.id, record.attempt, word)
            if word == "held":
                # Nobody else is given it, so it need not end with its lease.
                for runner in self._guards():
                    runner.renew({attempt.key: None})

    @classmethod
    def current(cls) -> LaunchAgent:
        """The agent of this process; LaunchError outside a worker."""
        if cls._current is None:
            raise LaunchError("there is no agent in this process; start one with: celery -A launch_worker worker")
        return cls._current

    @classmethod
    def initialized(cls) -> bool:
        """W&B: "Return whether the agent is initialized": whether this process has one that was not stopped."""
        return cls._current is not None

    @classmethod
    def name(cls) -> str:
        """W&B: "Return the name of the agent": the worker's node name. LaunchError outside a worker."""
        return cls.current()._worker

    @property
    def queues(self) -> list[str]:
        """The queues that this worker consumes, without the system's own."""
        return list(self._queues)

    def set_queues(self, queues: Sequence[str]) -> None:
        """The queues that this worker consumes from now on."""
        # A heartbeat that is on its way would list them again.
        with self._listing:
            dropped = [name for name in self._queues if name not in queues]
            self._queues = list(queues)
            if dropped:
                with contextlib.suppress(BrokerUnavailableError):
                    self._store.forget_consumer(self.owner, dropped)
        self._liveness.wake()

    @property
    def direct_queue(self) -> str:
        """The queue of what is given to this worker alone; consume it beside the others."""
        return keys.direct_queue(self.owner)

    def take(self, *, before_us: int, strict: bool = False) -> tuple[str, int] | None:
        """Pop by hand the next item (run, dispatch number) of a run that was ready by a server time; None for none.

        The most urgent of all queues first, or with `strict` all of the first queue before the next one's.
        """
        self._jobs.before_us = before_us
        return self._store.take(self._lists(self._queues, strict=strict), before_us=before_us)

    def _lists(self, queues: Sequence[str], *, strict: bool) -> list[str]:
        """What was given to this worker alone, then the most urgent of all queues first, or of each queue."""
        by_queue = [keys.queue_lists(name) for name in queues]
        lists = by_queue if strict else zip(*by_queue, strict=True)
        return [self.direct_queue, *(name for some in lists for name in some)]

    def snapshot(self) -> list[dict[str, Any]]:
        """The running attempts, for `celery inspect`."""
        return [
            {"id": a.record.id, "name": a.record.name, "attempt": a.record.attempt, "queue": a.record.queue}
            for a in self._jobs.attempts
        ]

    @property
    def takes_runs(self) -> bool:
        """False while the worker drains or is in quarantine."""
        return not self._draining and not self._quarantine.is_on

    def why_no_runs(self) -> str:
        """Why the worker takes no runs now; '' when it does."""
        if self._draining:
            return "the worker drains: it takes no more runs, and leaves when its jobs have ended"
        paused = self._quarantine.describe(now=boot_time_s())
        return f"the worker {paused}" if paused else ""

    def note_loop(self) -> None:
        """The loop that hands runs to this agent has turned; from the first time on, probes tell when it does not."""
        self._liveness.vitals.note_loop(True)

    def resume(self) -> None:
        """End a quarantine."""
        if self._quarantine.until is not None:
            log.warning("worker.resumed")
            self._quarantine.lift()
            self._on_intake(self.takes_runs)
            self._liveness.wake()

    # -- one run -------------------------------------------------------------------------------------------------

    def run(self, run_id: str, seq: int) -> Ended:
        """Claim the run and execute it to its end, in the calling thread.

        Returns the state that the record has then (Pending when it will be retried) and the outcome; None when the
        claim was refused (a doubled or outdated item, a cancelled run) or the attempt was superseded.
        """
        begun = self.claim(run_id, seq)
        return self.see_to_its_end(begun) if isinstance(begun, Attempt) else begun

    def claim(self, run_id: str, seq: int, sent: SentClaim | None = None) -> Attempt | Ended:
        """Claim the run, for `see_to_its_end`; how it ended when it cannot be executed, or None as `run`.

        `sent`: what `send_claim` returned for it.
        """
        return self._jobs.claim(run_id, seq, sent)

    def send_claim(self, run_id: str, seq: int) -> SentClaim | None:
        """Begin to claim the run, without waiting for anything; `claim` must follow."""
        return self._jobs.send_claim(run_id, seq)

    def claim_next(self, queues: Sequence[str], *, slot: str, strict: bool = False) -> Attempt | None:
        """Claim what waits in these queues, the most urgent first, or with `strict` all of the first queue first.

        For a slot (any name, one call at a time) that has just come free; None when the broker's client must see to it.
        """
        return self._jobs.claim_next(self._lists(queues, strict=strict), slot)

    def see_to_its_end(self, attempt: Attempt) -> Ended:
        """Execute a claimed run to its end, in the calling thread. Returns as `run`."""
        tracker = self._track(attempt)
        self._carry_out(tracker, {"sweep": attempt.spec.sweep})
        return tracker.ended

    def carry_on(self, attempt: Attempt) -> None:
        """Supervise an attempt whose job another worker of this machine started, to its end, and report that."""
        ended: Ended = None
        with ExitStack() as stack:
            try:
                on_ended = self._on_adopt(attempt.record)
            except Exception:
                log.exception("callback.failed on_adopt run=%s", attempt.record.id)
            else:
                stack.callback(lambda: self._tell_adopted(on_ended, attempt.record, ended))
            self._jobs.take_over(attempt)
            ended = self.see_to_its_end(attempt)

    def _tell_adopted(self, on_ended: Callable[[Ended], None], record: Record, ended: Ended) -> None:
        try:
            on_ended(ended)
        except Exception:
            log.exception("callback.failed on_adopt run=%s", record.id)

    def _on_end(self, record: Record, outcome: Outcome) -> None:
        """Tell of an end. What becomes of that decides nothing about the run."""
        try:
            self._told_of_end(record, outcome)
        except Exception:
            log.exception("callback.failed on_end run=%s", record.id)

    def lease_of(self, record: Record, *, renewed_at: float) -> Lease:
        """The lease of an attempt that another worker of this machine claimed, as a guard must enforce it."""
        return self._jobs.lease(record, parse_spec(record.spec), renewed_at=renewed_at)

    def carries(self, run_id: str) -> bool:
        """Whether an attempt of the run is claimed, carried out or reported here now."""
        return any(attempt.record.id == run_id for attempt in self._jobs.attempts)

    def attempt_folder(self, record: Record) -> AttemptFolder:
        """Where the files of an attempt are whose worker left none."""
        return self._folder.attempt(record)

    def _note(self, record: Record, outcome: Outcome) -> None:
        if self._quarantine.note(outcome, whose=record.array or record.id, now=boot_time_s()):
            log.error("worker.quarantined: %s", self._quarantine.describe(now=boot_time_s()))
            self._on_intake(False)
            self._liveness.wake()

    def _look_at_disk(self) -> None:
        """Take no runs while the disk has too little room for any, and take them again when it has."""
        shortage = shortage_of(self._settings)
        if bool(shortage) != bool(self._quarantine.shortage):
            log.warning("worker.disk: %s", shortage or "there is room again; runs are taken")
            self._quarantine.shortage = shortage
            self._on_intake(self.takes_runs)
        self._quarantine.shortage = shortage

    def _guards(self) -> list[ProcessRunner]:
        """This worker's own, and those that it took over."""
        estates = self._recovery.estates
        return [self._runner, *(estate.runner for estate in estates if estate.runner is not None)]

    # -- what liveness asks for ------------------------------------------------------------------------------------

    def heartbeat(self) -> Pulse:
        """Renew the leases of all running attempts in one call, and heed what is said of each."""
        if self._quarantine.is_over(now=boot_time_s()):
            self.resume()
        self._look_at_disk()
        self._release_former()
        reap_orphans()
        if not self.takes_runs and self._is_listed:
            # Else submitters would be told that its queues are consumed.
            self._store.goodbye(self.owner, queues=self._queues, stays=True)
        self._is_listed = self.takes_runs
        attempts = self._jobs.attempts
        renewed_at = boot_time_s()
        with self._listing:
            pulse = self._store.heartbeat(
                [(attempt.record.id, attempt.record.token, attempt.record.attempt) for attempt in attempts],
                owner=self.owner,
                worker=self._worker,
                lease_s=self._settings.lease_s,
                gone_s=max(self._settings.lease_s, 3 * self._settings.heartbeat_s),
                description=self._description(),
                queues=self._queues if self._is_listed else [],
                card=self.card(),
            )
        leases: dict[str, Lease] = {}
        for attempt, answer in zip(attempts, pulse.answers, strict=True):
            self._heed(attempt, answer)
            if answer.word in ("ended", "adopted") and attempt.is_over:
                # What is left of its job takes nothing from anybody.
                leases[attempt.key] = attempt.lease = None
            elif answer.word in ("ok", "cancel", "preempt"):
                leases[attempt.key] = attempt.lease = self._jobs.lease(
                    attempt.record, attempt.spec, renewed_at=renewed_at
                )
        for runner in self._guards():
            runner.renew(leases)
        if not self._knows_twins:
            self._say_twins()
            self._knows_twins = True
        return pulse

    def _say_twins(self) -> None:
        """Once, at the start: whether other workers that live have this one's name. Raises BrokerUnavailableError."""
        for other in self._store.workers():
            if other["worker"] != self._worker or other["owner"] == self.owner or self._is_gone(other):
                continue
            sentence = (
                f"Another worker is called {self._worker} too (on {other['host']}, pid {other['pid']}): what is "
                "ordered of one, as to drain, reaches both. Give each a name of its own with -n."
            )
            log.warning("worker.twin: %s", sentence)
            self._on_twin(sentence)

    def _is_gone(self, other: Mapping[str, Any]) -> bool:
        """Whether that worker was killed on this machine, and is listed only until its time is over."""
        if other["host"] != self._host:
            return False
        # This pid: a container that was started anew.
        found = None if other["pid"] == os.getpid() else tree.look_up(other["pid"])
        return found is None or found.zombie

    def card(self) -> FreeCapacity | None:
        """What the worker has room for; None while it takes nothing."""
        return self._jobs.card()

    def hear_of_queue(self, name: str) -> None:
        """A queue is new, was configured, or is gone."""
        self._on_queues(name)

    def obey(self, order: dict[str, Any]) -> None:
        """Orders come by publication and may be lost: a cancel is repeated by the passes and by the heartbeat."""
        if order["order"] == "drain":
            self._on_drain()
        elif order["order"] == "upgrade":
            self._on_upgrade()
        elif order["order"] == "resume":
            self.resume()
        elif order["order"] == "cancel":
            for attempt in self._jobs.attempts:
                if (attempt.record.id, str(attempt.record.token)) == (order["id"], order["token"]):
                    grace_s = max(0, int(order["grace_us"])) / 1e6 if order["grace_us"] else None
                    reason = str(order["reason"])
                    attempt.events.put(
                        Cancel(reason, self._grace_s(attempt, grace_s), preempt=bool(order.get("preempt")))
                    )

    def _grace_s(self, attempt: Attempt, asked_s: float | None) -> float | None:
        """How long a run may go on that was asked to stop; None for its own grace."""
        most_s = self._config.stopped_run_timeout
        return asked_s if most_s is None else min(most_s, attempt.spec.grace_s if asked_s is None else asked_s)

    def _ask_loop(self) -> None:
        self._asked_to_stop.set()
        self._news.set()

    def _heed(self, attempt: Attempt, answer: Answer) -> None:
        if answer.word in ("cancel", "preempt"):
            attempt.events.put(
                Cancel(answer.reason, self._grace_s(attempt, answer.grace_s), preempt=answer.word == "preempt")
            )
        elif answer.word == "adopted":
            # The record of a run that has ended keeps the name of the worker that it had then.
            if not attempt.is_over:
                attempt.events.put(Detach(at_once=True))
        elif answer.word == "superseded" or (answer.word == "ended" and not attempt.is_over):
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
            "running": self.num_running_jobs,
            "schedulers": self.num_running_schedulers,
            "max_schedulers": self._config.max_schedulers,
            "entity": self._config.entity,
            "secure_mode": self._config.secure_mode,
            "status": self._status,
            **self._resources(),
            "state": "draining" if self._draining else self._state(),
            "problem": "; ".join(filter(None, [self._why_idle(), self._trouble()])),
        }

    def _why_idle(self) -> str:
        return self._liveness.vitals.stuck() or self._quarantine.describe(now=boot_time_s()) or ""

    def _state(self) -> str:
        if self._liveness.vitals.stuck():
            return "stuck"
        return "running" if self.takes_runs else "quarantined"

    def _resources(self) -> dict[str, Any]:
        free, total = self._inventory.free(), self._inventory.total
        return {
            "devices": self._inventory.describe(),
            "cpus": {"total": total.millicores / 1000, "free": free.millicores / 1000},
            "memory": {"total": total.memory, "free": free.memory},
        }
