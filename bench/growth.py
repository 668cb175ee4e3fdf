"""What a listing, a claim, a pass and a screen cost beside ten thousand, a hundred thousand and a million runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from bench.fleet import idle_heartbeat
from bench.measure import BenchError, RedisMeter, Results, time_ms
from bench.systems import LAUNCH, Running
from launch_worker.api.client import Api
from launch_worker.api.overview import overview
from launch_worker.ids import new_run_id
from launch_worker.maintenance.passes import PASSES
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store

#: The states of each ten runs. One that waits comes last, so that each finds its own item alone in the queue.
RUNS_MIX = (RunState.RUNNING, *[RunState.FINISHED] * 8, RunState.PENDING)
_AT_ONCE = 1000
_LEASE_S = 86400.0
_STALE = 100
_PAGE = 50
_BYTES_A_RUN = 3600
_CLONE = (Path(__file__).parent / "clone.lua").read_text()


def measure(results: Results, *, sizes: tuple[int, ...], repeat: int) -> None:
    """One Redis that grows; each cost beside what it was at the smallest size."""
    smallest = _name(sizes[0])
    with Running(LAUNCH, start=False) as running:
        settings = Settings.from_env({}, redis_url=running.url)
        api = Api(settings=settings)
        templates = [template(api.store, state) for state in RUNS_MIX]
        count = len(templates)
        for size in sizes:
            if psutil.virtual_memory().available < 1.3 * (size - count) * _BYTES_A_RUN:
                results.note(f"not measured beside {size} runs: this machine has too little memory")
                return
            fill(running.redis, templates, first=count, count=size - count)
            count = size
            bytes_now = running.redis.info("memory")["used_memory"]
            for name, call in _costs(api, settings).items():
                # Each is another kind of first call.
                call()
                results.metric(name, "ms", baseline=smallest).add(_name(size), time_ms(call, repeat=repeat))
                commands = _commands(running.redis, call, repeat=repeat)
                results.metric(f"... in commands of Redis: {name}", "", baseline=smallest).add(_name(size), commands)
            results.metric("Redis memory a run of that mix", "bytes").add(_name(size), bytes_now / size)
            _fill_leases(running.redis, size)
            stale = results.metric(f"reaper, {_STALE} stale of all live", "ms", baseline=smallest, goal="10 ms")
            cpu = results.metric("... its CPU, here and in Redis", "ms", baseline=smallest)
            for at in range(1 + repeat):
                _make_stale(running.redis)
                meter, before_s, began = RedisMeter(running.redis), time.thread_time(), time.perf_counter()
                crashed = PASSES["crash_stale_runs"](api.store, settings)
                took_s, used_s = time.perf_counter() - began, time.thread_time() - before_s
                used_s += meter.read().cpu_s
                if crashed != _STALE:
                    raise BenchError(f"the reaper found {crashed} stale runs instead of {_STALE}")
                # The first one of all loads scripts.
                if at:
                    stale.add(_name(size), took_s * 1000)
                    cpu.add(_name(size), used_s * 1000)


def queued_bytes(results: Results, *, runs: int) -> None:
    """Redis memory of a queued run: record, item, history and indexes."""
    with Running(LAUNCH, start=False) as running:
        running.submit([(["/bin/true"], 1)])
        before = running.redis.info("memory")["used_memory"]
        running.submit([(["python", "train.py", "--lr", "0.1"], runs)], many=True)
        taken = running.redis.info("memory")["used_memory"] - before
        results.metric("Redis memory of a queued run", "bytes", goal="2000").add("launch_worker", taken / runs)


def _name(size: int) -> str:
    return f"{size:,} runs"


def template(store: Store, state: RunState) -> str:
    """A run that came into its state by the usual arrows."""
    run_id = new_run_id()
    store.create(run_id, RunSpec(command=("python", "train.py", "--lr", "0.1"), project="bench", name=f"{state}"))
    if state is not RunState.PENDING:
        store.take(keys.queue_lists("default"), before_us=1 << 53)
        idle_heartbeat(store, "bench", ("default",))
        record, why = store.claim(run_id, 1, owner="bench", worker="bench@host", host="host", lease_s=_LEASE_S)
        assert record is not None, why
        if state is not RunState.RUNNING:
            store.finish(record, NextStep(Outcome(state, reason="exit code 0", exit_code=0)))
    return run_id


def _commands(redis: Any, call: Callable[[], object], *, repeat: int) -> float:
    """Redis commands that a call takes, those of scripts too."""
    meter = RedisMeter(redis)
    for _ in range(repeat):
        call()
    return meter.read().commands / repeat


def fill(redis: Any, templates: list[str], *, first: int, count: int) -> None:
    """Copy the templates in turns, by a script of our own: the arrows would take an hour."""
    kinds = {key: redis.type(key) for key in redis.keys("*") if not key.startswith(b"launch:run:")}
    known = [key for key, kind in kinds.items() if kind in (b"zset", b"list", b"set")]
    # A list that grows is looked through for the item of each template.
    clone = redis.register_script(_CLONE)
    for start in range(first, first + count, _AT_ONCE):
        some = min(_AT_ONCE, first + count - start)
        clone(keys=known, args=[start, some, len(templates), *templates])


def _costs(api: Api, settings: Settings) -> dict[str, Callable[[], object]]:
    store = api.store
    return {
        f"newest {_PAGE} runs": lambda: api.runs(per_page=_PAGE)[:_PAGE],
        f"{_PAGE} runs of a state": lambda: api.runs(filters={"state": "Finished"}, per_page=_PAGE)[:_PAGE],
        f"{_PAGE} runs of a state and a project": lambda: api.runs("bench", {"state": "Running"}, per_page=_PAGE)[
            :_PAGE
        ],
        f"first {_PAGE} in a queue's line": lambda: store.line("default", limit=_PAGE),
        "submit, beside them": lambda: store.create(new_run_id(), RunSpec(command=("true",))),
        "claim": lambda: _one_claim(store),
        "heartbeat of an idle worker": lambda: idle_heartbeat(store, "w", ("default",)),
        "status screen": lambda: overview(api.store),
        **{f"pass {name}": lambda name=name: PASSES[name](store, settings) for name in PASSES},  # type: ignore[misc]
    }


def _one_claim(store: Store) -> None:
    """The next item of the queue, as a worker takes it."""
    taken = store.take(keys.queue_lists("default"), before_us=1 << 53)
    assert taken is not None
    record, why = store.claim(*taken, owner="bench", worker="b", host="h", lease_s=_LEASE_S)
    assert record is not None, why


def _fill_leases(redis: Any, size: int) -> None:
    """As many live runs as there are runs: of those that the reaper finds alive it sees no more than their leases."""
    for start in range(0, size, 10 * _AT_ONCE):
        ids = (f"live{number}" for number in range(start, min(size, start + 10 * _AT_ONCE)))
        redis.zadd(keys.LEASES, dict.fromkeys(ids, 1 << 52))


def _make_stale(redis: Any) -> None:
    """Some live runs whose worker has long been silent."""
    ids = redis.zrange(keys.runs_by("state", RunState.RUNNING), 0, _STALE - 1)
    redis.zadd(keys.LEASES, dict.fromkeys(ids, 1))
