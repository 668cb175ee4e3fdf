"""Defines `audit`: who did what, and when."""

from __future__ import annotations

import json
import time

import click

from launch_worker import terminal
from launch_worker.api.client import Api
from launch_worker.cli.options import WIDE
from launch_worker.model.units import since_ms
from launch_worker.terminal import Column

_FIELDS = ("actor", "address", "what", "kind", "target", "result")
_COLUMNS = (
    Column("AT"),
    Column("WHO", least=12),
    Column("FROM", 4, least=10),
    Column("WHAT"),
    Column("KIND", 2),
    Column("TARGET", least=15),
    Column("RESULT", 1, least=8),
    Column("DETAIL", 3, least=20),
)


@click.command(epilog="Example: launch-worker audit --who ada --since 7d")
@click.option("--who", default="", metavar="TEXT", help="Only acts of people whose name has this text.")
@click.option("--what", default="", metavar="WORD", help="Only these acts: submit, cancel, paused, deleted, drain …")
@click.option("--target", default="", metavar="ID", help="Only what was done to this run, queue, sweep, worker …")
@click.option("--since", metavar="TIME", help="Only acts since: 7d ago, or a date.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Most acts shown.")
@WIDE
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def audit_command(
    url: str | None, who: str, what: str, target: str, since: str | None, limit: int, wide: bool, as_json: bool
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
        _COLUMNS,
        [(terminal.when(act["at"]), *(act[name] for name in _FIELDS), _short(act["detail"])) for act in found],
        is_wide=wide,
    )


def _short(detail: dict[str, object]) -> str:
    return ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in detail.items())[:200]
