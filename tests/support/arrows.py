"""The arrows of a run in one word each, for tests that are about something else."""

from __future__ import annotations

import json
import queue
import secrets
import threading
from collections.abc import Sequence
from typing import Any

from launch_worker.errors import LaunchError
from launch_worker.ids import new_run_id
from launch_worker.model.checks import PRIORITIES
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.redis.client import text
from launch_worker.store.store import Store
from launch_worker.store.submit import Creation, Creator, New
from launch_worker.store.workers import Answer
from tests.conftest import wait_until
from tests.support.redis_client import redis_of
from tests.support.store_checks import item_list

FINISHED = NextStep(Outcome(RunState.FINISHED, exit_code=0))
FAILED = NextStep(Outcome(RunState.FAILED, reason="exit code 3", phase="run", message="m", exit_code=3))
FAILED_AGAIN = NextStep(FAILED.outcome, retry_delay_s=0.0, retry_reason="retry 1 of 1")
FAILED_LATER = NextStep(FAILED.outcome, retry_delay_s=60.0, retry_reason="retry 1 of 1 in 1 m")
CRASHED = NextStep(Outcome(RunState.CRASHED, reason="heartbeats stopped"))
CRASHED_AGAIN = NextStep(CRASHED.outcome, retry_delay_s=0.0, retry_reason="retry 1 of 1")
DEFAULT_LIST = item_list("default", PRIORITIES["medium"])


def create(store: Store, *, delay_s: float = 0.0, **options: Any) -> str:
    run_id = new_run_id()
    store.create(run_id, RunSpec(command=("true",), **options), delay_s=delay_s)
    return run_id


def create_many(creator: Creator, runs: Sequence[New], *, if_queue_known: bool = False) -> list[Creation]:
    """What becomes of each of these runs, submitted in one batch."""
    [answers] = creator.create_batches([runs], if_queue_known=if_queue_known)
    return answers


def seq_of(store: Store, run_id: str) -> int:
    return int(redis_of(store.url).hget(keys.run(run_id), "seq") or 0)


def enlist(store: Store, owner: str, *queues: str) -> None:
    """Have Redis know that this worker consumes the queues, as its heartbeats do; it is not listed as a live one."""
    for name in queues:
        redis_of(store.url).zadd(keys.consumers(name), {owner: 0}, nx=True)


def enlist_for(store: Store, owner: str, run_id: str) -> None:
    """The same for the queue of a run."""
    enlist(store, owner, text(redis_of(store.url).hget(keys.run(run_id), "queue") or "default"))


def try_claim(
    store: Store, run_id: str, *, seq: int | None = None, owner: str = "owner1", nonce: str = "", lease_s: float = 30.0
) -> tuple[Record | None, str]:
    seq = seq_of(store, run_id) if seq is None else seq
    enlist_for(store, owner, run_id)
    return store.claim(run_id, seq, owner=owner, worker=f"w@{owner}", host="h", lease_s=lease_s, nonce=nonce)


def claim(store: Store, run_id: str, *, owner: str = "owner1", nonce: str = "", lease_s: float = 30.0) -> Record:
    record, why = try_claim(store, run_id, owner=owner, nonce=nonce, lease_s=lease_s)
    assert record is not None, why
    return record


def running(store: Store, **options: Any) -> Record:
    return claim(store, create(store, **options))


def beat(store: Store, *records: Record, owner: str = "owner1", lease_s: float = 30.0) -> list[Answer]:
    pulse = store.heartbeat(
        [(record.id, record.token, record.attempt) for record in records],
        owner=owner,
        worker=f"w@{owner}",
        lease_s=lease_s,
        gone_s=60.0,
        description={"owner": owner},
        queues=["default"],
    )
    return pulse.answers


def expire_lease(store: Store, run_id: str) -> None:
    redis_of(store.url).zadd(keys.LEASES, {run_id: 0}, xx=True)


