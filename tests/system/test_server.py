"""The command `launch-worker server` as a process of its own: how it starts, what it refuses, how it stops."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from launch_worker.archive.acts import Wanted, acts
from launch_worker.database import open_database
from launch_worker.database.migrate import migrate
from launch_worker.people.registry import Registry
from launch_worker.people.roles import Role
from launch_worker.server.address import Address
from launch_worker.settings import Settings
from tests.conftest import wait_until
from tests.support.ports import own_port
from tests.system.conftest import Cluster, Part


class ServerPart(Part):
    """The server's process."""

    @property
    def link(self) -> str:
        """The address that it printed, with its key."""
        return wait_until(lambda: re.search(r"http://\S+", self.log), what=f"it is up: {self.log}")[0]


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Starter]:
    starter = Starter(cluster)
    yield starter
    for part in starter.parts:
        part.kill()


class Starter:
    """Starts servers of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.parts: list[ServerPart] = []

    def __call__(self, *arguments: str) -> ServerPart:
        log_path: Path = self._cluster.folder / f"server.{len(self.parts)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                ["launch-worker", "server", *arguments],
                cwd=self._cluster.folder,
                env=self._cluster.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.parts.append(ServerPart(process, log_path))
        return self.parts[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(start: Starter, number: int) -> None:
    part = start("--address", "127.0.0.1:0")
    assert httpx.get(part.link, trust_env=False).status_code == 303
    part.signal(number)
    assert part.wait() == 0
    assert "Traceback" not in part.log


def test_a_kill_leaves_no_child_and_takes_no_line_of_the_audit(start: Starter, cluster: Cluster) -> None:
    part = start("--address", "127.0.0.1:0")
    server = psutil.Process(part.pid)
    url, _, key = part.link.partition("/?token=")
    headers = {"Authorization": f"Bearer {key}"}
    run = httpx.post(f"{url}/api/v1/runs", json={"command": ["true"]}, headers=headers, trust_env=False).json()
    # Celery's page and the archive.
    children = wait_until(lambda: found if len(found := server.children()) == 2 else [], what="both children are there")
    server.kill()
    part.wait()
    assert psutil.wait_procs(children, timeout=10)[1] == []
    database = open_database(Settings.from_env(cluster.env))
    assert [act["what"] for act in acts(database, Wanted(target=run["id"]))] == ["submit"]
    database.close()


def test_a_signal_that_comes_early_ends_it_too(start: Starter) -> None:
    part = start("--address", "127.0.0.1:0")
    part.signal(signal.SIGTERM)
    # SIGTERM's own death where Python had not begun.
    assert part.wait() in (0, -signal.SIGTERM)


def test_a_browsers_login_outlasts_a_restart(start: Starter) -> None:
    address = f"127.0.0.1:{own_port()}"
    first = start("--address", address)
    with httpx.Client(base_url=f"http://{address}", trust_env=False) as browser:
        browser.get(first.link)
        assert browser.get("/api/v1/whoami").status_code == 200
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
        assert start("--address", address).link == first.link
        assert browser.get("/api/v1/whoami").status_code == 200


def test_a_taken_port_gets_a_sentence(start: Starter) -> None:
    with Address("127.0.0.1", 0).listen() as taken:
        part = start("--address", f"127.0.0.1:{taken.getsockname()[1]}")
        assert part.wait() == 2
    assert "another program listens there" in part.log
    assert part.log.count("\n") == 1


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_off_loopback_without_a_login_it_does_not_start(start: Starter, address: str) -> None:
    part = start("--address", address)
    assert part.wait() == 2
    assert "users add NAME --admin" in part.log
    assert part.log.count("\n") == 1


def test_while_nobody_is_an_admin_it_prints_a_link_that_makes_the_first_one(start: Starter) -> None:
    first = start("--address", "127.0.0.1:0")
    link = wait_until(lambda: re.search(r"http://\S+/first-admin\?secret=\S+", first.log), what="it prints a link")[0]
    url, _, secret = link.rpartition("/first-admin?secret=")
    assert 'action="/first-admin"' in httpx.get(link, trust_env=False).text
    form = {"secret": secret, "name": "ada", "password": "a long password", "again": "a long password"}
    assert httpx.post(f"{url}/first-admin", data=form, trust_env=False).status_code == 303
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    # Off loopback there is an admin who can log in now.
    second = start("--address", "0.0.0.0:0")
    assert httpx.get(f"{second.link}/login", trust_env=False).status_code == 200
    assert "first-admin" not in second.log


def test_off_loopback_an_identity_provider_is_a_way_in(start: Starter, cluster: Cluster) -> None:
    cluster.env |= {"LAUNCH_OIDC_URL": "https://login.example", "LAUNCH_OIDC_CLIENT_ID": "launch"}
    part = start("--address", "0.0.0.0:0")
    assert "Log in with login.example" in httpx.get(f"{part.link}/login", trust_env=False).text


def test_off_loopback_it_starts_with_an_admin_and_has_no_key(start: Starter, cluster: Cluster) -> None:
    (cluster.folder / "work").mkdir(mode=0o700)
    database = open_database(Settings.from_env(cluster.env), create=True)
    migrate(database)
    Registry(database, actor="test").add_user("ada", password="a long password", given={"": Role.ADMIN})
    database.close()
    part = start("--address", "0.0.0.0:0")
    assert "token" not in part.link
    login = {"name": "ada", "password": "a long password"}
    assert httpx.post(f"{part.link}/api/v1/login", json=login, trust_env=False).status_code == 200
    assert not (cluster.folder / "work" / "server-key").exists()


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", "::1:7600", "http://127.0.0.1:7600"])
def test_an_address_that_is_none_gets_a_sentence(start: Starter, address: str) -> None:
    part = start("--address", address)
    assert part.wait() == 2
    assert "write it as 127.0.0.1:7600" in part.log


def test_nothing_of_it_stays_however_it_dies(start: Starter) -> None:
    part = start("--address", "127.0.0.1:0")
    assert part.link
    children = wait_until(lambda: psutil.Process(part.pid).children(), what="Celery's page")
    part.kill()

    def lives(child: psutil.Process) -> bool:
        # An orphan is this process's child where an earlier test has made it a subreaper, and nobody reaps it.
        try:
            return child.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    wait_until(lambda: not any(map(lives, children)), what="Celery's page has ended")
