"""Defines what an engine says of a container when it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launch_worker.runners.container.engine import Engine, clear_errors
from launch_worker.runners.container.log import nanoseconds


@dataclass(frozen=True)
class ContainerState:
    """One answer of the engine about one container."""

    #: Engine's word for the state: created, running, exited, removing, dead and others.
    status: str
    is_running: bool
    is_paused: bool
    #: Pid of the main process; 0 while it does not run.
    pid: int
    exit_code: int
    is_out_of_memory: bool
    #: Engine's own words about a failure; '' for none.
    error: str
    #: Program that the container runs, and the name of its image.
    program: str
    image: str
    #: The engine's init process starts the program.
    has_init: bool
    has_memory_limit: bool
    #: Name of the image's stop signal.
    stop_signal: str
    #: Time of its end, nanoseconds since 1970 by the clock of the engine's machine; 0 before.
    finished_ns: int = 0

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> ContainerState:
        """Read the engine's answer."""
        state, config, host = found["State"], found["Config"], found["HostConfig"]
        return cls(
            status=state["Status"],
            is_running=bool(state["Running"]),
            is_paused=bool(state.get("Paused")),
            pid=state["Pid"],
            exit_code=int(state["ExitCode"]),
            is_out_of_memory=bool(state.get("OOMKilled")),
            error=state.get("Error") or "",
            program=found["Path"],
            image=config["Image"],
            has_init=bool(host.get("Init")),
            has_memory_limit=bool(host.get("Memory")),
            stop_signal=config.get("StopSignal") or "SIGTERM",
            finished_ns=max(0, nanoseconds(str(state.get("FinishedAt") or "").encode())),
        )

    @property
    def exit_status(self) -> int:
        """The exit status as of a process: an engine gives 128 + n for signal n."""
        return 128 - self.exit_code if 128 < self.exit_code <= 128 + 64 else self.exit_code


def look_at(engine: Engine, container: str) -> ContainerState:
    """Ask the engine about a container. Raises EngineAwayError, NoContainerError, StartError."""
    with clear_errors():
        return ContainerState.of(engine.api().inspect_container(container))
