"""Defines what a submitter learns of a run that it has submitted, and says who submits."""

from __future__ import annotations

import getpass
import os
import socket
from typing import NamedTuple


class Sent(NamedTuple):
    """A run that was submitted."""

    id: str
    #: Live workers that consumed its queue when it was submitted.
    queue_consumers: int
    #: False when a run with its id was there already, and nothing was changed.
    is_new: bool = True
    #: Id of its array or bulk submission, as people write it; '' for a run that was submitted alone.
    group: str = ""
    #: Sentences on what earlier runs of its name used, where it asks for far more or less; from a server only.
    advice: tuple[str, ...] = ()


def me() -> str:
    """USER@HOST of this process, for people."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"uid {os.getuid()}@{socket.gethostname()}"
