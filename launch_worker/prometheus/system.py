"""Says how the whole system is, in values of metrics: it asks Redis at each scrape, and remembers nothing."""

from __future__ import annotations

from collections.abc import Sequence

from launch_worker.errors import LaunchError
from launch_worker.model.notice import OutboxState
from launch_worker.model.states import FINAL, RunState
from launch_worker.prometheus.metrics import Buckets, Sample, Values, one
from launch_worker.settings import Settings
from launch_worker.store.figures import Figures
from launch_worker.store.passes import RECORD_BYTES
from launch_worker.store.store import Store

#: Final states, in their usual order.
_FINAL = tuple(state for state in RunState if state in FINAL)
#: States in which a worker may be; a worker of another release may say others, which count as the last one.
_WORKER_STATES = ("running", "draining", "quarantined", "stuck", "other")
#: Channels of notices that are told at most.
_MOST_CHANNELS = 10
#: Passes that are told at most: their names are in Redis.
_MOST_PASSES = 10


class System:
    """The values of a whole system, for a scrape. Thread-safe."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def values(self) -> Values:
        """All values of now. While Redis is away only `launch_up` is there, and is 0; that takes seconds at most."""
        try:
            figures, outbox = self._store.figures(), self._store.outbox_state()
        except LaunchError:
            return {"launch_up": one(0)}
        return values_of(figures, self._settings) | notices_of(outbox, figures.now)


def notices_of(outbox: OutboxState, now: int) -> dict[str, Sequence[Sample]]:
    """The values of notices: `now` is the server's time in microseconds."""
    channels = sorted(outbox.channels.items())[:_MOST_CHANNELS]
    since = [state.oldest_at for state in outbox.channels.values() if state.oldest_at]
    lost = {
        "refused": outbox.refused,
        "given_up": outbox.given_up,
        "dropped": outbox.dropped,
        "unknown": outbox.unknown,
    }
    return {
        "launch_notices_waiting": one(outbox.waiting),
        "launch_notices_oldest_seconds": one(max(0.0, (now - min(since)) / 1e6) if since else 0.0),
        "launch_notices_sent_total": [((name,), state.sent) for name, state in channels],
        "launch_notices_lost_total": [((outcome,), count) for outcome, count in lost.items()],
    }


def values_of(figures: Figures, settings: Settings) -> dict[str, Sequence[Sample]]:
    return {
        "launch_up": one(1),
        **_runs(figures),
        **_queues(figures),
        **_rest(figures, settings),
        **_redis(figures),
    }


def _runs(figures: Figures) -> Values:
    counts, events = figures.counts, figures.events
    return {
        "launch_runs": [((state.value,), figures.runs[state]) for state in RunState],
        "launch_runs_reopened_total": [((state.value,), counts.reopened(state)) for state in _FINAL],
        "launch_runs_held": one(figures.held),
        "launch_runs_restored_total": one(events.get("restored_runs", 0)),
        "launch_submits_refused_total": one(counts.refused()),
        "launch_attempts_ended_total": [((state.value,), sum(counts.attempts(state).values())) for state in _FINAL],
        "launch_attempts_retried_total": [((state.value,), counts.retried(state)) for state in _FINAL],
        "launch_attempt_seconds": [
            ((state.value,), Buckets(counts.attempts(state), counts.ran_s(state))) for state in _FINAL
        ],
        "launch_wait_seconds": [((), Buckets(counts.waits(), counts.waited_s()))],
        "launch_leases_late": one(figures.leases_late),
        "launch_reports_superseded_total": one(events.get("superseded_reports", 0)),
        "launch_items_refused_total": one(events.get("refused_items", 0)),
        "launch_items_kept_aside": one(figures.refused_kept),
        "launch_items_republished_total": one(events.get("published_again", 0)),
    }


def _queues(figures: Figures) -> Values:
    queues, pools = figures.queues, figures.pools
    return {
        "launch_queues": one(figures.queue_count),
        "launch_runs_submitted_total": [((queue.name,), queue.counts.submitted()) for queue in queues],
        # A state in which no run of the queue has ended takes no line.
        "launch_runs_ended_total": [
            ((queue.name, state.value), ended)
            for queue in queues
            for state in _FINAL
            if (ended := queue.counts.ended(state)) or state is RunState.FINISHED
        ],
        "launch_queue_waiting": [((queue.name,), queue.ready) for queue in queues],
        "launch_queue_oldest_wait_seconds": [((queue.name,), queue.oldest_s) for queue in queues],
        "launch_queue_running": [((queue.name,), queue.running) for queue in queues],
        "launch_queue_slots": [((queue.name,), queue.slots) for queue in queues],
        "launch_pool_waiting": [((pool.name,), pool.ready) for pool in pools],
        "launch_pool_running": [((pool.name,), pool.running) for pool in pools],
        "launch_pool_limit": [((pool.name,), pool.limit) for pool in pools if pool.limit is not None],
    }


def _rest(figures: Figures, settings: Settings) -> Values:
    workers = dict.fromkeys(_WORKER_STATES, 0)
    for state, count in figures.workers.items():
        workers[state if state in workers else _WORKER_STATES[-1]] += count
    ages = sorted(figures.pass_ages_s.items())[:_MOST_PASSES]
    values: dict[str, list[Sample]] = {
        "launch_workers": [((state,), count) for state, count in workers.items()],
        "launch_slots": one(figures.slots),
        "launch_slots_busy": one(figures.slots_busy),
        "launch_gpus": one(figures.gpus),
        "launch_gpus_held": one(figures.gpus_held),
        "launch_pass_age_seconds": [((name,), age_s) for name, age_s in ages],
        "launch_pass_interval_seconds": one(settings.pass_s),
        "launch_archive_registered": one(figures.has_archive),
        "launch_archive_missed_total": one(figures.events.get("unarchived_deleted", 0)),
    }
    if figures.feed_length is not None:
        values["launch_feed_entries"] = one(figures.feed_length)
    if figures.has_archive:
        values |= {
            "launch_archive_unconfirmed_runs": one(figures.unarchived),
            "launch_archive_unconfirmed_limit": one(settings.unarchived_bytes // RECORD_BYTES),
            "launch_archive_lag_seconds": one(figures.unarchived_age_s),
        }
    return values


def _redis(figures: Figures) -> Values:
    info = figures.server
    if not info:
        return {}
    limit = int(info.get("maxmemory") or 0)
    found = {
        "launch_redis_memory_bytes": int(info.get("used_memory") or 0)
        - int(info.get("mem_not_counted_for_evict") or 0),
        "launch_redis_memory_limit_bytes": limit or None,
        "launch_redis_clients": info.get("connected_clients"),
        "launch_redis_clients_limit": info.get("maxclients"),
        "launch_redis_saved": "err" not in (info.get("rdb_last_bgsave_status"), info.get("aof_last_write_status")),
        "launch_redis_appendonly": bool(info.get("aof_enabled")),
        "launch_redis_evicts": info.get("maxmemory_policy", "noeviction") != "noeviction",
        "launch_redis_is_master": info.get("role") != "slave",
    }
    return {name: one(value) for name, value in found.items() if value is not None}
