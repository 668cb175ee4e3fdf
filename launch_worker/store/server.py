"""Asks the Redis server about itself: its clock, its version, and who may reach it."""

from __future__ import annotations

from typing import Any

from redis.exceptions import RedisError

from launch_worker.model.units import isoformat
from launch_worker.store import keys
from launch_worker.store.redis.client import Client, text
from launch_worker.store.redis.connection import clear_errors, without_login
from launch_worker.untrusted.text import read_whole


class Server(Client):
    """The part of `Store` that asks the server about itself."""

    def ping(self) -> None:
        """Raise BrokerUnavailableError when the server does not answer."""
        with clear_errors(self.url):
            self._redis.ping()

    def now_us(self) -> int:
        """The server's time in microseconds."""
        with clear_errors(self.url):
            seconds, micros = self._redis.time()
        return int(seconds) * 1_000_000 + int(micros)

    def has_archive(self) -> bool:
        """Whether an archive has said, within its last days, that it keeps what Redis forgets."""
        with clear_errors(self.url):
            return bool(self._redis.exists(keys.ARCHIVE))

    def server(self) -> dict[str, Any]:
        """The server's version and condition: persistence, memory, replication, and whether it lost data."""
        with clear_errors(self.url):
            info = self._redis.info()
            restored_at = self._redis.get(keys.RESTORED)
            restored_runs = self._redis.hget(keys.COUNTERS, "restored_runs")
        capacity = int(info.get("maxmemory") or 0)
        used = int(info.get("used_memory") or 0) - int(info.get("mem_not_counted_for_evict") or 0)
        return {
            # Valkey reports two versions: the Redis that it is compatible with, and its own.
            "product": "Valkey" if "valkey_version" in info else "Redis",
            "version": str(info.get("valkey_version") or info["redis_version"]),
            "aof_enabled": bool(info.get("aof_enabled")),
            "maxmemory_policy": str(info.get("maxmemory_policy", "noeviction")),
            "restored_at": isoformat(read_whole(restored_at)),
            "restored_runs": read_whole(restored_runs) or 0,
            "master": f"{info.get('master_host')}:{info.get('master_port')}" if info.get("role") == "slave" else None,
            # Share of maxmemory; None where there is no limit.
            "memory_used": used / capacity if capacity else None,
            "is_saved": "err" not in (info.get("rdb_last_bgsave_status"), info.get("aof_last_write_status")),
        }

    def admits_anyone(self) -> bool:
        """Whether the server takes commands without a login."""
        client = without_login(self.url, name="launch-look")
        try:
            return bool(client.ping())
        except (RedisError, OSError):
            return False
        finally:
            client.close()

    def forgets_at_restart(self) -> bool:
        """Whether the server would leave out of its append-only file what functions wrote.

        It reads the file as the user `default`, and refuses transactions that this user may not do. Only the shipped
        files' admin is told, for others may not read the rules, and each try is a line of Redis' ACL LOG.
        """
        if self.acl_user != "admin":
            return False
        try:
            rules = [text(line).split() for line in self._redis.acl_list()]
        except (RedisError, OSError):
            return False
        return any(rule[1] == "default" and not {"~*", "+@all"} <= set(rule) for rule in rules)

    def listens_beyond_loopback(self) -> bool:
        """Whether the server's own settings say so; False where they may not be read."""
        try:
            found = self._redis.config_get("protected-mode", "bind")
        except (RedisError, OSError):
            return False
        plain = {text(name): text(value) for name, value in found.items()}
        addresses = plain.get("bind", "").replace("-", "").split()
        return plain.get("protected-mode") == "no" and not all(
            address == "::1" or address.startswith("127.") for address in addresses or ["*"]
        )
