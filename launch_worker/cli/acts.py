"""Defines `cancel`, `preempt`, `delete`, `retry`, `confirm` and `wait`: steers runs, and waits for their ends."""

from __future__ import annotations

import click

from launch_worker import terminal
from launch_worker.api.client import Api, Run
from launch_worker.api.groups import Group
from launch_worker.cli.errors import each
from launch_worker.cli.words import id_of, ids_of, run_id_of
from launch_worker.errors import InputError
from launch_worker.ids import GROUP_ID
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

    A group's id stands for all its runs: an array's (also without its first letter), a bulk submission's or a sweep's.
    """
    api = Api(url)
    if bool(run_ids) == bool(queue) or (pending and not queue):
        raise InputError("name the runs to cancel, or their queue with --queue (and --pending for those that wait)")
    if queue:
        states = ["pending"] if pending else ["pending", "running"]
        run_ids = tuple(run.id for run in api.runs(filters={"queue": queue, "state": {"$in": states}}))
        if not run_ids:
            terminal.say(f"no run of queue {queue} is left to cancel", err=True)

    else:
        run_ids = ids_of(api, run_ids)

    def cancel(run_id: str) -> None:
        group = None if queue or alone else api.find_group(run_id)
        if group is not None:
            killed, asked = group.cancel(grace_s=0.0 if now else None)
            if as_json:
                terminal.echo_json({"id": run_id, "cancel": group.kind, "killed": killed, "requested": asked})
            else:
                what = f"{killed} runs are Killed, which had not started; {asked} are being stopped"
                terminal.say(f"{group.kind_of()} {run_id}: {what}")
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

    run_ids = tuple(dict.fromkeys(run_id_of(api, word) for word in run_ids))

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

    run_ids = ids_of(api, run_ids)

    def delete(run_id: str) -> None:
        Run(api, run_id).delete()
        if as_json:
            terminal.echo_json({"id": run_id, "delete": "deleted"})
        else:
            terminal.say(f"run {run_id} is deleted")

    return each(run_ids, delete)


@click.command(epilog="Example: launch-worker retry 1m83cyvtfq1tc69; launch-worker retry b1m83cyvtfq1tc69 --failed")
@click.argument("run_id", metavar="RUN|GROUP")
@click.option("--failed", is_flag=True, help="With a GROUP: only its runs that did not finish.")
@_JSON
@click.pass_obj
def retry_command(url: str | None, run_id: str, failed: bool, as_json: bool) -> None:
    """Start a new attempt of a run that has ended, or of all such runs of a group."""
    api = Api(url)
    run_id = id_of(api, run_id)
    if GROUP_ID.fullmatch(run_id):
        _retry_group(api, run_id, only_failed=failed, as_json=as_json)
        return
    if failed:
        raise InputError(f"--failed is for a group, whose id has 16 characters; {run_id[:40]} is none")
    run = api.run(run_id)
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


def _retry_group(api: Api, group_id: str, *, only_failed: bool, as_json: bool) -> None:
    group = api.group(group_id)
    if group.record.counts["Crashed"]:
        terminal.say(
            "launch-worker: workers stopped reporting while they ran some of these; where one is cut off and not dead, "
            "its job goes on until it learns of the new attempt",
            err=True,
        )
    count = group.retry(only_failed=only_failed)
    if as_json:
        group.refresh()
        terminal.echo_json(group.as_json() | {"retried": count})
    else:
        terminal.say(f"{group.kind_of()} {group_id}: {count} runs are Pending again")


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
    api = Api(url)
    run = api.run(run_id_of(api, run_id))
    state = run.confirm_ended()
    if as_json:
        terminal.echo_json({"id": run.id, "confirm": what, "state": state.value})
    else:
        terminal.say(f"run {run.id} is ", terminal.state(state.value))


@click.command(epilog="Example: launch-worker wait 1m83cyvtfq1tc69")
@_RUNS
@click.option("--timeout", metavar="DUR", help="Give up after this time (exit code 1).")
@_JSON
@click.pass_obj
def wait_command(url: str | None, run_ids: tuple[str, ...], timeout: str | None, as_json: bool) -> int:
    """Wait until runs have ended; exits with the first job's code that is not 0.

    A group's id stands for all its runs: that of an array, a bulk submission or a sweep. The id of an array's first run
    stands for each run of the array, one by one.
    """
    api = Api(url)
    timeout_s = None if timeout is None else parse_duration(timeout, what="timeout")
    codes: list[int] = []

    def wait(run_id: str) -> None:
        group = api.find_group(run_id)
        if group is not None and group.id == f"a{run_id}":
            for run in group.runs():
                wait_for(run)
        else:
            wait_for(group or api.run(run_id))

    def wait_for(one: Run | Group) -> None:
        try:
            one.wait(timeout_s)
        except TimeoutError as error:
            terminal.say(f"launch-worker: {error}", err=True)
            codes.append(1)
            return
        codes.append(one.shell_exit_code())
        if as_json:
            terminal.echo_json(one.as_json())
        elif isinstance(one, Group):
            counts = ", ".join(f"{count} {kind}" for kind, count in one.record.counts.items() if count)
            terminal.say(f"{one.kind_of()} {one.id} is over: {counts or 'no runs'}")
        else:
            terminal.say(f"run {one.id} ", terminal.state(one.record.state.value))

    worst = each(ids_of(api, run_ids, takes_newest=True), wait)
    return worst or next((code for code in codes if code), 0)
