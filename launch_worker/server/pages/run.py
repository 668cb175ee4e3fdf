"""Shows one run: first why it waits or how it failed, then its output, its times, figures, details and files."""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from launch_worker import humane
from launch_worker.api.shown import options_of, source_of
from launch_worker.errors import InputError, LaunchError, NotFoundError
from launch_worker.model.advice import advise
from launch_worker.model.explanation import Explanation, Surroundings, explain
from launch_worker.model.hints import Hint, hint_of_end, hint_of_wait
from launch_worker.model.history import Transition
from launch_worker.model.kept_outputs import read_outputs
from launch_worker.model.masking import MASK
from launch_worker.model.needs import Needs, parse_needs
from launch_worker.model.run import Record
from launch_worker.model.run_files import KeptFile, number_of_files
from launch_worker.model.sentences import attempt_of_most
from launch_worker.model.states import RunState
from launch_worker.model.units import is_number
from launch_worker.model.usage import Measured
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.charts import series_of_metrics, series_of_samples, spark, timeline
from launch_worker.server.forms import FormHere
from launch_worker.server.pages.log import PLAIN_LINES
from launch_worker.server.pages.shown import is_fragment, show
from launch_worker.server.routes.files import is_picture
from launch_worker.server.routes.lines import View, read_lines
from launch_worker.server.served import Served
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.server.templating import page
from launch_worker.submission.command_line import command_line, options_of_spec
from launch_worker.untrusted.text import plain_line, read_map

router = APIRouter(include_in_schema=False)
Seeing = Annotated[Asker, allowed(Act.SEE_RUNS)]

#: Parts of a run's page: the last part of the path, and the word for it.
TABS = {
    "": "Log",
    "timeline": "Timeline",
    "metrics": "Metrics",
    "resources": "Resources",
    "details": "Details",
    "files": "Files",
}
#: Lines of the output that stand beside a failure, and characters of each.
_LAST_LINES, _LINE_CHARS = 20, 500
#: Samples of which a picture is worth making, at least.
_FEWEST_POINTS = 4
#: Files that the page lists.
_MOST_FILES = 1000
#: Bytes of a text that are shown, and of a picture at most.
_PREVIEW_BYTES, _PICTURE_BYTES = 64 << 10, 20 << 20
#: Seconds that a page waits for the worker of a running attempt to say what that uses.
_USAGE_S = 1.0


class Figure(NamedTuple):
    """What was used of something, beside what was asked for; '' for what is not known."""

    name: str
    used: str
    asked: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.used} of {self.asked}" if self.asked else self.used


class Row(NamedTuple):
    """A line of the table of what was used."""

    name: str
    value: float | None
    show: Callable[[Any], str]
    #: What was asked for, as a number and as text; 0 for nothing.
    asked: float = 0
    asked_text: str = ""

    @property
    def text(self) -> str:
        return self.show(self.value)

    @property
    def share(self) -> float | None:
        """The used part of what was asked for."""
        return self.value / self.asked if self.value is not None and self.asked else None


