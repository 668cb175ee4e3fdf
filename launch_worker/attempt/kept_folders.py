"""Says which folders of an attempt's container are kept when it has ended, and where their copies go."""

from __future__ import annotations

from collections.abc import Callable

from launch_worker.attempt.folder import AttemptFolder
from launch_worker.model.container_options import LAUNCH_DIR
from launch_worker.model.spec import RunSpec
from launch_worker.runners.kept_folder import KeptFolder, all_files
from launch_worker.settings import Settings

#: Name of the folder of outputs in a container.
OUTPUTS = "outputs"


def kept_folders(folder: AttemptFolder, spec: RunSpec, settings: Settings) -> tuple[KeptFolder, ...]:
    """The folders of a container that are kept; the places of their copies are made. Raises OSError."""
    if not settings.output_url:
        return ()
    wanted: Callable[[str], bool] = all_files
    if spec.outputs:
        # Imported where a run has patterns: start-up time.
        from launch_worker.outputs.wanted import wanted_by

        wanted = wanted_by(spec.outputs)
    target = folder.outputs_of_container(spec.outputs)
    return (KeptFolder(f"{LAUNCH_DIR}/{OUTPUTS}", target, settings.output_bytes, settings.output_files, wanted),)
