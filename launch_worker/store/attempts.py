"""Writes what happens to an attempt, from its claim to its end: each method makes one arrow."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NotRequired, TypedDict, Unpack, cast

from launch_worker.errors import LaunchError, RedisFullError, UnknownRunError
from launch_worker.model import item_schema
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.units import as_us
from launch_worker.model.usage import NO_USAGE, KeptUsage
from launch_worker.model.worker import FreeCapacity
from launch_worker.store import keys
from launch_worker.store.answers import AdoptRefusal, FinishWord, HoldWord, KeepOutputsWord, KeepWord
from launch_worker.store.records import record_of
from launch_worker.store.redis.client import pairs, text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.store.redis.library import function_of
from launch_worker.store.redis.list_wait import ListWait
from launch_worker.store.redis.transport import NotReady
from launch_worker.store.server import Server

#: Answer of a plain claim that must be repeated as a full claim: the run needs more than a slot.
NOT_PLAIN = "it needs what this worker has a limited amount of"
#: Runs that one call of the `crash` script ends: Redis does nothing else during a call.
_CRASHES_AT_ONCE = 25


class NotConsumed(str):
    """Answer of a refused claim: its owner is not known as a consumer of the queue. The run is unchanged."""

    queue: str
    run_id: str
    seq: int

    @classmethod
    def of(cls, queue: str, run_id: str, seq: int) -> NotConsumed:
        why = cls(f"it is of queue {queue}, which this worker does not consume")
        why.queue, why.run_id, why.seq = queue, run_id, seq
        return why


class Claimer(TypedDict):
    """The worker that claims, and what its run may have of it."""

    owner: str
    worker: str
    host: str
    lease_s: float
    free: NotRequired[FreeCapacity | None]
    devices: NotRequired[Sequence[str]]
    plain: NotRequired[bool]
    version: NotRequired[int]


class End(TypedDict, total=False):
    """What a worker knows of an attempt's end, beside its outcome."""

    owner: str
    #: Process of a job that ended before its start was noted (`started`).
    pid: int | None
    #: Seconds since an end that is not now.
    ended_ago_s: float | None
    used: KeptUsage
    #: Whether outputs of it wait to be sent; None where that is not known.
    leaves_outputs: bool | None