def try_crash(store: Store, run_id: str, token: int, step: NextStep) -> bool:
    """Whether the store calls this attempt Crashed; raises why it could not."""
    [answer] = store.crash_many([(run_id, token, step)])
    if isinstance(answer, LaunchError):
        raise answer
    return answer


def crash(store: Store, record: Record, step: NextStep = CRASHED) -> None:
    expire_lease(store, record.id)
    assert try_crash(store, record.id, record.token, step)


def states(store: Store, run_id: str) -> list[RunState]:
    return [transition.state for transition in store.history(run_id)]


def items(store: Store, name: str = DEFAULT_LIST) -> list[tuple[str, int]]:
    """(run id, dispatch number) of the items in a list, the next to be taken first."""
    found = []
    for element in reversed(redis_of(store.url).lrange(name, 0, -1)):
        (run_id, seq), _, _ = json.loads(json.loads(element)["body"])
        found.append((run_id, seq))
    return found


def snapshot(store: Store) -> dict[str, object]:
    """Everything that the store holds, but counters, the workers' registration and the leases' deadlines."""
    apart = ("launch:counters", "launch:worker", "launch:consumers:", keys.LEASES, keys.PASSES)
    names = sorted(text(key) for key in redis_of(store.url).keys("*"))
    return {name: _content(store, name) for name in names if not name.startswith(apart)}


def _content(store: Store, name: str) -> object:
    if name == keys.CHANGES:
        # Without the workers' registration, here too.
        return [change for change in store.changes(count=100_000) if change.kind != "worker"]
    # A dump has a hash in the order of its buckets, which Redis moves when it likes.
    is_hash = text(redis_of(store.url).type(name)) == "hash"
    return redis_of(store.url).hgetall(name) if is_hash else redis_of(store.url).dump(name)


def listen_once(store: Store, channel: str) -> queue.SimpleQueue[str]:
    """Listen, from when this returns, until one message came; it arrives in the queue."""
    heard: queue.SimpleQueue[str] = queue.SimpleQueue()

    def take(_: str, message: str) -> None:
        heard.put(message)

    def listen() -> None:
        store.listen([channel], on_message=take, stopped=lambda: not heard.empty())

    threading.Thread(target=listen, daemon=True).start()
    wait_until(lambda: redis_of(store.url).pubsub_numsub(channel)[0][1], what="the listener listens")
    return heard


def counter(store: Store, name: str) -> int:
    return int(redis_of(store.url).hget(keys.COUNTERS, name) or 0)


def claim_next(store: Store, *lists: str, slot: str = "1", nonce: str = "", owner: str = "owner1") -> Record | None:
    enlist(store, owner, "default")
    record, _ = store.claim_next(
        lists or keys.queue_lists("default"),
        slot=slot,
        nonce=nonce or secrets.token_hex(8),
        owner=owner,
        worker="w1@host",
        host="host",
        lease_s=30.0,
    )
    return record


def image_of(store: Store) -> dict[bytes, bytes]:
    """All that Redis has now, for `roll_back`."""
    redis = redis_of(store.url)
    return {name: redis.dump(name) for name in redis.keys("*")}


def roll_back(store: Store, image: dict[bytes, bytes]) -> None:
    """Redis as it was."""
    redis_of(store.url).flushall()
    for name, value in image.items():
        redis_of(store.url).restore(name, 0, value)


def make_due(store: Store, run_id: str) -> None:
    """The run's time has come."""
    if redis_of(store.url).zadd(keys.DUE, {run_id: 1}, xx=True, ch=True):
        redis_of(store.url).hset(keys.run(run_id), "due_at", 1)


def adopt(
    store: Store, record: Record, *, previous_owner: str = "owner1", owner: str = "owner2", only_if_gone: bool = False
) -> tuple[Record | None, str]:
    return store.adopt(
        record.id,
        record.token,
        attempt=record.attempt,
        previous_owner=previous_owner,
        owner=owner,
        worker=f"w@{owner}",
        host="other",
        lease_s=30.0,
        only_if_gone=only_if_gone,
    )
