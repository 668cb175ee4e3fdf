"""Shows the states of runs: in colour, with a sign, and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from launch_worker.terminal.say import Styled, styled
from launch_worker.terminal.screen import Screen

COLOURS = {
    "Pending": "yellow",
    "Running": "cyan",
    "Finished": "green",
    "Failed": "red",
    "Killed": "magenta",
    "Crashed": "bright_red",
}


def state(word: str) -> Styled:
    """A state's name, coloured on a terminal."""
    return styled(word, colour=COLOURS.get(word))


def state_cell(word: str, said: str = "") -> Callable[[Screen], Styled]:
    """A state for a table: with its sign and in its colour on a terminal, the word alone in a pipe.

    `said` is said in place of the word, for what is like that state of a run.
    """
    text = said or word

    def cell(screen: Screen) -> Styled:
        sign = screen.sign(word) if screen.is_terminal else ""
        return styled(f"{sign} {text}" if sign else text, colour=COLOURS.get(word))

    return cell


def counted(counts: Mapping[str, int], screen: Screen) -> Styled:
    """How many runs have which state, in short: `✓8 ✗2`."""
    there = [(word, counts[word]) for word in COLOURS if counts.get(word)]
    parts = [styled(f"{screen.sign(word)}{number:,}", colour=COLOURS[word]) for word, number in there]
    return Styled(" ".join(parts))
