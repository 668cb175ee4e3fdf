"""Shows sweeps: how far each one is, its best run, and its runs with parameters and results as pictures and a table."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from launch_worker.errors import InputError, RefusedError
from launch_worker.model.states import RunState
from launch_worker.model.sweep import STATE_WORDS, SweepOrder, SweepRecord
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.caching import as_json
from launch_worker.server.forms import FormHere
from launch_worker.server.pages.shown import show
from launch_worker.server.routes.sweeps import steer, sweep_of
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.server.sight import Seen
from launch_worker.server.trials import Trials, lay_out, read_picks, write_picks
from launch_worker.sweeps.config import SweepConfig, config_from_json
from launch_worker.untrusted.text import read_map

router = APIRouter(include_in_schema=False)
Seeing = Annotated[Asker, allowed(Act.SEE_RUNS)]
Page = Annotated[int, Query(ge=1, le=100_000)]

#: Rows of a page of the list, and of a sweep's runs.
_SWEEPS, _RUNS = 50, 100
#: Most runs that an order kills without their number typed.
UNTYPED = 20
#: Runs from which on the runs of a sweep are read anew every few seconds only.
_MANY = 1000
#: State of a run whose sign and colour each state of a sweep has, and its word.
_SIGNS = {"STOPPED": "Running", "CANCELED": "Killed"}
STATES = {state: (_SIGNS.get(state, word), word) for state, word in STATE_WORDS.items()}


class Row(NamedTuple):
    """A sweep in the list."""

    record: SweepRecord
    method: str
    metric: str
    #: Value of the best run; None for none.
    best: float | None
    counts: Counter[str]


@router.get("/sweeps")
def sweeps_page(request: Request, shared: SharedHere, asker: Seeing, state: str = "", page: Page = 1) -> Response:
    """All sweeps of projects that are seen, the newest first."""
    seen = Seen(shared, asker.person)
    records = shared.kept.get("sweeps", shared.connection.sweeps)
    found = [record for record in records if seen.sees(record.project)]
    numbers = Counter(record.state for record in found)
    wanted = [record for record in found if not state or record.state == state]
    rows = [_row(shared, record) for record in wanted[(page - 1) * _SWEEPS : page * _SWEEPS]]
    more = {"state": state} if state else {}
    following = "?" + urlencode(more | {"page": page + 1}) if len(wanted) > page * _SWEEPS else ""
    values: dict[str, Any] = {
        "rows": rows,
        "numbers": numbers,
        "chosen": state,
        "count_wanted": len(wanted),
        "following": following,
    }
    return show(request, shared, asker, "sweeps", states=STATES, **values)


@router.get("/sweeps/{sweep_id}")
def sweep_page(
    sweep_id: str, request: Request, shared: SharedHere, asker: Seeing, sort: str = "", page: Page = 1
) -> Response:
    """One sweep."""
    record = sweep_of(shared, asker, sweep_id)
    config = _config(record)
    trials = _trials(shared, record, config)
    picks = read_picks(request.query_params.multi_items())
    places = trials.ordered(trials.picked(picks), sort)
    picked = write_picks(picks)
    clean = _query(picked, sort=sort, page=page if page > 1 else 0)
    values: dict[str, Any] = {
        "record": record,
        "config": config,
        "trials": trials,
        "picks": picks,
        "sort": sort,
        "count_picked": len(places),
        "places": places[(page - 1) * _RUNS : page * _RUNS],
        "first": (page - 1) * _RUNS + 1,
        "following": _query(picked, sort=sort, page=page + 1) if len(places) > page * _RUNS else "",
        "sorted_by": lambda name, falls=False: _query(picked, sort=_turned(sort, name, falls)),
        "unpicked": _query("", sort=sort) or request.url.path,
        "best_so_far": trials.best_so_far(),
        "queue": read_map(record.given).get("queue") or "default",
        "untyped": UNTYPED,
        "is_large": len(trials.trials) > _MANY,
    }
    answer = show(request, shared, asker, "sweep", states=STATES, run_states=RunState, **values)
    # A form sends its empty fields too.
    answer.headers["HX-Replace-Url"] = f"/sweeps/{sweep_id}{clean}"
    return answer


@router.get("/sweeps/{sweep_id}/points")
def sweep_points(sweep_id: str, shared: SharedHere, asker: Seeing) -> Response:
    """The values of all runs, for the pictures."""
    record = sweep_of(shared, asker, sweep_id)
    points = _trials(shared, record, _config(record)).points()
    return as_json(points)


@router.post("/sweeps/{sweep_id}/pause")
def pause(
    sweep_id: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_SWEEPS, what="pause", kind="sweep")]
) -> Response:
    """Make no more runs until it is resumed."""
    return _steered(shared, asker, sweep_id, "pause")


@router.post("/sweeps/{sweep_id}/resume")
def resume(
    sweep_id: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_SWEEPS, what="resume", kind="sweep")]
) -> Response:
    """Go on after a pause."""
    return _steered(shared, asker, sweep_id, "resume")


@router.post("/sweeps/{sweep_id}/stop")
def stop(
    sweep_id: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_SWEEPS, what="stop", kind="sweep")]
) -> Response:
    """Make no more runs."""
    return _steered(shared, asker, sweep_id, "stop")


@router.post("/sweeps/{sweep_id}/cancel")
def cancel(
    sweep_id: str,
    shared: SharedHere,
    form: FormHere,
    asker: Annotated[Asker, acting(Act.SET_SWEEPS, what="cancel", kind="sweep")],
) -> Response:
    """Kill its runs; of many the number is typed."""
    live = sweep_of(shared, asker, sweep_id).live
    if live > UNTYPED and form.text("count").replace(",", "") != (form.text("shown") or str(live)):
        raise InputError(f"{live} of its runs would be killed; type the number of runs to cancel it")
    return _steered(shared, asker, sweep_id, "cancel")


def _steered(shared: Shared, asker: Asker, sweep_id: str, word: SweepOrder) -> Response:
    done = steer(shared, asker, sweep_id, word)
    if not done.done:
        state = STATES.get(done.state, ("", done.state))[1]
        raise RefusedError(f"the sweep is {state}: {word} is not possible now; nothing was changed")
    return RedirectResponse(f"/sweeps/{sweep_id}", 303)


def _row(shared: Shared, record: SweepRecord) -> Row:
    try:
        config = _config(record)
    except InputError:
        return Row(record, "", record.metric, None, Counter())
    trials = _trials(shared, record, config)
    best = trials.best.value if trials.best else None
    return Row(record, config.method, config.metric, best, trials.counts)


def _config(record: SweepRecord) -> SweepConfig:
    return config_from_json(record.config)


def _trials(shared: Shared, record: SweepRecord, config: SweepConfig) -> Trials:
    """The runs of a sweep, up to some seconds old."""

    def read() -> Trials:
        found = shared.connection.trials(record.id)
        live = shared.connection.records([trial.run_id for trial in found if trial.live])
        return lay_out(config, found, {run.id: run.state for run in live})

    # A sweep that is over changes only where one of its runs is retried.
    most_s = 30.0 if record.is_over else 5.0 if record.made > _MANY else 1.0
    return shared.kept.get(("trials", record.id, record.state), read, most_s=most_s)


def _turned(sort: str, name: str, falls: bool) -> str:
    """The order that the head of a column leads to: the other one where it is in order by that."""
    first, second = (f"-{name}", name) if falls else (name, f"-{name}")
    return second if sort == first else first


def _query(picked: str, **more: Any) -> str:
    rest = urlencode({name: value for name, value in more.items() if value})
    return "?" + "&".join(part for part in (picked, rest) if part) if picked or rest else ""
