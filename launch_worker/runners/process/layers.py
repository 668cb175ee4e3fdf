"""Finds out which layers of confinement this machine has: each is tried once, and only when a queue asks for it."""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from launch_worker.errors import InputError, StartGivenUpError
from launch_worker.queues.confinement import SUBMITTER, Demands, Limits
from launch_worker.runners.process import child, landlock
from launch_worker.runners.process.accounts import Account, find_account, why_no_other_user
from launch_worker.runners.process.child import Bounds
from launch_worker.runners.process.control_groups import hierarchies, make_group, remove_soon
from launch_worker.runners.process.hidden import Hidden

#: Seconds that a trial of bubblewrap may take.
_TRIAL_S = 10.0
_WORDS = 200
#: Seconds until accounts, and limits that could not be set, are looked at again: an admin may have mended it meanwhile.
_AGAIN_S = 30.0


class Layers:
    """What this machine can confine processes by. Thread-safe."""

    def __init__(self, work_dir: Path, *, bwrap: str = "", hidden: Hidden | None = None) -> None:
        """`bwrap`: the program bubblewrap; '' for the one on PATH. `hidden`: `work_dir` and what else is."""
        self._work_dir = work_dir
        self.hidden = hidden or Hidden((os.path.realpath(work_dir),))
        self._named = bwrap
        #: Monotonic time until which the answer holds, and the answer, by what was asked for.
        self._accounts: dict[Demands, tuple[float, str]] = {}
        self._limits: dict[Limits, tuple[float, str]] = {}
        self._trying = threading.Lock()
        #: Reason why bubblewrap cannot make a sandbox, by its name and the uid of another user, for those that were
        #: tried; '' where it can.
        self._why_no_bubblewrap: dict[tuple[str, int | None], str] = {}

    def why_not(self, demands: Demands) -> str:
        """Why this machine cannot confine a queue's processes so, as a clause; '' where it can."""
        whys = []
        if demands.sandbox:
            self.hidden.make()
        if demands.sandbox and (why := self.hidden.why_not_beside(demands.writable)):
            whys.append(why)
        elif demands.sandbox and not demands.run_as:
            whys.append(self._why_no_sandbox(demands.sandbox))
        if demands.run_as:
            whys.append(self._why_no_accounts(demands))
        if demands.limits:
            whys.append(self._why_no_limits(demands.limits))
        return " and ".join(filter(None, whys))

    def describe(self) -> list[str]:
        """The layers that were found, for people; those that nobody asked for are not among them."""
        limits = any(not why for _, why in list(self._limits.values()))
        accounts = any(not why for _, why in list(self._accounts.values()))
        where = hierarchies()
        versions = [*(["v2"] if where.v2 else []), *(["v1"] if where.v1 else [])] if limits else []
        found = []
        if self._why_no_bubblewrap:
            found = ["bubblewrap"] if "" in self._why_no_bubblewrap.values() else ["landlock"] * self._has_landlock
        found += [f"limits (cgroup {' and '.join(versions)})"] if limits else []
        return found + (["run_as"] if accounts else [])

    def bubblewrap(self, sandbox: str, account: Account | None = None) -> str:
        """The path of bubblewrap where that makes this sandbox for jobs of an account; '' where Landlock does."""
        return "" if self._why_not_by_bubblewrap(sandbox, account) else self._program

    @cached_property
    def _program(self) -> str:
        return shutil.which(self._named or "bwrap") or ""

    @cached_property
    def _has_landlock(self) -> bool:
        return landlock.abi() >= landlock.LEAST_ABI

    def _why_no_sandbox(self, sandbox: str, account: Account | None = None) -> str:
        why = self._why_not_by_bubblewrap(sandbox, account)
        if not why or (sandbox == "private" and self._has_landlock):
            return ""
        if sandbox == "strict":
            return why
        return f"{why} and its kernel has no Landlock with scoped signals (Linux 6.12)"

    def _why_not_by_bubblewrap(self, sandbox: str, account: Account | None) -> str:
        key = sandbox, None if account is None else account.uid
        with self._trying:
            if key not in self._why_no_bubblewrap:
                self._why_no_bubblewrap[key] = self._try(sandbox, account)
        return self._why_no_bubblewrap[key]

    def _try(self, sandbox: str, account: Account | None) -> str:
        if not self._program:
            return f"LAUNCH_BWRAP={self._named} is no program" if self._named else "bubblewrap (bwrap) is not installed"
        words = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--ro-bind", "/", "/", "--dev", "/dev"]
        words += ["--proc", "/proc", "--tmpfs", "/tmp", *(["--unshare-net"] if sandbox == "strict" else [])]
        try:
            ended = child.run(
                [*_as(account), self._program, *words, "--", "true"],
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
        until, why = self._accounts.get(demands, (0.0, ""))
        if time.monotonic() >= until:
            why = why_no_other_user() or self._why_not_as(demands)
            self._accounts[demands] = (time.monotonic() + _AGAIN_S, why)
        return why

    def _why_not_as(self, demands: Demands) -> str:
        names = [account for _, account in demands.accounts] if demands.run_as == SUBMITTER else [demands.run_as]
        for name in dict.fromkeys(names):
            try:
                account = find_account(name)
                why = _why_not_in(self._work_dir, account)
                if demands.sandbox and not why:
                    why = self._why_no_sandbox(demands.sandbox, account)
            except InputError as error:
                why = str(error)
            if why:
                return why
        return ""

    def _why_no_limits(self, limits: Limits) -> str:
        until, why = self._limits.get(limits, (0.0, ""))
        if time.monotonic() >= until:
            why = _try_limits(limits)
            self._limits[limits] = (time.monotonic() + _AGAIN_S if why else math.inf, why)
        return why


def _try_limits(limits: Limits) -> str:
    """Make a group with these limits, and delete it; returns why that did not go, as a clause."""
    wanted = asdict(limits)
    why = hierarchies().why_not(wanted)
    if why:
        return why
    try:
        group = make_group(f"probe.{os.getpid()}.{time.monotonic_ns()}", wanted)
    except OSError as error:
        return f"no control group can be made: {error}"
    if group is not None:
        remove_soon([group])
    return ""


def _deadline(seconds: float) -> Callable[[], None]:
    """A check that raises once these seconds are over."""
    until = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > until:
            raise StartGivenUpError(f"it took more than {seconds:.0f} s")

    return check


def _as(account: Account | None) -> list[str]:
    """The words that start a command as an account, without a way to other rights, as its jobs are started."""
    if account is None:
        return []
    user = ["--reuid", str(account.uid), "--regid", str(account.gid), "--groups", ",".join(map(str, account.groups))]
    return ["setpriv", *user, "--no-new-privs", "--"]


def _why_not_in(work_dir: Path, account: Account) -> str:
    """Why an account cannot come to its jobs' folders below this one; '' where it can."""
    barred = account.barred_from(work_dir)
    if barred is None:
        return ""
    return f"account {account.name!r} may not enter {barred}, below which LAUNCH_WORK_DIR is"
