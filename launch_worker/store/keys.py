"""Names every Redis key that Python uses; lua/words/keys.lua says what each holds and who owns it."""

from __future__ import annotations

from launch_worker.model.checks import PRIORITIES

RUNS = "launch:runs"
LEASES = "launch:leases"
WORKERS = "launch:workers"
QUEUES = "launch:queues"
POOLS = "launch:pools"
ALLOWANCES = "launch:allowances"
SCHEDULES = "launch:schedules"
SWEEPS = "launch:sweeps"
LIVE_SWEEPS = "launch:sweeps:live"
PASSES = "launch:passes"
COUNTERS = "launch:counters"
REFUSED = "launch:refused"
#: Queues that have counters of their own.
COUNTED = "launch:counted"
DUE = "launch:due"
HOLD = "launch:hold"
RESTORED = "launch:restored_at"
SYSTEM = "launch:system"
#: Hash of the signing keys that an admin trusts, by their ids.
TRUSTED_KEYS = "launch:admin:keys"
#: Stream of changes; it exists only while somebody reads it.
CHANGES = "launch:changes"
#: Ended runs that no archive has confirmed, by their end.
ENDED = "launch:ended"
#: Name of the archive that is registered.
ARCHIVE = "launch:archive"
#: Names of the channels that notices may go to; it expires unless a process that sends notices renews it.
NOTICE_SENDER = "launch:notify:sender"
#: Set of the channels that have notices; and the Redis channel on which a new notice is published.
OUTBOX = "launch:outbox"
#: Channel for queues that are new, configured or gone.
QUEUE_NEWS = "launch:queues"
#: Channel for sweeps of which a run ended or reported its metric, or that somebody steered.
SWEEP_NEWS = "launch:sweeps"
#: Distance of two priorities in the scores of a queue's line; within a priority the score is the time of readiness.
LEVEL = 1 << 51
#: Score in a queue's line from which on a run is not ready.
LATER = 9_000_000_000_000_000

#: Separator of kombu between a queue's name and its priority step.
PRIORITY_SEP = "\x06\x16"
PRIORITY_STEPS = tuple(PRIORITIES.values())


def run(run_id: str) -> str:
    return f"launch:run:{run_id}"


def history(run_id: str) -> str:
    return f"launch:run:{run_id}:history"


def log(run_id: str, attempt: int) -> str:
    return f"launch:run:{run_id}:log:{attempt}"


def metrics(run_id: str) -> str:
    return f"launch:run:{run_id}:metrics"


def usage(run_id: str) -> str:
    """What each attempt of a run used, with samples over time."""
    return f"launch:run:{run_id}:usage"


def usage_now(run_id: str) -> str:
    """What the running attempt has used by now, for whoever asked its worker."""
    return f"launch:run:{run_id}:usage:now"


def files(run_id: str) -> str:
    return f"launch:run:{run_id}:files"


def deleted(run_id: str) -> str:
    """Who deleted a run, and when."""
    return f"launch:run:{run_id}:deleted"


def upload(sha256: str) -> str:
    return f"launch:upload:{sha256}"


def upload_sender(sha256: str, user: str) -> str:
    """That a user has sent an upload through a server."""
    return f"launch:upload:{sha256}:of:{user}"


def upload_chunk(sha256: str, number: int) -> str:
    return f"launch:upload:{sha256}:{number}"


def counts(queue: str) -> str:
    """Counters of a queue for metrics; `_other` for all queues without any, `_deleted` for deleted ones."""
    return f"launch:counts:{queue}"


def runs_by(kind: str, value: str) -> str:
    """A listing index; `kind` is project, queue, state or sweep."""
    return f"launch:runs:{kind}:{value}"


def worker(owner: str) -> str:
    return f"launch:worker:{owner}"


def free(owner: str) -> str:
    """A worker's free capacity, as of its last heartbeat or claim."""
    return f"launch:free:{owner}"


def queue(name: str) -> str:
    return f"launch:queue:{name}"


def pool(name: str) -> str:
    return f"launch:pool:{name}"


def pool_queues(pool: str) -> str:
    return f"launch:pool_queues:{pool}"


def line(queue: str) -> str:
    return f"launch:line:{queue}"


def places(kind: str, name: str) -> str:
    """Running runs that count for a limit; `kind` is queue, key, array or allowance.

    With `waiting` the Pending ones that count for an allowance, with `gpus` the GPUs that the Running ones hold.
    """
    return f"launch:places:{kind}:{name}"


def allowance(name: str) -> str:
    """What a user, a group or a project may have at once."""
    return f"launch:allowance:{name}"


def group_runs(group_id: str) -> str:
    """The runs of an array or a bulk submission, in the order of their submission."""
    return f"launch:array:{group_id}:runs"


def group_runs_before(array: str) -> str:
    """The same of an array that a submitter of an earlier release made."""
    return f"launch:runs:array:{array}"


def group(group_id: str) -> str:
    """The record of an array, by the id of its first run, or of a bulk submission; a sweep's record is its own."""
    return f"launch:array:{group_id}"


def schedule(name: str) -> str:
    return f"launch:schedule:{name}"


def sweep(sweep_id: str) -> str:
    return f"launch:sweep:{sweep_id}"


def sweep_part(sweep_id: str, part: str) -> str:
    """`part` is runs, live, trials, results, stopped, ended or curve:N."""
    return f"launch:sweep:{sweep_id}:{part}"


def sweep_lock(sweep_id: str, what: str) -> str:
    return f"launch:sweep:{sweep_id}:lock:{what}"


def direct_queue(owner: str) -> str:
    """A worker's own queue, for runs that were given to that worker alone."""
    return f"launch.direct.{owner}"


def wake_list(owner: str) -> str:
    """A list in which an element ends a worker's wait for its queues."""
    return f"launch.wake.{owner}"


def consumers(queue: str) -> str:
    return f"launch:consumers:{queue}"


def outbox(channel: str, part: str = "") -> str:
    """The notices of a channel, by the time of the next try; `part` is notices, tries or state."""
    return f"launch:outbox:{channel}:{part}" if part else f"launch:outbox:{channel}"


def news_channel(run_id: str) -> str:
    """Channel for a run's transitions and new output."""
    return f"launch:news:{run_id}"


def orders_channel(owner: str) -> str:
    """Channel for the stops that a worker is asked for."""
    return f"launch:orders:{owner}"


def admin_channel(owner: str) -> str:
    """Channel for orders to a worker: drain, upgrade, resume. Whoever may cancel runs need not have this right."""
    return f"launch:admin:{owner}"


def queue_lists(queue: str) -> list[str]:
    """The lists of one queue, the most urgent first."""
    return [queue if step == 0 else f"{queue}{PRIORITY_SEP}{step}" for step in PRIORITY_STEPS]
