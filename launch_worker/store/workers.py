"""Writes heartbeats of workers, reads what they have free, and sends them orders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from launch_worker.model.units import as_us
from launch_worker.model.worker import FreeCapacity, WorkerOrder
from launch_worker.store import keys
from launch_worker.store.answers import LeaseWord
from launch_worker.store.redis.client import text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.store.server import Server


@dataclass(frozen=True)
class Answer:
    """The answer to a heartbeat for one run."""

    word: LeaseWord
    #: Grace in seconds that came with a cancel or preempt; None for the job's own.
    grace_s: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Pulse:
    """The reply to a worker's heartbeat."""

    #: Answers for the runs of the heartbeat, in its order.
    answers: list[Answer]
    #: Seconds since the last maintenance pass began anywhere.
    pass_age_s: float
    #: Server time in microseconds at which the next Pending run is due; 0 for none.
    next_due: int
    #: Server time in microseconds.
    now: int


class Workers(Server):
    """The part of `Store` through which workers report, and are asked about."""

    def heartbeat(
        self,
        runs: Sequence[tuple[str, int, int]],
        *,
        owner: str,
        worker: str,
        lease_s: float,
        gone_s: float,
        description: dict[str, Any] | None,
        queues: Sequence[str],
        free: FreeCapacity | None = None,
    ) -> Pulse:
        """Renew the leases of all (run id, token, attempt), and the worker's registration, in one round trip.

        A worker with `free` capacity is given parked runs that it has room for. `description` is None for a worker
        without runs that has nothing new to say: its registration is not renewed.
        """
        if description is None:
            queues = ()
        flat = [part for run in runs for part in run]
        shown = free.to_json() if free is not None else ""
        head = (
            owner,
            worker,
            as_us(lease_s),
            as_us(gone_s),
            "" if description is None else json.dumps(description),
            shown,
            len(queues),
            *queues,
        )
        now, age, next_due, *lines = self._call("heartbeat", *head, *flat)
        answers = [_answer(text(line)) for line in lines]
        return Pulse(answers, pass_age_s=age / 1e6, next_due=int(next_due), now=now)

    def goodbye(self, owner: str, *, queues: Sequence[str], stays: bool = False) -> None:
        """Take a cleanly ended worker off the list; a worker that `stays` is listed, and consumes nothing any more."""
        self._call("goodbye", owner, int(stays), *queues)

    def forget_consumer(self, owner: str, queues: Sequence[str]) -> None:
        """Take a worker off the consumers of these queues."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for name in queues:
                pipe.zrem(keys.consumers(name), owner)
            pipe.execute()

    def order(self, owner: str, word: WorkerOrder, *, actor: str = "") -> bool:
        """Order a worker to do this. False when the worker does not listen now."""
        return bool(self._call("order", owner, word, self.named(actor)))

    def consumers(self, queue: str) -> int:
        """How many live workers consume the queue."""
        now = self.now_us()
        with clear_errors(self.url):
            return int(self._redis.zcount(keys.consumers(queue), now, "+inf"))

    def slots_of(self, queue: str) -> tuple[int, int | None]:
        """How many live workers consume a queue, and their free slots together; None where a worker does not say."""
        now = self.now_us()
        with clear_errors(self.url):
            owners = [text(owner) for owner in self._redis.zrangebyscore(keys.consumers(queue), now, "+inf")]
        slots = self._free_slots(owners)
        return len(owners), None if None in slots else sum(count for count in slots if count)

    def workers_now(self) -> list[dict[str, Any]]:
        """The descriptions of `workers`, with the number of runs as it is now, and not as of the last heartbeat."""
        found = self.workers()
        for said, free in zip(found, self._free_slots([said["owner"] for said in found]), strict=True):
            if free is not None:
                said["running"] = max(0, said["slots"] - free)
        return found

    def workers_with_room(self) -> list[dict[str, Any]]:
        """The same with `room`, what the scripts know to be free now: `gpus`, and whether it `takes_new` runs.

        None for a worker that takes nothing now.
        """
        found = self.workers()
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for said in found:
                pipe.hmget(keys.free(said["owner"]), "slots", "gpus", "by_hand")
            rooms = pipe.execute(raise_on_error=False) if found else []
        for said, room in zip(found, rooms, strict=True):
            slots, gpus, by_hand = room if isinstance(room, list) else (None, None, None)
            if slots is None or not slots.isdigit():
                continue
            if "slots" in said:
                said["running"] = max(0, said["slots"] - int(slots))
            said["room"] = {"gpus": int(gpus) if gpus and gpus.isdigit() else None, "takes_new": by_hand is None}
        return found

    def _free_slots(self, owners: Sequence[str]) -> list[int | None]:
        """Each owner's free slots, as the scripts count them; None for a worker that takes nothing now."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for owner in owners:
                pipe.hget(keys.free(owner), "slots")
            found = pipe.execute(raise_on_error=False) if owners else []
        return [int(count) if isinstance(count, bytes) and count.isdigit() else None for count in found]


def _answer(line: str) -> Answer:
    if not line.startswith(("cancel:", "preempt:")):
        return Answer(cast(LeaseWord, line))
    word, grace_us, reason = line.split(":", 2)
    return Answer(cast(LeaseWord, word), grace_s=int(grace_us) / 1e6 if grace_us else None, reason=reason)
