"""A started container: its log copied, its end waited for, stopped when asked, explained when it failed."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker.errors

from launch_worker.environment import TALK
from launch_worker.errors import LaunchError
from launch_worker.retry import Outcome
from launch_worker.runners.container_log import ContainerLog, messages_of
from launch_worker.runners.engine import clear_errors
from launch_worker.runners.errors import EngineAwayError, NoContainerError
from launch_worker.runners.process import Exited, Gone
from launch_worker.states import RunState

if TYPE_CHECKING:
    from launch_worker.runners.container import ContainerRunner

log = logging.getLogger("launch_worker.container")

#: Before an engine that did not answer is asked again.
RETRY_S = 1.0
#: How long a signal waits for the word that announces it.
_ANNOUNCE_S = 1.0
#: After a SIGKILL that nobody asked for: is the container being removed, or was only its process killed?
_REMOVAL_S = 0.4
#: An engine may hear so long after the end of a container that it ran out of its memory.
_OOM_S = 2.0
_REMOVED = "its container was removed by somebody else"
#: A flood is looked at after each so many bytes, and copied at about this rate.
_FLOOD_BYTES = 2 << 20
_BYTES_PER_S = 32 << 20
#: What is read of the rest when a job has ended.
_NEWEST_LINES = 100_000
_DISK_WAS_FULL = "the worker's disk was full while its output was copied: some may be missing"
#: How the init processes of Docker (tini) and Podman (catatonit) begin to say that they cannot run their command.
_INIT_FAILED = (b"[FATAL tini (", b"ERROR (catatonit:")
_EXIT_CODES = {
    125: "the program in the container says that it could not run its command",
    126: "a command in the container is not executable",
    127: "a command was not found in the container",
}


class ContainerHandle:
    """A started container. Its events arrive in `events`: Exited, once its log is whole, then Gone."""

    def __init__(
        self,
        runner: ContainerRunner,
        key: str,
        container: str,
        *,
        pid: int,
        events: queue.SimpleQueue[Any],
        output: Path,
        warning: str = "",
    ) -> None:
        self.key = key
        self.container = container
        self.pid = pid
        self.events = events
        self.exited: Exited | None = None
        self._runner = runner
        self._output = output
        self._warning = warning
        self._changed = threading.Condition()
        self._kill_at: float | None = None
        self._gone = False
        self._left = False
        self._stopped_by = ""
        self._announcing: threading.Thread | None = None
        self._state: dict[str, Any] = {}
        self._disk_was_full = False
        self._init = True
        self._is_limited = False
        self._program, self._image = "", ""

    def follow(self) -> ContainerHandle:
        """Begin to copy its log and what it tells, and to wait for its end."""
        try:
            self._runner.talks.add(self.container, self._output.with_name(TALK))
        except OSError as error:
            log.warning("talk.not_copied run=%s: %s", self.key, error)
        threading.Thread(target=self._follow, name=f"container-{self.key}", daemon=True).start()
        return self

    @property
    def bounds_output(self) -> bool:
        return True

    def catch_up(self) -> None:
        """Its log is copied by the engine's own pace."""

    def announce(self, reason: str) -> None:
        """Show the job that it shall stop; before it is signalled, if the engine is not slow."""
        with self._changed:
            if self._announcing is not None:
                return
            self._announcing = threading.Thread(
                target=self._runner.talks.show_stop,
                args=(self.container, reason),
                name=f"announce-{self.key}",
                daemon=True,
            )
            self._announcing.start()

    def stop(self, *, grace_s: float) -> None:
        """The image's stop signal, SIGKILL after the grace, until Gone. A second call can only shorten it."""
        with self._changed:
            kill_at = time.monotonic() + grace_s
            is_first = self._kill_at is None
            self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)
            self._changed.notify_all()
        if is_first:
            threading.Thread(target=self._end, name=f"stop-{self.key}", daemon=True).start()

    def expired(self) -> None:
        """The guard ends it, for its lease ran out."""
        self._stopped_by = self._stopped_by or "lease"

    def explain(self, outcome: Outcome) -> Outcome:
        """What the engine knows about an end that the exit code alone does not tell."""
        if outcome.state is RunState.FAILED:
            outcome = self._explained(outcome)
        notes = [self._warning, _DISK_WAS_FULL if self._disk_was_full else ""]
        return replace(outcome, message="\n".join(filter(None, [outcome.message, *notes])))

    def leave(self) -> None:
        """Supervise it no more: the next worker copies its log from here on."""
        with self._changed:
            self._left = True
        self._runner.talks.drop(self.container)

    def dispose(self) -> None:
        """Remove the container and what it wrote. One that cannot be removed now is later."""
        self._runner.forget(self)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _explained(self, outcome: Outcome) -> Outcome:
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
        """What the init process said when it could not run its command; b'' when it could."""
        try:
            with self._output.open("rb") as output:
                said = output.read(500)
        except OSError:
            return b""
        return said if said.startswith(_INIT_FAILED) else b""

    def _follow(self) -> None:
        copy: ContainerLog | None = None
        problem = ""
        while not self._left:
            try:
                copy = copy or ContainerLog(
                    self._output,
                    limit_bytes=self._runner.log_file_bytes,
                    mends_lines=self._runner.log_driver == "local",
                )
                self._copy(copy)
                state = self._inspect()
                if not state["Running"]:
                    self._copy(copy, newest=_NEWEST_LINES)
                    self._state = state
                    problem = self._was_removed(state)
                    break
            except NoContainerError:
                problem = _REMOVED
                break
            except EngineAwayError as error:
                log.warning("container.engine_away run=%s: it is looked after when that is back. %s", self.key, error)
                time.sleep(RETRY_S)
            except Exception:
                log.exception("container.log_failed run=%s", self.key)
                # Whatever is wrong with its log: how it ended must still be told.
                if self._has_ended():
                    problem = self._was_removed(self._state)
                    break
                time.sleep(RETRY_S)
        if copy is not None:
            self._disk_was_full = copy.disk_was_full
            copy.close()
        if self._left:
            return
        self._runner.talks.finish(self.container)
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        self.exited = Exited(None if problem else _status(self._state), self._stopped_by, problem)
        self.events.put(self.exited)
        self.events.put(Gone())

    def _has_ended(self) -> bool:
        with contextlib.suppress(LaunchError):
            state = self._inspect()
            if not state["Running"]:
                self._state = state
                return True
        return False

    def _copy(self, copy: ContainerLog, *, newest: int | None = None) -> None:
        """Copy what there is and what comes, until the container ends or the engine hangs up.

        With `newest`, of what there is now so many lines at most: an engine that drops older output may hang up on
        those who are behind.
        """
        since = copy.resume()
        options = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(newest is None), "tail": newest or "all"}
        if since:
            options["since"] = f"{since:.9f}"
        began, before = time.monotonic(), copy.copied
        with self._runner.engine.stream(f"/containers/{self.container}/logs", options) as chunks:
            for message in messages_of(chunks):
                with self._changed:
                    if self._left:
                        return
                    copy.add(message)
                if newest is None and copy.copied - before > _FLOOD_BYTES:
                    # A flood must neither take all of the processor, nor be read to its end when its job has ended.
                    took_s = time.monotonic() - began
                    time.sleep(max(0.0, _FLOOD_BYTES / _BYTES_PER_S - took_s))
                    if not self._inspect()["Running"]:
                        return
                    began, before = time.monotonic(), copy.copied
        copy.end()

    def _inspect(self) -> dict[str, Any]:
        with clear_errors():
            found = self._runner.engine.api().inspect_container(self.container)
        self._program = " ".join([found["Path"]])
        self._image = found["Config"]["Image"]
        self._init = bool(found["HostConfig"].get("Init"))
        self._is_limited = bool(found["HostConfig"].get("Memory"))
        state: dict[str, Any] = found["State"]
        if state["Running"]:
            # The log may end a moment before the state says so.
            time.sleep(0.02)
        return state

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
                        # An engine may hear of it a moment after the end.
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
                if self._gone:
                    return
                kill_at = self._kill_at or 0.0
            left_s = kill_at - time.monotonic()
            pause_s = left_s
            try:
                if left_s <= 0:
                    self._signal("SIGKILL")
                    pause_s = 0.1
                elif not termed:
                    self._signal(None)
                    termed = True
            except NoContainerError:
                return
            except LaunchError as error:
                log.warning("container.not_signalled run=%s: %s", self.key, error)
                pause_s = RETRY_S
            with self._changed:
                self._changed.wait_for(lambda at=kill_at: self._gone or self._kill_at != at, max(0.01, pause_s))  # type: ignore[misc]

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


def _status(state: Mapping[str, Any]) -> int:
    """The exit status as of a process: an engine tells signal n as 128 + n."""
    code = int(state["ExitCode"])
    return 128 - code if 128 < code <= 128 + 64 else code
