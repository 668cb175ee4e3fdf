"""Runs jobs as containers of an engine, which outlive their worker on purpose."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import docker.errors

from launch_worker.clock import boot_time_s
from launch_worker.errors import (
    EngineAwayError,
    LaunchError,
    LeaseLostError,
    NoContainerError,
    StartError,
    StartGivenUpError,
)
from launch_worker.model.container_options import LAUNCH_DIR
from launch_worker.model.units import format_duration
from launch_worker.runners.container.ask import ask
from launch_worker.runners.container.config import EngineFacts, Labels, NewContainer, host_config
from launch_worker.runners.container.engine import Engine, clear_errors
from launch_worker.runners.container.folders import keep
from launch_worker.runners.container.forgotten import end_forgotten
from launch_worker.runners.container.handle import ContainerHandle
from launch_worker.runners.container.images import Images
from launch_worker.runners.container.into import Files, archive_of
from launch_worker.runners.container.mirror import refresh
from launch_worker.runners.container.registry_auth import Credentials
from launch_worker.runners.container.removing import alone_with
from launch_worker.runners.container.start import PATIENCE_S
from launch_worker.runners.container.state import look_at
from launch_worker.runners.container.talk import ContainerTalks
from launch_worker.runners.container.watch import EngineWatch
from launch_worker.runners.job import LAPSED, Lease
from launch_worker.runners.kept_folder import KeptFolder
from launch_worker.runners.process.exits import Exit
from launch_worker.runners.process.runner import ProcessRunner

log = logging.getLogger("launch_worker.container")

#: Seconds for which the end of a run waits until its container is removed; then the removal goes on beside it.
_REMOVE_S = 5.0


class ContainerRunner:
    """Makes the containers of one worker. Thread-safe. Its engine is connected to when first needed."""

    def __init__(
        self,
        guard: ProcessRunner,
        *,
        log_file_bytes: int = 64 << 20,
        redis_url: str = "",
        registry_auth: Path | None = None,
        left_by: Callable[[Labels], AbstractContextManager[Sequence[KeptFolder]]] = lambda _: nullcontext(()),
    ) -> None:
        """`left_by`: gives the folders that are to be kept of a container whose attempt is over, until it is removed.

        `redis_url`: where an attempt is held whose container its guard can't end (`end_container`).

        `registry_auth`: the folder with the worker's registry credentials, as of `Credentials`.
        """
        #: Bytes of output that the file of a container keeps, at most about twice.
        self.log_file_bytes = log_file_bytes
        self.engine = Engine()
        self.watch = EngineWatch(self.engine)
        self.talks = ContainerTalks(self.engine)
        self._images = Images(self.engine, Credentials(registry_auth))
        self._guard = guard
        self._redis_url = redis_url
        self._left_by = left_by

    def start(
        self,
        new: NewContainer,
        *,
        key: str,
        output: Path,
        lease: Callable[[], Lease],
        events: queue.SimpleQueue[Any],
        timeout_s: float,
        enter: Callable[[str, str], None],
        before_start: Callable[[], None] = lambda: None,
        is_lapsed: Callable[[], bool] = lambda: False,
        keeps: Sequence[KeptFolder] = (),
    ) -> ContainerHandle:
        """Pull, make and start a container. Raises StartError, and StartGivenUpError when an event arrives meanwhile.

        Whichever it raises, the container has not run and never will. Once the engine got the order to start it and its
        answer is not known, the handle of one that may run is returned.
        `enter` gets each phase and a sentence for people. `timeout_s` is for pull and start together. `lease` returns
        the attempt's lease when the container is about to start, `is_lapsed` whether it must not start any more;
        `before_start` may block until it may start. `keeps`: the folders of which copies are kept when the container
        has ended.
        """
        deadline = time.monotonic() + timeout_s
        ask(self._reach, events)
        warning = self._images.get(new.plan, events, deadline, timeout_s, enter)
        enter("start", "")
        making = _Making(partial(self._make, new, deadline=deadline), self.remove)
        try:
            container = ask(making, events)
        except StartGivenUpError:
            threading.Thread(target=making.give_up, name=f"remove-{key}", daemon=True).start()
            raise
        handle = ContainerHandle(
            self,
            key,
            new.labels,
            container=container,
            events=events,
            output=output,
            warning=warning,
            kept_exit=partial(self._guard.kept_exit, new.labels.attempt_name),
            keeps=keeps,
        )
        try:
            before_start()
            until = lease()
            self._watch(handle, new.labels, until)
            if time.monotonic() > deadline:
                raise StartError(f"the container did not start within {format_duration(timeout_s)}")
            if is_lapsed() or (until is not None and boot_time_s() >= until[0]):
                raise LeaseLostError(LAPSED)
            handle.begin(program=new.program, image=new.plan.image, deadline=deadline)
            handle.await_start(lambda: not events.empty())
        except BaseException:
            self.forget(handle)
            raise
        return handle

    def adopt(
        self,
        labels: Labels,
        *,
        key: str,
        lease: Lease,
        events: queue.SimpleQueue[Any],
        output: Path,
        former_exit: Callable[[], Exit | None] = lambda: None,
        keeps: Sequence[KeptFolder] = (),
    ) -> ContainerHandle:
        """Supervise the container of an attempt that another worker began; asks the engine nothing yet.

        `labels` name the attempt's present owner; `former_exit` returns what the guard of the worker before has kept of
        it, now or when its end is seen: until it is unwatched there, that guard may end it. Where the attempt has no
        container, its end is Crashed.
        """

        def kept_exit() -> Exit | None:
            return former_exit() or self._guard.kept_exit(labels.attempt_name)

        handle = ContainerHandle(self, key, labels, events=events, output=output, kept_exit=kept_exit, keeps=keeps)
        self._watch(handle, labels, lease)
        return handle.follow()

    def _watch(self, handle: ContainerHandle, labels: Labels, lease: Lease) -> None:
        more = {
            "run": labels.run,
            "token": labels.token,
            "owner": labels.owner,
            "redis": self._redis_url,
            "attempt": labels.attempt_name,
            "folder": self._guard.folder,
        }
        self._guard.watch(handle.key, handle.container, lease=lease, on_expired=handle.expired, more=more)

    def find_attempt(self, labels: Labels) -> str:
        """Find the container of one attempt. Raises EngineAwayError, NoContainerError."""
        wanted = [f"launch.run={labels.run}", f"launch.token={labels.token}"]
        with clear_errors():
            listed = self.engine.api().containers(all=True, filters={"label": wanted})
        # Where an answer was lost there may be a second container, which was never started.
        listed.sort(key=lambda entry: entry["State"] == "created")
        for entry in listed:
            return str(entry["Id"])
        raise NoContainerError(f"there is no container of run {labels.run}, attempt {labels.attempt}")

    def find(self, system: str, run_id: str | None = None) -> list[tuple[str, Labels]]:
        """Find the containers (id, labels) of one launch system, or of one of its runs. Raises EngineAwayError."""
        wanted = [f"launch.system={system}"] + ([f"launch.run={run_id}"] if run_id else [])
        with clear_errors():
            listed = self.engine.api().containers(all=True, filters={"label": wanted})
        found = [(entry["Id"], Labels.from_map(entry["Labels"] or {})) for entry in listed]
        return [(container, labels) for container, labels in found if labels is not None]

    def remove_others(self, labels: Labels) -> None:
        """End and remove containers that earlier attempts of the run left on this engine: only one may run.

        Raises StartError when a later attempt is here.
        """
        found = self.find(labels.system, labels.run)
        if any(theirs.token > labels.token for _, theirs in found):
            raise StartError("a later attempt of the run has its container here already")
        for container, theirs in found:
            if theirs.token < labels.token:
                log.warning("container.superseded run=%s attempt=%d: removed", theirs.run, theirs.attempt)
                try:
                    self.remove_over(container, theirs)
                except EngineAwayError:
                    raise
                except StartError as error:
                    text = f"what attempt {theirs.attempt} left on this engine could not be removed: {error}"
                    raise StartError(text, worker_fault=True) from None

    def remove_over(self, container: str, labels: Labels) -> None:
        """Remove a container whose attempt is over, once that is kept which nobody has kept. Raises as `remove`."""
        with self._left_by(labels) as keeps:
            self.remove(container, keeps=keeps)

    def remove(self, container: str, *, has_run: bool = False, keeps: Sequence[KeptFolder] = ()) -> None:
        """Kill and remove a container, with its anonymous volumes, once copies of the folders `keeps` are made.

        `has_run`: the engine has said that it ran. Raises EngineAwayError, StartError: the container is still there.
        """
        try:
            with alone_with(container, self._shared_folder):
                self._remove(container, has_run=has_run, keeps=keeps)
        except NoContainerError:
            return
        except EngineAwayError:
            raise
        except StartError as error:
            if "already in progress" not in str(error):
                raise

    def _remove(self, container: str, *, has_run: bool, keeps: Sequence[KeptFolder]) -> None:
        if not has_run:
            end_forgotten(self.engine, container)
        if keeps:
            self._kill(container)
        for kept in keeps:
            try:
                if kept.is_mirror:
                    refresh(self.engine, container, kept, at_rest=True)
                else:
                    keep(self.engine, container, kept)
            except OSError as error:
                log.error("folder.not_kept container=%s: %s", container[:12], error)
        with clear_errors():
            self.engine.worker().remove_container(container, v=True, force=True)

    @property
    def _shared_folder(self) -> str:
        """The folder that the workers of this machine share; '' for none."""
        return os.path.dirname(os.path.dirname(self._guard.folder)) if self._guard.folder else ""

    def _kill(self, container: str) -> None:
        """Kill a container, and wait until it has ended. Raises EngineAwayError, NoContainerError, StartError."""
        while look_at(self.engine, container).is_running:
            with clear_errors():
                try:
                    self.engine.worker().kill(container)
                except docker.errors.APIError as error:
                    if "is not running" not in str(error.explanation):
                        raise
            time.sleep(0.05)

    def remove_unstarted(self, container: str) -> bool:
        """Remove a container that the engine calls created; whether its job may have run nevertheless.

        Raises EngineAwayError, NoContainerError, StartError: the container runs now, or could not be removed.
        """
        may_have_run = end_forgotten(self.engine, container)
        with clear_errors():
            self.engine.worker().remove_container(container, v=True)
        return may_have_run

    def forget(self, handle: ContainerHandle) -> None:
        """Remove a container that has ended, or never ran. An engine that hangs delays this by a few seconds only."""
        self._guard.unwatch(handle.key)
        if not handle.container:
            return

        def remove() -> None:
            try:
                self.remove(handle.container, has_run=handle.has_run)
            except LaunchError as error:
                log.warning("container.not_removed run=%s: it is removed later. %s", handle.key, error)

        thread = threading.Thread(target=remove, name=f"remove-{handle.key}", daemon=True)
        thread.start()
        deadline = time.monotonic() + _REMOVE_S
        while thread.is_alive() and time.monotonic() < deadline and self.watch.away_since is None:
            thread.join(0.05)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _reach(self) -> None:
        """Wait for an engine that does not answer: it may just be restarted. Raises EngineAwayError."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.engine.ping(timeout_s=PATIENCE_S)
                return
            except EngineAwayError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)

    @cached_property
    def facts(self) -> EngineFacts:
        """The facts about the engine, which is asked once."""
        with clear_errors():
            return EngineFacts.of(self.engine.api().info())

    @property
    def log_driver(self) -> str:
        """The driver of the engine's own log, which the engine gives back."""
        return self.facts.log_driver

    def _make(self, new: NewContainer, *, deadline: float, is_given_up: Callable[[], bool]) -> str:
        """Make a container without starting it. Raises StartError; one that is left then is removed later."""
        self.remove_others(new.labels)
        while True:
            try:
                with clear_errors(image=new.plan.image):
                    container = self._create(new)
                    break
            except EngineAwayError:
                # The container may have been made all the same, or be made later: it is found by its name.
                self._reach()
                if time.monotonic() > deadline or is_given_up():
                    raise
                time.sleep(0.2)
        try:
            if new.gpus:
                self._check_gpus(container)
            with clear_errors(image=new.plan.image):
                self._put(container, new.files)
        except BaseException:
            with contextlib.suppress(LaunchError):
                self.remove(container)
            raise
        return container

    def _create(self, new: NewContainer) -> str:
        api, plan = self.engine.worker(), new.plan
        base = f"launch-{new.labels.run}-{new.labels.attempt}"
        for number in range(1, 100):
            name = base if number == 1 else f"{base}-{number}"
            try:
                made = api.create_container(
                    plan.image,
                    list(new.command) or None,
                    name=name,
                    labels=new.labels.as_map(),
                    environment=new.environment(),
                    stop_signal=new.stop_signal or None,
                    entrypoint=list(plan.entrypoint) if plan.entrypoint else None,
                    working_dir=new.cwd,
                    user=plan.user or None,
                    host_config=api.create_host_config(**host_config(plan, new.gpus, self.facts)),
                )
                return str(made["Id"])
            except docker.errors.APIError as error:
                # Docker's status is 409, Podman's 500.
                if "is already in use" not in str(error.explanation):
                    raise
            if (ours := self._made_before(name, new.labels)) is not None:
                return ours
        raise StartError(f"every container name from {base} to {base}-99 is in use on this engine")

    def _made_before(self, name: str, labels: Labels) -> str | None:
        """The container of this name, if this attempt made it and got no answer; None when it is another attempt's.

        Raises EngineAwayError while it is being made.
        """
        with clear_errors():
            try:
                found = self.engine.api().inspect_container(name)
            except docker.errors.NotFound:
                raise EngineAwayError(f"the container engine is making a container that is called {name}") from None
        is_ours = Labels.from_map(found["Config"]["Labels"] or {}) == labels and found["State"]["Status"] == "created"
        return str(found["Id"]) if is_ours else None

    def _check_gpus(self, container: str) -> None:
        """Refuse an engine that ignores requests for GPUs, and would start the job without them."""
        with clear_errors():
            found = self.engine.api().inspect_container(container)
        if not found["HostConfig"].get("DeviceRequests"):
            raise StartError("this container engine ignores requests for GPUs, as Podman's older ones do; use Docker")

    def _put(self, container: str, files: Files) -> None:
        self.engine.worker().put_archive(container, LAUNCH_DIR, archive_of(files))


class _Making:
    """Makes a container, and removes it again when no thread waits for it any more."""

    def __init__(self, make: Callable[..., str], remove: Callable[[str], None]) -> None:
        self._make = make
        self._remove = remove
        self._lock = threading.Lock()
        self._is_given_up = False
        self._made = ""

    def __call__(self) -> str:
        made = self._make(is_given_up=lambda: self._is_given_up)
        with self._lock:
            self._made = made
            if not self._is_given_up:
                return made
        with contextlib.suppress(LaunchError):
            self._remove(made)
        raise StartGivenUpError

    def give_up(self) -> None:
        """Remove the container, now or once it is made."""
        with self._lock:
            self._is_given_up = True
            made = self._made
        if made:
            with contextlib.suppress(LaunchError):
                self._remove(made)
