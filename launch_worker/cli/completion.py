"""Defines `completion`: has a shell complete commands, options, and the words of this system, as ids and queues.

What is offered is read within a second, or nothing is: a shell waits for it, and whatever is wrong is said elsewhere.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from launch_worker import terminal
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from launch_worker.store.suggestions import Suggestion, suggestions
from launch_worker.untrusted.text import clean

#: Seconds after which nothing is offered.
_PATIENCE_S = 1.0
#: Words that shells take as they are; others are not offered.
_PLAIN = re.compile(r"[\w.@+=/%,-]+")
_PROGRAMS = {"launch-worker": "_LAUNCH_WORKER_COMPLETE", "launch-submit": "_LAUNCH_SUBMIT_COMPLETE"}
_STATES = [Suggestion(state.value.lower()) for state in RunState]

#: What the arguments of each command are: a kind of `store.suggestions`. Those of `_ONCE` have only one of these.
_ARGUMENTS = {
    **dict.fromkeys(("cancel", "delete", "retry", "wait", "preempt"), "runs"),
    **dict.fromkeys(("show", "logs", "explain", "files", "metrics", "report", "confirm"), "runs"),
    **{f"queues {word}": "queues" for word in ("show", "set", "pause", "resume", "delete")},
    **{f"pools {word}": "pools" for word in ("show", "set", "pause", "resume", "delete")},
    **{f"workers {word}": "workers" for word in ("drain", "upgrade", "resume")},
    **{f"sweep {word}": "sweeps" for word in ("status", "wait", "pause", "resume", "stop", "cancel")},
    **{f"schedules {word}": "schedules" for word in ("show", "pause", "resume", "delete")},
    **{f"channels {word}": "channels" for word in ("set", "test", "delete")},
}
_ONCE = frozenset({"files", "confirm"})
#: What the values of options are, whichever command has them.
_VALUES = {
    **dict.fromkeys(("-q", "--queue"), "queues"),
    **dict.fromkeys(("-p", "--pool"), "pools"),
    "--state": "states",
    "--project": "projects",
    "--name": "names",
    "--sweep": "sweeps",
    **dict.fromkeys(("--after", "--group"), "runs"),
    **dict.fromkeys(("--notify", "--channel"), "channels"),
}


@click.command(epilog="Example: launch-worker completion bash >> ~/.bashrc")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print what makes a shell complete our commands, with ids of runs, queues, workers and the like.

    For bash it goes into ~/.bashrc, for zsh into ~/.zshrc behind compinit, for fish into
    ~/.config/fish/completions/launch-worker.fish and launch-submit.fish.
    """
    for program, variable in _PROGRAMS.items():
        made = _SHELLS[shell](click.Command(program), {}, program, variable)
        terminal.put([terminal.Styled(made.source_template % made.source_vars())])


class _Words(ShellComplete):
    """Offers words of this system where a command takes them, without importing the command; else what click offers."""

    #: Names of the commands, and what each does.
    commands: Mapping[str, str] = MappingProxyType({})

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[Any]]:
        if isinstance(self, BashComplete):
            # For bash the sign in --queue=gpu is a word by itself.
            if incomplete == "=":
                args, incomplete = [*args, "="], ""
            if args[-1:] == ["="]:
                args = args[:-1]
        option, joined, value = incomplete.partition("=")
        if joined and option in _VALUES:
            offered = self._offer(_VALUES[option], value, args)
            return [CompletionItem(f"{option}={one.value}", help=one.help) for one in offered]
        if self.commands and not incomplete.startswith("-") and not _without_options(args):
            # click would import every command.
            return [
                CompletionItem(name, help=said) for name, said in self.commands.items() if name.startswith(incomplete)
            ]
        kind = _kind_of(self.prog_name, args)
        if kind and not incomplete.startswith("-"):
            return self._offer(kind, incomplete, args)
        if self.prog_name == "launch-submit" and not incomplete.startswith("-"):
            return [CompletionItem(incomplete, type="file")]
        return super().get_completions(args, incomplete)

    def _offer(self, kind: str, incomplete: str, args: Sequence[str]) -> list[CompletionItem[Any]]:
        found = _STATES if kind == "states" else _read(kind, _api_of(args))
        if kind == "runs" and found:
            found = [Suggestion("@", "the last that you submitted"), *found]
            if incomplete and not any(one.word.startswith(incomplete) for one in found):
                found = _read("names", _api_of(args))
        return [
            CompletionItem(one.word, help=clean(one.said) or None)
            for one in found
            if one.word.startswith(incomplete) and _PLAIN.fullmatch(one.word)
        ]


def _kind_of(program: str, args: Sequence[str]) -> str:
    """The kind of the word after these; '' for one that is not read."""
    if args and args[-1] in _VALUES:
        return _VALUES[args[-1]]
    if program != "launch-worker":
        return ""
    words = _without_options(args)
    for length in (1, 2):
        path = " ".join(words[:length])
        if path in _ARGUMENTS and not (path in _ONCE and len(words) > length):
            return _ARGUMENTS[path]
    return ""


def _without_options(args: Sequence[str]) -> list[str]:
    """The words that are neither options nor the values of those that are known."""
    words, skip = [], False
    for word in args:
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = word in _VALUES or word == "--api"
        else:
            words.append(word)
    return words


def _api_of(args: Sequence[str]) -> str | None:
    """The value of `--api`, where it was given."""
    found = [after for before, after in pairwise(args) if before == "--api"]
    found += [word.partition("=")[2] for word in args if word.startswith("--api=")]
    return found[-1] if found else None


def _read(kind: str, url: str | None) -> list[Suggestion]:
    """The words of a kind; none where nobody answers in time."""
    found: list[Suggestion] = []

    def read() -> None:
        # Whatever goes wrong: a shell must not be written into.
        try:
            found.extend(_ask(kind, Settings.of_client(url=url)))
        except Exception:  # noqa: BLE001 (see above)
            found.clear()

    # A thread can be left behind, whatever it waits for.
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(_PATIENCE_S)
    return found if not reader.is_alive() else []


def _ask(kind: str, settings: Settings) -> list[Suggestion]:
    if settings.api_url:
        from launch_worker.api.http_connection import HttpConnection

        said = HttpConnection(settings.api_url, settings.api_token).ask("GET", f"/completion/{kind}")
        return [Suggestion(one["word"], one["said"]) for one in said["words"]]
    from launch_worker.store.redis.wire import Wire

    if not Wire.fits(settings.redis_url):
        # TLS and sentinels need redis-py, which takes longer to be imported.
        from launch_worker.store.store import Store

        return Store(settings.redis_url).suggestions(kind, lambda project: True)
    line = Wire(settings.redis_url, name="launch").line()

    def ask(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        for command in commands:
            line.send(*command)
        return [line.receive() for _ in commands]

    return suggestions(kind, ask, lambda project: True)


class _Bash(_Words, BashComplete):
    """Bash."""


class _Zsh(_Words, ZshComplete):
    """zsh."""


class _Fish(_Words, FishComplete):
    """fish."""


_SHELLS: Mapping[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def offer_words(groups: Mapping[str, Mapping[str, str]] = MappingProxyType({})) -> None:
    """Have click offer our words, and these commands; called where a shell has started this program for words."""
    _Words.commands = dict(sorted(pair for group in groups.values() for pair in group.items()))
    for shell in _SHELLS.values():
        add_completion_class(shell)
