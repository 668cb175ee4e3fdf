"""What a run costs Redis from submit to end, in counts: a change that adds a round trip or a script fails here.

No times: those are in bench/. A limit is a little above what is needed today; lower it with every saving.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.api.client import Api
from launch_worker.ids import new_run_id
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.model.usage import KeptUsage, Usage
from launch_worker.model.worker import FreeCapacity
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.counts import BOUNDS, NO_BOUND
from launch_worker.store.redis.client import text
from launch_worker.store.store import Store
from launch_worker.store.submit import Announced, New
from tests.conftest import wait_until
from tests.support.arrows import create_many, enlist
from tests.support.redis_client import redis_of

#: From submit to end of a brief run, the item's own BRPOP included: submit, pop, claim, finish.
ROUND_TRIPS = 4
SCRIPTS = 3
#: The same of one that a slot takes by itself: submit, claim, finish.
ROUND_TRIPS_IN_TURN = 3
#: More for a run that lasts: started.
OF_LASTING = 1
#: Commands that the scripts give for one run, by what they are for.
IN_SCRIPTS = {"submit": 13, "claim": 18, "started": 2, "finish": 15, "heartbeat": 9}
#: The same of the end of a run and the next claim of its slot, in one call.
IN_FINISH_AND_CLAIM = 33
#: Commands that the heartbeat of a worker gives which has no runs and nothing new to say.
IN_IDLE_HEARTBEAT = 3
#: More for a run of a group: two counts at a claim and an end each, and where no other run is Running a look at all
#: counts, and one by one whether anybody waits; at a submit the group's record, its index, and the list of groups that
#: get more runs.
OF_GROUPED = {"submit": 4, "claim": 2, "finish": 6}
#: Bytes of a run's changes (586, on Redis 7.0).
FOLLOWED_BYTES = 640
#: More for each run of a worker that is renewed.
IN_RENEWAL = 2
#: More for each run that is submitted together with others, beside what these give once.
IN_BATCH = 2
#: Runs that share the fixed part of an index.
MANY = 200


class Kept(NamedTuple):
    """What is in Redis, as every server counts it, and the memory that this server takes for it."""

    keys: float
    #: Of hashes, lists, sets.
    entries: float
    #: Names and values, without what the server adds to each.
    payload: float
    memory: float


#: All of a run that waits: record, history, item, entries in indexes. Servers differ in what they add: the memory is
#: that of Redis 7.0, which takes the most (1,673 bytes; Redis 8.2: 1,532, Valkey 9.1: 1,429).
QUEUED = Kept(keys=1, entries=13, payload=1090, memory=1700)
#: The same with a spec of more than 64 bytes; and where Redis keeps such a record as a table, as it does by default.
QUEUED_LONG = Kept(keys=1, entries=13, payload=1150, memory=1760)
QUEUED_LONG_BY_DEFAULT = QUEUED_LONG._replace(memory=2150)
#: All of a run that has finished, with its share of the counters of its queue.
ENDED = Kept(keys=2.1, entries=30.1, payload=750, memory=1530)

FREE = FreeCapacity(
    "w", ("default",), slots=8, gpus=0, cpus=8000, memory=1 << 34, total=(0, 8000, 1 << 34), backfill_s=300
)
SPEC = RunSpec(command=("python", "train.py", "--lr", "0.1"))


class Counter:
    """Round trips of all clients in this process, and commands inside the server."""

    def __init__(self, store: Store) -> None:
        self._redis: Any = redis.Redis.from_url(store.url)
        self.trips = 0
        self.calls = self._calls()

    def _calls(self) -> dict[str, int]:
        stats = self._redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}

    def restart(self) -> None:
        self.calls = self._calls()
        self.trips = 0

    def by_name(self) -> dict[str, int]:
        """Commands since the last `restart`."""
        calls = self._calls()
        found = {name: count - self.calls.get(name, 0) for name, count in calls.items()}
        return {name: count for name, count in found.items() if count and name != "info"}


@pytest.fixture
def counter(store: Store, monkeypatch: pytest.MonkeyPatch) -> Counter:
    made = Counter(store)
    send = redis.Connection.send_packed_command

    def counted(connection: Any, command: Any, check_health: bool = True) -> None:
        made.trips += 1
        send(connection, command, check_health=check_health)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(redis.Connection, "send_packed_command", counted)
    return made


@pytest.fixture
def agent(api: Api, tmp_path: Path) -> Iterator[LaunchAgent]:
    """A worker's agent whose heartbeats do not come between."""
    settings = Settings.from_env(
        {"LAUNCH_WORK_DIR": str(tmp_path), "LAUNCH_HEARTBEAT_S": "1h", "LAUNCH_LEASE_S": "3h", "LAUNCH_PASS_S": "1h"}
        | {"LAUNCH_ALLOW_ROOT": "1"},
        redis_url=api.settings.redis_url,
    )
    made = LaunchAgent(Api(settings=settings), {"queues": ["default"], "max_jobs": 2})
    made.start()
    wait_until(lambda: len(api.store.workers()) == 1)
    # Its first passes, too.
    wait_until(lambda: "retire_runs" in api.store.pass_ages_s())
    wait_until(lambda: all(thread.name != "launch-maintenance" for thread in threading.enumerate()))
    yield made
    made.stop()


