"""Names the folder in which a job and its worker talk, and writes the worker's files in it.

The folder is the job's, which may put anything there at any time, links to files of others too. So the worker writes
each file in the attempt's own folder, and moves it into the talk by the descriptor of a folder that is no link.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator
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
        with opened_talk(folder) as talk:
            replace(folder.parent, name, text, into=talk)
    except OSError as error:
        log.warning("%s.not_shown folder=%s: %s", name, folder, error)


@contextlib.contextmanager
def opened_talk(folder: str | Path) -> Iterator[int]:
    """A descriptor of the folder. Raises OSError, also where a job has put a link in its place."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def replace(folder: Path, name: str, text: str, *, into: int | None = None) -> None:
    """Write a file of the folder anew, through no link; with `into` it is moved to that folder. Raises OSError."""
    partial = f"{folder}/{name}.partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        # Its folder decides who may read it, and not the worker's umask: the job may be another user's.
        os.fchmod(fd, 0o644)
        file.write(text)
    os.rename(partial, f"{folder}/{name}" if into is None else name, dst_dir_fd=into)
