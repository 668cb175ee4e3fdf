"""A connection to one Redis, the calls of scripts, and the registers that producers look at too."""

from __future__ import annotations

import json
from typing import Any

from redis.exceptions import NoScriptError

from launch_worker.store import keys
from launch_worker.store.connection import clear_errors, connect
from launch_worker.store.scripts import script_of


class Client:
    """What every part of the store is. Thread-safe; every method raises BrokerUnavailableError."""

    def __init__(self, url: str, *, client_name: str = "launch") -> None:
        self.url = url
        # redis-py's annotations fit neither RESP2 nor RESP3 replies.
        self._redis: Any = connect(url, name=client_name)

    def close(self) -> None:
        self._redis.close()

    def exists(self, run_id: str) -> bool:
        """Whether there is such a run."""
        with clear_errors(self.url):
            return bool(self._redis.exists(keys.run(run_id)))

    def workers(self) -> list[dict[str, Any]]:
        """The descriptions of the live workers."""
        with clear_errors(self.url):
            owners = self._redis.zrange(keys.WORKERS, 0, -1)
            found = self._redis.mget([keys.worker(text(owner)) for owner in owners]) if owners else []
        return [json.loads(description) for description in found if description]

    def queue_names(self) -> list[str]:
        """Every queue that a run was submitted to, or that was configured."""
        with clear_errors(self.url):
            return sorted(text(name) for name in self._redis.smembers(keys.QUEUES))

    def settings_of(self, kind: str, name: str) -> dict[str, str]:
        """The fields that an admin set of a queue or a pool (`kind`): config, limit, paused, pool, rank."""
        key = keys.queue(name) if kind == "queue" else keys.pool(name)
        with clear_errors(self.url):
            return pairs(self._redis.hgetall(key))

    def _call(self, script: str, *args: object) -> Any:
        source, sha = script_of(script)
        with clear_errors(self.url):
            try:
                return self._redis.evalsha(sha, 0, *args)
            except NoScriptError:
                self._redis.script_load(source)
                return self._redis.evalsha(sha, 0, *args)


def text(value: bytes | str) -> str:
    """A reply's bytes as text; what is not UTF-8 is replaced."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def pairs(fields: Any) -> dict[str, str]:
    """A hash's reply, a map or a flat list, as a dict of text."""
    items = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    return {text(name): text(value) for name, value in items}