class One:
    """One run as a person sees it, and what the parts of its page need."""

    def __init__(self, shared: Shared, asker: Asker, run_id: str) -> None:
        self.served = Served(shared, asker)
        #: The object of `show --json`.
        self.run = self.served.shown(run_id)
        self.record = Record.from_json(self.run)

    @property
    def is_past(self) -> bool:
        """Whether only the archive has it."""
        return "attempts" in self.run

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.run["spec"]
        return spec

    def values(self) -> dict[str, Any]:
        """What every part of the page shows."""
        record, run = self.record, self.run
        tail: list[str] = []
        if record.state.is_final and record.state is not RunState.FINISHED and self.view is not None:
            tail = [plain_line(line.text)[:_LINE_CHARS] for line in self.view.lines]
        attempts = self.timeline()
        return {
            "run": run,
            "spec": self.spec,
            "is_past": self.is_past,
            "is_final": record.state.is_final,
            "owner": record.user,
            "attempt_of": attempt_of_most(record, self.spec),
            "limit_s": _number(self.spec.get("timeout_s")),
            "hint": self.hint("\n".join(tail)),
            "explained": self.explained(),
            "earlier": self.served.advice_by_earlier(record) if record.state is not RunState.RUNNING else [],
            "tail": "\n".join(tail[-_LAST_LINES:]),
            "command": shlex.join(map(str, command)) if isinstance(command := self.spec.get("command"), list) else "",
            "submit_command": self.command(),
            "grace": humane.duration(_number(self.spec.get("grace_s"), 10.0) or 0.0),
            "attempts": attempts,
            "waited": next((bar.stretches[0].seconds for bar in attempts if bar.stretches), None),
            "source": source_of(self.spec, run["commit"]),
        }

    def hint(self, tail: str) -> Hint | None:
        """What one should know of the run first."""
        record = self.record
        if record.state is RunState.PENDING:
            return hint_of_wait(record, self.run["reason"] or "", self.around.workers)
        return hint_of_end(record, tail)

    def explained(self) -> Explanation | None:
        """Why it waits, worker by worker; None for a run that does not."""
        if self.record.state is not RunState.PENDING:
            return None
        return explain(self.record, self.run["reason"] or "", self.around, now_us=self.served.now_us())

    @cached_property
    def around(self) -> Surroundings:
        """What is around a Pending run."""
        return self.served.around(self.record)

    @cached_property
    def view(self) -> View | None:
        """The last lines of its output; None where they cannot be read."""
        try:
            return read_lines(self.served, self.record.id, None, first=None, count=PLAIN_LINES)
        except LaunchError:
            return None

    def command(self) -> str:
        """The command that submits it once more; '' for a spec that nobody can read."""
        env = self.spec.get("env")
        secrets = {name for name, value in env.items() if value == MASK} if isinstance(env, dict) else set()
        try:
            return command_line(options_of_spec(self.record.spec), secrets=secrets)
        except InputError:
            return ""

    def timeline(self) -> list[Any]:
        """Its attempts as bars."""
        steps = [Transition.from_json(step) for step in self.run["history"]]
        return timeline(steps, self.record.phases, now_us=self.served.now_us(), asked_us=self.record.cancel_at)

    def measured(self, timeout_s: float = 0.0) -> Measured:
        """What its latest attempt used; the worker of a running one is asked."""
        record = self.record
        if not self.is_past and record.state is not RunState.RUNNING:
            kept = self.served.store.usage_of(record, record.attempt)
            return Measured.of(record.attempt, kept, is_running=False)
        return self.served.measured(record.id, None, timeout_s=timeout_s)[1]


# -- the page ----------------------------------------------------------------------------------------------------------


@router.get("/runs/{run_id}")
def run_page(run_id: str, request: Request, shared: SharedHere, asker: Seeing) -> Response:
    """The run with its output."""
    one = One(shared, asker, run_id)
    # An open page has the viewer already.
    view = None if is_fragment(request) else one.view
    return _show(one, request, shared, asker, "", view=view)


@router.get("/runs/{run_id}/used")
def used_part(run_id: str, request: Request, shared: SharedHere, asker: Seeing) -> Response:
    """What a running attempt uses now, for the page that shows it beside the output."""
    one = One(shared, asker, run_id)
    text = page("run-used", run=one.run, figures=_figures_of(one.measured(_USAGE_S), one.record))
    return Response(text.encode(), media_type="text/html")


@router.get("/runs/{run_id}/{tab}")
def run_tab(
    run_id: str,
    tab: str,
    request: Request,
    shared: SharedHere,
    asker: Seeing,
    path: str = "",
    attempt: Annotated[int | None, Query(ge=1)] = None,
) -> Response:
    """Another part of the same page; of files those of an attempt, and a look at the one at a path."""
    if not tab or tab not in TABS:
        raise NotFoundError("there is nothing at this address; see /api")
    one = One(shared, asker, run_id)
    more: dict[str, Any] = {"series": None}
    # The head of an open page, which makes itself new: the pictures below follow their own table.
    is_head = is_fragment(request) and request.headers.get("hx-target", "").endswith("#top")
    if tab == "metrics" and not is_head:
        more = {"series": series_of_metrics(one.served.metrics(run_id))}
    elif tab == "resources" and not is_head:
        measured = one.measured(_USAGE_S)
        more = _resources(measured, one.record)
    elif tab == "files":
        more = _files(one, path, attempt)
    elif tab == "details":
        more = {"options": options_of(one.spec, without=_OWN_PLACE), "names": _names_of_env(one.spec)}
    return _show(one, request, shared, asker, tab, **more)


