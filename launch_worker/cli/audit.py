"""Defines `audit`: who did what, and when."""

from __future__ import annotations

import json
import time

import click

from launch_worker import terminal
from launch_worker.api.client import Api
from launch_worker.model.units import since_ms

_COLUMNS = ("at", "actor", "address", "what", "kind", "target", "result")


@click.command(epilog="Example: launch-worker audit --who ada --since 7d")
@click.option("--who", default="", metavar="TEXT", help="Only acts of people whose name has this text.")
@click.option("--what", default="", metavar="WORD", help="Only these acts: submit, cancel, paused, deleted, drain …")
@click.option("--target", default="", metavar="ID", help="Only what was done to this run, queue, sweep, worker …")
@click.option("--since", metavar="TIME", help="Only acts since: 7d ago, or a date.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Most acts shown.")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def audit_command(
    url: str | None, who: str, what: str, target: str, since: str | None, limit: int, as_json: bool
) -> None:
    """Say who submitted, cancelled, paused, configured, deleted …, and which workers came and went; newest first.

    Acts through a server have the address that they came from and their result, and the name is proven; other names are
    those that clients say. It is read from the archive.
    """
    start = None if since is None else since_ms(since, time.time_ns() // 1_000_000, what="--since") * 1000
    found = Api(url).transport.acts(who=who, what=what, target=target, since_us=start, limit=limit)
    if as_json:
        for act in found:
            terminal.echo_json(act)
        return
    if not found:
        terminal.say("nothing of that is in the audit", err=True)
        return
    terminal.table(
        ("AT", "WHO", "FROM", "WHAT", "KIND", "TARGET", "RESULT", "DETAIL"),
        [(*(act[name] for name in _COLUMNS), _short(act["detail"])) for act in found],
    )


def _short(detail: dict[str, object]) -> str:
    return ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in detail.items())[:200]
