"""Defines a live worker as a value, as it describes itself, and the capacity that it has free."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from launch_worker.model import item_schema
from launch_worker.model.needs import parse_needs
from launch_worker.model.units import as_us

_GIB = 1 << 30
#: What a person may order a live worker to do.
WorkerOrder = Literal["drain", "upgrade", "resume"]


def why_unserved(workers: Iterable[Mapping[str, Any]], queue: str) -> str:
    """Why no worker takes the runs of a queue that none is listed for, and what to do."""
    workers = list(workers)
    for worker in workers:
        is_quarantined = worker.get("state") == "quarantined" and worker.get("problem")
        if queue in (worker.get("queues") or ()) and is_quarantined:
            return (
                f"worker {worker['worker']}, which consumes queue {queue}, {worker['problem']}; to have it go on: "
                f"launch-worker workers resume {worker['worker']}"
            )
    for worker in workers:
        if why := refusal(worker, queue):
            return (
                f"worker {worker['worker']} takes no runs of queue {queue}, for {why}; mend that and start it anew, or "
                f"change what the queue asks for: launch-worker queues set {queue}"
            )
    return f"no worker consumes queue {queue}; start one with: celery -A launch_worker worker -Q {queue}"


def refusal(worker: Mapping[str, Any], queue: str) -> str:
    """Why a worker takes no runs of a queue that it is to consume, as a clause; '' where it does."""
    refused = worker.get("refused")
    return str(refused.get(queue) or "") if isinstance(refused, Mapping) else ""


def trouble_of(worker: Mapping[str, Any]) -> str:
    """What is wrong with a live worker, for its row in a list; '' for nothing."""
    refused = worker.get("refused")
    refusals = refused.items() if isinstance(refused, Mapping) else ()
    found = [str(worker.get("problem") or ""), *(f"takes no runs of queue {name}, for {why}" for name, why in refusals)]
    return "; ".join(filter(None, found))


def keys_of(worker: Mapping[str, Any]) -> str:
    """What a live worker asks of signatures, and with what it opens secrets, as a clause; '' for neither."""
    sealing = worker.get("sealing_keys")
    count = len(sealing) if isinstance(sealing, list) else 0
    found = {
        "takes signed runs only": worker.get("requires_signed") is True,
        "trusts the keys of its own file": worker.get("has_own_trusted_keys") is True,
        f"has {count} sealing key{'s' if count > 1 else ''}": bool(count),
    }
    return ", ".join(clause for clause, is_so in found.items() if is_so)


def why_never(needs: str, workers: Sequence[Mapping[str, Any]]) -> str:
    """The need that none of these workers meets; '' where one does, there are none, or one does not say what it has."""
    if not workers or any("devices" not in worker for worker in workers):
        return ""
    wanted = parse_needs(needs)
    offers = [(len(worker["devices"]), worker["cpus"]["total"], worker["memory"]["total"] / _GIB) for worker in workers]
    wants = (wanted.gpus, wanted.millicores / 1000, wanted.memory / _GIB)
    if any(all(want <= has for want, has in zip(wants, offer, strict=True)) for offer in offers):
        return ""
    most = [max(column) for column in zip(*offers, strict=True)]
    for want, has, what in zip(wants, most, ("GPUs", "cores", "GiB of memory"), strict=True):
        if want > has:
            wants_it = f"{want:.4g} {what if want != 1 else what.removesuffix('s')}"
            return f"{wants_it}, and " + (f"its workers have at most {has:.4g}" if has else "its workers have none")
    return "more GPUs, cores and memory together than any one of its workers has"


@dataclass(frozen=True)
class Worker:
    """A worker as of its last heartbeat; a silent worker is listed until its lease ends."""

    #: Node name.
    name: str
    #: Owner of its runs' leases: one life of the worker.
    owner: str
    host: str
    pid: int
    queues: tuple[str, ...]
    #: Numbers of runs that it takes at once, and that it has.
    slots: int
    running: int
    #: One of running, draining, quarantined; and why the worker takes no runs, '' when it does.
    state: str
    problem: str = ""
    #: Its whole description, as `launch-worker workers --json` prints it.
    description: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_description(cls, said: Mapping[str, Any]) -> Worker:
        return cls(
            name=str(said.get("worker", "")),
            owner=str(said.get("owner", "")),
            host=str(said.get("host", "")),
            pid=int(said.get("pid") or 0),
            queues=tuple(said.get("queues") or ()),
            slots=int(said.get("slots") or 0),
            running=int(said.get("running") or 0),
            state=str(said.get("state", "")),
            problem=str(said.get("problem") or ""),
            description=said,
        )

    def as_json(self) -> dict[str, Any]:
        return dict(self.description)


@dataclass(frozen=True)
class FreeCapacity:
    """What a worker has free, and what it takes: by this the scripts give it the runs that it has room for."""

    owner: str
    queues: tuple[str, ...]
    #: Free slots, whole devices, thousandths of cores, and bytes.
    slots: int
    gpus: int
    cpus: int
    memory: int
    #: Devices, thousandths of cores and bytes that the worker has in all.
    total: tuple[int, int, int]
    backfill_s: float
    #: Seconds before their time from which it prepares scheduled runs.
    prefetch_s: float = 0.0
    #: Server time (microseconds) until which runs were ready that it may take; 0 for no limit.
    before_us: int = 0
    #: Number of further runs that it takes which make other runs.
    schedulers: int = 1
    #: Version of the newest item format that the worker reads.
    version: int = item_schema.VERSION
    #: Fields of specs, as `image`, for which starts fail on the worker: other workers are to take such runs.
    unable: tuple[str, ...] = ()

    def to_json(self) -> str:
        fixed = _fixed(self.owner, self.queues, self.total, self.backfill_s, self.prefetch_s, self.version)
        unable = f'"unable": {json.dumps(self.unable)}, ' if self.unable else ""
        return (
            f'{fixed}{unable}"slots": {self.slots}, "schedulers": {self.schedulers}, "gpus": {self.gpus}, '
            f'"cpus": {self.cpus}, "memory": {self.memory}, "before_us": {self.before_us}}}'
        )


@lru_cache(maxsize=16)
def _fixed(
    owner: str,
    queues: tuple[str, ...],
    total: tuple[int, int, int],
    backfill_s: float,
    prefetch_s: float,
    version: int,
) -> str:
    """The beginning of a JSON object, with what seldom changes: the object is sent in two calls a run."""
    gpus, cpus, memory = total
    said = {
        "owner": owner,
        "queues": queues,
        "total": {"gpus": gpus, "cpus": cpus, "memory": memory},
        "backfill_us": as_us(backfill_s),
        "prefetch_us": as_us(prefetch_s),
        "version": version,
    }
    return f"{json.dumps(said)[:-1]}, "
