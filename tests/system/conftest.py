"""Real workers, beats and commands as processes of their own, on a real Redis."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from launch_worker.api.client import Api, Run
from launch_worker.dev.redis_server import RedisServer
from launch_worker.runners.process import tree
from launch_worker.settings import Settings
from tests.conftest import wait_until
from tests.support.http_servers import KEY, TestServer, serving
from tests.support.logins import OF_ALL as HAS_LOGINS
from tests.support.logins import Logins
from tests.support.sandboxes import OF_ALL, variables_of_all

#: Intervals in seconds: short enough that a test need not wait, long enough for a loaded machine.
TIMES = {"LAUNCH_HEARTBEAT_S": "0.5", "LAUNCH_LEASE_S": "3", "LAUNCH_PASS_S": "0.5"}
#: What a job prints as its last words, with escapes of printf.
TRACEBACK = "Traceback (most recent call last):\\nKeyError: 3\\n"
#: URL of no Redis.
NOWHERE = "redis://127.0.0.1:1/0"


class Part:
    """One process of a test's system, with its log."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.process = process
        self.log_path = log_path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 30.0) -> int:
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


#: Account of the jobs of all queues; '' for the worker's own user. The main path is run with another one too.
RUN_AS = os.environ.get("LAUNCH_TEST_RUN_AS", "")


def open_to_jobs(folder: Path) -> None:
    """Let jobs of another account write into a test's folder, as they could if they were the worker's user's."""
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    folder.chmod(0o1777)
    os.umask(0)


def seen_by_all(argv: list[str]) -> list[str]:
    """The command, in a mount namespace where jobs of another account can execute this Python."""
    if not RUN_AS:
        return argv
    from tests.security.site import opening

    return ["unshare", "--mount", "sh", "-c", f"{opening()}\nexec {shlex.join(argv)}"]


class Cluster:
    """The launch system of one test: a Redis, a folder, and the processes that the test starts."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self.redis_url = redis_url
        self.folder = folder
        if RUN_AS:
            open_to_jobs(folder)
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("LAUNCH_", "CELERY_"))}
        self.env |= TIMES | {"LAUNCH_REDIS_URL": redis_url, "LAUNCH_WORK_DIR": str(folder / "work")}
        self.env["LAUNCH_ALLOW_ROOT"] = "1"
        self.env["PATH"] = f"{Path(sys.executable).parent}:{self.env['PATH']}"
        self.env |= variables_of_all(folder)
        self.logins = Logins(redis_url) if HAS_LOGINS else None
        if self.logins is not None:
            self.env["LAUNCH_REDIS_URL"] = self.logins.url("worker")
        #: Variables of commands and no worker: a server's address, in place of Redis'.
        self.door: dict[str, str] = {}
        # What a test looks at and does by itself is nobody's work.
        self.api = Api(settings=Settings.from_env(self.env, redis_url=redis_url))
        if self.logins is not None:
            # As a worker that was there before: users of Redis load no functions.
            self.api.store.heal([])
        self.parts: list[Part] = []

    def runs(self, **values: str) -> list[Run]:
        """The runs that have these values (`state="running"`), the newest first; each is read anew at every look."""
        return [self.api.run(found.id) for found in self.api.runs(filters=values)]

    def celery(
        self,
        *arguments: str,
        name: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        by: Callable[..., list[str]] = lambda *argv: list(argv),
    ) -> Part:
        """Start a command of Celery. `by` may put words around the command, as `sudo` or `unshare`."""
        log_path = self.folder / f"{name}.{len(self.parts)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                seen_by_all(by(sys.executable, "-m", "celery", "-A", "launch_worker", *arguments)),
                cwd=cwd or self.folder,
                env=self.env | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o022,
            )
        part = Part(process, log_path)
        self.parts.append(part)
        return part

    def worker(
        self,
        queues: str = "default",
        *,
        slots: int = 2,
        name: str = "w1",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        wait: bool = True,
        by: Callable[..., list[str]] = lambda *argv: list(argv),
    ) -> Part:
        """Start a worker, and wait until it takes runs (unless `wait` is False)."""
        if RUN_AS:
            known = {queue.name for queue in self.api.queues()}
            for queue in queues.split(","):
                (self.api.set_queue if queue in known else self.api.create_queue)(queue, run_as=RUN_AS)
        part = self.celery(
            *("worker", "-Q", queues, "-c", str(slots), "-n", f"{name}@%h", "--loglevel", "INFO", *arguments),
            name=name,
            cwd=cwd,
            env=env,
            by=by,
        )
        if wait:
            wait_until(lambda: " ready." in part.log or part.process.poll() is not None, what=f"{name} is ready")
            assert part.process.poll() is None, part.log
            said = wait_until(
                lambda: next((w for w in self.api.store.workers() if w["pid"] == part.pid), None),
                what=f"{name} is listed",
            )
            assert said["layers"] or not OF_ALL, "all jobs of the tests were to run in a sandbox"
        return part

    def beat(self) -> Part:
        return self.celery("beat", name="beat")

    def archive(self) -> Part:
        """Start an archive's process."""
        log_path = self.folder / f"archive.{len(self.parts)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                ["launch-worker", "archive", "run"],
                cwd=self.folder,
                env=self.env | self.login("launch-worker", "archive", "run"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.parts.append(Part(process, log_path))
        return self.parts[-1]

    def run(self, *command: str, timeout_s: float = 60.0, env: Mapping[str, str] | None = None) -> Result:
        """Run a command to its end."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | self.login(*command) | self.door | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def open(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command that goes on beside the test; the caller waits for its end."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env | self.login(*command) | self.door,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def login(self, *command: str) -> dict[str, str]:
        """The variables by which a command logs in, where that is another user than the worker's."""
        return {} if self.logins is None else self.logins.of_command(command)

    def show(self, run_id: str) -> dict[str, Any]:
        result = self.run("launch-worker", "show", run_id, "--json")
        assert result.code == 0, result.err
        shown: dict[str, Any] = json.loads(result.out)
        return shown

    def close(self) -> None:
        for part in self.parts:
            if part.process.poll() is None:
                part.process.send_signal(signal.SIGCONT)
                part.kill()
        self.api.store.close()


class Result:
    """The exit code and the output of a command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"


#: Mark of tests whose commands go through Redis, and through a server too.
through_both_doors = pytest.mark.parametrize("door", ["redis", "http"], indirect=True)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Through a server a test is run once: not again on each further server and variant of Redis."""
    callspec = getattr(item, "callspec", None)
    if callspec is not None and callspec.params.get("door") == "http":
        item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "main_path"]


