"""Looks at this machine: its work folder, its Python environments, its container engine, its sandboxes."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from launch_worker.attempt.folder import containers_mark, undeleted_folder
from launch_worker.code.environments import folder_of, kept
from launch_worker.code.uv import find_uv
from launch_worker.errors import LaunchError
from launch_worker.humane import size as format_size
from launch_worker.model.finding import Finding
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from launch_worker.untrusted.ownership import why_not_ours
from launch_worker.untrusted.text import read_map

#: Bytes free in the work dir below which a worker may fail to keep logs and reports.
_LOW_DISK_BYTES = 256 << 20
_GIB = 1 << 30
#: Seconds for the container engine's answer.
_ENGINE_S = 5.0


def work_dir(store: Store, settings: Settings) -> Iterator[Finding]:
    folder = settings.work_dir
    if not folder.exists():
        yield Finding("ok", "work-dir", f"this machine has had no worker yet (no {folder})")
        return
    reason = "" if settings.work_dir_trusted else why_not_ours(folder)
    if reason:
        cause, _, advice = reason.partition("; ")
        yield Finding(
            "warning",
            "work-dir.not-ours",
            f"no worker of yours starts with LAUNCH_WORK_DIR {folder}: {cause}",
            advice or "set LAUNCH_WORK_DIR to a folder of the worker's user alone",
        )
    undeleted = undeleted_folder(folder)
    with contextlib.suppress(OSError):
        names = sorted(path.name for path in undeleted.iterdir())
        if names:
            shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
            yield Finding(
                "warning",
                "work-dir.undeleted",
                f"{undeleted} holds what is left of {len(names)} attempts that the worker could not delete ({shown})",
                "delete it as root, or as who owns it",
            )
    if not os.access(folder, os.W_OK):
        yield Finding(
            "warning",
            "work-dir.not-writable",
            f"{folder} is not writable for you",
            "the worker's user must be able to write there; run doctor as that user",
        )
    free = shutil.disk_usage(folder).free
    if free > _LOW_DISK_BYTES:
        yield Finding("ok", "work-dir", f"{folder} has {free / _GIB:.1f} GiB free")
        return
    yield Finding(
        "error",
        "work-dir.full",
        f"only {free >> 20} MiB are free in {folder}, where workers keep output, code and ends of runs",
        "make room on that disk, or set LAUNCH_WORK_DIR to a folder on a larger one and start the workers anew",
    )


def environments(store: Store, settings: Settings) -> Iterator[Finding]:
    uv, folder = find_uv(settings, os.environ), folder_of(settings)
    if settings.uv and not uv:
        yield Finding(
            "warning",
            "environments.no-uv",
            f"LAUNCH_UV names {settings.uv!r}, which is no program: workers that are started so make no environments",
            "install uv there, or unset LAUNCH_UV",
        )
    if folder.is_dir():
        count, size = kept(folder)
        made = "1 Python environment is" if count == 1 else f"{count} Python environments are"
        by = f"uv is {uv}" if uv else "there is no uv here to make more"
        yield Finding("ok", "environments", f"{made} in {folder}, {format_size(size)} with uv's cache; {by}")


def container_engine(store: Store, settings: Settings) -> Iterator[Finding]:
    """Whether the container engine answers, where workers of this machine have made containers."""
    if not containers_mark(settings.work_dir).exists():
        return
    # Imports the engine's SDK.
    from launch_worker.runners.container.engine import Engine, address

    engine = Engine()
    try:
        engine.ping(timeout_s=_ENGINE_S)
    except LaunchError as error:
        cause, _, advice = str(error).partition("; ")
        yield Finding("warning", "engine.away", cause, f"{advice}; run doctor as the worker's user")
    else:
        yield Finding("ok", "engine", f"the container engine at {address()} answers")
    finally:
        engine.close()


def registries(store: Store, settings: Settings) -> Iterator[Finding]:
    """The credentials with which this machine's workers pull images, where LAUNCH_REGISTRY_AUTH says where they are."""
    folder = settings.registry_auth
    if folder is None:
        return
    if not folder.is_dir():
        advice = "make it, with what docker --config FOLDER login REGISTRY writes (docs/reference/containers.md)"
        yield Finding("error", "registry.folder", f"LAUNCH_REGISTRY_AUTH {folder} is no folder", advice)
        return
    # Imports the engine's SDK.
    from launch_worker.api.doctor.registry_logins import check_logins

    configs = map(store.queue_config, store.queue_names())
    wanted = {str(read_map(config).get("container", {}).get("registry_auth", "")) for config in configs}
    yield from check_logins(folder, sorted(wanted | {""}), is_shared=not settings.work_dir_trusted)


def sandboxes(store: Store, settings: Settings) -> Iterator[Finding]:
    """What makes the sandboxes here that queues ask for."""
    configs = store.queue_configs(store.queue_names()).values()
    asked = {str(sandbox) for config in configs if (sandbox := read_map(config).get("sandbox"))}
    if not asked:
        return
    from launch_worker.queues.confinement import Demands
    from launch_worker.runners.process.layers import Layers

    layers = Layers(settings.work_dir, bwrap=settings.bwrap)
    for sandbox in sorted(asked):
        why = layers.why_not(Demands(sandbox))
        if why:
            advice = "workers of other machines take these queues; to have them taken here too: docs/security.md"
            yield Finding("warning", "sandbox.none", f"this machine makes no sandbox {sandbox}: {why}", advice)
        else:
            by = "bubblewrap" if layers.bubblewrap(sandbox) else "Landlock"
            yield Finding("ok", "sandbox", f"the sandbox {sandbox} is made by {by} on this machine")
