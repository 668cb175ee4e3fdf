"""Shows runs: lists, one run, its history, figures, files and output."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import dropwhile, islice
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from launch_worker.api.bookmarks import Bookmark, bookmark
from launch_worker.api.filters import NEWEST_FIRST, Filter, parse_filter, parse_order
from launch_worker.api.naming import MOST_WORD
from launch_worker.api.runs import check_counted
from launch_worker.api.shown import run_as_json
from launch_worker.api.transport import LogPart, check_part
from launch_worker.errors import InputError, LaunchError
from launch_worker.model.log_pieces import Piece
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.caching import as_json
from launch_worker.server.problems import document
from launch_worker.server.served import Served
from launch_worker.server.shared import SharedHere
from launch_worker.untrusted.text import read_json

router = APIRouter(tags=["runs"])
Seeing = Annotated[Asker, allowed(Act.SEE_RUNS)]
#: A run of `launch-worker runs --json`; docs/reference/python.md and the JSON of `show` say what is in it.
RunObject = dict[str, Any]

_FILTER = Query(
    description='Filter as Api().runs takes it, as JSON: {"state": "failed"}.', examples=['{"state": "failed"}']
)
_ATTEMPT = Query(ge=1, description="Attempt; without it the latest.")
_NDJSON = "application/x-ndjson"


class Page(BaseModel):
    """Some runs of a list."""

    runs: list[RunObject]
    next: str | None = Field(description="Value of `after` for the next page; null at the end.")
    notices: list[str] = Field(description="Sentences for people: that the archive is behind, or away.")


class Count(BaseModel):
    """How many runs fit a filter."""

    count: int | None = Field(description="Null where all would have to be read.")
    notices: list[str]


class Group(BaseModel):
    """How many runs have these values."""

    values: list[str] = Field(description="Values of the fields of `by`, in its order.")
    count: int


class Counts(BaseModel):
    """How many runs have which values, the most frequent first."""

    counts: list[Group]
    notices: list[str]


class Waiting(BaseModel):
    """A Pending run and its place."""

    run: RunObject
    place: int | None = Field(description="Place in its queue, 1 the next; null for a run that is not ready.")


class Output(BaseModel):
    """The newest output, and the place at which `/logs/tail` goes on."""

    text: str | None = Field(default=None, description="Output, where it is UTF-8.")
    base64: str | None = Field(default=None, description="Output, where it is not.")
    missing: int = Field(description="Bytes that are missing before it.")
    entry: str
    end: int


class NamedThing(BaseModel):
    """A run or a group, as people tell it from others."""

    id: str
    kind: str = Field(description="One of run, array, bulk, sweep.", examples=["run"])
    name: str
    state: str = Field(description="State of a run or a sweep; of a group, how many runs are in which state.")
    created_at: int = Field(description="Microseconds since 1970.")


class NamedThings(BaseModel):
    """All that a word may mean."""

    things: list[NamedThing] = Field(description="The newest first, 100 at most.")
    number: int = Field(description="Number of them all.")
    is_cut: bool = Field(description="Whether older runs were not looked at: only the newest 10,000 were.")


class Time(BaseModel):
    """The launch system's time."""

    now: str = Field(examples=["2030-01-31T14:30:00.000000+00:00"])


class Answer(BaseModel):
    """What one live worker says to a run that waits."""

    worker: str
    host: str
    is_consumer: bool = Field(description="Whether it takes runs of the queue at all.")
    why_not: list[str] = Field(description="Why it does not take the run now; empty: it has room for it.")


class Explained(BaseModel):
    """Why a run waits; of one that runs or has ended its sentence alone."""

    id: str
    name: str
    queue: str
    state: str
    sentence: str = Field(description="What the run does, or how it ended.")
    priority: str
    place: int | None = Field(description="Place in its queue's line, 1 the next; null for a run that is not ready.")
    held_up_by: list[str] = Field(description="What holds it up whatever the workers have.")
    workers: list[Answer]
    advice: str = Field(description="What would help.")
    command: str = Field(description="A command that would help; empty for none.")


def read_filter(text: str | None) -> Filter:
    """A filter of a query. Raises InputError."""
    try:
        given = {} if text is None else read_json(text)
    except ValueError:
        raise InputError('filter is not JSON; write it as {"state": "failed"}') from None
    return parse_filter(given)


