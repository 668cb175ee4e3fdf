"""Defines `launch-submit`. It imports only what the call uses, because a person waits for it."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from launch_worker import __version__
from launch_worker.cli.errors import run_command
from launch_worker.cli.helping import GroupedCommand, GroupedOption
from launch_worker.cli.submit_options import SUBMIT_OPTIONS, given_options, grouped, with_options
from launch_worker.errors import InputError
from launch_worker.humane import plural
from launch_worker.ids import GROUP_ID, RUN_ID
from launch_worker.model.options import OPTIONS
from launch_worker.submission.options import Item, read_jobs, read_options
from launch_worker.submission.resolve import current_folder
from launch_worker.untrusted.text import clean

if TYPE_CHECKING:
    from launch_worker.api.transport import Submits
    from launch_worker.submission.sent import Sent

#: Options that name one submission, and would make all lines of a file the same.
_NOT_WITH_FILE = ("id", "unique")


class Call(NamedTuple):
    """The options of one call that are not the run's own."""

    wait: bool
    follow: bool
    dry_run: bool
    as_json: bool
    quiet: bool
    strict: bool
    from_file: str | None
    cron: str | None
    cron_name: str | None
    timezone: str | None
    missed: str | None
    overlap: str | None

    @property
    def waits(self) -> bool:
        """Whether the call ends with its runs."""
        return self.wait or self.follow

    def check(self) -> None:
        """Raises InputError for options that exclude each other."""
        if self.as_json and (self.follow or self.quiet):
            raise InputError("--json does not go with --follow or --quiet; use --wait --json")
        if self.cron is None and (self.cron_name or self.timezone or self.missed or self.overlap):
            raise InputError("--cron-name, --timezone, --missed and --overlap are for recurring runs; give --cron too")
        if self.dry_run and (self.waits or self.quiet or self.cron is not None):
            raise InputError("--dry-run submits nothing; leave out --wait, --follow, --quiet and --cron")

    def check_beside(self, given: Mapping[str, Any]) -> None:
        """Raises InputError for options of the run that do not go with the call."""
        if self.from_file is not None:
            for name in _NOT_WITH_FILE:
                if name in given:
                    raise InputError(f"--{name} names one submission; write {name} into each line of {self.from_file}")
        if self.cron is not None:
            others = [f"--{option.name}" for option in OPTIONS if not option.is_recurring and option.name in given]
            own = (("--wait", self.wait), ("--follow", self.follow), ("--from-file", self.from_file))
            others += [name for name, on in own if on]
            if others:
                raise InputError(f"{others[0]} does not go with --cron; leave one of them out")


