"""Reads queues, pools and workers as they are now into one object, for `status` and the doctor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launch_worker.store.store import Store
from launch_worker.untrusted.text import read_whole


def overview(store: Store) -> dict[str, Any]:
    """Runs by state, queues, pools, workers, and when each pass last began."""
    workers = store.workers_now()
    # Redis counts: else all Running records would be read for this alone.
    lines = store.lines()
    by_queue = {name: store.running_in("queue", name) for name in lines}
    pools = {name: store.settings_of("pool", name) for name in store.pools()}
    queues = [
        _queue(
            name,
            *line,
            running=by_queue[name],
            settings=store.settings_of("queue", name),
            pools=pools,
            workers=sum(name in worker["queues"] and worker["state"] == "running" for worker in workers),
        )
        for name, line in lines.items()
    ]
    return {
        "runs": {state.value: count for state, count in store.counts().items()},
        "queues": queues,
        "pools": [_pool(name, settings, queues) for name, settings in pools.items()],
        "workers": workers,
        "passes": store.pass_ages_s(),
    }


def _queue(
    name: str,
    waiting: int,
    later: int,
    *,
    running: int,
    settings: Mapping[str, str],
    pools: Mapping[str, Mapping[str, str]],
    workers: int,
) -> dict[str, Any]:
    pool = settings.get("pool", "")
    is_paused = bool(settings.get("paused"))
    if is_paused or pools.get(pool, {}).get("paused"):
        state = "Paused"
    else:
        state = "Idle" if waiting and not workers else "Ready"
    return {
        "name": name,
        "state": state,
        "waiting": waiting,
        "later": later,
        "running": running,
        "limit": _limit(settings),
        "paused": is_paused,
        "pool": pool or None,
        "workers": workers,
    }


def _pool(name: str, settings: Mapping[str, str], queues: list[dict[str, Any]]) -> dict[str, Any]:
    own = [queue for queue in queues if queue["pool"] == name]
    return {
        "name": name,
        "state": "Paused" if settings.get("paused") else "Ready",
        "running": sum(queue["running"] for queue in own),
        "limit": _limit(settings),
        "paused": bool(settings.get("paused")),
        "queues": [queue["name"] for queue in own],
    }


def _limit(settings: Mapping[str, str]) -> int | None:
    return read_whole(settings.get("limit"))
