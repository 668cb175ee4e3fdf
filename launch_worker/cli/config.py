"""Defines `config`: which settings hold here, and from where each comes."""

from __future__ import annotations

import os
from pathlib import Path

import click

from launch_worker import terminal
from launch_worker.agent.config import NAMES
from launch_worker.settings_origin import configuration

#: Exit code where a variable is wrong: nothing starts with it.
_WRONG = 2


@click.command(epilog="Example: launch-worker config --all")
@click.option("--all", "is_all", is_flag=True, help="Settings that have their defaults too.")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def config_command(url: str | None, is_all: bool, as_json: bool) -> int:
    """Say which settings hold here and from where each comes: default, variable, your dev, your login, --api.

    Wrong and unknown variables are named, secrets are masked. Exit code 2 where one is so wrong that nothing starts.
    """
    found = configuration(os.environ, url=url, folder=Path.cwd(), options=NAMES)
    code = _WRONG if any(trouble.is_wrong for trouble in found.troubles) else 0
    if as_json:
        terminal.echo_json(found.as_json())
        return code
    screen = terminal.Screen.of()
    what = "through the server" if found.is_server else "on"
    source = "by default" if found.works_on_source == "default" else f"by {found.works_on_source}"
    terminal.put(terminal.wrapped(f"Commands here work {what} {found.works_on}, {source}.", screen))
    terminal.say()
    rows = [one for one in found.settings if is_all or not one.is_default]
    if rows:
        columns = ("SETTING", terminal.Column("VALUE", least=12), terminal.Column("FROM", least=12))
        shown = [(one.variable, one.value, "" if one.source == one.variable else one.source) for one in rows]
        terminal.table(columns, [(name, value, source or "environment") for name, value, source in shown])
        terminal.say()
    if left := len(found.settings) - len(rows):
        who = f"{left} others" if rows else f"All {left} settings"
        terminal.say(terminal.styled(f"{who} have their defaults: launch-worker config --all", dim=True))
    if found.celeryconfig:
        terminal.say()
        terminal.tell(f"A worker started here reads Celery's settings from {found.celeryconfig}:")
        terminal.put(terminal.facts(((f"  {name}", value) for name, value in found.celery.items()), screen))
    for trouble in found.troubles:
        terminal.tell(f"launch-worker: {trouble.cause}", err=True)
    return code
