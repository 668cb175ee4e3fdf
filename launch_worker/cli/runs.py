"""Defines `runs`, `show`, `logs`, `cancel`, `preempt`, `retry`, `confirm`, `wait` …: looks at runs and steers them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launch_worker import terminal
from launch_worker.api.client import Api, Run
from launch_worker.api.filters import Filter, parse_filter
from launch_worker.api.runs import MAX_PER_PAGE, since_ms
from launch_worker.cli import following
from launch_worker.cli.errors import each
from launch_worker.errors import ArchiveError, BrokerUnavailableError, DeletedRunError, InputError, UnknownRunError
from launch_worker.ids import RUN_ID
from launch_worker.maintenance.passes import catch_up
from launch_worker.model.checks import PROJECT
from launch_worker.model.options import OPTIONS, SPEC
from launch_worker.model.states import RunState
from launch_worker.model.units import parse_duration
from launch_worker.untrusted.text import read_json

if TYPE_CHECKING:
    from launch_worker.logs.reading import Piece

_COLUMNS = ("ID", "NAME", "STATE", "QUEUE", "PROJECT", "AGE", "TIME", "REASON")
_WATCH_TURN_S = 2.0
#: Runs of a queue's line that are searched for those that fit.
_LINE_LIMIT = 1000
_SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "created": lambda run: run["created_at"] or "",
    "name": lambda run: run["name"],
    "state": lambda run: (list(RunState).index(RunState.parse(run["state"])), run["created_at"] or ""),
    "queue": lambda run: (run["queue"], run["created_at"] or ""),
}

_RUN = click.argument("run_id", metavar="RUN")
_RUNS = click.argument("run_ids", metavar="RUN…", nargs=-1, required=True)
_RAW = click.option("--raw", is_flag=True, help="On a terminal too: the bytes as they are, whatever they do to it.")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")


@click.command(epilog="Example: launch-worker runs --state running --queue gpu --limit 20")
@click.option("--state", default="", help="Only runs in this state, in any letter case.")
@click.option("--project", default="", metavar="ENTITY/PROJECT", help="Only runs of this project.")
@click.option("--queue", default="", help="Only runs of this queue.")
@click.option("--sweep", default="", metavar="ID", help="Only runs of this sweep.")
@click.option("--tag", "tags", multiple=True, help="Only runs with this tag; may be repeated.")
@click.option(
    "--filter",
    "filters",
    metavar="JSON",
    help="""Only runs that fit, as in W&B: '{"config.lr": {"$gt": 0.01}}' (docs/python.md).""",
)
@click.option("--name", default="", help="Only runs with this name.")
@click.option("--author", default="", metavar="USER@HOST", help="Only runs that this person submitted.")
@click.option(
    "--text", "texts", multiple=True, help="Only runs with this in their name, command, tags, config or reason."
)
@click.option("--since", metavar="WHEN", help="Only runs created since then: 30d, 2h, 14:30, 2030-01-31.")
@click.option("--until", metavar="WHEN", help="Only runs created before then.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most runs shown.")
@click.option("--pending", is_flag=True, help="Those that wait, queue by queue in the order in which they start.")
@click.option(
    "--sort", type=click.Choice(list(_SORTS)), help="Order of those shown (default: created, the newest first)."
)
@click.option("--watch", is_flag=True, help="Show them again and again, until Ctrl-C; in a pipe, after each change.")
@_JSON
@click.pass_obj
def runs_command(
    url: str | None,
    state: str,
    project: str,
    queue: str,
    sweep: str,
    tags: tuple[str, ...],
    filters: str | None,
    name: str,
    author: str,
    texts: tuple[str, ...],
    since: str | None,
    until: str | None,
    limit: int,
    pending: bool,
    sort: str | None,
    watch: bool,
    as_json: bool,
) -> None:
    """List runs, the newest first: with an archive all that there were, else those that Redis has yet."""
    if pending and (sort or (state and RunState.parse(state) is not RunState.PENDING)):
        raise InputError("--pending has an order and a state of its own; leave out --sort and --state")
    if project and not PROJECT.fullmatch(project):
        raise InputError(f"project {project[:60]!r} is not a project; write it as ENTITY/PROJECT")
    fields = {"state": state, "project": project, "queue": queue, "sweep": sweep, "name": name, "author": author}
    given: list[Any] = [{field: value} for field, value in fields.items() if value]
    given += [{"tags": tag} for tag in tags] + [{"text": {"$contains": text}} for text in texts]
    given.append(_read_filter(filters))
    api = Api(url)
    if since or until:
        now_ms = api.store.now_us() // 1000
        for what, word, at in (("--since", "$gte", since), ("--until", "$lt", until)):
            given += [{"created_at": {word: since_ms(at, now_ms, what=what) / 1000}}] if at else []
    wanted: dict[str, Any] = {"$and": given}
    fits = parse_filter(wanted)
    said: set[str] = set()

    def rows() -> list[tuple[dict[str, Any], int | None]]:
        if pending:
            return _in_line(api, fits, queue=queue, limit=limit)
        runs = api.runs(filters=wanted, per_page=min(limit, MAX_PER_PAGE))
        found = [run.as_json() for run in runs[:limit]]
        for notice in runs.notices:
            # An archive that is behind says another time again and again.
            if notice.partition(" is ")[0] not in said:
                said.add(notice.partition(" is ")[0])
                terminal.say(f"launch-worker: {notice}", err=True)
        return [(run, None) for run in (sorted(found, key=_SORTS[sort]) if sort else found)]

    if watch:
        _watch(rows, places=pending, as_json=as_json)
    else:
        _print(rows(), places=pending, as_json=as_json)


def _read_filter(text: str | None) -> Any:
    try:
        return read_json(text) if text is not None else {}
    except ValueError:
        raise InputError(
            f"""--filter {str(text)[:60]!r} is not JSON; write it as '{{"config.lr": {{"$gt": 0.01}}}}'"""
        ) from None


def _in_line(api: Api, fits: Filter, *, queue: str, limit: int) -> list[tuple[dict[str, Any], int | None]]:
    """Pending runs and their places, queue by queue. Runs that are not ready have no place and come last."""
    catch_up(api.store, api.settings)
    takes_all = fits.is_decided and set(fits.narrow) <= {"queue", "state"}
    found: list[tuple[dict[str, Any], int | None]] = []
    for name in [queue] if queue else sorted(api.store.queues()):
        # Runs that do not match the filter are left out, but counted in the places of the others.
        for record in api.store.line(name, limit=limit if takes_all else _LINE_LIMIT):
            if record.state is RunState.PENDING and fits.matches(record):
                found.append((Run(api, record.id, record=record).as_json(), api.store.place_in_line(record)))
            if len(found) == limit:
                return found
    return found


def _print(rows: Sequence[tuple[dict[str, Any], int | None]], *, places: bool, as_json: bool) -> None:
    if as_json:
        for run, place in rows:
            terminal.echo_json(run | {"place": place} if places else run)
        return
    if not rows:
        terminal.say("no runs", err=True)
        return
    if places:
        terminal.table(("PLACE", *_COLUMNS), [(place, *_row(run)) for run, place in rows])
    else:
        terminal.table(_COLUMNS, [_row(run) for run, _ in rows])


def _watch(rows: Callable[[], list[tuple[dict[str, Any], int | None]]], *, places: bool, as_json: bool) -> None:
    on_terminal = sys.stdout.isatty() and not as_json
    shown, is_away = None, False
    while True:
        try:
            found = rows()
        except BrokerUnavailableError as error:
            if shown is None:
                raise
            # A screen that is watched for days outlives a restart of Redis.
            if not is_away:
                terminal.say(f"launch-worker: {error}; it is tried again until Ctrl-C", err=True)
            is_away = True
            time.sleep(_WATCH_TURN_S)
            continue
        if is_away:
            terminal.say("launch-worker: Redis answers again", err=True)
        is_away = False
        if on_terminal:
            click.clear()
        if on_terminal or found != shown:
            _print(found, places=places, as_json=as_json)
            sys.stdout.flush()
        shown = found
        time.sleep(_WATCH_TURN_S)


def _row(run: dict[str, Any]) -> tuple[Any, ...]:
    return (
        run["id"],
        run["name"] if (index := run["spec"].get("array_index")) is None else f"{run['name']}[{index}]",
        run["state"],
        run["queue"],
        run["project"],
        terminal.ago(run["created_at"]),
        terminal.run_time(run),
        run["reason"],
    )


@click.command(epilog="Example: launch-worker show 1m83cyvtfq1tc69 --json")
@_RUN
@_JSON
@click.pass_obj
def show_command(url: str | None, run_id: str, as_json: bool) -> None:
    """Show all that is known of a run, and its history."""
    shown = _all_of(Api(url), run_id)
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
    terminal.table(("AT", "STATE", "ATTEMPT", "WORKER", "REASON"), rows)
    if attempts:
        terminal.say()
        columns = ("attempt", "state", "started_at", "ended_at", "worker", "host", "exit_code", "signal", "message")
        rows = [tuple(attempt[name] for name in columns) for attempt in attempts]
        terminal.table([name.replace("_", " ").upper() for name in columns], rows)


def _all_of(api: Api, run_id: str) -> dict[str, Any]:
    """The object of `show --json`: of Redis, else of the archive. Raises UnknownRunError."""
    try:
        return api.run(run_id).as_json(history=True)
    except UnknownRunError as unknown:
        try:
            found = api.past_run(run_id.rpartition("/")[2])
        except ArchiveError as error:
            raise UnknownRunError(f"{unknown}; the archive could not be asked: {error}") from None
        if found is None:
            raise
        return found


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


@click.command(epilog="Example: launch-worker logs 1m83cyvtfq1tc69 --grep 'loss=nan' --line-numbers")
@_RUN
@click.option("-f", "--follow", is_flag=True, help="Begin with what Redis has, and go on until the run has ended.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--from-line", type=click.IntRange(min=1), metavar="N", help="Begin at this line, counted from 1.")
@click.option("--lines", type=click.IntRange(min=0), metavar="N", help="At most N lines.")
@click.option("--since", metavar="WHEN", help="Begin at what was printed since then: 10m, 2h, 14:30, 2030-01-31T14:30.")
@click.option("--grep", metavar="REGEX", help="Only lines with this regular expression in them; found in linear time.")
@click.option("--line-numbers", is_flag=True, help="Each line after its number and a colon.")
@click.option("--download", type=click.Path(dir_okay=False), metavar="FILE", help="Write it to a new file.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="An earlier attempt (default: the latest).")
@_RAW
@_JSON
@click.pass_obj
def logs_command(
    url: str | None,
    /,
    run_id: str,
    follow: bool,
    tail: int | None,
    attempt: int | None,
    line_numbers: bool,
    download: str | None,
    raw: bool,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Print a run's output: in a pipe its bytes and nothing else. What is missing of it is said on standard error.

    Where LAUNCH_LOG_URL is set that is the whole output, else the newest LAUNCH_LOG_BYTES. On a terminal its colours
    pass, and other control characters are shown as what they are, such as ^G.
    """
    api = Api(url)
    run = _run_of_log(api, run_id)
    if follow and (as_json or download or line_numbers or any(value is not None for value in wanted.values())):
        raise InputError("--follow goes with --tail, --attempt and --raw only; leave it out, or the others")
    if download and as_json:
        raise InputError("--download writes the output itself; leave out it or --json")
    if follow:
        _follow_log(run, tail=tail, attempt=attempt, raw=raw)
        return
    pieces = run.read_logs(attempt=attempt, tail=tail, **wanted)
    if line_numbers:
        pieces = _numbered(pieces)
    if download:
        _download(pieces, Path(download))
    elif as_json:
        data, gaps = bytearray(), []
        for piece in pieces:
            data += piece.data
            gaps += [] if piece.gap is None else [piece.gap]
        text, number = data.decode("utf-8", "replace"), attempt or run.record.attempt
        told = [{"bytes": gap.bytes, "lines": gap.lines, "why": gap.why} for gap in gaps]
        missing = sum(gap.bytes for gap in gaps)
        terminal.echo_json({"id": run.id, "attempt": number, "log": text, "missing_bytes": missing, "gaps": told})
    else:
        with terminal.JobOutput(raw=raw) as shown:
            for piece in pieces:
                if piece.gap is not None:
                    terminal.say(str(piece.gap), err=True)
                shown.write(piece.data)


