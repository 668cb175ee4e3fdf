"""Defines `status`: one screen of the whole system."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from launch_worker import humane, terminal
from launch_worker.api.client import Api
from launch_worker.cli import devices
from launch_worker.cli.options import WIDE
from launch_worker.cli.watching import WATCH, show_or_watch
from launch_worker.terminal import Column, Screen, Styled, Table, joined, state_cell, styled, wrapped

_QUEUES = (
    Column("QUEUE", least=12),
    Column("STATE"),
    Column("WAITING"),
    Column("LATER", 3),
    Column("RUNNING", right=True),
    Column("POOL", 2, least=8),
    Column("WORKERS", 1),
)
_POOLS = (Column("POOL", least=12), Column("STATE"), Column("RUNNING", right=True), Column("QUEUES", 1, least=12))
#: Colours of queues and pools from which nothing starts.
_COLOURS = {"Paused": "yellow", "Idle": "yellow"}


@click.command(epilog="Example: launch-worker status --json")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@WIDE
@WATCH
@click.pass_obj
def status_command(url: str | None, as_json: bool, wide: bool, watch: bool) -> None:
    """Show problems, runs, queues, pools, workers and their GPUs."""
    transport = Api(url).transport

    def show(status: dict[str, Any]) -> None:
        if as_json:
            terminal.echo_json(status)
        else:
            terminal.put(lines(status, Screen.of(is_wide=wide)))

    show_or_watch(transport, transport.status, draw=lines, show=show, watch=watch, as_json=as_json)


def lines(status: dict[str, Any], screen: Screen) -> list[Styled]:
    """The whole screen: what is wrong first."""
    blocks = [_problems(status["problems"], screen), _sums(status, screen)]
    tables = (
        (_QUEUES, map(_queue_row, status["queues"])),
        (_POOLS, map(_pool_row, status["pools"])),
        (devices.WORKER_COLUMNS, map(devices.worker_row, status["workers"])),
        (devices.COLUMNS, devices.rows(status["workers"])),
    )
    blocks += [Table(columns, rows).lines(screen) for columns, found in tables if (rows := list(found))]
    return _apart(blocks)


def _apart(blocks: Iterable[list[Styled]]) -> list[Styled]:
    """The blocks with one empty line between two."""
    found: list[Styled] = []
    for block in filter(None, blocks):
        found += [Styled(""), *block] if found else block
    return found


def _problems(problems: Iterable[dict[str, Any]], screen: Screen) -> list[Styled]:
    found: list[Styled] = []
    for problem in problems:
        is_error = problem.get("level") == "error"
        mark = styled("problem: ", colour="red" if is_error else "yellow", bold=is_error)
        found += wrapped(problem["text"], screen, mark)
    return found


def _sums(status: dict[str, Any], screen: Screen) -> list[Styled]:
    counts: list[Any] = []
    for name, count in status["runs"].items():
        if count or not screen.is_terminal:
            counts += ["  " if counts else "", state_cell(name)(screen), f" {humane.count(count)}"]
    ages = status["passes"].values()
    passes = f"done {humane.ago(max(ages))}" if ages else styled("never ran", colour="yellow")
    held = devices.gpus_of(status["workers"])
    return [
        *wrapped(joined(*counts or ["none"]), screen, Styled("runs      ")),
        joined("GPUs      ", held),
        joined("passes    ", passes),
    ]


def _queue_row(queue: dict[str, Any]) -> tuple[Any, ...]:
    running = _of(queue["running"], queue["limit"])
    state = styled(queue["state"], colour=_COLOURS.get(queue["state"]))
    return queue["name"], state, queue["waiting"], queue["later"] or "", running, queue["pool"], queue["workers"]


def _pool_row(pool: dict[str, Any]) -> tuple[Any, ...]:
    state = styled(pool["state"], colour=_COLOURS.get(pool["state"]))
    return pool["name"], state, _of(pool["running"], pool["limit"]), ",".join(pool["queues"])


def _of(number: int, limit: int | None) -> str:
    return str(number) if limit is None else f"{number}/{limit}"
