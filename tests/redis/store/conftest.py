"""What every test of the store is held to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from launch_worker.dev.redis_server import RedisServer
from launch_worker.store.store import Store
from tests.support.store_checks import inconsistencies


@pytest.fixture(autouse=True)
def consistent(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test leaves records and indexes that agree; a module whose tests damage them overrides this fixture."""
    store = request.getfixturevalue("store") if "store" in request.fixturenames else None
    yield
    if store is not None:
        assert inconsistencies(store) == []


@pytest.fixture(scope="module")
def own_store() -> Iterator[Store]:
    """A Redis of its own, that each example of a state machine empties."""
    server = RedisServer()
    server.start()
    made = Store(server.url)
    yield made
    made.close()
    server.stop()