def carry_out(store: Store, agent: LaunchAgent) -> None:
    """Take the next item as kombu does, and do what it says."""
    _, item = redis_of(store.url).brpop(keys.queue_lists("default"))
    run_id = text(item).split('"correlation_id":"')[1].split('"')[0]
    ended = agent.run(run_id, 1)
    assert ended is not None
    assert ended[0] is RunState.FINISHED, ended


def carry_out_next(_: Store, agent: LaunchAgent) -> None:
    """The same as a slot does it that has come free."""
    attempt = agent.claim_next(["default"], slot="1")
    assert attempt is not None
    assert agent.see_to_its_end(attempt) is not None


@pytest.mark.parametrize(("how", "trips"), [(carry_out, ROUND_TRIPS), (carry_out_next, ROUND_TRIPS_IN_TURN)])
def test_a_run_takes_few_round_trips_and_scripts(
    api: Api, store: Store, agent: LaunchAgent, counter: Counter, how: Callable[..., None], trips: int
) -> None:
    store.started("", 0, pid=0)  # of a job that lasts only, so the first one may not call it
    found = []
    for _ in range(6):  # the first one loads the library; and a busy machine may make one last
        counter.restart()
        api.submit(RunSpec(command=("true",)))
        how(store, agent)
        found.append((counter.trips, counter.by_name()["fcall"]))
    assert min(found[1:]) <= (trips, SCRIPTS)
    assert max(found[1:]) <= (trips + OF_LASTING, SCRIPTS + OF_LASTING)


def test_a_slot_that_goes_on_takes_one_round_trip_from_end_to_end(
    api: Api, store: Store, agent: LaunchAgent, counter: Counter
) -> None:
    store.started("", 0, pid=0)  # of a job that lasts only, so the first one may not call it
    begin_counters(store)
    for _ in range(7):
        api.submit(RunSpec(command=("true",)))
    attempt = agent.claim_next(["default"], slot="1")
    found = []
    for _ in range(6):  # the first one loads the library; and a busy machine may make one last
        assert attempt is not None
        after = agent.next_claim(lambda: ["default"], slot="1")
        attempt.finish = after.finish
        counter.restart()
        agent.see_to_its_end(attempt)
        attempt = after.take_up()
        found.append((counter.trips, counter.by_name()["fcall"], total(counter)))
    if attempt is not None:
        agent.see_to_its_end(attempt)
    trips, scripts, commands = min(found[1:])
    assert (trips, scripts) == (1, 1)
    assert commands <= IN_FINISH_AND_CLAIM


