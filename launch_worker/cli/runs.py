"""Defines `runs`: lists runs, once or again and again."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import click

from launch_worker import humane, terminal
from launch_worker.api.client import Api, Run
from launch_worker.api.filters import NEWEST_FIRST, Filter, Order, parse_filter, parse_order
from launch_worker.api.folding import read_page
from launch_worker.api.runs import COUNTED, MAX_PER_PAGE, Runs
from launch_worker.cli.options import WIDE
from launch_worker.cli.runs_table import Columns, Row, lines, parse_columns, sort_path, usual_columns
from launch_worker.cli.selection import conditions_of, selecting
from launch_worker.cli.watching import WATCH, show_or_watch
from launch_worker.errors import InputError
from launch_worker.model.run import Record
from launch_worker.model.sentences import words_for_halt
from launch_worker.model.states import RunState
from launch_worker.terminal import Screen, Styled

_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")


@click.command(epilog="Example: launch-worker runs --state running --queue gpu --limit 20")
@selecting
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most runs shown.")
@click.option("--pending", is_flag=True, help="Those that wait, queue by queue in the order in which they start.")
@click.option(
    "--sort",
    metavar="[-]FIELD",
    help="Order of all that fit, with - the largest first: created, name, summary.loss … (default: -created).",
)
@click.option(
    "-o", "chosen", metavar="COLUMN,…", help="The columns: name,state,config.lr,summary.loss … (any other lists them)."
)
@WIDE
@click.option(
    "--each/--folded",
    default=None,
    help="Each run, or an array, bulk submission or sweep as one row (default: folded on a terminal, each in a pipe).",
)
@click.option(
    "--count-by", metavar="FIELD,…", help=f"In place of runs their number for each value of: {', '.join(COUNTED)}."
)
@WATCH
@_JSON
@click.pass_obj
def runs_command(
    url: str | None,
    /,
    limit: int,
    pending: bool,
    sort: str | None,
    chosen: str | None,
    wide: bool,
    each: bool | None,
    count_by: str | None,
    watch: bool,
    as_json: bool,
    **selection: Any,
) -> None:
    """List runs, the newest first: with an archive all that there were, else those that Redis has yet."""
    if pending and (sort or (selection["state"] and RunState.parse(selection["state"]) is not RunState.PENDING)):
        raise InputError("--pending has an order and a state of its own; leave out --sort and --state")
    if count_by is not None and (pending or sort or watch or chosen):
        raise InputError("--count-by lists no runs; leave out --pending, --sort, -o and --watch")
    if chosen and as_json:
        raise InputError("-o chooses the columns of a table, and --json has all fields; leave one of them out")
    order = parse_order(sort_path(sort) if sort else NEWEST_FIRST)
    columns = parse_columns(chosen) if chosen else usual_columns(places=pending)
    api = Api(url)
    given = conditions_of(api, selection)
    wanted: dict[str, Any] = {"$and": given} if given else {}
    if count_by is not None:
        _print_counts(api.runs(filters=wanted), count_by, limit=limit, as_json=as_json)
        return
    can_fold = (
        columns.fit_groups
        and order.text == NEWEST_FIRST
        and not (pending or as_json or selection["group"] or selection["sweep"])
    )
    if each is False and not can_fold:
        raise InputError(
            "--folded is for the newest first; leave out --json, --pending, --sort, --group, --sweep "
            "and columns of config"
        )
    on_terminal = sys.stdout.isatty() and not as_json
    listed = _List(
        api=api,
        wanted=wanted,
        fits=parse_filter(wanted),
        order=order,
        columns=columns,
        limit=limit,
        line_of=selection["queue"] if pending else None,
        is_folded=can_fold and (on_terminal if each is None else not each),
        is_wide=wide,
        on_terminal=on_terminal,
        as_json=as_json,
    )
    show_or_watch(api.transport, listed.read, draw=listed.draw, show=listed.show, watch=watch, as_json=as_json)


class _Found(NamedTuple):
    """What one reading of a list gave."""

    rows: list[Row]
    #: Whether more runs fit than were asked for, and how many fit in all; None for not known.
    has_more: bool
    number: int | None = None


@dataclass(frozen=True)
class _List:
    """One list, which may be read again and again."""

    api: Api
    #: The filter as it was given, and as it was read.
    wanted: Mapping[str, Any]
    fits: Filter
    order: Order
    columns: Columns
    limit: int
    #: The queue whose line is listed, '' for all queues; None for a list of another order.
    line_of: str | None
    is_folded: bool
    is_wide: bool
    on_terminal: bool
    as_json: bool
    #: Notices that were said, without what is another time in each.
    _said: set[str] = field(default_factory=set)

    def read(self) -> _Found:
        """Read what is shown, and say what the archive has to say of it."""
        most = self.limit + 1
        if self.line_of is not None:
            rows = _in_line(self.api, self.fits, queue=self.line_of, limit=most)
            return _Found(rows[: self.limit], has_more=len(rows) > self.limit)
        if self.is_folded:
            page = read_page(self.api.transport, self.fits, self.order, most=self.limit)
            self._say(page.notices)
            found = _Found(_rows_of_page(self.api, page.rows), has_more=bool(page.next))
        else:
            runs = self.api.runs(filters=self.wanted, order=self.order.text, per_page=min(most, MAX_PER_PAGE))
            rows = [Row(run.record, run.as_json()) for run in runs[:most]]
            self._say(runs.notices)
            found = _Found(rows[: self.limit], has_more=len(rows) > self.limit)
        if not found.has_more or not self.on_terminal:
            return found
        return found._replace(number=self.api.transport.listing(self.fits, self.order, per_page=1).count())

    def draw(self, found: _Found, screen: Screen) -> list[Styled]:
        """The lines for a terminal."""
        if not found.rows:
            return [terminal.styled("no runs")]
        return lines(found.rows, self.columns, screen, self._foot(found))

    def show(self, found: _Found) -> None:
        """Print it."""
        screen = Screen.of(is_wide=self.is_wide)
        if self.as_json:
            for row in found.rows:
                terminal.echo_json(row.run if self.line_of is None else {**row.run, "place": row.place})
        elif not found.rows:
            terminal.say("no runs", err=True)
        elif self.on_terminal:
            terminal.put(self.draw(found, screen))
        else:
            terminal.put(lines(found.rows, self.columns, screen))

    def _say(self, notices: Iterable[str]) -> None:
        """Print those that were not printed before: an archive that is behind says another time again and again."""
        for notice in notices:
            if (what := notice.partition(" is ")[0]) not in self._said:
                self._said.add(what)
                _say_notice(notice)

    def _foot(self, found: _Found) -> str:
        """The sentence below a list on a terminal: how much there is beside it, and how to see that."""
        has_groups = any(row.group for row in found.rows)
        said = []
        if found.has_more:
            of = ", and there are more" if found.number is None else f" of {humane.count(found.number)}"
            if has_groups:
                of = "" if found.number is None else f", {humane.plural(found.number, 'run')} in all"
            said.append(f"{len(found.rows)}{' rows' if has_groups else ''}{of}")
            said.append(f"more: --limit {self.limit * 5}" + ("" if self.wanted else ", filters: --state failed"))
        if has_groups:
            said.append("each run of a group: --each")
        return "; ".join(said)


def _rows_of_page(api: Api, found: Sequence[tuple[Record, str]]) -> list[Row]:
    """The rows of runs and, with its id, of groups."""
    groups = api.transport.known_groups([group for _, group in found if group])
    rows = []
    for record, group in found:
        row = Row(record, record.as_json() if group else Run(api, record.id, record=record, is_snapshot=True).as_json())
        if group and (known := groups.get(group)) is not None:
            facts = known.id, known.counts, known.created_at, known.ended_at
            row = Row.of_group(row, *facts, name=known.name, halt=words_for_halt(known))
        elif group:
            row = Row.of_group(row, group, _counted(api, group), 0, record.ended_at)
        rows.append(row)
    return rows


def _counted(api: Api, group: str) -> dict[str, int]:
    """The runs by state of a group that Redis has forgotten, or of which not all may be seen; none for not known."""
    try:
        return {values[0]: number for values, number in api.runs(filters={"group": group}).counts("state").items()}
    except InputError:
        return {}


def _in_line(api: Api, fits: Filter, *, queue: str, limit: int) -> list[Row]:
    """Pending runs and their places, queue by queue. Runs that are not ready have no place and come last."""
    found = api.transport.in_line(fits, queue=queue, limit=limit)
    return [Row(record, Run(api, record.id, record=record).as_json(), place) for record, place in found]


def _print_counts(runs: Runs, count_by: str, *, limit: int, as_json: bool) -> None:
    """Print the most frequent values, and how many others there are."""
    names = [name.strip() for name in count_by.split(",")]
    counted = runs.counts(names)
    for notice in runs.notices:
        _say_notice(notice)
    fields = list(dict.fromkeys(names))
    shown = list(counted.items())[:limit]
    if as_json:
        for values, number in shown:
            terminal.echo_json(dict(zip(fields, values, strict=True)) | {"runs": number})
    elif shown:
        columns = [terminal.Column(name.upper(), least=12) for name in fields]
        terminal.table([*columns, terminal.Column("RUNS")], [(*values, number) for values, number in shown])
    else:
        terminal.say("no runs", err=True)
    if len(counted) > limit:
        _say_notice(f"{len(counted) - limit} more are not shown; --limit shows more")


def _say_notice(notice: str) -> None:
    terminal.say(f"launch-worker: {notice}", err=True)
