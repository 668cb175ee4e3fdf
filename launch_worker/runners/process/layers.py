"""Finds out which layers of confinement this machine has: each is tried once, and only when a queue asks for it."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from launch_worker.errors import StartGivenUpError
from launch_worker.queues.confinement import Demands
from launch_worker.runners.process import child
from launch_worker.runners.process.child import Bounds

#: Seconds that a trial of bubblewrap may take.
_TRIAL_S = 10.0
_WORDS = 200


class Layers:
    """What this machine can confine processes by. Thread-safe."""

    def __init__(self, *, path: str | None = None) -> None:
        """`path`: where programs are looked for; None for the PATH of this process."""
        self._path = path
        self._trying = threading.Lock()
        #: Reason why a sandbox cannot be made, by its name, for those that were tried; '' where it can.
        self._why_not: dict[str, str] = {}

    def why_not(self, demands: Demands) -> str:
        """Why this machine cannot confine a queue's processes so, as a clause; '' where it can."""
        whys = []
        if demands.sandbox:
            whys.append(self._why_no_sandbox(demands.sandbox))
        if demands.run_as:
            whys.append(self._why_no_accounts(demands))
        if demands.limits:
            whys.append(self._why_no_limits(demands))
        return " and ".join(filter(None, whys))

    def describe(self) -> list[str]:
        """The layers that were found, for people; those that nobody asked for are not among them."""
        return ["bubblewrap"] if "" in self._why_not.values() else []

    @cached_property
    def bubblewrap(self) -> str:
        """The path of bubblewrap; '' where it is not installed."""
        return shutil.which("bwrap", path=self._path) or ""

    def _why_no_sandbox(self, sandbox: str) -> str:
        with self._trying:
            if sandbox not in self._why_not:
                self._why_not[sandbox] = self._try(sandbox)
        return self._why_not[sandbox]

    def _try(self, sandbox: str) -> str:
        if not self.bubblewrap:
            return "bubblewrap (bwrap) is not installed on its machine"
        words = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--ro-bind", "/", "/", "--dev", "/dev"]
        words += ["--proc", "/proc", "--tmpfs", "/tmp", *(["--unshare-net"] if sandbox == "strict" else [])]
        try:
            ended = child.run(
                [self.bubblewrap, *words, "--", "true"],
                cwd=Path("/"),
                env={"PATH": os.environ.get("PATH", os.defpath)},
                check=_deadline(_TRIAL_S),
                bounds=Bounds(),
            )
        except (OSError, StartGivenUpError) as error:
            return f"bubblewrap cannot start on its machine ({error})"
        if ended.status == 0:
            return ""
        said = ended.said.decode(errors="replace").strip().rpartition("\n")[2].removeprefix("bwrap: ").replace(";", ",")
        return f"bubblewrap cannot start on its machine ({said[:_WORDS] or f'exit code {ended.status}'})"

    def _why_no_accounts(self, demands: Demands) -> str:
        return "this release starts no process as another user"

    def _why_no_limits(self, demands: Demands) -> str:
        return "this release has no limits for processes"


def _deadline(seconds: float) -> Callable[[], None]:
    """A check that raises once these seconds are over."""
    until = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > until:
            raise StartGivenUpError(f"it took more than {seconds:.0f} s")

    return check
