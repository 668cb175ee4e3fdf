"""Defines `doctor`: checks the whole installation and says what to mend."""

from __future__ import annotations

import click

from launch_worker import terminal
from launch_worker.api.client import Api

_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("ERROR", "red")}


@click.command(epilog="Example: launch-worker doctor --json")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.pass_obj
def doctor_command(url: str | None, as_json: bool) -> int:
    """Check Redis, workers, passes, records and this machine; exits 1 when something must be mended."""
    worst, screen = 0, terminal.Screen.of()
    for finding in Api(url).findings():
        worst = max(worst, int(finding.level == "error"))
        if as_json:
            terminal.echo_json(finding.as_json())
        else:
            word, colour = _MARKS[finding.level]
            head = terminal.joined(terminal.styled(f"{word:<8}", colour=colour), " ")
            terminal.put(terminal.wrapped(finding.text, screen, head))
    return worst
