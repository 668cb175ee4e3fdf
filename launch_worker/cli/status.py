"""`status`: one screen of the whole system."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from launch_worker.api import Api
from launch_worker.cli import output
from launch_worker.health import problems
from launch_worker.states import RunState


@click.command(epilog="Example: launch-worker status --json")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def status_command(url: str | None, as_json: bool) -> None:
    """Show queues, workers, running runs and problems."""
    api = Api(url)
    status = system_status(api)
    if as_json:
        output.echo_json(status)
        return
    click.echo("runs      " + "  ".join(f"{output.state(name)} {count}" for name, count in status["runs"].items()))
    ages = status["passes"].values()
    click.echo(f"passes    last {output.span(max(ages))} ago" if ages else "passes    never ran")
    click.echo()
    if status["queues"]:
        output.table(
            ("QUEUE", "WAITING", "WORKERS"), [(q["name"], q["waiting"], q["workers"]) for q in status["queues"]]
        )
        click.echo()
    if status["workers"]:
        rows = [
            (w["worker"], w["host"], w["pid"], ",".join(w["queues"]), f"{w['running']}/{w['slots']}", w["state"])
            for w in status["workers"]
        ]
        output.table(("WORKER", "HOST", "PID", "QUEUES", "RUNNING", "STATE"), rows)
        click.echo()
    for problem in status["problems"]:
        click.echo(f"problem: {output.clean(problem)}")


def system_status(api: Api) -> dict[str, Any]:
    """What `status` shows, as one object."""
    store = api.store
    workers = store.workers()
    # The workers' own word is as old as their last heartbeat.
    running = Counter(record.worker for record in store.select(state=RunState.RUNNING))
    for worker in workers:
        worker["running"] = running[worker["worker"]]
    queues = [
        {"name": name, "waiting": waiting, "workers": sum(name in worker["queues"] for worker in workers)}
        for name, waiting in store.queues().items()
    ]
    passes = store.pass_ages_s()
    return {
        "runs": {state.value: count for state, count in store.counts().items()},
        "queues": queues,
        "workers": workers,
        "passes": passes,
        "problems": problems(api, workers=workers, queues=queues),
    }
