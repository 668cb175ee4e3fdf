"""A plain client of Redis: for what tests look up, damage or forge behind a store's back."""

from __future__ import annotations

from functools import cache
from typing import Any

from launch_worker.store.redis.connection import connect


@cache
def redis_of(url: str) -> Any:
    """One client for each URL, kept until the tests end. (Any: redis-py's annotations do not fit its replies.)"""
    return connect(url, name="test")
