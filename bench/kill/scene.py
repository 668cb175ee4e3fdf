"""One scene: a system with a Redis of its own, two workers, jobs, and a look at its record four times a second."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import redis

from bench.environments import clean_env
from bench.kill import stamps
from bench.kill.systems import PEERS, System
from bench.kill.verdict import FINAL, Facts
from launch_worker.clock import boot_time_s
from launch_worker.dev.redis_server import RedisServer, free_port

JOB = Path(__file__).parent / "job.py"
LOOK_S = 0.25
#: Seconds after which a supervisor starts again what has ended.
RESTART_S = 2.0
#: Seconds that a system is watched after a fault at least: what comes twice may come late.
SETTLED_S = 6.0


class SceneError(Exception):
    """A scene could not be set up or did not become what its fault needs."""


class Link:
    """The other end of `peers.link`, in a process of the system's own environment."""

    def __init__(self, argv: list[str], *, env: dict[str, str], cwd: Path, log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                argv, env=env, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._lock = threading.Lock()
        self._number = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                self._answers.put(json.loads(line))

    def ask(self, order: dict[str, Any], *, timeout_s: float = 15.0) -> Any:
        """What is answered. Raises SceneError, also for none in time; a late one is thrown away."""
        with self._lock:
            self._number += 1
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps(order | {"n": self._number}) + "\n")
                self._process.stdin.flush()
            except OSError as error:
                raise SceneError(f"the link ended: {error}") from None
            deadline = time.monotonic() + timeout_s
            while True:
                try:
                    answer = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    raise SceneError(f"no answer to {order['do']}") from None
                if answer.get("n") == self._number:
                    break
        if "error" in answer:
            raise SceneError(answer["error"])
        return answer["answer"]

    def end(self) -> None:
        self._process.kill()
        self._reader.join()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            # What was not sent to one that had ended goes with its pipe.
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()


