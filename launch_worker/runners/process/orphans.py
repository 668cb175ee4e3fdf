"""Reaps the processes that come back to this worker because their own parent has ended.

A worker is a subreaper, so that no process of its jobs is lost when their guard dies. So the processes that git leaves
behind (ssh, a credential helper and its daemon) come back to it too, and no other process waits for them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from launch_worker.runners.process import tree
from launch_worker.runners.process.tree import Process, ProcessId

#: Number of newest children remembered for the processes that they may have left behind.
_REMEMBERED = 200

_lock = threading.Lock()
#: Processes that `start` started, by their pids.
_awaited: dict[int, subprocess.Popen[bytes]] = {}
#: Sessions that orphans may come from, with the entries of their processes' environments.
_sources: dict[int, frozenset[bytes]] = {}
#: Living orphans, remembered so that they are known when they have ended, whatever they did to their session.
_orphans: set[ProcessId] = set()


def start(argv: list[str], *, marked: tuple[bytes, ...] | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process as Popen does, in a session of its own. `reap` never takes it from whoever waits for it.

    With `marked`, entries of its environment that no other child has, `reap` takes the processes that it leaves behind.
    Raises OSError.
    """
    with _lock:
        for pid in [pid for pid, started in _awaited.items() if started.returncode is not None]:
            del _awaited[pid]
        process = subprocess.Popen(argv, start_new_session=True, **options)
        _awaited[process.pid] = process
        if marked is not None:
            _sources.pop(process.pid, None)
            _sources[process.pid] = frozenset(marked)
        while len(_sources) > _REMEMBERED:
            del _sources[next(iter(_sources))]
    return process


def reap(*, of_jobs: Callable[[Process], bool] = lambda _: False) -> None:
    """Reap each orphan that has ended; of those that carry a job's cookie only those for which `of_jobs` is true.

    Other children of this process are left alone: whoever started them waits for them.
    """
    with _lock:
        living = set()
        for found in _children():
            pid = found.id.pid
            if pid in _awaited and _awaited[pid].returncode is None:
                continue
            is_orphan = of_jobs(found) if tree.has_any_cookie(pid) else _is_left_behind(found)
            if is_orphan and found.zombie:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            elif is_orphan:
                living.add(found.id)
        _orphans.clear()
        _orphans.update(living)


def _children() -> list[Process]:
    # Children of the main thread, which is the one that gets orphans.
    pids = tree.children(os.getpid())
    found = tree.table() if pids is None else map(tree.look_up, pids)
    return [each for each in found if each is not None and each.ppid == os.getpid()]


def _is_left_behind(process: Process) -> bool:
    if process.id in _orphans or process.session in _sources:
        return True
    # An orphan with a session of its own; one that has ended shows no environment any more.
    entries = tree.environ(process.id.pid)
    return any(marked and marked <= entries for marked in _sources.values())
