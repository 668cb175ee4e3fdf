"""`status`: one screen of the whole system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from launch_worker.api import Api
from launch_worker.cli import devices, output
from launch_worker.health import problems


@click.command(epilog="Example: launch-worker status --json")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def status_command(url: str | None, as_json: bool) -> None:
    """Show queues, pools, workers, their GPUs, running runs and problems."""
    api = Api(url)
    status = system_status(api)
    if as_json:
        output.echo_json(status)
        return
    counts: list[str] = []
    for name, count in status["runs"].items():
        counts += ["  " if counts else "", output.state(name), f" {count}"]
    output.say("runs      ", *counts)
    ages = status["passes"].values()
    output.say(f"passes    last {output.span(max(ages))} ago" if ages else "passes    never ran")
    output.say()
    tables = (
        (("QUEUE", "STATE", "WAITING", "RUNNING", "POOL", "WORKERS"), map(_queue_row, status["queues"])),
        (("POOL", "STATE", "RUNNING", "QUEUES"), map(_pool_row, status["pools"])),
        (
            ("WORKER", "HOST", "PID", "QUEUES", "RUNNING", "CPUS", "MEMORY", "STATE"),
            map(_worker_row, status["workers"]),
        ),
        (devices.COLUMNS, devices.rows(status["workers"])),
    )
    for columns, found in tables:
        if rows := list(found):
            output.table(columns, rows)
            output.say()
    for problem in status["problems"]:
        output.say("problem: ", problem)


def system_status(api: Api) -> dict[str, Any]:
    """What `status` shows, as one object."""
    store = api.store
    workers = store.workers()
    # Counted by Redis: the records of all Running runs would be read for this alone. A worker's own word is as old as
    # its last heartbeat.
    waiting_in = store.queues()
    by_queue = {name: store.running_in("queue", name) for name in waiting_in}
    pools = {name: store.settings_of("pool", name) for name in store.pools()}
    queues = [
        _queue(
            name,
            waiting,
            running=by_queue[name],
            settings=store.settings_of("queue", name),
            pools=pools,
            workers=sum(name in worker["queues"] and worker["state"] == "running" for worker in workers),
        )
        for name, waiting in waiting_in.items()
    ]
    passes = store.pass_ages_s()
    return {
        "runs": {state.value: count for state, count in store.counts().items()},
        "queues": queues,
        "pools": [_pool(name, settings, queues) for name, settings in pools.items()],
        "workers": workers,
        "passes": passes,
        "problems": problems(api, workers=workers, queues=queues),
    }


def _queue(
    name: str,
    waiting: int,
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
    text = settings.get("limit", "")
    return int(text) if text.isdecimal() else None


def _queue_row(queue: dict[str, Any]) -> tuple[Any, ...]:
    running = _of(queue["running"], queue["limit"])
    return queue["name"], queue["state"], queue["waiting"], running, queue["pool"], queue["workers"]


def _pool_row(pool: dict[str, Any]) -> tuple[Any, ...]:
    return pool["name"], pool["state"], _of(pool["running"], pool["limit"]), ",".join(pool["queues"])


def _worker_row(worker: dict[str, Any]) -> tuple[Any, ...]:
    running = _of(worker["running"], worker["slots"])
    return (
        *(worker["worker"], worker["host"], worker["pid"], ",".join(worker["queues"]), running),
        *(devices.cpus_text(worker), devices.memory_text(worker), worker["state"]),
    )


def _of(number: int, limit: int | None) -> str:
    return str(number) if limit is None else f"{number}/{limit}"
