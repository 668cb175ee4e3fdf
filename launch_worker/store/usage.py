"""Reads what attempts used, and asks workers for what running ones have used by now."""

from __future__ import annotations

import json
import time

from redis.exceptions import NoPermissionError

from launch_worker.model.run import Record
from launch_worker.model.usage import KeptUsage
from launch_worker.store import keys
from launch_worker.store.news import News
from launch_worker.store.redis.client import text
from launch_worker.store.redis.connection import clear_errors

#: Seconds for which an answer to a question is kept.
_ANSWER_S = 10.0


def usage_by_attempt(found: object) -> dict[int, str]:
    """The values of a run's hash by their attempts; nothing for a damaged key."""
    known = found if isinstance(found, dict) else {}
    return {int(attempt): text(kept) for attempt, kept in known.items() if attempt.isdigit() and len(attempt) <= 18}


class Usages(News):
    """The part of `Store` for what attempts used."""

    def usages(self, run_id: str) -> dict[int, str]:
        """What is kept beside the record: by attempt, JSON of the figures, with samples where there are any."""
        with clear_errors(self.url):
            found = self._redis.hgetall(keys.usage(run_id))
        return usage_by_attempt(found)

    def usage_of(self, record: Record, attempt: int) -> str:
        """The same of one attempt; '' where nothing is known of it."""
        with clear_errors(self.url):
            kept = self._redis.hget(keys.usage(record.id), str(attempt))
        return text(kept) if kept else record.usage if attempt == record.attempt else ""

    def ask_usage(self, record: Record, *, timeout_s: float) -> str:
        """Ask the worker of a Running attempt for the same, as of now; '' for no answer in time, or no right."""
        order = json.dumps({"order": "usage", "id": record.id, "token": str(record.token)})
        deadline = time.monotonic() + timeout_s
        with self.watch(record.id) as wait_for_news, clear_errors(self.url):
            try:
                is_heard = self._redis.publish(keys.orders_channel(record.owner), order)
            except NoPermissionError:
                return ""  # a user who may only look
            if not is_heard:
                return ""  # a worker that is gone
            while (left_s := deadline - time.monotonic()) > 0:
                wait_for_news(left_s)
                of, _, kept = text(self._redis.get(keys.usage_now(record.id)) or b"").partition(" ")
                if of == str(record.token):
                    return kept
        return ""

    def answer_usage(self, record: Record, used: KeptUsage) -> None:
        """Answer those who have asked for the usage of a running attempt."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            pipe.set(
                keys.usage_now(record.id), f"{record.token} {used.samples or used.figures}", px=int(1000 * _ANSWER_S)
            )
            pipe.publish(keys.news_channel(record.id), "usage")
            pipe.execute()
