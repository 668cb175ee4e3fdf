"""Names the folder in which a job and its worker talk, and writes the worker's files in it."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from launch_worker.current import STOP

#: Name of the folder in which job and worker talk, beside the job's configuration.
TALK = "talk"

log = logging.getLogger("launch_worker.told")


def stop_text(reason: str, kill_at: float) -> str:
    """The content of the file `stop`: the reason in one line, and the Unix time of SIGKILL, which it is not before."""
    return f"{reason.replace(chr(10), ' ')}\ndeadline={math.floor(kill_at)}\n"


def announce_stop(folder: Path, reason: str, kill_at: float) -> None:
    """Show a job that it shall stop. Never raises: it is signalled anyway."""
    tell_job(folder, STOP, stop_text(reason, kill_at))


def tell_job(folder: Path, name: str, text: str) -> None:
    """Write a file of the folder, in the place of what was in it. Never raises."""
    try:
        partial = folder / f"{name}.partial"
        partial.write_text(text)
        partial.rename(folder / name)
    except OSError as error:
        log.warning("%s.not_shown folder=%s: %s", name, folder, error)
