"""Defines `show`: what is known of a run or a group, the most important first."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import click

from launch_worker import humane, terminal
from launch_worker.api.client import Api
from launch_worker.api.groups import Group
from launch_worker.api.run import Run
from launch_worker.api.shown import options_of, source_of
from launch_worker.cli.words import id_of
from launch_worker.errors import InputError, LaunchError, UnknownRunError
from launch_worker.ids import GROUP_ID
from launch_worker.model.checkpoint import Checkpoint
from launch_worker.model.hints import Hint, hint_of_end
from launch_worker.model.masking import MASK
from launch_worker.model.needs import parse_needs
from launch_worker.model.run import Record
from launch_worker.model.sentences import attempt_of_most, common_reason, sentence_of, sentence_of_group
from launch_worker.model.states import RunState
from launch_worker.model.units import is_number
from launch_worker.model.usage import Usage
from launch_worker.untrusted.text import plain_line, read_map

_RUN = click.argument("run_id", metavar="RUN")
_RAW = click.option("--raw", is_flag=True, help="On a terminal too: the bytes as they are, whatever they do to it.")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")

#: Lines of a failed run's output that are shown, and characters of each.
_LAST_LINES, _MOST_CHARS = 20, 500
#: Values of a config or summary that are shown, and runs of a group that are looked at.
_MOST_VALUES, _MOST_RUNS = 8, 1000


@click.command(epilog="Example: launch-worker show 1m83cyvtfq1tc69 --json")
@click.argument("run_id", metavar="RUN|GROUP")
@click.option("--all", "is_all", is_flag=True, help="All that is known, with exact times and every transition.")
@_JSON
@click.pass_obj
def show_command(url: str | None, run_id: str, is_all: bool, as_json: bool) -> None:
    """Say what a run does or how it ended, why, and what to do next; or how the runs of a group are."""
    api = Api(url)
    run_id = id_of(api, run_id, takes_newest=True)
    if GROUP_ID.fullmatch(run_id):
        _show_group(api.group(run_id), is_all=is_all, as_json=as_json)
        return
    try:
        shown = api.shown(run_id)
    except UnknownRunError:
        # A sweep's id looks as a run's.
        if (sweep := api.find_group(run_id)) is None:
            raise
        _show_group(sweep, is_all=is_all, as_json=as_json)
        return
    if as_json:
        terminal.echo_json(shown)
        return
    record, screen = Record.from_json(shown), terminal.Screen.of()
    sentence = sentence_of(record, shown["reason"] or "", now_us=_now_us())
    lines = _headline(sentence, record.state, screen)
    tail = _last_lines(api, record)
    if tail == [] and record.phase == "run":
        lines += ["", terminal.styled("  It printed nothing.", dim=True)]
    elif tail:
        gutter = terminal.styled("  │ " if screen.has_signs else "  | ", dim=True)
        lines += ["", *(terminal.joined(gutter, part) for line in tail for part in _parts(line, screen))]
    lines += _next(api, record, shown, tail or [], screen)
    if is_all:
        terminal.put(map(terminal.joined, [*lines, ""]))
        _show_all(shown, record)
    else:
        terminal.put(map(terminal.joined, [*lines, "", *terminal.facts(_facts(shown, record), screen)]))


def _headline(sentence: str, state: str, screen: terminal.Screen) -> list[str]:
    """The sentence with its first word, a state, in colour."""
    first, *more = terminal.wrapped(sentence, screen)
    rest = first.removeprefix(state)
    return [terminal.joined(terminal.state_cell(state)(screen), rest) if rest != first else first, *more]


def _parts(line: str, screen: terminal.Screen) -> Iterator[str]:
    """A line of output in parts that fit beside the gutter."""
    left = screen.writable(line)
    while screen.width is not None and (part := terminal.cut(left, screen.width - 4, "")) != left:
        yield part
        left = left[len(part) :]
    yield left


def _now_us() -> int:
    return round(datetime.now(UTC).timestamp() * 1e6)


# -- what comes first --------------------------------------------------------------------------------------------------


def _last_lines(api: Api, record: Record) -> list[str] | None:
    """The last lines of the output of a run that ended badly, clean; None for another, or where they cannot be read."""
    if not record.state.is_final or record.state is RunState.FINISHED or not record.attempt:
        return None
    try:
        pieces = [piece.data for piece in Run(api, record.id).read_logs(tail=_LAST_LINES)]
    except LaunchError:
        return None
    lines = b"".join(pieces).decode(errors="replace").removesuffix("\n").split("\n")[-_LAST_LINES:]
    # Of a progress bar its last state.
    last = [line.removesuffix("\r").rpartition("\r")[2] for line in lines] if any(lines) else []
    return [plain_line(line[:_MOST_CHARS]).expandtabs() for line in last]


def _next(
    api: Api, record: Record, shown: Mapping[str, Any], tail: Sequence[str], screen: terminal.Screen
) -> list[str]:
    """What it means and what to do: a paragraph, and commands to copy."""
    run_id, hint = record.id, Hint("")
    found: list[tuple[str, str]] = []
    if record.state is RunState.PENDING:
        explained = api.transport.explain(run_id)
        hint = Hint("", explained.advice, command=explained.command)
        found = [(f"launch-worker explain {run_id}", "why, worker by worker")]
        found += [(f"launch-worker cancel {run_id}", "")]
    elif record.state is RunState.RUNNING:
        found = [(f"launch-worker logs -f {run_id}", "its output as it comes")]
        found += [(f"launch-worker confirm {run_id} ended", "when nothing of it is left")] if record.is_held else []
        found += [(f"launch-worker cancel {run_id}", "")] if record.cancel_at is None else []
    else:
        hint = hint_of_end(record, "\n".join(tail)) or hint
        if tail or (record.attempt and record.state is RunState.FINISHED):
            found = [(f"launch-worker logs {run_id}", "all of its output")]
        if shown["files"] or shown.get("outputs"):
            found += [(f"launch-worker files {run_id} --get results", "fetches what it left")]
        if record.state is not RunState.FINISHED and "attempts" not in shown:
            found += [(f"launch-worker retry {run_id}", "another attempt")]
        if hint.ask and (command := _command_with(shown, hint.ask)):
            found += [(command, "the same with more")]
    text = hint.text
    # What the sentence has said already.
    for said in (shown["reason"], f"exit code {record.exit_code}"):
        text = text.removeprefix(humane.sentence(said or "")).strip()
    lines = ["", *terminal.wrapped(text, screen)] if text else []
    if hint.command:
        found.insert(0, (hint.command, ""))
    return [*lines, "", *terminal.commands(found, screen)] if found else lines


def _command_with(shown: Mapping[str, Any], ask: Mapping[str, str]) -> str:
    """The command that submits the run with other options; '' for a spec that nobody can read."""
    from launch_worker.submission.command_line import command_line, options_of_spec

    spec = shown["spec"]
    env = spec.get("env")
    secrets = {name for name, value in env.items() if value == MASK} if isinstance(env, dict) else set()
    try:
        return command_line({**options_of_spec(json.dumps(spec)), **ask}, secrets=secrets)
    except InputError:
        return ""


# -- facts -------------------------------------------------------------------------------------------------------------


def _facts(shown: Mapping[str, Any], record: Record) -> list[tuple[str, str]]:
    """The important facts: name and text; what is not known is ''."""
    spec: Mapping[str, Any] = shown["spec"]
    command = spec.get("command")
    by = record.user or record.author
    priority = spec.get("priority") or "medium"
    limit: Any = spec.get("timeout_s")
    asked = [f"{humane.duration(limit)} at most"] if is_number(limit) else []
    return [
        ("run", f"{record.id}  {record.name}"),
        ("project", record.project),
        ("queue", record.queue + ("" if priority == "medium" else f", priority {priority}")),
        ("command", shlex.join(map(str, command)) if isinstance(command, list) else ""),
        ("code", source_of(spec, shown["commit"])),
        ("image", str(spec.get("image") or "")),
        ("submitted", terminal.ago(shown["created_at"]) + (f" by {by}" if by else "")),
        ("planned for", terminal.ago(shown["scheduled_at"])),
        ("waited", _waited(shown, record)),
        ("attempt", attempt_of_most(record, spec).removeprefix("attempt ")),
        ("worker", _where(record)),
        ("asked for", ", ".join([*_needs(record), *asked])),
        ("used", ", ".join(_used(record))),
        ("summary", _values(shown["summary"])),
        ("config", _values(shown["config"])),
        ("tags", ", ".join(record.tags)),
        ("group", record.group),
        ("after", ", ".join(shown["after"])),
        ("checkpoint", _checkpoint(shown, record)),
        ("files", _files(shown)),
        ("output", _output(shown)),
    ]


def _waited(shown: Mapping[str, Any], record: Record) -> str:
    """How long it waited for its first start; '' where it has had none, or was planned."""
    begun = next((step["at"] for step in shown["history"] if step["state"] == RunState.RUNNING.value), None)
    if begun is None or record.scheduled_at is not None or record.attempt > 1:
        return ""
    waited = datetime.fromisoformat(begun) - datetime.fromisoformat(shown["created_at"])
    return humane.duration(waited.total_seconds())


def _checkpoint(shown: Mapping[str, Any], record: Record) -> str:
    """The newest state from which another attempt would go on; '' for none."""
    newest = Checkpoint.of(record.checkpoint)
    if newest is None:
        return ""
    ago = terminal.ago(shown["checkpoint"]["at"])
    return f"of attempt {newest.attempt}, {ago}, {humane.plural(newest.files, 'file')}, {humane.size(newest.bytes)}"


def _where(record: Record) -> str:
    if not record.worker:
        return ""
    gpus = f", {'GPU' if len(record.gpus) == 1 else 'GPUs'} {','.join(record.gpus)}" if record.gpus else ""
    pid = f", pid {record.pid}" if record.pid and record.state is RunState.RUNNING else ""
    host = "" if record.worker.endswith(f"@{record.host}") else f" on {record.host}"
    return f"{record.worker}{host}{pid}{gpus}"


def _needs(record: Record) -> list[str]:
    needs = parse_needs(record.needs)
    asked = read_map(record.spec).get("memory")
    more = f" (of {asked}: twice as much after it was too little)" if isinstance(asked, str) else ""
    return [
        *([humane.plural(needs.gpus, "GPU")] if needs.gpus else []),
        *(
            [f"{needs.millicores / 1000:g} {'core' if needs.millicores == 1000 else 'cores'}"]
            if needs.millicores
            else []
        ),
        *([f"{humane.size(needs.memory)} of memory{more}"] if needs.memory else []),
    ]


def _used(record: Record) -> list[str]:
    usage = Usage.of(record.usage)
    busy = usage.busy_gpus
    return [
        *([f"{humane.size(usage.peak_memory)} of memory at most"] if usage.peak_memory is not None else []),
        *([f"{humane.duration(usage.cpu_s)} of CPU"] if usage.cpu_s is not None else []),
        *([f"{busy:.2g} GPUs on average"] if busy is not None else []),
    ]


def _values(found: Mapping[str, Any]) -> str:
    shown = [
        f"{name}={humane.figure(value) if is_number(value) else json.dumps(value, ensure_ascii=False)}"
        for name, value in islice(found.items(), _MOST_VALUES)
    ]
    return " ".join(shown) + (" …" if len(found) > _MOST_VALUES else "")


def _files(shown: Mapping[str, Any]) -> str:
    """How many files are kept, and what is not."""
    said = [f"{file['name']} ({humane.size(file['size'])})" for file in shown["files"]]
    for attempt, one in (shown.get("outputs") or {}).items():
        text = f"outputs of attempt {attempt}: {humane.plural(one['files'], 'file')} ({humane.size(one['bytes'])})"
        if one["sending"]:
            text = f"outputs of attempt {attempt}: on their way"
        said.append(text + (f", {one['left_out']:,} not kept" if one["left_out"] else ""))
    return ", ".join(said)


def _output(shown: Mapping[str, Any]) -> str:
    """Where the beginning of its output is, if it is not in Redis."""
    missing, lines, where = (shown[f"log_{name}"] for name in ("missing_bytes", "missing_lines", "url"))
    if not missing:
        return ""
    more = humane.size(missing) + (f" ({humane.plural(lines, 'line')})" if lines else "")
    return f"Redis has the newest; {more} before it are {'at ' + where if where else 'kept nowhere'}"


# -- all ---------------------------------------------------------------------------------------------------------------

#: Fields of the object that `--all` shows elsewhere, or that say nothing to a person.
_NOT_SHOWN = frozenset(
    {
        *("spec", "history", "attempts", "files", "outputs", "usage", "config", "summary", "phases", "checkpoint"),
        "item_version",
    }
)
#: Fields of the spec that are not shown: the record has them too, or only the system needs them.
_NOT_OF_SPEC = frozenset(
    {"command", "name", "queue", "project", "tags", "env", "after", "config", "sweep", "cwd_required", "cwd", "author"}
    | {"requirements_files"}
)


def _show_all(shown: Mapping[str, Any], record: Record) -> None:
    """Print all that is known, with exact times."""
    spec = dict(shown["spec"])
    rows = [
        (name.replace("_", " "), _text(value)) for name, value in shown.items() if _says_something(name, value, record)
    ]
    rows = [row for row in rows if not row[0].startswith("log ")]
    rows.append(("author", record.author))
    rows += [("start", _phase(phase)) for phase in shown["phases"]]
    rows += [("used", f"{name}={value}") for name, value in (shown["usage"] or {}).items()]
    for kind in ("config", "summary"):
        rows += [(kind, f"{name}={json.dumps(value, ensure_ascii=False)}") for name, value in shown[kind].items()]
    rows.append(("files", _files(shown)))
    rows.append(("checkpoint", _checkpoint(shown, record)))
    rows.append(("output", _output(shown)))
    command = spec.get("command")
    rows.append(("command", shlex.join(map(str, command)) if isinstance(command, list) else ""))
    if spec.get("cwd"):
        # The folder of its submitter, unless the worker must have it. A worker that lacked it says so in the reason.
        must_be = spec.get("cwd_required") or spec.get("uri") or spec.get("upload")
        rows.append(("cwd" if must_be else "submitted from", str(spec["cwd"])))
    rows += [(f"asked: {name.lower()}", text) for name, text in options_of(spec, without=_NOT_OF_SPEC)]
    env = spec.get("env")
    rows += [("env", f"{name}={value}") for name, value in env.items()] if isinstance(env, dict) else []
    width = max(len(name) for name, text in rows if text)
    last, screen, lines = "", terminal.Screen.of(), []
    for name, text in rows:
        for line in text.split("\n") if text else ():
            head = terminal.styled(("" if name == last else name).ljust(width) + "  ", dim=True)
            lines += terminal.wrapped(line, screen, head)
            last = name
    terminal.put([*lines, terminal.Styled("")])
    steps = [(step["at"], step["state"], step["attempt"], step["worker"], step["reason"]) for step in shown["history"]]
    _table(("AT", "STATE", "ATTEMPT", "WORKER"), "REASON", steps)
    if "attempts" in shown:
        terminal.say()
        names = ("attempt", "state", "started_at", "ended_at", "worker", "host", "exit_code", "signal")
        attempts = [tuple(attempt[name] for name in (*names, "message")) for attempt in shown["attempts"]]
        _table([name.replace("_", " ").upper() for name in names], "MESSAGE", attempts)


def _table(titles: Sequence[str], last: str, rows: Sequence[Sequence[Any]]) -> None:
    """A table of which no column goes, and whose last one, of any length, is cut or falls."""
    columns = [terminal.Column(title) for title in titles]
    states = titles.index("STATE")
    found = [[terminal.state_cell(cell) if at == states else cell for at, cell in enumerate(row)] for row in rows]
    terminal.table([*columns, terminal.Column(last, least=20, falls=True)], found)


def _says_something(name: str, value: Any, record: Record) -> bool:
    if name in _NOT_SHOWN or value in (None, "", [], {}, False):
        return False
    if name == "pid":
        # A dead process's number says nothing.
        return record.state is RunState.RUNNING
    return not (name == "preemptions" and value == 0)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _phase(phase: Mapping[str, Any]) -> str:
    took = "goes on" if phase["seconds"] is None else humane.duration(phase["seconds"])
    return f"{phase['name']} at {phase['at']}" + (f" ({took})" if phase["seconds"] != 0 else "")


# -- groups ------------------------------------------------------------------------------------------------------------


def _show_group(group: Group, *, is_all: bool, as_json: bool) -> None:
    shown = group.as_json()
    if as_json:
        terminal.echo_json(shown)
        return
    record, screen = group.record, terminal.Screen.of()
    lines: list[str] = [*terminal.wrapped(sentence_of_group(record, now_us=_now_us()), screen)]
    commands = []
    bad = record.counts["Failed"] + record.counts["Crashed"]
    failed = _failed_runs(group) if bad else []
    if failed:
        first, (reason, count) = failed[0], common_reason(failed)
        named = f"{first.id} {first.name}" if first.name != record.name else first.id
        if 1 < count == len(failed):
            text = f"All {humane.count(count)} that failed say: {reason}. The first of them is {named}."
        else:
            text = f"The first that failed is {named}: {first.reason}."
            text += f" {count:,} of {len(failed):,} that failed say: {reason}." if count > 1 else ""
        lines += ["", *terminal.wrapped(text, screen)]
        commands += [(f"launch-worker logs {first.id}", "the output of the first that failed")]
    commands += [(f"launch-worker runs --group {group.id}", "each of its runs")]
    if record.kind != "sweep" and bad and record.is_over:
        commands += [(f"launch-worker retry {group.id} --failed", "another attempt of those that did not finish")]
    if record.kind == "sweep":
        commands += [(f"launch-worker sweep status {group.id}", "its best runs")]
    if not record.is_over:
        commands += [(f"launch-worker wait {group.id}", ""), (f"launch-worker cancel {group.id}", "")]
    lines += ["", *terminal.commands(commands, screen), ""]
    facts = [
        (record.kind, f"{group.id}  {record.name}"),
        ("project", record.project),
        ("queue", record.queue),
        ("submitted", f"{terminal.ago(shown['created_at'])}{f' by {record.author}' if record.author else ''}"),
        ("never made", humane.count(record.missing) if record.missing else ""),
        ("deleted", humane.count(record.gone) if record.gone else ""),
    ]
    if is_all:
        facts += [(name.replace("_", " "), shown[name] or "") for name in ("created_at", "ended_at", "end")]
    terminal.put(map(terminal.joined, [*lines, *terminal.facts(facts, screen), ""]))
    counts = [(terminal.state_cell(kind), count) for kind, count in record.counts.items() if count]
    terminal.table(("STATE", "RUNS"), counts)


def _failed_runs(group: Group) -> list[Record]:
    """The runs of a group that failed or crashed, of its first ones."""
    looked_at = (run.record for run in islice(group.runs(), _MOST_RUNS))
    return [record for record in looked_at if record.state in (RunState.FAILED, RunState.CRASHED)]
