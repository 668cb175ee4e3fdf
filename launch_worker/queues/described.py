"""Describes a queue and a pool as they are at one time, and names their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from launch_worker.queues.pool import PoolConfig
    from launch_worker.queues.queue import QueueConfig

#: Rank in its pool of a queue that was given none.
USUAL_RANK = 1000
MAX_RANK = 1_000_000


@dataclass(frozen=True)
class Queue:
    """A queue at the time it was read."""

    name: str
    #: Most runs of it at once; None for no limit.
    limit: int | None
    paused: bool
    #: Name of its pool, '' for none, and its place there, 1 the first.
    pool: str
    rank: int | None
    #: Numbers of runs that are ready, and of runs that wait for their time or for other runs.
    waiting: int
    later: int
    running: int
    #: Number of live workers that consume it.
    workers: int
    #: The JSON of `launch_worker.queues.queue.QueueConfig`, '' for none.
    config_json: str = ""
    #: Reason why its configuration cannot be read; runs are refused meanwhile. '' for none.
    problem: str = ""
    #: Highest priority of each user group that may submit through a server, `*` for everybody; empty: all may.
    admits: Mapping[str, str] = field(default_factory=dict)
    #: Settings that an admin set, by name.
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> QueueConfig:
        """The configuration. Raises InputError when it is damaged."""
        return read_queue(self.config_json)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "waiting": self.waiting,
            "later": self.later,
            "running": self.running,
            "limit": self.limit,
            "paused": self.paused,
            "pool": self.pool or None,
            "rank": self.rank,
            "workers": self.workers,
            "resource": self.settings.get("resource"),
            "description": self.settings.get("description"),
            "admits": dict(self.admits),
            "container": self.settings.get("container", {}),
            "defaults": self.settings.get("defaults", {}),
            "variables": self.settings.get("variables", {}),
            "macro_env": self.settings.get("macro_env", []),
            "allow_env": self.settings.get("allow_env", []),
            "allow_uris": self.settings.get("allow_uris", []),
            "priorities": self.settings.get("priorities", True),
            "sandbox": self.settings.get("sandbox"),
            "writable": self.settings.get("writable", []),
            "run_as": self.settings.get("run_as"),
            "accounts": self.settings.get("accounts", {}),
            "limits": self.settings.get("limits", {}),
            "sealing_key": self.settings.get("sealing_key"),
            "signers": self.settings.get("signers", []),
            "problem": self.problem or None,
        }


@dataclass(frozen=True)
class Pool:
    """A pool at the time it was read."""

    name: str
    limit: int | None
    paused: bool
    #: Names of its queues, in the order in which they are served.
    queues: tuple[str, ...]
    waiting: int
    running: int
    config_json: str = ""
    problem: str = ""
    admits: Mapping[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> PoolConfig:
        """The configuration. Raises InputError when it is damaged."""
        return read_pool(self.config_json)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "waiting": self.waiting,
            "running": self.running,
            "limit": self.limit,
            "paused": self.paused,
            "queues": list(self.queues),
            "description": self.settings.get("description"),
            "admits": dict(self.admits),
            "defaults": self.settings.get("defaults", {}),
            "problem": self.problem or None,
        }


class PoolSettings(TypedDict, total=False):
    """The settings of a pool. None takes a setting away; those of `defaults` and `admits` change one by one."""

    #: Most runs at once of all its queues.
    limit: int | None
    #: Defaults of runs, behind those of their queue: options of `launch-submit` by name.
    defaults: Mapping[str, Any] | None
    description: str | None
    #: Highest priority of each user group that may submit through a server, `*` for everybody; None takes one away.
    admits: Mapping[str, str | None] | None


class QueueSettings(PoolSettings, total=False):
    """The settings of a queue. None takes a setting away.

    Those of `container`, `defaults`, `accounts` and `limits` change one by one. `container` and `macro_env` are trusted
    by workers: they may reach their machines.
    """

    pool: str | None
    #: Its place in the pool, 1 the first.
    rank: int | None
    resource: str | None
    container: Mapping[str, Any] | None
    variables: Mapping[str, Any] | None
    macro_env: Sequence[str] | None
    allow_env: Sequence[str] | None
    allow_uris: Sequence[str] | None
    priorities: bool | None
    #: none, private or strict.
    sandbox: str | None
    #: Folders in which a process in a sandbox may write beside its own.
    writable: Sequence[str] | None
    #: Account of its processes; `submitter` for that of each submitter by `accounts`.
    run_as: str | None
    accounts: Mapping[str, str | None] | None
    #: Most `memory` (bytes, or as `16G`), `pids` and `cpus` of all processes of one job.
    limits: Mapping[str, Any] | None
    #: Public key by which secrets of its runs are sealed (`launch-worker keys new --for-queue`).
    sealing_key: str | None
    #: Names or ids of the trusted keys that may sign its runs, `*` for each; none: its runs need no signature.
    signers: Sequence[str] | None


def read_queue(text: str) -> QueueConfig:
    # Imported on demand: start-up time of `launch-submit`.
    from launch_worker.queues.queue import QueueConfig

    return QueueConfig.from_json(text)


def read_pool(text: str) -> PoolConfig:
    from launch_worker.queues.pool import PoolConfig

    return PoolConfig.from_json(text)
