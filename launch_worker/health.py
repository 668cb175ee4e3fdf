"""What `doctor` and `status` know of the installation's health: each finding is a level and a sentence to act on."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from launch_worker.api import Api
from launch_worker.inventory import parse_needs
from launch_worker.ownership import why_not_ours
from launch_worker.states import RunState
from launch_worker.store.connection import OLDEST_SERVERS
from launch_worker.workers import why_unserved

#: Free space in the work dir below which a worker cannot be trusted to keep logs and reports.
_LOW_DISK_BYTES = 256 << 20
#: How many of the oldest waiting runs are looked at: `status` must not read a million.
_FIRST_RUNS = 200
_GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """`level` is ok, warning or error."""

    level: str
    text: str


def problems(api: Api, *, workers: list[dict[str, Any]], queues: list[dict[str, Any]]) -> list[str]:
    """What `status` shows at its end, from what it has read already."""
    found = [
        f"queue {queue['name']} is Idle, {_runs(queue['waiting'])} in it: {why_unserved(workers, queue['name'])}"
        for queue in queues
        if queue["state"] == "Idle"
    ]
    found += _too_big(api, workers)
    names = Counter(worker["worker"] for worker in workers)
    found += [
        f"{count} workers are called {name}; give each a name of its own with -n, or an order to one reaches all"
        for name, count in names.items()
        if count > 1
    ]
    found += [f"worker {worker['worker']} {worker['problem']}" for worker in workers if worker.get("problem")]
    findings = (*_held(api), *_passes(api, workers), *_refused(api))
    found += [finding.text for finding in findings if finding.level != "ok"]
    return found


def _runs(count: int) -> str:
    return "1 run waits" if count == 1 else f"{count} runs wait"


def _too_big(api: Api, workers: list[dict[str, Any]]) -> list[str]:
    """What no live worker of its queue could run even alone: one sentence for each queue's oldest such run."""
    found: dict[str, str] = {}
    for record in islice(api.store.select(state=RunState.PENDING, newest_first=False), _FIRST_RUNS):
        consumers = [worker for worker in workers if record.queue in worker["queues"]]
        if not record.needs or not consumers or record.queue in found:
            continue
        why = _why_never(record.needs, consumers)
        if why:
            found[record.queue] = (
                f"run {record.id} in queue {record.queue} wants {why}; start a larger worker, or cancel it"
            )
    return list(found.values())


def _why_never(needs: str, workers: list[dict[str, Any]]) -> str:
    """What is wanted that none of these workers has; '' where one fits, or an older one does not say what it has."""
    if any("devices" not in worker for worker in workers):
        return ""
    wanted = parse_needs(needs)
    offers = [(len(worker["devices"]), worker["cpus"]["total"], worker["memory"]["total"] / _GIB) for worker in workers]
    wants = (wanted.gpus, wanted.millicores / 1000, wanted.memory / _GIB)
    if any(all(want <= has for want, has in zip(wants, offer, strict=True)) for offer in offers):
        return ""
    most = [max(column) for column in zip(*offers, strict=True)]
    for want, has, what in zip(wants, most, ("GPUs", "cores", "GiB of memory"), strict=True):
        if want > has:
            return f"{want:.4g} {what}, and its workers have at most {has:.4g}"
    return "more GPUs, cores and memory together than any one of its workers has"


def check(api: Api) -> Iterator[Finding]:
    """Every check, the most basic first. Raises BrokerUnavailableError when there is nothing to check."""
    yield from _server(api)
    workers = api.store.workers()
    yield from _passes(api, workers)
    for worker in workers:
        if worker.get("problem"):
            yield Finding("error", f"worker {worker['worker']} {worker['problem']}")
    yield from _held(api)
    yield from _refused(api)
    yield from _records(api)
    yield from _work_dir(api)


def _server(api: Api) -> Iterator[Finding]:
    server = api.store.server()
    oldest = OLDEST_SERVERS[server["product"]]
    version = tuple(int(part) for part in server["version"].split(".")[:2])
    name = f"{server['product']} {server['version']}"
    if version >= oldest:
        yield Finding("ok", name)
    else:
        yield Finding("error", f"{name}; {'.'.join(map(str, oldest))} or newer is needed")
    if server["aof_enabled"]:
        yield Finding("ok", "Redis keeps an append-only file: a restart loses nothing that was acknowledged")
    else:
        yield Finding(
            "warning",
            "Redis keeps no append-only file: a restart loses what came after its last snapshot; set appendonly yes",
        )
    if server["restored_at"]:
        yield Finding(
            "warning",
            f"Redis was restored from a snapshot at {server['restored_at']}: runs submitted or ended between that "
            f"snapshot and the restart are lost; {server['restored_runs']} that ran were told again by their workers",
        )
    policy = server["maxmemory_policy"]
    if policy == "noeviction":
        yield Finding("ok", "Redis never evicts keys")
    else:
        yield Finding("error", f"Redis evicts keys when it is full ({policy}); set maxmemory-policy noeviction")


def _passes(api: Api, workers: list[dict[str, Any]]) -> Iterator[Finding]:
    ages = api.store.pass_ages_s()
    if not workers:
        yield Finding("warning", "no worker is alive; start one with: celery -A launch_worker worker -Q default")
    else:
        yield Finding("ok", f"{len(workers)} workers are alive")
    late = [name for name, age in ages.items() if age > 6 * api.settings.pass_s]
    if late:
        yield Finding("warning", f"passes are late ({', '.join(late)}); start beat with: celery -A launch_worker beat")
    elif ages:
        yield Finding("ok", "the passes are done in time")


def _held(api: Api) -> Iterator[Finding]:
    for record in api.store.held(limit=5):
        yield Finding("error", f"run {record.id} waits: {record.why_held()}")


def _refused(api: Api) -> Iterator[Finding]:
    for item in api.store.refused(limit=5):
        yield Finding("warning", f"an item of queue {item['queue']} was refused: {item['reason']}")


def _records(api: Api) -> Iterator[Finding]:
    wrong = api.store.inconsistencies(limit=10_000)
    for text in wrong[:5]:
        yield Finding("error", text)
    if not wrong:
        counts = api.store.counts()
        yield Finding(
            "ok", f"records and indexes agree ({sum(counts.values())} runs, {counts[RunState.RUNNING]} Running)"
        )


def _work_dir(api: Api) -> Iterator[Finding]:
    folder = api.settings.work_dir
    if not folder.exists():
        yield Finding("ok", f"this machine has had no worker yet (no {folder})")
        return
    reason = "" if api.settings.work_dir_trusted else why_not_ours(folder)
    if reason:
        yield Finding("warning", f"no worker of yours starts with LAUNCH_WORK_DIR {folder}: {reason}")
    if not os.access(folder, os.W_OK):
        yield Finding("warning", f"{folder} is not writable for you; the worker's user must be able to write there")
    free = shutil.disk_usage(folder).free
    level = "ok" if free > _LOW_DISK_BYTES else "error"
    yield Finding(level, f"{folder} has {free / (1 << 30):.1f} GiB free")
