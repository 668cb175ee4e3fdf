"""Takes a run past Celery's tracer: what Celery sees of it, and what a slot of the worker does with it.

Celery's tracer is left out: what it serves (results, retries, chords, time limits) a run has through its record, and
it takes longer than most of the rest. Its signals (received, prerun, postrun, success, failure) are sent where they
have receivers. Internals of Celery that are used: `Request`, `consumer._limit_task`, `worker.state`, the executor of
its pool.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import signals
from celery.worker import state as worker_state
from celery.worker.request import Request
from kombu.message import Message

from launch_worker.agent.attempts import Ended
from launch_worker.agent.claims import SentClaim
from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.attempt.attempt import Attempt
from launch_worker.celery.application import app
from launch_worker.celery.broker import refuse
from launch_worker.celery.events import EVENTS, end_event, show_end
from launch_worker.celery.message import RUN_TASK, SOMEBODY, RunItem
from launch_worker.celery.worker import LaunchWorker, worker_of
from launch_worker.errors import LaunchError
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.untrusted.text import read_json

log = logging.getLogger("launch_worker.request")

#: Seconds that a slot may keep taking runs before it yields to Celery's loop, which knows of other tasks too.
_TURN_S = 1.0


class RunFailed(Exception):
    """A run that did not finish, as Celery shows it: FAILURE, with the state and the reason."""


class RunRequest(Request):  # type: ignore[misc]
    """A task of Celery for one run. Celery's revoke and terminate, and Flower's buttons, are a cancel of the run."""

    launch: LaunchWorker
    #: Whether `celery control rate_limit launch_worker.run …` holds for the request.
    is_rate_limited = False
    _is_announced = False
    #: Claim that was sent while the slot's thread wakes up.
    _sent: SentClaim | None = None

    @classmethod
    def of(cls, record: Record, launch: LaunchWorker, *, hostname: str) -> RunRequest:
        """A request for a run that came by no element of a queue."""
        shown = {"name": record.name} | ({"project": record.project} if record.project else {})
        headers = {
            "shadow": record.name,
            "root_id": record.id,
            "argsrepr": f"('{record.id}',)",
            "kwargsrepr": repr(shown),
        }
        return cls.of_item(RunItem(record.id, 0, record.queue, None, headers), launch, hostname=hostname)

    @classmethod
    def of_item(cls, item: RunItem, launch: LaunchWorker, *, hostname: str) -> RunRequest:
        """A request for an element that did not come by Celery's loop."""
        message = Message(  # type: ignore[no-untyped-call]
            channel=None,
            headers={"id": item.run_id, "task": RUN_TASK, **item.shown},
            properties={"priority": item.priority},
            delivery_info={"exchange": "", "routing_key": item.queue},
            delivery_tag=item.run_id,
        )
        body: tuple[Any, ...] = ((item.run_id, item.seq), {}, {})
        made = cls(message, app=app, hostname=hostname, task=app.tasks[RUN_TASK], body=body, decoded=True)
        made.launch = launch
        return made

    def claim_soon(self) -> None:
        """Send the claim of a request that is handed over to a slot next."""
        self._sent = LaunchAgent.current().send_claim(*self.args)

    def announce(self) -> None:
        """Show that the task was received, once; Celery's loop does it before the task has a slot."""
        if self._is_announced:
            return
        self._is_announced = True
        if signals.task_received.receivers:
            signals.task_received.send(sender=None, request=self)
        self.send_event(
            "task-received",
            name=self.name,
            args=self.argsrepr,
            kwargs=self.kwargsrepr,
            root_id=self.root_id,
            parent_id=None,
            retries=0,
            eta=None,
            expires=None,
        )

    def execute_using_pool(self, pool: Any, **_: Any) -> None:
        # Before the acknowledgement: the thread wakes up meanwhile.
        pool.executor.submit(self.take_turn)
        # The record, and not the broker, keeps the run.
        self.acknowledge()

    # -- in a slot's thread ----------------------------------------------------------------------------------------

    def take_turn(self) -> None:
        """Execute this run; then, for `_TURN_S`, one run after the other, while more wait."""
        agent, until = LaunchAgent.current(), time.monotonic() + _TURN_S
        run_id, seq = self.args
        self.launch.note_turn(str(self.delivery_info["routing_key"]))
        request: RunRequest = self

        def queues() -> list[str]:
            is_over = self.is_rate_limited or time.monotonic() >= until
            return [] if is_over else self.launch.open_queues()

        try:
            attempt = self._execute(lambda: agent.claim(run_id, seq, self._sent), queues)
            while attempt is not None:
                ended, request = request, RunRequest.of(attempt.record, self.launch, hostname=self.hostname)
                # In this order: Celery takes no message for a slot that is not free.
                worker_state.task_reserved(request)
                worker_state.task_ready(ended)
                # A revoked run is cancelled through its record.
                request.revoked()
                attempt = request._execute(lambda attempt=attempt: attempt, queues)  # type: ignore[misc]
        finally:
            worker_state.task_ready(request)

    def _execute(self, claim: Callable[[], Attempt | Ended], queues: Callable[[], list[str]]) -> Attempt | None:
        """Claim a run and execute it to its end; returns the next attempt of the slot, where more runs waited.

        `queues` gives those of which the slot may take a run then. Of a run that is not claimed nothing is shown: it
        waits elsewhere, or another worker has it.
        """
        began = self.time_start = time.time()
        worker_state.task_accepted(self)
        begun: Attempt | Ended = None
        agent, slot, strict = LaunchAgent.current(), str(threading.get_native_id()), self.launch.start.is_strict_order
        after = agent.next_claim(queues, slot=slot, strict=strict)
        is_followed = False
        try:
            begun = claim()
            if begun is None:
                self._show_killed_while_pending()
                return None
            if isinstance(begun, Attempt) and begun.record.is_followed:
                is_followed = True
                # The end and the next claim are one call, unless the run is tried again.
                begun.finish = after.finish
            self._carry_out(begun, began)
        except Exception as error:
            # No error of a run may end its slot; the run's lease runs out, if it had one.
            log.exception("run.failed run=%s", self.id)
            self.send_event("task-failed", exception=repr(error), traceback=None)
        attempt = after.take_up()
        if attempt is None and is_followed and not after.is_answered and (names := queues()):
            attempt = agent.claim_next(names, slot=slot, strict=strict)
        if attempt is not None:
            self.launch.note_turn(attempt.record.queue)
        return attempt

    def _carry_out(self, begun: Attempt | Ended, began: float) -> None:
        is_again = isinstance(begun, Attempt) and begun.record.attempt > 1
        if is_again:
            # Watchers ignore events of a task that has ended, except of one that is tried again.
            self.send_event("task-retried", exception=None, traceback=None)
        self.announce()
        self.send_event("task-started")
        about = {"sender": self.task, "task_id": self.id, "task": self.task, "args": self.args, "kwargs": self.kwargs}
        if signals.task_prerun.receivers:
            signals.task_prerun.send(**about)
        ended: Ended = None
        try:
            ended = LaunchAgent.current().see_to_its_end(begun) if isinstance(begun, Attempt) else begun
            self._show_end(ended, runtime=time.time() - began)
        finally:
            if signals.task_postrun.receivers:
                state = "SUCCESS" if ended is not None and ended[0] is RunState.FINISHED else "FAILURE"
                signals.task_postrun.send(retval=ended and ended[0].value, state=state, **about)

    # -- what watchers are shown -----------------------------------------------------------------------------------

    def send_event(self, type: str, **fields: Any) -> None:
        """Send an event through `EVENTS`; Celery's own events (of a revoked task) come here too."""
        if self.task.send_events:
            EVENTS.send(type, uuid=self.id, **fields)

    def _show_end(self, ended: Ended, *, runtime: float) -> None:
        if ended is None:
            return
        state, outcome = ended
        event, facts = end_event(state, outcome)
        if event == "task-failed":
            failure = RunFailed(facts["exception"])
            facts["exception"] = repr(failure)
            if signals.task_failure.receivers:
                about = {"task_id": self.id, "args": self.args, "kwargs": self.kwargs}
                signals.task_failure.send(sender=self.task, exception=failure, traceback=None, einfo=None, **about)
        elif event == "task-succeeded" and signals.task_success.receivers:
            signals.task_success.send(sender=self.task, result=state.value)
        self.send_event(event, runtime=runtime, **facts)

    def _show_killed_while_pending(self) -> None:
        try:
            record = LaunchAgent.current().api.store.get(self.id)
        except LaunchError:
            return  # the record or Redis is gone: only Flower's picture suffers
        if record.state is RunState.KILLED:
            self.announce()
            self.send_event("task-revoked", terminated=False, signum=None, expired=False)

    # -- what Celery asks ------------------------------------------------------------------------------------------

    def terminate(self, pool: Any, signal: Any = None) -> None:
        worker_state.revoked.discard(self.id)
        self._cancel("terminated through Celery")

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Do nothing at a cold shutdown: the agent's own stop ends the jobs."""

    def revoked(self) -> bool:
        if not super().revoked():
            return False
        # Kept, the mark would drop a later `launch-worker retry` of the run here for ever.
        worker_state.revoked.discard(self.id)
        self._cancel("revoked through Celery")
        return True

    def _cancel(self, reason: str) -> None:
        try:
            LaunchAgent.current().api.store.cancel(self.id, reason=reason, actor=SOMEBODY)
        except LaunchError as error:
            log.error("run.not_cancelled run=%s: %s", self.id, error)


