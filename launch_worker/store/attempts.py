"""An attempt of a run, from its claim to its end: each arrow is one Lua script."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from launch_worker.errors import LaunchError
from launch_worker.model import item_schema
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.units import as_us
from launch_worker.model.worker import FreeCapacity
from launch_worker.store import keys
from launch_worker.store.records import record_of
from launch_worker.store.redis.client import pairs, text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.store.redis.library import function_of, is_not_ready
from launch_worker.store.server import Server

#: Why a plain claim got nothing, which another claim would get.
NOT_PLAIN = "it needs what this worker has a limited amount of"
#: Runs that one call calls Crashed, for the same reason.
_CRASHES_AT_ONCE = 25


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


class Attempts(Server):
    """The part of `Store` for attempts."""

    def __init__(self, url: str, *, client_name: str = "launch", settle_s: float = 10.0) -> None:
        """`settle_s`: how long workers may take to report after an outage, before others decide about their runs."""
        super().__init__(url, client_name=client_name)
        self._settle_s = settle_s

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
            reply = self._lender.send("FCALL", function_of("claim"), 0, *args)
        if reply is None:
            return None

        def answer() -> tuple[Record | None, str]:
            with clear_errors(self.url):
                try:
                    return _claimed(reply())
                except ResponseError as error:
                    if not is_not_ready(error):
                        raise
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

    def put_back(self, run_id: str, seq: int) -> bool:
        """Return an item that was taken from its queue and not claimed; False when it was outdated."""
        return bool(self._call("put_back", run_id, seq))

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

    def note_late_exit(self, record_id: str, token: int, what: str) -> bool:
        """What became of the processes of an attempt that had called itself finished; False when it is not the last."""
        return bool(self._call("late_exit", record_id, token, what))

    def _make_ready(self, script: str) -> None:
        # A restarted server refuses claims until `admit`, so nobody claims before the client that sees it has decided.
        if script == "claim":
            self._hold_claims_after_restore()
        super()._make_ready(script)
        if script == "claim":
            self._lender.call("FCALL", function_of("admit"), 0)

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
