"""What holds here is told with its origin: defaults, variables, a dev, a login, --api; no secret with it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from launch_worker.saved_login import SavedLogin, save_login
from launch_worker.settings import Settings, variable_of
from launch_worker.settings_origin import Configuration, configuration


class Recorded(dict[str, str]):
    """An environment that remembers which variables were asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        self.asked.add(name)
        return default


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[str]:
    """A living dev of the user with that home."""
    folder = tmp_path / ".local/state/launch-worker/dev"
    folder.mkdir(parents=True)
    (folder / "address.json").write_text(json.dumps({"redis_url": "redis://:s3cr3t@127.0.0.1:7777/0"}))
    (folder / "address.json").chmod(0o600)
    (folder / "archive.db").touch()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield str(folder)


def found(env: dict[str, str], url: str | None = None) -> Configuration:
    return configuration(env, url=url, folder=Path(env["HOME"]), options={"max_jobs"})


def origins(configured: Configuration) -> dict[str, tuple[str, str]]:
    """Value and source of what is no default, by variable."""
    return {one.variable: (one.value, one.source) for one in configured.settings if not one.is_default}


def test_each_setting_has_the_variable_that_is_read() -> None:
    env = Recorded()
    Settings.of_client(env)
    Settings.of_client(env, url="http://server")
    asked = {name for name in env.asked if name.startswith("LAUNCH_")}
    assert asked == {variable_of(of.name) for of in fields(Settings)}


def test_without_anything_all_are_defaults(home: dict[str, str]) -> None:
    configured = found(home)
    assert (configured.works_on, configured.works_on_source) == ("redis://localhost:6379/0", "default")
    assert origins(configured) == {}
    by_name = {one.variable: one.value for one in configured.settings}
    assert (by_name["LAUNCH_LEASE_S"], by_name["LAUNCH_LOG_BYTES"], by_name["LAUNCH_PASSWORDS"]) == ("30s", "1M", "1")


@pytest.mark.parametrize(
    ("env", "url", "on", "by", "is_server"),
    [
        ({"LAUNCH_REDIS_URL": "redis://u:pw@h/1"}, None, "redis://***@h:6379/1", "LAUNCH_REDIS_URL", False),
        ({"LAUNCH_REDIS_URL": "redis://h/1"}, "redis://other/0", "redis://other:6379/0", "--api", False),
        ({"LAUNCH_API_URL": "https://h", "LAUNCH_REDIS_URL": "redis://h"}, None, "https://h", "LAUNCH_API_URL", True),
        ({"LAUNCH_API_URL": "redis://h/2"}, None, "redis://h:6379/2", "LAUNCH_API_URL", False),
        ({}, "http://h:7600/", "http://h:7600", "--api", True),
    ],
)
def test_the_way_of_commands_is_told_with_its_origin(
    home: dict[str, str], env: dict[str, str], url: str | None, on: str, by: str, is_server: bool
) -> None:
    configured = found(home | env, url)
    assert (configured.works_on, configured.works_on_source, configured.is_server) == (on, by, is_server)
    assert not configured.troubles


def test_a_living_dev_gives_its_redis_archive_and_logs(home: dict[str, str], dev: str) -> None:
    configured = found(home)
    source = f"your dev, {dev}"
    assert (configured.works_on, configured.works_on_source) == ("redis://***@127.0.0.1:7777/0", source)
    assert origins(configured) == {
        "LAUNCH_REDIS_URL": ("redis://***@127.0.0.1:7777/0", source),
        "LAUNCH_LOG_URL": (f"file://{dev}/logs", source),
        "LAUNCH_OUTPUT_URL": (f"file://{dev}/outputs", source),
        "LAUNCH_DATABASE_URL": (f"sqlite:///{dev}/archive.db", source),
    }


def test_a_saved_login_is_the_last_way(home: dict[str, str], tmp_path: Path) -> None:
    path = save_login(home, SavedLogin("https://launch.example", "lw_s3cr3t"))
    configured = found(home)
    assert (configured.works_on, configured.works_on_source) == ("https://launch.example", f"your login, {path}")
    assert origins(configured)["LAUNCH_API_TOKEN"] == ("********", f"your login, {path}")
    assert found(home | {"LAUNCH_REDIS_URL": "redis://h"}).works_on == "redis://h:6379/0"


