"""Makes every Redis client: explicit timeouts, no hidden retries, errors as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import DefaultParser
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from launch_worker.errors import LaunchError
from launch_worker.redis_url import RedisUrl
from launch_worker.store.causes import explained
from launch_worker.store.redis.transport import Refused

CONNECT_TIMEOUT_S = 1.5
#: Longer than any script takes; with connecting, a producer gives up within 5 s.
ANSWER_TIMEOUT_S = 3.0

#: Oldest servers that have functions and on which the scripts are tested.
OLDEST_SERVERS = {"Redis": (7, 0), "Valkey": (8, 0)}

#: redis-py's version, given here: else each new connection searches the metadata of all packages for it, for 2 ms.
_DRIVER: dict[str, Any] = {}
with suppress(ImportError):
    from redis.driver_info import DriverInfo

    _DRIVER["driver_info"] = DriverInfo(lib_version=redis.__version__)


def connect(url: str, *, name: str) -> redis.Redis:
    """A thread-safe client that connects at its first command and never waits for ever.

    `name` is what `CLIENT LIST` shows. A call that timed out may have been executed: only idempotent
    scripts are sent through it.
    """
    return _connect(RedisUrl.parse(url), _options(name))


def _options(name: str) -> dict[str, Any]:
    return {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
        "client_name": name,
    } | _DRIVER


def without_login(url: str, *, name: str) -> redis.Redis:
    """A client of the same server without user and password."""
    return _connect(replace(RedisUrl.parse(url), username="", password=""), _options(name))


def _connect(read: RedisUrl, options: dict[str, Any]) -> redis.Redis:
    options |= {"db": read.db, "username": read.username or None, "password": read.password or None}
    if read.master:
        return _master(read, options)
    ((host, port),) = read.servers
    return redis.Redis(host=host, port=port, ssl=bool(read.tls), **read.tls, **options)


def _master(url: RedisUrl, options: dict[str, Any]) -> redis.Redis:
    """A client that asks the sentinels for the master at each new connection."""
    # A sentinel that is down must not use up the time of the others.
    asked = {"socket_connect_timeout": CONNECT_TIMEOUT_S / 3, "socket_timeout": CONNECT_TIMEOUT_S / 3}
    sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]
        list(url.servers), sentinel_kwargs=asked | {"retry": Retry(NoBackoff(), 0)}
    )
    master: redis.Redis = sentinels.master_for(url.master, redis_class=redis.Redis, **options)
    return master


@contextmanager
def clear_errors(url: str) -> Iterator[None]:
    """Turns every error of redis-py into one of ours, with one sentence: BrokerUnavailableError for most."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise explained(url, error) from error


def clear_error(url: str, problem: Exception) -> LaunchError:
    """The same error for a server's refusal that was not raised, with or without redis-py."""
    if isinstance(problem, Refused):
        problem = DefaultParser.parse_error(str(problem))  # type: ignore[no-untyped-call]
    try:
        with clear_errors(url):
            raise problem
    except LaunchError as error:
        return error
