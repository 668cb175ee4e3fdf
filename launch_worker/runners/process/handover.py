"""Hands the jobs that a worker left with its guard to the next worker. Standard library only.

The next worker's side of it is `takeover`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import Any

from launch_worker.runners.process.descriptors import send_all
from launch_worker.runners.process.guarded_job import GuardedJob
from launch_worker.runners.process.protocol import KNOWS, PROTOCOL, decode, encode

#: Seconds that a new worker has for its request; then the next one is served.
_REQUEST_S = 1.0


def hand_over(
    takeover: socket.socket, jobs: Iterable[GuardedJob], *, lock_fd: int | None
) -> tuple[socket.socket, int] | None:
    """Answer a process that has connected; the socket and the pid of the next worker, None where it is none.

    The next worker gets the folder's lock and the jobs' pipes. The guard does not wait for anybody longer than a
    second.
    """
    try:
        peer, _ = takeover.accept()
    except OSError:
        return None
    peer.settimeout(_REQUEST_S)
    try:
        if decode(peer.recv(1000)) != {"do": "take", "protocol": PROTOCOL}:
            peer.sendall(encode({"on": "refused", "protocol": PROTOCOL}))
            peer.close()
            return None
        jobs = list(jobs)
        fds = [] if lock_fd is None else [lock_fd]
        if fds:
            fds += [job.output.pipe for job in jobs if job.output is not None]
        answer = {"on": "taken", "knows": KNOWS, "jobs": [_entry(job) for job in jobs]}
        send_all(peer, encode(answer), fds)
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except (OSError, ValueError):
        peer.close()
        return None
    return peer, struct.unpack("3i", credentials)[0]


def _entry(job: GuardedJob) -> dict[str, Any]:
    return {
        "key": job.key,
        "folder": job.folder,
        "pid": job.main.pid,
        "start": job.main.start,
        "log": "" if job.output is None else job.output.path,
        "exited": job.has_exited,
        "status": job.status,
        "stopped_by": job.ended_by,
        "kept": job.is_kept,
        "used": job.used,
    }
