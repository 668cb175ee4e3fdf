"""Keeps the archive as a child process: `launch-worker archive run`, with the server's settings."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

from launch_worker.server.address import Address
from launch_worker.server.child import Child
from launch_worker.settings import Settings

_RUN = "from launch_worker.cli.programs import worker; worker()"
#: Seconds for the piece of work that the archive does, at its end.
_END_S = 10.0


def archive_inside(settings: Settings, address: Address) -> Child:
    """The child process. Another one may write the same archive: one of them leads, and the others wait.

    It is no thread of the server: in one process its work for each run would keep back all requests.
    """
    env = os.environ | {
        # Settings may have come by options.
        "LAUNCH_REDIS_URL": settings.redis_url,
        "LAUNCH_DATABASE_URL": settings.archive_url,
        "LAUNCH_LOG_URL": settings.log_url,
        "LAUNCH_OUTPUT_URL": settings.output_url,
        "LAUNCH_WORK_DIR": str(settings.work_dir),
        "LAUNCH_SERVER_URL": settings.server_url or _own_url(settings, address),
        "LAUNCH_RETENTION": f"{settings.retention_s:f}s",
        # The server's own.
        "LAUNCH_API_URL": "",
        "LAUNCH_HEALTH_FILE": "",
    }
    return Child("archive", ["-c", _RUN, "archive", "run"], env, end_s=_END_S, has_own_log=True)


def _own_url(settings: Settings, address: Address) -> str:
    """The address in links of notices, as far as the server knows it: others may reach it under another one."""
    if address.is_loopback:
        return address.url
    names = settings.server_hosts or (socket.gethostname(),)
    return replace(address, host=names[0]).url
