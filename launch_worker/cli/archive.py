"""Defines `archive`: keeps what Redis forgets, says how that is, deletes and exports it."""

from __future__ import annotations

import logging
import re
import signal
import threading
import time
from typing import Any

import click

from launch_worker import humane, terminal
from launch_worker.api.client import Api
from launch_worker.cli.configuring import setting
from launch_worker.database import open_database
from launch_worker.errors import InputError
from launch_worker.humane import plural
from launch_worker.model.checks import PROJECT
from launch_worker.model.states import RunState
from launch_worker.model.units import as_us, isoformat, parse_duration, parse_time
from launch_worker.runners.process.own_process import have_usual_signals
from launch_worker.settings import Settings
from launch_worker.store.redis.safety import check_safe
from launch_worker.store.store import Store
from launch_worker.submission.sent import me
from launch_worker.untrusted.log_line import OneLine

_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
_YES = click.option("--yes", is_flag=True, help="Do not ask.")
_STATE = click.option("--state", default="", help="Only runs in this state, in any letter case.")
_PROJECT = click.option("--project", default="", metavar="ENTITY/PROJECT", help="Only runs of this project.")
_YEAR_S = 365 * 86400.0
_FORMAT = "%(asctime)s %(levelname)s %(message)s"


@click.group(epilog="Example: launch-worker archive run")
def archive_command() -> None:
    """Keep what Redis forgets: runs, attempts and transitions, in SQLite or PostgreSQL (LAUNCH_DATABASE_URL).

    Without LAUNCH_DATABASE_URL it is the file archive.db in the work folder (LAUNCH_WORK_DIR).
    """


