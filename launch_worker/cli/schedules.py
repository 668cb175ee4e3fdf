"""Defines `schedules`: recurring submissions."""

from __future__ import annotations

import re
import shlex
from typing import Any, NamedTuple

import click

from launch_worker import terminal
from launch_worker.api.client import Api
from launch_worker.cli.configuring import setting
from launch_worker.cli.options import WIDE
from launch_worker.cli.submit_options import RECURRENCE, SCHEDULE_OPTIONS, STRICT, given_options, with_options
from launch_worker.cli.words import inputs_of
from launch_worker.errors import InputError
from launch_worker.model.schedule import Schedule, check_recurring, unknown_schedule
from launch_worker.submission.options import Item, read_options
from launch_worker.submission.requirements import attach
from launch_worker.submission.resolve import current_folder
from launch_worker.terminal import Column

_NAME = click.argument("name")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")


class Kept(NamedTuple):
    """A schedule in the store."""

    schedule: Schedule
    #: Its next time, microseconds.
    next_us: int


@click.group(
    invoke_without_command=True,
    epilog="Example: launch-worker schedules create nightly --cron '0 3 * * *' -- python train.py",
)
@WIDE
@_JSON
@click.pass_context
def schedules_command(ctx: click.Context, wide: bool, as_json: bool) -> None:
    """List recurring submissions, and make them. Beat submits them, or a worker where there is no beat."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, wide=wide, as_json=as_json)


@schedules_command.command("list", epilog="Example: launch-worker schedules list --json")
@WIDE
@_JSON
@click.pass_obj
def list_command(url: str | None, wide: bool, as_json: bool) -> None:
    """List recurring submissions, the next one first."""
    rows = []
    for name, text, next_us in Api(url).transport.schedules():
        try:
            rows.append(Schedule.from_json(text).as_json(next_us))
        except InputError as error:
            rows.append({"name": name, "problem": str(error)})
    if as_json:
        for row in rows:
            terminal.echo_json(row)
        return
    if not rows:
        terminal.say("no schedules", err=True)
        return
    terminal.table(
        _COLUMNS,
        [
            (
                *(row["name"], _when(row), row.get("cron"), row.get("timezone"), row.get("queue")),
                *(row.get("next_at"), row.get("problem")),
            )
            for row in rows
        ],
        is_wide=wide,
    )


_COLUMNS = (
    Column("NAME", least=16),
    Column("NEXT"),
    Column("CRON"),
    Column("TIMEZONE", 2),
    Column("QUEUE", 1, least=10),
    Column("NEXT AT", 3),
    Column("PROBLEM", 4, least=30, falls=True),
)


def _when(row: dict[str, Any]) -> str:
    return terminal.styled("paused", colour="yellow") if row.get("paused") else terminal.ago(row.get("next_at"))


@schedules_command.command(
    "create",
    epilog="Example: launch-worker schedules create nightly --cron '0 3 * * *' --timezone UTC -- python train.py",
)
@click.argument("schedule", metavar="NAME")
@click.option("--cron", required=True, metavar="CRON", help="'MINUTE HOUR DAY MONTH WEEKDAY', or @daily.")
@with_options(*RECURRENCE, STRICT, *SCHEDULE_OPTIONS)
@_JSON
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def create_command(
    url: str | None,
    /,
    schedule: str,
    command: tuple[str, ...],
    cron: str,
    timezone: str | None,
    missed: str | None,
    overlap: str | None,
    strict: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Submit COMMAND again and again."""
    given = {"name": schedule} | given_options(command, options)
    if "inputs" in given:
        given["inputs"] = inputs_of(url, given["inputs"])
    folder = current_folder() or ""
    item = attach(read_options(given, folder=folder), folder=folder)
    kept = add_schedule(
        Api(url),
        item,
        cron=cron,
        name=schedule,
        timezone=timezone,
        missed=missed,
        overlap=overlap,
        strict=strict,
    )
    show_added(kept, as_json=as_json, quiet=False)


