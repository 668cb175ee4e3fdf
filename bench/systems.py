"""The systems that are compared: how each is installed, started, fed and ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import redis

from bench.environments import MADE, clean_env, install, programs
from bench.measure import BenchError, children, gone_is_fine, is_over, pythons, wait_until
from launch_worker.dev.redis_server import RedisServer

HERE = Path(__file__).parent
STAMP = MADE / "stamp"
SLOTS = 8

Jobs = Sequence[tuple[Sequence[str], int]]


@dataclass(frozen=True)
class Service:
    """What a system gives a command for its price, as its users have it by default. The sources are in README."""

    #: A record of the run that outlives the worker.
    record: str
    #: How a run is noticed whose worker is gone.
    lease: str
    #: Where the command's output is.
    output: str
    #: The command's process tree at a cancel. What becomes of it at the worker's death, the group `service` tries.
    tree: str


@dataclass(frozen=True)
class System:
    """One that takes commands into a queue and runs them."""

    #: Its name, which is that of its environment too.
    name: str
    #: Its producer, and what its worker imports; in bench/peers.
    module: str
    #: The worker's command line, for the folder of its environment's programs and a number of slots.
    worker: Callable[[Path, int], Sequence[str]]
    service: Service
    #: How much of the usual number of jobs it gets: some are slow.
    share: float = 1.0
    #: Whether its queue is in Redis; else it is in the worker's process, which cannot be filled while that is frozen.
    has_redis: bool = True

    @property
    def bin(self) -> Path:
        return programs(self.name)


LAUNCH = System(
    "launch_worker",
    "bench.peers.launch_peer",
    lambda bin, slots: [f"{bin}/celery", "-A", "launch_worker", "worker", "-Q", "default", "-c", f"{slots}"],
    Service(
        record="each attempt and transition",
        lease="lease of 30 s, renewed by a heartbeat; then Crashed or run again",
        output="kept, followed live",
        tree="ended",
    ),
)
CELERY = System(
    "celery",
    "bench.peers.celery_peer",
    lambda bin, slots: [f"{bin}/celery", "-A", "bench.peers.celery_peer", "worker", "-P", "threads", "-c", f"{slots}"],
    Service(
        record="the result, for a day; nothing before the end",
        lease="none: delivered again 1 h after it was taken, also while it runs",
        output="in the worker's",
        tree="goes on: threads are not terminated",
    ),
)
HUEY = System(
    "huey",
    "bench.peers.huey_peer",
    lambda bin, slots: [f"{bin}/huey_consumer", "bench.peers.huey_peer.huey", "-k", "thread", "-w", f"{slots}"],
    Service(
        record="the result, until it is read; nothing before the end",
        lease="none: a run whose worker died is lost",
        output="in the worker's",
        tree="goes on: only what waits is revoked",
    ),
)
RQ = System(
    "rq",
    "bench.peers.rq_peer",
    lambda bin, slots: [f"{bin}/rq", "worker-pool", "-q", "-n", f"{slots}", "default"],
    Service(
        record="state and times; 500 s after success, a year after failure",
        lease="heartbeat of 30 s; then Failed",
        output="in the worker's",
        tree="its process group is killed",
    ),
    share=0.1,
)
DRAMATIQ = System(
    "dramatiq",
    "bench.peers.dramatiq_peer",
    lambda bin, slots: [f"{bin}/dramatiq", "bench.peers.dramatiq_peer", "-p", "1", "-t", f"{slots}"],
    Service(
        record="none",
        lease="heartbeat of the worker; after 60 s run again",
        output="in the worker's",
        tree="goes on: it has no cancel",
    ),
    share=0.4,
)
HYPERQUEUE = System(
    "hyperqueue",
    "bench.peers.hyperqueue_peer",
    lambda bin, slots: [f"{bin}/python", "-c", f"from bench.peers.hyperqueue_peer import work; work({slots})"],
    Service(
        record="in memory; a journal only of its `hq`, which the wheel has not",
        lease="heartbeat of the worker; then run again, five times",
        output="two files a run",
        tree="its process group is killed",
    ),
    has_redis=False,
)
RUNQD = System(
    "runqd",
    "bench.peers.runqd_peer",
    lambda bin, slots: [f"{bin}/python", "-c", f"from bench.peers.runqd_peer import work; work({slots})"],
    Service(
        record="state and times, in a journal",
        lease="none: one machine, its processes are looked at",
        output="a file a run",
        tree="ended",
    ),
    share=0.004,
    has_redis=False,
)
ALL = (CELERY, LAUNCH, HUEY, DRAMATIQ, RQ, HYPERQUEUE, RUNQD)


def make(systems: Sequence[System]) -> None:
    """The peers' environments and the stamp; what is there already is left as it is."""
    MADE.mkdir(exist_ok=True)
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchError("the timed job is written in C; install a C compiler, for instance: apt install gcc libc6-dev")
    subprocess.run([compiler, "-O2", "-static", "-o", str(STAMP), str(HERE / "stamp.c")], check=True)
    for system in systems:
        install(system.name)


