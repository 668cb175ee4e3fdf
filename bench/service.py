"""What a system gives for its price: tries whether a job's processes end with their worker; the rest as documented."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from bench.measure import Results, gone_is_fine, pythons, table, wait_until
from bench.systems import ALL, Running, System

#: Seconds after which what still runs counts as left over.
_WAIT_S = 5.0
#: A command that has started another one, and tells both processes.
_TREE = 'sleep 600 & echo "$$ $!" > {path}.new; mv {path}.new {path}; wait'


def orphans(results: Results, *, systems: Sequence[System] = ALL) -> None:
    """Seconds from the SIGKILL of a worker, with its pool, to the end of its job and of what the job had started."""
    metric = results.metric("worker killed: to the end of its job's processes", "s")
    with ExitStack() as stack:
        workers = [stack.enter_context(Running(system)) for system in systems]
        for running in workers:
            running.submit([(["/bin/sh", "-c", _TREE.format(path=running.folder / "pids")], 1)])
        pids = {running.system.name: _job(running) for running in workers}
        stack.callback(_end, [pid for job in pids.values() for pid in job])
        killed = {}
        for running in workers:
            _kill_worker(running.worker_pid)
            killed[running.system.name] = time.monotonic()
        while pids and time.monotonic() < max(killed.values()) + _WAIT_S:
            for name in [name for name, job in pids.items() if not any(map(_runs, job))]:
                metric.add(name, time.monotonic() - killed[name])
                del pids[name]
            time.sleep(0.005)
        for name, job in pids.items():
            left = sum(map(_runs, job))
            results.note(f"{name}: of a job and its child {left} still ran {_WAIT_S:g} s after their worker was killed")


def _job(running: Running) -> list[int]:
    """The processes of the job, once they are there."""
    path, name = running.folder / "pids", running.system.name
    wait_until(path.exists, timeout_s=60, what=f"the job of {name} starts; its log: {running.log_tail()}")
    return [int(pid) for pid in path.read_text().split()]


def _end(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def services(systems: Sequence[System] = ALL) -> str:
    """A table of what each system gives."""
    heads = ("SYSTEM", "RECORD", "A WORKER IS GONE", "OUTPUT", "PROCESS TREE AT A CANCEL")
    given = [(one.name, one.service) for one in systems]
    return table([heads, *((name, it.record, it.lease, it.output, it.tree) for name, it in given)])


def _kill_worker(pid: int) -> None:
    """SIGKILL to a worker and its pool; not to its jobs, and not to a guard, which has a session of its own."""
    for process in pythons(pid):
        with gone_is_fine(), suppress(ProcessLookupError):
            if os.getpgid(process.pid) == pid:
                process.kill()


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and nobody has asked for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
