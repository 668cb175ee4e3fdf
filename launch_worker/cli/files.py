"""Defines `files`: what is kept with a run, to be listed, printed, or fetched into a folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from launch_worker import humane, terminal
from launch_worker.api.client import Api
from launch_worker.api.run import Files, Run, RunFile
from launch_worker.cli.options import WIDE
from launch_worker.cli.progress import Line
from launch_worker.cli.words import run_id_of
from launch_worker.errors import InputError, LaunchError

#: Columns of the list, in the order in which they stand, and what each shows of a file.
_COLUMNS: dict[str, tuple[terminal.Column, Callable[[RunFile], Any]]] = {
    "path": (terminal.Column("PATH", least=16), lambda file: file.path),
    "link": (terminal.Column("LINK TO", 3, least=8), lambda file: file.link or None),
    "size": (terminal.Column("SIZE", right=True), lambda file: None if file.link else humane.size(file.size)),
    "attempt": (terminal.Column("ATTEMPT", 2, right=True), lambda file: file.attempt),
    "from": (terminal.Column("FROM", 3), lambda file: file.kind),
    "saved": (terminal.Column("SAVED", 1), lambda file: terminal.ago(file.saved_at or None)),
    "bytes": (terminal.Column("BYTES", right=True), lambda file: None if file.link else file.size),
    "sha256": (terminal.Column("SHA256"), lambda file: file.sha256 or None),
}
#: Usual ones; "link" is among them where there is one.
_USUAL = ("path", "size", "attempt", "from", "saved")
#: Files that are not kept of which the list says why.
_MOST_LEFT_OUT = 5
#: Seconds between two looks for outputs that are on their way, and for which nothing may have changed meanwhile.
_TURN_S, _SENDING_S = 0.5, 600.0


@click.command(epilog="Example: launch-worker files 1m83cyvtfq1tc69 --get results")
@click.argument("run_id", metavar="RUN")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--get", "folder", metavar="DIR", help="Fetch them into this folder; what is there already is not.")
@click.option("--replace", is_flag=True, help="With --get: replace files there that have another content.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="An earlier attempt's (default: the latest).")
@click.option("--raw", is_flag=True, help="On a terminal too: the bytes as they are, whatever they do to it.")
@click.option("-o", "chosen", metavar="COLUMN,…", help=f"The columns: {','.join(_COLUMNS)}.")
@WIDE
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def files_command(
    url: str | None,
    /,
    run_id: str,
    paths: tuple[str, ...],
    folder: str | None,
    replace: bool,
    attempt: int | None,
    raw: bool,
    chosen: str | None,
    wide: bool,
    as_json: bool,
) -> None:
    """List the files that are kept with a run: the outputs of its job, and what tools saved.

    One PATH that is a file prints it, in a pipe its bytes and nothing else. A PATH that is a folder means all in it.
    """
    if as_json and (folder is not None or chosen):
        raise InputError("--json is for the list of files, and has all of it; leave it out, or --get and -o")
    if replace and folder is None:
        raise InputError("--replace is for --get DIR; leave it out, or name a folder")
    columns = _parse_columns(chosen) if chosen else list(_USUAL)
    api = Api(url)
    run = Run(api, run_id_of(api, run_id, takes_newest=True))
    if folder is not None:
        _get(run, paths, Path(folder), attempt=attempt, replace=replace)
        return
    files = run.files(attempt=attempt)
    found = files.below(*paths)
    if len(paths) == 1 and not as_json and len(found) == 1 and found[0].path == _plain(paths[0]):
        with terminal.JobOutput(raw=raw) as shown:
            for piece in found[0].pieces():
                shown.write(piece)
        return
    if as_json:
        for file in found:
            terminal.echo_json(file.as_json() | {"kept": True})
        for one in files.left_out:
            terminal.echo_json({"path": one.path, "kept": False, "why": one.why})
    elif found:
        if not chosen and any(file.link for file in found):
            columns.insert(1, "link")
        titles = [_COLUMNS[name][0] for name in columns]
        rows = [[_COLUMNS[name][1](file) for name in columns] for file in found]
        terminal.table(titles, rows, is_wide=wide)
    elif not files.notices:
        terminal.say(f"no files are kept with run {run.id}", err=True)
    _say_more(files, with_left_out=not as_json)


def _plain(path: str) -> str:
    return path.removeprefix("./")


def _parse_columns(text: str) -> list[str]:
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in _COLUMNS:
            raise InputError(f"there is no column {name[:40]!r}; there are: {', '.join(_COLUMNS)}")
    return names


def _say_more(files: Files, *, with_left_out: bool) -> None:
    """Say what is not kept, and what the list does not have yet."""
    for notice in files.notices:
        terminal.tell(f"launch-worker: {notice}", err=True)
    if not with_left_out or not files.left_out_count:
        return
    for one in files.left_out[:_MOST_LEFT_OUT]:
        terminal.say(f"launch-worker: not kept: {one.path}: {one.why}", err=True)
    if (more := files.left_out_count - _MOST_LEFT_OUT) > 0:
        terminal.say(f"launch-worker: {humane.plural(more, 'more file')} not kept; --json names them", err=True)


def _get(run: Run, paths: tuple[str, ...], folder: Path, *, attempt: int | None, replace: bool) -> None:
    """Fetch the files, once they are there, and say how many they are."""
    with Line(is_wanted=True) as line:
        files = _once_sent(run, attempt, line)
        wanted = files.below(*paths)
        if not wanted:
            said = "; ".join(files.notices)
            raise LaunchError(said or f"no files are kept with run {run.id}")
        total, come = sum(file.size for file in wanted if not file.link), 0

        def on_bytes(count: int) -> None:
            nonlocal come
            come += count
            line.count(f"fetching {humane.plural(len(wanted), 'file')}", min(come, total), total, humane.size)

        fetched = files.download(folder, *paths, replace=replace, on_bytes=on_bytes)
    there = f", {fetched.were_there:,} of them before" if fetched.were_there else ""
    terminal.say(f"{humane.plural(fetched.files, 'file')} ({humane.size(fetched.bytes)}) in {folder}{there}", err=True)
    _say_more(files, with_left_out=True)


def _once_sent(run: Run, attempt: int | None, line: Line) -> Files:
    """The files of the run, once its worker has sent them."""
    began_s = time.monotonic()
    while (files := run.files(attempt=attempt)).is_sending:
        if time.monotonic() - began_s > _SENDING_S:
            raise LaunchError(f"{files.notices[0]}, and has not for {humane.duration(_SENDING_S)}; try again later")
        line.show(files.notices[0])
        time.sleep(_TURN_S)
    return files
