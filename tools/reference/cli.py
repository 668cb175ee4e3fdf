"""Writes docs/reference/cli.md: the help of every command, as click prints it at 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

import click

from launch_worker.cli.helping import Formatter
from launch_worker.cli.main import HINTS, group
from launch_worker.cli.submit import submit_command
from tools.reference.markdown import GENERATED, code, table

TOP = """# Commands

Two programs: `launch-submit` submits, and [`launch-worker`](#launch-worker) does everything else. Each text is what `--help`
prints. How a run is named, what lists and colours are, and how to watch: [on a terminal](terminal.md).
"""


def helps(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """The name and the help of a command, and of all that are in it."""
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=80, max_content_width=80, **command.context_settings
    )
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            inner = command.get_command(context, word)
            if inner is not None and not inner.hidden:
                yield from helps(inner, word, context)


def page() -> str:
    """The whole page."""
    click.Context.formatter_class = Formatter
    parts = [GENERATED, TOP]
    for program, command in (("launch-submit", submit_command), ("launch-worker", group)):
        for path, text in helps(command, program):
            level = "##" if path.count(" ") < 2 else "###"
            parts.append(f"\n{level} {path}\n\n```text\n{text.strip()}\n```\n")
    words = [(code(word), hint) for word, hint in sorted(HINTS.items())]
    parts.append("\n## Words of others\n\nWho types one of these after `launch-worker` is told:\n\n")
    parts.append(table(("word", "answer"), words))
    return "".join(parts)