def _show(one: One, request: Request, shared: Shared, asker: Asker, tab: str, **more: Any) -> Response:
    here = f"/runs/{one.record.id}"
    files = number_of_files(one.run)
    labels = {name: f"{word} {files}" if name == "files" and files else word for name, word in TABS.items()}
    tabs = [(f"{here}/{name}" if name else here, label, name == tab) for name, label in labels.items()]
    template = f"run-{tab}" if tab else "run"
    more |= {"is_live": tab in ("timeline", "details", "files"), "used": _side_figures(one)}
    return show(request, shared, asker, template, tabs=tabs, root=here, **one.values(), **more)


# -- acts --------------------------------------------------------------------------------------------------------------


@router.post("/runs/{run_id}/cancel")
def cancel_by_form(
    run_id: str,
    form: FormHere,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.ACT_ON_RUN, what="cancel", kind="run")],
) -> Response:
    """Ask for its end; with `now` without grace."""
    grace_s = 0.0 if "now" in form else None
    Served(shared, asker).cancel(run_id, reason=form.text("reason")[:500], grace_s=grace_s)
    return _back(run_id)


@router.post("/runs/{run_id}/preempt")
def preempt_by_form(
    run_id: str,
    form: FormHere,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.ACT_ON_RUN, what="preempt", kind="run")],
) -> Response:
    """Ask for the end of its job, so that it goes back to its queue."""
    Served(shared, asker).preempt(run_id, reason=form.text("reason")[:500])
    return _back(run_id)


@router.post("/runs/{run_id}/retry")
def retry_by_form(
    run_id: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.ACT_ON_RUN, what="retry", kind="run")]
) -> Response:
    """Start a new attempt."""
    Served(shared, asker).retry(run_id)
    return _back(run_id)


@router.post("/runs/{run_id}/confirm")
def confirm_by_form(
    run_id: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.CONFIRM_RUN, what="confirm", kind="run")]
) -> Response:
    """Say that nothing is left of the job of a held run."""
    Served(shared, asker).confirm_ended(run_id)
    return _back(run_id)


@router.post("/runs/{run_id}/delete")
def delete_by_form(
    run_id: str,
    form: FormHere,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.ACT_ON_RUN, what="delete", kind="run")],
) -> Response:
    """Delete it with all that is kept of it, once that was said twice."""
    if "sure" not in form:
        raise InputError("a deleted run does not come back; tick the box beside the button")
    Served(shared, asker).delete(run_id)
    return RedirectResponse("/runs", 303)


def _back(run_id: str) -> Response:
    return RedirectResponse(f"/runs/{run_id}", 303)


# -- figures -----------------------------------------------------------------------------------------------------------


def _side_figures(one: One) -> dict[str, Any] | None:
    """What an ended attempt used, for beside its output; None where that is asked for later, or there is nothing."""
    if not one.record.state.is_final or not one.record.attempt:
        return None
    return _figures_of(one.measured(), one.record)


def _figures_of(measured: Measured, record: Record) -> dict[str, Any]:
    memory = () if measured.samples is None else measured.samples.memory
    is_seen = sum(value is not None for value in memory) >= _FEWEST_POINTS
    picture = spark(memory, width=270, height=48, show=humane.size) if is_seen else None
    return {"figures": _figures(measured, parse_needs(record.needs)), "picture": picture}


def _figures(measured: Measured, needs: Needs) -> list[Figure]:
    """What was used beside what was asked for, the most important first."""
    usage, cores = measured.usage, needs.millicores / 1000
    found = []
    if usage.peak_memory is not None:
        asked = humane.size(needs.memory) if needs.memory else ""
        found.append(Figure("Memory", f"peak {humane.size(usage.peak_memory)}", asked))
    if usage.cores is not None:
        used = f"{usage.cores:.2f}" if cores else f"{usage.cores:.2f} cores"
        asked = f"{cores:g} {'core' if cores == 1 else 'cores'}" if cores else ""
        found.append(Figure("CPU", used, asked))
    busy = usage.busy_gpus
    if needs.gpus or busy is not None:
        used = "not known" if busy is None else f"{busy:.2g} busy"
        found.append(Figure("GPUs", used, str(needs.gpus or "")))
    if usage.peak_gpu_memory:
        found.append(Figure("GPU memory", f"peak {humane.size(usage.peak_gpu_memory)}"))
    if usage.disk_bytes is not None:
        found.append(Figure("Disk", f"peak {humane.size(usage.disk_bytes)}"))
    return found


