"""Lists all metrics: what each is called, and what it says. docs/reference/metrics.md has the same table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A metric as Prometheus knows it. No label may have more values than there are queues, pools or states."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


class Buckets(NamedTuple):
    """The value of a histogram: the number of events by upper bound, each event in one bucket, and their sum."""

    counts: Mapping[str, int]
    sum: float


#: A value of a metric, with the values of its labels.
Sample = tuple[tuple[str, ...], float | Buckets]
#: The samples of metrics, by name.
Values = Mapping[str, Sequence[Sample]]


def one(value: float) -> list[Sample]:
    """The samples of a metric without labels."""
    return [((), float(value))]


#: Metrics of the whole system, from Redis.
SYSTEM = (
    Metric("launch_up", "gauge", "Whether Redis answered this scrape. Without, there are no other metrics."),
    Metric("launch_runs", "gauge", "Runs in Redis, by state.", ("state",)),
    Metric("launch_runs_submitted_total", "counter", "Runs that were submitted.", ("queue",)),
    Metric("launch_runs_ended_total", "counter", "Runs that ended, by their final state.", ("queue", "state")),
    Metric(
        "launch_runs_reopened_total",
        "counter",
        "Ended runs that go on, as a person or their living worker has it, by the state that they left.",
        ("state",),
    ),
    Metric("launch_runs_held", "gauge", "Runs whose job may live where no worker is left to look."),
    Metric("launch_runs_restored_total", "counter", "Runs that Redis had lost, and that their workers told it again."),
    Metric("launch_submits_refused_total", "counter", "Submissions that an allowance or a queue's admission refused."),
    Metric("launch_attempts_ended_total", "counter", "Attempts that ended, by the state in which.", ("state",)),
    Metric(
        "launch_attempts_retried_total",
        "counter",
        "Attempts after whose end the run was tried again without a person's doing, by the state of that end.",
        ("state",),
    ),
    Metric(
        "launch_attempt_seconds",
        "histogram",
        "Time from claim to end of an attempt, by the state in which.",
        ("state",),
    ),
    Metric("launch_wait_seconds", "histogram", "Time that a run was ready before a worker claimed it."),
    Metric("launch_leases_late", "gauge", "Running runs whose lease is over and which are not Crashed yet."),
    Metric("launch_reports_superseded_total", "counter", "Reports of attempts that had been given up, refused."),
    Metric("launch_items_refused_total", "counter", "Elements of queues that were no runs."),
    Metric("launch_items_kept_aside", "gauge", "Refused elements and damaged keys that are kept for reading."),
    Metric("launch_items_republished_total", "counter", "Messages of runs that were lost and published again."),
    Metric("launch_queues", "gauge", "Number of queues, also of those that are not shown by name."),
    Metric("launch_queue_waiting", "gauge", "Ready runs that wait for a worker, a limit or a device.", ("queue",)),
    Metric("launch_queue_oldest_wait_seconds", "gauge", "Age of the oldest ready run; 0 without one.", ("queue",)),
    Metric("launch_queue_running", "gauge", "Running runs.", ("queue",)),
    Metric("launch_queue_slots", "gauge", "Slots of the live workers that take runs of the queue.", ("queue",)),
    Metric("launch_pool_waiting", "gauge", "Ready runs in the queues of the pool.", ("pool",)),
    Metric("launch_pool_running", "gauge", "Running runs in the queues of the pool.", ("pool",)),
    Metric("launch_pool_limit", "gauge", "Runs of the pool that may run at once; absent without a limit.", ("pool",)),
    Metric("launch_workers", "gauge", "Live workers, by state.", ("state",)),
    Metric("launch_slots", "gauge", "Slots of all live workers."),
    Metric("launch_slots_busy", "gauge", "Slots in which a run is executed, as of the last heartbeats."),
    Metric("launch_gpus", "gauge", "GPUs of all live workers."),
    Metric("launch_gpus_held", "gauge", "GPUs that at least one run holds."),
    Metric("launch_pass_age_seconds", "gauge", "Time since a pass of beat last began.", ("pass",)),
    Metric("launch_pass_interval_seconds", "gauge", "Time between two passes (LAUNCH_PASS_S)."),
    Metric("launch_feed_entries", "gauge", "Entries of the change feed; 0 while nobody reads it."),
    Metric("launch_archive_registered", "gauge", "Whether an archive keeps what Redis forgets."),
    Metric("launch_archive_unconfirmed_runs", "gauge", "Ended runs that the archive has not confirmed."),
    Metric(
        "launch_archive_unconfirmed_limit",
        "gauge",
        "Ended runs beyond their retention that Redis keeps for an archive at most (LAUNCH_UNARCHIVED_BYTES).",
    ),
    Metric("launch_archive_lag_seconds", "gauge", "Age of the oldest end that the archive has not confirmed."),
    Metric("launch_archive_missed_total", "counter", "Ended runs that were deleted before the archive had them."),
    Metric("launch_notices_waiting", "gauge", "Notices that wait to be told, of all channels."),
    Metric("launch_notices_oldest_seconds", "gauge", "Age of the oldest notice that waits; 0 without one."),
    Metric("launch_notices_sent_total", "counter", "Notices that were told.", ("channel",)),
    Metric(
        "launch_notices_lost_total",
        "counter",
        "Notices that were not told, by why: refused, given_up, dropped (no room), unknown (no such channel).",
        ("outcome",),
    ),
    Metric("launch_redis_memory_bytes", "gauge", "Memory that counts for the limit of Redis."),
    Metric("launch_redis_memory_limit_bytes", "gauge", "maxmemory of Redis; absent without a limit."),
    Metric("launch_redis_clients", "gauge", "Connections of Redis."),
    Metric("launch_redis_clients_limit", "gauge", "maxclients of Redis."),
    Metric("launch_redis_saved", "gauge", "Whether Redis could write its data to disk the last time."),
    Metric("launch_redis_appendonly", "gauge", "Whether Redis keeps an append-only file."),
    Metric("launch_redis_evicts", "gauge", "Whether Redis would delete keys to make room, and lose runs by that."),
    Metric("launch_redis_is_master", "gauge", "Whether this Redis is the master, and no replica."),
)

#: Metrics of one worker, at its health address.
WORKER = (
    Metric("launch_worker_live", "gauge", "Whether the worker works, as /live says."),
    Metric("launch_worker_healthy", "gauge", "Whether the worker's heartbeats reach Redis, as /health says."),
    Metric("launch_worker_ready", "gauge", "Whether the worker takes runs, as /ready says."),
    Metric("launch_worker_slots", "gauge", "Slots: jobs that the worker executes at once."),
    Metric("launch_worker_running", "gauge", "Jobs that the worker executes now."),
    Metric("launch_worker_gpus", "gauge", "GPUs that the worker offers."),
    Metric("launch_worker_gpus_held", "gauge", "GPUs that at least one of its runs holds."),
    Metric("launch_worker_redis_away", "gauge", "Whether Redis is away for this worker."),
    Metric("launch_worker_outages_total", "counter", "Outages of Redis since the worker began."),
    Metric("launch_worker_outage_seconds_total", "counter", "Time for which Redis was away since the worker began."),
    Metric("launch_worker_renewal_age_seconds", "gauge", "Time since the worker's leases were last renewed."),
    Metric("launch_worker_renewals_late_total", "counter", "Renewals that came later than twice LAUNCH_HEARTBEAT_S."),
    Metric("launch_worker_attempts_unknown", "gauge", "Attempts of which the engine of their containers says nothing."),
    Metric("launch_worker_spool_bytes", "gauge", "Output of ended attempts on this machine that is not stored yet."),
    Metric("launch_worker_outputs_waiting", "gauge", "Attempts whose outputs wait on this machine to be stored."),
    Metric("launch_worker_environments", "gauge", "Python environments that this machine keeps."),
    Metric("launch_worker_disk_free_bytes", "gauge", "Bytes free where LAUNCH_WORK_DIR is."),
)
