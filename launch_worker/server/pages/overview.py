"""Shows how the system is on one page, what is wrong first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from fastapi import APIRouter, Request
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from launch_worker.api.filters import parse_filter, parse_order
from launch_worker.api.folding import folded
from launch_worker.archive.query import Question, ended
from launch_worker.errors import ArchiveError
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.model.units import isoformat
from launch_worker.people.roles import Act, visible
from launch_worker.server.asker import Asker, asker_of, for_everybody, is_loopback_key, set_cookie
from launch_worker.server.pages.rows import Row, make_rows
from launch_worker.server.pages.shown import show, status_of
from launch_worker.server.served import Served
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.server.templating import page

router = APIRouter(include_in_schema=False)
#: Seconds for which a browser keeps the key of loopback.
_KEY_S = 365 * 86400
#: Rows of what runs and of what waits, and runs that are looked at for them: those of one group are one row.
_ROWS, _LOOKED_AT = 6, 30
#: The picture of what ended: spans of time, the length of each, and seconds for which it is kept.
_SPANS, _SPAN_US, _PICTURE_S = 12, 5 * 60 * 1_000_000, 10.0
#: Height of the picture, and distance and width of its bars.
_HEIGHT, _STEP, _WIDTH = 60.0, 10.0, 8.0
_ENDS = (RunState.FINISHED, RunState.FAILED, RunState.CRASHED, RunState.KILLED)


class Block(NamedTuple):
    """A part of a bar: runs of one state."""

    state: str
    x: float
    y: float
    height: float


class Span(NamedTuple):
    """A span of time: its begin, and how many runs ended in it in each state."""

    at: str
    counts: dict[str, int]


class Throughput(NamedTuple):
    """What ended in the last hour."""

    spans: Sequence[Span]
    blocks: Sequence[Block]
    total: int
    failed: int


@router.get("/", dependencies=[for_everybody])
def entrance(request: Request, shared: SharedHere, token: str = "") -> Response:
    """Let in who has the printed address, and take the key out of the address line; else show the overview."""
    if token:
        answer = RedirectResponse("/", 303, headers={"Cache-Control": "no-store"})
        if is_loopback_key(shared, token):
            set_cookie(request, answer, token, max_age_s=_KEY_S)
        return answer
    asker = asker_of(request)
    asker.check(Act.SEE_SYSTEM)
    sight = visible(asker.person)
    text = shared.kept.get(("overview", sight, sight.is_everything), lambda: _text(shared, asker))
    return show(request, shared, asker, "overview", text=text)


def _text(shared: Shared, asker: Asker) -> Markup:
    """The page, the same for all who see the same projects."""
    served = Served(shared, asker)
    status = status_of(shared, asker)
    now_us = served.now_us()
    running = _rows(served, "Running", "started_at", now_us)
    waiting = _rows(served, "Pending", "created_at", now_us)
    gpus = [device for worker in status["workers"] for device in worker.get("devices", ())]
    text = page(
        "overview_text",
        status=status,
        running=running,
        waiting=waiting,
        throughput=_throughput(shared, asker, now_us),
        gpus_held=sum(bool(device["runs"]) for device in gpus),
        gpus=len(gpus),
        workers=sum(worker["state"] == "running" for worker in status["workers"]),
        width=_SPANS * _STEP,
        height=_HEIGHT,
        bar_width=_WIDTH,
        ends=[state.value for state in _ENDS],
        minutes=_SPANS * _SPAN_US // 60_000_000,
    )
    return Markup(text)


def _rows(served: Served, state: str, order: str, now_us: int) -> list[Row]:
    """The runs in this state with the earliest time, a group in one row; those that are planned for later wait not."""
    shown: dict[str, Record] = {}
    while True:
        # A long array must not hide what came after it.
        groups = [key for key, record in shown.items() if key != record.id]
        wanted = parse_filter({"state": state, "group": {"$nin": groups}} if groups else {"state": state})
        records = list(islice(served.listing(wanted, parse_order(order), per_page=_LOOKED_AT).records(), _LOOKED_AT))
        before = len(groups)
        shown = folded([*shown.values(), *(record for record in records if not _is_later(record, now_us))])
        found = [(record, key if key != record.id else "") for key, record in shown.items()]
        has_more = len(records) == _LOOKED_AT and sum(bool(group) for _, group in found) > before
        if len(found) >= _ROWS or not has_more:
            return make_rows(served, found[:_ROWS], now_us, lambda _group: {state: 1})


def _is_later(record: Record, now_us: int) -> bool:
    return record.state is RunState.PENDING and record.due_at is not None and record.due_at > now_us


def _throughput(shared: Shared, asker: Asker, now_us: int) -> Throughput | None:
    """What ended in the last hour, as far as the archive knows; None without one."""
    sight = visible(asker.person)

    def count() -> Throughput:
        # Spans begin at whole minutes of the clock, so that the bars stay as they are.
        since = (now_us // _SPAN_US - _SPANS + 1) * _SPAN_US
        wanted = parse_filter(sight.as_filter())
        counted = ended(shared.database, Question(wanted.tree, wanted.matches), since=since, span_us=_SPAN_US)
        return _drawn(counted, since)

    try:
        return shared.kept.get(("throughput", sight), count, most_s=_PICTURE_S)
    except ArchiveError:
        return None


def _drawn(counted: dict[tuple[int, str], int], since: int) -> Throughput:
    spans = [
        Span(
            isoformat(since + at * _SPAN_US) or "",
            {state.value: counted.get((at, state.value), 0) for state in _ENDS},
        )
        for at in range(_SPANS)
    ]
    most = max((sum(span.counts.values()) for span in spans), default=0) or 1
    blocks = []
    for at, span in enumerate(spans):
        y = _HEIGHT
        for state, number in span.counts.items():
            height = _HEIGHT * number / most
            y -= height
            if number:
                blocks.append(Block(state.lower(), at * _STEP + (_STEP - _WIDTH) / 2, round(y, 2), round(height, 2)))
    total = sum(sum(span.counts.values()) for span in spans)
    return Throughput(spans, blocks, total, total - sum(span.counts[RunState.FINISHED.value] for span in spans))
