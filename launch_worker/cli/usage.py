"""Defines `metrics`, `report`, `usage`: what runs used, over time, beside what they asked for, and in sums."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import click

from launch_worker import humane, terminal
from launch_worker.api.client import Api
from launch_worker.cli.options import WIDE
from launch_worker.cli.words import run_id_of
from launch_worker.errors import InputError
from launch_worker.model.advice import advise
from launch_worker.model.needs import Needs, parse_needs
from launch_worker.model.run import Record
from launch_worker.model.totals import WAYS, Total
from launch_worker.model.units import as_us, parse_duration, parse_time
from launch_worker.model.usage import Measured, Usage
from launch_worker.terminal import Column
from launch_worker.untrusted.text import read_map

_RUN = click.argument("run_id", metavar="RUN")
_ATTEMPT = click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="An earlier attempt.")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")

_OVER_TIME = (
    Column("OF", least=12),
    Column("OVER TIME", 3),
    Column("LEAST", 2, right=True),
    Column("MOST", 1, right=True),
    Column("LAST", right=True),
)
_BARS = "▁▂▃▄▅▆▇█"
#: Columns of a sparkline.
_WIDTH = 60


@click.command(epilog="Example: launch-worker metrics 1m83cyvtfq1tc69")
@_RUN
@_ATTEMPT
@_JSON
@click.pass_obj
def metrics_command(url: str | None, run_id: str, attempt: int | None, as_json: bool) -> None:
    """Show what was measured of a run over time, and the metrics that its job sent.

    Measured are cores, resident memory, and of GPUs the busy ones and their memory, by the run's worker. While the run
    goes on its worker is asked.
    """
    record, measured, told = _found(url, run_id, attempt)
    if as_json:
        terminal.echo_json({"id": record.id} | measured.as_json() | {"metrics": told})
        return
    rows = _rows_of_samples(measured) + _rows_of_metrics(told)
    if rows:
        terminal.table(_OVER_TIME, rows)
    if measured.samples is not None:
        length_s = measured.samples.every_s * max(1, len(measured.samples.cpu), len(measured.samples.memory))
        terminal.say(f"one sample is {humane.duration(measured.samples.every_s)}, all are {humane.duration(length_s)}")
    else:
        terminal.tell(_why_nothing(record, measured), err=True)
    _say_since(measured.usage)


@click.command(epilog="Example: launch-worker report 1m83cyvtfq1tc69")
@_RUN
@_ATTEMPT
@_JSON
@click.pass_obj
def report_command(url: str | None, run_id: str, attempt: int | None, as_json: bool) -> None:
    """Show what a run asked for beside what it used, with advice for the next one.

    Where there is an archive, it also says what the last 20 runs of the same name, project and author used.
    """
    api = Api(url)
    record, measured = api.measured(run_id_of(api, run_id, takes_newest=True), attempt=attempt)
    usage, needs = measured.usage, parse_needs(record.needs)
    advice = (
        []
        if measured.is_running
        else advise(usage, measured.samples, needs, memory=read_map(record.spec).get("memory"))
    )
    earlier = api.transport.advice_by_earlier(record)
    if as_json:
        asked = {"gpus": needs.gpus, "cpus": needs.millicores / 1000, "memory": needs.memory}
        terminal.echo_json(
            {
                "id": record.id,
                "attempt": measured.attempt,
                "asked": {name: value or None for name, value in asked.items()},
                "usage": usage.as_json() or None,
                "advice": advice,
                "advice_by_earlier": earlier,
            }
        )
        return
    if not usage:
        terminal.tell(_why_nothing(record, measured), err=True)
        for sentence in earlier:
            terminal.tell(f"- {sentence}")
        return
    so_far = " so far" if measured.is_running else ""
    terminal.say(f"run {record.id} {record.name}, attempt {measured.attempt}{so_far}")
    terminal.table(("", Column("ASKED", right=True), Column("USED", right=True)), _rows_of_usage(usage, needs))
    _say_since(usage)
    for sentence in [*advice, *earlier]:
        terminal.tell(f"- {sentence}")
    if not (advice or earlier or measured.is_running) and (needs.memory or needs.millicores or needs.gpus):
        terminal.say("- it asked for about what it used")


def _found(url: str | None, run_id: str, attempt: int | None) -> tuple[Record, Measured, list[dict[str, Any]]]:
    """The run, what an attempt of it used, and the metrics that it sent: of Redis, else of the archive.

    The archive has no metrics. Raises UnknownRunError.
    """
    api = Api(url)
    record, measured = api.measured(run_id_of(api, run_id, takes_newest=True), attempt=attempt)
    return record, measured, api.transport.metrics(record.id)


def _why_nothing(record: Record, measured: Measured) -> str:
    if not measured.attempt:
        return f"run {record.id} has not started, so nothing was measured"
    if measured.is_running:
        return (
            f"nothing was measured yet, or worker {record.worker} does not answer (a user of Redis who may only "
            "look cannot ask it); try again in some seconds, or when the run has ended"
        )
    if measured.usage:
        return "there are no samples: the job ended before the first look, or its worker takes none"
    return f"nothing is known of what attempt {measured.attempt} used"


def _say_since(usage: Usage) -> None:
    if usage.since_s is not None:
        terminal.tell(
            f"memory, GPUs and disk are known since {humane.duration(usage.since_s)} after its start: what an earlier "
            "worker had measured is lost",
            err=True,
        )


def _rows_of_usage(usage: Usage, needs: Needs) -> list[tuple[str, str, str]]:
    asked_cores = f"{needs.millicores / 1000:g}" if needs.millicores else "-"
    asked_memory = humane.size(needs.memory) if needs.memory else "-"
    rows = [
        ("time", "-", _known(usage.wall_s, humane.duration)),
        ("cores, average", asked_cores, _known(usage.cores, lambda cores: f"{cores:.2f}")),
        ("CPU time", "-", _known(usage.cpu_s, humane.duration)),
        ("memory, peak", asked_memory, _known(usage.peak_memory, humane.size)),
        ("memory, average", asked_memory, _known(usage.mean_memory, humane.size)),
        ("memory over time", "-", _known(usage.memory_gb_h, lambda amount: f"{amount:.3g} GiB h")),
        ("disk of its folder", "-", _known(usage.disk_bytes, humane.size)),
    ]
    if needs.gpus or usage.gpu_s is not None:
        busy = usage.busy_gpus
        rows += [
            ("GPUs busy, average", str(needs.gpus), _known(busy, lambda count: f"{count:.2f}")),
            ("GPU time", "-", _known(usage.gpu_s, humane.duration)),
            ("GPU memory, peak", "-", _known(usage.peak_gpu_memory, humane.size)),
        ]
    return rows


def _known(value: Any, show: Any) -> str:
    return "unknown" if value is None else str(show(value))


def _rows_of_samples(measured: Measured) -> list[tuple[str, ...]]:
    samples = measured.samples
    if samples is None:
        return []
    series = (
        ("cores", samples.cpu, lambda value: f"{value:.2f}"),
        ("memory", samples.memory, humane.size),
        ("GPUs busy", samples.gpu, lambda value: f"{value:.2f}"),
        ("GPU memory", samples.gpu_memory, humane.size),
    )
    return [row for name, values, show in series for row in _row(name, values, show)]


def _rows_of_metrics(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    names = sorted({name for row in rows for name in row if not name.startswith("_")})
    found = []
    for name in names:
        values = [value for row in rows if _is_number(value := row.get(name))]
        found += _row(name, values, lambda value: f"{value:.4g}")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _row(name: str, values: Sequence[Any], show: Any) -> list[tuple[str, ...]]:
    known = [value for value in values if value is not None]
    if not known:
        return []
    return [(name, sparkline(values), show(min(known)), show(max(known)), show(known[-1]))]


def sparkline(values: Sequence[float | None], *, width: int = _WIDTH) -> str:
    """The values as bars between 0, or the least negative one, and the largest; a blank where one is not known."""
    count = min(width, len(values))
    parts = [values[at * len(values) // count : (at + 1) * len(values) // count] for at in range(count)]
    most = [max((value for value in part if value is not None), default=None) for part in parts]
    known = [value for value in most if value is not None]
    low, high = min(0.0, *known), max(known)
    span = (high - low) or 1.0
    return "".join(
        " " if value is None else _BARS[min(len(_BARS) - 1, int((value - low) / span * len(_BARS)))] for value in most
    )


@click.command(epilog="Example: launch-worker usage --by user,queue --since 30d --csv > usage.csv")
@click.option(
    "--by", default="user", show_default=True, metavar="WAY,…", help="Groups: user, project, queue, worker, gpu."
)
@click.option("--since", default="30d", show_default=True, metavar="TIME", help="What ended since: 30d ago, or a date.")
@click.option("--until", metavar="TIME", help="What ended before.")
@click.option("--project", default="", metavar="ENTITY/PROJECT", help="Only runs of this project.")
@click.option("--csv", "as_csv", is_flag=True, help="Lines of CSV, in seconds and GiB hours.")
@WIDE
@_JSON
@click.pass_obj
def usage_command(
    url: str | None, by: str, since: str, until: str | None, project: str, as_csv: bool, wide: bool, as_json: bool
) -> None:
    """Sum what runs used, from the archive: time, CPU, memory and GPUs, by user, project, queue, worker or GPU.

    An attempt counts as a whole when it has ended. GPU time is shown as held, and as at work.
    """
    if as_csv and as_json:
        raise InputError("--csv and --json are two forms; leave one of them out")
    api = Api(url)
    now_us = api.transport.now_us()
    since_us, until_us = _moment(since, "--since", now_us), None
    if until is not None:
        until_us = _moment(until, "--until", now_us)
    ways = [way for word in dict.fromkeys(by.split(",")) for way in WAYS if way == word.strip()]
    if not ways or len(ways) != len(dict.fromkeys(by.split(","))):
        raise InputError(f"--by {by[:60]!r} is not a way to sum; write one or more of: {','.join(WAYS)}")
    found = api.transport.sums(ways, since_us=since_us, until_us=until_us, project=project)
    if as_json or as_csv:
        objects = [dict(zip(ways, group, strict=True)) | _rounded(total) for group, total in found]
        if as_json:
            for each in objects:
                terminal.echo_json(each)
        else:
            _say_csv([*ways, *_rounded_names()], objects)
        return
    if not found:
        terminal.say("no attempt ended in this time", err=True)
        return
    rows = [(*(name or "-" for name in group), *_row_of_sums(total)) for group, total in found]
    columns = [*(Column(way.upper(), least=12) for way in ways), *_SUMS]
    terminal.table(columns, rows, is_wide=wide)
    unknown = sum(total.unknown for _, total in found)
    if unknown:
        terminal.say(f"of {humane.plural(unknown, 'attempt')} nothing is known: they add nothing to the sums", err=True)


#: Columns of the sums for people: hours, but for the numbers of attempts.
_SUMS = (
    Column("ATTEMPTS", 3, right=True),
    Column("HOURS", right=True),
    Column("CPU H", right=True),
    Column("OF ASKED", 5, right=True),
    Column("MEMORY GIB H", 4, right=True),
    Column("OF ASKED", 6, right=True),
    Column("GPU H HELD", 1, right=True),
    Column("GPU H BUSY", 2, right=True),
    Column("OUTPUTS", 7, right=True),
)


def _row_of_sums(total: Total) -> tuple[str, ...]:
    return (
        str(total.attempts),
        _hours(total.wall_s),
        _hours(total.cpu_s),
        _hours(total.asked_cpu_s) if total.asked_cpu_s else "-",
        f"{total.memory_gb_h:,.2f}",
        f"{total.asked_memory_gb_h:,.2f}" if total.asked_memory_gb_h else "-",
        _hours(total.held_gpu_s),
        _hours(total.gpu_s),
        humane.size(round(total.output_bytes)) if total.output_bytes else "-",
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}"


def _rounded(total: Total) -> dict[str, Any]:
    return {name: round(value, 3) for name, value in vars(total).items()}


def _rounded_names() -> list[str]:
    return list(vars(Total()))


def _say_csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    for row in (dict(zip(columns, columns, strict=True)), *rows):
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow([row[name] for name in columns])
        terminal.say(line.getvalue())


def _moment(text: str, what: str, now_us: int) -> int:
    """Server microseconds of a time, or of a duration before now."""
    try:
        return now_us - as_us(parse_duration(text, what=what))
    except InputError:
        return parse_time(text, what=what)
