"""Shows a run's output by the numbers of its lines, and searches it, as the page of a run does."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from launch_worker.api.transport import Place
from launch_worker.errors import InputError
from launch_worker.logs.numbered import Line, Numbered
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.caching import as_json
from launch_worker.server.served import Served
from launch_worker.server.shared import SharedHere

router = APIRouter(tags=["runs"])
Seeing = Annotated[Asker, allowed(Act.SEE_RUNS)]

_ATTEMPT = Query(ge=1, description="Attempt; without it the latest.")
#: Lines of an answer at most.
_MOST_LINES = 2000
#: Characters of what is searched for at most.
_MOST_SOUGHT = 1000


class OneLine(BaseModel):
    """A line, as it was last written: a carriage return begins it anew."""

    number: int
    text: str = Field(description="Its first 4,000 characters, escape sequences included.")
    more: int = Field(description="Characters that were left out.")
    at_ms: int = Field(description="Milliseconds since 1970 at which it came.")
    later: bool = Field(description="It came then, or later.")


class Kept(BaseModel):
    """Lines that are kept, and the output that is missing before them."""

    first: int
    lines: int
    missing: str = Field(description="Sentence that says how much is missing before it, and where that is; or ''.")


class Lines(BaseModel):
    """Some lines of an attempt's output, and what there is of it."""

    attempt: int
    attempts: int = Field(description="Number of the run's attempts.")
    count: int = Field(description="Number of the last line.")
    open: bool = Field(description="The last line has no end yet.")
    kept: list[Kept]
    lines: list[OneLine]
    place: str | None = Field(description="Where `/logs/tail` goes on (`after`); null where nothing more comes.")


class Hits(BaseModel):
    """Lines that have a text in them."""

    count: int
    before: int = Field(description="Number of those before the first one of `lines`.")
    lines: list[int] = Field(description="Numbers of at most 1,000 of them, around `near`.")


class View(NamedTuple):
    """What is shown of an output: some lines, and the object of the API that tells of them."""

    lines: list[Line]
    told: dict[str, Any]


def read_lines(served: Served, run_id: str, attempt: int | None, *, first: int | None, count: int) -> View:
    """Some lines of an attempt's output: from the first one on, or the last ones. Raises LaunchError."""
    opened, entry = served.open_lines(run_id, attempt)
    numbered = Numbered(opened.output)
    last, is_open = numbered.count, numbered.is_open
    found = numbered.lines(max(1, last - count + 1) if first is None else first, count)
    told = {
        "attempt": opened.attempt,
        "attempts": opened.latest,
        "count": last,
        "open": is_open,
        "kept": [
            {"first": one.first, "lines": one.lines, "missing": "" if one.gap is None else str(one.gap)}
            for one in numbered.stretches
        ],
        "place": Place(opened.attempt, entry, opened.output.end, is_at_line=not is_open).to_text()
        if opened.is_growing
        else None,
        "lines": [_told(line) for line in found],
    }
    return View(found, told)


@router.get("/runs/{run_id}/logs/lines", response_model=Lines)
def show_lines(
    shared: SharedHere,
    asker: Seeing,
    run_id: str,
    attempt: Annotated[int | None, _ATTEMPT] = None,
    first: Annotated[
        int | None, Query(ge=1, description="Number of the first line; without it the last lines.")
    ] = None,
    count: Annotated[int, Query(ge=0, le=_MOST_LINES, description="Number of lines.")] = 200,
) -> Response:
    """Lines of a run's output by their numbers, and which lines there are."""
    return as_json(read_lines(Served(shared, asker), run_id, attempt, first=first, count=count).told)


@router.get("/runs/{run_id}/logs/search")
def search_lines(
    shared: SharedHere,
    asker: Seeing,
    run_id: str,
    q: Annotated[str, Query(min_length=1, max_length=_MOST_SOUGHT, description="Text; capitals count if it has any.")],
    attempt: Annotated[int | None, _ATTEMPT] = None,
    near: Annotated[int, Query(ge=0, description="Number of the line around which hits are named.")] = 0,
) -> Hits:
    """Say how many lines of a run's output have a text in them, and which. Colours in the text do not matter."""
    if "\n" in q:
        raise InputError("a line is searched, and has no line break; search for a part of it")
    hits = Numbered(Served(shared, asker).open_lines(run_id, attempt)[0].output).search(q, near)
    return Hits(count=hits.count, before=hits.before, lines=list(hits.lines))


def _told(line: Line) -> dict[str, object]:
    number, text, more, at_ms, is_later = line
    return {"number": number, "text": text, "more": more, "at_ms": at_ms, "later": is_later}
