"""Defines `cancel`, `preempt`, `delete`, `retry`, `confirm` and `wait`: steers runs, and waits for their ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from launch_worker import terminal
from launch_worker.api.client import Api, Run
from launch_worker.api.groups import Group
from launch_worker.cli.errors import each
from launch_worker.cli.many import Brake, act_on_all, act_on_chosen, check_ways, with_brake
from launch_worker.cli.selection import selecting
from launch_worker.cli.words import ids_of, run_id_of
from launch_worker.errors import DeletedRunError, InputError, UnknownRunError
from launch_worker.ids import GROUP_ID, RUN_ID
from launch_worker.model.states import RunState
from launch_worker.model.units import parse_duration

_RUN = click.argument("run_id", metavar="RUN")
_RUNS = click.argument("run_ids", metavar="RUN…", nargs=-1, required=True)
_WORDS = click.argument("words", metavar="[RUN…]", nargs=-1)
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")


@click.command(epilog="Example: launch-worker cancel @; launch-worker cancel --queue gpu --pending")
@_WORDS
@selecting
@click.option("--pending", is_flag=True, help="The same as --state pending.")
@click.option("--now", is_flag=True, help="SIGKILL at once, without the run's grace.")
@click.option("--alone", is_flag=True, help="Only the first run of an array, which has the array's id.")
@with_brake
@_JSON
@click.pass_obj
def cancel_command(
    url: str | None,
    /,
    words: tuple[str, ...],
    pending: bool,
    now: bool,
    alone: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    **selection: Any,
) -> int:
    """Stop runs: a Pending one is Killed at once, a Running one gets SIGTERM, then SIGKILL after its grace.

    A group's id stands for all its runs: an array's (also without its first letter), a bulk submission's or a sweep's.
    Options choose many runs: what would happen is shown first.
    """
    if pending and selection["state"]:
        raise InputError("--pending is --state pending; leave one of them out")
    selection["state"] = "pending" if pending else selection["state"]
    api, grace_s = Api(url), 0.0 if now else None
    brake = Brake(yes, dry_run)
    if check_ways(words, selection, brake, "cancel"):
        return act_on_chosen(api, "cancel", selection, brake, as_json=as_json, grace_s=grace_s)

    def cancel(run_id: str) -> None:
        group = None if alone else api.find_group(run_id)
        if group is not None:
            killed, asked = group.cancel(grace_s=grace_s)
            if as_json:
                terminal.echo_json({"id": run_id, "cancel": group.kind, "killed": killed, "requested": asked})
            else:
                what = f"{killed} runs are Killed, which had not started; {asked} are being stopped"
                terminal.say(f"{group.kind_of()} {run_id}: {what}")
            return
        word = Run(api, run_id).cancel(grace_s=grace_s)
        if as_json:
            terminal.echo_json({"id": run_id, "cancel": word})
        else:
            terminal.say(
                f"run {run_id} " + ("is Killed; it had not started" if word == "killed" else "is being stopped")
            )

    return each(ids_of(api, words, all_by="launch-worker cancel --name NAME"), cancel)


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


@click.command(epilog="Example: launch-worker delete @; launch-worker delete --state failed --until 30d")
@_WORDS
@selecting
@with_brake
@_JSON
@click.pass_obj
def delete_command(
    url: str | None, /, words: tuple[str, ...], yes: bool, dry_run: bool, as_json: bool, **selection: Any
) -> int:
    """Delete runs with all that is kept of them; one that waits is never executed, one that runs is refused.

    A group's id stands for all its runs. Options choose many runs: what would happen is shown first.
    """
    api, brake = Api(url), Brake(yes, dry_run)
    if check_ways(words, selection, brake, "delete"):
        return act_on_chosen(api, "delete", selection, brake, as_json=as_json)
    codes: list[int] = []

    def delete(run_id: str) -> None:
        group = api.group(run_id) if GROUP_ID.fullmatch(run_id) else None
        if group is None:
            try:
                Run(api, run_id).delete()
            except DeletedRunError:
                raise
            except UnknownRunError:
                group = _sweep(api, run_id)
                if group is None:
                    raise
        if group is not None:
            what = f"{group.kind_of()} {group.id}: "
            codes.append(act_on_all(api, "delete", [run.id for run in group.runs()], what=what, as_json=as_json))
        elif as_json:
            terminal.echo_json({"id": run_id, "delete": "deleted"})
        else:
            terminal.say(f"run {run_id} is deleted")

    worst = each(ids_of(api, words, all_by="launch-worker delete --name NAME"), delete)
    return max([worst, *codes])


def _sweep(api: Api, run_id: str) -> Group | None:
    """The sweep of this id, which looks as a run's; None for none, and for the array of that first run."""
    found = api.find_group(run_id)
    return found if found is not None and found.kind == "sweep" else None


