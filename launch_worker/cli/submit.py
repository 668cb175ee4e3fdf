"""Defines `launch-submit`. It imports only what the call uses, because a person waits for it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from launch_worker.cli.errors import run_command
from launch_worker.cli.submit_options import SUBMIT_OPTIONS, given_options, with_options
from launch_worker.errors import InputError
from launch_worker.model.options import OPTIONS
from launch_worker.submission.options import Item, read_jobs, read_options
from launch_worker.submission.resolve import current_folder

if TYPE_CHECKING:
    from launch_worker.submission.submitter import Sent, Submitter

#: Options that name one submission, and would make all lines of a file the same.
_NOT_WITH_FILE = ("id", "unique")


@click.command(
    context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]},
    epilog="Example: launch-submit -q gpu --name resnet --retries 2 --follow -- python train.py --lr 0.1",
)
@with_options(*SUBMIT_OPTIONS)
@click.option("--wait", is_flag=True, help="Wait for the end and exit with the job's code.")
@click.option("--follow", is_flag=True, help="Wait, and show the log as it comes.")
@click.option("--dry-run", is_flag=True, help="Print what would be submitted, as JSON, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as one JSON object.")
@click.option("--quiet", is_flag=True, help="Print only the run id.")
@click.option("--api", metavar="URL", help="The Redis to use (default: LAUNCH_REDIS_URL, else your launch-worker dev).")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def submit_command(
    command: tuple[str, ...],
    wait: bool,
    follow: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    api: str | None,
    strict: bool,
    from_file: str | None,
    cron: str | None,
    cron_name: str | None,
    timezone: str | None,
    missed: str | None,
    overlap: str | None,
    **options: Any,
) -> int:
    """Submit COMMAND to a queue and print its run.

    Exit codes: 0 done; 2 bad input; 69 Redis not reachable. With --wait or --follow the job's own (128+n for signal
    n), 143 when it was killed on request, 70 when its worker died, 130 when Ctrl-C detached. With several runs the
    first that is not 0.
    """
    if as_json and (follow or quiet):
        raise InputError("--json does not go with --follow or --quiet; use --wait --json")
    if cron is None and (cron_name or timezone or missed or overlap):
        raise InputError("--cron-name, --timezone, --missed and --overlap are for recurring runs; give --cron too")
    if dry_run and (wait or follow or quiet or cron is not None):
        raise InputError("--dry-run submits nothing; leave out --wait, --follow, --quiet and --cron")
    given = given_options(command, options)
    if from_file is not None:
        for name in _NOT_WITH_FILE:
            if name in given:
                raise InputError(f"--{name} names one submission; write {name} into each line of {from_file}")
    if cron is not None:
        _check_recurring(given, wait=wait, follow=follow, from_file=from_file)
    items = _items(given, from_file)
    if follow and (from_file is not None or items[0].array is not None):
        raise InputError("--follow shows the log of one run; use --wait for several")
    # Imported after all that needs no Redis.
    from launch_worker.submission.submitter import Submitter

    if dry_run:
        from launch_worker.cli.sending import show_all

        show_all(Submitter(api), items, strict=strict)
        return 0
    if cron is not None:
        from launch_worker.api.client import Api
        from launch_worker.cli.schedules import add_schedule, show_added

        kept = add_schedule(
            Api(api),
            items[0],
            cron=cron,
            name=cron_name,
            timezone=timezone,
            missed=missed,
            overlap=overlap,
            strict=strict,
        )
        show_added(kept, as_json=as_json, quiet=quiet)
        return 0
    how = {"strict": strict, "as_json": as_json, "quiet": quiet, "waits": wait or follow, "many": from_file is not None}
    if not (wait or follow or as_json):
        _submit(Submitter(api), items, **how)
        return 0
    # Imported before the run is there: it may be over, or Redis away, once all this is imported.
    from launch_worker.api.client import Api, Run
    from launch_worker.cli import following

    whole, code = Api(api), 0
    runs = [
        Run(whole, one.id, queue_consumers=one.queue_consumers, is_new=one.is_new)
        for one in _submit(whole, items, **how)
    ]
    if wait or follow:
        if len(runs) == 1 and from_file is None:
            code = following.follow(runs[0], logs=follow, quiet=quiet or as_json)
        else:
            code = following.wait_for_all(runs, quiet=quiet or as_json)
    if as_json:
        from launch_worker.terminal import echo_json

        for run in runs:
            run.refresh()
            echo_json(run.as_json(history=True))
    return code


def _items(given: Mapping[str, Any], from_file: str | None) -> list[Item]:
    folder = current_folder() or ""
    if from_file is None:
        return [read_options(given, folder=folder)]
    if from_file == "-":
        return _some(list(read_jobs(sys.stdin.buffer, name="-", defaults=given, folder=folder)), from_file)
    try:
        with open(from_file, "rb") as file:
            return _some(list(read_jobs(file, name=from_file, defaults=given, folder=folder)), from_file)
    except OSError as error:
        raise InputError(f"cannot read {from_file!r}: {error.strerror or error}") from None


def _some(items: list[Item], from_file: str) -> list[Item]:
    if not items:
        raise InputError(
            f'{from_file} has no runs; write one JSON object a line: {{"command": ["python", "train.py"]}}'
        )
    return items


def _check_recurring(given: Mapping[str, Any], *, wait: bool, follow: bool, from_file: str | None) -> None:
    others = [f"--{option.name}" for option in OPTIONS if not option.is_recurring and option.name in given]
    others += [name for name, on in (("--wait", wait), ("--follow", follow), ("--from-file", from_file)) if on]
    if others:
        raise InputError(f"{others[0]} does not go with --cron; leave one of them out")


def _submit(
    submitter: Submitter, items: list[Item], *, strict: bool, as_json: bool, quiet: bool, waits: bool, many: bool
) -> list[Sent]:
    """Check all, send all, and report each. A queue without workers is reported once."""
    from launch_worker.cli.sending import check_all, queue_of, send_all

    many = many or items[0].array is not None
    if many:
        check_all(submitter, items, strict=strict)
    idle: set[str] = set()
    sent = []
    shown = many and not quiet and sys.stderr.isatty()
    out = sys.stderr if waits and not quiet else sys.stdout
    try:
        for run, item in send_all(submitter, items, strict=strict, shown=shown):
            sent.append(run)
            if quiet:
                out.write(f"{run.id}\n")
            elif not as_json and not shown:
                is_old = not run.is_new and bool(item.run_id or item.unique)
                how = "was submitted before; nothing was changed" if is_old else f"submitted to queue {queue_of(item)}"
                out.write(f"run {run.id} {how}\n")
            if run.queue_consumers == 0 and (queue := queue_of(item)) not in idle:
                idle.add(queue)
                from launch_worker import terminal
                from launch_worker.model.worker import why_unserved

                out.flush()
                why = why_unserved(submitter.store.workers(), queue)
                terminal.say(f"launch-submit: the run waits: {why}", err=True)
        if shown and not as_json:
            out.write(f"{len(sent)} runs submitted, {sent[0].id} to {sent[-1].id}\n")
    finally:
        # Flushed once, and not for each line as click does.
        out.flush()
    return sent


def main() -> None:
    run_command(submit_command, program="launch-submit")
