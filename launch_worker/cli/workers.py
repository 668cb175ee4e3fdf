"""Defines `workers`: lists the live ones, and orders one to drain, upgrade or resume."""

from __future__ import annotations

from typing import Any

import click

from launch_worker import terminal
from launch_worker.api.client import Api
from launch_worker.cli import devices
from launch_worker.cli.options import WIDE
from launch_worker.cli.watching import WATCH, show_or_watch
from launch_worker.model.worker import WorkerOrder, keys_of, trouble_of
from launch_worker.terminal import Column, Screen, Styled, Table


@click.group(invoke_without_command=True, epilog="Example: launch-worker workers drain celery@gpu1")
@WATCH
@WIDE
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_context
def workers_command(ctx: click.Context, watch: bool, wide: bool, as_json: bool) -> None:
    """List the live workers; drain, replace or resume one."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, watch=watch, wide=wide, as_json=as_json)


@workers_command.command("list", epilog="Example: launch-worker workers list --json")
@WATCH
@WIDE
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def list_command(url: str | None, watch: bool, wide: bool, as_json: bool) -> None:
    """List the live workers, what runs hold of them, and their GPUs; and those that went in the last hour."""
    transport = Api(url).transport

    def read() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        live = transport.workers()
        names = {worker["worker"] for worker in live}
        # Nobody of an archive's programs waits for one that has none.
        gone = [] if as_json else transport.gone_workers()
        return live, [one for one in gone if one["worker"] not in names]

    def show(found: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> None:
        if as_json:
            for worker in found[0]:
                terminal.echo_json(worker)
        elif any(found):
            terminal.put(_lines(found, Screen.of(is_wide=wide)))
        else:
            terminal.say("no workers", err=True)

    show_or_watch(transport, read, draw=_lines, show=show, watch=watch, as_json=as_json)


_COLUMNS = (*devices.WORKER_COLUMNS, Column("PROBLEM", 5, least=30, falls=True))


def _lines(found: tuple[list[dict[str, Any]], list[dict[str, Any]]], screen: Screen) -> list[Styled]:
    live, gone = found
    rows: list[tuple[Any, ...]] = [(*devices.worker_row(worker), trouble_of(worker)) for worker in live]
    rows += [
        (
            *(worker["worker"], devices.state_text(worker["state"]), *[None] * 4, ",".join(worker["queues"])),
            *(worker["host"], None, f"{worker['state']} {terminal.ago(worker['at'])}"),
        )
        for worker in gone
    ]
    if not rows:
        return [terminal.styled("no workers")]
    held = devices.rows(live)
    more = [Styled(""), *Table(devices.COLUMNS, held).lines(screen)] if held else []
    of_keys = [terminal.styled(f"{worker['worker']} {keys}") for worker in live if (keys := keys_of(worker))]
    return Table(_COLUMNS, rows).lines(screen) + more + ([Styled(""), *of_keys] if of_keys else [])


@workers_command.command("drain", epilog="Example: launch-worker workers drain celery@gpu1")
@click.argument("worker")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def drain_command(url: str | None, worker: str, as_json: bool) -> None:
    """Let WORKER end its jobs, take nothing new, and leave: as a SIGTERM to it."""
    _order(url, worker, "drain", "takes nothing new and leaves when its jobs have ended", as_json=as_json)


@workers_command.command("upgrade", epilog="Example: launch-worker workers upgrade celery@gpu1")
@click.argument("worker")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def upgrade_command(url: str | None, worker: str, as_json: bool) -> None:
    """Let WORKER leave at once, without ending its jobs: as a SIGUSR1 to it.

    Start a worker with the same node name within the lease (LAUNCH_LEASE_S): it goes on with them.
    """
    _order(
        url,
        worker,
        "upgrade",
        "leaves its jobs running; start one with the same name soon, it goes on with them",
        as_json=as_json,
    )


@workers_command.command("resume", epilog="Example: launch-worker workers resume celery@gpu1")
@click.argument("worker")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def resume_command(url: str | None, worker: str, as_json: bool) -> None:
    """End the quarantine of WORKER."""
    _order(url, worker, "resume", "takes runs again", as_json=as_json)


def _order(url: str | None, worker: str, word: WorkerOrder, sentence: str, *, as_json: bool) -> None:
    told = Api(url).transport.order(worker, word)
    if as_json:
        terminal.echo_json({"worker": worker, "order": word, "told": told})
    else:
        terminal.say(f"worker {worker} {sentence}")