@click.command(
    cls=GroupedCommand,
    context_settings={"allow_interspersed_args": False},
    epilog="Example: launch-submit -q gpu --gpus 1 --retries 2 --follow -- python train.py --lr 0.1",
)
@with_options(*SUBMIT_OPTIONS)
@grouped("--wait", is_flag=True, help="Wait for the end, and exit with the job's code.")
@grouped("--follow", is_flag=True, help="Wait, and show the log as it comes.")
@grouped("--dry-run", is_flag=True, help="Print what would be submitted, as JSON, and write nothing.")
@grouped("--json", dest="as_json", is_flag=True, help="Print the run as one JSON object.")
@grouped("--quiet", is_flag=True, help="Print only the run id.")
@grouped("--api", metavar="URL", help="Redis or server to use, in place of LAUNCH_API_URL and the like.")
@click.version_option(__version__, cls=GroupedOption, group="", hidden=True)
@click.help_option("-h", "--help", cls=GroupedOption, group="", help="Show this message and exit.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def submit_command(command: tuple[str, ...], api: str | None, **options: Any) -> int:
    """Submit COMMAND to a queue and print its run.

    Exit codes: 0 done; 2 bad input; 69 Redis or server not reachable; 77 no login, or no right. With --wait or --follow
    the job's (128+n for signal n), 143 Killed, 70 Crashed, 130 Ctrl-C; of several the first that is not 0.
    """
    call = Call(**{name: options.pop(name) for name in Call._fields})
    call.check()
    given = given_options(command, options)
    call.check_beside(given)
    if not all(map(_names_an_id, given.get("after", ()))):
        # Only a name is looked up, and only for one this is imported.
        from launch_worker.cli.words import after_of

        given["after"] = after_of(api, given["after"])
    if not all(map(_names_an_id, given.get("inputs", ()))):
        from launch_worker.cli.words import inputs_of

        given["inputs"] = inputs_of(api, given["inputs"])
    items = _items(given, call.from_file)
    if call.follow and (call.from_file is not None or items[0].array is not None):
        raise InputError("--follow shows the log of one run; use --wait for several")
    if call.dry_run:
        from launch_worker.cli.sending import show_all

        show_all(_submitter(api), items, strict=call.strict)
    elif call.cron is not None:
        _schedule(api, items[0], call)
    elif call.waits or call.as_json:
        return _submit_and_wait(api, items, call)
    else:
        _submit(_submitter(api), items, call)
    return 0


def _names_an_id(text: str) -> bool:
    """Whether a value of --after or --input has an id before its colon."""
    named = text.partition(":")[0]
    return bool(RUN_ID.fullmatch(named) or GROUP_ID.fullmatch(named))


def _submitter(url: str | None) -> Submits:
    """The way to Redis or to a server. Each is imported only where it is the way."""
    from launch_worker.settings import Settings

    settings = Settings.of_client(url=url)
    if settings.api_url:
        from launch_worker.api.http_submitter import HttpSubmitter

        return HttpSubmitter(settings)
    from launch_worker.submission.submitter import Submitter

    return Submitter(settings=settings)


def _items(given: Mapping[str, Any], from_file: str | None) -> list[Item]:
    items = _read_items(given, from_file)
    if any("requirements" in item.given for item in items):
        # Imported only where the files of this machine are wanted.
        from launch_worker.submission.requirements import attach

        folder = current_folder() or ""
        known: dict[str, Any] = {}
        items = [attach(item, folder=folder, known=known) for item in items]
    return items


def _read_items(given: Mapping[str, Any], from_file: str | None) -> list[Item]:
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


def _schedule(url: str | None, item: Item, call: Call) -> None:
    """Make a recurring submission, and report it."""
    assert call.cron is not None
    from launch_worker.api.client import Api
    from launch_worker.cli.schedules import add_schedule, show_added

    kept = add_schedule(
        Api(url),
        item,
        cron=call.cron,
        name=call.cron_name,
        timezone=call.timezone,
        missed=call.missed,
        overlap=call.overlap,
        strict=call.strict,
    )
    show_added(kept, as_json=call.as_json, quiet=call.quiet)


def _submit_and_wait(url: str | None, items: list[Item], call: Call) -> int:
    """Submit all, wait for their ends if the call does, and show them as JSON if it asks; returns the exit code."""
    # Imported before the run is there: it may be over, or Redis away, once all this is imported.
    from launch_worker.api.client import Api, Run
    from launch_worker.cli import following

    api, code = Api(url), 0
    runs = [
        Run(api, one.id, queue_consumers=one.queue_consumers, is_new=one.is_new)
        for one in _submit(api.transport, items, call)
    ]
    if call.waits:
        quiet = call.quiet or call.as_json
        if len(runs) == 1 and call.from_file is None:
            code = following.follow(runs[0], logs=call.follow, quiet=quiet)
        else:
            code = following.wait_for_all(runs, quiet=quiet)
    if call.as_json:
        from launch_worker.terminal import echo_json

        for run in runs:
            run.refresh()
            echo_json(run.as_json(history=True) | {"is_new": run.is_new})
    return code


def _submit(submitter: Submits, items: list[Item], call: Call) -> list[Sent]:
    """Check all, send all, and report each. A queue without workers is reported once."""
    from launch_worker.cli.progress import Line
    from launch_worker.cli.sending import send_all

    many = call.from_file is not None or items[0].array is not None
    if many:
        submitter.check_items(items, strict=call.strict)
    idle: set[str] = set()
    sent = []
    is_quiet = call.quiet or call.as_json
    shown = many and not is_quiet and sys.stderr.isatty()
    out = sys.stderr if call.waits and not call.quiet else sys.stdout

    def write(text: str) -> None:
        # Lines are flushed once, and not each as `terminal.say` does.
        out.write(f"{clean(text)}\n")

    line = Line(is_wanted=not is_quiet)

    def say(sentence: str) -> None:
        from launch_worker import terminal

        out.flush()
        with line.above():
            terminal.say(f"launch-submit: {sentence}", err=True)

    try:
        for run, item in send_all(submitter, items, strict=call.strict, line=line):
            sent.append(run)
            if not many:
                line.show("")
            if call.quiet:
                write(run.id)
            elif not call.as_json and not shown:
                is_old = not run.is_new and bool(item.run_id or item.unique)
                how = "was submitted before; nothing was changed" if is_old else f"submitted to queue {item.queue}"
                write(f"run {run.id} {how}")
            if run.queue_consumers == 0 and (queue := item.queue) not in idle:
                idle.add(queue)
                from launch_worker.model.worker import why_unserved

                what = "runs wait" if many else "the run waits"
                say(f"{what}: {why_unserved(submitter.live_workers(), queue)}")
            if run.advice and not call.quiet:
                for sentence in run.advice:
                    say(sentence)
        line.show("")
        if shown:
            write(f"{plural(len(sent), 'run')} submitted, {sent[0].id} to {sent[-1].id}")
        if not is_quiet:
            for group, count in Counter(run.group for run in sent if run.group and run.is_new).items():
                write(f"group {group}: {plural(count, 'run')}")
    finally:
        line.show("")
        out.flush()
    return sent


def main() -> None:
    if "_LAUNCH_SUBMIT_COMPLETE" in os.environ:
        from launch_worker.cli.completion import offer_words

        offer_words()
    run_command(submit_command, program="launch-submit")
