"""Defines `sweep`: hyperparameter sweeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from launch_worker import humane, terminal
from launch_worker.api.client import Api
from launch_worker.api.sweeps import MAX_WORKERS, Sweep
from launch_worker.cli.options import WIDE
from launch_worker.cli.submit_options import RUN_OPTIONS, given_options, with_options
from launch_worker.cli.watching import WATCH, show_or_watch
from launch_worker.cli.words import after_of, inputs_of, sweep_id_of
from launch_worker.humane import plural
from launch_worker.model.sweep import STATE_WORDS, SweepOrder
from launch_worker.model.units import parse_duration
from launch_worker.sweeps.space import flat
from launch_worker.terminal import Column, Screen, Styled, Table, state_cell, wrapped

_ID = click.argument("sweep_id", metavar="SWEEP")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")


@click.group(epilog="Example: launch-worker sweep create sweep.yaml -q gpu --workers 8")
def sweep_command() -> None:
    """Try parameters: W&B's sweeps, made of ordinary runs.

    Other methods than grid need: pip install 'launch_worker[sweeps]'
    """


@sweep_command.command("create", epilog="Example: launch-worker sweep create sweep.yaml -q gpu --gpus 1 --workers 8")
@click.argument("file", metavar="SWEEP.yaml")
@click.option(
    "--workers",
    type=click.IntRange(1, MAX_WORKERS),
    default=1,
    show_default=True,
    metavar="N",
    help="How many of its runs there are at once, waiting ones too.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Most runs that it makes (beside run_cap).")
@click.option("--strict", is_flag=True, help="Refuse a queue that is not known yet.")
@with_options(*RUN_OPTIONS)
@click.option("--quiet", is_flag=True, help="Print the sweep's id alone.")
@_JSON
@click.pass_obj
def create_command(
    url: str | None,
    /,
    file: str,
    workers: int,
    count: int | None,
    strict: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Start the sweep that SWEEP.yaml describes, as W&B has it. The other options are for each of its runs."""
    given = given_options((), options)
    if "after" in given:
        given["after"] = after_of(url, given["after"])
    if "inputs" in given:
        given["inputs"] = inputs_of(url, given["inputs"])
    sweep = Api(url).create_sweep(file, workers=workers, count=count, strict=strict, **given)
    sweep.refresh()
    if as_json:
        terminal.echo_json(sweep.as_json())
    elif quiet:
        terminal.say(sweep.id)
    else:
        cap = sweep.expected_run_count
        end = f"of at most {cap} runs" if cap is not None else "without an end: stop it with launch-worker sweep stop"
        terminal.say(
            f"sweep {sweep.id} is {_state(sweep.as_json())}, {end}; see: launch-worker sweep status {sweep.id}"
        )
        if sweep.record.problem:
            terminal.say(f"launch-worker: {sweep.record.problem}", err=True)


_COLUMNS = (
    Column("STATE"),
    Column("NAME", least=16),
    Column("RUNS", right=True),
    Column("LIVE", 2),
    Column("METHOD", 3),
    Column("METRIC", 4, least=10),
    Column("AGE", 1, right=True),
    Column("ID"),
    Column("PROBLEM", 5, least=30, falls=True),
)


@sweep_command.command("list", epilog="Example: launch-worker sweep list --json")
@WIDE
@_JSON
@click.pass_obj
def list_command(url: str | None, wide: bool, as_json: bool) -> None:
    """List the sweeps, the newest first."""
    found = [sweep.as_json() for sweep in Api(url).sweeps()]
    if as_json:
        for row in found:
            terminal.echo_json(row)
        return
    if not found:
        terminal.say("no sweeps", err=True)
        return
    rows = [
        (
            *(_state_cell(row), row["name"], _made(row), row["live"], row.get("method"), row.get("metric")),
            *(terminal.age(row["created_at"]), row["id"], row["problem"]),
        )
        for row in found
    ]
    terminal.table(_COLUMNS, rows, is_wide=wide)


@sweep_command.command("status", epilog="Example: launch-worker sweep status 01hzy6k3v9c2m4q --json")
@_ID
@WATCH
@WIDE
@_JSON
@click.pass_obj
def status_command(url: str | None, sweep_id: str, watch: bool, wide: bool, as_json: bool) -> None:
    """Show how far a sweep is: its best run, how many are in which state, and each of them."""
    api = Api(url)
    sweep_id = sweep_id_of(api, sweep_id)

    def show(shown: dict[str, Any]) -> None:
        if as_json:
            terminal.echo_json(shown)
        else:
            terminal.put(_lines(shown, terminal.Screen.of(is_wide=wide)))

    def read() -> dict[str, Any]:
        return api.sweep(sweep_id).as_json(runs=True)

    show_or_watch(api.transport, read, draw=_lines, show=show, watch=watch, as_json=as_json)


