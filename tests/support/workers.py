"""A worker that takes runs from the lists as a real one does, without processes."""

from __future__ import annotations

from typing import Any

from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.model.worker import FreeCapacity
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.support.arrows import (
    FINISHED,
)

PREEMPTED = NextStep(
    Outcome(RunState.FAILED, reason="preempted (exit code 85)", phase="run", exit_code=85, preempted=True),
    retry_delay_s=0.0,
    retry_reason="preempted 1 of 5 times",
    is_preemption=True,
)


class Worker:
    """One that takes items from the lists as a real one does, and knows what it has."""

    def __init__(
        self,
        store: Store,
        *queues: str,
        owner: str = "w1",
        name: str = "",
        slots: int = 4,
        gpus: int = 0,
        cpus: int = 0,
        memory: int = 0,
        backfill_s: float = 300.0,
        prefetch_s: float = 0.0,
    ) -> None:
        self.store = store
        self.owner = owner
        self.name = name or owner
        self.queues = queues or ("default",)
        self.slots = slots
        self.devices = [str(number) for number in range(gpus)]
        self.total = (gpus, cpus, memory)
        self.backfill_s = backfill_s
        self.prefetch_s = prefetch_s
        self.before_us = 0
        self.state = "running"
        self.unable: tuple[str, ...] = ()
        self.jobs: dict[str, Record] = {}
        self.beat()

    @property
    def lists(self) -> list[str]:
        names = [keys.queue_lists(queue) for queue in self.queues]
        return [keys.direct_queue(self.owner), *(name for level in zip(*names, strict=True) for name in level)]

    @property
    def free_devices(self) -> list[str]:
        held = {device for record in self.jobs.values() for device in record.gpus}
        return [device for device in self.devices if device not in held]

    def free(self, slots: int) -> FreeCapacity:
        needs = [[int(part) for part in (record.needs or "0:0:0").split(":")] for record in self.jobs.values()]
        return FreeCapacity(
            owner=self.owner,
            queues=tuple(self.queues),
            slots=slots,
            gpus=len(self.free_devices),
            cpus=self.total[1] - sum(cpus for _, cpus, _ in needs),
            memory=self.total[2] - sum(memory for _, _, memory in needs),
            total=self.total,
            backfill_s=self.backfill_s,
            prefetch_s=self.prefetch_s,
            before_us=self.before_us,
            unable=self.unable,
        )

    @property
    def description(self) -> dict[str, Any]:
        gpus, cpus, memory = self.total
        amounts = {"devices": [{}] * gpus, "cpus": {"total": cpus / 1000}, "memory": {"total": memory}}
        return {"owner": self.owner, "worker": self.name, "state": self.state, "unable": self.unable, **amounts}

    def beat(self) -> None:
        self.store.heartbeat(
            [(record.id, record.token, record.attempt) for record in self.jobs.values()],
            owner=self.owner,
            worker=self.name,
            lease_s=30.0,
            gone_s=60.0,
            description=self.description,
            queues=self.queues,
            free=self.free(self.slots - len(self.jobs)),
        )

    def take(self) -> Record | str | None:
        """Claim the next item: the record, or why not; None when there is none or no slot."""
        if len(self.jobs) >= self.slots:
            return None
        found = self.store.take(self.lists, before_us=self.before_us or self.store.now_us() + 10**9)
        if found is None:
            return None
        record, why = self.store.claim(
            *found,
            owner=self.owner,
            worker=self.name,
            host="h",
            lease_s=30.0,
            free=self.free(self.slots - len(self.jobs) - 1),
            devices=self.free_devices,
        )
        if record is None:
            return why
        assert set(record.gpus) <= set(self.free_devices), "a device is given once"
        self.jobs[record.id] = record
        return record

    def work(self) -> list[str]:
        """Take until there is nothing more; the ids that were claimed."""
        claimed = []
        while (taken := self.take()) is not None:
            if isinstance(taken, Record):
                claimed.append(taken.id)
        return claimed

    def end(self, run_id: str, step: NextStep = FINISHED) -> None:
        record = self.jobs.pop(run_id)
        assert self.store.finish(record, step, owner=self.owner, free=self.free(self.slots - len(self.jobs)))
