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
from launch_worker.runners.process import child, landlock
from launch_worker.runners.process.child import Bounds

#: Seconds that a trial of bubblewrap may take.
_TRIAL_S = 10.0
_WORDS = 200


class Layers:
    """What this machine can confine processes by. Thread-safe."""

    def __init__(self, *, bwrap: str = "") -> None:
        """`bwrap`: the program bubblewrap; '' for the one on PATH."""
        self._named = bwrap
        self._trying = threading.Lock()
        #: Reason why bubblewrap cannot make a sandbox, by its name, for those that were tried; '' where it can.
        self._why_no_bubblewrap: dict[str, str] = {}

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
        if not self._why_no_bubblewrap:
            return []
        return ["bubblewrap"] if "" in self._why_no_bubblewrap.values() else ["landlock"] * self._has_landlock

    def bubblewrap(self, sandbox: str) -> str:
        """The path of bubblewrap where that makes this sandbox; '' where Landlock does."""
        return "" if self._why_not_by_bubblewrap(sandbox) else self._program

    @cached_property
    def _program(self) -> str:
        return shutil.which(self._named or "bwrap") or ""

    @cached_property
    def _has_landlock(self) -> bool:
        return landlock.abi() >= landlock.LEAST_ABI

    def _why_no_sandbox(self, sandbox: str) -> str:
        why = self._why_not_by_bubblewrap(sandbox)
        if not why or (sandbox == "private" and self._has_landlock):
            return ""
        if sandbox == "strict":
            return why
        return f"{why} and its kernel has no Landlock with scoped signals (Linux 6.12)"

    def _why_not_by_bubblewrap(self, sandbox: str) -> str:
        with self._trying:
            if sandbox not in self._why_no_bubblewrap:
                self._why_no_bubblewrap[sandbox] = self._try(sandbox)
        return self._why_no_bubblewrap[sandbox]

    def _try(self, sandbox: str) -> str:
        if not self._program:
            return f"LAUNCH_BWRAP={self._named} is no program" if self._named else "bubblewrap (bwrap) is not installed"
        words = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--ro-bind", "/", "/", "--dev", "/dev"]
        words += ["--proc", "/proc", "--tmpfs", "/tmp", *(["--unshare-net"] if sandbox == "strict" else [])]
        try:
            ended = child.run(
                [self._program, *words, "--", "true"],
                cwd=Path("/"),
                env={"PATH": os.environ.get("PATH", os.defpath)},
                check=_deadline(_TRIAL_S),
                bounds=Bounds(),
            )
        except (OSError, StartGivenUpError) as error:
            return f"bubblewrap cannot start there ({error})"
        if ended.status == 0:
            return ""
        said = ended.said.decode(errors="replace").strip().rpartition("\n")[2].removeprefix("bwrap: ").replace(";", ",")
        return f"bubblewrap cannot start there ({said[:_WORDS] or f'exit code {ended.status}'})"

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