def _lines(shown: dict[str, Any], screen: Screen) -> list[Styled]:
    counts = {state: count for state, count in shown.get("counts", {}).items() if count}
    by_state = ", ".join(f"{humane.count(count)} {state}" for state, count in counts.items())
    said: dict[str, Any] = {
        "sweep": shown["id"],
        "name": shown["name"],
        "state": _state_cell(shown)(screen),
        "reason": shown["reason"],
        "problem": shown["problem"],
        "method": shown.get("method"),
        "metric": f"{shown['goal']} {shown['metric']}" if shown.get("metric") else None,
        "queue": shown.get("queue"),
        "runs": f"{_made(shown)}, {shown['live']} live" + (f": {by_state}" if by_state else ""),
    }
    best = shown.get("best")
    if best:
        said["best"] = f"{_value(best['value'])}  run {best['run']}  {_parameters(best['config'])}"
    lines = []
    for key, value in said.items():
        if value not in (None, ""):
            lines += wrapped(value, screen, Styled(f"{key:<10} "))
    for line in (shown.get("failed_output") or "").splitlines():
        lines += wrapped(line, screen, Styled(f"{'':<10} | "))
    if not shown.get("runs"):
        return lines
    columns = (
        Column("#", 3),
        Column("STATE"),
        Column((shown.get("metric") or "value").upper(), right=True),
        Column("PARAMETERS", 1, least=16),
        Column("", 2),
        Column("RUN"),
    )
    rows = [
        (
            *(row["index"], state_cell(row["state"]), _value(row["value"]), _parameters(row["config"])),
            *("stopped early" if row["stopped"] else None, row["run"]),
        )
        for row in shown["runs"]
    ]
    return [*lines, Styled(""), *Table(columns, rows).lines(screen)]


@sweep_command.command("wait", epilog="Example: launch-worker sweep wait @")
@_ID
@click.option("--timeout", metavar="DUR", help="Give up after this time (exit code 1).")
@_JSON
@click.pass_obj
def wait_command(url: str | None, sweep_id: str, timeout: str | None, as_json: bool) -> int:
    """Wait until a sweep is over and its runs have ended; exits as `launch-worker wait`, and says which run is best."""
    api = Api(url)
    sweep = api.sweep(sweep_id_of(api, sweep_id))
    timeout_s = None if timeout is None else parse_duration(timeout, what="timeout")
    group = api.group(sweep.id)
    try:
        group.wait(timeout_s)
    except TimeoutError as error:
        terminal.say(f"launch-worker: {error}", err=True)
        return 1
    sweep.refresh()
    shown = sweep.as_json()
    if as_json:
        terminal.echo_json(shown)
    else:
        best = shown.get("best")
        how = f"; the best is {_value(best['value'])} of run {best['run']}" if best else ""
        terminal.say(f"sweep {sweep.id} is {_state(shown)}, with {plural(shown['made'], 'run')}{how}")
    return group.shell_exit_code()


@sweep_command.command("pause", epilog="Example: launch-worker sweep pause 01hzy6k3v9c2m4q")
@_ID
@_JSON
@click.pass_obj
def pause_command(url: str | None, sweep_id: str, as_json: bool) -> None:
    """Make no more runs for a while. Those that are made go on."""
    _steer(url, sweep_id, "pause", as_json=as_json)


@sweep_command.command("resume", epilog="Example: launch-worker sweep resume 01hzy6k3v9c2m4q")
@_ID
@_JSON
@click.pass_obj
def resume_command(url: str | None, sweep_id: str, as_json: bool) -> None:
    """Let a paused sweep go on."""
    _steer(url, sweep_id, "resume", as_json=as_json)


@sweep_command.command("stop", epilog="Example: launch-worker sweep stop 01hzy6k3v9c2m4q")
@_ID
@_JSON
@click.pass_obj
def stop_command(url: str | None, sweep_id: str, as_json: bool) -> None:
    """Make no more runs, let the running ones finish; the pending ones are Killed. Then it is FINISHED."""
    _steer(url, sweep_id, "stop", as_json=as_json)


@sweep_command.command("cancel", epilog="Example: launch-worker sweep cancel 01hzy6k3v9c2m4q")
@_ID
@_JSON
@click.pass_obj
def cancel_command(url: str | None, sweep_id: str, as_json: bool) -> None:
    """Kill a sweep's running and pending runs. Then it is CANCELED."""
    _steer(url, sweep_id, "cancel", as_json=as_json)


def _steer(url: str | None, sweep_id: str, word: SweepOrder, *, as_json: bool) -> None:
    api = Api(url)
    sweep: Sweep = api.sweep(sweep_id_of(api, sweep_id))
    if word == "resume":
        sweep.resume()
    else:
        sweep.steer(word)
    sweep.refresh()
    shown = sweep.as_json()
    if as_json:
        terminal.echo_json(shown)
        return
    live = sweep.record.live
    rest = f", {live} of its runs are live" if live else ""
    terminal.say(f"sweep {sweep.id} is {_state(shown)}{rest}")


def _state(shown: dict[str, Any]) -> str:
    word = STATE_WORDS.get(shown["state"], str(shown["state"]))
    return f"{word} (being cancelled)" if shown["cancelling"] else word


def _state_cell(shown: dict[str, Any]) -> Callable[[Screen], Styled]:
    """The state with the sign and colour of the state of runs that it is like."""
    like = {"PAUSED": "Pending", "STOPPED": "Running", "CANCELED": "Killed"}.get(shown["state"])
    return state_cell(like or STATE_WORDS.get(shown["state"], ""), _state(shown))


def _made(shown: dict[str, Any]) -> str:
    return f"{shown['made']}" if shown["run_cap"] is None else f"{shown['made']} of {shown['run_cap']}"


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _parameters(config: dict[str, Any]) -> str:
    return " ".join(
        f"{name}={value:.4g}"
        if isinstance(value, float)
        else f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in flat(config)
    )
