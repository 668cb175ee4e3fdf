"""Whatever stands in Redis, and whatever a caller asks for: no call of a function keeps Redis from others for long."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launch_worker.store import keys
from launch_worker.store.redis.library import function_of
from launch_worker.store.store import Store
from tests.support.arrows import claim_next, create, running
from tests.support.redis_client import redis_of

#: Junk entries in each set and list, and a count that nothing could ever do.
JUNK, HUGE = 25_000, 2_000_000_000
#: Commands of Redis that one call may do: fewer than there are entries in one place.
MOST_COMMANDS = 15_000
FILL = """
local add = {zset = 'ZADD', set = 'SADD', hash = 'HSET', list = 'RPUSH'}
for first = 1, tonumber(ARGV[1]), 1000 do
  local words = {}
  for at = first, first + 999 do
    if ARGV[2] == 'zset' or ARGV[2] == 'hash' then words[#words + 1] = at end
    words[#words + 1] = 'x' .. at
  end
  redis.call(add[ARGV[2]], KEYS[1], unpack(words))
end
"""
SWEEP = "sweep1"


@pytest.fixture(autouse=True)
def consistent() -> None:
    """Records and indexes are damaged here on purpose."""


@pytest.fixture
def crowded(store: Store) -> Any:
    """A Redis with junk in all that functions loop over, which a producer may write."""
    redis = redis_of(store.url)
    # As a worker that starts: it loads the functions.
    store.heal([])
    for kind, names in {
        "zset": (
            *("launch:due", "launch:expiring", "launch:leases", "launch:cancels", "launch:ended", "launch:archived"),
            *("launch:schedules", "launch:sweeps", "launch:array:open", "launch:dispatched:default\6\x166"),
            *("launch:waiters:x1", f"launch:sweep:{SWEEP}:runs", "launch:parked:queue:default/default"),
        ),
        "set": (
            *("launch:queues", "launch:settle", "launch:halted", "launch:sweeps:live", f"launch:sweep:{SWEEP}:live"),
            *("launch:groups:default", "launch:shapes:default", "launch:parked:queue:default"),
        ),
        "list": ("launch:array:b1:runs", "default"),
        "hash": (f"launch:sweep:{SWEEP}:trials",),
    }.items():
        for name in names:
            redis.eval(FILL, 1, name, JUNK, kind)
    redis.hset(f"launch:sweep:{SWEEP}", mapping={"state": "STOPPED", "made": HUGE, "cap": HUGE, "ended_at": 1})
    redis.hset("launch:array:b1", mapping={"size": HUGE, "made": HUGE - 1, "Pending": HUGE})
    return redis


def commands_of(redis: Any, script: str, *arguments: Any) -> int:
    """The number of commands that one call does; its answer, which may be a refusal, does not matter."""
    redis.config_resetstat()
    redis.execute_command("FCALL", function_of(script), 0, *arguments, NEVER_DECODE=True)
    return sum(said["calls"] for said in redis.info("commandstats").values())


CALLS: dict[str, tuple[Any, ...]] = {
    "publish_due": (HUGE, ""),
    "publish_lost": (0, HUGE, ""),
    "retire": (0, HUGE, 0),
    "retire_sweeps": (0, HUGE),
    "stale": (HUGE, "state", "token"),
    "check_cancellations": (HUGE,),
    "cancel_group": ("b1", "", "x", 0, HUGE, ""),
    "retry_group": ("b1", "", "0", "x", 0, HUGE, ""),
    "steer_sweep": (SWEEP, "cancel", "x", ""),
    "settle_sweep": (SWEEP,),
    "wake": ("queue:default", HUGE),
    "heartbeat": (
        *("w1", "w1@h", 30_000_000, 30_000_000, "{}"),
        json.dumps(
            {"owner": "w1", "queues": ["default"], "slots": 2, "gpus": 0, "cpus": 0, "memory": 0, "version": HUGE}
            | {"total": {"gpus": 0, "cpus": 0, "memory": 0}, "backfill_us": 1, "prefetch_us": HUGE, "before_us": 0}
        ),
        *(1, "default"),
    ),
    "goodbye": ("w1", "0", "default"),
    "take": (0, "default"),
    "lend_notices": ("ops", "me", 1_000_000, HUGE),
    "renew_upload": ("0" * 64, 1_000_000),
}


def test_a_call_does_a_bounded_number_of_commands_however_much_there_is(crowded: Any) -> None:
    crowded.set(keys.upload("0" * 64), HUGE)
    done = {script: commands_of(crowded, script, *arguments) for script, arguments in CALLS.items()}
    assert {script: count for script, count in done.items() if not 0 < count < MOST_COMMANDS} == {}


@pytest.mark.parametrize(
    "field", ["attempt", "seq", "token", "needs", "version", "limit_key", "expires_us", "max_fails"]
)
def test_no_number_in_a_record_is_what_a_loop_counts_to(store: Store, field: str) -> None:
    redis = redis_of(store.url)
    value = f"{HUGE}:{HUGE}:{HUGE}" if field == "needs" else HUGE
    waiting, ended = create(store), running(store).id
    for run_id in (waiting, ended):
        redis.hset(keys.run(run_id), field, value)
    redis.hset(keys.run(ended), "state", "Finished")
    redis.zadd("launch:ended", {ended: 1})
    assert commands_of(redis, "retire", 0, 200, 0) < 200
    assert commands_of(redis, "delete", waiting, "x", "me", 1_000_000, "") < 200
    waiting = create(store)
    redis.hset(keys.run(waiting), field, value)
    claim_next(store, *keys.queue_lists("default"))


def test_a_long_text_in_a_record_is_not_a_list_of_as_many_groups(store: Store) -> None:
    redis = redis_of(store.url)
    run_id = create(store)
    redis.hset(
        keys.run(run_id),
        mapping={"allowances": "a " * 100_000, "waits_for": json.dumps(dict.fromkeys(map(str, range(40_000)), "any"))},
    )
    assert commands_of(redis, "cancel", run_id, "", "x", 0, "") < MOST_COMMANDS


def test_queues_are_bounded_where_no_admin_makes_them(store: Store) -> None:
    redis = redis_of(store.url)
    redis.eval(FILL, 1, "launch:queues", 10_000, "set")
    assert create(store, queue="x7")
    with pytest.raises(Exception, match="there are 10000 queues already, and queue new is none of them"):
        create(store, queue="new")
    store.configure("queue", "new", {"limit": "5"})
    assert create(store, queue="new")


def test_a_queue_that_nobody_uses_leaves_the_list(store: Store) -> None:
    redis = redis_of(store.url)
    used, configured, consumed = create(store, queue="used"), "configured", "consumed"
    store.configure("queue", configured, {"limit": "5"})
    store.heartbeat([], owner="o", worker="w@h", lease_s=30, gone_s=30, description={}, queues=[consumed])
    redis.sadd("launch:queues", "left", consumed)
    store.retire(retention_s=3600)
    assert redis.smembers("launch:queues") == {b"used", b"configured", b"consumed"}
    # For a day nothing was in it.
    store.cancel(used, reason="x")
    store.retire(retention_s=3600)
    assert redis.sismember("launch:queues", "used")
    redis.zadd("launch:runs:queue:used", {used: 1})
    store.retire(retention_s=3600)
    assert not redis.sismember("launch:queues", "used")