@schedules_command.command("show", epilog="Example: launch-worker schedules show nightly --json")
@_NAME
@_JSON
@click.pass_obj
def show_command(url: str | None, name: str, as_json: bool) -> None:
    """Show when a recurring submission comes and what it submits."""
    found = Api(url).transport.schedule(name)
    if found is None:
        raise unknown_schedule(name)
    text, next_us = found
    shown = Schedule.from_json(text).as_json(next_us)
    if as_json:
        terminal.echo_json(shown)
        return
    run = shown.pop("run")
    if isinstance(command := run.get("command"), list):
        run["command"] = shlex.join(map(str, command))
    for name in ("next_at", "created_at"):
        if shown.get(name):
            shown[name] = f"{shown[name]} ({terminal.ago(shown[name])})"
    for key, value in (shown | {f"run {key}": value for key, value in run.items() if key != "queue"}).items():
        if value not in (None, "", [], {}):
            setting(key.replace("_", " "), value)


@schedules_command.command("pause", epilog="Example: launch-worker schedules pause nightly")
@_NAME
@_JSON
@click.pass_obj
def pause_command(url: str | None, name: str, as_json: bool) -> None:
    """Let the times of a recurring submission come and go without a run."""
    _pause(url, name, paused=True, as_json=as_json)


@schedules_command.command("resume", epilog="Example: launch-worker schedules resume nightly")
@_NAME
@_JSON
@click.pass_obj
def resume_command(url: str | None, name: str, as_json: bool) -> None:
    """Have the times of a paused one make runs again, from the next on."""
    _pause(url, name, paused=False, as_json=as_json)


def _pause(url: str | None, name: str, *, paused: bool, as_json: bool) -> None:
    if not Api(url).transport.pause_schedule(name, paused=paused):
        raise unknown_schedule(name)
    if as_json:
        terminal.echo_json({"name": name, "paused": paused})
    else:
        terminal.say(f"schedule {name} is paused" if paused else f"schedule {name} goes on")


@schedules_command.command("delete", epilog="Example: launch-worker schedules delete nightly")
@_NAME
@_JSON
@click.pass_obj
def delete_command(url: str | None, name: str, as_json: bool) -> None:
    """Take a recurring submission away. Runs that it submitted stay."""
    if not Api(url).transport.delete_schedule(name):
        raise unknown_schedule(name)
    if as_json:
        terminal.echo_json({"name": name, "deleted": True})
    else:
        terminal.say(f"schedule {name} is deleted")


def add_schedule(
    api: Api,
    item: Item,
    *,
    cron: str,
    name: str | None,
    timezone: str | None,
    missed: str | None,
    overlap: str | None,
    strict: bool,
) -> Kept:
    """Keep a recurring submission of the item. Raises InputError, also where one of that name is there."""
    transport = api.transport
    check_recurring(item.given)
    api.check_unsigned(item.queue, what="a schedule")
    transport.check_items([item], strict=strict)
    spec = transport.complete(item.given)
    given = item.given | {"author": spec.author}
    if api.settings.project:
        given.setdefault("project", api.settings.project)
    if item.upload is not None:
        given["upload"] = transport.send_folder(item.upload)
    elif not spec.uri and (folder := current_folder()) is not None:
        # Without `cwd_required`, so that a folder among the queue's defaults replaces it.
        given.setdefault("cwd", folder)
    now = transport.now_us()
    schedule = Schedule(
        name=name or re.sub(r"[^A-Za-z0-9_.-]+", "-", spec.name).strip("-._")[:100] or "schedule",
        cron=cron,
        given=given,
        timezone=timezone or _own_timezone(),
        missed=missed or "skip",
        overlap=overlap or "allow",
        made_at=now,
    )
    next_us = schedule.next_after(now)
    text, next_us = transport.keep_schedule(schedule.name, schedule.to_json(), next_us)
    return Kept(Schedule.from_json(text), next_us)


def show_added(kept: Kept, *, as_json: bool, quiet: bool) -> None:
    """Print what was kept."""
    shown = kept.schedule.as_json(kept.next_us)
    if as_json:
        terminal.echo_json(shown)
    elif quiet:
        terminal.say(kept.schedule.name)
    else:
        terminal.say(f"schedule {shown['name']} is kept; its next run is at {shown['next_at']} ({shown['timezone']})")


def _own_timezone() -> str:
    from tzlocal import get_localzone_name

    return get_localzone_name() or "UTC"