def _resources(measured: Measured, record: Record) -> dict[str, Any]:
    usage, needs = measured.usage, parse_needs(record.needs)
    cores, memory, asked = needs.millicores / 1000, needs.memory, read_map(record.spec).get("memory")
    rows = [
        Row("Time", usage.wall_s, humane.duration),
        Row("Cores, average", usage.cores, "{:.2f}".format, cores, f"{cores:g}"),
        Row("CPU time", usage.cpu_s, humane.duration),
        Row("Memory, peak", usage.peak_memory, humane.size, memory, humane.size(memory)),
        Row("Memory, average", usage.mean_memory, humane.size, memory, humane.size(memory)),
        Row("Memory over time", usage.memory_gb_h, "{:.3g} GiB h".format),
        Row("GPUs busy, average", usage.busy_gpus, "{:.2f}".format, needs.gpus, str(needs.gpus)),
        Row("GPU time", usage.gpu_s, humane.duration),
        Row("GPU memory, peak", usage.peak_gpu_memory, humane.size),
        Row("Disk of its folder", usage.disk_bytes, humane.size),
    ]
    return {
        "series": series_of_samples(measured),
        "rows": [row for row in rows if row.value is not None],
        "since": None if usage.since_s is None else humane.duration(usage.since_s),
        "advice": [] if measured.is_running or not usage else advise(usage, measured.samples, needs, memory=asked),
        "why_nothing": _why_nothing(record, measured),
    }


def _why_nothing(record: Record, measured: Measured) -> str:
    """Why there are no figures."""
    if not measured.attempt:
        return "It has not started, so nothing was measured."
    if measured.is_running:
        return "Nothing was measured yet, or its worker does not answer."
    return f"Nothing is known of what attempt {measured.attempt} used."


# -- files -------------------------------------------------------------------------------------------------------------


class Preview(NamedTuple):
    """A look at a file."""

    file: KeptFile
    #: Its beginning, where that is text.
    text: str = ""
    is_picture: bool = False
    #: Whether more of it is not shown.
    is_cut: bool = False
    #: Why nothing of it is shown.
    problem: str = ""


def _files(one: One, path: str, attempt: int | None) -> dict[str, Any]:
    """What is kept with the run, and a look at one file of it."""
    number = None if attempt is None or attempt > one.record.attempt else attempt
    attempts = [str(kept) for kept in read_outputs(one.record.outputs)]
    values: dict[str, Any] = {"attempts_kept": attempts, "number": number, "more_files": 0, "preview": None}
    try:
        found = one.served.files(one.record.id, number)
    except LaunchError as error:
        return values | {"found": None, "problem": str(error)}
    file = next((file for file in found.files if file.path == path and not file.leads_to_folder), None)
    return values | {
        "found": found,
        "shown_files": found.files[:_MOST_FILES],
        "more_files": max(0, len(found.files) - _MOST_FILES),
        "preview": None if file is None else _preview(one, file),
    }


def _preview(one: One, file: KeptFile) -> Preview:
    if is_picture(file.path):
        is_small = file.size <= _PICTURE_BYTES
        return Preview(file, is_picture=is_small, problem="" if is_small else "The picture is too large to be shown.")
    try:
        begin = b"".join(one.served.read_file(one.record.id, file, 0, _PREVIEW_BYTES))
    except LaunchError as error:
        return Preview(file, problem=str(error))
    try:
        # A character may be cut at the end.
        text = codecs.getincrementaldecoder("utf-8")().decode(begin)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return Preview(file, problem="It is no text, and no picture that is shown here.")
    lines = "\n".join(plain_line(line) for line in text.split("\n"))
    return Preview(file, lines, is_cut=len(begin) < file.size, problem="" if text else "It is empty.")


# -- words -------------------------------------------------------------------------------------------------------------


#: Fields of a spec that have a place of their own on the page.
_OWN_PLACE = frozenset(
    {"command", "name", "queue", "project", "tags", "env", "env_from", "config", "author", "sweep", "after"}
    | {"requirements_files"}
)


def _names_of_env(spec: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """The names of its variables, and whether the worker supplies the value."""
    env, env_from = spec.get("env"), spec.get("env_from")
    own = sorted(env) if isinstance(env, dict) else []
    return [(name, False) for name in own] + [
        (str(name), True) for name in (env_from if isinstance(env_from, list) else [])
    ]


def _number(value: Any, default: float | None = None) -> float | None:
    return value if is_number(value) else default
