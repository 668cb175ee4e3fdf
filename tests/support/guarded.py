"""A real Redis with the users of deploy/redis, each with a password."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from launch_worker.api.client import Api
from launch_worker.errors import BrokerUnavailableError
from launch_worker.settings import Settings
from launch_worker.store.redis.connection import connect
from tests.conftest import wait_until
from tests.support.logins import CONFIG as CONFIG
from tests.support.logins import USERS as USERS
from tests.support.ports import own_port


class Guarded:
    """A Redis with deploy/redis/redis.conf, and each user's view of it.

    `is_direct`: people and programs that use Redis itself can log in too.
    """

    def __init__(self, program: str, folder: Path, *, is_direct: bool) -> None:
        self.port = own_port()
        self.folder = folder
        for name in ("redis.conf", *USERS):
            shutil.copy(CONFIG / name, folder)
        for name, users in USERS.items():
            # As the head of the file says to do it.
            for user in users:
                replace(folder / name, rf"^user {user} on", rf"user {user} on >{user}-pw")
        if is_direct:
            replace(folder / "redis.conf", r"^#include direct.conf", "include direct.conf")
        self._program = program
        self._start()
        #: For what has no command of ours.
        self.admin = self.client("admin")
        # As a worker that starts does.
        self.api("worker").store.heal([])

    def url(self, user: str) -> str:
        return f"redis://{user}:{user}-pw@127.0.0.1:{self.port}/0"

    def client(self, user: str) -> Any:
        return connect(self.url(user), name="test")

    def api(self, user: str) -> Api:
        return Api(settings=Settings.from_env({}, redis_url=self.url(user)))

    def refused(self) -> list[str]:
        """What was refused since the last call, by whom."""
        entries = self.admin.acl_log()
        self.admin.acl_log_reset()
        return [f"{entry['username']}: {entry['reason']} {entry['object']!r}" for entry in entries]

    def restart(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._start()

    def _start(self) -> None:
        with (self.folder / "redis.log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, "redis.conf", "--port", str(self.port)], cwd=self.folder, stdout=log, stderr=log
            )
        api = self.api("admin")
        wait_until(lambda: self._answers(api), what="Redis answers")

    def close(self) -> None:
        self.admin.close()
        self._process.terminate()
        self._process.wait(10)

    def _answers(self, api: Api) -> bool:
        assert self._process.poll() is None, (self.folder / "redis.log").read_text()
        try:
            api.store.ping()
        except BrokerUnavailableError:
            return False
        return True


def replace(path: Path, pattern: str, by: str) -> None:
    """Replace what must be there once in a file."""
    text, done = re.subn(pattern, by, path.read_text(), flags=re.MULTILINE)
    assert done == 1, (path, pattern)
    path.write_text(text)
