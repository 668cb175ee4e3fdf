"""Defines `logs`: prints, follows and downloads the output of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from launch_worker import terminal
from launch_worker.api.client import Api, Run
from launch_worker.cli import following
from launch_worker.cli.words import id_of, run_id_of
from launch_worker.errors import DeletedRunError, InputError, LaunchError, UnknownRunError
from launch_worker.ids import GROUP_ID, RUN_ID
from launch_worker.model.log_pieces import Piece, lines_of
from launch_worker.model.run import Record
from launch_worker.model.sentences import sentence_of
from launch_worker.model.states import RunState
from launch_worker.untrusted.text import read_map

_RUN = click.argument("run_id", metavar="RUN")
_RAW = click.option("--raw", is_flag=True, help="On a terminal too: the bytes as they are, whatever they do to it.")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")


@click.command(epilog="Example: launch-worker logs 1m83cyvtfq1tc69 --grep 'loss=nan' --line-numbers")
@_RUN
@click.option("-f", "--follow", is_flag=True, help="Print all, and go on until the run has ended.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--from-line", type=click.IntRange(min=1), metavar="N", help="Begin at this line, counted from 1.")
@click.option("--lines", type=click.IntRange(min=0), metavar="N", help="At most N lines.")
@click.option("--since", metavar="WHEN", help="Begin at what was printed since then: 10m, 2h, 14:30, 2030-01-31T14:30.")
@click.option("--grep", metavar="REGEX", help="Only lines with this regular expression in them; found in linear time.")
@click.option("--line-numbers", is_flag=True, help="Each line after its number and a colon.")
@click.option("--download", type=click.Path(dir_okay=False), metavar="FILE", help="Write it to a new file.")
@click.option("--index", type=int, metavar="N", help="Of an array: the run with this LAUNCH_ARRAY_INDEX.")
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
    index: int | None,
    attempt: int | None,
    line_numbers: bool,
    download: str | None,
    raw: bool,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Print a run's output: in a pipe its bytes and nothing else. What is missing, and why, is said on standard error.

    Where LAUNCH_LOG_URL is set that is the whole output, else the newest LAUNCH_LOG_BYTES. On a terminal its colours
    pass, and other control characters are shown as what they are, such as ^G.
    """
    api = Api(url)
    run, is_over = _run_of_log(api, run_id, index)
    if follow and (as_json or download or line_numbers or any(value is not None for value in wanted.values())):
        raise InputError("--follow goes with --tail, --attempt and --raw only; leave it out, or the others")
    if download and as_json:
        raise InputError("--download writes the output itself; leave out it or --json")
    if follow and not is_over:
        _follow_log(api, run, tail=tail, attempt=attempt, raw=raw)
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
        text, number = data.decode("utf-8", "replace"), attempt or _latest(api, run)
        told = [{"bytes": gap.bytes, "lines": gap.lines, "why": gap.why} for gap in gaps]
        missing = sum(gap.bytes for gap in gaps)
        terminal.echo_json({"id": run.id, "attempt": number, "log": text, "missing_bytes": missing, "gaps": told})
    else:
        is_empty = True
        with terminal.JobOutput(raw=raw) as shown:
            for piece in pieces:
                if piece.gap is not None:
                    terminal.say(str(piece.gap), err=True)
                is_empty = is_empty and not piece.data and piece.gap is None
                shown.write(piece.data)
        # Of a part of it nothing may be expected, as with `grep`.
        if is_empty and tail != 0 and all(value is None for value in wanted.values()):
            _say_why_nothing(api, run.id, attempt)


def _run_of_log(api: Api, word: str, index: int | None) -> tuple[Run, bool]:
    """The run, and whether Redis does not have it any more: its log may be elsewhere. Raises UnknownRunError."""
    if index is not None:
        return _run_of_array(api, id_of(api, word, takes_newest=True), index), False
    run_id = run_id_of(api, word, takes_newest=True)
    try:
        return api.run(run_id), False
    except DeletedRunError:
        raise
    except UnknownRunError:
        if not RUN_ID.fullmatch(run_id):
            raise
        return Run(api, run_id), True


def _run_of_array(api: Api, group_id: str, index: int) -> Run:
    """The run of an array with this index."""
    group = api.group(group_id) if GROUP_ID.fullmatch(group_id) else None
    if group is None or group.kind != "array":
        raise InputError(f"--index is for an array, whose id begins with a; {group_id} is none")
    for run in group.runs():
        if read_map(run.record.spec).get("array_index") == index:
            return run
    raise InputError(
        f"array {group_id} has no run with index {index}; list them: launch-worker runs --group {group_id}"
    )


def _say_why_nothing(api: Api, run_id: str, attempt: int | None) -> None:
    """Say why no output was printed."""
    try:
        shown = api.shown(run_id)
    except LaunchError:
        terminal.say(f"run {run_id}: no output of it is kept", err=True)
        return
    record = Record.from_json(shown)
    if attempt is not None and attempt != record.attempt:
        terminal.say(f"attempt {attempt} of run {run_id} printed nothing", err=True)
        return
    sentence = sentence_of(record, shown["reason"] or "", now_us=time.time_ns() // 1000)
    more = "" if record.state is RunState.PENDING else " It has printed nothing."
    terminal.say(f"{sentence}{more}", err=True)
    if record.state is RunState.PENDING:
        terminal.say(f"for more see: launch-worker explain {run_id}", err=True)


def _latest(api: Api, run: Run) -> int | None:
    """The run's latest attempt; None where that is not known any more."""
    try:
        return int(api.transport.shown(run.id)["attempt"])
    except UnknownRunError:
        return None


def _follow_log(api: Api, run: Run, *, tail: int | None, attempt: int | None, raw: bool) -> None:
    number = run.attempt_number(attempt)
    if run.record.state is RunState.PENDING and attempt is None:
        _say_why_nothing(api, run.id, None)
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
