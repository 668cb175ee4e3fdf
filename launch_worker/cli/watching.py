"""Shows something again and again as it changes: on a terminal as a screen, in a pipe after each change."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from types import FrameType
from typing import Any, Generic, NoReturn, Self, TypeVar

import click

from launch_worker import humane, terminal
from launch_worker.api.patience import AWAY
from launch_worker.api.transport import Transport
from launch_worker.cli.full_screen import FullScreen
from launch_worker.errors import LaunchError, ServerUnavailableError
from launch_worker.terminal import Screen, Styled

#: Seconds between two frames at least, between two frames for the ages alone, and between two tries in an outage.
_FRAME_S = 0.25
_AGES_S = 1.0
_AGAIN_S = 1.0
#: Seconds after which all is read without news: of some things there are none.
_LOOK_S = 2.0
#: Seconds after a look for news at which there is one more: what a server says may be a second old.
_ONCE_MORE_S = 1.1
#: Shares of the time that are spent reading: after news, and without; and seconds between two looks, at most.
_SHARE_AT_NEWS, _MOST_AT_NEWS_S = 0.1, 5.0
_SHARE_IDLE, _MOST_IDLE_S = 0.007, 12.0

#: Byte by which the thread of news wakes the watch; signals do so by their numbers, from 1.
_NEWS = 0

T = TypeVar("T")


WATCH = click.option(
    "--watch", is_flag=True, help="Show it again as it changes, until Ctrl-C; in a pipe, after each change."
)


def show_or_watch(
    transport: Transport,
    read: Callable[[], T],
    *,
    draw: Callable[[T, Screen], Sequence[Styled]],
    show: Callable[[T], None],
    watch: bool,
    as_json: bool,
) -> None:
    """Print what `read` gives by `show`; with `watch` again after each change, until Ctrl-C.

    On a terminal that is watched these are the lines of `draw(found, screen)`. An outage of Redis or the server is
    outlasted, unless it is there from the beginning.
    """
    if not watch:
        show(read())
        return
    with _Bell(transport) as bell:
        looks = _Looks(read)
        if as_json or not _is_screen():
            _print_changes(looks, bell, show)
        with FullScreen() as screen:
            while True:
                screen.draw(draw(looks.found, screen.kind()), foot=looks.trouble())
                looks.go_on(bell, most_s=_AGES_S)


class _Looks(Generic[T]):
    """What is watched as it was at the last look that had an answer, and when the next look is due."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        #: Error of an outage, and the time of its beginning; None for no outage.
        self.away: LaunchError | None = None
        self._away_since = datetime.now()
        began = time.monotonic()
        self.found = read()
        self._plan(began, is_of_news=False)

    def go_on(self, bell: _Bell, *, most_s: float) -> None:
        """Return after a look, or after so many seconds; but not before the next frame is due."""
        until = time.monotonic() + most_s
        while True:
            due = self._soon if bell.has_rung else self._late
            left_s = min(due, until) - time.monotonic()
            if left_s > 0 and not bell.wait(left_s):
                continue
            if time.monotonic() >= due:
                self._look(is_of_news=bell.has_rung)
                bell.has_rung = False
            return

    def trouble(self) -> str:
        """A sentence about the outage, where there is one; else ''."""
        if self.away is None:
            return ""
        since_s = (datetime.now() - self._away_since).total_seconds()
        who = "the server" if isinstance(self.away, ServerUnavailableError) else "Redis"
        return (
            f"{who} has not answered since {self._away_since:%H:%M:%S} ({humane.duration(round(since_s))}); "
            "above is what was so then"
        )

    def _look(self, *, is_of_news: bool) -> None:
        began = time.monotonic()
        try:
            self.found = self._read()
            self.away = None
        except AWAY as error:
            if self.away is None:
                self._away_since = datetime.now()
            self.away = error
        self._plan(began, is_of_news=is_of_news)

    def _plan(self, began: float, *, is_of_news: bool) -> None:
        """Say when the next look is due, by how long the last one has taken."""
        now = time.monotonic()
        if self.away is not None:
            self._soon = self._late = now + _AGAIN_S
            return
        taken_s = now - began
        self._soon = now + min(_MOST_AT_NEWS_S, max(_FRAME_S, taken_s / _SHARE_AT_NEWS))
        self._late = now + min(_MOST_IDLE_S, max(_LOOK_S, taken_s / _SHARE_IDLE))
        if is_of_news:
            self._late = min(self._late, now + max(_ONCE_MORE_S, taken_s / _SHARE_AT_NEWS))


class _Bell:
    """Wakes the watch: by news, for which a thread listens, and by signals, as that of a window's new size."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        #: Whether there were news since the last look.
        self.has_rung = False
        # Both ends stay open until the process ends: the thread may be writing.
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        self._stopping = threading.Event()
        self._before: tuple[int, Any] = (-1, None)

    def __enter__(self) -> Self:
        self._before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False), signal.getsignal(signal.SIGWINCH)
        signal.signal(signal.SIGWINCH, _note)
        threading.Thread(target=self._listen, name="news", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        signal.set_wakeup_fd(self._before[0])
        signal.signal(signal.SIGWINCH, self._before[1])

    def wait(self, timeout_s: float) -> bool:
        """Wait for news or a signal, so long at most. Returns whether there was a signal."""
        if not select.select([self._woken], [], [], timeout_s)[0]:
            return False
        said = os.read(self._woken, 4096)
        self.has_rung = self.has_rung or _NEWS in said
        return any(byte != _NEWS for byte in said)

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                self._transport.listen(on_news=self._ring, stopped=self._stopping.is_set)
            except AWAY:
                # The next look finds out what is wrong.
                self._ring()
            except LaunchError:
                # Who may not listen looks every few seconds.
                return
            self._stopping.wait(_AGAIN_S)

    def _ring(self) -> None:
        # A full pipe wakes as well.
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, bytes((_NEWS,)))


def _note(number: int, frame: FrameType | None) -> None:
    """Take a signal that is told by the pipe alone."""


def _is_screen() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _print_changes(looks: _Looks[T], bell: _Bell, show: Callable[[T], None]) -> NoReturn:
    shown: T | None = None
    away: LaunchError | None = None
    while True:
        if looks.found != shown:
            shown = looks.found
            show(shown)
            sys.stdout.flush()
        if away is None and looks.away is not None:
            terminal.say(f"launch-worker: {looks.away}; it is tried again until Ctrl-C", err=True)
        elif away is not None and looks.away is None:
            who = "the server" if isinstance(away, ServerUnavailableError) else "Redis"
            terminal.say(f"launch-worker: {who} answers again", err=True)
        away = looks.away
        looks.go_on(bell, most_s=_LOOK_S)
