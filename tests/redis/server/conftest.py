"""A server of the API on the test's Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.http_servers import TestServer, serving


@pytest.fixture
def server(redis_url: str, tmp_path: Path) -> Iterator[TestServer]:
    with serving(redis_url, tmp_path) as running:
        yield running


@pytest.fixture
def client(server: TestServer) -> Iterator[httpx.Client]:
    """One who has the key of loopback, and so may do everything."""
    with server.client() as made:
        yield made


@pytest.fixture
def stranger(server: TestServer) -> Iterator[httpx.Client]:
    """One without a login."""
    with server.client("") as made:
        yield made