@archive_command.command("run", epilog="Example: LAUNCH_DATABASE_URL=postgresql:///launch launch-worker archive run")
@click.pass_obj
def run_command(url: str | None) -> None:
    """Write the archive until SIGTERM or Ctrl-C: follow all changes, and mend what it missed.

    Any number of these processes may be started; one writes, and the others wait to take over.
    """
    stopping = threading.Event()
    have_usual_signals(but_hang_up=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    handler = logging.StreamHandler()
    handler.addFilter(OneLine())
    logging.basicConfig(level=logging.INFO, format=_FORMAT, handlers=[handler])
    # Alembic and others say little that a person needs.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = Settings.from_env(redis_url=url)
    check_safe(settings)
    database = open_database(settings, create=True, writes_archive=True)
    # Imported with SQLAlchemy there for certain.
    from launch_worker.archive.follow import Archive
    from launch_worker.notifications.deliver import deliverer_of

    store = Store(settings.redis_url, settle_s=settings.settle_s)
    # One that waits to take over sends notices too: a channel is lent to one sender at a time.
    deliverer = deliverer_of(store, database, settings)
    deliverer.start()
    try:
        Archive(
            store,
            database,
            stopping=stopping,
            health_file=settings.health_file,
            log_url=settings.log_url,
            output_url=settings.output_url,
            retention_s=settings.retention_s,
        ).run()
    finally:
        deliverer.stop()


@archive_command.command("status", epilog="Example: launch-worker archive status --json")
@_JSON
@click.pass_obj
def status_command(url: str | None, as_json: bool) -> None:
    """Say whether a process writes the archive, how far behind it is, and what it has."""
    api = Api(url)
    # Where it is: for who manages it, not for people of a server.
    store = api.store
    database = open_database(api.settings)
    from launch_worker.archive.status import status

    found = status(database, store)
    if as_json:
        terminal.echo_json(found.as_json())
        return
    total = sum(count for name, count in found.counts.items() if name != "deleted")
    shown = {
        "archive": f"{found.database} ({humane.size(found.size_bytes)})",
        "written by": found.leader.rpartition(":")[0] or "nobody; start: launch-worker archive run",
        "behind": humane.duration(found.lag_s) if found.lag_s else "no",
        "newest change": isoformat(found.applied_at or None),
        "compared with Redis": _walked(found.walk_ended_at, found.walk_mended),
        "runs": f"{total:,}",
    }
    shown |= {f"  {name}": f"{count:,}" for name, count in found.counts.items()}
    if found.undeleted_logs:
        shown["logs to delete"] = f"of {plural(found.undeleted_logs, 'deleted run')}"
    for name, value in shown.items():
        setting(name, value if value is not None else "never")


def _walked(ended_at: int, mended: int) -> str | None:
    return f"{isoformat(ended_at)}, {plural(mended, 'run was', 'runs were')} mended" if ended_at else None


@archive_command.command("prune", epilog="Example: launch-worker archive prune --older-than 2y --yes")
@click.option("--older-than", required=True, metavar="DUR", help="Runs that ended longer ago: 90d, 2y.")
@_YES
@_JSON
@click.pass_obj
def prune_command(url: str | None, older_than: str, yes: bool, as_json: bool) -> None:
    """Delete old runs from the archive, and from Redis where it still has them.

    The archive's process deletes their whole logs (LAUNCH_LOG_URL).
    """
    _delete(url, older_than=older_than, state="", project="", yes=yes, as_json=as_json)


@archive_command.command(
    "delete", epilog="Example: launch-worker archive delete --state failed --project ada/tries --older-than 90d"
)
@click.option("--older-than", metavar="DUR", help="Only runs that ended longer ago: 90d, 2y.")
@_STATE
@_PROJECT
@_YES
@_JSON
@click.pass_obj
def delete_command(url: str | None, older_than: str | None, state: str, project: str, yes: bool, as_json: bool) -> None:
    """Delete runs that have ended from the archive, and from Redis where it still has them. It says first how many.

    The archive's process deletes their whole logs (LAUNCH_LOG_URL).
    """
    if not (older_than or state or project):
        raise InputError("say which runs to delete, by --older-than, --state or --project")
    _delete(url, older_than=older_than, state=state, project=project, yes=yes, as_json=as_json)


def _delete(url: str | None, *, older_than: str | None, state: str, project: str, yes: bool, as_json: bool) -> None:
    age_s = _age_s(older_than) if older_than else None
    given = _selection(state, project)
    api = Api(url)
    # Where it is: for who manages it, not for people of a server.
    store = api.store
    database = open_database(api.settings)
    from launch_worker.archive.deletion import delete_runs
    from launch_worker.archive.selection import Selection, preview
    from launch_worker.database.version import check_version

    check_version(database)
    before = api.transport.now_us() - as_us(age_s) if age_s is not None else None
    selection = Selection(ended_before=before, **given)
    found = preview(database, selection)
    if not as_json:
        states = ", ".join(f"{count:,} {name}" for name, count in found.by_state.items())
        between = f": {states}; created from {isoformat(found.oldest)} to {isoformat(found.newest)}"
        terminal.say(f"{plural(found.count, 'run')} would be deleted", between if found.count else "", err=True)
    if not found.count and not as_json:
        return
    if not yes:
        click.confirm("Delete them for good?", abort=True, err=True)
    keep_s = api.settings.retention_s
    deleted = sum(delete_runs(database, store, selection, who=me(), keep_s=keep_s))
    if as_json:
        terminal.echo_json({"deleted": deleted})
    else:
        terminal.say(f"{plural(deleted, 'run is', 'runs are')} deleted")


@archive_command.command("export", epilog="Example: launch-worker archive export --format csv --since 30d > runs.csv")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="jsonl", show_default=True, help="Form.")
@click.option("--since", metavar="TIME", help="Only runs created since: 30d ago, or a date.")
@click.option("--until", metavar="TIME", help="Only runs created before.")
@_STATE
@_PROJECT
@click.pass_obj
def export_command(url: str | None, form: str, since: str | None, until: str | None, state: str, project: str) -> None:
    """Print runs one a line: as CSV, or as JSON with their attempts, transitions and usage."""
    given: dict[str, Any] = _selection(state, project)
    given |= {"created_from": _moment(since, "--since"), "created_before": _moment(until, "--until")}
    database = open_database(Api(url).direct.settings)
    from launch_worker.archive.export import csv_lines, objects
    from launch_worker.archive.selection import Selection
    from launch_worker.database.version import check_version

    check_version(database)
    selection = Selection(**given)
    if form == "csv":
        for line in csv_lines(database, selection):
            terminal.say(line)
    else:
        for run in objects(database, selection):
            terminal.echo_json(run)


def _age_s(text: str) -> float:
    """Seconds of an age: a duration, or a number of years."""
    years = re.fullmatch(r"(\d{1,2})y", text)
    if years:
        return int(years[1]) * _YEAR_S
    try:
        return parse_duration(text, what="--older-than")
    except InputError:
        raise InputError(f"--older-than {text[:40]!r} is not an age; write it as 12h, 90d or 2y") from None


def _selection(state: str, project: str) -> dict[str, Any]:
    if project and not PROJECT.fullmatch(project):
        raise InputError(f"project {project[:60]!r} is not a project; write it as ENTITY/PROJECT")
    return {"state": RunState.parse(state) if state else None, "project": project}


def _moment(text: str | None, what: str) -> int | None:
    """Microseconds of a time, or of a duration before now."""
    if text is None:
        return None
    try:
        return time.time_ns() // 1000 - as_us(parse_duration(text, what=what))
    except InputError:
        return parse_time(text, what=what)
