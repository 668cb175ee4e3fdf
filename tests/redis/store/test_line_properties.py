"""Whatever workers, admins and accidents do: no limit is broken, no device given twice, every run gets its turn."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from launch_worker.errors import InputError
from launch_worker.ids import new_run_id
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.support.arrows import CRASHED, FAILED, FAILED_AGAIN, FINISHED, expire_lease, make_due, try_crash
from tests.support.machines import try_machine
from tests.support.redis_client import redis_of
from tests.support.store_checks import inconsistencies
from tests.support.workers import PREEMPTED, Worker

S = RunState
QUEUES = ("a", "b")
#: Tried again on another worker, and with more memory.
ELSEWHERE = NextStep(Outcome(S.FAILED), retry_delay_s=0.0, retry_reason="retry")
LARGER = NextStep(Outcome(S.FAILED), retry_delay_s=0.0, needs=f"1:500:{2 << 30}")
STEPS = (FINISHED, FAILED, FAILED_AGAIN, PREEMPTED, NextStep(Outcome(S.FAILED), retry_delay_s=60.0), ELSEWHERE, LARGER)


class Lines(RuleBasedStateMachine):
    """Two queues in a pool, workers of different sizes, runs with every reason to wait."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.redis = redis_of(store.url)
        self.redis.flushall()
        self.runs: list[str] = []
        self.workers: dict[str, Worker] = {}
        self.born = 0
        #: What may exceed its limit: a run that proved alive, a limit that was lowered.
        self.excused: set[str] = set()

    # -- users and admins ----------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for rank, queue in enumerate(QUEUES):
            self.store.configure("queue", queue, {"pool": "lab", "rank": str(rank + 1)})
        self.hire(2, ["a", "b"])

    @precondition(lambda self: len(self.runs) < 14)
    @rule(
        queue=st.sampled_from(QUEUES),
        priority=st.sampled_from(["high", "medium", "low"]),
        options=st.sampled_from(
            [
                {},
                {},
                {"concurrency_key": "k"},
                {"concurrency_key": "k", "limit_key": 2},
                {"array": "x", "array_limit": 1},
                {"gpus": 1},
                {"gpus": 2},
                {"gpus": 2, "concurrency_key": "k"},
                {"cpus": 1.0},
                {"expires_s": 3600.0},
            ]
        ),
        delay_s=st.sampled_from([0.0, 0.0, 60.0]),
        wish=st.sampled_from(["", "", "ok", "any", "failed"]),
        user=st.sampled_from(["", "", "ada"]),
        project=st.sampled_from(["", "me/iris"]),
        data=st.data(),
    )
    def create(
        self,
        queue: str,
        priority: str,
        options: dict[str, Any],
        delay_s: float,
        wish: str,
        user: str,
        project: str,
        data: Any,
    ) -> None:
        run_id = new_run_id()
        after = (f"{data.draw(st.sampled_from(self.runs))}:{wish}",) if wish and self.runs else ()
        spec = RunSpec(command=("true",), queue=queue, priority=priority, after=after, project=project, **options)
        mine = (f"user:{user}", f"project:{project}") if user else ()
        most = [one.most_gpus for one in self.store.allowances() if one.name in mine]
        if any(gpus is not None and options.get("gpus", 0) > gpus for gpus in most):
            with pytest.raises(InputError, match="GPUs at once"):
                self.store.create(run_id, spec, delay_s=delay_s, user=user)
            return
        self.store.create(run_id, spec, delay_s=delay_s, user=user)
        self.runs.append(run_id)

    @rule(
        name=st.sampled_from(["user:ada", "project:me/iris"]),
        running=st.sampled_from([None, 1, 2]),
        gpus=st.sampled_from([None, 0, 2, 3]),
    )
    def allow(self, name: str, running: int | None, gpus: int | None) -> None:
        self.store.allow(name, waiting=None, running=running, gpus=gpus)
        self.excused |= {run_id for run_id in self.runs if self.state(run_id) is S.RUNNING}

    @rule(
        kind=st.sampled_from([("queue", "a"), ("queue", "b"), ("pool", "lab")]),
        limit=st.sampled_from([None, "1", "2"]),
        paused=st.sampled_from([None, None, "1"]),
    )
    def configure(self, kind: tuple[str, str], limit: str | None, paused: str | None) -> None:
        self.store.configure(*kind, {"limit": limit, "paused": paused})
        self.excused |= {run_id for run_id in self.runs if self.state(run_id) is S.RUNNING}

    @rule(pool=st.sampled_from(["lab", None]))
    def move(self, pool: str | None) -> None:
        self.store.configure("queue", "b", {"pool": pool})
        self.excused |= {run_id for run_id in self.runs if self.state(run_id) is S.RUNNING}

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        self.store.cancel(data.draw(st.sampled_from(self.runs)), reason="stop")

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def retry(self, data: Any) -> None:
        self.store.requeue(data.draw(st.sampled_from(self.runs)), reason="again")

    # -- workers -------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.workers) < 4)
    @rule(gpus=st.integers(0, 3), queues=st.sampled_from([["a"], ["b"], ["a", "b"]]))
    def hire(self, gpus: int, queues: list[str]) -> None:
        self.born += 1
        owner = f"w{self.born}"
        self.workers[owner] = Worker(
            self.store, *queues, owner=owner, slots=2, gpus=gpus, cpus=1000, memory=1 << 30, backfill_s=0.0
        )

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def take(self, data: Any) -> None:
        self.any_worker(data).take()

    @precondition(lambda self: any(worker.jobs for worker in self.workers.values()))
    @rule(data=st.data(), step=st.sampled_from(STEPS))
    def end(self, data: Any, step: NextStep) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.workers.values() if worker.jobs]))
        run_id = data.draw(st.sampled_from(sorted(worker.jobs)))
        record = worker.jobs.pop(run_id)
        if step is ELSEWHERE:
            step = replace(step, avoid=worker.name)
        self.store.finish(record, step, owner=worker.owner, free=worker.free(worker.slots - len(worker.jobs)))

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def beat(self, data: Any) -> None:
        worker = self.any_worker(data)
        before = {run_id for run_id in self.runs if self.state(run_id) is S.CRASHED}
        worker.beat()
        self.excused |= before
        for run_id, record in list(worker.jobs.items()):
            if self.store.get(run_id).token != record.token or self.state(run_id) is not S.RUNNING:
                # As it hears: superseded, or ended.
                del worker.jobs[run_id]

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), cleanly=st.booleans())
    def leave(self, data: Any, cleanly: bool) -> None:
        worker = self.any_worker(data)
        del self.workers[worker.owner]
        if cleanly:
            self.store.goodbye(worker.owner, queues=worker.queues)
        else:
            self.redis.zadd(keys.WORKERS, {worker.owner: 1})
            for queue in worker.queues:
                self.redis.zrem(keys.consumers(queue), worker.owner)
        for run_id in worker.jobs:
            self.crash(run_id)

    # -- passes and accidents --------------------------------------------------------------------------------------

    @rule(data=st.data())
    def publish_due(self, data: Any) -> None:
        due = [run_id for run_id in self.runs if self.store.get(run_id).due_at is not None]
        for run_id in data.draw(st.lists(st.sampled_from(due), unique=True)) if due else []:
            make_due(self.store, run_id)
        self.store.publish_due()

    @rule()
    def publish_lost(self) -> None:
        self.store.publish_lost(grace_s=0)

    @rule(data=st.data())
    def lose_an_item(self, data: Any) -> None:
        lists = [name for name in self.lists() if self.redis.llen(name)]
        if lists:
            self.redis.rpop(data.draw(st.sampled_from(lists)))

    # -- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def nothing_contradicts_itself(self) -> None:
        assert inconsistencies(self.store) == []

    @invariant()
    def no_limit_is_broken(self) -> None:
        running = [self.store.get(run_id) for run_id in self.runs if self.state(run_id) is S.RUNNING]
        counted = [record for record in running if record.id not in self.excused]
        if len(counted) < len(running):
            return  # those that are excused take places
        limits = {name: self.store.settings_of(*name).get("limit") for name in [("queue", q) for q in QUEUES]}
        for (_, queue), limit in limits.items():
            assert limit is None or sum(record.queue == queue for record in running) <= int(limit)
        pool = self.store.settings_of("pool", "lab").get("limit")
        in_pool = {name for name, _ in self.store.pool_queues("lab")}
        assert pool is None or sum(record.queue in in_pool for record in running) <= int(pool)
        assert sum(record.array == "x" for record in running) <= 1
        for allowance in self.store.allowances():
            mine = [record for record in running if allowance.name.replace("/", ":") in record.allowances.split()]
            assert allowance.most_running is None or len(mine) <= allowance.most_running
            assert allowance.most_gpus is None or sum(len(record.gpus) for record in mine) <= allowance.most_gpus
        keyed = [int(record.limit_key) for record in running if record.concurrency_key == "k"]
        assert len(keyed) <= max(keyed, default=0)

    @invariant()
    def no_device_is_given_twice(self) -> None:
        for worker in self.workers.values():
            held = Counter(device for record in worker.jobs.values() for device in record.gpus)
            assert all(count == 1 for count in held.values())

    def teardown(self) -> None:
        """Once nothing stands in their way, all runs get their turn, without any luck."""
        for queue in QUEUES:
            self.store.configure("queue", queue, {"limit": None, "paused": None})
        self.store.configure("pool", "lab", {"limit": None, "paused": None})
        for allowance in self.store.allowances():
            self.store.allow(allowance.name, waiting=None, running=1, gpus=4)
        self.hire_large()
        for name in self.lists():
            self.redis.delete(name)
        for _ in range(100):
            for run_id in self.runs:
                if self.store.get(run_id).due_at is not None:
                    make_due(self.store, run_id)
            self.store.publish_due()
            self.store.publish_lost(grace_s=0)
            for worker in self.workers.values():
                worker.beat()
                worker.work()
                for run_id in list(worker.jobs):
                    record = worker.jobs.pop(run_id)
                    self.store.finish(record, FINISHED, owner=worker.owner, free=worker.free(worker.slots))
            left = [run_id for run_id in self.runs if self.state(run_id) in (S.PENDING, S.RUNNING)]
            if not left:
                break
        assert not left, [self.redis.hgetall(keys.run(run_id)) for run_id in left]
        assert inconsistencies(self.store) == []

    # -- inside ----------------------------------------------------------------------------------------------------

    def hire_large(self) -> None:
        self.workers["large"] = Worker(
            self.store, *QUEUES, owner="large", slots=9, gpus=4, cpus=9000, memory=1 << 40, backfill_s=0.0
        )

    def state(self, run_id: str) -> RunState:
        return self.store.get(run_id).state

    def any_worker(self, data: Any) -> Worker:
        worker: Worker = self.workers[data.draw(st.sampled_from(sorted(self.workers)))]
        return worker

    def crash(self, run_id: str) -> None:
        expire_lease(self.store, run_id)
        try_crash(self.store, run_id, self.store.get(run_id).token, CRASHED)

    def lists(self) -> list[str]:
        own = [keys.direct_queue(f"w{number}") for number in range(1, self.born + 1)]
        return [*own, keys.direct_queue("large"), *(name for queue in QUEUES for name in keys.queue_lists(queue))]


def test_any_order_of_calls_keeps_limits_and_gives_every_run_its_turn(own_store: Store) -> None:
    class OwnLines(Lines):
        def __init__(self) -> None:
            super().__init__(own_store)

    try_machine(OwnLines)
