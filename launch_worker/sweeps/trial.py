"""Makes the run of a sweep that tries a set of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from launch_worker.errors import InputError
from launch_worker.model.spec import RunSpec, default_name
from launch_worker.submission.resolve import resolve

if TYPE_CHECKING:
    from launch_worker.sweeps.config import SweepConfig
    from launch_worker.sweeps.search import Suggestion

#: Fields of a run that say of which array or sweep it is: the runs of a sweep are of that sweep alone.
_OF_GROUPS = ("array", "array_index", "array_limit", "sweep", "sweep_index")


def spec_of(
    given: Mapping[str, Any],
    config: SweepConfig,
    drawn: Suggestion,
    *,
    sweep_id: str,
    index: int,
    queue_config: str = "",
    pool_config: str = "",
) -> RunSpec:
    """The run with these parameters. Raises InputError."""
    for name in _OF_GROUPS:
        if given.get(name) not in (None, ""):
            raise InputError(f"{name} is not for the runs of a sweep, which are a group of their own; leave it out")
    command = config.command_of(drawn.config)
    stem = config.name or str(given.get("name") or "") or default_name((config.program or command[0],))
    named = dict(given) | {"name": f"{stem[:180]}-{index}", "command": command}
    spec = resolve(named, queue_config=queue_config, pool_config=pool_config)
    return replace(spec, config=drawn.config, sweep=sweep_id, sweep_index=index)
