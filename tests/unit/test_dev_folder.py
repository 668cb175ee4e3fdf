"""How commands find a `launch-worker dev` that is up, and no other's."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker.dev.folder import DataFolder
from launch_worker.dev_folder import dev_folder, living_redis_url
from launch_worker.settings import DEFAULT_REDIS_URL, Settings

URL = "redis://:secret@127.0.0.1:7602/0"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


@pytest.fixture
def folder(env: dict[str, str]) -> Iterator[DataFolder]:
    """Of a `dev` that is up."""
    made = DataFolder.of_user(env)
    made.take(waits=lambda: None, go_on=lambda: False)
    made.publish(pid=1, redis_url=URL, server_url="http://127.0.0.1:7600/?token=k")
    yield made
    made.leave()


def test_it_is_found_as_long_as_it_is_up(env: dict[str, str], folder: DataFolder) -> None:
    assert living_redis_url(env) == URL
    assert Settings.from_env(env).redis_url == URL
    folder.leave()
    assert (folder.path / "address.json").exists(), "as after kill -9"
    assert living_redis_url(env) is None
    assert Settings.from_env(env).redis_url == DEFAULT_REDIS_URL


def test_what_is_said_wins_over_it(env: dict[str, str], folder: DataFolder) -> None:
    other = "redis://elsewhere:6379/0"
    assert Settings.from_env(env | {"LAUNCH_REDIS_URL": other}).redis_url == other
    assert Settings.from_env(env, redis_url=other).redis_url == other
    assert Settings.from_env({}).redis_url == DEFAULT_REDIS_URL


def test_an_address_that_others_could_have_written_is_not_heeded(env: dict[str, str], folder: DataFolder) -> None:
    (folder.path / "address.json").chmod(0o666)
    assert living_redis_url(env) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"redis_url": 1}', "\0"])
def test_a_damaged_address_is_none(env: dict[str, str], folder: DataFolder, text: str) -> None:
    (folder.path / "address.json").write_text(text)
    assert living_redis_url(env) is None


def test_a_look_at_it_does_not_keep_the_next_one_from_starting(env: dict[str, str], folder: DataFolder) -> None:
    folder.leave()
    with open(folder.path / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        looks = iter([True, True])
        told: list[str] = []

        def go_on() -> bool:
            fcntl.flock(lock, fcntl.LOCK_UN)
            return next(looks)

        folder.take(waits=lambda: told.append("waits"), go_on=go_on)
    assert not told


def test_the_state_home_is_heeded(tmp_path: Path) -> None:
    assert dev_folder({"HOME": "/home/me"}) == Path("/home/me/.local/state/launch-worker/dev")
    assert dev_folder({"HOME": "/home/me", "XDG_STATE_HOME": "/s"}) == Path("/s/launch-worker/dev")
    assert dev_folder({}) is None
