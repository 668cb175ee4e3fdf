"""The system that is attacked: each test that asks for `site` has a neighbour's job beside it, which ends Finished."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.security.site import Site, can_change_account
from tests.system.conftest import cluster

__all__ = ["cluster"]


@pytest.fixture(scope="session")
def site_of_all() -> Iterator[Site]:
    """One system for all tests of a process."""
    made = Site()
    yield made
    made.close()


@pytest.fixture
def site(site_of_all: Site) -> Site:
    return site_of_all


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Watch the neighbour of an attack: its fate is a part of the test, also where the test is expected to fail."""
    site = pyfuncitem.funcargs.get("site")
    if not isinstance(site, Site):
        return (yield)
    with site.neighbour():
        return (yield)


@pytest.fixture(scope="session")
def accounts() -> None:
    """The worker is of an account of its own, and there is a stranger's."""
    reason = can_change_account()
    if reason and not os.environ.get("CI"):
        pytest.skip(reason)
    assert not reason