class Stamps:
    """A FIFO into which jobs write their words and the time of their first instruction."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "stamps"
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)

    def argv(self, word: str) -> list[str]:
        return [str(STAMP), str(self.path), word]

    def read(self, count: int, *, timeout_s: float) -> list[tuple[str, int]]:
        """So many words with their times. Raises BenchError."""
        found: list[tuple[str, int]] = []
        rest, deadline = b"", time.monotonic() + timeout_s
        while len(found) < count:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise BenchError(f"only {len(found)} of {count} jobs had started after {timeout_s:g} s")
            if select.select([self._fd], [], [], left_s)[0]:
                *lines, rest = (rest + os.read(self._fd, 1 << 16)).split(b"\n")
                found += [(word.decode(), int(ns)) for word, ns in (line.split() for line in lines)]
        return found

    def close(self) -> None:
        os.close(self._fd)


class Running:
    """A system at work: a Redis of its own, one worker, one producer, a folder. A context manager."""

    def __init__(
        self, system: System = LAUNCH, *, slots: int = SLOTS, env: Mapping[str, str] | None = None, start: bool = True
    ) -> None:
        self.system = system
        self.slots = slots
        self.folder = Path(tempfile.mkdtemp(prefix="launch-bench-"))
        self.stamps = Stamps(self.folder)
        self._server = RedisServer()
        self._server.start()
        self.url = self._server.url
        self.redis: Any = redis.Redis.from_url(self.url)
        self.env = clean_env(dict.fromkeys(("BENCH_REDIS_URL", "LAUNCH_REDIS_URL", "RQ_REDIS_URL"), self.url))
        self.env["LAUNCH_ALLOW_ROOT"] = "1"
        self.env |= env or {}
        self.env |= {"LAUNCH_WORK_DIR": str(self.folder / "work"), "PATH": f"{system.bin}:{os.environ['PATH']}"}
        self.env["PYTHONPATH"] = str(HERE.parent)
        self.parts: list[subprocess.Popen[bytes]] = []
        self._producer: subprocess.Popen[str] | None = None
        self.worker_pid = 0
        self._has_worker = start

    def __enter__(self) -> Running:
        try:
            if self._has_worker:
                self.start_worker()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def redis_pid(self) -> int:
        assert self._server.process is not None
        return self._server.process.pid

    def start_worker(self, *more: str) -> None:
        self.worker_pid = self.start([*self.system.worker(self.system.bin, self.slots), *more])

    def start(self, argv: Sequence[str]) -> int:
        """Another part of the system; returns its pid."""
        with (self.folder / "log").open("ab") as log:
            part = subprocess.Popen(
                argv,
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.parts.append(part)
        return part.pid

    def submit(self, jobs: Jobs, *, many: bool = False) -> tuple[int, int]:
        """Hand over jobs; returns the nanoseconds before the first and after the last."""
        if self._producer is None:
            self._producer = subprocess.Popen(
                [f"{self.system.bin}/python", "-c", f"from {self.system.module} import produce; produce()"],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._answer(self._producer.stdout)
        assert self._producer.stdin is not None
        self._producer.stdin.write(json.dumps({"jobs": jobs, "many": many}) + "\n")
        self._producer.stdin.flush()
        began, ended = json.loads(self._answer(self._producer.stdout))
        return began, ended

    def _answer(self, output: IO[str] | None) -> str:
        assert output is not None
        line = output.readline()
        if not line:
            raise BenchError(f"the producer of {self.system.name} ended")
        return line

    def stamp(self, word: str = "job", *, timeout_s: float = 60.0) -> float:
        """Submit one stamp; returns milliseconds from before that call to the job's first instruction."""
        began, _ = self.submit([(self.stamps.argv(word), 1)])
        try:
            ((_, at),) = self.stamps.read(1, timeout_s=timeout_s)
        except BenchError as error:
            raise BenchError(f"{self.system.name}: {error}; its log: {self.log_tail()}") from None
        return (at - began) / 1e6

    def freeze(self) -> None:
        """Nothing is taken from the queue until `thaw`."""
        os.killpg(self.worker_pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.worker_pid, signal.SIGCONT)

    def log_tail(self) -> str:
        return "\n" + "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-15:])

    def end(self, part: subprocess.Popen[bytes]) -> None:
        """At once: nothing of it is needed any more. What watches over its jobs ends them."""
        others = pythons(part.pid)[1:]
        # What watches over none would stay for a while, in case of late ones.
        idle = [process for process in others if not children(process)]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(part.pid, signal.SIGKILL)
        part.wait()
        for process in idle:
            with gone_is_fine():
                process.kill()
        with contextlib.suppress(BenchError):
            wait_until(lambda: all(map(is_over, others)), timeout_s=10)
        for process in others:
            with gone_is_fine():
                process.kill()

    def stop(self) -> None:
        if self._producer is not None and self._producer.stdin is not None:
            self._producer.stdin.close()
            self._producer.wait(10)
        for part in self.parts:
            self.end(part)
        self.redis.close()
        self._server.stop()
        self.stamps.close()
        shutil.rmtree(self.folder, ignore_errors=True)
