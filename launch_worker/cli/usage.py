"""Defines `metrics` and `report`: what runs used of their machines, over time and beside what they asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import click

from launch_worker import terminal
from launch_worker.api.client import Api, Run
from launch_worker.errors import InputError
from launch_worker.model.advice import advise
from launch_worker.model.needs import Needs, parse_needs
from launch_worker.model.units import format_duration, format_size
from launch_worker.model.usage import Measured, Usage

_RUN = click.argument("run_id", metavar="RUN")
_ATTEMPT = click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="An earlier attempt.")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")

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
    run, measured = _measured(url, run_id, attempt)
    told = run.metrics()
    if as_json:
        samples = None if measured.samples is None else measured.samples.as_json()
        usage = measured.usage.as_json() or None
        terminal.echo_json(
            {"id": run.id, "attempt": measured.attempt, "usage": usage, "samples": samples, "metrics": told}
        )
        return
    rows = _rows_of_samples(measured) + _rows_of_metrics(told)
    if rows:
        terminal.table(("OF", "OVER TIME", "LEAST", "MOST", "LAST"), rows)
    if measured.samples is not None:
        length_s = measured.samples.every_s * max(1, len(measured.samples.cpu), len(measured.samples.memory))
        terminal.say(f"one sample is {format_duration(measured.samples.every_s)}, all are {format_duration(length_s)}")
    else:
        terminal.say(_why_nothing(run, measured), err=True)
    _say_since(measured.usage)


@click.command(epilog="Example: launch-worker report 1m83cyvtfq1tc69")
@_RUN
@_ATTEMPT
@_JSON
@click.pass_obj
def report_command(url: str | None, run_id: str, attempt: int | None, as_json: bool) -> None:
    """Show what a run asked for beside what it used, with advice for the next one."""
    run, measured = _measured(url, run_id, attempt)
    usage, needs = measured.usage, parse_needs(run.record.needs)
    advice = [] if measured.is_running else advise(usage, measured.samples, needs)
    if as_json:
        asked = {"gpus": needs.gpus, "cpus": needs.millicores / 1000, "memory": needs.memory}
        terminal.echo_json(
            {
                "id": run.id,
                "attempt": measured.attempt,
                "asked": {name: value or None for name, value in asked.items()},
                "usage": usage.as_json() or None,
                "advice": advice,
            }
        )
        return
    if not usage:
        terminal.say(_why_nothing(run, measured), err=True)
        return
    so_far = " so far" if measured.is_running else ""
    terminal.say(f"run {run.id} {run.name}, attempt {measured.attempt}{so_far}")
    terminal.table(("", "ASKED", "USED"), _rows_of_usage(usage, needs))
    _say_since(usage)
    for sentence in advice:
        terminal.say(f"- {sentence}")
    if not advice and not measured.is_running and (needs.memory or needs.millicores or needs.gpus):
        terminal.say("- it asked for about what it used")


def _measured(url: str | None, run_id: str, attempt: int | None) -> tuple[Run, Measured]:
    run = Api(url).run(run_id)
    count = run.record.attempt
    if attempt is not None and attempt > count:
        raise InputError(f"run {run_id} has had {count} attempts; there is no attempt {attempt} yet")
    return run, run.measured(attempt=attempt)


def _why_nothing(run: Run, measured: Measured) -> str:
    if not measured.attempt:
        return f"run {run.id} has not started, so nothing was measured"
    if measured.is_running:
        return f"nothing was measured yet, or worker {run.record.worker} does not answer; try again in some seconds"
    if measured.usage:
        return "there are no samples: the job ended before the first look, or its worker takes none"
    return f"nothing is known of what attempt {measured.attempt} used"


def _say_since(usage: Usage) -> None:
    if usage.since_s is not None:
        terminal.say(
            f"memory, GPUs and disk are known since {format_duration(usage.since_s)} after its start: what an earlier "
            "worker had measured is lost",
            err=True,
        )


def _rows_of_usage(usage: Usage, needs: Needs) -> list[tuple[str, str, str]]:
    asked_cores = f"{needs.millicores / 1000:g}" if needs.millicores else "-"
    asked_memory = format_size(needs.memory) if needs.memory else "-"
    rows = [
        ("time", "-", _known(usage.wall_s, format_duration)),
        ("cores, average", asked_cores, _known(usage.cores, lambda cores: f"{cores:.2f}")),
        ("CPU time", "-", _known(usage.cpu_s, format_duration)),
        ("memory, peak", asked_memory, _known(usage.peak_memory, format_size)),
        ("memory, average", asked_memory, _known(usage.mean_memory, format_size)),
        ("memory over time", "-", _known(usage.memory_gb_h, lambda amount: f"{amount:.3g} GiB h")),
        ("disk of its folder", "-", _known(usage.disk_bytes, format_size)),
    ]
    if needs.gpus or usage.gpu_s is not None:
        busy = None if usage.gpu_s is None or not usage.wall_s else usage.gpu_s / usage.wall_s
        rows += [
            ("GPUs busy, average", str(needs.gpus), _known(busy, lambda count: f"{count:.2f}")),
            ("GPU time", "-", _known(usage.gpu_s, format_duration)),
            ("GPU memory, peak", "-", _known(usage.peak_gpu_memory, format_size)),
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
        ("memory", samples.memory, format_size),
        ("GPUs busy", samples.gpu, lambda value: f"{value:.2f}"),
        ("GPU memory", samples.gpu_memory, format_size),
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
