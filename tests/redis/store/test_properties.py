"""Any order of calls, by any number of workers, leaves every run true: a state machine against a real Redis."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from launch_worker.ids import new_run_id
from launch_worker.model.checks import PRIORITIES
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.support.arrows import beat, enlist_for, expire_lease, items, make_due, snapshot, try_crash
from tests.support.machines import try_machine
from tests.support.redis_client import redis_of
from tests.support.store_checks import inconsistencies, item_list

S = RunState
RUNS = 3
QUEUES = ("default", "gpu")
OWNERS = ("owner1", "owner2", "owner3")

#: Seconds of what must not be over before the example is, on a machine that does much else.
LONG_S = 3600.0

retries = st.sampled_from([None, 0.0, LONG_S])
outcomes = st.sampled_from([S.FINISHED, S.FAILED, S.KILLED, S.CRASHED])
owners = st.sampled_from(OWNERS)


@dataclass(frozen=True)
class Item:
    """A queue element that a worker took; it may be delivered again."""

    run_id: str
    seq: int


@dataclass(frozen=True)
class Claim:
    """An attempt that some worker was given, perhaps long superseded."""

    item: Item
    nonce: str
    owner: str
    record: Record


class Launch(RuleBasedStateMachine):
    """Workers, users, beats and accidents act on a few runs."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.redis = redis_of(store.url)
        self.redis.flushall()
        self.store.want_changes()
        self.runs: list[str] = []
        self.taken: list[Item] = []
        self.claims: list[Claim] = []
        #: Runs whose item this test took away or threw away, with the item's number.
        self.itemless: dict[str, int] = {}
        self.nonces = 0

    # -- users ---------------------------------------------------------------------------------------------------

    @initialize(retried=st.booleans())
    def begin(self, retried: bool) -> None:
        """A run that is executed, so that no example is about creating only."""
        self.create("default", "medium", "me/iris", 0.0)
        self.work(self.waiting()[0], "owner1")
        if retried:
            self.finish_with(self.claims[0], S.FAILED, LONG_S)

    @precondition(lambda self: len(self.runs) < RUNS)
    @rule(
        queue=st.sampled_from(QUEUES),
        priority=st.sampled_from(["high", "medium"]),
        project=st.sampled_from(["", "me/iris"]),
        delay_s=st.sampled_from([0.0, LONG_S]),
    )
    def create(self, queue: str, priority: str, project: str, delay_s: float) -> None:
        run_id = new_run_id()
        spec = RunSpec(command=("true",), queue=queue, priority=priority, project=project)
        assert self.store.create(run_id, spec, delay_s=delay_s)[0]
        self.runs.append(run_id)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def create_again(self, data: Any) -> None:
        with self.unchanged():
            assert not self.store.create(self.any_run(data), RunSpec(command=("true",)))[0]

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), grace_s=st.sampled_from([None, 0.0]))
    def cancel(self, data: Any, grace_s: float | None) -> None:
        run_id = self.any_run(data)
        before = self.state(run_id)
        word, after = self.store.cancel(run_id, reason="stop", grace_s=grace_s)
        expected = {S.PENDING: ("killed", "Killed"), S.RUNNING: ("requested", "Running")}
        assert (word, after) == expected.get(before, ("final", before.value))
        assert self.state(run_id) == after

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def requeue(self, data: Any) -> None:
        run_id = self.any_run(data)
        before = self.state(run_id)
        assert self.store.requeue(run_id, reason="again") == ("" if before.is_final else before.value)
        if before.is_final:
            assert self.state(run_id) is S.PENDING

    # -- workers -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.waiting())
    @rule(data=st.data(), owner=owners)
    def take_and_claim(self, data: Any, owner: str) -> None:
        """A worker's BRPOP, and its claim."""
        self.work(data.draw(st.sampled_from(self.waiting())), owner)

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), owner=owners)
    def deliver_again(self, data: Any, owner: str) -> None:
        """A message that was taken before comes twice."""
        self.claim_with(data.draw(st.sampled_from(self.taken)), owner)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def put_back(self, data: Any) -> None:
        """A worker that goes away returns what it took, perhaps too late."""
        item = data.draw(st.sampled_from(self.taken))
        before = self.store.get(item.run_id)
        seq = int(self.redis.hget(keys.run(item.run_id), "seq") or 0)
        allowed = before.state is S.PENDING and item.seq == seq and before.due_at is None
        assert self.when(allowed, lambda: self.store.put_back(item.run_id, item.seq)) is allowed

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def claim_again(self, data: Any) -> None:
        """The reply was lost, the same call is made again."""
        claim = self.any_claim(data)
        record = self.when(self.holds(claim), lambda: self.call_claim(claim.item, claim.nonce, claim.owner))
        # One that is Crashed stays so, for it was cancelled; else it is Pending again.
        if self.holds(claim) and self.state(claim.record.id) is S.RUNNING:
            assert (record.attempt, record.token) == (claim.record.attempt, claim.record.token)
        else:
            assert record is None

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def heartbeat(self, data: Any) -> None:
        claim = self.any_claim(data)
        before = self.store.get(claim.record.id)
        held = self.holds(claim)
        [answer] = self.when(held, lambda: beat(self.store, claim.record, owner=claim.owner))
        if held:
            assert answer.word == ("ok" if before.cancel_at is None else "cancel")
            assert self.state(claim.record.id) is S.RUNNING
        elif before.token == claim.record.token and before.state.is_final:
            assert answer.word == "ended"
        else:
            assert answer.word == "superseded"

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), state=outcomes, retry_delay_s=retries, times=st.integers(1, 2))
    def finish(self, data: Any, state: RunState, retry_delay_s: float | None, times: int) -> None:
        claim = self.any_claim(data)
        done = self.finish_with(claim, state, retry_delay_s)
        if times == 2:
            with self.unchanged():
                assert self.finish_with(claim, state, retry_delay_s) is done

    # -- beats ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), expired=st.booleans(), retry_delay_s=retries)
    def crash(self, data: Any, expired: bool, retry_delay_s: float | None) -> None:
        run_id = self.any_run(data)
        if expired:
            expire_lease(self.store, run_id)
        before = self.store.get(run_id)
        out = self.redis.zscore(keys.LEASES, run_id) == 0
        step = NextStep(Outcome(S.CRASHED, reason="silent"), retry_delay_s=retry_delay_s, retry_reason="retry")
        assert self.when(out, lambda: try_crash(self.store, run_id, before.token, step)) is out
        if out:
            again = retry_delay_s is not None and before.cancel_at is None
            assert self.state(run_id) is (S.PENDING if again else S.CRASHED)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def crash_an_old_attempt(self, data: Any) -> None:
        claim = self.any_claim(data)
        if self.store.get(claim.record.id).token != claim.record.token:
            with self.unchanged():
                assert not try_crash(self.store, claim.record.id, claim.record.token, NextStep(Outcome(S.CRASHED)))

    @rule(data=st.data())
    def publish_due(self, data: Any) -> None:
        due = [run_id for run_id in self.runs if self.store.get(run_id).due_at is not None]
        come = data.draw(st.lists(st.sampled_from(due), unique=True)) if due else []
        for run_id in come:
            make_due(self.store, run_id)
        assert self.store.publish_due()[0] == len(come)
        assert self.has_items(come)

    @rule()
    def publish_lost(self) -> None:
        before = [run_id for run_id in self.runs if self.has_items([run_id])]
        self.store.publish_lost(grace_s=0)
        assert self.has_items(before)
        empty = {name for name in self.lists() if not items(self.store, name)}
        for run_id in self.runs:
            record = self.store.get(run_id)
            if record.state is S.PENDING and record.due_at is None:
                assert self.list_of(run_id) not in empty

    @rule()
    def check_cancellations(self) -> None:
        asked = [run_id for run_id in self.runs if self.store.get(run_id).cancel_at is not None]
        assert self.store.check_cancellations() == sum(self.state(run_id) is S.RUNNING for run_id in asked)

    # -- accidents -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.waiting())
    @rule(data=st.data(), oldest=st.booleans())
    def drop(self, data: Any, oldest: bool) -> None:
        self.remove_item(data.draw(st.sampled_from(self.waiting())), oldest=oldest)

    # -- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def nothing_contradicts_itself(self) -> None:
        """States along the arrows, one lease exactly for each Running run, attempts that grow, indexes that agree."""
        assert inconsistencies(self.store) == []

    @invariant()
    def every_waiting_run_has_its_item(self) -> None:
        queued = self.queued()
        for run_id in self.runs:
            record = self.store.get(run_id)
            if record.state is not S.PENDING or record.due_at is not None:
                continue
            seq = int(self.redis.hget(keys.run(run_id), "seq") or 0)
            assert queued.get(run_id) == seq or self.itemless.get(run_id) == seq

    def teardown(self) -> None:
        """Once all lists are drained, every run that waits is published again, whatever was lost."""
        for name in self.lists():
            self.redis.delete(name)
        self.store.publish_lost(grace_s=0)
        waiting = [run_id for run_id in self.runs if self.state(run_id) is S.PENDING]
        assert self.has_items([run_id for run_id in waiting if self.store.get(run_id).due_at is None])
        assert inconsistencies(self.store) == []
        self.each_arrow_was_told()

    def each_arrow_was_told(self) -> None:
        """The change feed has each line of the histories once, in order."""
        told: dict[str, list[tuple[str, int, str]]] = {run_id: [] for run_id in self.runs}
        for change in self.store.changes(count=100_000):
            if change.kind == "run":
                fields = change.fields
                told[fields["id"]].append((fields["state"], int(fields["at"]), fields.get("worker", "")))
        for run_id in self.runs:
            assert told[run_id] == [(step.state.value, step.at, step.worker) for step in self.store.history(run_id)]

    # -- inside --------------------------------------------------------------------------------------------------

    def any_run(self, data: Any) -> str:
        return str(data.draw(st.sampled_from(self.runs)))

    def state(self, run_id: str) -> RunState:
        return self.store.get(run_id).state

    def any_claim(self, data: Any) -> Claim:
        at: int = data.draw(st.integers(0, len(self.claims) - 1))
        return self.claims[at]

    def holds(self, claim: Claim) -> bool:
        """Whether the claim's attempt still has the run, and has not reported its end."""
        now = self.store.get(claim.record.id)
        closed = int(self.redis.hget(keys.run(claim.record.id), "closed") or 0)
        return now.token == claim.record.token != closed and now.state in (S.RUNNING, S.CRASHED)

    def work(self, name: str, owner: str) -> None:
        item = self.remove_item(name, oldest=True)
        self.taken.append(item)
        self.claim_with(item, owner)

    def claim_with(self, item: Item, owner: str) -> None:
        """Claim, and judge the answer: only the newest item of a Pending run whose time has come starts it."""
        before = self.store.get(item.run_id)
        seq = int(self.redis.hget(keys.run(item.run_id), "seq") or 0)
        allowed = before.state is S.PENDING and item.seq == seq and before.due_at is None
        self.nonces += 1
        nonce = f"n{self.nonces}"
        record: Record | None = self.when(allowed, lambda: self.call_claim(item, nonce, owner))
        assert (record is not None) is allowed
        if record is None:
            return
        assert record.attempt == before.attempt + 1
        assert record.token > before.token
        self.claims.append(Claim(item, nonce, owner, record))

    def call_claim(self, item: Item, nonce: str, owner: str) -> Record | None:
        enlist_for(self.store, owner, item.run_id)
        return self.store.claim(item.run_id, item.seq, owner=owner, worker=owner, host="h", lease_s=30.0, nonce=nonce)[
            0
        ]

    def finish_with(self, claim: Claim, state: RunState, retry_delay_s: float | None) -> bool:
        if state in (S.FINISHED, S.KILLED):
            retry_delay_s = None
        before = self.store.get(claim.record.id)
        held = self.holds(claim)
        step = NextStep(Outcome(state, exit_code=3), retry_delay_s=retry_delay_s, retry_reason="retry")
        done = bool(self.when(held, lambda: self.store.finish(claim.record, step, owner=claim.owner)))
        if held:
            assert done
            # A pass that called the attempt Crashed before its worker did has decided about the retry too.
            decided = before.state is S.CRASHED is state
            again = retry_delay_s is not None and before.cancel_at is None and not decided
            assert self.state(claim.record.id) is (S.PENDING if again else state)
        return done

    def when(self, allowed: bool, call: Any) -> Any:
        """The call's answer; one that is not allowed must change nothing."""
        if allowed:
            return call()
        with self.unchanged():
            return call()

    def unchanged(self) -> Unchanged:
        return Unchanged(self.store)

    def lists(self) -> list[str]:
        return [item_list(queue, step) for queue in QUEUES for step in PRIORITIES.values()]

    def list_of(self, run_id: str) -> str:
        queue, priority = self.redis.hmget(keys.run(run_id), "queue", "priority")
        return item_list(queue.decode(), int(priority or PRIORITIES["medium"]))

    def waiting(self) -> list[str]:
        return [name for name in self.lists() if self.redis.llen(name)]

    def queued(self) -> dict[str, int]:
        """The newest item's number of each run that has one."""
        return {run_id: seq for name in self.lists() for run_id, seq in sorted(items(self.store, name))}

    def has_items(self, run_ids: list[str]) -> bool:
        queued = self.queued()
        return all(queued.get(run_id) == int(self.redis.hget(keys.run(run_id), "seq") or 0) for run_id in run_ids)

    def remove_item(self, name: str, *, oldest: bool) -> Item:
        element = self.redis.rpop(name) if oldest else self.redis.lpop(name)
        (run_id, seq), _, _ = json.loads(json.loads(element)["body"])
        self.itemless[run_id] = max(seq, self.itemless.get(run_id, 0))
        return Item(run_id, seq)


class Unchanged:
    """Fails when the runs, queues and indexes are others at its end than at its begin."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __enter__(self) -> None:
        self.before = snapshot(self.store)
        self.leases = redis_of(self.store.url).zrange(keys.LEASES, 0, -1, withscores=True)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            after = snapshot(self.store)
            changed = {name for name in after.keys() | self.before.keys() if after.get(name) != self.before.get(name)}
            assert not changed
            assert redis_of(self.store.url).zrange(keys.LEASES, 0, -1, withscores=True) == self.leases


def test_any_order_of_calls_keeps_every_run_true(own_store: Store) -> None:
    """X6, X7, P7, P19, P25, P36 in every mixture."""

    class OwnLaunch(Launch):
        def __init__(self) -> None:
            super().__init__(own_store)

    try_machine(OwnLaunch)
