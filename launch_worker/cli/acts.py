"""Defines `cancel`, `preempt`, `delete`, `retry`, `confirm` and `wait`: steers runs, and waits for their ends."""

from __future__ import annotations

import click

from launch_worker import terminal
from launch_worker.api.client import Api, Run
from launch_worker.cli.errors import each
from launch_worker.errors import InputError
from launch_worker.model.states import RunState
from launch_worker.model.units import parse_duration

_RUN = click.argument("run_id", metavar="RUN")
_RUNS = click.argument("run_ids", metavar="RUN…", nargs=-1, required=True)
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")


@click.command(epilog="Example: launch-worker cancel 1m83cyvtfq1tc69; launch-worker cancel --queue gpu --pending")
@click.argument("run_ids", metavar="[RUN…]", nargs=-1)
@click.option("--queue", default="", help="All runs of this queue that have not ended.")
@click.option("--pending", is_flag=True, help="With --queue: only those that have not started.")
@click.option("--now", is_flag=True, help="SIGKILL at once, without the run's grace.")
@click.option("--alone", is_flag=True, help="Only the first run of an array, which has the array's id.")
@_JSON
@click.pass_obj
def cancel_command(
    url: str | None, run_ids: tuple[str, ...], queue: str, pending: bool, now: bool, alone: bool, as_json: bool
) -> int:
    """Stop runs: a Pending one is Killed at once, a Running one gets SIGTERM, then SIGKILL after its grace.

    The id of an array, which is that of its first run, stands for all runs of the array.
    """
    api = Api(url)
    if bool(run_ids) == bool(queue) or (pending and not queue):
        raise InputError("name the runs to cancel, or their queue with --queue (and --pending for those that wait)")
    if queue:
        states = ["pending"] if pending else ["pending", "running"]
        run_ids = tuple(run.id for run in api.runs(filters={"queue": queue, "state": {"$in": states}}))
        if not run_ids:
            terminal.say(f"no run of queue {queue} is left to cancel", err=True)

    def cancel(run_id: str) -> None:
        if not (queue or alone) and api.is_array(run_id):
            killed, asked = api.cancel_array(run_id, grace_s=0.0 if now else None)
            if as_json:
                terminal.echo_json({"id": run_id, "cancel": "array", "killed": killed, "requested": asked})
            else:
                terminal.say(
                    f"array {run_id}: {killed} runs are Killed, which had not started; {asked} are being stopped"
                )
            return
        word = Run(api, run_id).cancel(grace_s=0.0 if now else None)
        if as_json:
            terminal.echo_json({"id": run_id, "cancel": word})
        else:
            terminal.say(
                f"run {run_id} " + ("is Killed; it had not started" if word == "killed" else "is being stopped")
            )

    return each(run_ids, cancel)


@click.command(epilog="Example: launch-worker preempt 1m83cyvtfq1tc69")
@_RUNS
@_JSON
@click.pass_obj
def preempt_command(url: str | None, run_ids: tuple[str, ...], as_json: bool) -> int:
    """Make room: a Running run gets SIGTERM, then SIGKILL after its grace, and goes back to its queue, to run again."""
    api = Api(url)

    def preempt(run_id: str) -> None:
        Run(api, run_id).preempt()
        if as_json:
            terminal.echo_json({"id": run_id, "preempt": "requested"})
        else:
            terminal.say(f"run {run_id} is being stopped, to run again")

    return each(run_ids, preempt)


@click.command(epilog="Example: launch-worker delete 1m83cyvtfq1tc69")
@_RUNS
@_JSON
@click.pass_obj
def delete_command(url: str | None, run_ids: tuple[str, ...], as_json: bool) -> int:
    """Delete runs with all that is kept of them; one that waits is never executed, one that runs is refused."""
    api = Api(url)

    def delete(run_id: str) -> None:
        Run(api, run_id).delete()
        if as_json:
            terminal.echo_json({"id": run_id, "delete": "deleted"})
        else:
            terminal.say(f"run {run_id} is deleted")

    return each(run_ids, delete)


@click.command(epilog="Example: launch-worker retry 1m83cyvtfq1tc69")
@_RUN
@_JSON
@click.pass_obj
def retry_command(url: str | None, run_id: str, as_json: bool) -> None:
    """Start a new attempt of a run that has ended."""
    run = Api(url).run(run_id)
    crashed = run.record.state is RunState.CRASHED
    run.retry()
    if crashed:
        terminal.say(
            f"launch-worker: worker {run.record.worker} stopped reporting while it ran this; if it is cut off and not "
            "dead, its job goes on until it learns of the new attempt",
            err=True,
        )
    if as_json:
        run.refresh()
        terminal.echo_json(run.as_json())
    else:
        terminal.say(f"run {run_id} is Pending again, in queue {run.record.queue}")


@click.command(epilog="Example: launch-worker confirm 1m83cyvtfq1tc69 ended")
@_RUN
@click.argument("what", type=click.Choice(["ended"]))
@_JSON
@click.pass_obj
def confirm_command(url: str | None, run_id: str, what: str, as_json: bool) -> None:
    """Say that nothing of RUN's job is left, where its worker had to leave it and its end is not known.

    For a run that `show` calls held: its worker left while its container engine did not answer. It is given to no other
    machine until a worker of its host has looked, or this was said. Look first, with `docker ps` there: what lives on
    runs beside the next attempt.
    """
    run = Api(url).run(run_id)
    state = run.confirm_ended()
    if as_json:
        terminal.echo_json({"id": run_id, "confirm": what, "state": state.value})
    else:
        terminal.say(f"run {run_id} is ", terminal.state(state.value))


@click.command(epilog="Example: launch-worker wait 1m83cyvtfq1tc69")
@_RUNS
@click.option("--timeout", metavar="DUR", help="Give up after this time (exit code 1).")
@_JSON
@click.pass_obj
def wait_command(url: str | None, run_ids: tuple[str, ...], timeout: str | None, as_json: bool) -> int:
    """Wait until runs have ended; exits with the first job's code that is not 0.

    The id of an array, which is that of its first run, stands for all runs of the array.
    """
    api = Api(url)
    run_ids = tuple(one for run_id in run_ids for one in api.array_runs(run_id) or [run_id])
    timeout_s = None if timeout is None else parse_duration(timeout, what="timeout")
    codes: list[int] = []

    def wait(run_id: str) -> None:
        run = api.run(run_id)
        try:
            run.wait(timeout_s)
        except TimeoutError as error:
            terminal.say(f"launch-worker: {error}", err=True)
            codes.append(1)
            return
        codes.append(run.shell_exit_code())
        if as_json:
            terminal.echo_json(run.as_json())
        else:
            terminal.say(f"run {run_id} ", terminal.state(run.record.state.value))

    worst = each(run_ids, wait)
    return worst or next((code for code in codes if code), 0)
