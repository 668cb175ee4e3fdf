"""Joins the parts of a worker into `LaunchAgent`, which claims, executes and reports runs, by W&B's names.

Its names are those of W&B's `LaunchAgent`, and the quoted sentences are W&B's. What it does is done by its parts (see
`wiring`): one heartbeat keeps all its leases alive, and Celery or `loop` hands it the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from launch_worker.agent.attempts import Ended
from launch_worker.agent.capacity import Capacity
from launch_worker.agent.claims import NextClaim, SentClaim
from launch_worker.agent.config import AgentConfig
from launch_worker.agent.hooks import Hooks
from launch_worker.agent.outage import Outage
from launch_worker.agent.registration import AGENT_KILLED
from launch_worker.agent.tracker import (
    FileSaver,
    JobAndRunStatusTracker,
    JobSpecAndQueue,
    RunQueueItem,
    RunQueueItemFileSaver,
    say,
)
from launch_worker.agent.wiring import build
from launch_worker.api.client import Api
from launch_worker.attempt.attempt import Attempt
from launch_worker.errors import LaunchError

__all__ = ["JobSpecAndQueue", "LaunchAgent", "RunQueueItem", "RunQueueItemFileSaver"]


class LaunchAgent:
    """W&B: "Launch agent class which polls run given run queues and launches runs": one per process.

    A Celery worker is this and a consumer of queues; `loop` is this and a poll; `get_job_and_queue` and `run_job` do
    the same one by one, and start the agent when it is not started. As a context manager it is started, and stopped at
    the end.
    """

    _current: ClassVar[LaunchAgent | None] = None

    def __init__(
        self,
        api: Api,
        config: Mapping[str, Any],
        *,
        hooks: Hooks | None = None,
        capacity: Capacity | None = None,
        is_given_runs: bool = True,
        ends_if_hung: bool = False,
    ) -> None:
        """W&B: "Initialize a launch agent." `config`: the keys of `AgentConfig`, W&B's and our own, as raw values.

        `queues` are ["default"] and `max_jobs` is 1 (W&B's) when they are not said; GPUs are not looked for unless
        `gpus` asks. One more key is `worker`, the node name. `capacity` is what runs may have, in place of gpus, cpus
        and memory. Without `is_given_runs` Redis gives it none; it gets those that `take`
        finds. With `ends_if_hung` the agent's guard kills this
        process, and ends its jobs, when its interpreter stands still for longer than a lease. Raises InputError that
        names all that is wrong.
        """
        self._config = AgentConfig.parse({name: value for name, value in config.items() if name != "worker"})
        self.api = api
        self.is_started = False
        self._was_started = False
        self._parts = build(
            self,
            api,
            self._config,
            hooks or Hooks(),
            worker=config.get("worker") or "",
            capacity=capacity,
            is_given_runs=is_given_runs,
            ends_if_hung=ends_if_hung,
        )
        #: Identity of the holder of the leases. The node's name is no such: it is the same after a restart.
        self.owner = self._parts.identity.owner
        #: Whether Redis answers, and what to wait on while it does not.
        self.outage: Outage = self._parts.outage
        LaunchAgent._current = self

    def __enter__(self) -> LaunchAgent:
        self._ensure_started()
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_started:
            self.stop()

    # -- life --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the worker's folder, its guard and its threads, and say hello; works while Redis is away too.

        Once for each agent. Raises LaunchError when this machine does not let it.
        """
        if self._was_started:
            raise LaunchError("this agent was started already; make another one")
        parts = self._parts
        abandoned = parts.workplace.open()
        self.is_started = self._was_started = True
        LaunchAgent._current = self
        parts.heartbeat.start()
        parts.recovery.start(abandoned)

    def _ensure_started(self) -> None:
        if not self.is_started:
            self.start()

    def drain(self, *, timeout_s: float | None = None) -> bool:
        """Take nothing new and block until the jobs have ended; returns False after the timeout.

        While Redis is away it does not wait for reports to be delivered: they are on disk.
        """
        return self._parts.shutdown.drain(timeout_s=timeout_s)

    def end_intake(self) -> None:
        """Take nothing new from now on, and be given nothing; what runs goes on."""
        self._parts.intake.drain()

    def hurry(self) -> None:
        """Wait no longer for jobs that nobody can end now: see `stop`."""
        self._parts.shutdown.hurry()

    def detach(self) -> None:
        """Take nothing new, and leave the jobs that run to the next worker with this node name; blocks until it is so.

        Their guard ends them if no worker comes before their lease runs out. Jobs that are starting are waited for, at
        most 30 s.
        """
        self._parts.shutdown.detach()

    def stop(self, *, reason: str = "the worker shut down") -> None:
        """End what still runs (handed back when retries are left, else Killed), then leave.

        Blocks until nothing of the jobs is left, and renews their leases meanwhile. After `hurry` (or Ctrl-C) jobs that
        nobody can end now, as their container engine does not answer, are left: their runs are held, and given to no
        other machine before a worker of this one has looked, or a person has (`launch-worker confirm RUN ended`).
        """
        self._parts.shutdown.stop(reason=reason)
        self.is_started = False
        self.update_status(AGENT_KILLED)
        if LaunchAgent._current is self:
            LaunchAgent._current = None

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
        return cls.current()._parts.identity.worker

    # -- queues and intake -----------------------------------------------------------------------------------------

    @property
    def queues(self) -> list[str]:
        """The queues that this worker consumes, without the system's own."""
        return self._parts.registration.queues

    @property
    def selected_queues(self) -> list[str]:
        """The queues that this worker is to consume, also those that it refuses for what they ask of it."""
        return self._parts.registration.selected

    def set_queues(self, queues: Sequence[str]) -> None:
        """Consume these queues from now on."""
        self._parts.registration.set_queues(queues)

    @property
    def direct_queue(self) -> str:
        """The queue of what is given to this worker alone; consume it beside the others."""
        return self._parts.items.direct_queue

    def lists(self, queues: Sequence[str], *, strict: bool = False) -> list[str]:
        """The lists of these queues in which items wait, in the order in which they are served; see `claim_next`."""
        return self._parts.items.lists(queues, strict=strict)

    @property
    def has_free_slot(self) -> bool:
        """Whether a slot is free."""
        return self._parts.attempts.free_slots > 0

    @property
    def takes_runs(self) -> bool:
        """Whether runs are taken: not while the worker drains, is in quarantine, or has too little disk."""
        return self._parts.intake.is_open

    def why_no_runs(self) -> str:
        """One sentence of why the worker takes no runs now; '' when it does."""
        return self._parts.intake.why_closed()

    def resume(self) -> None:
        """End a quarantine."""
        self._parts.intake.resume()

    def note_loop(self) -> None:
        """Note that the loop which hands runs to this agent has turned; from then on probes tell when it does not."""
        self._parts.vitals.note_loop(True)

    def obey(self, order: dict[str, Any]) -> None:
        """Carry out an order that was published: drain, upgrade, resume, or the cancel of a run."""
        self._parts.orders.obey(order)

    # -- runs that Celery hands over -------------------------------------------------------------------------------

    def run(self, run_id: str, seq: int) -> Ended:
        """Claim the run and execute it to its end, in the calling thread.

        Returns the state that the record has then (Pending when it will be retried) and the outcome; None when the
        claim was refused (a doubled or outdated item, a cancelled run) or the attempt was superseded.
        """
        begun = self.claim(run_id, seq)
        return self.see_to_its_end(begun) if isinstance(begun, Attempt) else begun

    def claim(self, run_id: str, seq: int, sent: SentClaim | None = None) -> Attempt | Ended:
        """Claim the run, for `see_to_its_end`; returns how it ended when it cannot be executed, or None as `run`.

        `sent`: what `send_claim` returned for it.
        """
        return self._parts.claims.claim(run_id, seq, sent)

    def send_claim(self, run_id: str, seq: int) -> SentClaim | None:
        """Begin to claim the run, without waiting for anything; `claim` must follow."""
        return self._parts.claims.send_claim(run_id, seq)

    def claim_next(self, queues: Sequence[str], *, slot: str, strict: bool = False) -> Attempt | None:
        """Claim what waits in these queues, the most urgent first, or with `strict` all of the first queue first.

        For a slot (any name, one call at a time) that has just come free; None when the broker's client must see to it.
        """
        return self._parts.claims.claim_next(self.lists(queues, strict=strict), slot)

    def next_claim(self, queues: Callable[[], Sequence[str]], *, slot: str, strict: bool = False) -> NextClaim:
        """What claims as `claim_next` does, together with the end of the slot's run; `queues` is asked at that end."""
        items = self._parts.items
        return NextClaim(self._parts.claims, lambda: (found := queues()) and items.lists(found, strict=strict), slot)

    def see_to_its_end(self, attempt: Attempt) -> Ended:
        """Execute a claimed run to its end, in the calling thread. Returns as `run`."""
        return self._parts.items.see_to_its_end(attempt)

    def take(self, *, before_us: int, strict: bool = False) -> tuple[str, int] | None:
        """Pop the next item (run, dispatch number) of a run that was ready by a server time; None for none.

        The most urgent of all queues first, or with `strict` all of the first queue before the next one's.
        """
        self._parts.registration.before_us = before_us
        return self.api.store.take(self._parts.items.lists(self.queues, strict=strict), before_us=before_us)

    def snapshot(self) -> list[dict[str, Any]]:
        """The running attempts, for `celery inspect`."""
        return [
            {"id": a.record.id, "name": a.record.name, "attempt": a.record.attempt, "queue": a.record.queue}
            for a in self._parts.attempts.attempts
        ]

    # -- run queue items, as W&B's agent has them --------------------------------------------------------------------

    @property
    def num_running_jobs(self) -> int:
        """W&B: "Return the number of jobs not including schedulers": claimed, and their jobs not gone yet."""
        return self._parts.attempts.num_running_jobs

    @property
    def num_running_schedulers(self) -> int:
        """W&B: "Return just the number of schedulers": runs that make other runs (`RunSpec.scheduler`)."""
        return self._parts.attempts.num_running_schedulers

    @property
    def thread_ids(self) -> list[int]:
        """W&B: "Returns a list of keys running thread ids for the agent": those that `finish_thread_id` takes."""
        return self._parts.items.thread_ids

    def pop_from_queue(self, queue: str) -> RunQueueItem | None:
        """W&B: "Pops an item off the runqueue to run as a job."

        Pops and claims: the run is Running, and its lease is renewed, until `run_job` or `fail_run_queue_item`. The
        agent consumes the queue from then on, if it did not. What was given to this agent alone (for its GPUs, say)
        comes first, of whichever of its queues it is.

        None when nothing waits for this agent, or it has no room: all of `max_jobs` run, it drains, it is in
        quarantine. Raises BrokerUnavailableError when Redis is away; if it goes after the pop, blocks until the claim
        is answered.
        """
        self._ensure_started()
        return self._parts.items.pop_from_queue(queue)

    def get_job_and_queue(self) -> JobSpecAndQueue | None:
        """The next item of the agent's queues, which take turns: one that gave an item comes last the next time.

        What was given to this agent alone comes first. Returns and raises as `pop_from_queue`.
        """
        self._ensure_started()
        return self._parts.items.get_job_and_queue()

    def run_job(self, job: Mapping[str, Any], queue: str, file_saver: FileSaver | None = None) -> None:
        """W&B: "Set up project and run the job": one that this agent has claimed, in a thread; returns at once.

        What belongs to the run and is no output of its job goes through `file_saver`, by default to the agent's own.
        Raises InputError for an item that this agent has not claimed, or has begun already.
        """
        self._parts.items.run_job(job, queue, file_saver)

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
        self._parts.items.carry_out(job_tracker, launch_spec)

    def finish_thread_id(self, thread_id: int, exception: Exception | None = None) -> None:
        """W&B: "Removes the job from our list for now": its slot is free first, then its end is reported, once.

        With an exception the run is Failed for it, unless its end is known already; the traceback is kept with the run
        (`error.log`). Called for a job that another thread executes, that job is ended first. An unknown id is ignored.
        """
        self._parts.items.finish_thread_id(thread_id, exception)

    def fail_run_queue_item(
        self, run_queue_item_id: str, message: str, phase: str, files: list[str] | None = None
    ) -> None:
        """Make a run that this agent has Failed, in a phase (agent, build, start, run), with `message` as the reason.

        Its job, if it has one, is ended first. `files` are paths on this machine, as a file saver returns them: kept
        with the run under their last names. One atomic step; for an ended run nothing is changed. Raises InputError,
        UnknownRunError, RefusedError for a run that this agent has not claimed.
        """
        self._parts.items.fail_run_queue_item(run_queue_item_id, message, phase, files)

    def check_sweep_state(self, launch_spec: Mapping[str, Any], api: Api) -> None:
        """W&B: "Check the state of a sweep before launching a run for the sweep."

        `launch_spec` names it under `sweep` (W&B's agent: `sweep_id`). Raises SweepOverError unless it is RUNNING or
        PAUSED: the run is Killed then, and none of its code has run. While Redis is away it asks again; then, when the
        agent stops, raises StartGivenUpError.
        """
        self._parts.items.check_sweep_state(launch_spec, api)

    def loop(self) -> None:
        """W&B: "Loop infinitely to poll for jobs and run them", in the foreground, without Celery.

        An outage of Redis does not end it. Ctrl-C, SIGTERM (in the main thread, if the program has no handler of its
        own) and `launch-worker workers drain` are the request to stop: nothing new is taken, jobs go on to their end or
        for `drain_timeout` (with `detach_on_exit` they are left to the next worker). A second Ctrl-C ends them.

        Raises KeyboardInterrupt when it was asked to stop, after all of that.
        """
        self._ensure_started()
        self._parts.polling.run()

    def update_status(self, status: str) -> None:
        """W&B: "Update the status of the agent": POLLING, RUNNING or KILLED.

        It is in the worker's description (`launch-worker workers --json`) from the next heartbeat on; from verbosity 1
        on a change is printed. Raises InputError.
        """
        self._parts.status.update(status)

    def print_status(self) -> None:
        """W&B: "Prints the current status of the agent", in one line.

        Its name, status, queues, what runs of what may, free GPUs, and how long the oldest run in its queues waits.
        """
        say(self.status_line())

    def status_line(self) -> str:
        """What `print_status` prints."""
        return self._parts.status.line()
