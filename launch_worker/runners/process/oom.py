"""Finds evidence that the kernel's out-of-memory killer ended a job. Standard library only: the guard imports it."""

from __future__ import annotations

import functools
import os
import re
import signal
from collections.abc import Iterable, Iterator

_KMSG_BYTES = 8192
#: Exit code of a shell whose child died of SIGKILL.
_SHELL_SIGKILL = 137


class Counter:
    """Reads the out-of-memory kills of this process's memory cgroup; the file stays open from job to job."""

    def __init__(self, files: Iterable[str]) -> None:
        self._fd = -1
        for path in files:
            try:
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            if self.kills() is not None:
                return
            self.close()

    def kills(self) -> int | None:
        """The number of kills by now; None where the kernel does not count them."""
        if self._fd < 0:
            return None
        try:
            found = re.search(rb"^oom_kill (\d+)$", os.pread(self._fd, 4096, 0), re.MULTILINE)
        except OSError:
            return None  # the cgroup is gone: this process was moved to another one
        return None if found is None else int(found[1])

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@functools.cache
def own_counter() -> Counter:
    """The counter of this process."""
    return Counter(_counter_files())


def has_ended(pid: int, status: int, *, kills_before: int | None) -> bool:
    """Whether the kernel's out-of-memory killer ended a job, by its main process's pid and exit status.

    `kills_before` were counted before the job's start. A SIGKILL alone proves nothing.
    """
    if status not in (-signal.SIGKILL, _SHELL_SIGKILL):
        return False
    # In a shell's exit code the killed process is another one.
    said = kernel_says(pid) if status < 0 else None
    if said is not None:
        return said
    counter = Counter(_counter_files())
    kills = counter.kills()
    counter.close()
    return kills_before is not None and kills is not None and kills > kills_before


def kernel_says(pid: int) -> bool | None:
    """Whether the kernel's log names this process as killed for memory; None where the log may not be read."""
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
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


def _counter_files() -> Iterator[str]:
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield f"/sys/fs/cgroup{path}/memory.events"
        elif "memory" in controllers.split(","):
            yield f"/sys/fs/cgroup/memory{path}/memory.oom_control"
