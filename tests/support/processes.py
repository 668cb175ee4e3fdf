"""Jobs of a process runner, for tests, and the guard that started them."""

from __future__ import annotations

import math
import os
import queue
import signal
from pathlib import Path
from typing import Any

from launch_worker.ids import new_run_id
from launch_worker.runners.job import TERM_ALL, Ending, Exited, Gone, Lease
from launch_worker.runners.process import tree
from launch_worker.runners.process.confinement import Confinement
from launch_worker.runners.process.handle import JobHandle
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.runners.process.tree import ProcessId
from tests.conftest import wait_until


def guard_of(runner: ProcessRunner) -> int:
    """The pid of the guard that this runner has started."""
    assert runner.guard.process is not None
    return runner.guard.process.pid


def pid_in(path: Path) -> ProcessId:
    """The process that wrote its pid into this file."""
    wait_until(lambda: path.exists() and path.read_text().strip(), what=f"{path.name} is written")
    found = tree.look_up(int(path.read_text()))
    assert found is not None
    return found.id


class Jobs:
    """Starts the jobs of one test through a process runner."""

    def __init__(self, folder: Path, *, confinement: Confinement | None = None) -> None:
        self.folder = folder
        self.confinement = confinement
        self.runner = ProcessRunner().open()
        self.envs: dict[str, dict[str, str]] = {}

    def start(
        self,
        *argv: str,
        cwd: Path | None = None,
        lease: Lease = None,
        grace_s: float = 10.0,
        env: dict[str, str] | None = None,
        timeout_s: float = 20.0,
        start_by: float = math.inf,
        ending: Ending = TERM_ALL,
    ) -> JobHandle:
        key = new_run_id()
        own = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": key, "LAUNCH_TOKEN": "1", "HERE": str(self.folder)}
        self.envs[key] = own | (env or {})
        return self.runner.start(
            argv,
            key=key,
            env=self.envs[key],
            cwd=cwd or self.folder,
            log_path=self.folder / f"{key}.log",
            grace_s=grace_s,
            lease=lease,
            events=queue.SimpleQueue(),
            timeout_s=timeout_s,
            start_by=start_by,
            ending=ending,
            confinement=self.confinement,
        )

    def shell(self, script: str, **options: Any) -> JobHandle:
        return self.start("bash", "-c", script, **options)

    def log(self, handle: JobHandle) -> bytes:
        return (self.folder / f"{handle.key}.log").read_bytes()

    def members(self, handle: JobHandle) -> list[ProcessId]:
        """The living processes of the job, as far as its session or environment tells."""
        return tree.members(handle.main, marked=tree.marks(self.envs[handle.key]), spare=[guard_of(self.runner)])

    def wait_for(self, name: str) -> None:
        wait_until((self.folder / name).exists, what=f"{name} is made")

    def kill_guard(self) -> None:
        pid = guard_of(self.runner)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: guard_of(self.runner) != pid, what="another guard is there")

    def close(self) -> None:
        self.runner.close()
        for env in self.envs.values():
            assert wait_until(lambda env=env: not tree.members(None, marked=tree.marks(env)), what="all jobs ended")  # type: ignore[misc]


def end_of(handle: JobHandle, *, timeout_s: float = 20.0) -> Exited:
    """Wait for both events, in their order."""
    exited = handle.events.get(timeout=timeout_s)
    assert isinstance(exited, Exited)
    assert handle.events.get(timeout=timeout_s) == Gone()
    return exited
