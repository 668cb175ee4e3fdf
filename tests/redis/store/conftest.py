"""What every test of the store is held to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.store_checks import inconsistencies


@pytest.fixture(autouse=True)
def consistent(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test leaves records and indexes that agree; a module whose tests damage them overrides this fixture."""
    store = request.getfixturevalue("store") if "store" in request.fixturenames else None
    yield
    if store is not None:
        assert inconsistencies(store) == []
