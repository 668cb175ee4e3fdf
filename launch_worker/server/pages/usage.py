"""Shows who used what of the machines: sums of the archive, as bars and as a table."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import asdict
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from launch_worker.model.totals import WAYS, By, Total
from launch_worker.model.units import since_ms
from launch_worker.people.roles import Act, visible
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.pages.shown import show
from launch_worker.server.shared import Shared, SharedHere

router = APIRouter(include_in_schema=False)
Seeing = Annotated[Asker, allowed(Act.SEE_RUNS)]

#: Times that can be chosen, and what they are called.
SINCE = {"1d": "a day", "7d": "7 days", "30d": "30 days", "90d": "90 days"}
Since = Literal["1d", "7d", "30d", "90d"]
#: Seconds for which sums are kept: an archive of many runs is read whole for them.
_KEPT_S = 10.0
#: Rows of the page at most; the CSV has all.
_MOST = 200


class Measure(NamedTuple):
    """A way to look at the sums: what was used, and what was asked for or held."""

    label: str
    #: Fields of Total.
    used: str
    asked: str


MEASURES = {
    "gpu": Measure("GPU time", "gpu_s", "held_gpu_s"),
    "cpu": Measure("CPU time", "cpu_s", "asked_cpu_s"),
    "memory": Measure("Memory", "memory_gb_h", "asked_memory_gb_h"),
    "time": Measure("Time of runs", "wall_s", "wall_s"),
}
Chosen = Annotated[Literal["", "gpu", "cpu", "memory", "time"], Query()]


@router.get("/usage")
def usage_page(
    request: Request,
    shared: SharedHere,
    asker: Seeing,
    by: By = "user",
    since: Since = "30d",
    of: Chosen = "",
    project: str = "",
) -> Response:
    """Sums of the attempts that ended in the time."""
    sums = _sums(shared, asker, by, since, project)
    whole = Total()
    for _, total in sums:
        whole.add(total)
    # GPUs first, where there are some.
    chosen = of or ("gpu" if whole.held_gpu_s else "cpu")
    measure = MEASURES[chosen]
    sums.sort(key=lambda entry: (-max(getattr(entry[1], measure.used), getattr(entry[1], measure.asked)), entry[0]))

    def link(**changed: str) -> str:
        return "?" + urlencode({"by": by, "since": since, "of": chosen, "project": project} | changed)

    values: dict[str, Any] = {
        "sums": sums[:_MOST],
        "count_all": len(sums),
        "whole": whole,
        "most": max((max(getattr(t, measure.used), getattr(t, measure.asked)) for _, t in sums), default=0.0),
        "by": by,
        "since": since,
        "project": project,
        "chosen": chosen,
        "measure": measure,
        "tabs_of_measures": [(link(of=name), each.label, name == chosen) for name, each in MEASURES.items()],
        "ways": WAYS,
        "times": SINCE,
        "link": link,
    }
    return show(request, shared, asker, "usage", **values)


@router.get("/usage.csv")
def usage_as_csv(
    shared: SharedHere, asker: Seeing, by: By = "user", since: Since = "30d", project: str = ""
) -> Response:
    """The same sums in seconds and GiB hours."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow([by, *asdict(Total())])
    for name, total in _sums(shared, asker, by, since, project):
        lines.writerow([_inert(name), *(round(value, 3) for value in asdict(total).values())])
    headers = {"Content-Disposition": f'attachment; filename="usage-by-{by}-{since}.csv"'}
    return Response(text.getvalue(), media_type="text/csv", headers=headers)


def _sums(shared: Shared, asker: Asker, by: By, since: Since, project: str) -> list[tuple[str, Total]]:
    """The sums over what the person sees, the largest first."""

    def read() -> list[tuple[tuple[str, ...], Total]]:
        start = since_ms(since, time.time_ns() // 1_000_000, what="since") * 1000
        return shared.connection.sums([by, "project"], since_us=start, until_us=None, project="")

    found = shared.kept.get(("usage", by, since), read, most_s=_KEPT_S)
    sees = visible(asker.person).sees
    totals: dict[str, Total] = {}
    for (name, of_project), total in found:
        if sees(of_project) and project in ("", of_project):
            totals.setdefault(name, Total()).add(total)
    return sorted(totals.items(), key=lambda entry: (-entry[1].held_gpu_s, -entry[1].cpu_s, entry[0]))


def _inert(name: str) -> str:
    """The name as text: a spreadsheet takes one that begins so for a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
