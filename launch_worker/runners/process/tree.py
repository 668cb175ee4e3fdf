"""Finds a job's whole process tree in /proc, and signals it without hitting a stranger.

Standard library only, and cheap to import: the guard is a small process.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

#: Variables that together tell one attempt's processes from all others.
MARKS = ("LAUNCH_RUN_ID", "LAUNCH_TOKEN")

#: Number of the ioctl, _IOWR(0xFF, 11, struct pidfd_info) in the struct's first length, and its flag for exit statuses.
_PIDFD_GET_INFO = 3 << 30 | 64 << 16 | 0xFF << 8 | 11
_PIDFD_INFO_EXIT = 1 << 3
#: Errors of a process that has ended, or is another user's. Others (no descriptor is left) must not be taken for that.
_NOT_SEEN = (FileNotFoundError, ProcessLookupError, PermissionError)
#: Number of the limit, which Python's `resource` does not name.
_RLIMIT_LOCKS = 10


class ProcessId(NamedTuple):
    """Identifies a process, also when its pid is used again: pid, and start time in clock ticks since boot."""

    pid: int
    start: int


class Process(NamedTuple):
    """One line of the process table."""

    id: ProcessId
    ppid: int
    session: int
    zombie: bool


def look_up(pid: int) -> Process | None:
    """Find the process with this pid; None when there is none. Raises OSError when it cannot be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except _NOT_SEEN:
        return None
    return Process(
        ProcessId(pid, int(fields[19])), ppid=int(fields[1]), session=int(fields[3]), zombie=fields[0] in (b"Z", b"X")
    )


def is_alive(process: ProcessId) -> bool:
    found = look_up(process.pid)
    return found is not None and found.id == process and not found.zombie


