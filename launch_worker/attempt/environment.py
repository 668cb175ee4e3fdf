"""Makes a job's environment: little of the worker's, all of the submitter's, and the run's own variables."""

from __future__ import annotations

import os
from collections.abc import Mapping

from launch_worker.attempt.lending import lent
from launch_worker.model.inputs import INPUTS
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.units import isoformat
from launch_worker.runners.talk_folder import TALK
from launch_worker.settings import Settings

#: Variables of the worker that programs need of their machine. No other variable of the worker reaches a job, so that
#: neither the broker's password nor another secret does; `--env-from` asks for more by name.
INHERITED = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "XDG_RUNTIME_DIR"),
        *(
            "VIRTUAL_ENV",
            "CONDA_PREFIX",
            "CONDA_DEFAULT_ENV",
            "PYTHONPATH",
            "LD_LIBRARY_PATH",
            "CUDA_HOME",
            "CUDA_PATH",
        ),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "PYENV_ROOT", "PYENV_VERSION"),
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    )
)

#: Variables that lead a Python to packages of another one.
_OF_PYTHON = frozenset(("PYTHONPATH", "PYTHONHOME", "CONDA_PREFIX", "CONDA_DEFAULT_ENV"))

#: Variables of the worker's login, of which a job of another account gets that account's or none.
OF_LOGIN = frozenset(("HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "XDG_RUNTIME_DIR"))

#: Variables that the job or its queue may override. Without this one Python writes to a pipe or a file a block at a
#: time: a job that prints little would show nothing for long, and a stopped one nothing at all.
_UNLESS_SUBMITTED = {"PYTHONUNBUFFERED": "1"}

#: Variables in `os.environ` when it was last read, encoded as it keeps them, and the variables that jobs get of these.
_read: tuple[Mapping[bytes, bytes], dict[str, str]] = ({}, {})


def job_environment(
    record: Record,
    spec: RunSpec,
    *,
    worker_env: Mapping[str, str],
    settings: Settings,
    config_path: str,
) -> dict[str, str]:
    """The environment of a process.

    Raises InputError when the worker lacks, or does not lend, a variable that the run asks for by name.
    """
    env = _inherited(worker_env) | _UNLESS_SUBMITTED
    if settings.wandb_env:
        env |= _wandb(record)
    env |= _submitted(spec, worker_env, settings) | _own(record, spec, config_path)
    if any(gpu.isdigit() for gpu in record.gpus):
        # The record has the driver's numbers. In CUDA's own order, the fastest first, they would be other GPUs.
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return env


def in_environment(env: dict[str, str], spec: RunSpec, folder: str) -> dict[str, str]:
    """A process's environment inside a Python environment, as that one's `activate` makes it.

    What the worker has of another Python is left out, unless the submitter asked for it.
    """
    asked = {*spec.env, *spec.env_from}
    inside = {name: value for name, value in env.items() if name not in _OF_PYTHON or name in asked}
    path = env.get("PATH", os.defpath)
    return inside | {"VIRTUAL_ENV": folder, "PATH": f"{folder}/bin{os.pathsep}{path}"}


def container_environment(
    record: Record,
    spec: RunSpec,
    *,
    worker_env: Mapping[str, str],
    settings: Settings,
    config_path: str,
) -> dict[str, str]:
    """The environment of a container, whose image has what programs need. Raises InputError."""
    env = dict(_UNLESS_SUBMITTED)
    if settings.wandb_env:
        env |= _wandb(record)
    env |= _submitted(spec, worker_env, settings) | _own(record, spec, config_path)
    if record.gpus and all(gpu.isdigit() for gpu in record.gpus):
        # The engine gives the container these GPUs only, and numbers them anew; UUIDs stay.
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(len(record.gpus))))
    return env


def _inherited(worker_env: Mapping[str, str]) -> dict[str, str]:
    """The variables that a job gets of its worker's environment, as that is now."""
    global _read
    # `os.environ` decodes each variable at each read; to compare its encoded content is a hundred times faster.
    held: Mapping[bytes, bytes] | None = getattr(worker_env, "_data", None)
    known, inherited = _read
    if held is not None and held == known:
        return inherited.copy()
    inherited = {name: value for name, value in worker_env.items() if name in INHERITED or name.startswith("LC_")}
    if held is not None:
        _read = (dict(held), inherited)
    return inherited.copy()


def _submitted(spec: RunSpec, worker_env: Mapping[str, str], settings: Settings) -> dict[str, str]:
    return {name: lent(name, worker_env, settings) for name in spec.env_from} | spec.env


def _wandb(record: Record) -> dict[str, str]:
    """Variables by which W&B's SDK logs under the run's id (docs.wandb.ai/guides/track/environment-variables)."""
    entity, _, project = record.project.rpartition("/")
    wandb = {
        "WANDB_RUN_ID": record.id,
        "WANDB_NAME": record.name,
        "WANDB_ENTITY": entity,
        "WANDB_PROJECT": project,
        "WANDB_SWEEP_ID": record.sweep,
    }
    return {name: value for name, value in wandb.items() if value}


def _own(record: Record, spec: RunSpec, config_path: str) -> dict[str, str]:
    gpus = ",".join(record.gpus)
    own = {
        "CUDA_VISIBLE_DEVICES": gpus,
        # An empty value means all GPUs to the container toolkit.
        "NVIDIA_VISIBLE_DEVICES": gpus or "void",
        "LAUNCH_RUN_ID": record.id,
        "LAUNCH_ATTEMPT": str(record.attempt),
        "LAUNCH_TOKEN": str(record.token),
        "LAUNCH_QUEUE": record.queue,
        "LAUNCH_PROJECT": record.project,
        "LAUNCH_NAME": record.name,
        "LAUNCH_CONFIG": config_path,
        "LAUNCH_RUN_DIR": f"{config_path.rpartition('/')[0]}/{TALK}",
    }
    if spec.inputs:
        own["LAUNCH_INPUT_DIR"] = f"{config_path.rpartition('/')[0]}/{INPUTS}"
    if spec.sweep:
        own["LAUNCH_SWEEP_ID"] = spec.sweep
    if record.scheduled_at is not None:
        own["LAUNCH_SCHEDULED_AT"] = isoformat(record.scheduled_at) or ""
    if spec.array_index is not None:
        own |= {"LAUNCH_ARRAY_ID": spec.array, "LAUNCH_ARRAY_INDEX": str(spec.array_index)}
    return own
