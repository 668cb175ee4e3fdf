"""Shows how far something is, in one line on standard error that is written over; only on a terminal."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from launch_worker import humane

#: Seconds between two writings at least, and between two looks at what a ticking line is to say.
_TURN_S = 0.1
_TICK_S = 0.5
#: Cells of a bar.
_BAR_CELLS = 24


class Line:
    """The last line on standard error, as a context. Nothing is written where it is not wanted, or is no terminal."""

    def __init__(self, *, is_wanted: bool) -> None:
        self.is_shown = is_wanted and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._lock = threading.RLock()
        #: Text that stands there, and its cells.
        self._text = ""
        self._cells = 0
        self._written_at = 0.0
        #: Whether the job's output has left the cursor in the middle of a line.
        self._is_mid_line = False
        self._over = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.show("")

    def show(self, text: str) -> None:
        """Write this in place of what stands there; '' takes it away."""
        if not self.is_shown:
            return
        with self._lock:
            if text == self._text or (text and self._is_mid_line):
                return
            self._text = text
            self._write(text)

    def count(self, what: str, done: int, total: int, show: Callable[[int], str] = humane.count) -> None:
        """Write a bar: `what ━━━━──── 12 of 40`."""
        if not self.is_shown or (done < total and time.monotonic() - self._written_at < _TURN_S):
            return
        self._written_at = time.monotonic()
        filled = _BAR_CELLS * done // total if total else _BAR_CELLS
        full, empty = "━─" if _can("━─") else "#-"
        self.show(f"{what} {full * filled}{empty * (_BAR_CELLS - filled)} {show(done)} of {show(total)}")

    @contextmanager
    def above(self, *, ends_line: bool = True) -> Iterator[None]:
        """Take the line away for what is written meanwhile, and put it below that; unless that ends within a line."""
        with self._lock:
            if self._cells:
                self._write("")
            try:
                yield
            finally:
                self._is_mid_line = not ends_line
                if self._text and ends_line:
                    self._write(self._text)
                else:
                    self._text = ""

    def tick(self, text: Callable[[], str]) -> None:
        """Have what this says shown again and again, from a thread of its own, until the line's end."""
        if self.is_shown:
            threading.Thread(target=self._tick, args=(text,), name="progress", daemon=True).start()

    def _tick(self, text: Callable[[], str]) -> None:
        while not self._over.wait(_TICK_S):
            with self._lock:
                if not self._over.is_set():
                    self.show(text())

    def _write(self, text: str) -> None:
        from launch_worker.terminal import Screen
        from launch_worker.terminal.cells import cut, width_of
        from launch_worker.untrusted.text import clean

        screen = Screen.of(sys.stderr)
        text = cut(screen.writable(clean(text)), (screen.width or 80) - 1, screen.ellipsis)
        cells = width_of(text)
        # Blanks in place of an escape, for terminals that know none.
        blanks = max(0, self._cells - cells)
        sys.stderr.write(f"\r{text}{' ' * blanks}{'' if text else chr(13)}")  # noqa: TID251 (it is clean)
        sys.stderr.flush()
        self._cells = cells


def _can(text: str) -> bool:
    try:
        text.encode(sys.stderr.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
