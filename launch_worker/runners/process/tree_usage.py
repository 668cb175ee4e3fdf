"""Measures the trees of all jobs on this machine by one look at the process table."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from launch_worker.model.usage import Used
from launch_worker.runners.job import Look
from launch_worker.runners.process import tree
from launch_worker.runners.process.tree import ProcessId

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
#: Looks after which a pid of no job may be another process's, and is looked at again.
_STRANGE_LOOKS = 12


@dataclass
class _Tree:
    """What is known of one tree from look to look."""

    #: Ticks of CPU of each living process that nobody in the tree waits for, with its waited-for descendants.
    roots: dict[ProcessId, int] = field(default_factory=dict)
    #: Ticks of CPU of such processes that have ended.
    ended_ticks: int = 0


class TreeUsage:
    """Looks at all trees at once: a process of no job is opened once in a minute, and one of a job once a look."""

    def __init__(self) -> None:
        self._trees: dict[int, _Tree] = {}
        self._cookies: dict[ProcessId, int] = {}
        self._strangers: set[int] = set()
        self._looks = 0

    def look(self) -> Mapping[int, Look]:
        """What each tree has used by now, by the cookie that its processes carry."""
        self._looks += 1
        if self._looks % _STRANGE_LOOKS == 0:
            self._strangers.clear()
        found: dict[int, dict[int, _Process]] = defaultdict(dict)
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        self._strangers.intersection_update(pids)
        cookies: dict[ProcessId, int] = {}
        for pid in pids:
            process = None if pid in self._strangers else _read(pid)
            if process is None:
                continue
            cookie = self._cookies.get(process.id)
            cookie = tree.cookie_of(pid) if cookie is None else cookie
            if cookie:
                cookies[process.id] = cookie
                found[cookie][pid] = process
            else:
                self._strangers.add(pid)
        self._cookies = cookies
        self._trees = {cookie: self._trees.get(cookie) or _Tree() for cookie in found}
        return {cookie: _sum(self._trees[cookie], processes) for cookie, processes in found.items()}


@dataclass(frozen=True)
class _Process:
    id: ProcessId
    ppid: int
    #: Ticks of CPU, with those of descendants that it has waited for.
    ticks: int
    #: Bytes of resident memory.
    memory: int


def _read(pid: int) -> _Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as stat:
            fields = stat.read(4096).rpartition(b")")[2].split()
        ticks = int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
        return _Process(ProcessId(pid, int(fields[19])), int(fields[1]), ticks, int(fields[21]) * _PAGE_BYTES)
    except (OSError, IndexError, ValueError):
        return None  # it has ended


def _sum(known: _Tree, processes: Mapping[int, _Process]) -> Look:
    roots = {each.id: each.ticks for each in processes.values() if each.ppid not in processes}
    # A root that has ended is waited for by the guard, and its time is in no living process any more.
    known.ended_ticks += sum(ticks for process, ticks in known.roots.items() if process.pid not in processes)
    known.roots = roots
    ticks = known.ended_ticks + sum(each.ticks for each in processes.values())
    memory = sum(each.memory for each in processes.values())
    return Look(Used(cpu_s=ticks / _TICKS_PER_S, memory=memory), frozenset(processes))
