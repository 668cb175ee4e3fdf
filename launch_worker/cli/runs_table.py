"""Shows runs as a table: the columns that were chosen, and a group in one row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from launch_worker import humane, terminal
from launch_worker.api.filters import value_of
from launch_worker.api.folding import loudest
from launch_worker.errors import InputError
from launch_worker.model.run import Record
from launch_worker.model.units import isoformat
from launch_worker.terminal import Column, Screen, Styled, Table, Tailed, state_cell, styled


class Row(NamedTuple):
    """A run, or a group described by one of its runs."""

    record: Record
    #: Object of `runs --json`.
    run: Mapping[str, Any]
    #: Place in its queue; None for none.
    place: int | None = None
    #: Id of the group in whose place it stands; '' for a run.
    group: str = ""
    #: Runs of the group by state, and its times as ISO texts.
    counts: Mapping[str, int] | None = None
    created_at: str | None = None
    ended_at: str | None = None
    #: Why the rest of the group was not started; '' where it was.
    halt: str = ""

    @classmethod
    def of_group(
        cls,
        row: Row,
        group: str,
        counts: Mapping[str, int],
        begun: int,
        ended: int | None,
        *,
        name: str = "",
        halt: str = "",
    ) -> Row:
        """The row of a group in place of that of one of its runs, whose name it has if it has none itself."""
        created_at = isoformat(begun) if begun else row.run["created_at"]
        run = {**row.run, "name": name or row.run["name"]}
        return row._replace(
            run=run, group=group, counts=counts, created_at=created_at, ended_at=isoformat(ended), halt=halt
        )


def _state(row: Row) -> Any:
    state = loudest(row.counts) if row.counts else None
    return state_cell(state.value if state else row.run["state"])


def _name(row: Row) -> Any:
    index = row.run["spec"].get("array_index")
    if not row.group:
        return row.run["name"] if index is None else Tailed(row.run["name"], styled(f"[{index}]"))
    size = sum((row.counts or {}).values())
    is_whole = isinstance(index, int) and 0 < size == index + 1
    which = f" [0-{index}] " if is_whole else f" [{humane.plural(size, 'run')}] " if size else " [group]"
    return lambda screen: Tailed(
        row.run["name"], terminal.joined(styled(which, dim=True), terminal.counted(row.counts or {}, screen))
    )


def _time(row: Row) -> str:
    if not row.group:
        return terminal.run_time(dict(row.run))
    times = {"started_at": row.created_at, "ended_at": row.ended_at}
    is_waiting = not any(number for state, number in (row.counts or {}).items() if state != "Pending")
    return "" if is_waiting else terminal.run_time(times)


def _reason(row: Row) -> Any:
    if row.group:
        return row.halt or None
    reason = row.run["reason"]
    if not (reason or "").startswith("scheduled for ") or not row.run["due_at"]:
        return reason
    # A person gets no time of seconds' fractions in another zone; a pipe does.
    return lambda screen: f"starts {terminal.ago(row.run['due_at'])}" if screen.is_terminal else reason


def _of_run(read: Callable[[Row], Any]) -> Callable[[Row], Any]:
    """What a single run has; a group has nothing there."""
    return lambda row: None if row.group else read(row)


def _field(name: str) -> Callable[[Row], Any]:
    return _of_run(lambda row: row.run[name])


def _joined(name: str) -> Callable[[Row], str]:
    return lambda row: ",".join(row.run[name])


def _age(name: str) -> Callable[[Row], Any]:
    return _of_run(lambda row: terminal.when(row.run[name]))


#: Each column that can be chosen, and what it shows of a row.
_COLUMNS: dict[str, tuple[Column, Callable[[Row], Any]]] = {
    "place": (Column("PLACE", 1), lambda row: row.place),
    "state": (Column("STATE"), _state),
    "name": (Column("NAME", least=20), _name),
    "queue": (Column("QUEUE", 2, least=12), lambda row: row.run["queue"]),
    "project": (Column("PROJECT", 6, least=12), lambda row: row.run["project"]),
    "age": (Column("AGE", 3, right=True), lambda row: terminal.age(row.created_at or row.run["created_at"])),
    "time": (Column("TIME", 4, right=True), _time),
    "id": (Column("ID"), lambda row: row.group or row.run["id"]),
    "reason": (Column("REASON", 5, least=40, falls=True), _reason),
    "author": (Column("AUTHOR", 7, least=12), lambda row: row.record.author),
    "user": (Column("USER", 7, least=8), lambda row: row.run["user"]),
    "worker": (Column("WORKER", 7, least=12), _field("worker")),
    "host": (Column("HOST", 7, least=8), _field("host")),
    "tags": (Column("TAGS", 7, least=12), _joined("tags")),
    "gpus": (Column("GPUS", 7, least=8), _of_run(_joined("gpus"))),
    "attempt": (Column("ATTEMPT", 7), _field("attempt")),
    "exit_code": (Column("EXIT CODE", 7), _field("exit_code")),
    "signal": (Column("SIGNAL", 7), _field("signal")),
    "priority": (Column("PRIORITY", 7), lambda row: value_of(row.record, "priority")),
    "group": (Column("GROUP", 7), lambda row: row.run["group"]),
    "sweep": (Column("SWEEP", 7), lambda row: row.run["sweep"]),
    "commit": (Column("COMMIT", 7, least=8), _field("commit")),
    "created": (Column("CREATED", 7), _age("created_at")),
    "started": (Column("STARTED", 7), _age("started_at")),
    "ended": (Column("ENDED", 7), _age("ended_at")),
}
#: Columns of a list for which none were chosen.
_USUAL = ("state", "name", "queue", "project", "age", "time", "id", "reason")
_OF_MAPS = re.compile(r"(config|summary)\..+")
#: Names of columns by which runs are sorted under another name.
_SORTED_BY = {"created": "created_at", "started": "started_at", "ended": "ended_at", "age": "-created_at"}


class Columns(NamedTuple):
    """The columns of a list, and what each shows of a row."""

    columns: Sequence[Column]
    cells: Sequence[Callable[[Row], Any]]
    were_chosen: bool = False
    #: Whether each shows something of a group too.
    fit_groups: bool = True

    def table(self, rows: Sequence[Row]) -> Table:
        return Table(self.columns, [[cell(row) for cell in self.cells] for row in rows])


def usual_columns(*, places: bool) -> Columns:
    """The columns of a list for which none were chosen."""
    found = [_COLUMNS[name] for name in (("place",) if places else ()) + _USUAL]
    return Columns([column for column, _ in found], [cell for _, cell in found])


def parse_columns(text: str) -> Columns:
    """Read `-o name,state,config.lr`. Raises InputError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    found = []
    for at, name in enumerate(names):
        if name.lower() in _COLUMNS:
            column, cell = _COLUMNS[name.lower()]
        elif _OF_MAPS.fullmatch(name):
            column, cell = Column(name, least=8), _value(name)
        else:
            raise InputError(
                f"-o {name[:40]!r} is not a column; there are {', '.join(_COLUMNS)}, config.NAME and summary.NAME"
            )
        # What was chosen first stays longest.
        found.append((column._replace(rank=at), cell))
    if not found:
        raise InputError("-o names no column; write it as -o name,state,config.lr")
    fit_groups = not any(_OF_MAPS.fullmatch(name) for name in names)
    return Columns(
        [column for column, _ in found], [cell for _, cell in found], were_chosen=True, fit_groups=fit_groups
    )


def sort_path(text: str) -> str:
    """The order of `--sort` as `parse_order` reads it: `created` is a column's name for created_at."""
    sign, name = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    path = _SORTED_BY.get(name, name)
    if path.startswith("-"):
        return path[1:] if sign == "-" else path
    return sign + path


def _value(path: str) -> Callable[[Row], Any]:
    return _of_run(lambda row: value_of(row.record, path))


def lines(rows: Sequence[Row], columns: Columns, screen: Screen, foot: str = "") -> list[Styled]:
    """The list for this screen, and what is to be said below it."""
    table = columns.table(rows)
    if columns.were_chosen and (hidden := table.hidden(screen)):
        foot = "; ".join(filter(None, [f"no room for {', '.join(hidden)}: --wide", foot]))
    below = [styled(terminal.cut(foot, screen.width or len(foot), screen.ellipsis), dim=True)] if foot else []
    return table.lines(screen) + below
