"""Watches one container in a thread of its own, from its start to its end, and has its log copied.

Unknown facts are asked for again until they are known: an attempt ends here only when its container is known to have
ended, or can never begin because it was removed.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from launch_worker.clock import boot_time_s
from launch_worker.errors import EngineAwayError, LaunchError, NoContainerError
from launch_worker.runners.container.end import End
from launch_worker.runners.container.folders import keep
from launch_worker.runners.container.life import RETRY_S, Containers, Life
from launch_worker.runners.container.log_stream import LogStream
from launch_worker.runners.container.mirror import Mirror
from launch_worker.runners.container.notes import Notes
from launch_worker.runners.container.start import Start
from launch_worker.runners.container.state import ContainerState
from launch_worker.runners.job import Exited, Gone
from launch_worker.runners.kept_folder import KeptFolder
from launch_worker.runners.talk_folder import TALK

log = logging.getLogger("launch_worker.container")

#: Seconds for which the end of a run waits for an engine that does not give what its container left.
_KEEP_S = 600.0

#: Seconds for which the end of a container, once known, waits for the rest of its log.
_REST_S = 30.0
#: Seconds that an engine may take to say that a container has ended, after the end of its log.
_SETTLE_S = 0.02


class _Left(Exception):
    """Another worker watches the container from now on."""


class Follower:
    """The thread that watches one container. `events` gets Exited, once the log is whole, then Gone.

    Between the two, folders of the container are copied: time that is not the job's.
    """

    def __init__(
        self,
        life: Life,
        start: Start,
        end: End,
        notes: Notes,
        runner: Containers,
        *,
        output: Path,
        events: queue.SimpleQueue[Any],
        keeps: Sequence[KeptFolder] = (),
        mirrors: Sequence[Mirror] = (),
    ) -> None:
        self._life = life
        self._start = start
        self._end = end
        self._notes = notes
        self._runner = runner
        self._output = output
        self._events = events
        self._keeps = keeps
        self._mirrors = mirrors
        self._stream = LogStream(life, runner, output, rest_silence_s=_REST_S / 3)

    def begin(self) -> None:
        self._runner.watch.add(self)
        threading.Thread(target=self._run, name=f"container-{self._life.key}", daemon=True).start()

    def leave(self) -> None:
        """Watch no more: the next worker copies the log from here on."""
        with self._life.changed:
            self._life.is_left = True
            self._life.changed.notify_all()
        self._runner.watch.drop(self)
        self._runner.talks.drop(self._life.container)

    # -- calls of the engine's watch ----------------------------------------------------------------------------------

    def note_away(self) -> None:
        """The engine does not answer."""
        self._notes.note_away()

    def note_answers(self) -> None:
        """The engine answers. A log that should be over, and that the engine has left open, is ended."""
        self._notes.note_answers()
        cut = self._stream.silent_cut()
        if cut is not None and self._has_ended():
            cut()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        ended: Exited | None = None
        while ended is None and not self._life.is_left:
            try:
                ended = self._step()
            except NoContainerError:
                ended = self._end.without_container()
            except EngineAwayError as error:
                log.debug("container.engine_away run=%s: %s", self._life.key, error)
                ended = self._without_rest()
            except Exception:
                log.exception("container.log_failed run=%s", self._life.key)
                ended = self._without_log()
        self._end.disk_was_full = self._stream.disk_was_full
        self._stream.close()
        if ended is not None and not self._life.is_left:
            self._tell(ended)

    def _step(self) -> Exited | None:
        """Look once, and copy the log until there is a reason to look again; the end, None before.

        Raises NoContainerError, EngineAwayError, and others where the log cannot be copied.
        """
        life = self._life
        if not life.container:
            life.container = self._runner.find_attempt(life.labels)
        state = life.look()
        if self._start.is_pending(state):
            return self._end.without_container() if self._start.give_up() else None
        self._note_running(state)
        if state.is_running:
            time.sleep(_SETTLE_S)
            self._stream.copy()
            return None
        life.note_end(state)
        self._stream.copy_rest()
        return self._end.known(state)

    def _without_rest(self) -> Exited | None:
        """The end while the engine does not answer: that of a container whose end is known, after some patience."""
        life = self._life
        if life.end is None or life.ended_at is None or boot_time_s() - life.ended_at <= _REST_S:
            life.pause(RETRY_S)
            return None
        return self._end.without_rest(life.end)

    def _without_log(self) -> Exited | None:
        """The end of a container whose log cannot be copied, for whatever reason; None while it runs."""
        if self._life.has_run and self._has_ended():
            end = self._life.end
            return self._end.without_container() if end is None else self._end.known(end)
        self._life.pause(RETRY_S)
        return None

    def _note_running(self, state: ContainerState) -> None:
        life = self._life
        if life.has_run:
            return
        try:
            self._runner.talks.add(life.container, self._output.with_name(TALK))
        except OSError as error:
            log.warning("talk.not_copied run=%s: %s", life.key, error)
        with life.changed:
            life.pid = state.pid
            life.has_run = True
            life.changed.notify_all()
        self._notes.note_start()

    def _has_ended(self) -> bool:
        try:
            state = self._life.look()
        except NoContainerError:
            return True
        except LaunchError:
            return False
        if state.is_running or state.status == "created":
            return False
        self._life.note_end(state)
        return True

    def _tell(self, ended: Exited) -> None:
        life = self._life
        self._runner.watch.drop(self)
        if life.has_run:
            self._runner.talks.finish(life.container)
        with life.changed:
            life.is_gone = True
            is_raised = self._start.is_raised
            if not is_raised:
                life.exited = ended
            life.changed.notify_all()
        if not is_raised:
            self._events.put(ended)
            if life.has_run:
                for kept in self._keeps:
                    self._keep(kept, partial(keep, self._runner.engine, life.container, kept, check=self._check_left))
                for mirror in self._mirrors:
                    self._keep(mirror.kept, partial(mirror.refresh, at_rest=True, check=self._check_left))
            self._events.put(Gone())

    def _keep(self, kept: KeptFolder, copy: Callable[[], object]) -> None:
        """Copy a folder of the ended container, unless another worker will. Never raises."""
        life, name = self._life, kept.target.name
        give_up = time.monotonic() + _KEEP_S
        while not life.is_left:
            try:
                copy()
                return
            except EngineAwayError as error:
                problem: Exception = error
                if time.monotonic() < give_up:
                    log.warning("folder.waits run=%s folder=%s: %s", life.key, name, error)
                    life.pause(RETRY_S)
                    continue
            except _Left:
                return
            except (LaunchError, OSError) as error:
                problem = error
            except Exception as error:
                log.exception("folder.not_kept run=%s folder=%s", life.key, name)
                problem = error
            log.warning("folder.not_kept run=%s folder=%s: %s", life.key, name, problem)
            self._end.note(f"what the job left in {kept.inside} is lost with its container: {problem}")
            return

    def _check_left(self) -> None:
        if self._life.is_left:
            raise _Left
