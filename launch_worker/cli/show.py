"""Defines `show` and `files`: all that is known of one run, and what is kept with it."""

from __future__ import annotations

import json
from typing import Any

import click

from launch_worker import terminal
from launch_worker.api.client import Api
from launch_worker.api.groups import Group
from launch_worker.errors import InputError, UnknownRunError
from launch_worker.ids import GROUP_ID
from launch_worker.model.options import OPTIONS, SPEC

_RUN = click.argument("run_id", metavar="RUN")
_RAW = click.option("--raw", is_flag=True, help="On a terminal too: the bytes as they are, whatever they do to it.")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")


@click.command(epilog="Example: launch-worker show 1m83cyvtfq1tc69 --json")
@click.argument("run_id", metavar="RUN|GROUP")
@_JSON
@click.pass_obj
def show_command(url: str | None, run_id: str, as_json: bool) -> None:
    """Show all that is known of a run, and its history; or the counts of a group."""
    api = Api(url)
    if GROUP_ID.fullmatch(run_id):
        _show_group(api.group(run_id), as_json=as_json)
        return
    try:
        shown = api.shown(run_id)
    except UnknownRunError:
        # A sweep's id looks as a run's.
        if (sweep := api.find_group(run_id)) is None:
            raise
        _show_group(sweep, as_json=as_json)
        return
    if as_json:
        terminal.echo_json(shown)
        return
    history, spec, attempts = shown.pop("history"), shown.pop("spec"), shown.pop("attempts", [])
    missing, lines, where = (shown.pop(f"log_{name}") for name in ("missing_bytes", "missing_lines", "url"))
    if missing:
        more = f"{missing:,} bytes" + (f" ({lines:,} lines)" if lines else "")
        shown["output"] = f"Redis has the newest; {more} before it are " + (f"at {where}" if where else "kept nowhere")
    shown["phases"] = [_phase(phase) for phase in shown["phases"]]
    shown["files"] = [f"{file['name']} ({file['size']} bytes)" for file in shown["files"]]
    shown["usage"] = [f"{key}={value}" for key, value in (shown["usage"] or {}).items()]
    for name in ("config", "summary"):
        shown[name] = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in shown[name].items()]
    if spec.get("cwd") and not (spec.get("cwd_required") or spec.get("uri") or spec.get("upload")):
        # The folder of its submitter. A worker that lacked it says so in the reason.
        spec["submitted from"] = spec.pop("cwd")
    command = spec.get("command")
    shown["command"] = " ".join(_quoted(word) for word in command) if isinstance(command, list) else ""
    shown |= {_SPEC_NAMES.get(name, name): value for name, value in spec.items() if name not in _NOT_SHOWN}
    for name, value in shown.items():
        if value in (None, "", []):
            continue
        label = name.replace("_", " ")
        for text in [terminal.state(value)] if name == "state" else _lines(value):
            terminal.say(f"{label:<20} ", text)
            label = ""
    env = spec.get("env")
    for name, value in env.items() if isinstance(env, dict) else ():
        terminal.say(f"{'env':<20} ", f"{name}={value}")
    terminal.say()
    rows = [(step["at"], step["state"], step["attempt"], step["worker"], step["reason"]) for step in history]
    reason = terminal.Column("REASON", 9, 24, falls=True)
    terminal.table(("AT", "STATE", "ATTEMPT", "WORKER", reason), rows)
    if attempts:
        terminal.say()
        columns = ("attempt", "state", "started_at", "ended_at", "worker", "host", "exit_code", "signal", "message")
        rows = [tuple(attempt[name] for name in columns) for attempt in attempts]
        terminal.table([name.replace("_", " ").upper() for name in columns], rows)


def _show_group(group: Group, *, as_json: bool) -> None:
    shown = group.as_json()
    if as_json:
        terminal.echo_json(shown)
        return
    counts = shown.pop("counts")
    for name, value in shown.items():
        if value not in (None, "", 0, False):
            terminal.say(f"{name.replace('_', ' '):<20} ", "yes" if value is True else str(value))
    terminal.say()
    terminal.table(("STATE", "RUNS"), [(kind, count) for kind, count in counts.items() if count])


#: Fields of the spec that are not shown: the record has them too, or only the system needs them.
_NOT_SHOWN = frozenset(
    {"command", "name", "queue", "project", "tags", "env", "after", "config", "sweep", "cwd_required"}
)
#: Names of a spec's fields for people: those of the options, but for the record's own `gpus`.
_SPEC_NAMES = {option.field: option.name for option in OPTIONS if option.owner == SPEC} | {"gpus": "wants gpus"}


def _phase(phase: dict[str, Any]) -> str:
    took = "goes on" if phase["seconds"] is None else f"{phase['seconds']:.2f} s"
    return f"{phase['name']} at {phase['at']}" + (f" ({took})" if phase["seconds"] != 0 else "")


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = [f"{name}={json.dumps(entry, ensure_ascii=False)}" for name, entry in value.items()]
    if isinstance(value, list):
        return [", ".join(map(str, value))]
    return str(value).split("\n")


def _quoted(word: Any) -> str:
    import shlex

    return shlex.quote(str(word))


@click.command(epilog="Example: launch-worker files 1m83cyvtfq1tc69 engine.log")
@_RUN
@click.argument("name", required=False)
@_RAW
@_JSON
@click.pass_obj
def files_command(url: str | None, run_id: str, name: str | None, raw: bool, as_json: bool) -> None:
    """List the files that are kept with a run; with NAME print that one, in a pipe its bytes and nothing else."""
    run = Api(url).run(run_id)
    if name is not None:
        if as_json:
            raise InputError("--json is for the list of files; leave out it or the name")
        with terminal.JobOutput(raw=raw) as shown:
            shown.write(run.file(name).read())
        return
    files = run.files()
    if as_json:
        for file in files:
            terminal.echo_json({"name": file.name, "size": file.size, "saved_at": file.saved_at})
        return
    if not files:
        terminal.say("no files", err=True)
        return
    terminal.table(("NAME", "BYTES", "AGE"), [(file.name, file.size, terminal.ago(file.saved_at)) for file in files])