class Attempts(Server):
    """The part of `Store` that writes an attempt: claim, start, end, and what happens between them."""

    def __init__(self, url: str, *, client_name: str = "launch", settle_s: float = 10.0) -> None:
        """`settle_s`: seconds in which workers may report after an outage, before others decide about their runs."""
        super().__init__(url, client_name=client_name)
        self._settle_s = settle_s

    def claim(
        self,
        run_id: str,
        seq: int,
        *,
        nonce: str = "",
        **claimer: Unpack[Claimer],
    ) -> tuple[Record | None, str]:
        """Pending -> Running. Returns the record with its new attempt and token, or None and why not.

        A call whose reply was lost is repeated with the same `nonce`, and gets the same answer. `free` is the worker's
        free capacity once this slot is taken, and `devices` its free GPUs, in the order of their use; without `free`
        any run is given. A `plain` claim (without `free`) takes only a run that needs no GPUs, cores, memory or
        scheduler's place; for another run it answers NOT_PLAIN and changes nothing. An item of a newer format than
        `version` is left to newer workers. The answer is NotConsumed where no heartbeat of `owner` named the queue.
        """
        return self._claim(*_claim(run_id, seq, nonce or secrets.token_hex(8), **claimer))

    def claim_next(
        self,
        lists: Sequence[str],
        *,
        slot: str,
        nonce: str,
        **claimer: Unpack[Claimer],
    ) -> tuple[Record | None, str]:
        """Pop the next item of these lists, the first list first, and claim its run in the same step.

        Returns as `claim`; None also where the next element is not a run's item, and None and '' where nothing waits.
        `slot` names the caller among the slots of its owner: a slot may repeat only its latest call.
        """
        return self._claim(*_claim("", slot, nonce, **claimer), *lists)

    def send_claim(
        self, run_id: str, seq: int, *, nonce: str, **claimer: Unpack[Claimer]
    ) -> Callable[[], tuple[Record | None, str]] | None:
        """Send a plain claim; the function that is returned waits for the answer, and is called once.

        Returns None where no connection is open yet.
        """
        claimer["plain"] = True
        args = _claim(run_id, seq, nonce, **claimer)
        reply = self._redis_py.send("FCALL", function_of("claim"), 0, *args)
        if reply is None:
            return None

        def answer() -> tuple[Record | None, str]:
            try:
                found = reply()
            except NotReady:
                return self._claim(*args)
            return _claimed(found)

        return answer

    def _claim(self, *args: object) -> tuple[Record | None, str]:
        return _claimed(self._call("claim", *args))

    def take(self, lists: Sequence[str], *, before_us: int) -> tuple[str, int] | None:
        """Pop the next item (run, dispatch number) that was dispatched before `before_us`, the first list first."""
        while found := self._call("take", before_us, *lists):
            if len(found) > 1:
                return text(found[0]), int(found[1])
        return None

    def list_wait(self, owner: str) -> ListWait:
        """A wait of this worker for elements of its queues' lists."""
        return ListWait(self._redis, self.url, keys.wake_list(owner))

    def put_back(self, run_id: str, seq: int) -> bool:
        """Return an item that was taken from its queue and not claimed. False when the item was outdated."""
        return bool(self._call("put_back", run_id, seq))

    def adopt(
        self,
        run_id: str,
        token: int,
        *,
        attempt: int,
        previous_owner: str,
        owner: str,
        worker: str,
        host: str,
        lease_s: float,
        only_if_gone: bool = False,
    ) -> tuple[Record | None, AdoptRefusal]:
        """Running | Crashed -> Running under another worker, for an attempt whose job outlived its worker.

        `previous_owner` is the owner that the attempt had ('' for any); with `only_if_gone` it must not be alive.
        Returns the record, or None and why not.
        """
        word, *fields = self._call(
            "adopt", run_id, token, attempt, previous_owner, owner, worker, host, as_us(lease_s), int(only_if_gone)
        )
        return (record_of(run_id, pairs(fields[0])), "") if fields else (None, cast(AdoptRefusal, text(word)))

    def phase(self, record: Record, name: str, *, reason: str = "") -> bool:
        """Note that a part of a Running attempt's start begins. False when the attempt was superseded."""
        return bool(self._call("phase", record.id, record.token, name, reason))

    def started(self, run_id: str, token: int, *, pid: int) -> bool:
        """Note the process of a Running attempt, and the end of its start. False when the attempt was superseded."""
        return bool(self._call("started", run_id, token, pid))

    def pin(self, run_id: str, token: int, commit: str) -> str:
        """Note the commit of an attempt's code, for later attempts. Returns it, '' when the attempt was superseded."""
        return text(self._call("pin", run_id, token, commit))

    def keep_checkpoint(
        self, run_id: str, token: int, *, owner: str, attempt: int, number: int, files: int, size: int
    ) -> bool:
        """Note a checkpoint that is stored: the next attempt goes on from it. False when the attempt was superseded.

        False too for an older checkpoint than the one that is noted; a repeated call changes nothing. `owner` is '' for
        whoever has the attempt's folder; `size` is in bytes. Raises UnknownRunError where Redis has lost the record.
        """
        answer = cast(KeepWord, text(self._call("keep_checkpoint", run_id, token, owner, attempt, number, files, size)))
        if answer == "unknown":
            raise UnknownRunError(f"Redis has no record of run {run_id}")
        return answer == "done"

    def finish(
        self,
        record: Record,
        step: NextStep,
        *,
        free: FreeCapacity | None = None,
        **end: Unpack[End],
    ) -> bool:
        """Running (or Crashed, not superseded) -> the outcome, and Pending again if the step says so.

        `record` is as it was claimed. False when the attempt was superseded: nothing was changed. A repeated call
        changes nothing more. A record that Redis has lost is written again first. `free` is the worker's free capacity
        now.
        """
        call = partial(self._call, "finish", *_report(record, step, free, **end))
        answer = cast(FinishWord, text(call()))
        if answer == "unknown":
            self.restore(record, owner=end.get("owner", ""))
            answer = cast(FinishWord, text(call()))
        if answer == "done" and step.outcome.late_exit:
            self.note_late_exit(record.id, record.token, step.outcome.late_exit)
        return answer == "done"

    def finish_and_claim(
        self,
        record: Record,
        step: NextStep,
        *,
        lists: Sequence[str],
        slot: str,
        nonce: str,
        host: str,
        lease_s: float,
        free: FreeCapacity,
        **end: Unpack[End],
    ) -> tuple[bool, tuple[Record | None, str] | None]:
        """`finish`, and in the same step a plain `claim_next` for the slot that comes free.

        Returns the answers of both; None for that of the claim where none was made: the end was refused, memory is
        full, or Redis has just started. A repeated call gets the same run. `record` was claimed by the owner
        that reports it.
        """
        report = _report(record, step, free, **end)
        asked = (slot, nonce, as_us(lease_s), host, item_schema.VERSION, len(free.queues), len(lists))
        try:
            word, *claimed = self._call("finish_and_claim", *asked, *free.queues, *lists, *report)
        except RedisFullError:
            word, claimed = b"", []
        if text(word) in ("", "unknown"):
            return self.finish(record, step, free=free, **end), None
        if step.outcome.late_exit and text(word) == "done":
            self.note_late_exit(record.id, record.token, step.outcome.late_exit)
        return text(word) == "done", _claimed(claimed[0]) if claimed else None

    def keep_outputs(
        self, run_id: str, attempt: int, token: int, *, files: int, size: int, left_out: int
    ) -> KeepOutputsWord:
        """Note the outputs of an attempt, which are in the store: numbers of files, of their bytes, of other files."""
        answer = self._call("keep_outputs", run_id, attempt, token, files, size, left_out)
        return cast(KeepOutputsWord, text(answer))

    def restore(self, record: Record, *, owner: str, lease_s: float | None = None) -> bool:
        """Write a Running record that Redis has lost, from its worker's copy. False when Redis has a record.

        Its lease lasts until the workers have reported after an outage, unless `lease_s` says how long.
        """
        fields = record.to_hash() | {"owner": owner, "seq": "0"}
        flat = [part for pair in fields.items() for part in pair]
        lease_us = as_us(self._settle_s if lease_s is None else lease_s)
        return bool(self._call("restore", record.id, lease_us, *flat))

    def crash_many(self, runs: Sequence[tuple[str, int, NextStep]]) -> list[bool | LaunchError]:
        """Running with a lease that ran out -> Crashed (and Pending again), for many (run id, token, step).

        Answers for each, in order: True, False when the attempt proved alive, or the error.
        """
        answers: list[bool | LaunchError] = []
        while len(answers) < len(runs):
            page = runs[len(answers) : len(answers) + _CRASHES_AT_ONCE]
            for reply in self._call("crash", *(word for run in page for word in _crash(*run))):
                try:
                    with clear_errors(self.url):
                        if isinstance(reply, Exception):
                            raise reply
                    answers.append(bool(reply))
                except LaunchError as error:
                    answers.append(error)
        return answers

    def hold(self, run_id: str, token: int, *, owner: str) -> HoldWord:
        """Hold an attempt whose worker is gone while its job may still live: no worker gets the run.

        The lease lasts until `release`, or until the attempt's worker or one that adopts it is heard of.
        """
        return cast(HoldWord, text(self._call("hold", run_id, token, owner)))

    def release(self, run_id: str, token: int, *, actor: str = "") -> bool:
        """End the lease of a held attempt whose job is known to have ended. False when the attempt is not held."""
        return bool(self._call("release", run_id, token, self.named(actor)))

    def note_late_exit(self, record_id: str, token: int, what: str) -> bool:
        """Note how the processes of an attempt ended that had called itself finished. False after a later attempt."""
        return bool(self._call("late_exit", record_id, token, what))

    def _make_ready(self, script: str) -> None:
        # A restarted server refuses claims until `admit`, so nobody claims before the client that sees it has decided.
        if script == "claim":
            self._hold_claims_after_restore()
        super()._make_ready(script)
        if script == "claim":
            self._command("FCALL", function_of("admit"), 0)

    def _hold_claims_after_restore(self) -> None:
        """Delay claims on a Redis that was restored from a snapshot: a run that it calls Pending may be executed."""
        with clear_errors(self.url):
            server, persistence = self._redis.info("server"), self._redis.info("persistence")
            if persistence.get("aof_enabled") or not persistence.get("rdb_last_load_keys_loaded"):
                return
            uptime_s = server["uptime_in_seconds"]
            self._redis.set(keys.RESTORED, self.now_us() - uptime_s * 1_000_000)
            if uptime_s < self._settle_s:
                self._redis.set(keys.HOLD, 1, px=int((self._settle_s - uptime_s) * 1000), nx=True)