def test_variables_are_shown_as_they_are_written_and_no_secret_is(home: dict[str, str]) -> None:
    env = {
        "LAUNCH_LOG_BYTES": "64M",
        "LAUNCH_RETENTION": "1d",
        "LAUNCH_HEALTH_ADDRESS": "8080",
        "LAUNCH_SERVER_HOSTS": "a,b",
        "LAUNCH_INSECURE": "1",
        "LAUNCH_DATABASE_URL": "postgresql://me:s3cr3t@db/launch",
        "LAUNCH_SMTP_URL": "smtp://me:s3cr3t@mail",
        "LAUNCH_REDIS_URL": "redis://:s3cr3t@h/0",
        "LAUNCH_REDIS_READ_URL": "redis://reader:s3cr3t@h/0",
        "LAUNCH_OIDC_CLIENT_SECRET": "s3cr3t",
        "LAUNCH_API_TOKEN": "s3cr3t",
        "LAUNCH_AGENT_MAX_JOBS": "3",
    }
    configured = found(home | env)
    shown = origins(configured)
    assert not configured.troubles
    assert shown["LAUNCH_LOG_BYTES"] == ("64M", "LAUNCH_LOG_BYTES")
    assert shown["LAUNCH_LOG_FILE_BYTES"] == ("128M", "LAUNCH_LOG_BYTES")
    assert [shown[f"LAUNCH_{name}"][0] for name in ("RETENTION", "HEALTH_ADDRESS", "SERVER_HOSTS", "INSECURE")] == [
        *("1d", "127.0.0.1:8080", "a,b", "1")
    ]
    assert shown["LAUNCH_AGENT_MAX_JOBS"] == ("3", "LAUNCH_AGENT_MAX_JOBS")
    assert shown["LAUNCH_DATABASE_URL"][0] == "postgresql://***@db/launch"
    assert "s3cr3t" not in json.dumps(configured.as_json())


def test_wrong_and_unknown_variables_are_named_and_the_rest_is_shown(home: dict[str, str]) -> None:
    env = {
        "LAUNCH_REDIS_ULR": "redis://h",
        "LAUNCH_AGENT_MAX_JOB": "3",
        "LAUNCH_RUN_ID": "of a job",
        "LAUNCH_RETENTION": "5x",
        "LAUNCH_LEASE_S": "3",
        "LAUNCH_PROJECT": "me/iris",
        "LAUNCH_REDIS_URL": "s3cr3t",
    }
    configured = found(home | env)
    said = {trouble.variable: (trouble.cause, trouble.is_wrong) for trouble in configured.troubles}
    assert set(said) == {"LAUNCH_REDIS_ULR", "LAUNCH_AGENT_MAX_JOB", "LAUNCH_RETENTION", "LAUNCH_LEASE_S"} | {
        "LAUNCH_REDIS_URL"
    }
    assert said["LAUNCH_REDIS_ULR"] == (
        *("LAUNCH_REDIS_ULR is no setting, and does nothing; did you mean LAUNCH_REDIS_URL?", False),
    )
    assert "did you mean LAUNCH_AGENT_MAX_JOBS?" in said["LAUNCH_AGENT_MAX_JOB"][0]
    assert said["LAUNCH_RETENTION"][1]
    assert "at least twice LAUNCH_HEARTBEAT_S" in said["LAUNCH_LEASE_S"][0]
    assert origins(configured) == {"LAUNCH_PROJECT": ("me/iris", "LAUNCH_PROJECT")}
    assert "s3cr3t" not in json.dumps(configured.as_json())
    assert [trouble.variable for trouble in found(home, "https://me:s3cr3t@h").troubles] == ["--api"]


def test_a_celeryconfig_is_told_and_not_executed(home: dict[str, str]) -> None:
    path = Path(home["HOME"], "celeryconfig.py")
    path.write_text(
        'import os\nos.abort()\nworker_concurrency: int = 4\nresult_backend = "redis://:s3cr3t@h"\nKEY = "x"\n'
    )
    configured = found(home)
    assert configured.celeryconfig == str(path)
    assert configured.celery == {"worker_concurrency": "4", "result_backend": "********", "KEY": "********"}
    path.write_text("def")
    assert found(home).celery == {"": "no program of Python"}
    path.chmod(0o666)
    assert "can be written to by everybody" in found(home).celery[""]


def test_celerys_own_word_for_root_counts_too(home: dict[str, str]) -> None:
    configured = found(home | {"C_FORCE_ROOT": "true"})
    assert origins(configured)["LAUNCH_ALLOW_ROOT"] == ("1", "C_FORCE_ROOT")
