"""Finds how one container ended, and says it in sentences."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path

from launch_worker.errors import LaunchError, NoContainerError
from launch_worker.model.outcome import Outcome
from launch_worker.model.states import RunState
from launch_worker.runners.container.life import Containers, Life
from launch_worker.runners.container.start import Start
from launch_worker.runners.container.state import ContainerState
from launch_worker.runners.job import Exited

#: Seconds after a SIGKILL that was not asked for, until it is seen whether the container is being removed.
_REMOVAL_S = 0.4
#: Seconds after the end of a container within which an engine may learn that it ran out of memory.
_OOM_S = 2.0
_REMOVED = "its container was removed by somebody else"
_REST_IS_MISSING = "the container engine did not give the end of its log: some output is missing"
_LOST_CODE = "the container engine was killed as the job ended, and has lost its exit code"
_DISK_WAS_FULL = "the worker's disk was full while its output was copied: some may be missing"
#: Exit code by which an engine says that it does not know it; a job may exit with it too.
_UNKNOWN = 255
#: Exit code of a container that got SIGKILL.
_SIGKILLED = 137
#: Words with which the init processes of Docker (tini) and Podman (catatonit) say that they cannot run a command.
_INIT_FAILED = (b"[FATAL tini (", b"ERROR (catatonit:")
_EXIT_CODES = {
    125: "the program in the container says that it could not run its command",
    126: "a command in the container is not executable",
    127: "a command was not found in the container",
}


class End:
    """The end of one container."""

    def __init__(self, life: Life, start: Start, runner: Containers, output: Path, *, warning: str) -> None:
        """`warning`: a sentence for the message of the outcome."""
        self._life = life
        self._start = start
        self._runner = runner
        self._output = output
        self._warning = warning
        self._notes: list[str] = []
        #: The engine did not give the rest of the log.
        self._rest_is_missing = False
        #: Output was given up because the worker's disk was full.
        self.disk_was_full = False

    def known(self, state: ContainerState) -> Exited:
        """The end of a container that the engine says has ended."""
        problem = self._why_unknown(state)
        return self._exited(None if problem else state.exit_status, problem)

    def without_container(self) -> Exited:
        """The end when there is no such container any more, and so there never will be."""
        life = self._life
        if life.end is not None:
            # Removed by another process before its log was copied to the end.
            self._rest_is_missing = True
            return self.known(life.end)
        if life.has_run:
            return self._exited(None, _REMOVED)
        asked = life.why_stopped() or ("asked" if life.kill_at is not None else "")
        if self._start.is_ordered:
            return Exited(None, asked, self._start.problem)
        problem = f"worker {life.labels.worker} died, and there is no container of it"
        return Exited(None, asked or "worker", problem)

    def without_rest(self, state: ContainerState) -> Exited:
        """The end of a container of which the engine has given its exit code, and does not answer any more."""
        self._rest_is_missing = True
        return self._exited(state.exit_status)

    def note(self, sentence: str) -> None:
        """Have the message of the outcome say more."""
        self._notes.append(sentence)

    def explain(self, outcome: Outcome) -> Outcome:
        """Add to the outcome the engine's knowledge of the end."""
        if outcome.state is RunState.FAILED:
            outcome = self._explain_failure(outcome)
        if outcome.by_shutdown and self._start.never_ran:
            outcome = replace(outcome, unbegun=True)
        notes = [
            self._warning,
            _DISK_WAS_FULL if self.disk_was_full else "",
            _REST_IS_MISSING if self._rest_is_missing else "",
            *self._notes,
        ]
        return replace(outcome, message="\n".join(filter(None, [outcome.message, *notes])))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _exited(self, status: int | None, problem: str = "") -> Exited:
        return Exited(status, self._life.why_stopped(), problem)

    def _why_unknown(self, state: ContainerState) -> str:
        """Why the engine's exit code is not the job's; '' when it is."""
        if state.exit_code == _UNKNOWN and not self._life.why_stopped():
            with contextlib.suppress(LaunchError):
                if not self._runner.engine.remembers(self._life.container, "die", "died"):
                    return _LOST_CODE
        return self._was_removed(state)

    def _was_removed(self, state: ContainerState) -> str:
        if state.exit_code != _SIGKILLED or state.is_out_of_memory or self._life.why_stopped():
            return ""
        deadline = time.monotonic() + (_OOM_S if state.has_memory_limit else _REMOVAL_S)
        while time.monotonic() < deadline:
            with contextlib.suppress(LaunchError):
                try:
                    now = self._life.look()
                    if now.status in ("removing", "dead"):
                        return _REMOVED
                    if self._is_out_of_memory(now):
                        # An engine may learn it a moment after the end.
                        self._life.note_end(now)
                        return ""
                except NoContainerError:
                    return _REMOVED
            time.sleep(0.05)
        return ""

    def _explain_failure(self, outcome: Outcome) -> Outcome:
        if self._start.never_ran:
            is_engine = self._start.is_by_engine
            return replace(outcome, phase="start", engine_fault=is_engine, worker_fault=is_engine)
        end = self._life.end
        if end is None:
            return replace(outcome, message=outcome.reason)
        text, cause = outcome.reason, outcome.cause
        if self._is_out_of_memory(end):
            text = f"{outcome.reason}: out of memory (the container engine says so)"
            cause = cause or "oom"
        elif outcome.exit_code in (1, 126, 127) and end.has_init and (said := self._init_failed()):
            what = "is not executable" if b"ermission denied" in said else "was not found"
            text = f"command {end.program!r} {what} in image {end.image}"
            return replace(outcome, reason=text, message=text, phase="start")
        elif outcome.exit_code in _EXIT_CODES:
            text = f"{outcome.reason}: {_EXIT_CODES[outcome.exit_code]}"
        if end.error:
            text += f" ({end.error})"
        return replace(outcome, reason=text, message=text, cause=cause)

    def _is_out_of_memory(self, state: ContainerState) -> bool:
        """Whether a process of the container was killed for memory, be it the main one or another.

        Where the engine hears of it after the end, only its events tell it.
        """
        if state.is_out_of_memory or not state.has_memory_limit:
            return state.is_out_of_memory
        with contextlib.suppress(LaunchError):
            return self._runner.engine.remembers(self._life.container, "oom")
        return False

    def _init_failed(self) -> bytes:
        """The words of an init process that could not run its command; b'' when it could."""
        try:
            with self._output.open("rb") as output:
                said = output.read(500)
        except OSError:
            return b""
        return said if said.startswith(_INIT_FAILED) else b""
