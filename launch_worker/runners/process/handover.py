"""Hands the jobs that a worker left with its guard to the next worker. Standard library only.

The next worker's side of it is `takeover`.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

from launch_worker.runners.process.descriptors import send_all
from launch_worker.runners.process.guarded_job import GuardedJob
from launch_worker.runners.process.job_table import JobTable
from launch_worker.runners.process.protocol import KNOWS, PROTOCOL, decode, encode

#: Seconds that a new worker has for its request; then the next one is served.
_REQUEST_S = 1.0


def hand_over(takeover: socket.socket, jobs: JobTable, *, lock_fd: int | None) -> tuple[socket.socket, int] | None:
    """Answer a process that has connected; the socket and the pid of the next worker, None where it is none.

    A job is none: it could have other runs' jobs ended, and programs started outside of any run. The next worker gets
    the folder's lock and the jobs' pipes. The guard does not wait for anybody longer than a second.
    """
    try:
        peer, _ = takeover.accept()
    except OSError:
        return None
    peer.settimeout(_REQUEST_S)
    try:
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, user, _ = struct.unpack("3i", credentials)
        # The pid is 0 for a process of another pid namespace, where no job is that a guard started.
        is_job = user not in (0, os.geteuid()) or (pid != 0 and jobs.has_process(pid))
        if is_job or decode(peer.recv(1000)) != {"do": "take", "protocol": PROTOCOL}:
            peer.sendall(encode({"on": "refused", "protocol": PROTOCOL}))
            peer.close()
            return None
        left = list(jobs.by_key.values())
        fds = [] if lock_fd is None else [lock_fd]
        if fds:
            fds += [job.output.pipe for job in left if job.output is not None]
        answer = {"on": "taken", "knows": KNOWS, "jobs": [_entry(job) for job in left]}
        send_all(peer, encode(answer), fds)
    except (OSError, ValueError):
        peer.close()
        return None
    return peer, pid


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
        "oom": job.is_out_of_memory,
        "used": job.used,
        "sandboxed": job.is_sandboxed,
    }
