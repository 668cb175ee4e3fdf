"""Names the folder in which a job and its worker talk, and writes the file `stop` in it."""

from __future__ import annotations

import logging
from pathlib import Path

from launch_worker.current import STOP

#: Name of the folder in which job and worker talk, beside the job's configuration.
TALK = "talk"

log = logging.getLogger("launch_worker.told")


def announce_stop(folder: Path, reason: str) -> None:
    """Show a job that it shall stop. Never raises: it is signalled anyway."""
    try:
        partial = folder / "stop.partial"
        partial.write_text(f"{reason}\n")
        partial.rename(folder / STOP)
    except OSError as error:
        log.warning("stop.not_shown folder=%s: %s", folder, error)
