"""Finds evidence that the kernel's out-of-memory killer ended a job."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

_KMSG_BYTES = 8192


class Counter:
    """Reads the out-of-memory kills of this worker's memory cgroup; the file stays open from job to job."""

    def __init__(self, files: Iterator[Path]) -> None:
        self._fd = -1
        for path in files:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            self._fd = fd
            if _kills(self.read()) is not None:
                return
            os.close(fd)
            self._fd = -1

    def read(self) -> bytes:
        """Read the counters; b"" where the kernel has none."""
        if self._fd < 0:
            return b""
        try:
            return os.pread(self._fd, 4096, 0)
        except OSError:
            return b""  # the cgroup is gone: the worker was moved to another one

    def has_risen(self, before: bytes) -> bool:
        """Whether the kernel has killed a process of the cgroup since `before` was read."""
        return (_kills(self.read()) or 0) > (_kills(before) or 0)


def _kills(counters: bytes) -> int | None:
    found = re.search(rb"^oom_kill (\d+)$", counters, re.MULTILINE)
    return None if found is None else int(found[1])


@functools.cache
def own_counter() -> Counter:
    """The counter of this process."""
    return Counter(_counter_files())


def kernel_says(pid: int) -> bool | None:
    """Whether the kernel's log names this process as killed for memory; None where the log may not be read."""
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
                continue  # the ring buffer was overwritten: go on with its oldest record
            except OSError:
                return None
            if line.search(record):
                return True
    finally:
        os.close(fd)


def _counter_files() -> Iterator[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield Path("/sys/fs/cgroup" + path) / "memory.events"
        elif "memory" in controllers.split(","):
            yield Path("/sys/fs/cgroup/memory" + path) / "memory.oom_control"
