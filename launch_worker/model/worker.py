"""A live worker, as it describes itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


def why_unserved(workers: Iterable[Mapping[str, Any]], queue: str) -> str:
    """Why nobody takes runs of a queue that no worker is listed for, and what to do; by the workers' descriptions."""
    for worker in workers:
        is_quarantined = worker.get("state") == "quarantined" and worker.get("problem")
        if queue in (worker.get("queues") or ()) and is_quarantined:
            return (
                f"worker {worker['worker']}, which consumes queue {queue}, {worker['problem']}; to have it go on: "
                f"launch-worker workers resume {worker['worker']}"
            )
    return f"no worker consumes queue {queue}; start one with: celery -A launch_worker worker -Q {queue}"


@dataclass(frozen=True)
class Worker:
    """A worker as it was when it last spoke: a heartbeat ago at most, a lease where it is silent."""

    #: Its node name.
    name: str
    #: One life of it: what holds the leases of its runs.
    owner: str
    host: str
    pid: int
    queues: tuple[str, ...]
    #: How many runs it takes at once, and how many it has.
    slots: int
    running: int
    #: running, draining or quarantined, and why it takes nothing; '' when it does.
    state: str
    problem: str = ""
    #: All that it said, as `launch-worker workers --json` prints it.
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
