"""Completes what a submitter gave by the configuration of the queue and its pool."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from launch_worker.errors import InputError
from launch_worker.model.macros import check_value_names
from launch_worker.model.spec import RunSpec, make_spec
from launch_worker.queues.read import queue_of, signers_of

if TYPE_CHECKING:
    from launch_worker.queues.pool import PoolConfig


def resolve(given: Mapping[str, Any], *, queue_config: str = "", pool_config: str = "") -> RunSpec:
    """The run: what was given, then the queue's defaults, then the pool's, checked by the queue's rules.

    The configurations are JSON, '' for none. Raises InputError with the reason.
    """
    unknown = [name for name in given if name not in RunSpec.__dataclass_fields__]
    if unknown:
        raise InputError(f"{unknown[0]!r} is not an option of a run; see: launch-submit --help")
    given = {"command": (), **given}
    if queue_config or pool_config:
        queue, pool = queue_of(queue_config), _pool(pool_config)
        return _checked(queue.checked(queue.spec_of(given, pool.defaults)), given)
    spec = make_spec({name: value for name, value in given.items() if value is not None})
    check_value_names(spec.values)
    if spec.asks_for_container and not spec.image:
        raise InputError(
            f"container option {next(iter(spec.container))!r} can be kept for containers only; "
            "name an image with --image IMAGE"
        )
    return _checked(spec, given)


def _checked(spec: RunSpec, given: Mapping[str, Any]) -> RunSpec:
    if given.get("limit_key") is not None and not spec.concurrency_key:
        raise InputError("a limit for a key needs the key; give both --concurrency-key and --limit-key")
    return spec


@lru_cache(maxsize=32)
def _pool(text: str) -> PoolConfig:
    from launch_worker.queues.pool import PoolConfig

    return PoolConfig.from_json(text)


def refuse_unsigned(queue: str, queue_config: str, *, what: str) -> None:
    """Raises InputError where a queue takes signed runs only: nobody signs the runs that the system itself submits."""
    if signers_of(queue_config):
        raise InputError(
            f"queue {queue!r} takes signed runs only, and the runs of {what} are submitted by the system, which signs "
            "none; use another queue, or have a program of yours submit them"
        )


def with_project(given: Mapping[str, Any], *, queue_config: str, pool_config: str) -> dict[str, Any]:
    """The arguments of runs to come, with the project that queue or pool gives them where they name none.

    Who sees a sweep or a schedule is decided by the project of its runs.
    """
    if given.get("project") is None and (queue_config or pool_config):
        for defaults in (queue_of(queue_config).defaults, _pool(pool_config).defaults):
            if defaults.get("project"):
                return {**given, "project": defaults["project"]}
    return dict(given)


def from_here(given: Mapping[str, Any], *, author: str, project: str) -> dict[str, Any]:
    """The arguments, with what a process says of its submitter where they do not: author, project, folder."""
    found = {"author": author} | dict(given)
    if not found.get("project") and project:
        found["project"] = project
    if found.get("cwd") is None and not (found.get("uri") or found.get("upload")):
        # A folder among the defaults of the queue or pool replaces it.
        found["cwd"] = current_folder()
    return found


def current_folder() -> str | None:
    """This process's folder; None when it was deleted under it."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
