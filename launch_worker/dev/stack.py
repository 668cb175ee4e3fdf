"""Starts and ends the parts of a launch system on one machine: Redis, a worker, beat, the server with its archive."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from launch_worker.dev.redis_server import RedisServer, free_port, is_free
from launch_worker.dev_folder import archive_url_of, log_url_of, output_url_of
from launch_worker.errors import LaunchError
from launch_worker.model.spec import parse_spec
from launch_worker.model.states import RunState
from launch_worker.runners.process.own_process import tie_to
from launch_worker.server.loopback import loopback_key, with_key
from launch_worker.store.store import Store

#: Ports where they are free.
SERVER_PORT = 7600
REDIS_PORT = 7602
_START_S = 30.0
#: Seconds for a worker's last steps, beside the grace of its jobs.
_STOP_S = 15.0
#: Seconds for them once its jobs are killed.
_KILL_S = 5.0
#: The program `launch-worker`.
_LAUNCH_WORKER = "from launch_worker.cli.programs import worker; worker()"


class StoppedError(LaunchError):
    """The start was given up, because the caller no longer wants it."""


class Stack:
    """Everything of a launch system on one machine. `start`, then `stop`.

    Its processes are in sessions of their own, so that a terminal's Ctrl-C reaches none of them, and end with the
    process that called `start`: by SIGKILL, when that one could not call `stop`.
    """

    def __init__(self, folder: Path, *, is_kept: bool, queues: str, slots: int, web: bool, waits: bool) -> None:
        """`is_kept`: the data stays, and the ports are the same each time, if they are free.

        `web`: with the server, where what it needs is installed; `waits`: `start` waits until it answers.
        """
        self._folder = folder
        self._is_kept = is_kept
        self._queues = queues
        self._slots = slots
        needs = ("fastapi", "uvicorn", "starlette_compress", "sqlalchemy", "alembic", "argon2", "httpx", "jinja2")
        self._web = web and _has(*needs)
        self._waits = waits
        self._tie = tie_to(os.getpid())
        self.redis = RedisServer(
            aof="everysec" if is_kept else None,
            folder=folder / "redis",
            port=REDIS_PORT if is_kept else 0,
            before_exec=self._tie,
        )
        self.server_port = 0
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._store: Store | None = None

    def start(self, *, go_on: Callable[[], bool] = lambda: True) -> None:
        """Start all parts and wait until the worker takes runs.

        Raises LaunchError with the failed part's log, StoppedError when `go_on` says no.
        """
        self.redis.start()
        arguments = ("-Q", self._queues, "-c", str(self._slots), "--loglevel", "INFO")
        self._spawn("worker", "worker", *arguments)
        self._spawn("beat", "beat", "--loglevel", "INFO")
        if self._web:
            is_fixed = self._is_kept and self._waits and is_free(SERVER_PORT)
            self._start_server(SERVER_PORT if is_fixed else free_port())
        elif self._waits and _has("sqlalchemy", "alembic"):
            self._execute("archive", "-c", _LAUNCH_WORKER, "archive", "run")
        store = self._store = Store(self.redis.url)
        deadline = time.monotonic() + _START_S
        pid = self.processes["worker"].pid
        while not any(worker["pid"] == pid for worker in store.workers()):
            self._wait_a_moment("worker", deadline, go_on)
        while self._web and self._waits and not _is_ready(self.server_port):
            if self.processes["server"].poll() is not None and not is_free(self.server_port):
                # Another program took the port in between.
                self._start_server(free_port())
            self._wait_a_moment("server", deadline, go_on)

    def _wait_a_moment(self, name: str, deadline: float, go_on: Callable[[], bool]) -> None:
        self.check()
        if not go_on():
            raise StoppedError("stopped while starting")
        if time.monotonic() > deadline:
            raise LaunchError(f"the {name} did not start; its log: {self._log_tail(name)}")
        time.sleep(0.02)

    def check(self) -> None:
        """Raises LaunchError when a part has ended by itself."""
        for name, process in self.processes.items():
            # Nothing rests on the archive.
            if process.poll() is not None and name != "archive":
                raise LaunchError(f"the {name} ended with {process.returncode}; its log: {self._log_tail(name)}")
        if self.redis.process is None or self.redis.process.poll() is not None:
            raise LaunchError("the private Redis server ended")

    def running(self) -> dict[str, float]:
        """The grace of each run that runs now; empty where Redis does not answer."""
        if self._store is None:
            return {}
        try:
            return {
                record.id: parse_spec(record.spec).grace_s for record in self._store.runs({"state": {RunState.RUNNING}})
            }
        except LaunchError:
            return {}

    def counts(self) -> dict[str, int]:
        """The number of runs in each state."""
        return {state.value: count for state, count in self._store.counts().items()} if self._store else {}

    def stop(self, *, is_killed: Callable[[], str] = lambda: "") -> None:
        """End all parts, the worker first so that it can report what it stopped; running jobs are ended.

        They have their grace, until `is_killed` gives a reason to end them at once.
        """
        deadline = time.monotonic() + _STOP_S + max(self.running().values(), default=0.0)
        for process in self.processes.values():
            _terminate(process)
        # The first signal lets running jobs go on; it is enough where there are none.
        second_at, has_killed = time.monotonic() + 0.5, False
        while any(process.poll() is None for process in self.processes.values()) and time.monotonic() < deadline:
            if second_at is not None and time.monotonic() > second_at and "worker" in self.processes:
                second_at = float("inf")
                _terminate(self.processes["worker"])
            reason = is_killed()
            if reason and not has_killed:
                has_killed = True
                deadline = time.monotonic() + _KILL_S
                self._kill_runs(reason)
            time.sleep(0.02)
        for process in self.processes.values():
            process.kill()
            process.wait()
        if self._store is not None:
            self._store.close()
        self.redis.stop()

    def _kill_runs(self, reason: str) -> None:
        for run_id in self.running():
            with contextlib.suppress(LaunchError):
                assert self._store is not None
                self._store.cancel(run_id, reason=reason, grace_s=0)

    @property
    def server_url(self) -> str:
        """The server's address, which lets its reader in; '' without a server."""
        if not self.server_port:
            return ""
        return with_key(f"http://127.0.0.1:{self.server_port}", loopback_key(self._work_folder))

    @property
    def _work_folder(self) -> Path:
        return self._folder / "work"

    def _start_server(self, port: int) -> None:
        self.server_port = port
        self._execute("server", "-c", _LAUNCH_WORKER, "server", "--address", f"127.0.0.1:{port}")

    def _spawn(self, name: str, *arguments: str) -> None:
        """Start a program of Celery."""
        self._execute(name, "-m", "celery", "-A", "launch_worker", *arguments)

    def _execute(self, name: str, *arguments: str) -> None:
        """Start a program of Python."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("CELERY_", "FLOWER_"))}
        env |= {"LAUNCH_REDIS_URL": self.redis.url, "LAUNCH_WORK_DIR": str(self._work_folder)}
        # Its jobs are of the person who started it, whoever that is.
        env["LAUNCH_ALLOW_ROOT"] = "1"
        env["LAUNCH_DATABASE_URL"] = env.get("LAUNCH_DATABASE_URL") or archive_url_of(self._folder)
        env["LAUNCH_LOG_URL"] = env.get("LAUNCH_LOG_URL") or log_url_of(self._folder)
        env["LAUNCH_OUTPUT_URL"] = env.get("LAUNCH_OUTPUT_URL") or output_url_of(self._folder)
        with (self._folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                # -P and cwd: no module of the current folder is imported, and no celeryconfig.py is read.
                [sys.executable, "-P", *arguments],
                cwd=self._folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=self._tie,
            )

    def _log_tail(self, name: str) -> str:
        text = (self._folder / f"{name}.log").read_text(errors="replace")
        return "\n" + "\n".join(text.strip().splitlines()[-15:])


def _has(*modules: str) -> bool:
    """Whether these modules are installed."""
    return all(importlib.util.find_spec(name) for name in modules)


def _terminate(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
