"""Defines `workers`: lists the live ones, and orders one to drain, upgrade or resume."""

from __future__ import annotations

from typing import Any

import click

from launch_worker import terminal
from launch_worker.api.client import Api
from launch_worker.cli import devices
from launch_worker.cli.watching import WATCH, printed, show_or_watch
from launch_worker.model.worker import WorkerOrder


@click.group(invoke_without_command=True, epilog="Example: launch-worker workers drain celery@gpu1")
@WATCH
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_context
def workers_command(ctx: click.Context, watch: bool, as_json: bool) -> None:
    """List the live workers; drain, replace or resume one."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, watch=watch, as_json=as_json)


@workers_command.command("list", epilog="Example: launch-worker workers list --json")
@WATCH
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def list_command(url: str | None, watch: bool, as_json: bool) -> None:
    """List the live workers, what runs hold of them, and their GPUs."""
    transport = Api(url).transport
    show_or_watch(
        transport,
        transport.workers,
        draw=lambda workers, _: printed(lambda: _print(workers, as_json=False)),
        show=lambda workers: _print(workers, as_json=as_json),
        watch=watch,
        as_json=as_json,
    )


def _print(workers: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for worker in workers:
            terminal.echo_json(worker)
        return
    if not workers:
        terminal.say("no workers", err=True)
        return
    rows = [
        (
            w["worker"],
            w["host"],
            w["pid"],
            ",".join(w["queues"]),
            f"{w['running']}/{w['slots']}",
            devices.gpus_text(w),
            devices.cpus_text(w),
            devices.memory_text(w),
            w["state"],
            w["problem"],
        )
        for w in workers
    ]
    terminal.table(("WORKER", "HOST", "PID", "QUEUES", "RUNNING", "GPUS", "CPUS", "MEMORY", "STATE", "PROBLEM"), rows)
    if held := devices.rows(workers):
        terminal.say()
        terminal.table(devices.COLUMNS, held)


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
