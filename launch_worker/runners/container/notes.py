"""Writes for people whether a container is known to run, and whether its engine answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from launch_worker.runners.container.engine import address
from launch_worker.runners.container.life import Life
from launch_worker.runners.container.start import Start

log = logging.getLogger("launch_worker.container")


class Notes:
    """The sentences about one container. Thread-safe."""

    def __init__(self, life: Life, start: Start) -> None:
        self._life = life
        self._start = start
        #: Writes a phase and a sentence into the record; None until that may be written.
        self._enter: Callable[[str, str], None] | None = None
        self._on_started: Callable[[int], None] = lambda _: None
        self._is_away_noted = False
        self._is_start_noted = False

    def report_to(self, enter: Callable[[str, str], None], on_started: Callable[[int], None]) -> None:
        """Write from now on: `on_started` gets the pid, `enter` a phase and a sentence."""
        with self._life.changed:
            self._enter, self._on_started = enter, on_started
            has_run = self._life.has_run
        if has_run:
            self.note_start()

    def note_start(self, *, again: bool = False) -> None:
        """Write once that the container runs, or `again` after another note."""
        with self._life.changed:
            if self._enter is None or (self._is_start_noted and not again):
                return
            if not self._start.is_ordered and not self._life.pid:
                return  # it had ended before this worker saw it: the note of its first worker stays
            self._is_start_noted = True
            on_started = self._on_started
        _tell(on_started, self._life.pid)

    def note_away(self) -> None:
        """Write once that the engine does not answer."""
        life = self._life
        with life.changed:
            life.changed.notify_all()
            if self._is_away_noted or self._enter is None or life.is_gone:
                return
            self._is_away_noted = True
            enter = self._enter
        may = "the container may run" if life.has_run or not self._start.is_ordered else "it may start the container"
        _tell(enter, "engine", f"the container engine at {address()} does not answer; {may}")

    def note_answers(self) -> None:
        """Write that the engine answers again, if it was written that it does not."""
        with self._life.changed:
            was_noted, self._is_away_noted = self._is_away_noted, False
            enter = self._enter
        if not was_noted or self._life.is_gone:
            return
        if self._life.has_run:
            self.note_start(again=True)
        elif enter is not None:
            _tell(enter, "start", "")


def _tell(whom: Callable[..., None], *words: Any) -> None:
    """Call it; a failure to inform people decides nothing about the job."""
    try:
        whom(*words)
    except Exception:
        log.exception("container.not_told")