@pytest.fixture(scope="session")
def server_for_all(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """One server for all tests of a process, on the Redis that is emptied before each."""
    with serving(redis_server.url, tmp_path_factory.mktemp("server"), variables=TIMES) as server:
        yield server


@pytest.fixture
def cluster(redis_url: str, tmp_path: Path, door: str, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = Cluster(redis_url, tmp_path)
    if door == "http":
        server = request.getfixturevalue("server_for_all")
        # Redis' own address is one where nobody listens.
        made.door = {"LAUNCH_API_URL": server.url, "LAUNCH_API_TOKEN": KEY, "LAUNCH_REDIS_URL": NOWHERE}
    yield made
    ids = {record.id.encode() for record in made.api.store.runs()}
    made.close()
    # Once all workers are gone no process of any job may be left, whatever the test did.
    wait_until(lambda: not _processes_of(ids), what="no job process is left")
    assert made.logins is None or made.logins.refused() == []


def job_processes(run_id: str) -> list[int]:
    """Return the pids of a run's living processes, which are found by their environment."""
    mark = (f"LAUNCH_RUN_ID={run_id}".encode(),)
    return [p.id.pid for p in tree.table() if not p.zombie and tree.has_environ(p.id.pid, mark)]


def _processes_of(run_ids: set[bytes]) -> list[int]:
    """The pids of the living processes of any of these runs: one look at all processes, however many the runs are."""
    marks = {b"LAUNCH_RUN_ID=" + run_id for run_id in run_ids}
    return [p.id.pid for p in tree.table() if not p.zombie and marks & tree.environ(p.id.pid)]


def waits_for(flag: Path) -> str:
    """Return a line of sh that goes on once the test has made this file."""
    return f"until [ -e {flag} ]; do sleep 0.05; done"


def states(run: Run) -> list[str]:
    """Return the names of the states in a run's history."""
    return [step.state.value for step in run.transitions]


def stamps(path: Path) -> list[str]:
    """Return the words that jobs appended to a file."""
    return path.read_text().split() if path.exists() else []


def wait_for_output(run: Run, text: bytes, timeout_s: float = 20.0) -> None:
    wait_until(lambda: text in run.logs(), timeout_s=timeout_s, what=f"{text!r} in the log")


def wait_for_pid(run: Run) -> int:
    """Wait until the record has the pid of the run's main process, and return the pid."""
    return wait_until(lambda: run.refresh().pid or 0, what="the job's pid is known")


def break_machine(cluster: Cluster) -> list[Path]:
    """Put files in the workers' way: they can start no run until these are deleted. Return the files."""
    broken = []
    for folder in (cluster.folder / "work" / "workers").iterdir():
        if not (folder / "runs").exists():
            (folder / "runs").write_text("no folder")
            broken.append(folder / "runs")
    return broken


def elapsed_s(since: float) -> float:
    return time.monotonic() - since