def table() -> list[Process]:
    """List every process of this machine (of this pid namespace)."""
    found = (look_up(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def children(pid: int) -> list[int] | None:
    """List the direct children of a single-threaded process; None where the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as pids:
            return [int(child) for child in pids.read().split()]
    except OSError:
        return None


class Children:
    """Lists the direct children of this (single-threaded) process, ended ones too; cheap to repeat."""

    #: Bytes of a list that surely came whole: the kernel gives a page at a time, and a longer list is read again.
    _SURELY_ALL = 4000

    def __init__(self) -> None:
        pid = os.getpid()
        try:
            self._fd = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def pids(self) -> list[int] | None:
        """Their pids; None where the kernel does not tell."""
        if self._fd < 0:
            return None
        text = os.pread(self._fd, 4096, 0)
        return [int(child) for child in text.split()] if len(text) < self._SURELY_ALL else children(os.getpid())


def environ(pid: int) -> set[bytes]:
    """The NAME=VALUE entries of a process's start; none when it has ended, or is another user's."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as entries:
            return set(entries.read().split(b"\0"))
    except _NOT_SEEN:
        return set()


def has_environ(pid: int, entries: Iterable[bytes]) -> bool:
    """Whether the process was started with all of these NAME=VALUE entries."""
    return set(entries) <= environ(pid)


def marks(env: Mapping[str, str]) -> tuple[bytes, ...]:
    """The entries that the environments of one attempt's processes have, and no others."""
    return tuple(f"{name}={env[name]}".encode() for name in MARKS)


def cookie(marked: tuple[bytes, ...]) -> int:
    """A number that a job's processes carry as their soft RLIMIT_LOCKS, and no others.

    The kernel has not enforced that limit since 2.4, but it is inherited across fork and exec, whatever a daemon does
    to its session, its parents and its environment, and everybody may read it in /proc.
    """
    return int.from_bytes(hashlib.sha1(b"\0".join(marked), usedforsecurity=False).digest()[:7], "big") | 1 << 56


@contextlib.contextmanager
def carrying(marked: tuple[bytes, ...]) -> Iterator[None]:
    """Give the cookie to the processes that this (single-threaded) process starts meanwhile."""
    before = _own_limit()
    resource.setrlimit(_RLIMIT_LOCKS, (cookie(marked), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(_RLIMIT_LOCKS, before)


@functools.cache
def _own_limit() -> tuple[int, int]:
    return resource.getrlimit(_RLIMIT_LOCKS)


def has_cookie(pid: int, number: int) -> bool:
    """Whether the process carries this cookie."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as limits:
            return b"Max file locks" + b" " * 12 + b"%d " % number in limits.read()
    except _NOT_SEEN:
        return False


def cookie_of(pid: int) -> int:
    """The cookie of a process, which may have ended and not been reaped; 0 for none."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as limits:
            soft = limits.read().partition(b"Max file locks")[2].split(maxsplit=1)[0]
    except (*_NOT_SEEN, IndexError):
        return 0
    return int(soft) if soft.isdigit() and int(soft) >> 56 == 1 else 0


def has_any_cookie(pid: int) -> bool:
    """Whether the process, which may have ended, belongs to a job that a guard of this process has started."""
    # Where this worker is itself a job, all processes that it starts carry that job's cookie.
    return cookie_of(pid) not in (0, _own_limit()[0])


def members(
    main: ProcessId | None, *, marked: tuple[bytes, ...], known: Iterable[ProcessId] = (), spare: Iterable[int] = ()
) -> list[ProcessId]:
    """The living processes of one job, its main process first.

    A process belongs to the job by its session, by the job's `cookie`, by the `marks` in its environment (a daemon), by
    being in `known`, or by descending from one that does. Pids in `spare` never do.
    """
    processes = table()
    spared = {*spare, os.getpid(), 1}
    known = set(known)
    number = cookie(marked)
    # Another program's new session may reuse the pid of a main process that has ended.
    reused = main is not None and any(p.id.pid == main.pid and p.id != main for p in processes)
    found: dict[int, Process] = {}
    for process in processes:
        if process.id.pid in spared:
            continue
        if (
            process.id == main
            or process.id in known
            or (main is not None and not reused and process.session == main.pid)
            or has_cookie(process.id.pid, number)
            or has_environ(process.id.pid, marked)
        ):
            found[process.id.pid] = process
    grew = True
    while grew:
        children = {
            p.id.pid: p for p in processes if p.ppid in found and p.id.pid not in found and p.id.pid not in spared
        }
        found.update(children)
        grew = bool(children)
    alive = [process.id for process in found.values() if not process.zombie]
    return sorted(alive, key=lambda process: process != main)


def of_container(container: str) -> list[ProcessId]:
    """The living processes of a container, by the control group that its engine named for its id.

    An empty list for a container on another machine, or for one seen from within a container.
    """
    return [process.id for process in table() if not process.zombie and _is_in_cgroup(process.id.pid, container)]


def _is_in_cgroup(pid: int, name: str) -> bool:
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as groups:
            return name.encode() in groups.read()
    except _NOT_SEEN:
        return False


def working_in(folder: str) -> list[ProcessId]:
    """The living processes whose working directory is this folder."""
    return [process.id for process in table() if not process.zombie and _working_directory(process.id.pid) == folder]


def _working_directory(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except _NOT_SEEN:
        return ""


def name(pid: int) -> str:
    """The name of a process, as `ps` shows it; '' when it has ended."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().rstrip("\n")
    except _NOT_SEEN:
        return ""


def send(process: ProcessId, number: int) -> bool:
    """Signal exactly this process; False when it has ended (also when its pid was reused).

    Raises PermissionError when it is another user's and may not be signalled.
    """
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # The descriptor now holds the process: its identity cannot change between this look and the signal.
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(fd, number)
    except PermissionError:
        raise
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def exit_status(pidfd: int) -> int | None:
    """The exit status of a process that its parent has reaped; None for any other, and where the kernel does not tell.

    Linux 6.15 and later tell it to whoever has a pidfd of the process.
    """
    info = bytearray(struct.pack("=Q56x", _PIDFD_INFO_EXIT))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    mask, status = struct.unpack("=Q52xi", info)
    return os.waitstatus_to_exitcode(status) if mask & _PIDFD_INFO_EXIT else None


def end(find: Callable[[], list[ProcessId]], *, wait: Callable[[float], None], timeout_s: float = 5.0) -> bool:
    """SIGKILL the processes that `find` finds until it finds none; False when one stays past the timeout."""
    pause = 0.005
    waited = 0.0
    while found := find():
        for process in found:
            with contextlib.suppress(PermissionError):
                send(process, signal.SIGKILL)
        if waited > timeout_s:
            return False
        wait(pause)
        waited += pause
        pause = min(2 * pause, 0.1)
    return True
