"""One launch system for many attacks: users of Redis as they are shipped, a worker's account, a stranger's account."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from launch_worker import submit
from launch_worker.api.client import Api, Run
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.support.guarded import Guarded
from tests.support.ports import own_port
from tests.support.servers import SERVERS
from tests.system.conftest import Cluster, Part, states, waits_for

#: Accounts that nobody else has: the worker's, and another person's on the same machine.
#: Each process that executes tests has its own: a worker that starts can be read by its user for a moment.
_NTH = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
WORKER_UID, STRANGER_UID = 47_021 + 2 * _NTH, 47_022 + 2 * _NTH
SLOTS = 4

is_root = os.geteuid() == 0


class Site:
    """A Redis with the shipped users, a folder, and a worker of an unprivileged account if root runs the tests."""

    def __init__(self, *, env: dict[str, str] | None = None) -> None:
        # Not pytest's own folder, which is closed to other accounts, nor below /tmp, which a sandbox has of its own.
        homes = Path("/home")
        self.folder = Path(
            tempfile.mkdtemp(prefix="launch-security-", dir=homes if os.access(homes, os.W_OK) else None)
        )
        self.folder.chmod(0o755)
        (self.folder / "redis").mkdir(mode=0o700)
        self.redis = Guarded(SERVERS[0], self.folder / "redis", is_direct=True)
        self.home = self.folder / "home"
        self.home.mkdir()
        if not can_change_account():
            os.chown(self.home, WORKER_UID, WORKER_UID)
        self.cluster = Cluster(self.redis.url("worker"), self.home)
        self.health_port = own_port()
        self.cluster.env |= {"LAUNCH_HEALTH_ADDRESS": f"127.0.0.1:{self.health_port}"}
        self.cluster.env |= {"HOME": str(self.home), "HUB_TOKEN": "the-hub-token-of-the-worker"} | (env or {})
        self._apis: dict[str, Api] = {}
        self._clients: dict[str, Any] = {}
        self._worker: Part | None = None
        self._neighbours = 0
        self._submitted: list[Run] = []
        #: An error of which the worker may log a traceback during this test.
        self.may_say = ""

    # -- who --------------------------------------------------------------------------------------------------------

    def api(self, user: str) -> Api:
        """The launch system as this user of Redis uses it."""
        if user not in self._apis:
            self._apis[user] = self.redis.api(user)
        return self._apis[user]

    def client(self, user: str) -> Any:
        """Redis as this user reaches it."""
        if user not in self._clients:
            self._clients[user] = self.redis.client(user)
        return self._clients[user]

    def submit(self, *command: str, user: str = "producer", **options: Any) -> Run:
        run = submit(list(command), api=self.api(user), **options)
        self._submitted.append(run)
        return run

    def shell(self, script: str, **options: Any) -> str:
        """What a job that executes this script printed; the job must have ended by itself."""
        run = self.submit("sh", "-c", script, **options)
        assert run.wait(30) in (RunState.FINISHED, RunState.FAILED), run.record.reason
        return run.logs().decode("utf-8", "replace")

    # -- the worker -------------------------------------------------------------------------------------------------

    @property
    def worker(self) -> Part:
        """The worker of queue `default`; another one if the last has ended."""
        if self._worker is None or self._worker.process.poll() is not None:
            self._worker = self.cluster.worker(slots=SLOTS, by=as_account(WORKER_UID), cwd=self.home)
        return self._worker

    def free_slots(self) -> int:
        """How many slots the worker has free, as the scripts count them."""
        workers = self.api("admin").store.workers_now()
        [free] = [said["slots"] - said["running"] for said in workers if said["pid"] == self.worker.pid]
        return int(free)

    @contextlib.contextmanager
    def neighbour(self) -> Iterator[Run]:
        """A job beside an attack: it ends Finished, its worker has lived through it, answers, and has lost no slot."""
        worker = self.worker
        said_before, self.may_say = len(worker.log), ""
        wait_until(lambda: self.free_slots() == SLOTS, what="all slots are free")
        self._neighbours += 1
        flag = self.folder / f"end{self._neighbours}"
        run = self.submit("sh", "-c", waits_for(flag))
        wait_until(lambda: run.refresh().state is RunState.RUNNING, what="the neighbour runs")
        try:
            yield run
        finally:
            flag.touch()
            # What a test has left running would take slots of the next one.
            for left in self._submitted:
                if left is not run and not left.refresh().state.is_final:
                    left.cancel(grace_s=0)
            self._submitted.clear()
        log = worker.log[said_before:]
        assert worker.process.poll() is None, log[-3000:]
        assert run.wait(20) is RunState.FINISHED, (run.record.reason, log[-3000:])
        assert states(run) == ["Pending", "Running", "Finished"]
        assert self.submit("true").wait(20) is RunState.FINISHED, log[-3000:]
        wait_until(lambda: self.free_slots() == SLOTS, what="no slot is lost")
        assert "Traceback" not in log or (self.may_say and self.may_say in log), log[-3000:]
        assert "\x1b" not in log
        assert max(map(len, log.splitlines()), default=0) < 5000

    def close(self) -> None:
        self.cluster.close()
        for client in self._clients.values():
            client.close()
        for api in self._apis.values():
            api.store.close()
        self.redis.close()
        shutil.rmtree(self.folder)


# -- accounts ----------------------------------------------------------------------------------------------------------


def as_account(uid: int) -> Any:
    """What makes a command one of this account, without any right of root's; it stays as it is where that cannot be."""
    return lambda *argv: list(argv) if can_change_account() else _changed(uid, argv)


def _changed(uid: int, argv: tuple[str, ...]) -> list[str]:
    user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all", *argv]
    if "\n" not in opening():
        return user
    return ["unshare", "--mount", "sh", "-c", f"{opening()}\nexec {shlex.join(user)}"]


@cache
def opening() -> str:
    """Shell lines that let each account of a mount namespace execute this Python, though it lies in a closed folder."""
    needed = {Path(sys.prefix), Path(sys.base_prefix), Path(sysconfig.get_path("stdlib")), Path(__file__).parents[2]}
    closed: dict[Path, set[Path]] = {}
    for path in needed:
        for folder in (path, *path.parents)[::-1]:
            if not folder.stat().st_mode & 0o001:
                closed.setdefault(folder, set()).add(path)
                break
    lines = ["set -e"]
    for number, (folder, paths) in enumerate(closed.items()):
        new = f"/tmp/launch-open.$$.{number}"
        lines += [f"mkdir {new}", f"mount -t tmpfs -o mode=755 none {new}"]
        for path in sorted(paths):
            inside = f"{new}/{path.relative_to(folder)}"
            lines += [f"[ -e {inside} ] || {{ mkdir -p {inside}; mount --bind {path} {inside}; }}"]
        lines += [f"mount --move {new} {folder}", f"rmdir {new}"]
    return "\n".join(lines)


@cache
def can_change_account() -> str:
    """Why this machine makes no processes of other accounts; empty if it does."""
    if not is_root:
        return "only root makes processes of several accounts"
    python = (sys.executable, "-c", "import launch_worker, os; print(os.getuid())")
    try:
        done = subprocess.run(_changed(WORKER_UID, python), capture_output=True, text=True, check=False)
    except OSError as error:
        return f"processes of another account fail here: {error}"
    return "" if done.stdout == f"{WORKER_UID}\n" else f"processes of another account fail here: {done.stderr}"
