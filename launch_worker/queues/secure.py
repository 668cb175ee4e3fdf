"""Checks secure mode: which parts of a run only its queue's admin may choose.

W&B's agent has it too (`secure_mode`: it "will reject runs that attempt to override the entrypoint or image", and what
reaches the host by a pod's spec). Here the run's side is compared with what an admin configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model.macros import has_macros
from launch_worker.model.spec import RunSpec
from launch_worker.queues.pool import PoolConfig
from launch_worker.queues.queue import QueueConfig

_WORDS = {"entrypoint": "the entry point", "mounts": "mounts", "image": "the image"}


def secured(spec: RunSpec, queue: QueueConfig, pool: PoolConfig | None = None) -> RunSpec:
    """The run as a worker in secure mode executes it. Raises InputError for one that it refuses.

    Refused: an image other than its queue's, where the queue names one; any container option (entry point, mounts,
    user, network …) that is not what its queue or pool gives; variables of the worker's environment and a folder of
    the worker's machine that queue and pool do not give. A folder that the submitter did not ask for is not used.
    """
    layers = [queue.defaults, pool.defaults if pool is not None else {}]
    of_container = [queue.container, *(layer.get("container", {}) for layer in layers)]
    images = [settings["image"] for settings in (queue.container, *layers) if settings.get("image")]
    if spec.image and images and spec.image not in images:
        raise _refused("image", f"it is {' or '.join(images)} in this queue")
    for name, value in spec.container.items():
        if not any(name in settings and _same(settings[name], value) for settings in of_container):
            raise _refused(name, "leave it out, or have it set for the queue")
    given = {name for layer in layers for name in layer.get("env_from", ())}
    for name in spec.env_from:
        if name not in given:
            raise _refused(f"environment variable {name} of the worker", "leave it out, or have it set for the queue")
    is_process = queue.resource != "container" and not spec.image
    if not is_process or spec.cwd is None or any(layer.get("cwd") == spec.cwd for layer in layers):
        return spec
    if spec.cwd_required and (spec.cwd.startswith("/") or has_macros(spec.cwd)):
        raise _refused("the working directory", "name a folder inside the code, or have one set for the queue")
    return spec if spec.uri or spec.upload else replace(spec, cwd=None)


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        return list(ours) == list(theirs)
    if isinstance(ours, Mapping) or isinstance(theirs, Mapping):
        return False
    return [ours] == list(theirs) if isinstance(theirs, (list, tuple)) else bool(ours == theirs)


def _refused(what: str, hint: str) -> InputError:
    name = _WORDS.get(what) or (what if " " in what else f"container option {what}")
    return InputError(f"this worker is in secure mode, in which a run may not choose {name}: {hint}")
