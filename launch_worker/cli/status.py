"""Defines `status`: one screen of the whole system."""

from __future__ import annotations

from typing import Any

import click

from launch_worker import humane, terminal
from launch_worker.api.client import Api
from launch_worker.cli import devices
from launch_worker.cli.watching import WATCH, printed, show_or_watch


@click.command(epilog="Example: launch-worker status --json")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@WATCH
@click.pass_obj
def status_command(url: str | None, as_json: bool, watch: bool) -> None:
    """Show queues, pools, workers, their GPUs, running runs and problems."""
    transport = Api(url).transport
    show_or_watch(
        transport,
        transport.status,
        draw=lambda status, _: printed(lambda: _print(status)),
        show=lambda status: terminal.echo_json(status) if as_json else _print(status),
        watch=watch,
        as_json=as_json,
    )


def _print(status: dict[str, Any]) -> None:
    counts: list[str] = []
    for name, count in status["runs"].items():
        counts += ["  " if counts else "", terminal.state(name), f" {count}"]
    terminal.say("runs      ", *counts)
    ages = status["passes"].values()
    terminal.say(f"passes    last {humane.ago(max(ages))}" if ages else "passes    never ran")
    terminal.say()
    tables = (
        (("QUEUE", "STATE", "WAITING", "LATER", "RUNNING", "POOL", "WORKERS"), map(_queue_row, status["queues"])),
        (("POOL", "STATE", "RUNNING", "QUEUES"), map(_pool_row, status["pools"])),
        (
            ("WORKER", "HOST", "PID", "QUEUES", "RUNNING", "CPUS", "MEMORY", "STATE"),
            map(_worker_row, status["workers"]),
        ),
        (devices.COLUMNS, devices.rows(status["workers"])),
    )
    for columns, found in tables:
        if rows := list(found):
            terminal.table(columns, rows)
            terminal.say()
    for problem in status["problems"]:
        terminal.say("problem: ", problem["text"])


def _queue_row(queue: dict[str, Any]) -> tuple[Any, ...]:
    running = _of(queue["running"], queue["limit"])
    return queue["name"], queue["state"], queue["waiting"], queue["later"], running, queue["pool"], queue["workers"]


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