def _run_of_log(api: Api, run_id: str) -> Run:
    """The run, which Redis need not have any more where its log is stored. Raises UnknownRunError."""
    try:
        return api.run(run_id)
    except DeletedRunError:
        raise
    except UnknownRunError:
        if not (api.settings.log_url and RUN_ID.fullmatch(run_id)):
            raise
        return Run(api, run_id)


def _follow_log(run: Run, *, tail: int | None, attempt: int | None, raw: bool) -> None:
    number = run.attempt_number(attempt)
    with terminal.JobOutput(raw=raw) as shown:
        if tail is None:
            following.show_output(run, shown, attempt=attempt)
            return
        log = run.output(attempt=number)
        lines = log.data.splitlines(keepends=True)
        if tail > len(lines):
            following.say_missing(log.missing, run.id)
        shown.write(b"".join(lines[-tail:] if tail else ()))
        following.show_output(run, shown, attempt=attempt, after=log)


def _numbered(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces with each line after its number."""
    from launch_worker.logs.reading import lines_of

    is_at_line = True
    for piece in pieces:
        if piece.gap is not None and not is_at_line and piece.data:
            is_at_line = True
        text, number = [], piece.line
        for line in lines_of(piece.data):
            text.append(b"%d:%s" % (number, line) if is_at_line else line)
            is_at_line, number = line.endswith(b"\n"), number + 1
        yield piece._replace(data=b"".join(text))


def _download(pieces: Iterator[Piece], path: Path) -> None:
    """Write the pieces to a new file, and say how much that is, and what is missing."""
    partial = path.with_name(f".{path.name}.partial")
    size = 0
    if path.exists():
        raise InputError(f"{path} is there already; name another file, or delete it")
    try:
        with partial.open("wb") as file:
            for piece in pieces:
                if piece.gap is not None:
                    terminal.say(f"after byte {size:,} of {path}: {piece.gap}", err=True)
                size += file.write(piece.data)
        partial.rename(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    terminal.say(f"{size:,} bytes are in {path}", err=True)


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


@click.command(epilog="Example: launch-worker cancel 1m83cyvtfq1tc69; launch-worker cancel --queue gpu --pending")
@click.argument("run_ids", metavar="[RUN…]", nargs=-1)
@click.option("--queue", default="", help="All runs of this queue that have not ended.")
@click.option("--pending", is_flag=True, help="With --queue: only those that have not started.")
@click.option("--now", is_flag=True, help="SIGKILL at once, without the run's grace.")
@click.option("--alone", is_flag=True, help="Only the first run of an array, which has the array's id.")
@_JSON
@click.pass_obj
def cancel_command(
    url: str | None, run_ids: tuple[str, ...], queue: str, pending: bool, now: bool, alone: bool, as_json: bool
) -> int:
    """Stop runs: a Pending one is Killed at once, a Running one gets SIGTERM, then SIGKILL after its grace.

    The id of an array, which is that of its first run, stands for all runs of the array.
    """
    api = Api(url)
    if bool(run_ids) == bool(queue) or (pending and not queue):
        raise InputError("name the runs to cancel, or their queue with --queue (and --pending for those that wait)")
    if queue:
        states = ["pending"] if pending else ["pending", "running"]
        run_ids = tuple(run.id for run in api.runs(filters={"queue": queue, "state": {"$in": states}}))
        if not run_ids:
            terminal.say(f"no run of queue {queue} is left to cancel", err=True)

    def cancel(run_id: str) -> None:
        if not (queue or alone) and api.is_array(run_id):
            killed, asked = api.cancel_array(run_id, grace_s=0.0 if now else None)
            if as_json:
                terminal.echo_json({"id": run_id, "cancel": "array", "killed": killed, "requested": asked})
            else:
                terminal.say(
                    f"array {run_id}: {killed} runs are Killed, which had not started; {asked} are being stopped"
                )
            return
        word = Run(api, run_id).cancel(grace_s=0.0 if now else None)
        if as_json:
            terminal.echo_json({"id": run_id, "cancel": word})
        else:
            terminal.say(
                f"run {run_id} " + ("is Killed; it had not started" if word == "killed" else "is being stopped")
            )

    return each(run_ids, cancel)


@click.command(epilog="Example: launch-worker preempt 1m83cyvtfq1tc69")
@_RUNS
@_JSON
@click.pass_obj
def preempt_command(url: str | None, run_ids: tuple[str, ...], as_json: bool) -> int:
    """Make room: a Running run gets SIGTERM, then SIGKILL after its grace, and goes back to its queue, to run again."""
    api = Api(url)

    def preempt(run_id: str) -> None:
        Run(api, run_id).preempt()
        if as_json:
            terminal.echo_json({"id": run_id, "preempt": "requested"})
        else:
            terminal.say(f"run {run_id} is being stopped, to run again")

    return each(run_ids, preempt)


@click.command(epilog="Example: launch-worker delete 1m83cyvtfq1tc69")
@_RUNS
@_JSON
@click.pass_obj
def delete_command(url: str | None, run_ids: tuple[str, ...], as_json: bool) -> int:
    """Delete runs with all that is kept of them; one that waits is never executed, one that runs is refused."""
    api = Api(url)

    def delete(run_id: str) -> None:
        Run(api, run_id).delete()
        if as_json:
            terminal.echo_json({"id": run_id, "delete": "deleted"})
        else:
            terminal.say(f"run {run_id} is deleted")

    return each(run_ids, delete)


@click.command(epilog="Example: launch-worker retry 1m83cyvtfq1tc69")
@_RUN
@_JSON
@click.pass_obj
def retry_command(url: str | None, run_id: str, as_json: bool) -> None:
    """Start a new attempt of a run that has ended."""
    run = Api(url).run(run_id)
    crashed = run.record.state is RunState.CRASHED
    run.retry()
    if crashed:
        terminal.say(
            f"launch-worker: worker {run.record.worker} stopped reporting while it ran this; if it is cut off and not "
            "dead, its job goes on until it learns of the new attempt",
            err=True,
        )
    if as_json:
        run.refresh()
        terminal.echo_json(run.as_json())
    else:
        terminal.say(f"run {run_id} is Pending again, in queue {run.record.queue}")


@click.command(epilog="Example: launch-worker confirm 1m83cyvtfq1tc69 ended")
@_RUN
@click.argument("what", type=click.Choice(["ended"]))
@_JSON
@click.pass_obj
def confirm_command(url: str | None, run_id: str, what: str, as_json: bool) -> None:
    """Say that nothing of RUN's job is left, where its worker had to leave it and its end is not known.

    For a run that `show` calls held: its worker left while its container engine did not answer. It is given to no other
    machine until a worker of its host has looked, or this was said. Look first, with `docker ps` there: what lives on
    runs beside the next attempt.
    """
    run = Api(url).run(run_id)
    state = run.confirm_ended()
    if as_json:
        terminal.echo_json({"id": run_id, "confirm": what, "state": state.value})
    else:
        terminal.say(f"run {run_id} is ", terminal.state(state.value))


@click.command(epilog="Example: launch-worker wait 1m83cyvtfq1tc69")
@_RUNS
@click.option("--timeout", metavar="DUR", help="Give up after this time (exit code 1).")
@_JSON
@click.pass_obj
def wait_command(url: str | None, run_ids: tuple[str, ...], timeout: str | None, as_json: bool) -> int:
    """Wait until runs have ended; exits with the first job's code that is not 0.

    The id of an array, which is that of its first run, stands for all runs of the array.
    """
    api = Api(url)
    run_ids = tuple(one for run_id in run_ids for one in api.store.array_runs(run_id) or [run_id])
    timeout_s = None if timeout is None else parse_duration(timeout, what="timeout")
    codes: list[int] = []

    def wait(run_id: str) -> None:
        run = api.run(run_id)
        try:
            run.wait(timeout_s)
        except TimeoutError as error:
            terminal.say(f"launch-worker: {error}", err=True)
            codes.append(1)
            return
        codes.append(run.shell_exit_code())
        if as_json:
            terminal.echo_json(run.as_json())
        else:
            terminal.say(f"run {run_id} ", terminal.state(run.record.state.value))

    worst = each(run_ids, wait)
    return worst or next((code for code in codes if code), 0)