@click.command(epilog="Example: launch-worker retry @; launch-worker retry b1m83cyvtfq1tc69 --failed")
@_WORDS
@selecting
@click.option("--failed", is_flag=True, help="Of a group: only its runs that did not finish.")
@click.option("--from-scratch", is_flag=True, help="Of runs that are named: pass their checkpoints over.")
@click.option(
    "--not-on-same-worker", is_flag=True, help="Of runs and groups that are named: on other workers, while there are."
)
@with_brake
@_JSON
@click.pass_obj
def retry_command(
    url: str | None,
    /,
    words: tuple[str, ...],
    failed: bool,
    from_scratch: bool,
    not_on_same_worker: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    **selection: Any,
) -> int:
    """Start a new attempt of runs that have ended, or of all such runs of a group.

    It goes on from the newest checkpoint, if the run has one. Options choose many runs: what would happen is shown
    first.
    """
    api, brake = Api(url), Brake(yes, dry_run)
    how = {"from_scratch": from_scratch, "not_on_same_worker": not_on_same_worker}
    if check_ways(words, selection, brake, "retry"):
        of_named = next((f"--{name.replace('_', '-')}" for name, is_asked in how.items() if is_asked), "")
        if of_named:
            raise InputError(f"{of_named} is for runs that are named, one or several")
        if failed:
            raise InputError("--failed is for a group that is named; choose by: --state failed")
        return act_on_chosen(api, "retry", selection, brake, as_json=as_json)

    def retry(run_id: str) -> None:
        group = None
        if GROUP_ID.fullmatch(run_id):
            group = api.group(run_id)
        elif failed:
            group = api.find_group(run_id)
            if group is None:
                raise InputError(f"--failed is for a group, and run {run_id[:40]} is none")
        if group is not None and from_scratch:
            raise InputError("--from-scratch is for single runs, not for a group")
        if group is not None:
            _retry_group(group, only_failed=failed, elsewhere=not_on_same_worker, as_json=as_json)
        else:
            _retry_run(api, run_id, how, as_json=as_json)

    return each(ids_of(api, words, all_by="launch-worker retry --name NAME"), retry)


def _retry_run(api: Api, run_id: str, how: Mapping[str, bool], *, as_json: bool) -> None:
    try:
        run = api.run(run_id)
    except UnknownRunError:
        group = _sweep(api, run_id) if RUN_ID.fullmatch(run_id) else None
        if group is None:
            raise
        group.retry()
        return
    crashed = run.record.state is RunState.CRASHED
    run.retry(**how)
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
        terminal.say(f"run {run.id} is Pending again, in queue {run.record.queue}")


def _retry_group(group: Group, *, only_failed: bool, elsewhere: bool, as_json: bool) -> None:
    if group.record.counts["Crashed"]:
        terminal.say(
            "launch-worker: workers stopped reporting while they ran some of these; where one is cut off and not dead, "
            "its job goes on until it learns of the new attempt",
            err=True,
        )
    count = group.retry(only_failed=only_failed, not_on_same_worker=elsewhere)
    if as_json:
        group.refresh()
        terminal.echo_json(group.as_json() | {"retried": count})
    else:
        terminal.say(f"{group.kind_of()} {group.id}: {count} runs are Pending again")


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