class Worker:
    """A worker of the system: some processes, which are started again when they end, as by a supervisor."""

    def __init__(self, scene: Scene, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self._scene = scene
        self.parts: list[subprocess.Popen[bytes]] = []
        self._ended_at: dict[int, float] = {}

    def start(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.parts = [self._start_part() for _ in range(self._scene.system.processes)]

    def _start_part(self) -> subprocess.Popen[bytes]:
        system = self._scene.system
        with (self._scene.folder / f"worker-{self.name}.log").open("ab") as log:
            return subprocess.Popen(
                system.worker(system.bin, self.name),
                cwd=self.folder,
                env=self._scene.env | {"LAUNCH_WORK_DIR": str(self.folder), "TMPDIR": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def supervise(self) -> None:
        """Start again what ended a while ago."""
        for place, part in enumerate(self.parts):
            if part.poll() is None:
                continue
            if time.monotonic() > self._ended_at.setdefault(part.pid, time.monotonic()) + RESTART_S:
                self.parts[place] = self._start_part()

    def signal(self, number: signal.Signals) -> None:
        """To its main processes."""
        for part in self.parts:
            with contextlib.suppress(ProcessLookupError):
                part.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Whether all of its main processes ended in that time."""
        deadline = time.monotonic() + timeout_s
        parts = list(self.parts)
        for part in parts:
            with contextlib.suppress(subprocess.TimeoutExpired):
                part.wait(max(0.0, deadline - time.monotonic()))
        return all(part.poll() is not None for part in parts)

    def processes(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """Its own processes, main ones first, and those of its jobs."""
        own: list[psutil.Process] = []
        jobs: list[psutil.Process] = []
        for part in self.parts:
            with contextlib.suppress(psutil.NoSuchProcess):
                main = psutil.Process(part.pid)
                own.append(main)
                for process in main.children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        (jobs if str(JOB) in process.cmdline() else own).append(process)
        return own, jobs


class Scene:
    """A context manager: what it started, and what the jobs left behind, is ended with it."""

    def __init__(
        self, system: System, *, aof: bool | None = None, workers: int = 2, folder: Path | None = None
    ) -> None:
        self.system = system
        self.folder = Path(tempfile.mkdtemp(prefix="launch-kill-"))
        self.stamps = self.folder / "stamps"
        self.stamps.mkdir()
        self._token = secrets.token_hex(8)
        self.redis: RedisServer | None = None
        if system.has_redis:
            kept = system.aof if aof is None else aof
            self.redis = RedisServer(aof="everysec" if kept else None, snapshot=not kept)
            self.redis.start()
        self.client: Any = redis.Redis.from_url(self.redis.url) if self.redis is not None else None
        self.env = self._environment()
        names = ("a", "b")[: min(workers, system.workers)]
        self.workers = [Worker(self, name, folder or self.folder / f"work-{name}") for name in names]
        self.jobs: list[str] = []
        self._seconds: dict[str, float] = {}
        self.looks: list[tuple[float, dict[str, str]]] = []
        self.fault_at = 0.0
        self.cancelled: dict[str, float] = {}
        self.orphaned: dict[int, float] = {}
        self.dropped = ""
        self.notes: list[str] = []
        #: No look is made meanwhile: its answer would come from a Redis that is not there.
        self.is_blind = False
        self._over = threading.Event()
        self._link: Link | None = None
        self._looker = threading.Thread(target=self._look_on, daemon=True)

    def _environment(self) -> dict[str, str]:
        home = self.folder / "home"
        home.mkdir(mode=0o700)
        # runqd's jobs run in login shells, which find its programs by this file only.
        (home / ".bash_profile").write_text(f"export PATH={self.system.bin}:$PATH\n")
        env = clean_env(self.system.env)
        for name in ("TMUX", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
            env.pop(name, None)
        url = self.redis.url if self.redis is not None else ""
        env |= dict.fromkeys(("KILL_REDIS_URL", "LAUNCH_REDIS_URL", "RQ_REDIS_URL"), url)
        env |= {
            "KILL_FOLDER": str(self.folder),
            "KILL_SCENE": self._token,
            "HOME": str(home),
            "XDG_CONFIG_HOME": f"{home}/.config",
            "XDG_DATA_HOME": f"{home}/.data",
            "TMUX_TMPDIR": str(self.folder),
            "PATH": f"{self.system.bin}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        return env

    def __enter__(self) -> Scene:
        try:
            if self.system.environment == "runqd":
                said = ["gflowd", "init", "--yes", "--port", str(free_port())]
                subprocess.run(said, env=self.env, check=True, capture_output=True)
            for worker in self.workers:
                worker.start()
            argv = [f"{self.system.bin}/python", "-m", f"{PEERS}.{self.system.module}"]
            self._link = Link(argv, env=self.env, cwd=self.folder, log=self.folder / "link.log")
            self._warm_up()
            self._looker.start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _warm_up(self) -> None:
        """Until each worker has run a job: what boots late would have missed the fault."""
        assert self._link is not None
        deadline, number = time.monotonic() + 60, 0
        ready: set[str] = set()
        while len(ready) < len(self.workers):
            if time.monotonic() > deadline:
                raise SceneError(f"{self.system.name} did not start: {self.log_tail()}")
            with contextlib.suppress(SceneError):
                # More jobs than one worker takes at once.
                for _ in range(5):
                    number += 1
                    self._submit(f"warm-{number}", 0.6)
            until = time.monotonic() + 3
            while time.monotonic() < until and len(ready) < len(self.workers):
                ready |= {worker.name for worker in self.workers if worker.processes()[1]}
                if self.system.workers == 1 and any(self.stamps.iterdir()):
                    ready.add(self.workers[0].name)
                time.sleep(0.1)
        warm = [self.stamps / f"warm-{place}" for place in range(1, number + 1)]
        self.wait_for(lambda: all(any(e.ended_at for e in stamps.read(path)) for path in warm if path.exists()), 30)
        # All of them: a job that still waits would run beside those of the scene.
        words: dict[str, str] = {}
        while time.monotonic() < deadline:
            words = self._link.ask({"do": "states"})
            if all(word in FINAL for word in words.values()):
                return
            time.sleep(0.1)
        raise SceneError(f"the first jobs did not end: {words}; {self.log_tail()}")

    def log_tail(self) -> str:
        paths = sorted(self.folder.glob("*.log"))
        return "\n".join(line for path in paths for line in path.read_text(errors="replace").splitlines()[-8:])

    # Jobs

    def _submit(self, name: str, seconds: float, *flags: str) -> None:
        assert self._link is not None
        argv = [sys.executable, "-I", "-S", str(JOB), str(self.stamps / name), f"{seconds}", *flags]
        self._link.ask({"do": "submit", "name": name, "argv": argv})

    def submit(self, count: int, seconds: float, *flags: str) -> list[str]:
        """So many jobs of so many seconds; returns their names."""
        names = [f"job-{len(self.jobs) + place}" for place in range(1, count + 1)]
        for name in names:
            self.jobs.append(name)
            self._submit(name, seconds, *flags)
        return names

    def executions(self, name: str) -> list[stamps.Execution]:
        return stamps.read(self.stamps / name)

    def running(self, names: Iterable[str] = ()) -> list[str]:
        """Those of the jobs, or of these, that have a process of their own now."""
        now = boot_time_s()
        return [
            name
            for name in names or self.jobs
            if any(e.lives_at(now) and e.ended_at is None and not e.is_child for e in self.executions(name))
        ]

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def begin(self, count: int, seconds: float, *flags: str) -> list[str]:
        """Submit jobs; returns their names when the first worker, or where there is one only the system, has two."""
        names = self.submit(count, seconds, *flags)

        def has_some() -> bool:
            if self.system.workers == 1:
                return len(self.running()) >= 2
            return len(self.workers[0].processes()[1]) >= 2 and len(self.running()) >= 2

        if not self.wait_for(has_some, 10) and not self.running():
            raise SceneError(f"no job began: {self.log_tail()}")
        return names

    # Looks

    def _look_on(self) -> None:
        assert self._link is not None
        while not self._over.wait(LOOK_S):
            for worker in self.workers:
                worker.supervise()
            if self.is_blind:
                continue
            with contextlib.suppress(SceneError):
                words = self._link.ask({"do": "states"})
                if not self.is_blind:
                    self.looks.append((boot_time_s(), words))

    def cancel(self, name: str, *, hard: bool) -> None:
        """Raises SceneError where the system refuses."""
        assert self._link is not None
        self._link.ask({"do": "cancel", "name": name, "hard": hard})

    def mark(self) -> None:
        """The fault is now."""
        self.fault_at = boot_time_s()

    def jobs_of(self, worker: Worker) -> dict[psutil.Process, int]:
        """The processes of its jobs, and their parents."""
        return {process: process.ppid() for process in worker.processes()[1]}

    def mark_orphans(self, before: dict[psutil.Process, int]) -> None:
        """Those of these jobs whose parents are gone: nobody waits for their ends."""
        for process, parent in before.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.ppid() != parent:
                    self.orphaned[process.pid] = self.fault_at

    def settle(self, patience_s: float) -> Facts:
        """Wait until nothing of the jobs goes on and every record is final, or as long as is worth it."""
        began, quiet_since = time.monotonic(), None
        while time.monotonic() - began < patience_s:
            time.sleep(LOOK_S)
            words = self.looks[-1][1] if self.looks else {}
            is_over = all(words.get(name) in FINAL for name in self.jobs) and not self._is_anything_alive()
            quiet_since = (quiet_since or time.monotonic()) if is_over else None
            if quiet_since and time.monotonic() - max(quiet_since, began) > SETTLED_S:
                break
        over_at = boot_time_s()
        return Facts(
            jobs={name: self.executions(name) for name in self.jobs},
            looks=[(at, words) for at, words in self.looks if at <= over_at],
            fault_at=self.fault_at or over_at,
            over_at=over_at,
            cancelled=self.cancelled,
            orphaned=self.orphaned,
            dropped=self.dropped,
        )

    def _is_anything_alive(self) -> bool:
        now = boot_time_s()
        mains = [e for name in self.jobs for e in self.executions(name) if not e.is_child]
        return any(e.lives_at(now) and e.ended_at is None for e in mains)

    # Messages

    def lists(self) -> Iterator[bytes]:
        """The keys of the lists in which messages wait now."""
        for key in self.client.scan_iter(self.system.lists):
            if self.client.type(key) == b"list" and self.client.llen(key):
                yield key

    # The end

    def _ours(self) -> Iterator[psutil.Process]:
        """All that came from this scene: by the mark in their environment, or by the folder in their command line."""
        mark = f"KILL_SCENE={self._token}".encode()
        for pid in psutil.pids():
            with contextlib.suppress(psutil.Error, OSError):
                if pid == os.getpid():
                    continue
                if mark in Path(f"/proc/{pid}/environ").read_bytes() or any(
                    str(self.folder) in word for word in psutil.Process(pid).cmdline()
                ):
                    yield psutil.Process(pid)

    def _close(self) -> None:
        self._over.set()
        if self._looker.ident is not None:
            self._looker.join(20)
        if self._link is not None:
            self._link.end()
        for _ in range(50):
            found = list(self._ours())
            if not found:
                break
            for process in found:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(found, timeout=0.2)
        for worker in self.workers:
            worker.wait(5)
        if self.redis is not None:
            self.client.close()
            self.redis.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
