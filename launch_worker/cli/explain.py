"""Defines `explain`: why a run waits, worker by worker, and what would help."""

from __future__ import annotations

import click

from launch_worker import humane, terminal
from launch_worker.api.client import Api
from launch_worker.cli.words import run_id_of
from launch_worker.model.explanation import Explanation, WorkerAnswer

#: Workers that are named one by one, and those of other queues.
_MOST_WORKERS, _MOST_OTHERS = 20, 3

_INDENT = terminal.Styled("  ")


@click.command(epilog="Example: launch-worker explain 1m83cyvtfq1tc69")
@click.argument("run_id", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def explain_command(url: str | None, run_id: str, as_json: bool) -> None:
    """Say why a run waits: what holds it up, why each worker does not take it, and what would help."""
    api = Api(url)
    found = api.transport.explain(run_id_of(api, run_id, takes_newest=True))
    if as_json:
        terminal.echo_json(found.as_json())
        return
    screen = terminal.Screen.of()
    lines: list[str] = [*terminal.wrapped(found.sentence, screen)]
    if found.state == "Pending":
        lines += _waiting(found, screen)
    else:
        lines += ["", *terminal.commands([(f"launch-worker show {found.id}", "all of it")], screen)]
    terminal.put(map(terminal.joined, lines))


def _waiting(found: Explanation, screen: terminal.Screen) -> list[str]:
    lines: list[str] = []
    if found.place is not None:
        where = "next" if found.place == 1 else f"number {humane.count(found.place)}"
        priority = f" (priority {found.priority})" if found.priority else ""
        lines += terminal.wrapped(f"It is {where} in the line of queue {found.queue}{priority}.", screen)
    if found.held_up_by:
        lines += ["", terminal.styled("What holds it up", bold=True)]
        for text in found.held_up_by:
            lines += terminal.wrapped(text, screen, _INDENT)
    lines += ["", terminal.styled("Workers", bold=True), *_workers(found, screen)]
    if found.advice:
        lines += ["", terminal.styled("What would help", bold=True)]
        lines += terminal.wrapped(found.advice, screen, _INDENT)
    if found.command:
        lines += ["", *terminal.commands([(found.command, "")], screen)]
    return lines


def _workers(found: Explanation, screen: terminal.Screen) -> list[str]:
    """What each worker of the queue says, and how many there are of other queues."""
    own = [one for one in found.workers if one.is_consumer]
    others = [one for one in found.workers if not one.is_consumer]
    # Those that have room say most.
    own.sort(key=lambda one: len(one.why_not))
    room = "it has room for it" + (", and may not take it yet" if found.held_up_by else "")
    rows = [(one.worker, "; ".join(one.why_not) or room) for one in own[:_MOST_WORKERS]]
    lines: list[str] = []
    for name, text in rows:
        lines += terminal.wrapped(f"{name}: {text}", screen, _INDENT)
    if len(own) > _MOST_WORKERS:
        lines.append(f"  and {len(own) - _MOST_WORKERS:,} more of queue {found.queue}: --json lists them")
    if not own:
        lines += terminal.wrapped(f"none consumes queue {found.queue}", screen, _INDENT)
    if others:
        lines += terminal.wrapped(_of_others(others, found.queue), screen, _INDENT)
    return lines


def _of_others(others: list[WorkerAnswer], queue: str) -> str:
    names = ", ".join(one.worker for one in others[:_MOST_OTHERS]) + (", …" if len(others) > _MOST_OTHERS else "")
    verb = "does" if len(others) == 1 else "do"
    return f"{humane.plural(len(others), 'other')} ({names}) {verb} not consume queue {queue}"
