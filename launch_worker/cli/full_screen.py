"""Draws on the whole terminal while something is watched: only rows that have changed; it leaves all as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn, Self

from launch_worker.humane import count
from launch_worker.terminal import Screen, Styled, has_colours
from launch_worker.terminal.cells import unstyled

#: Enters the terminal's other screen, hides the cursor, and cuts lines at the window's edge.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
#: Brackets of a frame, which terminals that know them show at once.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
_END_OF_LINE = "\x1b[K"
_END_OF_SCREEN = "\x1b[J"


class FullScreen:
    """The whole terminal, from entering to leaving; then the last frame stays on the usual screen.

    Signals that end the program leave the terminal as it was: SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP
    raise SystemExit. Ctrl-Z gives the terminal back until the program goes on.
    """

    def __init__(self) -> None:
        self._out = sys.stdout.fileno()
        #: Lines of the last frame, without a limit of their number.
        self._last: Sequence[str] = ()
        #: Rows that stand on the terminal; None where all must be drawn.
        self._rows: list[str] | None = None
        self._size = os.terminal_size((0, 0))
        self._keys = _QuietKeys()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        wanted = {signal.SIGTERM: self._end, signal.SIGHUP: self._end, signal.SIGTSTP: self._stop}
        for number, handler in wanted.items():
            # A program that runs on after a hang-up, as below `nohup`, does so here too.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, handler)
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C does not leave the terminal half-way.
        self._handlers[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            # A terminal that was hung up takes nothing more.
            with contextlib.suppress(OSError):
                self._leave()
                self._write("".join(f"{_ended(line)}\n" for line in self._last))
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def kind(self) -> Screen:
        """What lines are made for now; the window may be of another size the next time."""
        return Screen(os.get_terminal_size(self._out).columns, True, sys.stdout.encoding or "ascii")

    def draw(self, lines: Sequence[Styled], *, foot: str = "") -> None:
        """Show these lines from the top, none wider than `kind().width`; what does not fit is counted in the last row.

        `foot` stands below them in any case.
        """
        if not has_colours(sys.stdout):
            lines = [Styled(unstyled(line)) for line in lines]
        self._last = [*lines, foot] if foot else lines
        size = os.get_terminal_size(self._out)
        if size != self._size:
            self._size, self._rows = size, None
        rows = _fitting(lines, size.lines - bool(foot)) + ([foot] if foot else [])
        parts: list[str] = []
        old = self._rows
        for at, row in enumerate(rows):
            if old is None or at >= len(old) or old[at] != row:
                parts.append(f"\x1b[{at + 1};1H{_ended(row)}{_END_OF_LINE}")
        if (old is None or len(old) > len(rows)) and len(rows) < size.lines:
            parts.append(f"\x1b[{len(rows) + 1};1H{_END_OF_SCREEN}")
        self._rows = rows
        if parts:
            self._write("".join((_BEGIN, *parts, _END)))

    def _begin(self) -> None:
        self._rows = None
        self._keys.hide()
        self._write(_ENTER)

    def _leave(self) -> None:
        self._write(_END + _LEAVE)
        self._keys.show()

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding or "utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._out, data) :]

    @staticmethod
    def _end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        # Here the program stands still until its shell lets it go on.
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._stop)
        self._begin()


def _ended(line: str) -> str:
    """The line with an end of its colours."""
    return f"{line}\x1b[0m" if "\x1b" in line else line


def _fitting(lines: Sequence[str], most: int) -> list[str]:
    """The lines that fit into so many rows, the last of which says how many do not."""
    most = max(1, most)
    if len(lines) <= most:
        return list(lines)
    return [*lines[: most - 1], f"… {count(len(lines) - most + 1)} more"]


class _QuietKeys:
    """Keeps the terminal from showing what is typed over the screen."""

    def __init__(self) -> None:
        self._as_before: list[Any] | None = None

    def hide(self) -> None:
        with contextlib.suppress(OSError, termios.error):
            before = termios.tcgetattr(0)
            quiet = termios.tcgetattr(0)
            quiet[3] &= ~(termios.ECHO | termios.ICANON)
            # A program in the background is stopped here, before it has drawn anything.
            termios.tcsetattr(0, termios.TCSADRAIN, quiet)
            self._as_before = before

    def show(self) -> None:
        if self._as_before is not None:
            # What was typed meanwhile is no command for the shell.
            termios.tcsetattr(0, termios.TCSAFLUSH, self._as_before)
            self._as_before = None