def hand_over(task: Any, app: Any, consumer: Any) -> Callable[..., None]:
    """The task's `Strategy`: what Celery's loop does with a message. Celery's own would have the task traced."""
    launch = worker_of(consumer)

    def receive(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> None:
        try:
            take(message, ack, reject, callbacks)
        except Exception as error:
            # A message must not end the loop, and with it the jobs of others.
            log.exception("item.failed")
            message.ack_log_error(log, consumer.connection_errors)
            queue = str(message.delivery_info.get("routing_key"))
            refuse(queue, str(message.body).encode("utf-8", "replace"), f"it cannot be taken: {error!r:.200}")

    def take(message: Any, ack: Any, reject: Any, callbacks: Any) -> None:
        request = RunRequest(
            message,
            on_ack=ack,
            on_reject=reject,
            app=app,
            hostname=consumer.hostname,
            connection_errors=consumer.connection_errors,
            task=task,
            # The broker's client has made the body (`message.rebuilt`).
            body=read_json(message.body),
            decoded=True,
        )
        request.launch = launch
        if request.revoked():
            return
        bucket = None if consumer.disable_rate_limits else consumer.task_buckets[task.name]
        if bucket:
            request.announce()
            request.is_rate_limited = True
            consumer._limit_task(request, bucket, 1)
            return
        request.claim_soon()
        try:
            worker_state.task_reserved(request)
            for callback in callbacks:
                callback(request)
            consumer.on_task_request(request)
        except Exception:
            # The claim was sent: the run must have a thread, even one beside the pool's.
            log.exception("run.not_handed_over run=%s", request.id)
            threading.Thread(target=request.take_turn, name=f"run-{request.id}", daemon=True).start()

    return receive


class AdoptedRequest:
    """What Celery is shown of an adopted run: a task of this worker, which takes one of its slots."""

    def __init__(self, record: Record, worker: Any, launch: LaunchWorker) -> None:
        self._record = record
        self._hub = worker.hub
        self._launch = launch
        self._request = RunRequest.of(record, launch, hostname=worker.hostname)
        self._request.time_start = time.time()
        self._hub.call_soon(worker_state.task_reserved, self._request)
        self._hub.call_soon(worker_state.task_accepted, self._request)

    def end(self, ended: Ended) -> None:
        """Show the end."""
        self._hub.call_soon(self._leave_slot)
        if ended is not None:
            show_end(self._record, ended[1])

    def _leave_slot(self) -> None:
        worker_state.task_ready(self._request)
        self._launch.look_at_lists()
