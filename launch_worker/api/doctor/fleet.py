"""Looks at workers, passes and queues: who is alive, and which runs nobody takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from launch_worker.humane import plural
from launch_worker.model.finding import Finding
from launch_worker.model.states import RunState
from launch_worker.model.worker import why_never, why_unserved
from launch_worker.settings import Settings
from launch_worker.store.store import Store

#: Oldest waiting runs that are looked at: `status` must not read a million.
_FIRST_RUNS = 200


def workers_and_passes(settings: Settings, seen: Mapping[str, Any], *, blocked: bool) -> Iterator[Finding]:
    workers, ages = seen["workers"], seen["passes"]
    late = [name for name, age in ages.items() if age > 6 * settings.pass_s]
    if blocked and (late or not workers):
        yield Finding(
            "warning",
            "workers",
            "nothing is known of workers and passes, for Redis does not take their word",
            "mend what is wrong with Redis first; running jobs go on, and their ends are reported then",
        )
    else:
        if not workers:
            start = "start one with: celery -A launch_worker worker -Q default"
            yield Finding("warning", "workers", "no worker is alive", start)
        else:
            alive = "1 worker is alive" if len(workers) == 1 else f"{len(workers)} workers are alive"
            yield Finding("ok", "workers", alive)
        if late:
            start = "start beat with: celery -A launch_worker beat"
            yield Finding("warning", "passes", f"passes are late ({', '.join(late)})", start)
        elif ages:
            yield Finding("ok", "passes", "the passes are done in time")
    for name, count in Counter(worker["worker"] for worker in workers).items():
        if count > 1:
            yield Finding(
                "warning",
                "worker.twins",
                f"{count} workers are called {name}",
                "give each a name of its own with -n, or an order to one reaches all",
            )
    for worker in workers:
        if worker.get("problem"):
            yield Finding(
                "error",
                "worker.problem",
                f"worker {worker['worker']} {worker['problem']}",
                f"mend that, then have it go on: launch-worker workers resume {worker['worker']}"
                if worker["state"] == "quarantined"
                else "mend that; it goes on by itself",
            )


def refusals(seen: Mapping[str, Any]) -> Iterator[Finding]:
    """The queues that workers leave alone, for what these ask of the machine."""
    for worker in seen["workers"]:
        for queue, why in (worker.get("refused") or {}).items():
            yield Finding(
                "warning",
                "queue.refused",
                f"worker {worker['worker']} takes no runs of queue {queue}, for {why}",
                f"mend that and start the worker anew, or change it: launch-worker queues set {queue}",
            )


def unserved_queues(seen: Mapping[str, Any]) -> Iterator[Finding]:
    for queue in seen["queues"]:
        if queue["state"] == "Idle":
            cause, _, advice = why_unserved(seen["workers"], queue["name"]).partition("; ")
            waits = f"queue {queue['name']} is Idle, {_runs(queue['waiting'])} in it: {cause}"
            yield Finding("warning", "queue.unserved", waits, advice)


def _runs(count: int) -> str:
    return plural(count, "run waits", "runs wait")


def too_big(store: Store, workers: list[dict[str, Any]]) -> Iterator[Finding]:
    """Each queue's oldest run that no live worker of it could run even alone."""
    found: set[str] = set()
    for record in islice(store.runs({"state": {RunState.PENDING}}, newest_first=False), _FIRST_RUNS):
        consumers = [worker for worker in workers if record.queue in worker["queues"]]
        if not record.needs or not consumers or record.queue in found:
            continue
        why = why_never(record.needs, consumers)
        if why:
            found.add(record.queue)
            yield Finding(
                "warning",
                "run.too-big",
                f"run {record.id} in queue {record.queue} wants {why}",
                f"start a larger worker, or cancel it: launch-worker cancel {record.id}",
            )


def held(store: Store) -> Iterator[Finding]:
    for record in store.held(limit=5):
        cause, _, advice = record.why_held().rpartition("; ")
        yield Finding("error", "run.held", f"run {record.id} waits: {cause}", advice)
