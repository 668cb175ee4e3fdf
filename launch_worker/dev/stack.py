"""The embedded default: a private Redis, a worker, beat and the web page, on loopback, stopped together."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from launch_worker.api import Api
from launch_worker.dev.redis_server import RedisServer, free_port
from launch_worker.errors import LaunchError
from launch_worker.settings import Settings

_STOP_S = 15.0


class Stack:
    """Everything of a launch system on one machine. `start`, then `stop`; both may be called twice."""

    def __init__(self, *, queues: str = "default,gpu", slots: int = 4, web: bool = True) -> None:
        self._queues = queues
        self._slots = slots
        self._web = web
        self._folder = Path(tempfile.mkdtemp(prefix="launch-dev-"))
        self.redis = RedisServer()
        self.web_port = 0
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> Api:
        """Start all parts and wait until the worker takes runs. Raises LaunchError with the failed part's log."""
        self.redis.start()
        self._spawn("worker", "worker", "-Q", self._queues, "-c", str(self._slots), "--loglevel", "INFO")
        self._spawn("beat", "beat", "--loglevel", "INFO")
        if self._web:
            self.web_port = free_port()
            self._spawn("web", "flower", "--address=127.0.0.1", f"--port={self.web_port}")
        api = Api(settings=Settings.from_env(redis_url=self.redis.url))
        deadline = time.monotonic() + 30
        while not api.store.workers():
            self.check()
            if time.monotonic() > deadline:
                raise LaunchError(f"the worker did not start; its log: {self._log_tail('worker')}")
            time.sleep(0.02)
        return api

    def check(self) -> None:
        """Raises LaunchError when a part has ended by itself."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise LaunchError(f"{name} ended with {process.returncode}; its log: {self._log_tail(name)}")
        if self.redis.process is None or self.redis.process.poll() is not None:
            raise LaunchError("the private redis-server ended")

    def stop(self) -> None:
        """End all parts, the worker first so that it can report what it stopped; running jobs are ended."""
        for signals in (1, 2):
            for name in ("worker", "web", "beat"):
                process = self.processes.get(name)
                if process is not None and process.poll() is None and (signals == 1 or name == "worker"):
                    process.terminate()
            if signals == 1:
                self._wait(self.processes.get("worker"), 0.5)
        for process in self.processes.values():
            if not self._wait(process, _STOP_S):
                process.kill()
                process.wait()
        self.redis.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self, process: subprocess.Popen[bytes] | None, timeout_s: float) -> bool:
        if process is None:
            return True
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _spawn(self, name: str, *arguments: str) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("CELERY_", "FLOWER_"))}
        env |= {"LAUNCH_REDIS_URL": self.redis.url, "LAUNCH_WORK_DIR": str(self._folder / "work")}
        env["FLOWER_COOKIE_SECRET"] = secrets.token_urlsafe(16)
        with (self._folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "launch_worker", *arguments],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C reaches the one who stops them in order.
                start_new_session=True,
            )

    def _log_tail(self, name: str) -> str:
        text = (self._folder / f"{name}.log").read_text(errors="replace")
        return "\n" + "\n".join(text.strip().splitlines()[-15:])