@router.get("/time")
def show_time(shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_SELF)]) -> Time:
    """The time of the launch system, by which all times are kept."""
    return Time(now=datetime.fromtimestamp(shared.connection.store.now_us() / 1e6, UTC).isoformat())


@router.get("/runs", response_model=Page)
def list_runs(
    shared: SharedHere,
    asker: Seeing,
    filter: Annotated[str | None, _FILTER] = None,
    order: Annotated[str, Query(description="Field, with - for the largest first.")] = NEWEST_FIRST,
    after: Annotated[str | None, Query(description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    ids: Annotated[str | None, Query(description="Instead: these runs, with commas between them, 100 at most.")] = None,
) -> Response:
    """List runs that fit a filter, page by page. With an archive all that there were, else those that Redis has yet."""
    served = Served(shared, asker)
    if ids is not None:
        found = served.records(ids.split(",")[:100])
        return as_json({"runs": [run_as_json(served, one) for one in found], "next": None, "notices": []})
    wanted, by = read_filter(filter), parse_order(order)
    place = None if after is None else Bookmark(by, after)
    if place is not None and place.condition:
        wanted = parse_filter({"$and": [wanted.given, place.condition]})
    listing = served.listing(wanted, by, per_page=limit)
    records = listing.records()
    if place is not None:
        records = dropwhile(lambda record: not place.is_behind(record), records)
    found = list(islice(records, limit))
    last = bookmark(by, found[-1]) if len(found) == limit else None
    page = {"runs": [run_as_json(served, one) for one in found], "next": last, "notices": listing.notices}
    return as_json(page)


@router.get("/runs/count")
def count_runs(shared: SharedHere, asker: Seeing, filter: Annotated[str | None, _FILTER] = None) -> Count:
    """Say how many runs fit a filter, where that is known without reading them all."""
    listing = Served(shared, asker).listing(read_filter(filter), parse_order(NEWEST_FIRST), per_page=50)
    count = listing.count()
    return Count(count=count, notices=listing.notices)


@router.get("/runs/counts")
def count_runs_by(
    shared: SharedHere,
    asker: Seeing,
    by: Annotated[str, Query(description="Fields, with commas between them.", examples=["state,queue"])],
    filter: Annotated[str | None, _FILTER] = None,
) -> Counts:
    """Say how many of the runs that fit a filter have which values of some fields."""
    fields = check_counted([word.strip() for word in by.split(",")])
    listing = Served(shared, asker).listing(read_filter(filter), parse_order(NEWEST_FIRST), per_page=50)
    found = listing.counts(fields)
    counts = [Group(values=list(values), count=count) for values, count in found.items()]
    return Counts(counts=counts, notices=listing.notices)


@router.get("/runs/named")
def find_by_name(
    shared: SharedHere,
    asker: Seeing,
    word: Annotated[str, Query(min_length=1, max_length=MOST_WORD, examples=["resnet"])],
) -> NamedThings:
    """Find the runs and groups that a word may mean: their name, the beginning of their id, or `@` for your last."""
    return NamedThings.model_validate(Served(shared, asker).meant_by(word).as_json())


@router.get("/runs/line")
def list_waiting_runs(
    shared: SharedHere,
    asker: Seeing,
    filter: Annotated[str | None, _FILTER] = None,
    queue: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> list[Waiting]:
    """List Pending runs, queue by queue in the order in which they start."""
    served = Served(shared, asker)
    found = served.in_line(read_filter(filter), queue=queue, limit=limit)
    return [Waiting(run=run_as_json(served, record), place=place) for record, place in found]


@router.get("/runs/{run_id}", response_model=RunObject)
def show_run(
    shared: SharedHere,
    asker: Seeing,
    run_id: str,
    live: Annotated[bool, Query(description="Only of Redis, not of the archive.")] = False,
) -> Response:
    """Show all that is known of a run: of Redis, else of the archive."""
    served = Served(shared, asker)
    if live:
        record = served.find(run_id)
        return as_json(run_as_json(served, record, history=True))
    return as_json(served.shown(run_id))


@router.get("/runs/{run_id}/explain")
def explain_run(shared: SharedHere, asker: Seeing, run_id: str) -> Explained:
    """Say why a run waits: what holds it up, why each worker does not take it, and what would help."""
    return Explained(**Served(shared, asker).explain(run_id).as_json())


@router.get("/runs/{run_id}/history", response_model=list[dict[str, Any]])
def show_history(shared: SharedHere, asker: Seeing, run_id: str) -> Response:
    """List every change of a run's state, the oldest first."""
    return as_json([step.as_json() for step in Served(shared, asker).transitions(run_id)])


@router.get("/runs/{run_id}/metrics", response_model=list[dict[str, Any]])
def show_metrics(shared: SharedHere, asker: Seeing, run_id: str) -> Response:
    """List the rows of metrics that a run's job reported, the oldest first; the newest 1000 are kept."""
    return as_json(Served(shared, asker).metrics(run_id))


@router.get("/runs/{run_id}/usage")
def show_usage(
    shared: SharedHere,
    asker: Seeing,
    run_id: str,
    attempt: Annotated[int | None, _ATTEMPT] = None,
    timeout: Annotated[float, Query(ge=0, le=10, description="Seconds to wait for the worker of a running one.")] = 3,
) -> dict[str, Any]:
    """Show what an attempt used of its machine: figures, and samples over time."""
    served = Served(shared, asker)
    record, measured = served.measured(run_id, attempt, timeout_s=timeout)
    return {"run": run_as_json(served, record), "is_running": measured.is_running} | measured.as_json()


@router.get("/runs/{run_id}/advice")
def advise_run(shared: SharedHere, asker: Seeing, run_id: str) -> list[str]:
    """Say where a run asks for far more or less than earlier runs of its name used."""
    served = Served(shared, asker)
    record, _ = served.measured(run_id, None, timeout_s=0.0)
    return served.advice_by_earlier(record)


@router.get("/runs/{run_id}/logs", response_class=StreamingResponse)
def show_logs(
    shared: SharedHere,
    asker: Seeing,
    run_id: str,
    accept: Annotated[str, Header()] = "",
    attempt: Annotated[int | None, _ATTEMPT] = None,
    from_line: Annotated[int | None, Query(ge=1, description="Begin at this line.")] = None,
    lines: Annotated[int | None, Query(ge=0, description="At most so many lines.")] = None,
    tail: Annotated[int | None, Query(ge=0, description="Only the last lines.")] = None,
    since: Annotated[
        str | None, Query(description="Begin at this time, or so long ago: 10m, 2030-01-31T14:30.")
    ] = None,
    grep: Annotated[str | None, Query(description="Only lines with this regular expression in them.")] = None,
) -> StreamingResponse:
    """The output of a run: its bytes, or, as `application/x-ndjson`, pieces with their lines and what is missing."""
    part: LogPart = {"attempt": attempt, "from_line": from_line, "lines": lines, "tail": tail, "since": since}
    part["grep"] = grep
    check_part(part)
    pieces = Served(shared, asker).output(run_id, part)
    if _NDJSON in accept:
        return StreamingResponse(_told(pieces), media_type=_NDJSON)
    return StreamingResponse((piece.data for piece in pieces), media_type="application/octet-stream")


def _told(pieces: Iterator[Piece]) -> Iterator[str]:
    try:
        for piece in pieces:
            gap = piece.gap
            said = {"line": piece.line, **as_text(piece.data)}
            if gap is not None:
                said["gap"] = {"bytes": gap.bytes, "lines": gap.lines, "why": gap.why}
            yield json.dumps(said, ensure_ascii=False) + "\n"
    except LaunchError as error:
        yield json.dumps({"problem": document(error)}, ensure_ascii=False) + "\n"


def as_text(data: bytes) -> dict[str, Any]:
    """Output in JSON: as text where it is UTF-8, else as base64."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


@router.get("/runs/{run_id}/logs/newest")
def show_newest_output(shared: SharedHere, asker: Seeing, run_id: str, attempt: Annotated[int, Query(ge=0)]) -> Output:
    """The newest output of an attempt, as it is kept with the run."""
    log = Served(shared, asker).newest_output(run_id, attempt)
    return Output(missing=log.missing, entry=log.entry, end=log.end, **as_text(log.data))
