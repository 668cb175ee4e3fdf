"""`--help` of every command: whole lines, groups, examples that can be copied; and what who mistypes is told."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator

import click
import pytest

from launch_worker.cli import main
from launch_worker.cli.errors import run_command
from launch_worker.cli.helping import Formatter, GroupedOption
from launch_worker.cli.submit import submit_command


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and subcommand, by its words."""

    def below(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield words, command
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                found = command.get_command(click.Context(command), name)
                assert found is not None
                yield from below(f"{words} {name}", found)

    yield "launch-submit", submit_command
    yield from below("launch-worker", main.group)


ALL = dict(commands())


def help_of(words: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(click.Context, "formatter_class", Formatter)
    monkeypatch.setenv("COLUMNS", "80")
    parent: click.Context | None = None
    names = words.split()
    for at in range(1, len(names) + 1):
        command = ALL[" ".join(names[:at])]
        # With -h, as the programs have it: click keeps the help option that it makes first.
        parent = click.Context(command, info_name=names[at - 1], parent=parent, **command.context_settings)
    assert parent is not None
    return parent.get_help()


@pytest.mark.parametrize("words", ALL)
def test_each_help_has_whole_lines_within_80_cells_and_an_example_that_can_be_copied(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = help_of(words, monkeypatch)
    lines = text.splitlines()
    assert not [line for line in lines if len(line) > 80 and not line.startswith("  launch-")], text
    assert not [line for line in lines[1:] if line.endswith("...")], text
    assert "[default: (" not in text
    examples = text.partition("Example")[2].splitlines()[1:]
    assert examples
    for example in examples:
        given = [word for word in shlex.split(example) if not word.startswith("LAUNCH_")]
        assert given[0] in ("launch-submit", "launch-worker", "celery"), example


def test_the_help_of_the_whole_names_each_command_once_in_its_group_and_nearly_fits_a_screen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = help_of("launch-worker", monkeypatch)
    assert len(text.splitlines()) <= 34
    assert "More:" not in text
    named = [name for words in main.GROUPS.values() for name in words]
    assert len(named) == len(set(named))
    for name in main.COMMANDS:
        assert re.search(rf"\b{name}\b", text), name


def test_each_option_of_a_submission_stands_in_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    options = [option for option in submit_command.params if isinstance(option, click.Option)]
    assert all(isinstance(option, GroupedOption) for option in options)
    assert len(help_of("launch-submit", monkeypatch).splitlines()) <= 105


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("runz", "there is no command 'runz' (did you mean runs?)"),
        ("statsu", "there is no command 'statsu' (did you mean status or start?)"),
        ("kill 1", "there is no command 'kill'; runs are stopped by: launch-worker cancel RUN"),
        ("submit", "there is no command 'submit'; runs are submitted by: launch-submit -- COMMAND"),
        ("top", "there is no command 'top'; a screen that keeps itself new: launch-worker status --watch"),
        ("qqqq", "there is no command 'qqqq'"),
        ("queues lst", "no such command 'lst'. (Did you mean one of: 'list', 'set'?)"),
        ("runs --stat x", "no such option '--stat'. (Did you mean one of: '--state', '--tag', '--text'?)"),
        ("runs --limit 0", "invalid value for '--limit': 0 is not in the range x>=1"),
    ],
)
def test_who_mistypes_is_told_what_was_meant(
    typed: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["launch-worker", *typed.split()])
    with pytest.raises(SystemExit) as end:
        run_command(main.group, program="launch-worker")
    assert end.value.code == 2
    first, see = capsys.readouterr().err.splitlines()
    assert first == f"launch-worker: {said}"
    assert re.fullmatch(r"  see: launch-worker( \w+)? --help", see)


def test_words_of_other_systems_stand_for_ours() -> None:
    for word, ours in main.ALIASES.items():
        name, command, rest = main.group.resolve_command(click.Context(main.group), [word, "--json"])
        assert (name, rest) == (ours, ["--json"])
        assert command is main.group.get_command(click.Context(main.group), ours)
    assert not {*main.ALIASES, *main.HINTS} & set(main.COMMANDS)
    for module in main.COMMANDS.values():
        importlib.import_module(module)
