"""Looks at Redis itself: its version, what it keeps, its memory, who may log in, and its clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from launch_worker.model.finding import Finding
from launch_worker.model.units import format_duration
from launch_worker.redis_url import RedisUrl
from launch_worker.settings import Settings
from launch_worker.store.redis.connection import OLDEST_SERVERS
from launch_worker.store.redis.safety import INSECURE, is_loopback, why_unsafe
from launch_worker.store.store import Store

#: Seconds between this clock and the server's from which there is a warning, and an error.
_CLOCK_S, _WRONG_CLOCK_S = 2.0, 60.0
#: Share of its memory limit from which Redis is nearly full.
_NEARLY_FULL = 0.9


def server(store: Store) -> Iterator[Finding]:
    server = store.server()
    oldest = OLDEST_SERVERS[server["product"]]
    version = tuple(int(part) for part in server["version"].split(".")[:2])
    name = f"{server['product']} {server['version']}"
    if version >= oldest:
        yield Finding("ok", "redis.version", name)
    else:
        wanted = ".".join(map(str, oldest))
        yield Finding("error", "redis.version", f"{name} is too old", f"{wanted} or newer is needed")
    if server["master"]:
        yield Finding(
            "error",
            "redis.replica",
            f"Redis is a replica of {server['master']}: nothing can be submitted, claimed or reported there",
            "set LAUNCH_REDIS_URL to the master, or make this one the master: redis-cli REPLICAOF NO ONE",
        )
    if server["aof_enabled"] and store.forgets_at_restart():
        yield Finding(
            "error",
            "redis.aof",
            "Redis would lose at its next restart what functions wrote: it reads its append-only file as the user "
            "default, who may not do all",
            "before any restart: redis-cli ACL SETUSER default '~*' '&*' +@all (it stays off), and so in its file",
        )
    elif server["aof_enabled"]:
        yield Finding(
            "ok", "redis.aof", "Redis keeps an append-only file: a restart loses nothing that was acknowledged"
        )
    else:
        yield Finding(
            "warning",
            "redis.aof",
            "Redis keeps no append-only file: a restart loses what came after its last snapshot",
            "set appendonly yes",
        )
    if not server["is_saved"]:
        yield Finding(
            "error",
            "redis.not-saved",
            "Redis could not write its data to disk the last time, and may take no writes until it can (MISCONF)",
            "make room on its disk, and read its log",
        )
    if server["restored_at"]:
        yield Finding(
            "warning",
            "redis.restored",
            f"Redis was restored from a snapshot at {server['restored_at']}: runs submitted or ended between that "
            f"snapshot and the restart are lost; workers reported {server['restored_runs']} running ones again",
            "submit again what is missing; appendonly yes keeps it from happening",
        )
    yield _memory(server)
    policy = server["maxmemory_policy"]
    if policy == "noeviction":
        yield Finding("ok", "redis.eviction", "Redis never evicts keys")
    else:
        yield Finding(
            "error",
            "redis.eviction",
            f"Redis evicts keys when it is full ({policy}), and runs are lost with them",
            "set maxmemory-policy noeviction",
        )


def _memory(server: Mapping[str, Any]) -> Finding:
    used = server["memory_used"]
    if used is None:
        return Finding("ok", "redis.memory", "Redis has no limit of memory (maxmemory) but its machine's")
    advice = "raise its maxmemory, lower LAUNCH_RETENTION, or delete runs: launch-worker delete"
    if used >= 1:
        return Finding("error", "redis.full", "Redis is full (maxmemory) and takes no writes", advice)
    if used >= _NEARLY_FULL:
        return Finding("warning", "redis.nearly-full", f"Redis uses {used:.0%} of its maxmemory", advice)
    return Finding("ok", "redis.memory", f"Redis uses {used:.0%} of its maxmemory")


def login(store: Store, settings: Settings) -> Iterator[Finding]:
    url = RedisUrl.parse(settings.redis_url)
    level = "warning" if settings.is_insecure else "error"
    unsafe = why_unsafe(url)
    if unsafe:
        cause, _, advice = unsafe.partition("; ")
        yield Finding(level, "redis.unsafe", cause, advice)
        return
    is_open = not url.tls.get("ssl_certfile") and store.admits_anyone()
    if not is_open:
        yield Finding("ok", "redis.login", "Redis wants a login")
    elif is_loopback(url) and not store.listens_beyond_loopback():
        yield Finding("ok", "redis.login", "Redis takes commands without a password, on loopback only")
    else:
        yield Finding(
            level,
            "redis.open",
            "Redis takes commands without a password, and not on loopback only: anyone who reaches it can run commands "
            "on every worker",
            "give it a password (requirepass), or switch its default user off (deploy/redis/users.conf); "
            f"{INSECURE} makes this a warning",
        )


def clock(store: Store) -> Iterator[Finding]:
    before = time.time()
    server_s = store.now_us() / 1e6
    after = time.time()
    offset_s = (before + after) / 2 - server_s
    if abs(offset_s) <= _CLOCK_S + (after - before):
        yield Finding("ok", "clock", "the clocks of this machine and of Redis agree")
        return
    way = "ahead of" if offset_s > 0 else "behind"
    yield Finding(
        "error" if abs(offset_s) >= _WRONG_CLOCK_S else "warning",
        "clock",
        f"this machine's clock is {format_duration(abs(offset_s))} {way} that of Redis, by which all times are kept: "
        "--at and the ages that are shown here are wrong by so much",
        "set both by NTP, for instance with: timedatectl set-ntp true",
    )
