"""Users of Redis for tests; with LAUNCH_TEST_ACL=1 in the environment all parts log in as those that are shipped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from launch_worker.dev.redis_server import RedisServer
from launch_worker.redis_url import RedisUrl
from tests.support.redis_client import redis_of

CONFIG = Path(__file__).parents[2] / "deploy" / "redis"
#: Users of each file, in its order.
USERS = {
    "users.conf": ("admin", "archive", "worker", "server", "server-reader", "scaler"),
    "direct.conf": ("producer", "viewer"),
}
#: Whether the parts of all tests' systems log in as the users of deploy/redis.
OF_ALL = os.environ.get("LAUNCH_TEST_ACL") == "1"
#: Commands of `launch-worker`, with their words, that are an admin's.
_OF_ADMINS = {
    "queues": {"create", "set", "pause", "resume", "delete"},
    "pools": {"create", "set", "pause", "resume", "delete"},
    "workers": {"drain", "upgrade", "resume"},
    "allowances": {"set"},
    # It reads the append-only file's settings.
    "doctor": {"doctor"},
}


def have_servers_know_the_users() -> None:
    """Have each private Redis that tests start know the users of deploy/redis, also when it is started again."""
    start = RedisServer.start

    def start_with_users(server: RedisServer, **options: float) -> None:
        start(server, **options)
        client = redis_of(server.url)
        for name, users in USERS.items():
            for line in (CONFIG / name).read_text().splitlines():
                words = line.split()
                if words[:1] == ["user"] and words[1] in users:
                    client.execute_command("ACL", "SETUSER", words[1], "reset", *words[2:], f">{words[1]}-pw")

    RedisServer.start = start_with_users  # type: ignore[method-assign, assignment]


#: What is refused to a client that makes the passes of a beat.
_EXPECTED = tuple(f"producer: key 'launch:{name}'" for name in ("settling", "passes"))


class Logins:
    """The users of deploy/redis on a test's Redis, whose own URL goes on to be everybody's."""

    def __init__(self, url: str) -> None:
        self._url = RedisUrl.parse(url)
        self._redis = redis_of(url)
        self._redis.acl_log_reset()

    def url(self, user: str) -> str:
        [(host, port)] = self._url.servers
        return f"redis://{user}:{user}-pw@{host}:{port}/{self._url.db}"

    def of_command(self, command: Sequence[str]) -> dict[str, str]:
        """The variables of a command of somebody who uses Redis itself."""
        name = os.path.basename(command[0])
        if name not in ("launch-submit", "launch-worker"):
            return {}
        words = set(command[1:])
        if name == "launch-worker" and words & {"archive", "audit"}:
            return {"LAUNCH_REDIS_URL": self.url("archive")}
        of_admin = name == "launch-worker" and any(word in words and acts & words for word, acts in _OF_ADMINS.items())
        return {"LAUNCH_REDIS_URL": self.url("admin" if of_admin else "producer")}

    def refused(self) -> list[str]:
        """What Redis has refused to whom. A producer tries the passes where neither a worker nor a beat lives."""
        said = [f"{entry['username']}: {entry['reason']} {entry['object']!r}" for entry in self._redis.acl_log()]
        return [line for line in said if line not in _EXPECTED]
