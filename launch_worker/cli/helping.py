"""Lays out `--help`, and answers who typed a command that is not there: whole lines, groups, examples to be copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.types import OptionHelpExtra

_EXAMPLE = "Example: "
#: Cells of a line, at most.
_CELLS = 80
#: Cells of the column of options, at most: a longer one has its text on the next line.
_OPTION_CELLS = 24
#: Cells of a command with its words, of which two stand in a line of 80.
_COMMAND_CELLS = 38


class Formatter(click.HelpFormatter):
    """click's layout up to the terminal's edge, with a narrower first column and examples that are not wrapped."""

    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:
        # Not at the top: `launch-submit` does without what it imports.
        from shutil import get_terminal_size

        super().__init__(indent_increment, width or min(get_terminal_size().columns, max_width or _CELLS))

    def write_text(self, text: str) -> None:
        if not text.startswith(_EXAMPLE):
            super().write_text(text)
            return
        lines = text.removeprefix(_EXAMPLE).replace("; launch-", "\nlaunch-").split("\n")
        # As a section: at the left.
        self.dedent()
        self.write_heading("Examples" if len(lines) > 1 else "Example")
        self.indent()
        for line in lines:
            self.write(f"{'':{self.current_indent}}{line}\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = _OPTION_CELLS, col_spacing: int = 2) -> None:
        super().write_dl(rows, col_max, col_spacing)


class GroupedCommand(click.Command):
    """A command whose many options stand in groups: each `GroupedOption` names its own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is not None:
                # That of the help itself has no group: it comes last.
                groups.setdefault(getattr(option, "group", ""), []).append(record)
        last = groups.pop("", [])
        groups[next(reversed(groups))] += last
        formatter.write_paragraph()
        for name, rows in groups.items():
            formatter.write_heading(name)
            with formatter.indentation():
                formatter.write_dl(rows)


class GroupedOption(click.Option):
    """An option of a `GroupedCommand`; its help says the usual value, and no range."""

    def __init__(self, *args: Any, group: str = "Options", help: str = "", **more: Any) -> None:
        super().__init__(*args, **more)
        self.group = group
        # Not by click, which would import `inspect` to look for indentation in it.
        self.help = help

    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        return {}


def write_commands(
    formatter: click.HelpFormatter, groups: Mapping[str, Mapping[str, str]], names: Sequence[str]
) -> None:
    """Write the commands of these names, two in a line, each with some words; those in no group come last."""
    known = {name for words in groups.values() for name in words}
    rest = {name: "" for name in names if name not in known}
    for title, words in ({**groups, "More": rest} if rest else groups).items():
        cells = [f"{name:<10} {text}" for name, text in words.items() if name in names]
        half = (len(cells) + 1) // 2
        formatter.write_heading(title)
        for left, right in zip_longest(cells[:half], cells[half:], fillvalue=""):
            formatter.write(f"  {left:<{_COMMAND_CELLS}}  {right}".rstrip() + "\n")


def with_whole_sentences(command: click.Command) -> None:
    """Have the help of a group show its commands with their first sentences as they are: click would cut long ones."""
    for one in getattr(command, "commands", {}).values():
        if not one.short_help and one.help:
            one.short_help = " ".join(one.help.split("\n\n")[0].split()).partition(". ")[0].rstrip(".") + "."


def near(name: str, names: Iterable[str]) -> str:
    """The question for a name that is none, whether another was meant: ` (did you mean runs?)`, or ''."""
    # Loaded by who mistypes alone.
    from difflib import get_close_matches

    found = get_close_matches(name, names, n=2)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def say_usage(error: click.UsageError, program: str) -> None:
    """Say what is wrong with a call, and which help says more."""
    # Not at the top: a `launch-submit` that is well has nothing to say.
    from launch_worker import terminal

    message = error.format_message().rstrip(".")
    terminal.say(f"{program}: ", message[:1].lower() + message[1:], err=True)
    if error.ctx is not None:
        terminal.say(f"  see: {error.ctx.command_path} --help", err=True)
