"""Says which folders of an attempt's container are kept, and where their copies go."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from launch_worker.attempt.attempt import Attempt, WorkerContext
from launch_worker.attempt.checkpoints import Keeper
from launch_worker.attempt.folder import CHECKPOINT, AttemptFolder
from launch_worker.attempt.restore import keeper_of
from launch_worker.model.container_options import LAUNCH_DIR
from launch_worker.model.spec import RunSpec
from launch_worker.outputs.manifest import Link, why_no_link
from launch_worker.runners.kept_folder import KeptFolder, Refreshed, all_files
from launch_worker.runners.talk_folder import tell_job
from launch_worker.settings import Settings

if TYPE_CHECKING:
    from launch_worker.runners.container.handle import ContainerHandle

#: Name of the folder of outputs in a container.
OUTPUTS = "outputs"
#: Files of a checkpoint at most: as many as there may be of a process.
_MOST_FILES = 200_000


def kept_folders(folder: AttemptFolder, spec: RunSpec, settings: Settings) -> tuple[KeptFolder, ...]:
    """The folders of a container that are kept; the places of their copies are made. Raises OSError."""
    if not settings.output_url:
        return ()
    outputs = outputs_of(folder, spec, settings)
    with contextlib.suppress(FileExistsError):
        folder.make_checkpoint()
    target = folder.path / CHECKPOINT
    # As that of a process. The engine sends the holes of a file in full.
    disk_bytes = shutil.disk_usage(folder.root).total
    checkpoint = KeptFolder(
        f"{LAUNCH_DIR}/{CHECKPOINT}", target, disk_bytes, _MOST_FILES, keeps_link=_keeps_link, is_mirror=True
    )
    return (outputs, checkpoint)


def outputs_of(folder: AttemptFolder, spec: RunSpec, settings: Settings) -> KeptFolder:
    """The folder of a container's outputs; the place of its copy is made. Raises OSError."""
    wanted: Callable[[str], bool] = all_files
    if spec.outputs:
        # Imported where a run has patterns: start-up time.
        from launch_worker.outputs.wanted import wanted_by

        wanted = wanted_by(spec.outputs)
    target = folder.outputs_of_container(spec.outputs)
    most = (settings.output_bytes, settings.output_files)
    return KeptFolder(f"{LAUNCH_DIR}/{OUTPUTS}", target, *most, wanted, keeps_link=_keeps_link)


def _keeps_link(path: str, target: str) -> bool:
    return not why_no_link(Link(path, target))


def keeper_of_container(attempt: Attempt, context: WorkerContext) -> Keeper:
    """What keeps the checkpoints of an attempt whose job is a container, once it has one."""

    def handle() -> ContainerHandle | None:
        # Imported by now where there is a container: its module imports the engine's SDK.
        from launch_worker.runners.container.handle import ContainerHandle

        return attempt.job if isinstance(attempt.job, ContainerHandle) else None

    def refresh() -> Refreshed | None:
        container = handle()
        return None if container is None else container.refresh(attempt.folder.path / CHECKPOINT)

    def tell(name: str, text: str) -> None:
        # A worker that takes over reads it on this machine.
        tell_job(attempt.folder.talk, name, text)
        container = handle()
        if container is not None:
            container.tell(name, text)

    return keeper_of(attempt, context, refresh=refresh, tell=tell)
