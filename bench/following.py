"""The server's streams of events: how soon a transition reaches a client, and what many clients cost the server."""

from __future__ import annotations

import json
import random
import selectors
import socket
import time

from bench.measure import BenchError, Results, cpu_s, percentile
from bench.server import start_server
from bench.systems import LAUNCH, Running
from launch_worker.ids import new_run_id
from launch_worker.model.spec import RunSpec
from launch_worker.store.store import Store

_SPEC = RunSpec(command=("true",), name="train", project="ada/iris")


def measure(results: Results, *, transitions: int, clients: int, rate: float, seconds: float) -> None:
    """One client and one transition after the other; then many clients and a rate."""
    soon = results.metric("transition to a client", "ms", goal="p50 at most 5 ms")
    late = results.metric("transition to a client, p99", "ms")
    cpu = results.metric("CPU of the server, its clients follow", "% of a core", goal="at most 50")
    last = results.metric("transition to each of many clients", "ms")
    with Running(LAUNCH, start=False) as running:
        url, key, pid = start_server(running)
        store = Store(running.url)
        with _Clients(store, url, key, 1) as one:
            took = one.follow(transitions, rate=20)
        soon.add("1 client", percentile(took, 0.5))
        late.add("1 client", percentile(took, 0.99))
        name = f"{clients} clients, {rate:g} transitions a second"
        with _Clients(store, url, key, clients) as many:
            many.follow(int(rate), rate=rate)
            for label, follow in ((f"{clients} clients, none", False), (name, True)):
                before, began = cpu_s(pid), time.monotonic()
                took = many.follow(int(rate * seconds), rate=rate) if follow else []
                time.sleep(max(0.0, began + seconds - time.monotonic()))
                cpu.add(label, (cpu_s(pid) - before) / (time.monotonic() - began) * 100)
            last.add(name, percentile(took, 0.5))


class _Clients:
    """Some that follow all events, in this process."""

    def __init__(self, store: Store, url: str, key: str, count: int) -> None:
        self._store = store
        self._address = ("127.0.0.1", int(url.rpartition(":")[2]))
        self._key = key
        self._count = count
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> _Clients:
        lines = ("GET /api/v1/events?kind=run HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {self._key}")
        for _ in range(self._count):
            client = socket.create_connection(self._address)
            client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            if b"200 OK" not in client.recv(4096):
                raise BenchError("a client is not let in")
            self._selector.register(client, selectors.EVENT_READ, b"")
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def follow(self, transitions: int, *, rate: float) -> list[float]:
        """Make so many runs at random times; returns the milliseconds from each call to each client's event."""
        made: dict[str, float] = {}
        took: list[float] = []
        due, deadline = time.monotonic(), time.monotonic() + transitions / rate + 30
        while len(took) < transitions * self._count:
            now = time.monotonic()
            if now > deadline:
                raise BenchError(f"{len(took)} of {transitions * self._count} events came")
            if len(made) < transitions and now >= due:
                run_id = new_run_id()
                made[run_id] = now
                self._store.create(run_id, _SPEC)
                due += random.expovariate(rate)
            wait_s = max(0.0, due - time.monotonic()) if len(made) < transitions else 1.0
            for key, _ in self._selector.select(wait_s):
                data = key.data + key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                now = time.monotonic()
                *lines, rest = data.split(b"\n")
                self._selector.modify(key.fileobj, selectors.EVENT_READ, rest)
                for line in lines:
                    if line.startswith(b"data: "):
                        run_id = json.loads(line[6:])["id"]
                        if run_id in made:
                            took.append((now - made[run_id]) * 1000)
        return took
