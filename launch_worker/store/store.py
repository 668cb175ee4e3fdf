"""The one gate to the run records: each arrow is one Lua script."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoScriptError

from launch_worker.errors import LaunchError
from launch_worker.model import item_schema
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.units import as_us
from launch_worker.model.worker import FreeCapacity
from launch_worker.store import keys
from launch_worker.store.lists import ItemStore
from launch_worker.store.records import Reader, pairs, record_of, text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.store.redis.scripts import script_of
from launch_worker.store.submit import Created, Creator, created_of, expiry_of, fields_of
from launch_worker.store.sweeps import SweepStore
from launch_worker.store.talk import TalkStore

#: Why a plain claim got nothing, which another claim would get.
NOT_PLAIN = "it needs what this worker has a limited amount of"


#: Longer than sending any upload takes.
_UNFINISHED_UPLOAD_S = 3600
#: Runs that one call lets go: Redis does nothing else meanwhile.
_WAKE_AT_ONCE = 500
#: Runs of an array that one call cancels, for the same reason.
_CANCELS_AT_ONCE = 100
#: Runs that one call calls Crashed, for the same reason.
_CRASHES_AT_ONCE = 25
#: Calls that look for lost items, among 500 workers each.
_LOOKS_FOR_LOST = 100
#: What is read of a stale run.
_OF_STALE = ("state", "token", "attempt", "first_attempt", "worker", "spec", "yields", "preemptions")
_NO_GAPS: Mapping[str, float] = {}


class NotConsumed(str):
    """Why a claim was refused: its owner is not known as a consumer of the run's queue. The run is as it was."""

    queue: str
    run_id: str
    seq: int

    @classmethod
    def of(cls, queue: str, run_id: str, seq: int) -> NotConsumed:
        why = cls(f"it is of queue {queue}, which this worker does not consume")
        why.queue, why.run_id, why.seq = queue, run_id, seq
        return why


@dataclass(frozen=True)
class Answer:
    """What a heartbeat says of one run."""

    #: ok, cancel, preempt, superseded, adopted (by another worker), ended, or unknown (Redis has lost the record).
    word: str
    #: With cancel and preempt: the asked grace in seconds, None for the job's own.
    grace_s: float | None = None
    reason: str = ""


