"""A hundred queues and a thousand idle workers, as Redis sees them: their heartbeats and their blocking reads."""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from bench.measure import RedisMeter, Results
from bench.systems import LAUNCH, Running
from launch_worker.model.checks import MAINTENANCE_QUEUE
from launch_worker.model.worker import FreeCapacity
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store

_QUEUES = 100
#: Each consumes so many of them.
_EACH = 4
#: A worker's wait for its lists asks again after so long (`celery/queue_wait.py`).
_BRPOP_S = 10.0
#: An idle worker tells all of itself in one of so many heartbeats (`agent/registration.py`).
_SAID_EVERY = 4


def measure(results: Results, *, sizes: Sequence[int], seconds: float) -> None:
    """Redis commands a second and CPU by the number of idle workers."""
    # Each worker's blocking connection is one here too, at both ends.
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    commands = results.metric(f"Redis commands of idle workers, {_QUEUES} queues", "/s", baseline=f"{sizes[0]} workers")
    cpu = results.metric("Redis CPU of idle workers", "% of a core", baseline=f"{sizes[0]} workers")
    for size in sizes:
        with Running(LAUNCH, start=False) as running:
            store = Store(running.url)
            for number in range(_QUEUES):
                store.configure("queue", f"q{number}", {}, create=True)
            workers = [_Worker(running.url, number) for number in range(size)]
            # The first heartbeats of all come together; what is measured is the time after.
            for worker in workers:
                worker.heartbeat(store)
            meter = RedisMeter(running.redis)
            _live(workers, store, seconds=seconds, heartbeat_s=Settings.heartbeat_s)
            traffic = meter.read()
            commands.add(f"{size} workers", traffic.commands / traffic.seconds)
            cpu.add(f"{size} workers", traffic.cpu_s / traffic.seconds * 100)
            for worker in workers:
                worker.close()


def _live(workers: list[_Worker], store: Store, *, seconds: float, heartbeat_s: float) -> None:
    """Their heartbeats one after another in equal distances, and a new BRPOP for each that was answered."""
    began, beats = time.monotonic(), 0
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.socket, selectors.EVENT_READ, worker)
            worker.ask()
        while (now := time.monotonic()) < began + seconds:
            while beats < (now - began) / heartbeat_s * len(workers):
                workers[beats % len(workers)].heartbeat(store)
                beats += 1
            for ready, _ in selector.select(0.005):
                ready.data.answered()


class _Worker:
    """What an idle worker sends: a BRPOP of its queues' lists, and its heartbeats."""

    def __init__(self, url: str, number: int) -> None:
        self._owner = f"host{number}.1.abcdef"
        self._queues = tuple(f"q{(number * _EACH + at) % _QUEUES}" for at in range(_EACH))
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname or "", parts.port or 0))
        self.socket.sendall(_packed("AUTH", parts.password or ""))
        self.socket.recv(100)
        lists = [keys.wake_list(self._owner), *keys.queue_lists(MAINTENANCE_QUEUE), keys.direct_queue(self._owner)]
        lists += [name for queue in self._queues for name in keys.queue_lists(queue)]
        self._brpop = _packed("BRPOP", *lists, str(_BRPOP_S))
        self._beats = number

    def ask(self) -> None:
        self.socket.sendall(self._brpop)

    def answered(self) -> None:
        self.socket.recv(100)
        self.ask()

    def heartbeat(self, store: Store) -> None:
        idle_heartbeat(store, self._owner, self._queues, is_said=self._beats % _SAID_EVERY == 0)
        self._beats += 1

    def close(self) -> None:
        self.socket.close()


def idle_heartbeat(store: Store, owner: str, queues: tuple[str, ...], *, is_said: bool = True) -> None:
    """What an agent sends for a worker with nothing to do."""
    memory = 1 << 34
    description = {
        "worker": owner,
        "owner": owner,
        "host": "host",
        "pid": 1,
        "queues": queues,
        "slots": 8,
        "running": 0,
        "devices": [],
        "cpus": {"total": 8.0, "free": 8.0},
        "memory": {"total": memory, "free": memory},
        "state": "running",
        "problem": "",
    }
    total = (0, 8000, memory)
    free = FreeCapacity(owner, queues, slots=8, gpus=0, cpus=8000, memory=memory, total=total, backfill_s=300)
    store.heartbeat(
        [],
        owner=owner,
        worker=owner,
        lease_s=30,
        gone_s=30,
        description=description if is_said else None,
        queues=queues,
        free=free,
    )


def _packed(*words: str) -> bytes:
    """A command as the protocol has it."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)
