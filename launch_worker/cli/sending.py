"""Sends items as runs: checks all before the first is sent, and reports each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from launch_worker.errors import InputError, LaunchError
from launch_worker.model.checks import parse_after
from launch_worker.submission.options import Item
from launch_worker.submission.submitter import Sent, Submitter

DEFAULT_QUEUE = "default"


def queue_of(item: Item) -> str:
    queue: str = item.given.get("queue") or DEFAULT_QUEUE
    return queue


def check_all(submitter: Submitter, items: Sequence[Item], *, strict: bool) -> None:
    """Check all items. Raises InputError, with the place in its file, for the first one that could not be submitted."""
    known = {DEFAULT_QUEUE, *submitter.store.queue_names()} if strict else set()
    queues: set[str] = set()
    runs: set[str] = set()
    for item in items:
        queue = queue_of(item)
        try:
            submitter.check(item, fresh=queue not in queues)
            queues.add(queue)
            if strict and queue not in known:
                raise InputError(f"there is no queue {queue!r}; known are: {', '.join(sorted(known))}")
            if item.upload is not None and not os.path.isdir(item.upload):
                raise InputError(f"upload {item.upload!r} is not a folder of this machine")
            for other in (parse_after(text)[0] for text in item.given.get("after", ())):
                if other not in runs and not submitter.store.exists(other):
                    raise InputError(f"there is no run {other} to wait for; list them with: launch-worker runs")
                runs.add(other)
        except InputError as error:
            raise item.error(error) from None


def show_all(submitter: Submitter, items: Sequence[Item], *, strict: bool) -> None:
    """Check all, and print each as it would be kept and when it would start, as JSON lines; nothing is written."""
    from dataclasses import asdict

    from launch_worker import terminal
    from launch_worker.model import item_schema
    from launch_worker.model.run import mask_env
    from launch_worker.model.units import isoformat

    check_all(submitter, items, strict=strict)
    for item in items:
        spec = asdict(submitter.resolve(item.given)[0])
        spec["env"] = mask_env(spec["env"])
        if item.upload is not None:
            spec["upload"] = f"(the folder {item.upload})"
        shown = {"version": item_schema.VERSION, "item": spec, "delay_s": item.delay_s, "at": isoformat(item.at_us)}
        if item.array is not None:
            shown["array"] = {"indexes": list(item.array.indexes), "limit": item.array.limit}
        terminal.echo_json(shown)


def send_all(submitter: Submitter, items: Sequence[Item], *, strict: bool, shown: bool) -> Iterator[tuple[Sent, Item]]:
    """Submit the items in order, many runs in a round trip; `shown` draws a progress bar.

    An error says how many were submitted before it, and the place in the file.
    """
    total = sum(1 if item.array is None else len(item.array.indexes) for item in items)
    sent = 0
    try:
        submitted = submitter.send_items(items, strict=strict)
        for one in _with_bar(submitted, total) if shown else submitted:
            sent += 1
            yield one
    except LaunchError as error:
        if sent:
            error.args = (f"{sent} of {total} runs were submitted, then: {error}",)
        raise


def _with_bar(sent: Iterator[tuple[Sent, Item]], total: int) -> Iterator[tuple[Sent, Item]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("submitting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("submitting", total=total)
        for one in sent:
            progress.advance(task)
            yield one
