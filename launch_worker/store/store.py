"""The one gate to the run records: each arrow is one Lua script, each read one round trip."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from launch_worker.errors import UnknownRunError
from launch_worker.retry import NextStep
from launch_worker.run import Record, Transition
from launch_worker.spec import PRIORITIES, RunSpec
from launch_worker.states import RunState
from launch_worker.store import keys
from launch_worker.store.connection import clear_errors, connect

if TYPE_CHECKING:
    import redis
    from redis.commands.core import Script

_PAGE = 100


@dataclass(frozen=True)
class Answer:
    """What a heartbeat says of one run."""

    #: ok, cancel, superseded or ended.
    word: str
    #: With cancel: the asked grace in seconds, None for the job's own.
    grace_s: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Pulse:
    """The reply to one heartbeat of a worker."""

    answers: dict[str, Answer]
    #: Seconds since the last maintenance pass began anywhere.
    pass_age_s: float
    #: Server time in microseconds at which the next Pending run is due; 0 for none.
    next_due: int


@dataclass(frozen=True)
class LogChunk:
    """A piece of output: `offset` counts bytes from the attempt's first."""

    entry: str
    offset: int
    data: bytes


class Store:
    """All reads and writes of run records. Thread-safe. Every method raises BrokerUnavailableError."""

    def __init__(self, url: str, *, client_name: str = "launch") -> None:
        self.url = url
        self._redis: redis.Redis = connect(url, name=client_name)
        self._scripts: dict[str, Script] = {}

    def close(self) -> None:
        self._redis.close()

    def ping(self) -> None:
        with clear_errors(self.url):
            self._redis.ping()

    # -- arrows ------------------------------------------------------------------------------------------------

    def create(self, run_id: str, spec: RunSpec, *, delay_s: float = 0.0, reason: str = "") -> tuple[bool, int]:
        """(nothing) -> Pending, with the item in its queue. Idempotent by id.

        Returns whether this call made the run, and how many live workers consume its queue.
        """
        created, consumers = self._call(
            "create",
            run_id,
            _us(delay_s),
            reason,
            *("name", spec.name, "queue", spec.queue, "project", spec.project),
            *("priority", PRIORITIES[spec.priority], "tags", json.dumps(spec.tags), "spec", spec.to_json()),
        )
        return bool(created), consumers

    def claim(
        self, run_id: str, seq: int, *, owner: str, worker: str, host: str, lease_s: float, nonce: str = ""
    ) -> tuple[Record | None, str]:
        """Pending -> Running. The record with its new attempt and token, or None and why not.

        Give the same `nonce` to repeat a call whose reply was lost: it gets the same answer.
        """
        nonce = nonce or secrets.token_hex(8)
        claimed, reply = self._call("claim", run_id, seq, nonce, _us(lease_s), owner, worker, host)
        if not claimed:
            return None, _text(reply)
        return Record.from_hash(_pairs(reply)), ""

    def started(self, run_id: str, token: int, *, pid: int) -> bool:
        """Notes the process of a Running attempt; False when it was superseded."""
        return bool(self._call("started", run_id, token, pid))

    def heartbeat(
        self,
        runs: Sequence[tuple[str, int]],
        *,
        owner: str,
        worker: str,
        lease_s: float,
        gone_s: float,
        description: dict[str, Any],
        queues: Sequence[str],
    ) -> Pulse:
        """Renew the leases of all (run id, token) in one round trip, and the worker's own registration."""
        flat = [part for pair in runs for part in pair]
        head = (owner, worker, _us(lease_s), _us(gone_s), json.dumps(description), len(queues), *queues)
        age, next_due, *words = self._call("heartbeat", *head, *flat)
        answers = {run_id: _answer(_text(word)) for (run_id, _), word in zip(runs, words, strict=True)}
        return Pulse(answers, pass_age_s=age / 1e6, next_due=int(next_due))

    def goodbye(self, owner: str, *, queues: Sequence[str]) -> None:
        """A cleanly ended worker is no longer listed."""
        self._call("goodbye", owner, *queues)

    def finish(self, run_id: str, token: int, step: NextStep) -> bool:
        """Running (or Crashed, not superseded) -> the outcome, and Pending again if the step says so.

        False when the attempt was superseded: nothing was changed. Repeating it is harmless.
        """
        outcome = step.outcome
        exit_code = "" if outcome.exit_code is None else outcome.exit_code
        retry_us = -1 if step.retry_delay_s is None else _us(step.retry_delay_s)
        labels = (outcome.state.value, outcome.reason, outcome.phase, outcome.message[:8000], exit_code, outcome.signal)
        return _text(self._call("finish", run_id, token, *labels, retry_us, step.retry_reason)) == "done"

    def crash(self, run_id: str, token: int, step: NextStep) -> bool:
        """Running with a lease that ran out -> Crashed (and Pending again). False when it proved alive."""
        retry_us = -1 if step.retry_delay_s is None else _us(step.retry_delay_s)
        return bool(self._call("crash", run_id, token, step.outcome.reason, retry_us, step.retry_reason))

    def cancel(self, run_id: str, *, reason: str, grace_s: float | None = None) -> tuple[str, str]:
        """Pending -> Killed; a Running run's owner is told. Returns (killed | requested | final, state)."""
        word, state = self._call("cancel", run_id, "" if grace_s is None else _us(grace_s), reason)
        if _text(word) == "unknown":
            raise _unknown(run_id)
        return _text(word), _text(state)

    def requeue(self, run_id: str, *, reason: str) -> str:
        """A final state -> Pending. Returns '' or the state that refused it."""
        done, state = self._call("requeue", run_id, reason)
        if not done and not state:
            raise _unknown(run_id)
        return _text(state)

    # -- passes ------------------------------------------------------------------------------------------------

    def begin_pass(self, name: str, *, every_s: float) -> bool:
        return bool(self._call("begin_pass", name, _us(every_s)))

    def stale(self, *, limit: int) -> list[Record]:
        """Runs whose lease ran out by the server's clock, the longest dead first."""
        with clear_errors(self.url):
            now = self.now_us()
            ids = self._redis.zrangebyscore(keys.LEASES, "-inf", now, start=0, num=limit)
        return self._records([_text(run_id) for run_id in ids])

    def publish_due(self, *, limit: int = 100) -> tuple[int, int]:
        """Dispatch what is due. Returns how many, and the next due time (server microseconds, 0 for none)."""
        count, next_due = self._call("publish_due", limit)
        return count, int(next_due)

    def publish_lost(self, *, grace_s: float, limit: int = 500) -> int:
        return int(self._call("publish_lost", _us(grace_s), limit))

    def check_cancellations(self, *, limit: int = 1000) -> int:
        return int(self._call("check_cancellations", limit))

    def retire(self, *, retention_s: float, limit: int = 200) -> int:
        return int(self._call("retire", _us(retention_s), limit))

    def refuse(self, queue: str, reason: str, item: bytes) -> None:
        """Keep a malformed queue element aside for reading."""
        self._call("refuse", queue, reason, item[:2000].decode("utf-8", "backslashreplace"))

    def heal(self, queues: Iterable[str]) -> None:
        """Set aside queue keys that are not lists."""
        self._call("heal", *(name for queue in queues for name in keys.queue_lists(queue)))

    # -- reading -----------------------------------------------------------------------------------------------

    def now_us(self) -> int:
        """The server's time in microseconds."""
        with clear_errors(self.url):
            seconds, micros = self._redis.time()
        return int(seconds) * 1_000_000 + int(micros)

    def get(self, run_id: str) -> Record:
        """The run's record now. Raises UnknownRunError."""
        found = self._records([run_id])
        if not found:
            raise _unknown(run_id)
        return found[0]

    def list(
        self, *, state: RunState | None = None, project: str = "", queue: str = "", newest_first: bool = True
    ) -> Iterator[Record]:
        """Runs by creation time, read in pages through the smallest index that fits, so never a scan of all."""
        wanted = {"state": state.value if state else "", "project": project, "queue": queue}
        indexes = [keys.runs_by(kind, value) for kind, value in wanted.items() if value] or [keys.RUNS]
        with clear_errors(self.url):
            sizes = [self._redis.zcard(index) for index in indexes] if len(indexes) > 1 else [0]
        index = indexes[sizes.index(min(sizes))]
        seen: set[str] = set()
        edge = "+inf" if newest_first else "-inf"
        while True:
            # By score and not by rank: runs that come or go meanwhile shift ranks.
            bounds = ("-inf", edge) if newest_first else (edge, "+inf")
            with clear_errors(self.url):
                if newest_first:
                    page = self._redis.zrevrangebyscore(index, edge, "-inf", start=0, num=_PAGE, withscores=True)
                else:
                    page = self._redis.zrangebyscore(index, *bounds, start=0, num=_PAGE, withscores=True)
            fresh = [_text(run_id) for run_id, _ in page if _text(run_id) not in seen]
            seen.update(fresh)
            for record in self._records(fresh):
                if all(not value or getattr(record, kind) == value for kind, value in wanted.items()):
                    yield record
            if len(page) < _PAGE or not fresh:
                return
            edge = str(int(page[-1][1]))

    def history(self, run_id: str) -> list[Transition]:
        """Every transition, the oldest first."""
        with clear_errors(self.url):
            entries = self._redis.xrange(keys.history(run_id))
        return [_transition(_pairs(fields)) for _, fields in entries]

    def last_history_entry(self, run_id: str) -> str:
        """Where `wait_for_news` has to begin so that it misses no later transition."""
        with clear_errors(self.url):
            entries = self._redis.xrevrange(keys.history(run_id), count=1)
        return _text(entries[0][0]) if entries else "0"

    def append_log(self, run_id: str, attempt: int, data: bytes, *, offset: int, keep_from: str = "") -> str:
        """Add output; entries before `keep_from` are dropped. Returns the entry's id, '' for a run that is gone."""
        return _text(self._call("append_log", run_id, attempt, data, offset, keep_from))

    def log(self, run_id: str, attempt: int, *, after: str = "-") -> list[LogChunk]:
        """Kept output of an attempt, in order, after the entry `after`."""
        start = after if after == "-" else f"({after}"
        with clear_errors(self.url):
            entries = self._redis.xrange(keys.log(run_id, attempt), min=start)
        return [_chunk(entry, fields) for entry, fields in entries]

    def wait_for_news(
        self, run_id: str, *, history_after: str, log_attempt: int = 0, log_after: str = "0", timeout_s: float = 2.0
    ) -> tuple[list[tuple[str, Transition]], list[LogChunk]]:
        """Block until the run makes a transition or prints, at most `timeout_s` (less than the answer timeout)."""
        streams = {keys.history(run_id): history_after}
        if log_attempt:
            streams[keys.log(run_id, log_attempt)] = log_after
        with clear_errors(self.url):
            reply = self._redis.xread(streams, block=max(1, int(timeout_s * 1000)), count=200) or {}
        by_stream = {_text(name): rows for name, rows in (reply.items() if isinstance(reply, dict) else reply)}
        transitions, chunks = [], []
        for rows, is_log in (
            (by_stream.get(keys.history(run_id), []), False),
            (by_stream.get(keys.log(run_id, log_attempt), []), True),
        ):
            # RESP3 wraps the entries of a stream in one more list.
            flat = rows[0] if rows and isinstance(rows[0], list) and rows[0] and isinstance(rows[0][0], tuple | list) else rows
            for entry, fields in flat:
                if is_log:
                    chunks.append(_chunk(entry, fields))
                else:
                    transitions.append((_text(entry), _transition(_pairs(fields))))
        return transitions, chunks

    def consumers(self, queue: str) -> int:
        """How many live workers consume the queue."""
        now = self.now_us()
        with clear_errors(self.url):
            return int(self._redis.zcount(keys.consumers(queue), now, "+inf"))

    def workers(self) -> list[dict[str, Any]]:
        """The descriptions of the live workers."""
        with clear_errors(self.url):
            owners = self._redis.zrange(keys.WORKERS, 0, -1)
            texts = self._redis.mget([keys.worker(_text(owner)) for owner in owners]) if owners else []
        return [json.loads(text) for text in texts if text]

    def queues(self) -> dict[str, int]:
        """Every known queue and how many items wait in it."""
        with clear_errors(self.url):
            names = sorted(_text(name) for name in self._redis.smembers(keys.QUEUES))
            pipe = self._redis.pipeline(transaction=False)
            for name in names:
                for queue_list in keys.queue_lists(name):
                    pipe.llen(queue_list)
            lengths = pipe.execute(raise_on_error=False)
        steps = len(keys.PRIORITY_STEPS)
        return {
            name: sum(length for length in lengths[at * steps : (at + 1) * steps] if isinstance(length, int))
            for at, name in enumerate(names)
        }

    def counts(self) -> dict[RunState, int]:
        """How many runs are in each state."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for state in RunState:
                pipe.zcard(keys.runs_by("state", state.value))
            return dict(zip(RunState, pipe.execute(), strict=True))

    def pass_ages_s(self) -> dict[str, float]:
        """Seconds since each maintenance pass last began."""
        now = self.now_us()
        with clear_errors(self.url):
            passes = self._redis.hgetall(keys.PASSES)
        return {_text(name): (now - int(at)) / 1e6 for name, at in passes.items()}

    def refused(self, *, limit: int = 20) -> list[dict[str, Any]]:
        """The newest malformed queue elements that were kept aside."""
        with clear_errors(self.url):
            texts = self._redis.lrange(keys.REFUSED, 0, limit - 1)
        return [json.loads(_text(text)) for text in texts]

    def listen(self, channels: Sequence[str], *, on_message: Callable[[str, str], None], stopped: Callable[[], bool]) -> None:
        """Hand (channel, message) of each publication to `on_message` until `stopped`; raises when Redis goes away."""
        with clear_errors(self.url), self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(*channels)
            while not stopped():
                message = pubsub.get_message(timeout=_LISTEN_TURN_S)
                if message is not None and message["type"] == "message":
                    on_message(_text(message["channel"]), _text(message["data"]))
                elif message is None:
                    pubsub.ping()

    # -- inside ------------------------------------------------------------------------------------------------

    def _records(self, run_ids: Sequence[str]) -> list[Record]:
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for run_id in run_ids:
                pipe.hgetall(keys.run(run_id))
            hashes = pipe.execute(raise_on_error=False) if run_ids else []
        return [
            Record.from_hash(_pairs(fields) | {"id": run_id})
            for run_id, fields in zip(run_ids, hashes, strict=True)
            if fields and not isinstance(fields, Exception)
        ]

    def _call(self, script: str, *args: str | bytes | int | float) -> Any:
        with clear_errors(self.url):
            if script not in self._scripts:
                self._scripts[script] = self._redis.register_script(_source(script))
            return self._scripts[script](args=args)


#: How long the listener blocks before it checks that its connection lives.
_LISTEN_TURN_S = 30.0


@lru_cache(maxsize=None)
def _source(script: str) -> str:
    lua = files("launch_worker.store") / "lua"
    return (lua / "prelude.lua").read_text() + (lua / f"{script}.lua").read_text()


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _pairs(fields: Any) -> dict[str, str]:
    items = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    return {_text(name): _text(value) for name, value in items}


def _answer(word: str) -> Answer:
    if not word.startswith("cancel:"):
        return Answer(word)
    _, grace_us, reason = word.split(":", 2)
    return Answer("cancel", grace_s=int(grace_us) / 1e6 if grace_us else None, reason=reason)


def _transition(fields: dict[str, str]) -> Transition:
    return Transition(
        state=RunState(fields["state"]),
        at=int(fields["at"]),
        attempt=int(fields["attempt"]),
        worker=fields["worker"],
        reason=fields["reason"],
    )


def _chunk(entry: bytes, fields: dict[bytes, bytes]) -> LogChunk:
    return LogChunk(_text(entry), int(fields[b"o"]), fields[b"d"])


def _unknown(run_id: str) -> UnknownRunError:
    shown = run_id if len(run_id) <= 40 and run_id.isprintable() else repr(run_id[:40])
    return UnknownRunError(f"there is no run {shown}; list the known ones with: launch-worker runs")