class Store(SweepStore, TalkStore, ItemStore, Reader, Creator):
    """All reads and writes of run records. Thread-safe. Every method raises BrokerUnavailableError."""

    def __init__(self, url: str, *, client_name: str = "launch", settle_s: float = 10.0) -> None:
        """`settle_s`: how long workers may take to report after an outage, before others decide about their runs."""
        super().__init__(url, client_name=client_name)
        self._settle_s = settle_s

    # -- arrows ------------------------------------------------------------------------------------------------

    def claim(
        self,
        run_id: str,
        seq: int,
        *,
        owner: str,
        worker: str,
        host: str,
        lease_s: float,
        nonce: str = "",
        card: FreeCapacity | None = None,
        devices: Sequence[str] = (),
        plain: bool = False,
        version: int = item_schema.VERSION,
    ) -> tuple[Record | None, str]:
        """Pending -> Running. The record with its new attempt and token, or None and why not.

        Give the same `nonce` to repeat a call whose reply was lost: it gets the same answer. `card` is what the worker
        has left when this slot is taken, `devices` its free GPUs, the ones to use first at first; without a card it
        takes whatever comes. With `plain` (and no card) only what needs no GPUs, cores, memory or a scheduler's place:
        of another run NOT_PLAIN is said, and nothing done. An item of a newer format than `version` is left to newer
        workers. NotConsumed of a run whose queue `owner` has not said in a heartbeat that it consumes.
        """
        left = (card.to_json() if card is not None else "", json.dumps(devices) if devices else "[]")
        nonce = nonce or secrets.token_hex(8)
        return self._claim(run_id, seq, nonce, as_us(lease_s), owner, worker, host, *left, version, int(plain))

    def claim_next(
        self,
        lists: Sequence[str],
        *,
        slot: str,
        nonce: str,
        owner: str,
        worker: str,
        host: str,
        lease_s: float,
        card: FreeCapacity | None = None,
        devices: Sequence[str] = (),
        plain: bool = False,
        version: int = item_schema.VERSION,
    ) -> tuple[Record | None, str]:
        """The same for the next run's item of these lists, the first list first, in the same step as its pop.

        None too when something else than a run's item comes first; with '' when nothing waits. `slot` names the caller
        among those of its owner: it may repeat its latest call only.
        """
        left = (card.to_json() if card is not None else "", json.dumps(devices) if devices else "[]")
        return self._claim("", slot, nonce, as_us(lease_s), owner, worker, host, *left, version, int(plain), *lists)

    def send_claim(
        self, run_id: str, seq: int, *, owner: str, worker: str, host: str, lease_s: float, nonce: str
    ) -> Callable[[], tuple[Record | None, str]] | None:
        """A plain claim whose answer is waited for later, by one call of what is returned.

        None where that is not possible at once, as before the first call of all.
        """
        args = (run_id, seq, nonce, as_us(lease_s), owner, worker, host, "", "[]", item_schema.VERSION, 1)
        with clear_errors(self.url):
            reply = self._lender.send("EVALSHA", script_of("claim")[1], 0, *args)
        if reply is None:
            return None

        def answer() -> tuple[Record | None, str]:
            with clear_errors(self.url):
                try:
                    return _claimed(reply())
                except NoScriptError:
                    return self._claim(*args)

        return answer

    def _claim(self, *args: object) -> tuple[Record | None, str]:
        return _claimed(self._call("claim", *args))

    def take(self, lists: Sequence[str], *, before_us: int) -> tuple[str, int] | None:
        """Pop by hand the next item (run, dispatch number) that was dispatched before a time, the first list first."""
        while found := self._call("take", before_us, *lists):
            if len(found) > 1:
                return text(found[0]), int(found[1])
        return None

    def adopt(
        self, run_id: str, token: int, *, attempt: int, former: str, owner: str, worker: str, host: str, lease_s: float,
        only_if_gone: bool = False,
    ) -> tuple[Record | None, str]:  # fmt: skip
        """Running | Crashed -> Running under another worker, for an attempt whose job outlived its worker.

        `former` is the owner that it had ('' for any); with `only_if_gone` it must not be alive. Returns the record,
        or None and why not: superseded, ended, taken (by another worker), unknown.
        """
        word, *fields = self._call(
            "adopt", run_id, token, attempt, former, owner, worker, host, as_us(lease_s), int(only_if_gone)
        )
        return (record_of(run_id, pairs(fields[0])), "") if fields else (None, text(word))

    def phase(self, record: Record, name: str, *, reason: str = "") -> bool:
        """Notes that a part of a Running attempt's start begins; False when it was superseded."""
        return bool(self._call("phase", record.id, record.token, name, reason))

    def started(self, run_id: str, token: int, *, pid: int) -> bool:
        """Notes the process of a Running attempt, and the end of its start; False when it was superseded."""
        return bool(self._call("started", run_id, token, pid))

    def pin(self, run_id: str, token: int, commit: str) -> str:
        """Notes the commit of a Running attempt's code, for all later ones; '' when it was superseded."""
        return text(self._call("pin", run_id, token, commit))

    def heartbeat(
        self,
        runs: Sequence[tuple[str, int, int]],
        *,
        owner: str,
        worker: str,
        lease_s: float,
        gone_s: float,
        description: dict[str, Any],
        queues: Sequence[str],
        card: FreeCapacity | None = None,
    ) -> Pulse:
        """Renew the leases of all (run id, token, attempt) in one round trip, and the worker's own registration.

        With a card it is given parked runs that it has room for.
        """
        flat = [part for run in runs for part in run]
        shown = card.to_json() if card is not None else ""
        head = (
            owner,
            worker,
            as_us(lease_s),
            as_us(gone_s),
            json.dumps(description),
            shown,
            len(queues),
            *queues,
        )
        now, age, next_due, *words = self._call("heartbeat", *head, *flat)
        answers = [_answer(text(word)) for word in words]
        return Pulse(answers, pass_age_s=age / 1e6, next_due=int(next_due), now=now)

    def goodbye(self, owner: str, *, queues: Sequence[str], stays: bool = False) -> None:
        """A cleanly ended worker is no longer listed; one that `stays` only consumes nothing any more."""
        self._call("goodbye", owner, int(stays), *queues)

    def forget_consumer(self, owner: str, queues: Sequence[str]) -> None:
        """A worker consumes these queues no more."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for name in queues:
                pipe.zrem(keys.consumers(name), owner)
            pipe.execute()

    def finish(
        self,
        record: Record,
        step: NextStep,
        *,
        owner: str = "",
        card: FreeCapacity | None = None,
        pid: int | None = None,
        ended_ago_s: float | None = None,
    ) -> bool:
        """Running (or Crashed, not superseded) -> the outcome, and Pending again if the step says so.

        `record` is as it was claimed. False when that attempt was superseded: nothing was changed. Repeating it is
        harmless. A record that Redis has lost is written again first. `card`: what the worker has left now; `pid`: of
        a job that was gone before its start was noted (`started`); `ended_ago_s`: how long ago it ended, where that is
        not now.
        """
        outcome = step.outcome
        exit_code = "" if outcome.exit_code is None else outcome.exit_code
        retry_us = -1 if step.retry_delay_s is None else as_us(step.retry_delay_s)
        who = (record.id, record.token, record.attempt, owner, record.worker)
        labels = (outcome.state.value, outcome.reason, outcome.phase, outcome.message[:8000], exit_code, outcome.signal)
        shown = card.to_json() if card is not None else ""
        ago_us = "" if ended_ago_s is None else max(0, as_us(ended_ago_s))
        last = (retry_us, step.retry_reason, step.counts_as, shown, "" if pid is None else pid, ago_us)
        answer = text(self._call("finish", *who, *labels, *last))
        if answer == "unknown":
            self.restore(record, lease_s=self._settle_s, owner=owner)
            answer = text(self._call("finish", *who, *labels, *last))
        if answer == "done" and outcome.late_exit:
            self.note_late_exit(record.id, record.token, outcome.late_exit)
        return answer == "done"

    def restore(self, record: Record, *, lease_s: float, owner: str) -> bool:
        """Write a Running record that Redis has lost, from its worker's copy. False when it is there."""
        fields = record.to_hash() | {"owner": owner, "seq": "0"}
        flat = [part for pair in fields.items() for part in pair]
        return bool(self._call("restore", record.id, as_us(lease_s), *flat))

    def crash(self, run_id: str, token: int, step: NextStep) -> bool:
        """Running with a lease that ran out -> Crashed (and Pending again). False when it proved alive."""
        (answer,) = self.crash_many([(run_id, token, step)])
        if isinstance(answer, LaunchError):
            raise answer
        return answer

    def crash_many(self, runs: Sequence[tuple[str, int, NextStep]]) -> list[bool | LaunchError]:
        """The same for many (run id, token, step) in few round trips; of one that failed, why."""
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

    def hold(self, run_id: str, token: int, *, owner: str) -> str:
        """Nobody knows whether the attempt's job has ended, and its worker is gone: it is given to nobody else.

        Its lease does not run out before `release`, or before a worker has it: the same, or one that adopts it. Returns
        held, adopted (another owner has it), or over (it does not run).
        """
        return text(self._call("hold", run_id, token, owner))

    def release(self, run_id: str, token: int) -> bool:
        """The job of a held attempt is known to have ended: its lease is over now. False when it is not held."""
        return bool(self._call("release", run_id, token))

    def put_back(self, run_id: str, seq: int) -> bool:
        """Return an item that was taken from its queue and not claimed; False when it was outdated."""
        return bool(self._call("put_back", run_id, seq))

    def cancel(self, run_id: str, *, reason: str, grace_s: float | None = None) -> tuple[str, str]:
        """Pending -> Killed; a Running run's owner is told. Returns (killed | requested | final, state)."""
        return self._stop(run_id, grace_s, reason, preempt=False)

    def cancel_array(self, array: str, *, reason: str, grace_s: float | None = None) -> tuple[int, int]:
        """The same for all runs of an array that have not ended. Returns how many are Killed, and how many asked to."""
        killed = asked = at = 0
        more = 1
        while more:
            grace_us = "" if grace_s is None else as_us(grace_s)
            gone, told, more = self._call("cancel_array", array, grace_us, reason, at, _CANCELS_AT_ONCE)
            killed, asked, at = killed + gone, asked + told, at + _CANCELS_AT_ONCE
        return killed, asked

    def preempt(self, run_id: str, *, reason: str) -> tuple[str, str]:
        """A Running run's owner is told to end it, so that it runs again. (requested | pending | final, state)."""
        return self._stop(run_id, None, reason, preempt=True)

    def _stop(self, run_id: str, grace_s: float | None, reason: str, *, preempt: bool) -> tuple[str, str]:
        self.check_id(run_id)
        word, state = self._call("cancel", run_id, "" if grace_s is None else as_us(grace_s), reason, int(preempt))
        if text(word) == "unknown":
            raise self.unknown(run_id)
        return text(word), text(state)

    def order(self, owner: str, word: str) -> bool:
        """Tell a worker to `drain`, `upgrade` or `resume`; False when it does not listen now."""
        with clear_errors(self.url):
            return bool(self._redis.publish(keys.admin_channel(owner), json.dumps({"order": word})))

    # -- queues and pools ----------------------------------------------------------------------------------------

    def configure(self, kind: str, name: str, fields: Mapping[str, str | None], *, create: bool = False) -> bool:
        """Set fields of a queue or a pool (`kind`); None takes one away. Runs that may go now are let go.

        With `create` it must be new; False when it is not. Fields: config, limit, paused, and pool and rank of a queue.
        """
        flat = [part for field, value in fields.items() for part in (field, value or "")]
        done, *groups = self._call("configure", kind, name, int(create), *flat)
        for group in groups:
            while self._call("wake", text(group), _WAKE_AT_ONCE) >= _WAKE_AT_ONCE:
                pass
        return bool(done)

    def delete_queue(self, name: str) -> str:
        """Take a queue and its configuration off the lists. Returns '' or why not."""
        waiting = int(self._call("delete_queue", name))
        return "" if not waiting else f"{waiting} runs wait in it" if waiting > 1 else "a run waits in it"

    def delete_pool(self, name: str) -> str:
        """Take a pool away. Returns '' or why not."""
        queues = int(self._call("delete_pool", name))
        return "" if not queues else f"{queues} queues are in it" if queues > 1 else "a queue is in it"

    # -- recurring submissions -----------------------------------------------------------------------------------

    def keep_schedule(self, name: str, description: str, next_us: int) -> None:
        """A recurring submission (JSON), and its next time; one of that name is replaced."""
        self._call("keep_schedule", name, description, next_us)

    def delete_schedule(self, name: str) -> bool:
        """False when there is none."""
        return bool(self._call("keep_schedule", name, "", ""))

    def fire(
        self,
        name: str,
        expected_us: int,
        next_us: int,
        run_id: str,
        spec: RunSpec,
        *,
        queue_config: str,
        pool_config: str,
        overlap: str = "allow",
        scheduled_at: int | None = None,
    ) -> Created | None:
        """Submit the run of a schedule whose time has come, and note its next time, in one step.

        None when somebody else did it; one that is not new when that time was left out, because the last run has not
        ended (`overlap`: allow, skip, queue-one). Raises as `create`.
        """
        head = (name, expected_us, next_us, run_id, f"schedule {name}", spec.queue, queue_config, pool_config)
        planned = expected_us if scheduled_at is None else scheduled_at
        fields = (*fields_of(spec), "scheduled_at", planned)
        answer = self._call("fire", *head, expiry_of(spec), overlap, *fields)
        if answer[0] == 2:
            return Created(is_new=False, consumers=0)
        return None if answer[0] == 0 else created_of(spec, answer)

    def skip_schedule(self, name: str, expected_us: int, next_us: int) -> bool:
        """Leave out a time of a schedule; False when somebody else has dealt with it."""
        return bool(self._call("fire", name, expected_us, next_us, "", "", "", "", "", "", "allow")[0])

    def system(self) -> str:
        """The name of this launch system on engines that others use too."""
        with clear_errors(self.url):
            self._redis.set(keys.SYSTEM, secrets.token_hex(6), nx=True)
            return text(self._redis.get(keys.SYSTEM))

    def requeue(self, run_id: str, *, reason: str) -> str:
        """A final state -> Pending. Returns '' or the state that refused it."""
        self.check_id(run_id)
        done, state = self._call("requeue", run_id, reason)
        if not done and not state:
            raise self.unknown(run_id)
        return text(state)

    # -- uploads -----------------------------------------------------------------------------------------------

    def put_upload_chunk(self, sha256: str, number: int, data: bytes) -> None:
        """Write one part of an upload. It expires soon unless `keep_upload` follows."""
        with clear_errors(self.url):
            self._redis.set(keys.upload_chunk(sha256, number), data, ex=_UNFINISHED_UPLOAD_S)

    def keep_upload(self, sha256: str, *, chunks: int, size: int, keep_s: float) -> bool:
        """The upload is whole: keep it. False when a part is missing."""
        return bool(self._call("keep_upload", sha256, chunks, size, as_us(keep_s)))

    def renew_upload(self, sha256: str, *, keep_s: float) -> int:
        """Keep a whole upload for so long from now on. Returns how many chunks it has; 0 when it is not there."""
        return int(self._call("renew_upload", sha256, as_us(keep_s)))

    def forget_upload(self, sha256: str) -> None:
        """It is not what its name says: the next submit shall send it anew."""
        with clear_errors(self.url):
            self._redis.delete(keys.upload(sha256))

    # -- passes ------------------------------------------------------------------------------------------------

    def begin_passes(
        self, names: Sequence[str], *, every_s: float, gaps_s: Mapping[str, float] = _NO_GAPS
    ) -> list[str]:
        """Those that are to be done now, by the caller.

        One with a gap is not, soon after a time in which nobody could do it for so long.
        """
        passes = [word for name in names for word in (name, as_us(every_s), as_us(gaps_s.get(name, 0.0)))]
        answers = self._call("begin_pass", int(self._settle_s * 1000), *passes)
        return [name for name, is_due in zip(names, answers, strict=True) if is_due]

    def stale(self, *, limit: int) -> list[Record]:
        """Runs whose lease ran out by the server's clock, the longest dead first; of each what decides about it."""
        found = self._call("stale", limit, *_OF_STALE)
        return [
            record_of(text(run_id), {name: text(value) for name, value in zip(_OF_STALE, values, strict=True) if value})
            for run_id, values in zip(found[::2], found[1::2], strict=True)
        ]

    def publish_due(self, *, limit: int = 100, card: FreeCapacity | None = None) -> tuple[int, int, bool]:
        """Dispatch what is due, and to a worker with a card what it shall prepare ahead.

        Returns how many, the next due time (server as_us, 0 for none), and whether a schedule is due.
        """
        count, next_due, is_scheduled = self._call("publish_due", limit, card.to_json() if card is not None else "")
        return count, int(next_due), bool(is_scheduled)

    def publish_lost(self, *, grace_s: float, limit: int = 500) -> int:
        """Dispatch the runs again whose items have been lost for so long. Returns how many."""
        found, after = 0, ""
        # No more rounds than there can be workers: heartbeats bring them before us again and again.
        for _ in range(_LOOKS_FOR_LOST):
            count, after = self._call("publish_lost", as_us(grace_s), limit, after)
            found += count
            if not after:
                break
        return found

    def check_cancellations(self, *, limit: int = 1000) -> int:
        return int(self._call("check_cancellations", limit))

    def retire(self, *, retention_s: float, limit: int = 200) -> int:
        return int(self._call("retire", as_us(retention_s), limit))

    def refuse(self, queue: str, reason: str, item: bytes) -> None:
        """Keep a malformed queue element aside for reading."""
        self._call("refuse", queue, reason, item[:2000].decode("utf-8", "backslashreplace"))

    def heal(self, queues: Iterable[str]) -> None:
        """Set aside queue keys that are not lists."""
        self._call("heal", *(name for queue in queues for name in keys.queue_lists(queue)))

    def append_log(
        self, run_id: str, attempt: int, data: bytes, *, offset: int, keep_from: str = "", missing: int = 0
    ) -> str:
        """Add output; entries before `keep_from` are dropped (all others for `*`). `missing` bytes are kept nowhere.

        Returns the id of the (first) entry that has it, '' for a run that is gone.
        """
        return text(self._call("append_log", run_id, attempt, data, offset, keep_from, missing))

    def _before_loading(self, script: str) -> None:
        # A script is unknown to a restarted server, too: nobody claims before the one who sees it has decided.
        if script == "claim":
            self._hold_claims_after_restore()

    def _hold_claims_after_restore(self) -> None:
        """A Redis restored from a snapshot may call runs Pending that are being executed: let their workers speak."""
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
    return [run_id, token, step.outcome.reason, retry_us, step.retry_reason, step.counts_as]


def _claimed(reply: Sequence[Any]) -> tuple[Record | None, str]:
    """What `claim` answered."""
    word, answer, *more = reply
    if word == 3:
        return None, NotConsumed.of(text(answer), text(more[0]), int(more[1]))
    if word != 1:
        return None, NOT_PLAIN if word == 2 else text(answer)
    fields = pairs(answer)
    return record_of(fields["id"], fields), ""


def _answer(word: str) -> Answer:
    if not word.startswith(("cancel:", "preempt:")):
        return Answer(word)
    kind, grace_us, reason = word.split(":", 2)
    return Answer(kind, grace_s=int(grace_us) / 1e6 if grace_us else None, reason=reason)


@dataclass(frozen=True)
class Pulse:
    """The reply to one heartbeat of a worker."""

    #: One for each run that was asked about, in that order.
    answers: list[Answer]
    #: Seconds since the last maintenance pass began anywhere.
    pass_age_s: float
    #: Server time in as_us at which the next Pending run is due; 0 for none.
    next_due: int
    #: Server time in as_us.
    now: int
