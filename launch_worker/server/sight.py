"""Shows of queues, pools and workers what a person may see: nothing of projects that are hidden, not even counts."""

from __future__ import annotations

from collections import Counter
from typing import Any

from launch_worker.api.filters import parse_filter
from launch_worker.archive.query import Question, facets
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.people.roles import Person, Sight, visible
from launch_worker.server.shared import Shared


class Seen:
    """What one person sees. Whoever sees all projects gets Redis' own counts; for others the archive counts."""

    def __init__(self, shared: Shared, person: Person) -> None:
        self._shared = shared
        self._sight: Sight = visible(person)
        self._running: list[Record] | None = None

    @property
    def is_all(self) -> bool:
        return self._sight.is_everything

    def sees(self, project: str) -> bool:
        return self._sight.sees(project)

    def queues(self, queues: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Queues, as Queue.as_json or the overview shows them."""
        if self.is_all:
            return queues
        counts = self._counts()
        return [
            queue
            | {
                "waiting": counts[queue["name"], RunState.PENDING.value],
                "later": 0,
                "running": counts[queue["name"], RunState.RUNNING.value],
            }
            for queue in queues
        ]

    def pools(self, pools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.is_all:
            return pools
        counts = self._counts()

        def total(pool: dict[str, Any], state: RunState) -> int:
            return sum(counts[queue, state.value] for queue in pool["queues"])

        return [
            pool
            | ({"waiting": total(pool, RunState.PENDING)} if "waiting" in pool else {})
            | {"running": total(pool, RunState.RUNNING)}
            for pool in pools
        ]

    def workers(self, workers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Workers with the runs that are seen; of the others' capacity it is only told which devices are there."""
        if self.is_all:
            return workers
        records = self._visible_running()
        runs = {record.id for record in records}
        by_worker = Counter(record.worker for record in records)
        return [
            {name: worker[name] for name in ("worker", "host", "queues", "slots", "state") if name in worker}
            | {
                "owner": "",
                "pid": None,
                "running": by_worker[worker["worker"]],
                "devices": [
                    device | {"runs": [run for run in device["runs"] if run in runs], "use": None}
                    for device in worker.get("devices", ())
                ],
                "cpus": {"total": worker.get("cpus", {}).get("total"), "free": None},
                "memory": {"total": worker.get("memory", {}).get("total"), "free": None},
                "problem": "",
            }
            for worker in workers
        ]

    def status(self, status: dict[str, Any]) -> dict[str, Any]:
        """The object of `status --json`. What is wrong is told to who sees all projects only."""
        if self.is_all:
            return status
        counts = facets(self._shared.database, self._question(None), ("state",))
        return {
            "runs": {state.value: counts.get((state.value,), 0) for state in RunState},
            "queues": self.queues(status["queues"]),
            "pools": self.pools(status["pools"]),
            "workers": self.workers(status["workers"]),
            "passes": status["passes"],
            "problems": [],
        }

    def _counts(self) -> Counter[tuple[str, ...]]:
        question = self._question({"state": {"$in": ["Pending", "Running"]}})
        return Counter(facets(self._shared.database, question, ("queue", "state")))

    def _question(self, state: dict[str, Any] | None) -> Question:
        wanted = parse_filter({"$and": [condition for condition in (state, self._sight.as_filter()) if condition]})
        return Question(wanted.tree, wanted.matches)

    def _visible_running(self) -> list[Record]:
        if self._running is None:
            records = self._shared.connection.store.runs({"state": {RunState.RUNNING}})
            self._running = [record for record in records if self.sees(record.project)]
        return self._running
