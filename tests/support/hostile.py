"""A system of which every text is hostile, as whoever can write to its Redis may make it."""

from __future__ import annotations

import json

from launch_worker import submit
from launch_worker.api.client import Api
from launch_worker.store import keys
from tests.support.redis_client import redis_of

#: JSON that is nested more deeply than any reader takes.
DEEP = "[" * 3000 + "]" * 3000


def sweep_of(evil: str) -> dict[str, object]:
    """The configuration of a sweep with this text for a parameter."""
    return {"method": "grid", "program": "x.py", "parameters": {"x": {"values": [evil, 1]}}}


def fill(api: Api, evil: str) -> dict[str, str]:
    """Make a run, a worker, queues, a pool, a schedule and a sweep of which every text is this one; their ids."""
    redis = redis_of(api.store.url)
    evil_map = {evil: evil, "list": [evil], "lone": "\ud800"}
    run = submit(["true"], api=api)
    spec = {"command": [evil], "env": {evil: evil}, "author": evil, "image": evil, "config": evil_map, evil: evil_map}
    fields = {
        **dict.fromkeys(("name", "project", "queue", "reason", "phase", "message", "signal", "worker", "owner"), evil),
        **dict.fromkeys(("host", "late_exit", "commit", "array", "sweep", "concurrency_key"), evil),
        "spec": json.dumps(spec),
        "tags": json.dumps([evil]),
        "gpus": json.dumps([evil]),
        "summary": json.dumps(evil_map),
        "waits_for": json.dumps({evil: evil}),
        "phases": json.dumps([{"name": evil, "at": 1, "us": 2}]),
        "files": json.dumps({name: {"size": len(evil.encode()), "at": 1} for name in (evil, "kept")}),
        **dict.fromkeys(("user", "log_url", "avoid", "retried", "allowances", "needs", "limit_key", "cause"), evil),
        "usage": json.dumps({evil: evil, "peak_memory": evil, "gpus": [{"name": evil}]}),
        "checkpoint": json.dumps({"attempt": 1, "number": 1, "label": evil, "at": 1, "files": 1, "bytes": 1, evil: 1}),
        "outputs": json.dumps({"1": {"state": evil, "files": 1, "bytes": 1, "why": evil}, evil: evil}),
        "attempt": "1",
        "token": "1",
        "state": "Crashed",
    }
    redis.hset(keys.run(run.id), mapping=fields)
    redis.hset(keys.files(run.id), mapping={evil: evil, "kept": evil})
    redis.xadd(keys.log(run.id, 1), {"o": "0", "d": evil})
    redis.rpush(keys.history(run.id), json.dumps({"state": "Crashed", "at": 1, "worker": evil, "reason": evil}))
    redis.zrem(keys.runs_by("state", "Pending"), run.id)
    redis.zadd(keys.runs_by("state", "Crashed"), {run.id: 1})
    redis.rpush(keys.metrics(run.id), json.dumps({evil: 1, "loss": 0.5, "_step": 1, "x": evil}))
    redis.hset(keys.usage(run.id), mapping={"1": json.dumps({"samples": [[evil]], evil: evil}), evil: evil})
    redis.hset(
        keys.group(run.id),
        mapping=dict.fromkeys(("name", "queue", "project", "author"), evil) | {"made": "1", "size": "1"},
    )
    redis.rpush(keys.group_runs(run.id), run.id)
    waiting = submit(["true"], queue="waiting", api=api)
    redis.hset(keys.run(waiting.id), mapping={"name": evil, "reason": evil})
    device = {"id": evil, "name": evil, "memory": 1, "runs": [evil], "use": None}
    said = {
        **dict.fromkeys(("worker", "owner", "host", "state", "problem", "status", "entity"), evil),
        "pid": 1,
        "slots": 1,
        "running": 0,
        "queues": [evil],
        "devices": [device],
        "cpus": {"total": 1, "free": 1},
        "memory": {"total": 1, "free": 1},
    }
    redis.set(keys.worker("evil"), json.dumps(said))
    redis.set(keys.worker("other"), DEEP)
    redis.zadd(keys.WORKERS, {"evil": 9e15, "other": 9e15})
    for queue in (evil, "waiting"):
        redis.sadd(keys.QUEUES, queue)
        config = {"description": evil, "defaults": {"env": {evil: evil}}, "container": {"image": evil}}
        redis.hset(keys.queue(queue), mapping={"config": json.dumps(config), "pool": evil, "limit": evil})
    redis.sadd(keys.POOLS, evil, "lab")
    for pool in (evil, "lab"):
        redis.hset(keys.pool(pool), mapping={"config": json.dumps({"description": evil, evil: evil})})
        redis.zadd(keys.pool_queues(pool), {evil: 1})
    given = {"command": [evil], "queue": evil, "env": {evil: evil}, evil: evil_map}
    kept = {"name": "nightly", "cron": "0 3 * * *", "timezone": "UTC", "missed": "skip", "made_at": 1, "given": given}
    for name, text in (("nightly", json.dumps(kept)), (evil, json.dumps(kept)), ("deep", DEEP)):
        redis.set(keys.schedule(name), text)
        redis.zadd(keys.SCHEDULES, {name: 9e15})
    config_json = json.dumps(sweep_of(evil))
    for name, text in (("01sweep", config_json), ("01deep", DEEP)):
        swept = {**dict.fromkeys(("state", "name", "reason", "problem", "given"), evil), "config": text}
        redis.hset(keys.sweep(name), mapping=swept | {"created_at": "1", "made": "1", "workers": "1"})
        redis.zadd(keys.SWEEPS, {name: 1})
    redis.rpush(keys.sweep_part("01sweep", "runs"), run.id)
    redis.lpush(keys.REFUSED, json.dumps({"queue": evil, "reason": evil, "item": evil}), DEEP)
    redis.set(keys.deleted("gone"), json.dumps({"by": evil, "at": evil}))
    redis.hset(keys.PASSES, evil, 1)
    for name in (f"user:{evil}", "project:lab"):
        redis.sadd(keys.ALLOWANCES, name)
        redis.hset(keys.allowance(name), mapping=dict.fromkeys(("waiting", "running", "gpus"), evil))
    redis.sadd(keys.OUTBOX, evil)
    redis.zadd(keys.outbox(evil), {evil: 1})
    redis.hset(keys.outbox(evil, "notices"), evil, json.dumps({"name": evil, "at": evil, evil: evil}))
    redis.hset(keys.outbox(evil, "state"), mapping=dict.fromkeys(("words", "holder", "until", "tries"), evil))
    return {"run": run.id, "waiting": waiting.id}
