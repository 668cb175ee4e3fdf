"""What must hold of everything that the store keeps, whatever was done to it."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from typing import Any

from launch_worker.model.group import KINDS
from launch_worker.model.states import ARROWS, RunState
from launch_worker.store import keys
from launch_worker.store.redis.client import text
from launch_worker.store.store import Store
from tests.support.redis_client import redis_of


def inconsistencies(store: Store) -> list[str]:
    """What contradicts itself: indexes against hashes, histories against the arrows; empty when all is well."""
    redis = redis_of(store.url)
    names = [text(key) for key in redis.keys("launch:*")]
    ids = sorted(name.split(":")[2] for name in names if name.startswith("launch:run:") and name.count(":") == 2)
    pipe = redis.pipeline(transaction=False)
    for run_id in ids:
        pipe.hgetall(keys.run(run_id))
        pipe.lrange(keys.history(run_id), 0, -1)
    replies = pipe.execute()
    runs = {run_id: _texts(replies[2 * at]) for at, run_id in enumerate(ids)}
    archived = {text(run_id) for run_id in redis.zrange("launch:archived", 0, -1)}
    found = []
    expected: dict[str, dict[str, float]] = {}

    def expect(index: str, run_id: str, score: str) -> None:
        expected.setdefault(index, {})[run_id] = float(score)

    for at, run_id in enumerate(ids):
        run = runs[run_id]
        state = RunState(run["state"])
        expect(keys.RUNS, run_id, run["created_at"])
        expect(keys.runs_by("queue", run["queue"]), run_id, run["created_at"])
        expect(keys.runs_by("state", run["state"]), run_id, run["created_at"])
        if run.get("project"):
            expect(keys.runs_by("project", run["project"]), run_id, run["created_at"])
        if run.get("sweep"):
            expect(keys.runs_by("sweep", run["sweep"]), run_id, run["created_at"])
        if state.is_final:
            expect("launch:archived" if run_id in archived else "launch:ended", run_id, run["ended_at"])
        elif "ended_at" in run:
            found.append(f"{run_id} is {state} and has an end")
        if "due_at" in run:
            expect(keys.DUE, run_id, run["due_at"])
            if state is not RunState.PENDING:
                found.append(f"{run_id} is {state} and due")
        if state is RunState.RUNNING and "cancel_at" in run:
            expect("launch:cancels", run_id, run["cancel_at"])
        found += _history_faults(run_id, run, [json.loads(line) for line in replies[2 * at + 1]])

    indexes = [
        name
        for name in names
        if name.startswith(("launch:runs", "launch:ended", "launch:archived", "launch:due", "launch:cancels"))
    ]
    for index in sorted({*indexes, *expected}):
        actual = {text(member): score for member, score in redis.zrange(index, 0, -1, withscores=True)}
        if actual != expected.get(index, {}):
            found.append(f"{index} is {actual}, but the records say {expected.get(index, {})}")
    found += _group_faults(redis, runs, names)
    leases = {text(member) for member in redis.zrange(keys.LEASES, 0, -1)}
    running = {run_id for run_id, run in runs.items() if run["state"] == "Running"}
    if leases != running:
        found.append(f"leases of {leases}, but running are {running}")
    found += _waiting_faults(redis, runs, names)
    counts = {state: sum(run["state"] == state for run in runs.values()) for state in RunState}
    if store.counts() != counts:
        found.append(f"counts are {store.counts()}, but the records say {counts}")
    return found


def _group_faults(redis: Any, runs: dict[str, dict[str, str]], names: list[str]) -> list[str]:
    """A group knows how many of its runs are in which state; those that are gone, or not made yet, are counted too."""
    kept: dict[str, Counter[str]] = {}
    for run in runs.values():
        never = run["state"] in ("Killed", "Failed") and not int(run.get("attempt", 0))
        kind = "Never" if never else run["state"]
        if run.get("array"):
            kept.setdefault(keys.group(run["array"]), Counter())[kind] += 1
        elif run.get("sweep") and keys.sweep(run["sweep"]) in names:
            kept.setdefault(keys.sweep(run["sweep"]), Counter())[kind] += 1
    found = []
    for run_id, run in runs.items():
        if run.get("array") and redis.lpos(keys.group_runs(run["array"]), run_id) is None:
            found.append(f"{run_id} is not among the runs of its group {run['array']}")
    groups = {name for name in names if re.fullmatch(r"launch:(array|sweep):[^:]+", name)} - {"launch:array:open"}
    for key in {*kept, *groups}:
        fields = _texts(redis.hgetall(key))
        counts = Counter({kind: int(fields.get(kind, 0)) for kind in KINDS})
        size = int(fields.get("size") or fields.get("made") or 0)
        is_open = "size" in fields and "made" in fields and "sealed" not in fields
        unmade = size - int(fields["made"]) if is_open else 0
        others = counts - kept.get(key, Counter())
        elsewhere = unmade + int(fields.get("gone", 0)) + int(fields.get("missing", 0))
        if counts.total() != size or min(counts.values()) < 0 or counts < kept.get(key, Counter()):
            found.append(f"{key} has {fields}, but the records say {kept.get(key)}")
        elif key.startswith("launch:array:") and others.total() != elsewhere:
            found.append(f"{key} has {fields}, of which {dict(others)} are not among the records {kept.get(key)}")
        if is_open != (redis.zscore("launch:array:open", key.removeprefix("launch:array:")) is not None):
            found.append(f"{key} has {fields}, and is among the open ones, or should be")
    return found


def _waiting_faults(redis: Any, runs: dict[str, dict[str, str]], names: list[str]) -> list[str]:
    """A Pending run is in one place, a Running one counts for its limits, and nothing else is anywhere."""
    wanted: dict[str, set[str]] = {}

    def expect(key: str, member: str) -> None:
        wanted.setdefault(key, set()).add(member)

    for run_id, run in runs.items():
        queue = run["queue"]
        for name in run.get("allowances", "").split():
            if run["state"] == "Running":
                expect(f"launch:places:allowance:{name}", run_id)
                for gpu in range(int((run.get("needs") or "0").partition(":")[0])):
                    expect(f"launch:places:gpus:{name}", f"{run_id}/{gpu + 1}")
            elif run["state"] == "Pending":
                expect(f"launch:places:waiting:{name}", run_id)
        if run["state"] == "Running":
            expect(f"launch:places:queue:{queue}", run_id)
            if run.get("concurrency_key"):
                expect(f"launch:places:key:{run['concurrency_key']}", run_id)
            if run.get("array_limit"):
                expect(f"launch:places:array:{run['array']}", run_id)
        if run["state"] != "Pending":
            for field in ("parked", "due_at", "list", "waits_for"):
                if field in run:
                    wanted.setdefault(f"{run_id} is {run['state']} and has {field}", {""})
            continue
        expect(f"launch:line:{queue}", run_id)
        for other in json.loads(run.get("waits_for") or "{}"):
            expect(f"launch:waiters:{other}", run_id)
        if run.get("parked"):
            group, line = run["parked"].split("/", 1)
            expect(f"launch:parked:{run['parked']}", run_id)
            expect(f"launch:parked:{group}", line)
            if group.startswith("needs:"):
                expect(f"launch:shapes:{queue}", group.removeprefix("needs:"))
            elif not group.startswith("version:"):
                expect(f"launch:groups:{queue}", group)
        elif "waits_for" not in run and ("due_at" not in run or "list" in run):
            expect(f"launch:dispatched:{run.get('list') or item_list(queue, run.get('priority', 6))}", run_id)
    kinds = ("places:", "line:", "waiters:", "parked:", "shapes:", "groups:", "dispatched:")
    found = []
    for key in {name for name in names if name.startswith(tuple(f"launch:{kind}" for kind in kinds))} | set(wanted):
        kind = text(redis.type(key))
        members = redis.zrange(key, 0, -1) if kind == "zset" else redis.smembers(key) if kind == "set" else []
        actual = {text(member) for member in members}
        if actual != wanted.get(key, set()):
            found.append(f"{key!r} has {actual}, but the records say {wanted.get(key, set())}")
    return found


def _history_faults(run_id: str, run: dict[str, str], history: list[dict[str, Any]]) -> list[str]:
    # Its beginning is written only where there is a reason.
    if not history or history[0]["state"] != "Pending":
        history = [{"state": "Pending", "at": run.get("created_at")}, *history]
    states = [RunState(entry["state"]) for entry in history]
    attempts = [entry.get("attempt", 0) for entry in history]
    found = []
    if states[-1] != run["state"]:
        found.append(f"{run_id} is {run['state']}, but its history is {states}")
    for before, after in itertools.pairwise(states):
        if after not in ARROWS[before]:
            found.append(f"{run_id} went from {before} to {after}")
    if attempts != sorted(attempts) or attempts[-1] != int(run.get("attempt", 0)):
        found.append(f"{run_id} is attempt {run.get('attempt', 0)}, but its history has {attempts}")
    return found


def _texts(fields: Any) -> dict[str, str]:
    return {text(name): text(value) for name, value in fields.items()}


def item_list(queue: str, priority: int | str) -> str:
    """The list that holds the items of this queue and priority step."""
    return queue if int(priority) == 0 else f"{queue}{keys.PRIORITY_SEP}{priority}"
