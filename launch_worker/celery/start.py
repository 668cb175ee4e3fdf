"""Checks what a worker's command line asks for."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from celery.concurrency import get_available_pool_names

from launch_worker.agent.capacity import Capacity
from launch_worker.agent.config import OPTIONS, AgentConfig, Option, keys_of
from launch_worker.agent.gpus import capacity_from_options
from launch_worker.agent.selection import Selection, parse_limit, refused
from launch_worker.celery.application import settings
from launch_worker.model.checks import MAINTENANCE_QUEUE


@dataclass(frozen=True)
class Start:
    """The checked options of one worker."""

    #: None for the queues of Celery's own configuration.
    selection: Selection | None
    excluded: Collection[str]
    config: AgentConfig
    capacity: Capacity
    run_once: bool
    is_silent: bool

    @classmethod
    def parse(cls, options: dict[str, Any], *, quiet: bool, has_concurrency: bool = False) -> Start:
        """Check the options. `has_concurrency`: the command line has Celery's `-c`. Raises InputError."""
        said = {option.name: options.get(parameter_of(option)) or None for option in OPTIONS if option.is_repeated}
        said |= {option.name: options.get(parameter_of(option)) for option in OPTIONS if not option.is_repeated}
        named, pool, said["max_jobs"] = said["queues"] or (), said["pool"] or None, parse_limit(said["max_jobs"])
        said["queues"] = queues = [name for name in named if name != MAINTENANCE_QUEUE] or None
        if pool in get_available_pool_names():
            raise refused(
                f"--pool {pool} would be a pool of queues: Celery's own --pool is -P here, and a launch worker has "
                "threads without it"
            )
        selection = None
        if queues or said["match"] or pool or said["tags"]:
            selection = Selection.parse(
                queues=queues or (), match=said["match"] or (), pool=pool, tags=said["tags"] or ()
            )
        elif named:
            selection = Selection()
        config = AgentConfig.load(keys_of(said), env=os.environ, file=said["agent_config"])
        if has_concurrency and said["max_jobs"] is None:
            config = replace(config, max_jobs=None)
        if selection is None and (config.queues or config.match or config.pool or config.tags):
            selection = Selection.parse(
                queues=config.queues or (), match=config.match, pool=config.pool, tags=config.tags
            )
        return cls(
            selection,
            options.get("exclude_queues") or (),
            config,
            capacity_from_options(
                *(config.gpus, config.cpus, config.memory), env=os.environ, share=settings.gpus_share
            ),
            run_once=bool(said["run_once"]),
            is_silent=quiet or bool(said["hide_welcome"]),
        )

    @property
    def is_strict_order(self) -> bool:
        """Whether a queue is served only when those before it are empty."""
        return self.selection is not None and self.selection.is_strict_order

    @property
    def consumes_runs(self) -> bool:
        """Whether Celery consumes queues of runs: not with `--run-once`, which polls them, and not without slots."""
        return not self.run_once and self.config.max_jobs != 0

    def consumed(self, configured: Iterable[str]) -> list[str]:
        """The queues of runs at the start; queues that are looked for come later."""
        names = configured if self.selection is None else self.selection.wanted((), ())
        return [name for name in names if name != MAINTENANCE_QUEUE and name not in self.excluded]


def parameter_of(option: Option) -> str:
    """The name among the options of Celery's worker, which has `pool` for something else, and `queues` itself."""
    own = {"pool": "work_pool", "queues": "queues"}
    return own.get(option.name) or option.word.removeprefix("--").replace("-", "_")
