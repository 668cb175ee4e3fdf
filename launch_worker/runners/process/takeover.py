"""Takes over the jobs that another worker left with its guard.

The guard's side of it is `handover`.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import Any

from launch_worker.runners.job import Exited
from launch_worker.runners.process.guard_process import bound_sends, short_path
from launch_worker.runners.process.handle import LeftJob
from launch_worker.runners.process.protocol import PROTOCOL, decode, encode
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.runners.process.tree import ProcessId

log = logging.getLogger("launch_worker.runner")

#: Seconds to wait for the guard of another worker; it does not answer while that worker lives.
_TAKE_S = 1.0
#: Descriptors read with one message; the kernel takes no more.
_MAX_FDS = 253


def _exited(job: dict[str, Any]) -> Exited:
    is_kept, is_oom = job.get("kept", False), job.get("oom", False) and job["status"] is not None
    return Exited(job["status"], job["stopped_by"], is_kept=is_kept, is_out_of_memory=is_oom)


def take_over(
    folder: Path, *, log_file_bytes: int = 64 << 20, hung_after_s: float | None = None
) -> tuple[ProcessRunner, list[LeftJob], int] | None:
    """Become the worker of the guard that answers in another worker's folder; None when no guard does.

    Returns its runner (not opened yet), its jobs, and the descriptor of the folder's lock.
    """
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.settimeout(_TAKE_S)
    fds: list[int] = []
    try:
        with short_path(folder) as short:
            control.connect(short)
        control.sendall(encode({"do": "take", "protocol": PROTOCOL}))
        data = b""
        while not data.endswith(b"\n"):
            more, brought, _, _ = socket.recv_fds(control, 1 << 20, _MAX_FDS)
            if not more:
                raise OSError("the guard hung up")
            data += more
            fds += brought
        for fd in fds:
            os.set_inheritable(fd, False)
        answer = decode(data)
        if answer["on"] != "taken" or not fds:
            log.error("guard.refused folder=%s protocol=%s: this is %d", folder, answer.get("protocol"), PROTOCOL)
            control.close()
            return None
        pipes = iter(fds[1:])
        left = [
            LeftJob(
                job["key"],
                Path(job["folder"]),
                ProcessId(job["pid"], job["start"]),
                _exited(job) if job["exited"] else None,
                next(pipes, None) if job.get("log") else None,
                job.get("log", ""),
                job.get("used"),
                job.get("sandboxed", False),
            )
            for job in answer["jobs"]
        ]
    except (OSError, ValueError, KeyError):
        # No answer: that worker lives, or its guard is gone.
        control.close()
        for fd in fds:
            os.close(fd)
        return None
    control.settimeout(None)
    bound_sends(control)
    runner = ProcessRunner(
        lock_fd=fds[0],
        folder=folder,
        control=control,
        log_file_bytes=log_file_bytes,
        hung_after_s=hung_after_s,
        knows_pulse="pulse" in answer.get("knows", ()),
    )
    return runner, left, fds[0]