def _crash(run_id: str, token: int, step: NextStep) -> list[str | int]:
    """The arguments of `crash`."""
    retry_us = -1 if step.retry_delay_s is None else as_us(step.retry_delay_s)
    return [run_id, token, step.outcome.reason, retry_us, step.retry_reason, step.counts_as, step.retried, step.avoid]


def _claim(
    run_id: str,
    which: int | str,
    nonce: str,
    *,
    owner: str,
    worker: str,
    host: str,
    lease_s: float,
    free: FreeCapacity | None = None,
    devices: Sequence[str] = (),
    plain: bool = False,
    version: int = item_schema.VERSION,
) -> tuple[str | int, ...]:
    """The arguments of the `claim` script but the lists; `which` is the dispatch number of the run, or the slot."""
    left = (free.to_json() if free is not None else "", json.dumps(devices) if devices else "[]")
    return (run_id, which, nonce, as_us(lease_s), owner, worker, host, *left, version, int(plain))


def _report(
    record: Record,
    step: NextStep,
    free: FreeCapacity | None,
    *,
    owner: str = "",
    pid: int | None = None,
    ended_ago_s: float | None = None,
    used: KeptUsage = NO_USAGE,
    leaves_outputs: bool | None = None,
) -> list[str | int]:
    """The arguments of the `finish` script, without the last ones that say nothing: each takes Redis a microsecond."""
    outcome = step.outcome
    usage, samples = used
    report: list[str | int] = [
        *(record.id, record.token, record.attempt, owner, record.worker, outcome.state.value),
        "" if outcome.exit_code is None else outcome.exit_code,
        "" if pid is None else pid,
        "" if ended_ago_s is None else max(0, as_us(ended_ago_s)),
        usage,
        "" if free is None else free.to_json(),
        *(outcome.reason, outcome.phase, outcome.message[:8000], outcome.signal),
        *(
            ("", "", "")
            if step.retry_delay_s is None
            else (as_us(step.retry_delay_s), step.retry_reason, step.counts_as)
        ),
        samples,
        "" if leaves_outputs is None else int(leaves_outputs),
        *(step.retried, step.avoid, step.needs),
    ]
    while report[-1] == "":
        report.pop()
    return report


def _claimed(reply: Sequence[Any]) -> tuple[Record | None, str]:
    """The value of a reply of the `claim` script."""
    word, answer, *more = reply
    if word == 3:
        return None, NotConsumed.of(text(answer), text(more[0]), int(more[1]))
    if word != 1:
        return None, NOT_PLAIN if word == 2 else text(answer)
    changes = iter(more[0])
    fields = pairs(answer) | {text(name): value and text(value) for name, value in zip(changes, changes, strict=True)}
    fields = {name: value for name, value in fields.items() if value is not None}
    return record_of(fields["id"], fields), ""
