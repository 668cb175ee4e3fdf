"""Evidence that the kernel's out-of-memory killer ended a job."""

from __future__ import annotations

import os
import re
from pathlib import Path

_KMSG_BYTES = 8192


def kill_count() -> int:
    """How many processes of this worker's memory cgroup the kernel has killed so; 0 where it does not tell."""
    for path in _counter_files():
        try:
            found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return int(found[1])
    return 0


def kernel_says(pid: int) -> bool | None:
    """Whether the kernel's log has this process as killed for memory; None where the log may not be read."""
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    line = re.compile(rb"(?:Killed process|oom_reaper: reaped process) %d\b" % pid)
    try:
        while True:
            try:
                record = os.read(fd, _KMSG_BYTES)
            except BlockingIOError:
                return False
            except BrokenPipeError:
                continue  # the ring buffer overtook us: go on with its oldest record
            except OSError:
                return None
            if line.search(record):
                return True
    finally:
        os.close(fd)


def _counter_files() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            files.append(Path("/sys/fs/cgroup" + path) / "memory.events")
        elif "memory" in controllers.split(","):
            files.append(Path("/sys/fs/cgroup/memory" + path) / "memory.oom_control")
    return files
