"""Settings are read from LAUNCH_* in one place and checked against each other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from launch_worker.errors import SettingsError
from launch_worker.settings import DEFAULT_REDIS_URL, NO_WORK_DIR, Settings


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = Settings.from_env({})
    assert settings.redis_url == DEFAULT_REDIS_URL == "redis://localhost:6379/0"
    assert (settings.heartbeat_s, settings.lease_s, settings.pass_s) == (5.0, 30.0, 5.0)
    assert settings.retention_s == 30 * 86400
    assert settings.project == ""


def test_what_wandbs_sdk_goes_by_can_be_left_out() -> None:
    assert [Settings.from_env({"LAUNCH_WANDB_ENV": text}).wandb_env for text in ("", "1", "0")] == [True, True, False]
    with pytest.raises(SettingsError, match="LAUNCH_WANDB_ENV must be 0 or 1"):
        Settings.from_env({"LAUNCH_WANDB_ENV": "no"})


def test_every_setting_is_read_from_the_environment() -> None:
    settings = Settings.from_env(
        {
            "LAUNCH_REDIS_URL": "rediss://h:1/2",
            "LAUNCH_PROJECT": "me/iris",
            "LAUNCH_WORK_DIR": "/srv/launch",
            "LAUNCH_HEARTBEAT_S": "1",
            "LAUNCH_LEASE_S": "6s",
            "LAUNCH_PASS_S": "500ms",
            "LAUNCH_RETENTION": "2h",
            "LAUNCH_LOG_BYTES": "64K",
            "LAUNCH_LOG_FILE_BYTES": "1M",
            "LAUNCH_UPLOAD_URL": "s3://bucket/prefix",
            "LAUNCH_UPLOAD_BYTES": "2M",
        }
    )
    durations = (1.0, 6.0, 0.5, 7200.0)
    uploads = ("s3://bucket/prefix", 2 << 20)
    assert settings == Settings("rediss://h:1/2", "me/iris", Path("/srv/launch"), *durations, 65536, 1 << 20, *uploads)


def test_whole_logs_have_a_url_and_a_bound() -> None:
    settings = Settings.from_env({"LAUNCH_LOG_URL": "s3://bucket/logs", "LAUNCH_LOG_KEEP": "8G"})
    assert (settings.log_url, settings.log_keep_bytes) == ("s3://bucket/logs", 8 << 30)
    assert Settings.from_env({"LAUNCH_REDIS_URL": "redis://h/0"}).log_url == ""
    assert Settings.from_env({"LAUNCH_LOG_BYTES": "4G"}).log_keep_bytes == 8 << 30
    for name, value in (("LAUNCH_LOG_URL", "/a/folder:hunter2"), ("LAUNCH_LOG_KEEP", "1M")):
        with pytest.raises(SettingsError, match=name) as error:
            Settings.from_env({name: value})
        assert "hunter2" not in str(error.value)


def test_outputs_have_a_url_and_bounds() -> None:
    settings = Settings.from_env({"LAUNCH_OUTPUT_URL": "s3://bucket/outputs", "LAUNCH_OUTPUT_BYTES": "1G"})
    assert (settings.output_url, settings.output_bytes, settings.output_files) == (
        "s3://bucket/outputs",
        1 << 30,
        10_000,
    )
    assert Settings.from_env({"LAUNCH_REDIS_URL": "redis://h/0"}).output_url == ""
    for name, value in (("LAUNCH_OUTPUT_URL", "/a/folder:hunter2"), ("LAUNCH_OUTPUT_FILES", "1000000")):
        with pytest.raises(SettingsError, match=name) as error:
            Settings.from_env({name: value})
        assert "hunter2" not in str(error.value)


def test_the_least_free_space_is_a_size_or_follows_the_disk() -> None:
    assert Settings.from_env({}).min_free_bytes is None
    assert Settings.from_env({"LAUNCH_MIN_FREE_BYTES": "1G"}).min_free_bytes == 1 << 30
    with pytest.raises(SettingsError, match="LAUNCH_MIN_FREE_BYTES"):
        Settings.from_env({"LAUNCH_MIN_FREE_BYTES": "much"})


@pytest.mark.parametrize("url", ["/shared/uploads", "shared", "REDIS", "user:hunter2@h"])
def test_uploads_are_kept_in_redis_or_at_a_url(url: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_env({"LAUNCH_UPLOAD_URL": url})
    assert "file:///shared/uploads" in str(error.value)
    assert "hunter2" not in str(error.value)


def test_the_api_option_wins_over_the_environment() -> None:
    settings = Settings.from_env({"LAUNCH_REDIS_URL": "redis://a/0"}, redis_url="redis://b/0")
    assert settings.redis_url == "redis://b/0"


def test_an_empty_variable_is_the_same_as_none() -> None:
    names = ("REDIS_URL", "PROJECT", "WORK_DIR", "HEARTBEAT_S", "LEASE_S", "PASS_S", "RETENTION", "LOG_BYTES")
    empty = {f"LAUNCH_{name}": "" for name in names}
    assert Settings.from_env(empty) == Settings.from_env({})


@pytest.mark.parametrize("name", ["LAUNCH_HEARTBEAT_S", "LAUNCH_LEASE_S", "LAUNCH_PASS_S", "LAUNCH_RETENTION"])
@pytest.mark.parametrize("value", ["0", "-1", "weird", "nan", "inf", "99999d", "5 5"])
def test_a_duration_that_makes_no_sense_is_refused_by_name(name: str, value: str) -> None:
    """W2."""
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({name: value})


@pytest.mark.parametrize("value", ["weird", "-29", "1.5", "0", "4095", "9" * 5000])
def test_a_log_size_that_makes_no_sense_is_refused_by_name(value: str) -> None:
    """W2."""
    with pytest.raises(SettingsError, match="LAUNCH_LOG_BYTES"):
        Settings.from_env({"LAUNCH_LOG_BYTES": value})


def test_a_lease_shorter_than_two_heartbeats_is_refused_with_both_names() -> None:
    with pytest.raises(SettingsError, match=r"LAUNCH_LEASE_S \(9 s\).*LAUNCH_HEARTBEAT_S \(5 s\)"):
        Settings.from_env({"LAUNCH_LEASE_S": "9"})
    assert Settings.from_env({"LAUNCH_LEASE_S": "10"}).lease_s == 10.0


def test_a_retention_shorter_than_the_lease_is_refused() -> None:
    with pytest.raises(SettingsError, match="LAUNCH_RETENTION"):
        Settings.from_env({"LAUNCH_RETENTION": "29s"})


@pytest.mark.parametrize("url", ["localhost:6379", "http://h/", "amqp://h", "redis:/h", "unix:///s", "REDIS"])
def test_a_url_of_another_scheme_is_refused_with_the_right_form(url: str) -> None:
    with pytest.raises(SettingsError, match=r"LAUNCH_REDIS_URL .* redis://"):
        Settings.from_env({"LAUNCH_REDIS_URL": url})


@pytest.mark.parametrize(
    "url", [":hunter2@h:6379", "me:hunter2@h:6379/0", "amqp://me:hunter2@h", "redis:/:hunter2@h", "hunter2@h"]
)
def test_a_refused_url_does_not_show_its_password(url: str) -> None:
    """Section 8: secrets are masked."""
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({"LAUNCH_REDIS_URL": url})
    assert "hunter2" not in str(refused.value)


def test_the_work_folder_defaults_to_the_users_state_folder() -> None:
    assert Settings.from_env({"HOME": "/home/me"}).work_dir == Path("/home/me/.local/state/launch-worker")
    assert Settings.from_env({"HOME": "/home/me", "XDG_STATE_HOME": "/s"}).work_dir == Path("/s/launch-worker")


def test_a_user_without_home_has_no_work_folder_that_others_may_make_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def known(home: str) -> Path:
        monkeypatch.setattr("pwd.getpwuid", lambda _: SimpleNamespace(pw_dir=home))
        return Settings.from_env({}).work_dir

    assert known("/usr") == Path("/usr/.local/state/launch-worker"), "as the system knows it"
    for home in ("/nonexistent", "", "/"):
        assert known(home) == NO_WORK_DIR

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert Settings.from_env({"HOME": ""}).work_dir == NO_WORK_DIR
    with pytest.raises(OSError, match="Not a directory"):
        NO_WORK_DIR.mkdir(parents=True)


def test_a_relative_work_folder_is_made_absolute() -> None:
    assert Settings.from_env({"LAUNCH_WORK_DIR": "here"}).work_dir == Path.cwd() / "here"


@pytest.mark.parametrize(
    ("text", "address"),
    [("8080", ("127.0.0.1", 8080)), ("0.0.0.0:8080", ("0.0.0.0", 8080)), ("[::1]:8080", ("::1", 8080))],
)
def test_probes_are_answered_on_loopback_unless_another_address_is_named(text: str, address: tuple[str, int]) -> None:
    assert Settings.from_env({"LAUNCH_HEALTH_ADDRESS": text}).health_address == address


@pytest.mark.parametrize("text", ["localhost", "h:", "h:http", "0", "70000", "-1"])
def test_a_health_address_without_a_port_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="LAUNCH_HEALTH_ADDRESS must be written as PORT"):
        Settings.from_env({"LAUNCH_HEALTH_ADDRESS": text})
