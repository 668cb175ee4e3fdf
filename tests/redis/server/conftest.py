"""A server of the API on the test's Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from launch_worker.api.client import Api
from launch_worker.api.http_transport import HttpTransport
from launch_worker.cli.errors import run_command
from launch_worker.cli.main import group
from launch_worker.dev.redis_server import RedisServer
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from tests.support.http_servers import KEY, TestServer, serving
from tests.support.people import tokens_of_everybody
from tests.support.redis_client import redis_of


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


@pytest.fixture(scope="module")
def shown(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """One server for all tests of a file, which count no runs."""
    redis_of(redis_server.url).flushall()
    with serving(redis_server.url, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def kept(shown: TestServer) -> Store:
    return shown.shared.acting.store


@pytest.fixture(scope="module")
def tokens(shown: TestServer) -> dict[str, str]:
    return tokens_of_everybody(shown)


@pytest.fixture
def person(shown: TestServer) -> Iterator[httpx.Client]:
    """A browser with the key of loopback."""
    with shown.client(KEY) as made:
        made.headers["Accept"] = "text/html"
        yield made


@pytest.fixture(params=["redis", "http"])
def through(request: pytest.FixtureRequest, server: TestServer, api: Api) -> Iterator[Api]:
    """An Api by each way."""
    if request.param == "redis":
        yield api
        return
    made = Api(settings=Settings.of_client({"LAUNCH_API_TOKEN": KEY}, url=server.url))
    yield made
    assert isinstance(made.transport, HttpTransport)
    made.transport.server.close()


#: Exit code of a command, and what it printed on standard output and on standard error.
Said = tuple[int, str, str]


@pytest.fixture
def call(through: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Calls `launch-worker` in this process; returns the exit code, and what was printed."""
    url = through.settings.api_url or through.settings.redis_url
    monkeypatch.setenv("LAUNCH_API_TOKEN", KEY)

    def called(*words: str) -> Said:
        monkeypatch.setattr("sys.argv", ["launch-worker", "--api", url, *words])
        with pytest.raises(SystemExit) as ended:
            run_command(group, program="launch-worker")
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return called
