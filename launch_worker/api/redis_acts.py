"""Steers runs in Redis: one by one, and many in a round trip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from launch_worker.api.redis_connection import RedisConnection
from launch_worker.errors import LaunchError, RefusedError
from launch_worker.model.many import Done, ManyAct
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import next_step_of
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.store.answers import CancelWord

#: Runs to which something is done in one round trip.
_AT_ONCE = 100


class RedisActs(RedisConnection):
    """The part of the transport that steers runs."""

    def cancel(self, run_id: str, *, reason: str, grace_s: float | None) -> CancelWord:
        reason = reason or f"cancelled by {self.actor}"
        word, state = self.store.cancel(run_id, reason=reason, grace_s=grace_s, actor=self.actor)
        if word == "final":
            raise _has_ended(run_id, state)
        return word

    def preempt(self, run_id: str, *, reason: str) -> None:
        reason = reason or f"preempted by {self.actor}"
        word, state = self.store.preempt(run_id, reason=reason, actor=self.actor)
        if word != "requested":
            raise RefusedError(f"run {run_id} is {state}; only a Running run can be preempted")

    def retry(self, run_id: str, *, from_scratch: bool = False, not_on_same_worker: bool = False) -> None:
        reason = f"retry asked for by {self.actor}" + (", from scratch" if from_scratch else "")
        reason += ", on another worker" if not_on_same_worker else ""
        state = self.store.requeue(
            run_id, reason=reason, actor=self.actor, from_scratch=from_scratch, elsewhere=not_on_same_worker
        )
        if state:
            raise self._not_ended(run_id, state)

    def confirm_ended(self, run_id: str) -> Record:
        record = self.store.get(run_id)
        if not (record.is_held and self.store.release(run_id, record.token, actor=self.actor)):
            why = f"worker {record.worker} reports on it" if record.state is RunState.RUNNING else "it does not run"
            raise RefusedError(f"run {run_id} is {record.state}, and {why}; there is nothing to confirm")
        outcome = Outcome(RunState.CRASHED, reason=f"{self.actor} confirmed that its job on {record.host} has ended")
        [answer] = self.store.crash_many([(run_id, record.token, next_step_of(record, outcome))])
        if isinstance(answer, LaunchError):
            raise answer
        return self.store.get(run_id)

    def delete(self, run_id: str) -> None:
        if not self.store.delete(run_id, who=self.actor, keep_s=self.settings.retention_s):
            raise _is_running(run_id)

    # -- the same for many runs ------------------------------------------------------------------------------------

    def act_on_many(
        self, act: ManyAct, run_ids: Sequence[str], *, reason: str, grace_s: float | None
    ) -> Iterator[Done]:
        for run_id in run_ids:
            self.store.check_id(run_id)
        for start in range(0, len(run_ids), _AT_ONCE):
            some = run_ids[start : start + _AT_ONCE]
            if act == "cancel":
                yield from self._cancel_some(some, reason=reason, grace_s=grace_s)
            elif act == "retry":
                yield from self._retry_some(some)
            else:
                yield from self._delete_some(some)

    def _cancel_some(self, run_ids: Sequence[str], *, reason: str, grace_s: float | None) -> Iterator[Done]:
        reason = reason or f"cancelled by {self.actor}"
        answers = self.store.cancel_many(run_ids, reason=reason, grace_s=grace_s, actor=self.actor)
        for run_id, answer in zip(run_ids, answers, strict=True):
            if isinstance(answer, LaunchError):
                yield Done(run_id, "", answer)
            elif answer[0] == "unknown":
                yield Done(run_id, "", self.store.unknown(run_id))
            elif answer[0] == "final":
                yield Done(run_id, "", _has_ended(run_id, answer[1]))
            else:
                yield Done(run_id, answer[0])

    def _retry_some(self, run_ids: Sequence[str]) -> Iterator[Done]:
        answers = self.store.requeue_many(run_ids, reason=f"retry asked for by {self.actor}", actor=self.actor)
        for run_id, answer in zip(run_ids, answers, strict=True):
            if isinstance(answer, LaunchError):
                yield Done(run_id, "", answer)
            elif answer[0]:
                yield Done(run_id, RunState.PENDING.value)
            else:
                why = self._not_ended(run_id, answer[1]) if answer[1] else self.store.unknown(run_id)
                yield Done(run_id, "", why)

    def _delete_some(self, run_ids: Sequence[str]) -> Iterator[Done]:
        answers = self.store.delete_many(run_ids, who=self.actor, keep_s=self.settings.retention_s)
        for run_id, answer in zip(run_ids, answers, strict=True):
            if isinstance(answer, LaunchError):
                yield Done(run_id, "", answer)
            elif answer == "unknown":
                yield Done(run_id, "", self.store.unknown(run_id))
            elif answer == "running":
                yield Done(run_id, "", _is_running(run_id))
            else:
                if answer == "again":
                    self.store.delete(run_id, who=self.actor, keep_s=self.settings.retention_s)
                yield Done(run_id, "deleted")

    def _not_ended(self, run_id: str, state: str) -> RefusedError:
        record = self.store.peek(run_id)
        held = record.why_held() if record is not None and record.is_held else ""
        return RefusedError(f"run {run_id} is {state}; {held or 'only an ended run can be retried'}")


def _has_ended(run_id: str, state: str) -> RefusedError:
    return RefusedError(f"run {run_id} is already {state}; nothing was changed")


def _is_running(run_id: str) -> RefusedError:
    return RefusedError(f"run {run_id} is Running; stop it first with: launch-worker cancel {run_id}")
