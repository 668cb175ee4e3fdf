"""Gives supervision one attempt's container, whose jobs are those of other modules.

`start` has it start, `follow` watches it and has its log copied (`log_stream`), `stopping` ends it, `end` finds how it
ended, and `notes` writes about it for people. They share what is known of it, `life`.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from launch_worker.errors import LaunchError
from launch_worker.model.outcome import Outcome
from launch_worker.model.usage import Used
from launch_worker.runners.container.config import Labels
from launch_worker.runners.container.end import End
from launch_worker.runners.container.follow import Follower
from launch_worker.runners.container.life import Containers, Life
from launch_worker.runners.container.mirror import Mirror
from launch_worker.runners.container.notes import Notes
from launch_worker.runners.container.start import Start
from launch_worker.runners.container.stopping import Stopping
from launch_worker.runners.job import Exited, Look
from launch_worker.runners.kept_folder import KeptFolder, Refreshed
from launch_worker.runners.process.exits import Exit

log = logging.getLogger("launch_worker.container")


class Runner(Containers, Protocol):
    """What a handle needs of its runner."""

    def forget(self, handle: ContainerHandle) -> None: ...


class ContainerHandle:
    """One attempt's container. `events` gets Exited, once the log is whole, then Gone, once its folders are kept.

    Thread-safe.
    """

    def __init__(
        self,
        runner: Runner,
        key: str,
        labels: Labels,
        *,
        container: str = "",
        events: queue.SimpleQueue[Any],
        output: Path,
        warning: str = "",
        kept_exit: Callable[[], Exit | None] = lambda: None,
        keeps: Sequence[KeptFolder] = (),
    ) -> None:
        """Without `container` (its id) it is found by its labels. `kept_exit`: as of `Life`.

        `keeps`: the folders of which copies are kept when it has ended.
        """
        self.key = key
        self.events = events
        self._runner = runner
        self._life = Life(key, labels, container, engine=runner.engine, kept_exit=kept_exit)
        self._start = Start(self._life, runner)
        self._stopping = Stopping(self._life, runner)
        self._end = End(self._life, self._start, runner, output, warning=warning)
        self._notes = Notes(self._life, self._start)
        self._mirrors = [Mirror(kept, self._life, runner.engine) for kept in keeps if kept.is_mirror]
        self._follower = Follower(
            self._life,
            self._start,
            self._end,
            self._notes,
            runner,
            output=output,
            events=events,
            keeps=[kept for kept in keeps if not kept.is_mirror],
            mirrors=self._mirrors,
        )

    @property
    def container(self) -> str:
        """The container's id; '' until it is found."""
        return self._life.container

    @property
    def pid(self) -> int:
        """The pid of its main process; 0 until it is known to run."""
        return self._life.pid

    @property
    def has_run(self) -> bool:
        """Whether it has run, and may run still."""
        return self._life.has_run

    @property
    def exited(self) -> Exited | None:
        """The end of its main process; None before."""
        return self._life.exited

    @property
    def trouble(self) -> str:
        """Why its state is unknown; '' while the engine answers."""
        return "" if self._life.is_gone else self._runner.watch.trouble

    @property
    def used(self) -> Used:
        """Nothing: an engine says nothing of a container that has ended."""
        return Used()

    def measure(self, trees: Mapping[int, Look]) -> Look | None:
        """What the engine says of it now; None where that does not answer, or the container does not run."""
        if not self.has_run or self._life.is_over or self.trouble:
            return None
        try:
            return Look(self._runner.engine.used_by(self.container))
        except LaunchError as error:
            log.debug("container.not_measured run=%s: %s", self.key, error)
            return None

    @property
    def bounds_output(self) -> bool:
        return True

    def catch_up(self) -> None:
        """Do nothing: the engine sets the pace of the log."""

    def begin(self, *, program: str, image: str, deadline: float) -> ContainerHandle:
        """Have the engine start it before the deadline, and follow it; to be called once."""
        self._start.order(program=program, image=image, deadline=deadline)
        return self.follow()

    def await_start(self, unwanted: Callable[[], bool]) -> None:
        """Block until it has run, the engine is silent, or `unwanted` is true. Raises StartError: it never runs.

        In all other cases it must be supervised: it runs, or may.
        """
        self._start.wait(unwanted)

    def follow(self) -> ContainerHandle:
        """Begin to copy its log and its talk, and to wait for its end."""
        self._follower.begin()
        return self

    def report_to(self, enter: Callable[[str, str], None], on_started: Callable[[int], None]) -> None:
        """Call `on_started` with its pid when it is known to run, `enter` with a sentence when the engine is silent."""
        self._notes.report_to(enter, on_started)

    def announce(self, reason: str, kill_at: float) -> None:
        """Show the job that it shall stop, before it is signalled if the engine is not slow."""
        self._stopping.announce(reason, kill_at)

    def signal(self, name: str, *, to_all: bool) -> None:
        """Send a signal to its main process; an init process hands it on, to all where the container was made so."""
        self._stopping.signal(name)

    def stop(self, *, grace_s: float) -> None:
        """Send its stop signal, and SIGKILL after the grace. A second call can only shorten the grace."""
        self._stopping.stop(grace_s=grace_s)

    def expired(self, kill_at: float) -> None:
        """End it too: its lease ran out, and the guard is ending it."""
        self._stopping.expire(kill_at)

    def explain(self, outcome: Outcome) -> Outcome:
        """Add to the outcome the engine's knowledge of the end."""
        return self._end.explain(outcome)

    def refresh(self, target: Path) -> Refreshed | None:
        """Bring a copy that the container's runner keeps up to date; None where it keeps none at this path.

        Raises LaunchError, OSError.
        """
        found = [mirror for mirror in self._mirrors if mirror.kept.target == target]
        return found[0].refresh() if found else None

    def tell(self, name: str, text: str) -> None:
        """Put a file into the folder of the job's talk. Never raises."""
        self._runner.talks.tell(self._life.container, name, text)

    def leave(self) -> None:
        """Stop supervising: the next worker copies its log from here on."""
        self._follower.leave()

    def dispose(self) -> None:
        """Remove the container with its files, now or later."""
        self._runner.forget(self)