@pytest.mark.parametrize("followed", [False, True])
def test_a_script_gives_few_commands(store: Store, counter: Counter, followed: bool) -> None:
    """No more while somebody follows the change feed: an entry is in the place of the question whether anybody does."""
    found: dict[str, dict[str, int]] = {}
    enlist(store, "w", "default")
    begin_counters(store)
    if followed:
        store.want_changes()
    for run_id in (new_run_id(), new_run_id()):  # the first one loads the library
        counter.restart()
        store.create(run_id, SPEC)
        found["submit"] = counter.by_name()
        counter.restart()
        record, _ = store.claim(run_id, 1, owner="w", worker="w", host="h", lease_s=30, free=FREE)
        assert record is not None
        found["claim"] = counter.by_name()
        counter.restart()
        store.started(run_id, record.token, pid=1)
        found["started"] = counter.by_name()
        counter.restart()
        assert store.finish(record, NextStep(Outcome(RunState.FINISHED, exit_code=0)), owner="w", free=FREE)
        found["finish"] = counter.by_name()
        counter.restart()
        store.heartbeat([], owner="w", worker="w", lease_s=30, gone_s=30, description={}, queues=["default"], free=FREE)
        found["heartbeat"] = counter.by_name()
    counts = {step: sum(count for name, count in by.items() if name != "fcall") for step, by in found.items()}
    too_many = {step: found[step] for step, count in counts.items() if count > IN_SCRIPTS[step]}
    assert not too_many, counts
    assert sum(by.get("xadd", 0) for by in found.values()) == (3 if followed else 0)


def test_a_run_of_a_group_costs_the_same_whatever_the_size_of_the_group(store: Store, counter: Counter) -> None:
    enlist(store, "w", "default")
    begin_counters(store)
    found: dict[int, dict[str, int]] = {}
    for at, size in enumerate((2, 2, 10_000)):  # the first one loads the library
        ids = [f"{20_000 * at + number:015}" for number in range(size)]
        first = New(ids[0], SPEC, group=Announced(f"b{ids[0]}", f"b{ids[0]}", size))
        for start in range(1, size, 1000):
            create_many(store, [first._replace(run_id=run_id) for run_id in ids[start : start + 1000]])
        costs = found[size] = {}
        counter.restart()
        create_many(store, [first])
        costs["submit"] = total(counter)
        counter.restart()
        record, _ = store.claim(ids[0], 1, owner="w", worker="w", host="h", lease_s=30, free=FREE)
        assert record is not None
        costs["claim"] = total(counter)
        counter.restart()
        assert store.finish(record, NextStep(Outcome(RunState.FINISHED, exit_code=0)), owner="w", free=FREE)
        costs["finish"] = total(counter)
        group = store.group(f"b{ids[0]}")
        assert group is not None
        assert (group.counts["Finished"], group.counts["Pending"]) == (1, size - 1)
    assert found[2] == found[10_000]
    assert not {step: count for step, count in found[2].items() if count > IN_SCRIPTS[step] + OF_GROUPED[step]}, found


def begin_counters(store: Store) -> None:
    """Have the queue all its counters: to begin one costs a command more, and how long a run waits decides which."""
    buckets = (*BOUNDS, NO_BOUND)
    names = ["submitted", "wait:us", "ran:Finished", *(f"wait:{bound}" for bound in buckets)]
    names += [f"end:Finished:{bound}" for bound in buckets]
    redis_of(store.url).hset(keys.counts("default"), mapping=dict.fromkeys(names, 1))


def total(counter: Counter) -> int:
    """Commands that scripts gave since the last `restart`."""
    return sum(count for name, count in counter.by_name().items() if name != "fcall")


def test_a_runs_changes_take_few_bytes(store: Store, redis_client: Any) -> None:
    enlist(store, "w", "default")
    store.want_changes()
    before = redis_client.memory_usage(keys.CHANGES, samples=0)
    spec = replace(SPEC, cwd="/home/someone/experiments/iris", author="someone@host", project="me/iris")
    for number in range(MANY):
        store.create(f"{number:015}", spec)
        record, _ = store.claim(f"{number:015}", 1, owner="w", worker="w@host", host="host", lease_s=30)
        assert record is not None
        store.finish(record, NextStep(Outcome(RunState.FINISHED, reason="exit code 0", exit_code=0)))
    assert len(store.changes(count=10 * MANY)) == 3 * MANY + 1
    assert (redis_client.memory_usage(keys.CHANGES, samples=0) - before) / MANY <= FOLLOWED_BYTES


def test_a_heartbeat_renews_all_runs_in_one_round_trip(store: Store, counter: Counter) -> None:
    runs = []
    enlist(store, "w", "default")
    for number in range(100):
        store.create(f"{number:015}", SPEC)
        record, _ = store.claim(f"{number:015}", 1, owner="w", worker="w", host="h", lease_s=30)
        assert record is not None
        runs.append((record.id, record.token, record.attempt))
    for _ in range(2):
        counter.restart()
        store.heartbeat(runs, owner="w", worker="w", lease_s=30, gone_s=30, description={}, queues=["default"])
    assert counter.trips == 1
    assert sum(counter.by_name().values()) <= 100 * IN_RENEWAL + IN_SCRIPTS["heartbeat"]


