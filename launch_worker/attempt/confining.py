"""Says how the job of an attempt is confined: what its queue asks for, what it must not see, whose login it has."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from launch_worker.attempt.attempt import Attempt, WorkerContext
from launch_worker.attempt.environment import OF_LOGIN
from launch_worker.attempt.folder import CHECKPOINT, WORK
from launch_worker.attempt.kept_folders import OUTPUTS
from launch_worker.model.inputs import INPUTS
from launch_worker.model.needs import parse_needs
from launch_worker.queues.confinement import Demands, Limits
from launch_worker.runners.process.confinement import Confinement
from launch_worker.runners.talk_folder import TALK

#: Folders of an attempt in which a job in a sandbox may write.
_OWN = (TALK, WORK, "code", OUTPUTS, INPUTS, CHECKPOINT)


def worker_env_of(attempt: Attempt) -> Mapping[str, str]:
    """The environment of which a process gets a part: the worker's, with the login of the job's account."""
    if attempt.account is None:
        return os.environ
    env = {name: value for name, value in os.environ.items() if name not in OF_LOGIN}
    return env | attempt.account.variables


def confinement_of(attempt: Attempt, context: WorkerContext, demands: Demands) -> Confinement:
    """How the job's processes are confined, as its queue asks."""
    parent, name = os.path.split(attempt.folder.root)
    root, account = f"{_real(parent)}/{name}", attempt.account
    return Confinement(
        demands.sandbox,
        context.layers.bubblewrap(demands.sandbox, account) if demands.sandbox else "",
        account,
        _limits(attempt, demands),
        # To what the account may not come bubblewrap, which is started as the account, cannot come either.
        hidden=tuple(
            path for path in context.layers.hidden.paths if account is None or not account.barred_from(Path(path))
        ),
        # What it may not write is in the folder too: how it ended, whose it is.
        readable=(root, os.path.realpath(attempt.environment)) if attempt.environment else (root,),
        own=tuple(f"{root}/{name}" for name in _OWN),
        writable=demands.writable,
        gpus=attempt.record.gpus,
    )


@functools.lru_cache(maxsize=8)
def _real(folder: str) -> str:
    """The path without links of a worker's folder, which stays where it is."""
    return os.path.realpath(folder)


def _limits(attempt: Attempt, demands: Demands) -> Limits:
    """The limits of the queue, where it has some, and within them what the run asked for itself."""
    if not demands.limits:
        return demands.limits
    needs, limits = parse_needs(attempt.record.needs), demands.limits
    return replace(
        limits,
        memory=min(filter(None, (needs.memory, limits.memory)), default=0),
        millicores=min(filter(None, (needs.millicores, limits.millicores)), default=0),
    )
