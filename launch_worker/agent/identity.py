"""Says who a worker is, to Redis and to people."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """The names of one worker process."""

    #: Holder of the leases; unlike the node name it is new after each restart.
    owner: str
    #: Node name, which is the same after a restart.
    worker: str
    host: str

    @classmethod
    def of_this_process(cls, worker: str = "") -> Identity:
        """The identity of a worker in this process; its node name is `agent@HOST` by default."""
        host = socket.gethostname()
        return cls(f"{host}.{os.getpid()}.{secrets.token_hex(4)}", worker or f"agent@{host}", host)
