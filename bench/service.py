"""What a system gives for its price: tries whether a job's processes end with their worker; the rest as documented."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

from bench.measure import BenchError, Results, table, wait_until
from bench.systems import ALL, Running, System

#: Seconds after which what still runs counts as left over.
_WAIT_S = 15.0
#: A command that has started another one, and tells both processes.
_TREE = 'sleep 600 & echo "$$ $!" > pids.new; mv pids.new {path}; wait'


def orphans(results: Results, *, systems: Sequence[System] = ALL) -> None:
    """Seconds from the SIGKILL of a worker, with its pool, to the end of its job and of what the job had started."""
    metric = results.metric("worker killed: to the end of its job's processes", "s")
    for system in systems:
        with Running(system) as running:
            path = running.folder / "pids"
            running.submit([(["/bin/sh", "-c", _TREE.format(path=path)], 1)])
            wait_until(
                path.exists, timeout_s=60, what=f"the job of {system.name} starts; its log: {running.log_tail()}"
            )
            pids = [int(pid) for pid in path.read_text().split()]
            try:
                os.killpg(running.worker_pid, signal.SIGKILL)
                began = time.monotonic()
                with suppress(BenchError):
                    wait_until(lambda pids=pids: not any(map(_runs, pids)), timeout_s=_WAIT_S, turn_s=0.01)  # type: ignore[misc]
                    metric.add(system.name, time.monotonic() - began)
                    continue
                left = sum(map(_runs, pids))
                results.note(
                    f"{system.name}: of a job and its child {left} still ran {_WAIT_S:g} s after the worker's death"
                )
            finally:
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def services(systems: Sequence[System] = ALL) -> str:
    """A table of what each system gives."""
    heads = ("SYSTEM", "RECORD", "A WORKER IS GONE", "OUTPUT", "PROCESS TREE AT A CANCEL")
    given = [(one.name, one.service) for one in systems]
    return table([heads, *((name, it.record, it.lease, it.output, it.tree) for name, it in given)])


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and nobody has asked for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
