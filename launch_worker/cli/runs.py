"""Defines `runs`: lists runs, once or again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from launch_worker import terminal
from launch_worker.api.client import Api, Run
from launch_worker.api.filters import Filter, parse_filter
from launch_worker.api.runs import COUNTED, MAX_PER_PAGE
from launch_worker.cli.watching import WATCH, printed, show_or_watch
from launch_worker.errors import InputError
from launch_worker.model.checks import PROJECT
from launch_worker.model.states import RunState
from launch_worker.model.units import since_ms
from launch_worker.untrusted.text import read_json

_COLUMNS = ("ID", "NAME", "STATE", "QUEUE", "PROJECT", "AGE", "TIME", "REASON")
_SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "created": lambda run: run["created_at"] or "",
    "name": lambda run: run["name"],
    "state": lambda run: (list(RunState).index(RunState.parse(run["state"])), run["created_at"] or ""),
    "queue": lambda run: (run["queue"], run["created_at"] or ""),
}

_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")


@click.command(epilog="Example: launch-worker runs --state running --queue gpu --limit 20")
@click.option("--state", default="", help="Only runs in this state, in any letter case.")
@click.option("--project", default="", metavar="ENTITY/PROJECT", help="Only runs of this project.")
@click.option("--queue", default="", help="Only runs of this queue.")
@click.option("--sweep", default="", metavar="ID", help="Only runs of this sweep.")
@click.option("--group", default="", metavar="ID", help="Only runs of this array, bulk submission or sweep.")
@click.option("--tag", "tags", multiple=True, help="Only runs with this tag; may be repeated.")
@click.option(
    "--filter",
    "filters",
    metavar="JSON",
    help="""Only runs that fit, as in W&B: '{"config.lr": {"$gt": 0.01}}' (docs/python.md).""",
)
@click.option("--name", default="", help="Only runs with this name.")
@click.option("--author", default="", metavar="USER@HOST", help="Only runs whose submitter said this.")
@click.option("--user", default="", help="Only runs that this user submitted through a server, which has proven it.")
@click.option(
    "--text", "texts", multiple=True, help="Only runs with this in their name, command, tags, config or reason."
)
@click.option("--since", metavar="WHEN", help="Only runs created since then: 30d, 2h, 14:30, 2030-01-31.")
@click.option("--until", metavar="WHEN", help="Only runs created before then.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most runs shown.")
@click.option("--pending", is_flag=True, help="Those that wait, queue by queue in the order in which they start.")
@click.option(
    "--sort", type=click.Choice(list(_SORTS)), help="Order of those shown (default: created, the newest first)."
)
@click.option(
    "--count-by", metavar="FIELD,…", help=f"In place of runs their number for each value of: {', '.join(COUNTED)}."
)
@WATCH
@_JSON
@click.pass_obj
def runs_command(
    url: str | None,
    state: str,
    project: str,
    queue: str,
    sweep: str,
    group: str,
    tags: tuple[str, ...],
    filters: str | None,
    name: str,
    author: str,
    user: str,
    texts: tuple[str, ...],
    since: str | None,
    until: str | None,
    limit: int,
    pending: bool,
    sort: str | None,
    count_by: str | None,
    watch: bool,
    as_json: bool,
) -> None:
    """List runs, the newest first: with an archive all that there were, else those that Redis has yet."""
    if pending and (sort or (state and RunState.parse(state) is not RunState.PENDING)):
        raise InputError("--pending has an order and a state of its own; leave out --sort and --state")
    if count_by is not None and (pending or sort or watch):
        raise InputError("--count-by lists no runs; leave out --pending, --sort and --watch")
    if project and not PROJECT.fullmatch(project):
        raise InputError(f"project {project[:60]!r} is not a project; write it as ENTITY/PROJECT")
    fields = {"state": state, "project": project, "queue": queue, "sweep": sweep, "group": group}
    fields |= {"name": name, "author": author, "user": user}
    given: list[Any] = [{field: value} for field, value in fields.items() if value]
    given += [{"tags": tag} for tag in tags] + [{"text": {"$contains": text}} for text in texts]
    given.append(_read_filter(filters))
    api = Api(url)
    if since or until:
        now_ms = api.transport.now_us() // 1000
        for what, word, at in (("--since", "$gte", since), ("--until", "$lt", until)):
            given += [{"created_at": {word: since_ms(at, now_ms, what=what) / 1000}}] if at else []
    wanted: dict[str, Any] = {"$and": given}
    fits = parse_filter(wanted)
    said: set[str] = set()

    def say(notices: Iterable[str]) -> None:
        for notice in notices:
            # An archive that is behind says another time again and again.
            if notice.partition(" is ")[0] not in said:
                said.add(notice.partition(" is ")[0])
                terminal.say(f"launch-worker: {notice}", err=True)

    if count_by is not None:
        runs = api.runs(filters=wanted)
        names = [name.strip() for name in count_by.split(",")]
        counted = runs.counts(names)
        say(runs.notices)
        _print_counts(names, counted, limit=limit, as_json=as_json)
        return

    def rows() -> list[tuple[dict[str, Any], int | None]]:
        if pending:
            return _in_line(api, fits, queue=queue, limit=limit)
        runs = api.runs(filters=wanted, per_page=min(limit, MAX_PER_PAGE))
        found = [run.as_json() for run in runs[:limit]]
        say(runs.notices)
        return [(run, None) for run in (sorted(found, key=_SORTS[sort]) if sort else found)]

    show_or_watch(
        api.transport,
        rows,
        draw=lambda found, _: printed(lambda: _print(found, places=pending, as_json=False)),
        show=lambda found: _print(found, places=pending, as_json=as_json),
        watch=watch,
        as_json=as_json,
    )


def _read_filter(text: str | None) -> Any:
    try:
        return read_json(text) if text is not None else {}
    except ValueError:
        raise InputError(
            f"""--filter {str(text)[:60]!r} is not JSON; write it as '{{"config.lr": {{"$gt": 0.01}}}}'"""
        ) from None


def _in_line(api: Api, fits: Filter, *, queue: str, limit: int) -> list[tuple[dict[str, Any], int | None]]:
    """Pending runs and their places, queue by queue. Runs that are not ready have no place and come last."""
    found = api.transport.in_line(fits, queue=queue, limit=limit)
    return [(Run(api, record.id, record=record).as_json(), place) for record, place in found]


def _print(rows: Sequence[tuple[dict[str, Any], int | None]], *, places: bool, as_json: bool) -> None:
    if as_json:
        for run, place in rows:
            terminal.echo_json(run | {"place": place} if places else run)
        return
    if not rows:
        terminal.say("no runs", err=True)
        return
    if places:
        terminal.table(("PLACE", *_COLUMNS), [(place, *_row(run)) for run, place in rows])
    else:
        terminal.table(_COLUMNS, [_row(run) for run, _ in rows])


def _print_counts(fields: Sequence[str], counted: dict[tuple[str, ...], int], *, limit: int, as_json: bool) -> None:
    """Print the most frequent values, and how many others there are."""
    fields = list(dict.fromkeys(fields))
    shown = list(counted.items())[:limit]
    if as_json:
        for values, number in shown:
            terminal.echo_json(dict(zip(fields, values, strict=True)) | {"runs": number})
    elif shown:
        terminal.table([*(field.upper() for field in fields), "RUNS"], [(*values, number) for values, number in shown])
    else:
        terminal.say("no runs", err=True)
    if len(counted) > limit:
        terminal.say(f"launch-worker: {len(counted) - limit} more are not shown; --limit shows more", err=True)


def _row(run: dict[str, Any]) -> tuple[Any, ...]:
    return (
        run["id"],
        run["name"] if (index := run["spec"].get("array_index")) is None else f"{run['name']}[{index}]",
        run["state"],
        run["queue"],
        run["project"],
        terminal.ago(run["created_at"]),
        terminal.run_time(run),
        run["reason"],
    )
