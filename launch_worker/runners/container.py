"""The container runner: jobs as containers of an engine, which outlive their worker on purpose."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import docker.errors
import docker.utils

from launch_worker.containers import LAUNCH_DIR, ContainerPlan
from launch_worker.errors import LaunchError
from launch_worker.runners.container_config import Files, Labels, host_config, tarball
from launch_worker.runners.container_handle import RETRY_S, ContainerHandle
from launch_worker.runners.container_talk import ContainerTalks
from launch_worker.runners.engine import Engine, clear_errors
from launch_worker.runners.errors import EngineAwayError, NoContainerError, StartError, StartGivenUpError
from launch_worker.runners.guard import boot_time_s
from launch_worker.runners.process import Lease, ProcessRunner

log = logging.getLogger("launch_worker.container")

#: How long a start waits for an engine that does not answer.
_PATIENCE_S = 5.0
#: How long one whose start failed is tried to be removed.
_GIVE_UP_S = 20.0


class ContainerRunner:
    """Makes the containers of one worker. Thread-safe. Its engine is connected to when first needed."""

    def __init__(self, guard: ProcessRunner, *, log_file_bytes: int = 64 << 20) -> None:
        #: What the file of a container's output keeps of it, at most about twice.
        self.log_file_bytes = log_file_bytes
        self.engine = Engine()
        self.talks = ContainerTalks(self.engine)
        self._guard = guard

    def start(
        self,
        plan: ContainerPlan,
        command: Sequence[str],
        *,
        key: str,
        labels: Labels,
        env: Mapping[str, str],
        cwd: str | None,
        gpus: Sequence[str],
        files: Files,
        output: Path,
        lease: Callable[[], Lease],
        events: queue.SimpleQueue[Any],
        timeout_s: float,
        enter: Callable[[str, str], None],
        before_start: Callable[[], None] = lambda: None,
    ) -> ContainerHandle:
        """Pull, make and start a container. Raises StartError, and StartGivenUpError when an event arrives meanwhile.

        `enter` is told each phase and a sentence for people. `timeout_s` is for all of it. `lease` tells
        the attempt's as it is when the container is about to start; `before_start` may block until it is time.
        """
        deadline = time.monotonic() + timeout_s
        self._reach(events)
        warning = self._pull(plan, events, deadline, timeout_s, enter)
        enter("start", "")
        self.remove_others(labels)
        program = (plan.entrypoint or tuple(command) or ("",))[0]
        with clear_errors(image=plan.image, program=program):
            container = self._create(plan, command, labels, env, cwd, gpus)
            handle = ContainerHandle(self, key, container, pid=0, events=events, output=output, warning=warning)
            try:
                if gpus:
                    self._check_gpus(container)
                self._put(container, files)
                before_start()
                until = lease()
                self._guard.watch(key, container, lease=until, on_expired=handle.expired)
                if time.monotonic() > deadline:
                    raise StartError(f"the container did not start within {timeout_s:g} s")
                if until is not None and boot_time_s() >= until[0]:
                    raise StartError("the worker could not renew the lease while the container was made")
                self.engine.api().start(container)
                handle.pid = self.engine.api().inspect_container(container)["State"]["Pid"]
            except BaseException:
                self._give_up(handle)
                raise
        return handle.follow()

    def adopt(
        self, container: str, *, key: str, lease: Lease, events: queue.SimpleQueue[Any], output: Path
    ) -> ContainerHandle:
        """Supervise a container that another worker started. Raises EngineAwayError, NoContainerError."""
        with clear_errors():
            found = self.engine.api().inspect_container(container)
        if found["State"]["Status"] == "created":
            # Its worker died before it had started it: nothing of the job has run.
            self.remove(container)
            raise NoContainerError(f"container {container[:12]} was never started")
        handle = ContainerHandle(self, key, container, pid=found["State"]["Pid"], events=events, output=output)
        self._guard.watch(key, container, lease=lease, on_expired=handle.expired)
        return handle.follow()

    def find(self, system: str, run_id: str | None = None) -> list[tuple[str, Labels]]:
        """The containers (id, labels) of one launch system, or of one of its runs. Raises EngineAwayError."""
        wanted = [f"launch.system={system}"] + ([f"launch.run={run_id}"] if run_id else [])
        with clear_errors():
            listed = self.engine.api().containers(all=True, filters={"label": wanted})
        found = [(entry["Id"], Labels.from_map(entry["Labels"] or {})) for entry in listed]
        return [(container, labels) for container, labels in found if labels is not None]

    def remove_others(self, labels: Labels) -> None:
        """End and remove what former attempts of the run left on this engine: only one may run.

        Raises StartError when a later attempt is here.
        """
        found = self.find(labels.system, labels.run)
        if any(theirs.token > labels.token for _, theirs in found):
            raise StartError("a later attempt of the run has its container here already")
        for container, theirs in found:
            if theirs.token < labels.token:
                log.warning("container.superseded run=%s attempt=%d: removed", theirs.run, theirs.attempt)
                self.remove(container)

    def remove(self, container: str) -> None:
        """Kill and remove it, with its anonymous volumes. Raises EngineAwayError."""
        try:
            with clear_errors():
                self.engine.api().remove_container(container, v=True, force=True)
        except NoContainerError:
            return
        except EngineAwayError:
            raise
        except StartError as error:
            if "already in progress" not in str(error):
                raise

    def forget(self, handle: ContainerHandle) -> bool:
        """Remove an ended container; the guard watches it until it is gone. False when it could not be removed."""
        try:
            self.remove(handle.container)
        except LaunchError as error:
            log.warning("container.not_removed run=%s: %s", handle.key, error)
            return False
        self._guard.unwatch(handle.key)
        return True

    def _give_up(self, handle: ContainerHandle) -> None:
        """Remove one whose start failed: the engine may have started it all the same, and a retry may follow."""
        give_up = time.monotonic() + _GIVE_UP_S
        while not self.forget(handle) and time.monotonic() < give_up:
            time.sleep(RETRY_S)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _reach(self, events: queue.SimpleQueue[Any]) -> None:
        """Wait for an engine that does not answer: it may just be restarted."""
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with clear_errors():
                    self.engine.api().ping()
                return
            except EngineAwayError:
                if not events.empty():
                    raise StartGivenUpError from None
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)

    def _pull(
        self,
        plan: ContainerPlan,
        events: queue.SimpleQueue[Any],
        deadline: float,
        timeout_s: float,
        enter: Callable[[str, str], None],
    ) -> str:
        """Have the image here, by the plan's policy. Returns a warning, or ''."""
        with clear_errors(image=plan.image):
            is_here = self._has(plan.image)
            if is_here and plan.pull != "always":
                return ""
            if plan.pull == "never":
                raise StartError(f"image {plan.image} is not on this worker, and shall not be pulled (pull: never)")
        enter("pull", f"pulling image {plan.image}")
        try:
            self._await_pull(plan.image, events, deadline, timeout_s)
        except StartGivenUpError:
            raise
        except StartError as error:
            why = str(error).removeprefix("the container engine refused: ")
            why = why if plan.image in why else f"image {plan.image} could not be pulled: {why}"
            if isinstance(error, EngineAwayError) or not is_here:
                raise type(error)(why) from None
            log.warning("container.stale_image: %s; the one that is here is used", why)
            return f"warning: {why}; the image that was on the worker was used"
        return ""

    def _await_pull(self, image: str, events: queue.SimpleQueue[Any], deadline: float, timeout_s: float) -> None:
        """Pull in a thread of its own: a registry may be silent for long, and cannot be hurried."""
        answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

        def pull() -> None:
            repository, tag = docker.utils.parse_repository_tag(image)
            try:
                with clear_errors(image=image):
                    for step in self.engine.api().pull(repository, tag=tag or "latest", stream=True, decode=True):
                        if "error" in step:
                            raise StartError(f"image {image} could not be pulled: {step['error']}")
                answers.put(None)
            except Exception as error:  # noqa: BLE001 (raised again below)
                answers.put(error)

        threading.Thread(target=pull, name=f"pull-{image}", daemon=True).start()
        while True:
            if not events.empty():
                raise StartGivenUpError
            if time.monotonic() > deadline:
                raise StartError(f"image {image} could not be pulled within {timeout_s:g} s")
            with contextlib.suppress(queue.Empty):
                problem = answers.get(timeout=0.1)
                if problem is not None:
                    raise problem
                return

    @cached_property
    def log_driver(self) -> str:
        """One whose log the engine gives back; json-file replaces bytes that are not UTF-8, but every engine has it."""
        with clear_errors():
            known = self.engine.api().info().get("Plugins", {}).get("Log") or ()
        return "local" if "local" in known else "json-file"

    def _has(self, image: str) -> bool:
        try:
            self.engine.api().inspect_image(image)
        except docker.errors.ImageNotFound:
            return False
        return True

    def _create(
        self,
        plan: ContainerPlan,
        command: Sequence[str],
        labels: Labels,
        env: Mapping[str, str],
        cwd: str | None,
        gpus: Sequence[str],
    ) -> str:
        api = self.engine.api()
        base = f"launch-{labels.run}-{labels.attempt}"
        for number in range(1, 100):
            name = base if number == 1 else f"{base}-{number}"
            try:
                made = api.create_container(
                    plan.image,
                    list(command) or None,
                    name=name,
                    labels=labels.as_map(),
                    environment=plan.env | dict(env),
                    entrypoint=list(plan.entrypoint) if plan.entrypoint else None,
                    working_dir=cwd,
                    user=plan.user or None,
                    host_config=api.create_host_config(**host_config(plan, gpus, log_driver=self.log_driver)),
                )
                return str(made["Id"])
            except docker.errors.APIError as error:
                # Somebody else's container has the name. Docker's status is 409, Podman's 500.
                if "is already in use" not in str(error.explanation):
                    raise
        raise StartError(f"every container name from {base} to {base}-99 is in use on this engine")

    def _check_gpus(self, container: str) -> None:
        """An engine that ignores what it does not know would start a job without its GPUs."""
        if not self.engine.api().inspect_container(container)["HostConfig"].get("DeviceRequests"):
            raise StartError("this container engine ignores requests for GPUs, as Podman's older ones do; use Docker")

    def _put(self, container: str, files: Files) -> None:
        with tarball(files) as archive:
            self.engine.api().put_archive(container, LAUNCH_DIR, archive)
