"""Reaps the processes that come back to this worker because their own parent has ended.

A worker is a subreaper, so that nothing of its jobs is lost when their guard dies. What git leaves behind (ssh, a
credential helper and its daemon) comes back to it for that reason too, and nobody else will ever wait for it.
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

#: So many of the newest children are remembered for what they may have left behind.
_REMEMBERED = 200

_lock = threading.Lock()
#: What `start` started, by its pid.
_awaited: dict[int, subprocess.Popen[bytes]] = {}
#: The sessions in which orphans may come to be, and what their processes have in their environment.
_sources: dict[int, frozenset[bytes]] = {}
#: Orphans that live: they are known again when they have ended, whatever they did to their session.
_orphans: set[ProcessId] = set()


def start(argv: list[str], *, marked: tuple[bytes, ...] | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """As Popen, in a session of its own. `reap` never takes the process from whoever waits for it.

    With `marked`, entries of its environment that no other child has, `reap` takes what it leaves behind. Raises
    OSError.
    """
    with _lock:
        for pid in [pid for pid, former in _awaited.items() if former.returncode is not None]:
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
    """Reap each orphan that has ended; of those that carry a job's cookie only which `of_jobs` says.

    Other children of this process are left alone: who started them waits for them.
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
    # Those of the main thread: it is the one that gets orphans.
    pids = tree.children(os.getpid())
    found = tree.table() if pids is None else map(tree.look_up, pids)
    return [each for each in found if each is not None and each.ppid == os.getpid()]


def _is_left_behind(process: Process) -> bool:
    if process.id in _orphans or process.session in _sources:
        return True
    # One that made a session of its own; there is no environment to be seen any more of one that has ended.
    entries = tree.environ(process.id.pid)
    return any(marked and marked <= entries for marked in _sources.values())
