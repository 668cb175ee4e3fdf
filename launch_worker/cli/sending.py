"""Sends items as runs in front of a person, or shows what would be sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from launch_worker import humane
from launch_worker.cli.progress import Line
from launch_worker.errors import LaunchError
from launch_worker.submission.options import Item
from launch_worker.submission.sent import Sent

if TYPE_CHECKING:
    from launch_worker.api.transport import Submits


def show_all(submitter: Submits, items: Sequence[Item], *, strict: bool) -> None:
    """Check all, and print each as it would be kept and when it would start, as JSON lines; nothing is written."""
    from dataclasses import asdict

    from launch_worker import terminal
    from launch_worker.model import item_schema
    from launch_worker.model.masking import MASK, mask_env
    from launch_worker.model.units import isoformat

    submitter.check_items(items, strict=strict)
    for item in items:
        completed = submitter.complete(item.given)
        version, spec = item_schema.version_of(completed), asdict(completed)
        spec["env"] = mask_env(spec["env"])
        if item.secrets:
            # They are sealed when the run has its id.
            version, spec["secrets"] = max(version, item_schema.SINCE["secrets"]), dict.fromkeys(item.secrets, MASK)
        if item.upload is not None:
            spec["upload"] = f"(the folder {item.upload})"
        shown = {"version": version, "item": spec, "delay_s": item.delay_s, "at": isoformat(item.at_us)}
        if item.array is not None:
            shown["array"] = {"indexes": list(item.array.indexes), "limit": item.array.limit}
        terminal.echo_json(shown)


def send_all(submitter: Submits, items: Sequence[Item], *, strict: bool, line: Line) -> Iterator[tuple[Sent, Item]]:
    """Submit the items in order, many runs in a round trip; `line` says how far that is.

    An error says how many were submitted before it, and the place in the file.
    """
    total = sum(1 if item.array is None else len(item.array.indexes) for item in items)
    submitter.on_upload = lambda done, size: line.count("sending the folder", done, size, humane.size)
    sent = 0
    try:
        for one in submitter.send_items(items, strict=strict):
            sent += 1
            if total > 1:
                line.count("submitting", sent, total)
            yield one
    except LaunchError as error:
        if sent:
            error.args = (f"{sent} of {total} runs were submitted, then: {error}",)
        raise
