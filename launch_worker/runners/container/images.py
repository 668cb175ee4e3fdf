"""Gets images onto an engine, by the policy of each run, with the credentials that an admin gave the worker."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from typing import Any

import docker.errors
import docker.utils

from launch_worker.errors import EngineAwayError, NoContainerError, StartError
from launch_worker.model.container_options import ContainerPlan
from launch_worker.model.units import format_duration
from launch_worker.runners.container.ask import ask
from launch_worker.runners.container.engine import REFUSED, Engine, clear_errors, is_of_the_machine
from launch_worker.runners.container.pulling import Pulling
from launch_worker.runners.container.registry_auth import Credentials, registry_of

log = logging.getLogger("launch_worker.container")


class Images:
    """The images of one engine. Thread-safe."""

    def __init__(self, engine: Engine, credentials: Credentials) -> None:
        self._engine = engine
        self._credentials = credentials

    def get(
        self,
        plan: ContainerPlan,
        events: queue.SimpleQueue[Any],
        deadline: float,
        timeout_s: float,
        enter: Callable[[str, str], None],
    ) -> str:
        """Get the plan's image by the plan's policy. Returns a warning, or ''.

        Raises StartError, and StartGivenUpError when an event arrives meanwhile.
        """
        is_here = ask(lambda: self._has(plan.image), events)
        if is_here and plan.pull != "always":
            return ""
        if plan.pull == "never":
            raise StartError(f"image {plan.image} is not on this worker, and shall not be pulled (pull: never)")
        enter("pull", f"pulling image {plan.image}")
        try:
            self._await_pull(plan, events, deadline, timeout_s, enter)
        except EngineAwayError:
            raise
        except StartError as error:
            if not is_here:
                raise
            log.warning("container.stale_image: %s; the one that is here is used", error)
            return f"warning: {error}; the image that was on the worker was used"
        return ""

    # -- inside ----------------------------------------------------------------------------------------------------

    def _has(self, image: str) -> bool:
        try:
            with clear_errors(image=image):
                try:
                    self._engine.api().inspect_image(image)
                except docker.errors.ImageNotFound:
                    return False
            return True
        except NoContainerError as error:
            raise StartError(str(error)) from None

    def _await_pull(
        self,
        plan: ContainerPlan,
        events: queue.SimpleQueue[Any],
        deadline: float,
        timeout_s: float,
        enter: Callable[[str, str], None],
    ) -> None:
        """Pull the image; a registry may be silent for minutes, and cannot be hurried."""
        pulling = Pulling(lambda text: enter("pull", f"pulling image {plan.image}: {text}"))
        try:
            ask(lambda: self._pull(plan, pulling), events, deadline=deadline)
        except TimeoutError:
            text = f"image {plan.image} could not be pulled within {format_duration(timeout_s)}"
            raise StartError(text) from None
        finally:
            # Whose pull is given up may hear of it for a while.
            pulling.end()

    def _pull(self, plan: ContainerPlan, pulling: Pulling) -> None:
        repository, tag = docker.utils.parse_repository_tag(plan.image)
        credential = self._credentials.find(registry_of(plan.image), name=plan.registry_auth)
        failed = f"image {plan.image} could not be pulled"
        try:
            with clear_errors(image=plan.image):
                # The login is given always: without one the SDK would look for its own.
                steps = self._engine.worker().pull(
                    repository, tag=tag or "latest", stream=True, decode=True, auth_config=credential.login
                )
                for step in steps:
                    if "error" in step:
                        raise StartError(str(step["error"]))
                    pulling.note(step)
        except EngineAwayError as error:
            raise EngineAwayError(f"{failed}: {error}") from None
        except StartError as error:
            why = credential.cut_from(str(error).removeprefix(REFUSED))
            raise StartError(f"{failed} {credential}: {why}", worker_fault=is_of_the_machine(why)) from None
