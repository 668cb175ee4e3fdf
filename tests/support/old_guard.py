"""`old_guard FOLDER LOCK_FD JOB_FOLDER SCRIPT`: a guard of an older release, recorded: its words, and no policy.

It says and understands what a guard said and understood before `hello` named "pipes" and "pulse", when its worker has
detached: a program of its own, with nothing of this package in it. An order or a word in an order that such a guard did
not know ends it, as it ended that one. Its jobs print straight into their files.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any


def _start_time(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19])


class OldGuard:
    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.jobs: dict[str, subprocess.Popen[bytes]] = {}
        self.folders: dict[str, str] = {}
        self.stopped: set[str] = set()
        self.watched: dict[str, str] = {}
        self.control: socket.socket

    def hand_over(self, listening: socket.socket, lock_fd: int) -> None:
        self.control, _ = listening.accept()
        assert json.loads(self.control.recv(1000)) == {"do": "take", "protocol": 1}
        jobs = [
            {
                "key": key,
                "folder": self.folders[key],
                "pid": job.pid,
                "start": _start_time(job.pid),
                "exited": False,
                "status": None,
                "stopped_by": "",
            }
            for key, job in self.jobs.items()
        ]
        socket.send_fds(self.control, [json.dumps({"on": "taken", "jobs": jobs}).encode() + b"\n"], [lock_fd])
        self.control.settimeout(0.02)

    def serve(self) -> None:
        """Until the worker ends the conversation."""
        incoming, data = b"", b"more"
        while data:
            try:
                data = self.control.recv(1 << 16)
                *lines, incoming = (incoming + data).split(b"\n")
                for line in lines:
                    order = json.loads(line)
                    getattr(self, f"do_{order.pop('do')}")(**order)
            except TimeoutError:
                pass
            for key, job in list(self.jobs.items()):
                if job.poll() is not None:
                    del self.jobs[key]
                    self.tell("exited", key, status=job.returncode, stopped_by="asked" if key in self.stopped else "")
                    self.tell("gone", key)
        self.control.close()

    def tell(self, on: str, key: str, **facts: Any) -> None:
        self.control.sendall(json.dumps({"on": on, "key": key, **facts}).encode() + b"\n")

    def do_start(
        self,
        *,
        key: str,
        grace_s: float,
        argv: list[str],
        env: dict[str, str],
        cwd: str,
        log: str,
        lease: list[float] | None,
        folder: str = "",
        brief_s: float = 0.0,
    ) -> None:
        with open(log, "ab") as output:
            self.jobs[key] = job = subprocess.Popen(
                argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self.folders[key] = folder
        if hasattr(self, "control"):
            self.tell("started", key, pid=job.pid, start=_start_time(job.pid))

    def do_stop(self, *, key: str, grace_s: float) -> None:
        if key in self.jobs:
            self.stopped.add(key)
            self.jobs[key].terminate()

    def do_lease(self, *, leases: dict[str, list[float] | None]) -> None:
        pass

    def do_watch(
        self, *, key: str, container: str, lease: list[float] | None, more: dict[str, Any] | None = None
    ) -> None:
        self.watched[key] = container
        self.tell("expired", key)

    def do_unwatch(self, *, key: str) -> None:
        self.watched.pop(key, None)

    def do_detach(self) -> None:
        pass


def main() -> None:
    folder, lock_fd, job_folder, script = sys.argv[1:]
    guard = OldGuard(folder)
    env = {name: os.environ[name] for name in ("PATH", "LAUNCH_RUN_ID", "LAUNCH_TOKEN")}
    output = f"{job_folder}/output"
    guard.do_start(
        key="r.1",
        grace_s=5.0,
        argv=["sh", "-c", script],
        env=env,
        cwd=folder,
        log=output,
        lease=None,
        folder=job_folder,
    )
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(folder)
        listening.bind("guard.sock")
        listening.listen(4)
        print("left", flush=True)
        while guard.jobs:
            guard.hand_over(listening, int(lock_fd))
            guard.serve()


if __name__ == "__main__":
    main()
