"""A git server for the whole test run, and a worker's git with an empty home."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch_worker.code.git import Git
from launch_worker.code.patience import Patience
from launch_worker.code.repository import Repositories
from launch_worker.model.git_url import parse_git_url
from tests.support.githost import GitHost, Repository


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    made = GitHost(tmp_path_factory.mktemp("githost"))
    yield made
    made.close()


@pytest.fixture
def repository(host: GitHost, request: pytest.FixtureRequest) -> Repository:
    """A repository of this test's own, with nothing in it."""
    return host.repository(f"r{abs(hash(request.node.nodeid))}")


@pytest.fixture
def worker_env(host: GitHost, tmp_path: Path) -> dict[str, str]:
    """The environment of a worker; its secrets must not reach git."""
    home = tmp_path / "home"
    home.mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_SSL_CAINFO": str(host.certificate),
        "LAUNCH_REDIS_URL": "redis://:hidden@nowhere/0",
    }


Fetch = Callable[..., tuple[str, Path]]


@pytest.fixture
def fetch(worker_env: dict[str, str], tmp_path: Path) -> Fetch:
    """Fetches `GIT_URL[@REF]` into a fresh folder; gives the commit and the folder. The cache is the test's own."""
    count = iter(range(1000))

    def fetch(
        uri: str,
        *,
        limit_s: float = 30.0,
        unwanted: Callable[[], bool] = lambda: False,
        limit_bytes: int = 1 << 30,
        check_url: Callable[[str], None] = lambda _: None,
    ) -> tuple[str, Path]:
        folder = tmp_path / f"code{next(count)}"
        folder.mkdir()
        git = Git(Patience.of(limit_s, unwanted=unwanted), worker_env)
        repositories = Repositories(tmp_path / "cache", git=git, limit_bytes=limit_bytes, check_url=check_url)
        return repositories.check_out(parse_git_url(uri), folder), folder

    return fetch
