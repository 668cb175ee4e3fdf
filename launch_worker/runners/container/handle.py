"""Starts, watches, stops and explains one attempt's container, and has its log copied.

An engine's answer may be lost, and the thing be done all the same, now or when the engine goes on. So unknown facts
are asked for again until they are known: an attempt ends here only when its container is known to have ended, or can
never begin because it was removed.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import docker.errors

from launch_worker.clock import boot_time_s
from launch_worker.errors import EngineAwayError, LaunchError, NoContainerError, StartError
from launch_worker.model.outcome import Outcome
from launch_worker.model.states import RunState
from launch_worker.runners.container.config import Labels
from launch_worker.runners.container.engine import Cut, Engine, address, clear_errors
from launch_worker.runners.container.log import ContainerLog, messages_of
from launch_worker.runners.container.talk import ContainerTalks
from launch_worker.runners.container.watch import EngineWatch
from launch_worker.runners.job import Exited, Gone
from launch_worker.runners.stop_reason import StopReason
from launch_worker.runners.talk_folder import TALK

log = logging.getLogger("launch_worker.container")

#: Seconds until an engine that did not answer is asked again.
RETRY_S = 1.0
#: Seconds to wait for an engine that does not answer, before a start is watched as a running container is.
PATIENCE_S = 5.0
#: Seconds of silence after which a log is looked at: the engine may have failed to say that it is over.
_SILENT_S = 10.0
#: Seconds for which the end of a container, once known, waits for the rest of its log.
_REST_S = 30.0
#: Seconds for which a signal waits for the file that announces it.
_ANNOUNCE_S = 1.0
#: Seconds after a SIGKILL that was not asked for, until it is seen whether the container is being removed.
_REMOVAL_S = 0.4
#: Seconds after the end of a container within which an engine may learn that it ran out of memory.
_OOM_S = 2.0
_REMOVED = "its container was removed by somebody else"
#: Bytes of a flood after which it is looked at, and bytes of it that are copied in a second.
_FLOOD_BYTES = 2 << 20
_BYTES_PER_S = 32 << 20
#: Lines of the rest that are read when a job has ended.
_NEWEST_LINES = 100_000
_REST_IS_MISSING = "the container engine did not give the end of its log: some output is missing"
_NEVER_RAN = "the container engine did not start the container, and it is removed"
_FORGOTTEN = (
    "the container engine was killed while it started the container, and has forgotten it: its job may have run, "
    "and is ended"
)
_LOST_CODE = "the container engine was killed as the job ended, and has lost its exit code"
#: Exit code by which an engine says that it does not know it; a job may exit with it too.
_UNKNOWN = 255
_DISK_WAS_FULL = "the worker's disk was full while its output was copied: some may be missing"
#: Words with which the init processes of Docker (tini) and Podman (catatonit) say that they cannot run a command.
_INIT_FAILED = (b"[FATAL tini (", b"ERROR (catatonit:")
_EXIT_CODES = {
    125: "the program in the container says that it could not run its command",
    126: "a command in the container is not executable",
    127: "a command was not found in the container",
}


class Containers(Protocol):
    """What a handle needs of its runner."""

    log_file_bytes: int
    engine: Engine
    watch: EngineWatch
    talks: ContainerTalks

    @property
    def log_driver(self) -> str: ...

    def find_attempt(self, labels: Labels) -> str: ...

    def remove_unstarted(self, container: str) -> bool: ...

    def forget(self, handle: ContainerHandle) -> None: ...


class ContainerHandle:
    """One attempt's container. `events` gets Exited, once the log is whole, then Gone. Thread-safe."""

    def __init__(
        self,
        runner: Containers,
        key: str,
        labels: Labels,
        *,
        container: str = "",
        events: queue.SimpleQueue[Any],
        output: Path,
        warning: str = "",
        stopped_by: StopReason = "",
    ) -> None:
        """Without `container` (its id) it is found by its labels. `stopped_by`: why another process is ending it."""
        self.key = key
        self.container = container
        #: Pid of its main process; 0 until it is known to run.
        self.pid = 0
        self.events = events
        self.exited: Exited | None = None
        self._runner = runner
        self._labels = labels
        self._output = output
        self._warning = warning
        self._changed = threading.Condition()
        self._kill_at: float | None = None
        self._gone = False
        self._left = False
        self._stopped_by = stopped_by
        self._announcing: threading.Thread | None = None
        #: Order to start it, with the engine's answer; None for a container that another worker made.
        self._start: _Start | None = None
        self._is_awaited = False
        #: It has run, and may run still.
        self.has_run = False
        self._is_forgotten = False
        #: Writes a sentence for people; None until the record may be written.
        self._enter: Callable[[str, str], None] | None = None
        self._on_started: Callable[[int], None] = lambda _: None
        self._is_away_noted = False
        self._is_start_noted = False
        self._heard_at = 0.0
        self._cut: Cut | None = None
        self._state: dict[str, Any] = {}
        self._rest_is_missing = False
        self._disk_was_full = False
        self._init = True
        self._is_limited = False
        self._program, self._image = "", ""

    def follow(self) -> ContainerHandle:
        """Begin to copy its log and its talk, and to wait for its end."""
        self._runner.watch.add(self)
        threading.Thread(target=self._follow, name=f"container-{self.key}", daemon=True).start()
        return self

    @property
    def bounds_output(self) -> bool:
        return True

    def catch_up(self) -> None:
        """Do nothing: the engine sets the pace of the log."""

    def begin(self, *, program: str, image: str, deadline: float) -> ContainerHandle:
        """Have the engine start it before the deadline, and once only: a second order might start it again."""
        self._start = _Start(deadline)
        self._is_awaited = True
        threading.Thread(target=self._order_start, args=(program, image), name=f"start-{self.key}", daemon=True).start()
        return self.follow()

    def await_start(self, unwanted: Callable[[], bool]) -> None:
        """Block until it has run, the engine is silent, or `unwanted` is true. Raises StartError: it never runs.

        In all other cases it must be supervised: it runs, or may.
        """
        assert self._start is not None
        with self._changed:
            while not (self.has_run or self.exited or unwanted() or self._is_engine_silent()):
                if self._start.refusal is not None:
                    raise self._start.refusal
                self._changed.wait(0.05)
            self._is_awaited = False
            if self._start.refusal is not None and self.exited is None:
                raise self._start.refusal

    def report_to(self, enter: Callable[[str, str], None], on_started: Callable[[int], None]) -> None:
        """Call `on_started` with its pid when it is known to run, `enter` with a sentence when the engine is silent."""
        with self._changed:
            self._enter, self._on_started = enter, on_started
            has_run = self.has_run
        if has_run:
            self._note_start()

    @property
    def trouble(self) -> str:
        """Why its state is unknown; '' while the engine answers."""
        return "" if self._gone else self._runner.watch.trouble

    def announce(self, reason: str) -> None:
        """Show the job that it shall stop, before it is signalled if the engine is not slow."""
        with self._changed:
            if self._announcing is not None or not self.container:
                return
            self._announcing = threading.Thread(
                target=self._runner.talks.show_stop,
                args=(self.container, reason),
                name=f"announce-{self.key}",
                daemon=True,
            )
            self._announcing.start()

    def stop(self, *, grace_s: float) -> None:
        """Send the image's stop signal, and SIGKILL after the grace. A second call can only shorten the grace."""
        with self._changed:
            kill_at = time.monotonic() + grace_s
            is_first = self._kill_at is None
            self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)
            self._changed.notify_all()
        if is_first:
            threading.Thread(target=self._end, name=f"stop-{self.key}", daemon=True).start()

    def expired(self, kill_at: float) -> None:
        """End it too: its lease ran out, and the guard is ending it."""
        self._stopped_by = self._stopped_by or "lease"
        self.stop(grace_s=max(0.0, kill_at - boot_time_s()))

    def explain(self, outcome: Outcome) -> Outcome:
        """Add to the outcome the engine's knowledge of the end."""
        if outcome.state is RunState.FAILED:
            outcome = self._explained(outcome)
        if outcome.by_shutdown and self._never_ran:
            outcome = replace(outcome, unbegun=True)
        notes = [
            self._warning,
            _DISK_WAS_FULL if self._disk_was_full else "",
            _REST_IS_MISSING if self._rest_is_missing else "",
        ]
        return replace(outcome, message="\n".join(filter(None, [outcome.message, *notes])))

    def leave(self) -> None:
        """Stop supervising: the next worker copies its log from here on."""
        with self._changed:
            self._left = True
            self._changed.notify_all()
        self._runner.watch.drop(self)
        self._runner.talks.drop(self.container)

    def dispose(self) -> None:
        """Remove the container with its files, now or later."""
        self._runner.forget(self)

    # -- calls of the engine's watch ----------------------------------------------------------------------------------

    def note_away(self) -> None:
        """Say once, for people, that the engine does not answer."""
        with self._changed:
            self._changed.notify_all()
            if self._is_away_noted or self._enter is None or self._gone:
                return
            self._is_away_noted = True
            enter = self._enter
        what = "the container may run" if self.has_run or self._start is None else "it may start the container"
        _tell(enter, "engine", f"the container engine at {address()} does not answer; {what}")

    def note_answers(self) -> None:
        """Say that the engine answers again."""
        with self._changed:
            was_noted, self._is_away_noted = self._is_away_noted, False
            enter, cut = self._enter, self._cut
            silent_s = time.monotonic() - self._heard_at
        if was_noted and not self._gone:
            if self.has_run:
                self._note_start(again=True)
            elif enter is not None:
                _tell(enter, "start", "")
        if cut is not None and silent_s > _SILENT_S and self._has_ended():
            # Its log should be over too.
            cut()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _explained(self, outcome: Outcome) -> Outcome:
        if self._never_ran:
            is_engine = self._start is not None and self._start.refusal is None
            return replace(outcome, phase="start", engine_fault=is_engine, worker_fault=is_engine)
        error = self._state.get("Error") or ""
        text = outcome.reason
        if self._state.get("OOMKilled"):
            text = f"{outcome.reason}: out of memory (the container engine says so)"
        elif outcome.exit_code in (1, 126, 127) and self._init and (said := self._init_failed()):
            what = "is not executable" if b"ermission denied" in said else "was not found"
            text = f"command {self._program!r} {what} in image {self._image}"
            return replace(outcome, reason=text, message=text, phase="start")
        elif outcome.exit_code in _EXIT_CODES:
            text = f"{outcome.reason}: {_EXIT_CODES[outcome.exit_code]}"
        if error:
            text += f" ({error})"
        return replace(outcome, reason=text, message=text)

    def _init_failed(self) -> bytes:
        """The words of an init process that could not run its command; b'' when it could."""
        try:
            with self._output.open("rb") as output:
                said = output.read(500)
        except OSError:
            return b""
        return said if said.startswith(_INIT_FAILED) else b""

    def _order_start(self, program: str, image: str) -> None:
        assert self._start is not None
        refusal: StartError | None = None
        try:
            with clear_errors(image=image, program=program):
                self._runner.engine.worker().start(self.container)
        except EngineAwayError as error:
            log.warning("container.start_unanswered run=%s: it is looked for. %s", self.key, error)
        except StartError as error:
            refusal = error
        except Exception as error:
            log.exception("container.start_failed run=%s", self.key)
            refusal = StartError(f"{type(error).__name__} in the worker: {error}")
        with self._changed:
            self._start.is_answered = True
            self._start.error = refusal
            self._changed.notify_all()

    def _is_engine_silent(self) -> bool:
        since = self._runner.watch.away_since
        return since is not None and time.monotonic() - since > PATIENCE_S

    def _follow(self) -> None:
        copy: ContainerLog | None = None
        ended: Exited | None = None
        known_s: float | None = None
        while ended is None and not self._left:
            try:
                if not self.container:
                    self.container = self._runner.find_attempt(self._labels)
                state = self._inspect()
                if self._is_unstarted(state):
                    ended = self._look_at_unstarted()
                    continue
                self._note_running(state)
                if copy is None:
                    copy = ContainerLog(
                        self._output,
                        limit_bytes=self._runner.log_file_bytes,
                        mends_lines=self._runner.log_driver == "local",
                    )
                if state["Running"]:
                    self._copy(copy)
                    continue
                self._state = state
                known_s = known_s or time.monotonic()
                self._copy(copy, newest=_NEWEST_LINES)
                ended = self._end_of(self._why_unknown(state))
            except NoContainerError:
                ended = self._end_of_one_that_is_gone()
            except EngineAwayError as error:
                log.debug("container.engine_away run=%s: %s", self.key, error)
                if known_s is not None and time.monotonic() - known_s > _REST_S:
                    self._rest_is_missing = True
                    ended = self._end_of("")
                else:
                    self._pause(RETRY_S)
            except Exception:
                log.exception("container.log_failed run=%s", self.key)
                # Whatever is wrong with its log, its end must be reported.
                if self.has_run and self._has_ended():
                    ended = self._end_of(self._why_unknown(self._state))
                else:
                    self._pause(RETRY_S)
        if copy is not None:
            self._disk_was_full = copy.disk_was_full
            copy.close()
        if ended is not None and not self._left:
            self._tell_end(ended)

    def _tell_end(self, ended: Exited) -> None:
        self._runner.watch.drop(self)
        if self.has_run:
            self._runner.talks.finish(self.container)
        with self._changed:
            self._gone = True
            refused = self._start is not None and self._start.refusal is not None
            if refused and self._is_awaited:
                self._changed.notify_all()
                return  # whoever waits for its start gets the error
            self.exited = ended
            self._changed.notify_all()
        self.events.put(ended)
        self.events.put(Gone())

    def _end_of(self, problem: str) -> Exited:
        return Exited(None if problem else _status(self._state), self._stopped_by, problem)

    def _end_of_one_that_is_gone(self) -> Exited:
        """Its end when there is no such container any more, and so there never will be."""
        if self.has_run:
            return self._end_of(_REMOVED)
        asked = self._stopped_by or ("asked" if self._kill_at is not None else "")
        if self._start is not None:
            problem = _FORGOTTEN if self._is_forgotten else str(self._start.refusal or _NEVER_RAN)
            return Exited(None, asked, problem)
        problem = f"worker {self._labels.worker} died, and there is no container of it"
        return Exited(None, asked or "worker", problem)

    def _look_at_unstarted(self) -> Exited | None:
        """Look at a container that is made and does not run (yet); its end, or None when it must be looked at again.

        Once it is removed it can never start, also when the engine serves an order to start it that came before.
        Raises EngineAwayError, and NoContainerError when another process has removed it.
        """
        start = self._start
        refusal: StartError | None = None
        if start is not None:
            with self._changed:
                self._changed.wait_for(lambda: start.is_answered or self._kill_at is not None or self._left, 1.0)
                is_wanted = self._kill_at is None and not self._stopped_by
            if self._left:
                return None
            if is_wanted and time.monotonic() > start.deadline:
                refusal = StartError("the container did not start in time")
            elif is_wanted and not start.is_answered:
                return None
            elif is_wanted:
                # The answer may have come since the look.
                if not self._is_unstarted(self._inspect()):
                    return None
                refusal = start.error
        try:
            may_have_run = self._runner.remove_unstarted(self.container)
        except (EngineAwayError, NoContainerError):
            raise
        except StartError as error:
            # It runs after all, or is removed a little later.
            log.debug("container.not_removed run=%s: %s", self.key, error)
            self._pause(0.1)
            return None
        # An engine that has refused to start it has forgotten nothing.
        self._is_forgotten = may_have_run and not self._is_refused
        if start is not None and not self._is_forgotten:
            with self._changed:
                start.refusal = refusal
                self._changed.notify_all()
        return self._end_of_one_that_is_gone()

    def _is_unstarted(self, state: Mapping[str, Any]) -> bool:
        if state["Status"] == "created":
            return True
        # Some engines call a container exited that they could not start.
        return self._is_refused and not state["Running"] and not self.has_run

    @property
    def _is_refused(self) -> bool:
        """Whether the engine has answered that it cannot start the container."""
        return self._start is not None and self._start.error is not None

    @property
    def _never_ran(self) -> bool:
        """Whether this worker ordered the start, and knows that nothing of the job has run."""
        return self._start is not None and not self.has_run and not self._is_forgotten

    def _note_running(self, state: Mapping[str, Any]) -> None:
        if self.has_run:
            return
        try:
            self._runner.talks.add(self.container, self._output.with_name(TALK))
        except OSError as error:
            log.warning("talk.not_copied run=%s: %s", self.key, error)
        with self._changed:
            self.pid = state["Pid"]
            self.has_run = True
            self._changed.notify_all()
        self._note_start()

    def _note_start(self, *, again: bool = False) -> None:
        with self._changed:
            if self._enter is None or (self._is_start_noted and not again):
                return
            if self._start is None and not self.pid:
                return  # it had ended before this worker saw it: the note of its first worker stays
            self._is_start_noted = True
            on_started = self._on_started
        _tell(on_started, self.pid)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._left, seconds)

    def _has_ended(self) -> bool:
        try:
            state = self._inspect(settle_s=0)
        except NoContainerError:
            return True
        except LaunchError:
            return False
        if state["Running"] or state["Status"] == "created":
            return False
        self._state = state
        return True

    def _copy(self, copy: ContainerLog, *, newest: int | None = None) -> None:
        """Copy the log from the mark on, until the container ends or the engine closes the connection.

        `newest` is the largest number of lines that are read of the log as it is now: an engine that drops older output
        may close the connection of a reader that is behind.
        """
        since = copy.resume()
        options = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(newest is None), "tail": newest or "all"}
        if since:
            options["since"] = f"{since:.9f}"
        began, before = time.monotonic(), copy.copied
        silence_s = None if newest is None else _REST_S / 3
        path = f"/containers/{self.container}/logs"
        with (
            self._cutting(),
            self._runner.engine.stream(path, options, silence_s=silence_s, on_open=self._note_cut) as chunks,
        ):
            for message in messages_of(chunks):
                with self._changed:
                    if self._left:
                        return
                    copy.add(message)
                    self._heard_at = time.monotonic()
                if newest is None and copy.copied - before > _FLOOD_BYTES:
                    # A flood must neither take all of the processor, nor be read to its end when its job has ended.
                    took_s = time.monotonic() - began
                    time.sleep(max(0.0, _FLOOD_BYTES / _BYTES_PER_S - took_s))
                    if not self._inspect()["Running"]:
                        return
                    began, before = time.monotonic(), copy.copied
        copy.end()

    def _note_cut(self, cut: Cut) -> None:
        with self._changed:
            self._heard_at, self._cut = time.monotonic(), cut

    @contextlib.contextmanager
    def _cutting(self) -> Iterator[None]:
        """Let another thread end the reading in this block."""
        try:
            yield
        finally:
            with self._changed:
                self._cut = None

    def _inspect(self, *, settle_s: float = 0.02) -> dict[str, Any]:
        with clear_errors():
            found = self._runner.engine.api().inspect_container(self.container)
        self._program = found["Path"]
        self._image = found["Config"]["Image"]
        self._init = bool(found["HostConfig"].get("Init"))
        self._is_limited = bool(found["HostConfig"].get("Memory"))
        state: dict[str, Any] = found["State"]
        if state["Running"]:
            # The log may end a moment before the state says so.
            time.sleep(settle_s)
        return state

    def _why_unknown(self, state: Mapping[str, Any]) -> str:
        """Why the engine's exit code is not the job's; '' when it is."""
        if state["ExitCode"] == _UNKNOWN and not self._stopped_by:
            with contextlib.suppress(LaunchError):
                if not self._runner.engine.remembers_end(self.container):
                    return _LOST_CODE
        return self._was_removed(state)

    def _was_removed(self, state: Mapping[str, Any]) -> str:
        if self._stopped_by or state["ExitCode"] != 137 or state.get("OOMKilled"):
            return ""
        deadline = time.monotonic() + (_OOM_S if self._is_limited else _REMOVAL_S)
        while time.monotonic() < deadline:
            with contextlib.suppress(LaunchError):
                try:
                    now = self._inspect()
                    if now.get("Status") in ("removing", "dead"):
                        return _REMOVED
                    if now.get("OOMKilled"):
                        # An engine may learn it a moment after the end.
                        self._state = now
                        return ""
                except NoContainerError:
                    return _REMOVED
            time.sleep(0.05)
        return ""

    def _end(self) -> None:
        termed = False
        if self._announcing is not None:
            self._announcing.join(_ANNOUNCE_S)
        while True:
            with self._changed:
                if self._gone or self._left:
                    return
                kill_at = self._kill_at or 0.0
            left_s = kill_at - time.monotonic()
            pause_s = left_s
            try:
                if not self.container:
                    pause_s = RETRY_S  # it is being looked for
                elif left_s <= 0:
                    self._signal("SIGKILL")
                    pause_s = 0.1
                elif not termed:
                    self._signal(None)
                    termed = True
            except NoContainerError:
                return
            except EngineAwayError as error:
                log.debug("container.not_signalled run=%s: %s", self.key, error)
                pause_s = RETRY_S
            except LaunchError as error:
                log.warning("container.not_signalled run=%s: %s", self.key, error)
                pause_s = RETRY_S
            with self._changed:
                if self._kill_at == kill_at and not (self._gone or self._left):
                    self._changed.wait(max(0.01, pause_s))

    def _signal(self, name: str | None) -> None:
        """Send a signal (None: the image's stop signal), if the container still runs."""
        api = self._runner.engine.api()
        with clear_errors():
            found = api.inspect_container(self.container)
            if not found["State"]["Running"]:
                return
            if found["State"].get("Paused"):
                api.unpause(self.container)
            before, self._stopped_by = self._stopped_by, self._stopped_by or "asked"
            try:
                api.kill(self.container, name or found["Config"].get("StopSignal") or "SIGTERM")
            except docker.errors.APIError as error:
                self._stopped_by = before
                if "is not running" not in str(error.explanation):
                    raise


@dataclass
class _Start:
    """An order to start a container: given once."""

    #: Monotonic time after which the container must not start any more.
    deadline: float
    #: The order was answered, or its connection is closed: none is on its way, as far as this worker knows.
    is_answered: bool = False
    #: Error of the engine.
    error: StartError | None = None
    #: Why it never starts: it does not run, and is being removed.
    refusal: StartError | None = None


def _tell(whom: Callable[..., None], *words: Any) -> None:
    """Call it; a failure to inform people decides nothing about the job."""
    try:
        whom(*words)
    except Exception:
        log.exception("container.not_told")


def _status(state: Mapping[str, Any]) -> int:
    """The exit status as of a process: an engine gives 128 + n for signal n."""
    code = int(state["ExitCode"])
    return 128 - code if 128 < code <= 128 + 64 else code
