"""Says how the processes of a queue are confined: in which sandbox, as which user, within which limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model.units import format_size, parse_size

SANDBOXES = ("none", "private", "strict")
#: Value of `run_as` with which each run's process gets the account of its submitter.
SUBMITTER = "submitter"
#: Names of limits.
LIMITS = ("memory", "pids", "cpus")
#: Bytes of memory below which not even a shell starts.
_LEAST_MEMORY = 4 << 20
_MOST_PIDS = 1 << 22
_MOST_CPUS = 4096
#: Names as `useradd` takes them; digits alone are a uid.
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?")
_SUBMITTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,199}")
#: Folders that a sandbox cannot give: these are its own.
_OWN = ("/proc", "/dev", "/sys")


@dataclass(frozen=True)
class Limits:
    """What all processes of a job may take together; 0 for no limit."""

    #: Bytes.
    memory: int = 0
    #: Number of processes and threads.
    pids: int = 0
    #: Thousandths of cores.
    millicores: int = 0

    def __bool__(self) -> bool:
        return bool(self.memory or self.pids or self.millicores)

    def __str__(self) -> str:
        words = [f"memory {format_size(self.memory)}"] if self.memory else []
        words += [f"{self.pids} pids"] if self.pids else []
        words += [f"{self.millicores / 1000:.4g} cpus"] if self.millicores else []
        return ", ".join(words)


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Demands:
    """What an admin has set of how a queue's processes are confined."""

    #: private, strict, or '' for no sandbox.
    sandbox: str = ""
    #: Account of the worker's machine, `submitter`, or '' for the worker's own user.
    run_as: str = ""
    #: Accounts by submitter, where `run_as` is `submitter`.
    accounts: tuple[tuple[str, str], ...] = ()
    limits: Limits = NO_LIMITS
    #: Folders in which a job in a sandbox may write beside its own.
    writable: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.sandbox or self.run_as or self.limits)

    def __str__(self) -> str:
        words = [f"sandbox {self.sandbox}"] if self.sandbox else []
        words += [f"run_as {self.run_as}"] if self.run_as else []
        words += [f"limits ({self.limits})"] if self.limits else []
        return " and ".join(words)

    def account_of(self, submitter: str) -> str:
        """The account of a run's process; '' for the worker's own. Raises InputError for a submitter who has none."""
        if self.run_as != SUBMITTER:
            return self.run_as
        for name, account in self.accounts:
            if name == submitter:
                return account
        raise InputError(
            f"the queue runs jobs as the accounts of their submitters, and {submitter or 'who submitted this'} has "
            "none; ask an admin: launch-worker queues set QUEUE --account SUBMITTER=ACCOUNT"
        )


def checked_sandbox(word: Any) -> str:
    """The sandbox as it is kept: '' for none. Raises InputError."""
    if word and word not in SANDBOXES:
        raise InputError(f"sandbox {str(word)[:60]!r} is unknown; use one of: {', '.join(SANDBOXES)}")
    return "" if not word or word == "none" else str(word)


def checked_run_as(run_as: Any, accounts: Any) -> tuple[str, dict[str, str]]:
    """The account of a queue's processes, and those of submitters, as they are kept. Raises InputError."""
    if run_as and not (isinstance(run_as, str) and _ACCOUNT.fullmatch(run_as)):
        raise InputError(f"run_as {str(run_as)[:60]!r} is no name of an account; write a user's name, or {SUBMITTER}")
    if not isinstance(accounts, Mapping):
        raise InputError("accounts must be a map of submitters to accounts of the workers' machines")
    for name, account in accounts.items():
        if not (isinstance(name, str) and _SUBMITTER.fullmatch(name)):
            raise InputError(f"{str(name)[:60]!r} among the accounts is no name of a submitter")
        if not (isinstance(account, str) and _ACCOUNT.fullmatch(account)) or account == SUBMITTER:
            raise InputError(f"{str(account)[:60]!r}, the account of {name}, is no name of an account")
    if run_as == SUBMITTER and not accounts:
        raise InputError(
            f"run_as {SUBMITTER} needs the account of each submitter; give them with --account SUBMITTER=ACCOUNT"
        )
    if accounts and run_as != SUBMITTER:
        raise InputError(f"accounts of submitters are for run_as {SUBMITTER}; set that, or take them away")
    return run_as or "", dict(accounts)


def checked_limits(limits: Any) -> dict[str, Any]:
    """The limits as they are kept: memory in bytes. Raises InputError."""
    if not isinstance(limits, Mapping):
        raise InputError(f"limits must be a map of {', '.join(LIMITS)} to amounts")
    checked: dict[str, Any] = {}
    for name, value in limits.items():
        if name == "memory":
            checked[name] = parse_size(value, what="the limit of memory")
            if checked[name] < _LEAST_MEMORY:
                raise InputError(f"a limit of {value} of memory lets nothing start; give 4M or more")
        elif name == "pids":
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST_PIDS:
                raise InputError(f"the limit of pids must be a whole number from 1 to {_MOST_PIDS:,}, not {value!r}")
            checked[name] = value
        elif name == "cpus":
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not 0.01 <= value <= _MOST_CPUS:
                raise InputError(f"the limit of cpus must be a number from 0.01 to {_MOST_CPUS:,}, not {value!r}")
            checked[name] = value
        else:
            raise InputError(f"limit {str(name)[:60]!r} is unknown; use one of: {', '.join(LIMITS)}")
    return checked


def checked_writable(folders: Any) -> tuple[str, ...]:
    """The folders in which a job in a sandbox may write. Raises InputError."""
    if not isinstance(folders, (list, tuple)):
        raise InputError("writable must be a list of folders")
    for folder in folders:
        parts = folder.split("/") if isinstance(folder, str) else [""]
        if parts[0] or ".." in parts or "\0" in folder or not any(parts):
            raise InputError(f"{str(folder)[:60]!r} in writable is no absolute path of a folder below /")
        if any(f"{folder}/".startswith(f"{own}/") for own in _OWN):
            raise InputError(f"{folder[:60]!r} cannot be writable: {', '.join(_OWN)} are a sandbox's own")
    return tuple(dict.fromkeys(folder.rstrip("/") for folder in folders))


def left_without_use(settings: Mapping[str, Any], *, sandbox: str) -> tuple[str, ...]:
    """The settings that go with what they are for when a queue is changed so; `sandbox` is the one that it has.

    None in `settings` changes nothing.
    """
    run_as, asked = settings.get("run_as"), settings.get("sandbox")
    gone = ["accounts"] if run_as is not None and run_as != SUBMITTER else []
    return (*gone, "writable") if not checked_sandbox(sandbox if asked is None else asked) else tuple(gone)


def demands_of(
    *, sandbox: str, run_as: str, accounts: Mapping[str, str], limits: Mapping[str, Any], writable: tuple[str, ...]
) -> Demands:
    """The checked settings as one value."""
    return Demands(
        sandbox,
        run_as,
        tuple(sorted(accounts.items())),
        Limits(limits.get("memory", 0), limits.get("pids", 0), round(1000 * limits.get("cpus", 0))),
        writable,
    )