def test_an_idle_worker_without_news_gives_few_commands(store: Store, counter: Counter) -> None:
    enlist(store, "w", "default")
    descriptions: tuple[dict[str, Any] | None, ...] = ({}, None, None)
    for description in descriptions:
        counter.restart()
        who: dict[str, Any] = {"owner": "w", "worker": "w", "lease_s": 30, "gone_s": 30}
        store.heartbeat([], description=description, queues=["default"], free=FREE, **who)
    assert total(counter) <= IN_IDLE_HEARTBEAT


def test_a_run_takes_few_bytes(store: Store, redis_client: Any) -> None:
    store.create("first", SPEC)
    enlist(store, "w", "default")
    before = kept(store)
    for number in range(MANY):
        store.create(f"{number:015}", SPEC)
    assert not above(QUEUED, before, kept(store))
    assert redis_client.object("encoding", keys.run(f"{1:015}")) == b"listpack"
    for number in range(MANY):
        store.take(keys.queue_lists("default"), before_us=1 << 53)
        record, _ = store.claim(f"{number:015}", 1, owner="w", worker="w@host", host="host", lease_s=30)
        assert record is not None
        store.started(record.id, record.token, pid=12345)
        used = KeptUsage(Usage(cpu_s=0.123, wall_s=0.234, peak_memory=123 << 20).to_text())
        store.finish(record, NextStep(Outcome(RunState.FINISHED, reason="exit code 0", exit_code=0)), used=used)
    assert not above(ENDED, before, kept(store))


@pytest.mark.parametrize(
    ("packed", "encoding", "limit"),
    [(512, b"listpack", QUEUED_LONG), (64, b"hashtable", QUEUED_LONG_BY_DEFAULT)],
)
def test_a_run_with_a_folder_and_an_author_takes_little_more(
    store: Store, redis_client: Any, packed: int, encoding: bytes, limit: Kept
) -> None:
    known = redis_client.config_get("hash-max-listpack-value")
    assert set(known.values()) == {"512"}, "as it is shipped"
    redis_client.config_set("hash-max-listpack-value", packed)
    try:
        spec = replace(SPEC, cwd="/home/someone/experiments/iris", author="someone@host")
        store.create("first", spec)
        before = kept(store)
        for number in range(MANY):
            store.create(f"{number:015}", spec)
        assert not above(limit, before, kept(store))
        assert redis_client.object("encoding", keys.run(f"{1:015}")) == encoding
    finally:
        redis_client.config_set("hash-max-listpack-value", 512)


def test_many_runs_are_submitted_by_few_commands_each(store: Store, counter: Counter) -> None:
    create_many(store, [New("first", SPEC)])  # connects
    counter.restart()
    create_many(store, [New(f"{number:015}", SPEC) for number in range(100)])
    assert counter.trips == 1
    assert sum(counter.by_name().values()) <= 100 * IN_BATCH + IN_SCRIPTS["submit"]


def above(limit: Kept, before: Kept, after: Kept) -> dict[str, float]:
    """What each of MANY runs takes more than it may."""
    each = Kept(*((new - old) / MANY for new, old in zip(after, before, strict=True)))
    return {name: value for name, value in each._asdict().items() if value > getattr(limit, name)}


def kept(store: Store) -> Kept:
    redis: Any = redis_of(store.url)
    readers: dict[bytes, Callable[[bytes], list[bytes]]] = {
        b"hash": lambda key: [word for pair in redis.hgetall(key).items() for word in pair],
        # A score takes eight bytes.
        b"zset": lambda key: [member + bytes(8) for member in redis.zrange(key, 0, -1)],
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"set": lambda key: list(redis.smembers(key)),
        b"string": lambda key: [redis.get(key)],
    }
    found = list(redis.scan_iter(count=1000))
    entries = payload = memory = 0
    for key in found:
        kind = redis.type(key)
        words = readers[kind](key)
        entries += len(words) // 2 if kind == b"hash" else len(words)
        payload += len(key) + sum(map(len, words))
        memory += redis.memory_usage(key, samples=0)
    return Kept(len(found), entries, payload, memory)
